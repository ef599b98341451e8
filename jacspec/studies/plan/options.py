"""The options of `task=plan`: their types; values and words are in `conf/task/plan.yaml`."""

import dataclasses

from omegaconf import MISSING


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
