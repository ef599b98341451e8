"""The options of `task=train`: their types; values and words are in `conf/task/train.yaml`."""

import dataclasses

from omegaconf import MISSING


@dataclasses.dataclass
class TrainOptions:
    """A GPT-2-architecture model trained from scratch on the chosen text; see conf/task/train.yaml."""

    vocab: int = MISSING
    positions: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    d_model: int = MISSING
    steps: int = MISSING
    batch: int = MISSING
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    warmup: int = MISSING
    holdout: float = MISSING
    revisions: list[int] = MISSING
    dtype: str = MISSING
