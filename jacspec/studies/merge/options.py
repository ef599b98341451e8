"""The options of `task=merge`: their types; values and words are in `conf/task/merge.yaml`."""

import dataclasses
import enum

from omegaconf import MISSING


class Resized(enum.Enum):
    """What becomes of tables of tokens and positions that have more rows in one model than in another."""

    shared = "shared"
    first = "first"


class MergeMethod(enum.Enum):
    """How checkpoints are merged; `none` compares them only."""

    average = "average"
    arithmetic = "arithmetic"
    star = "star"
    none = "none"


@dataclasses.dataclass
class MergeOptions:
    """Which checkpoints are compared and how they are merged; see conf/task/merge.yaml."""

    models: list[str] = MISSING
    base: str | None = MISSING
    method: MergeMethod = MISSING
    share: float = MISSING
    coefficient: float | None = MISSING
    weights: list[float] = MISSING
    top_k: int = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    resized: Resized = MISSING
    save: str | None = MISSING
