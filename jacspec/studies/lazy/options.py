"""The options of `task=lazy`: their types; values and words are in `conf/task/lazy.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class LazyOptions:
    """A small network trained at several output scales, and what is removed from it; see conf/task/lazy.yaml."""

    scales: list[float] = MISSING
    inputs: int = MISSING
    width: int = MISSING
    samples: int = MISSING
    steps: int = MISSING
    learning_rate: float = MISSING
    groups: int = MISSING
    removed: list[int] = MISSING
    seeds: int = MISSING
