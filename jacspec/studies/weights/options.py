"""The options of `task=weights`: their types; values and words are in `conf/task/weights.yaml`."""

import dataclasses
import enum

from omegaconf import MISSING


class Against(enum.Enum):
    """What a weight matrix is compared with: its own entries in another order, or Gaussian ones of their variance."""

    shuffled = "shuffled"
    gaussian = "gaussian"
    none = "none"


class Stacked(enum.Enum):
    """What a tensor of three axes, read by name, is: matrices one behind the other, a kernel, or nothing wanted."""

    auto = "auto"
    experts = "experts"
    kernel = "kernel"
    skip = "skip"


@dataclasses.dataclass
class WeightsOptions:
    """Which weight matrices, and what they are held against; see conf/task/weights.yaml."""

    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    stacked: Stacked = MISSING
    against: Against = MISSING
    show_layer: int = MISSING
