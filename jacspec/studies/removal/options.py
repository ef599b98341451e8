"""The options of `task=removal`: their types; values and words are in `conf/task/removal.yaml`."""

import dataclasses
import enum
from typing import Any

from omegaconf import MISSING


class RemoveBy(enum.Enum):
    """What loses singular values at once: the matrices of a role in all layers, or of all roles in a layer."""

    role = "role"
    layer = "layer"


@dataclasses.dataclass
class RemovalOptions:
    """Which singular values are removed where, and on how much text it is measured; see conf/task/removal.yaml."""

    by: RemoveBy = MISSING
    roles: list[str] = MISSING
    groups: int = MISSING
    ranges: list[list[Any]] = MISSING
    tokens: int | None = MISSING
    masked_tokens: int | None = MISSING
    window: int | None = MISSING
    stride: int | None = MISSING
