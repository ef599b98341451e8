"""The options of `task=depth`: their types; values and words are in `conf/task/depth.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class DepthOptions:
    """From the input of layer `first` to the output of layer `last`; see conf/task/depth.yaml."""

    first: int = MISSING
    last: int | None = MISSING
    exponents: int = MISSING
