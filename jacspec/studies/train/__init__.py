"""A GPT-2-architecture model with its own tokenizer, trained from scratch on one text."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import EXPERIMENTS, MISSING, Page, Quantity, Study


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


CURVE_FILE = "curve.csv"

TRAIN: Mapping[str, Quantity] = {
    "bits_per_byte": Quantity(
        "bits per byte",
        "−log₂ p of the held-out text over its UTF-8 bytes, measured on the weights as they were written",
        "Gao et al. 2020, The Pile, 3.1",
        "bit/byte",
    ),
}
"""Columns of `task=train`."""

STUDY = Study(
    name="train",
    run="jacspec.studies.train.run:run_train",
    options=TrainOptions,
    inputs=frozenset({"text"}),
    reads=frozenset({"data", "seed", "train"}),
    takes=("seed",),
    rows=EXPERIMENTS,
    columns=TRAIN,
    files={CURVE_FILE: "training loss of single batches, in nats a token", "model": "the model, in HF layout"},
    figures="jacspec.studies.train.figures:train_figures",
    page=Page(
        title="training",
        reading=(
            "The text is cut once: tokenizer and weights see the first part only, and the last part gives the bits per "
            "byte, measured on the weights as they were written, a row a revision.",
            "The training loss is that of single batches, in nats a token; dotted, −log of one over the vocabulary, "
            "which is what a model that knows nothing has. It depends on the tokenizer, bits per byte do not.",
        ),
        sentences="jacspec.studies.train.findings:train_findings",
        caution="In brackets, an interval of 95 % over batches of this one training run.",
    ),
)
