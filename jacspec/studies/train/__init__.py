"""A GPT-2-architecture model with its own tokenizer, trained from scratch on one text."""

import dataclasses

from jacspec.studies.study import MISSING, Study


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


STUDY = Study(
    name="train",
    run="jacspec.studies.train.run:run_train",
    options=TrainOptions,
    inputs=frozenset({"text"}),
    takes=("seed",),
    resumable=False,
)
