"""The options of `task=compare`: their types; values and words are in `conf/task/compare.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class CompareOptions:
    """Which run the others are held against, and how often it is drawn; see conf/task/compare.yaml."""

    against: int = MISSING
    draws: int = MISSING
