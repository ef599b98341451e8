"""The options of `task=heads`: their types; values and words are in `conf/task/heads.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class HeadsOptions:
    """How many draws the baselines of chance take; see conf/task/heads.yaml."""

    draws: int = MISSING
