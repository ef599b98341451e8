"""The options of `task=coupling`: their types; values and words are in `conf/task/coupling.yaml`."""

import dataclasses
import enum

from omegaconf import MISSING


class End(enum.Enum):
    """Where a sample ends: at a drawn token of it, or at its own last one."""

    random = "random"
    sample = "sample"


@dataclasses.dataclass
class CouplingOptions:
    """Where the samples end; see conf/task/coupling.yaml."""

    end: End = MISSING
