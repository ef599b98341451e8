"""The options of `task=finetune`: their types; values and words are in `conf/task/finetune.yaml`."""

import dataclasses
import enum

from omegaconf import MISSING


class Layout(enum.Enum):
    """How labelled text is laid out: in columns that are named, or as BoolQ is."""

    columns = "columns"
    boolq = "boolq"


@dataclasses.dataclass
class FinetuneOptions:
    """On which labelled text and how a classifier is fine-tuned, and what is removed; see conf/task/finetune.yaml."""

    path: str | None = MISSING
    held_out: str | None = MISSING
    layout: Layout = MISSING
    text: str = MISSING
    second: str | None = MISSING
    label: str = MISSING
    holdout: float = MISSING
    max_tokens: int = MISSING
    steps: int = MISSING
    batch: int = MISSING
    learning_rate: float = MISSING
    warmup: float = MISSING
    weight_decay: float = MISSING
    groups: int = MISSING
    roles: list[str] = MISSING
    seeds: int = MISSING
