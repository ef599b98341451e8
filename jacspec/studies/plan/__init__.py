"""What a run would cost on given devices, printed; nothing is computed and no run folder is written."""

import dataclasses

from jacspec.studies.study import MISSING, Study


@dataclasses.dataclass
class PlanOptions:
    """The devices that a run is planned for, and how fast their hosts read; see conf/task/plan.yaml."""

    devices: list[int] = MISSING
    tokens: float = MISSING
    stored_bytes: int = MISSING
    device: str = MISSING
    teraflops: float = MISSING
    svd_ms: float = MISSING
    bandwidth_gbs: float = MISSING
    memory_gb: float = MISSING
    link_gbs: float = MISSING
    hash_gbs: float = MISSING
    load_gbs: float = MISSING
    look_us: float = MISSING
    disk_gbs: float = MISSING
    efficiency: list[float] = MISSING


STUDY = Study(
    name="plan",
    run="jacspec.studies.plan.run:run_plan",
    options=PlanOptions,
    inputs=frozenset({"model"}),
    takes=("metrics", "samples", "engine", "batch"),
    resumable=False,
    folder=False,
)
