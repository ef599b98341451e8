"""The options of `task=dynamics`: their types; values and words are in `conf/task/dynamics.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class DynamicsOptions:
    """Where training ended, and which change counts; see conf/task/dynamics.yaml."""

    final_step: int | None = MISSING
    least_change: float = MISSING
    draws: int = MISSING
