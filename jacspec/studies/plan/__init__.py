"""What a run would cost on given devices: printed, and written as `plan.json`; nothing is computed."""

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


PLAN_FILE = "plan.json"

STUDY = Study(
    name="plan",
    run="jacspec.studies.plan.run:run_plan",
    options=PlanOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "data", "metrics", "engine", "plan"}),
    takes=("metrics", "samples", "engine", "batch"),
    files={PLAN_FILE: "what the console shows: seconds at least and at most, a row a number of devices"},
    resumable=False,
)
