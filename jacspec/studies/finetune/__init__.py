"""Groups of singular values removed before fine-tuning a classifier, or after it."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.study import EXPERIMENTS, MISSING, Page, Quantity, Study


class TextLayout(enum.Enum):
    """How labelled text is laid out: in columns that are named, or as BoolQ is."""

    columns = "columns"
    boolq = "boolq"


@dataclasses.dataclass
class FinetuneOptions:
    """On which labelled text and how a classifier is fine-tuned, and what is removed; see conf/task/finetune.yaml."""

    path: str | None = MISSING
    held_out: str | None = MISSING
    layout: TextLayout = MISSING
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
    frozen: int = MISSING
    groups: int = MISSING
    roles: list[str] = MISSING
    seeds: int = MISSING


SMALL = "Small Singular Values Matter, Fig. 7"

FINETUNE: Mapping[str, Quantity] = {
    "accuracy": Quantity("accuracy", "share of the examples held out whose label has the highest logit", SMALL),
    "label_loss": Quantity(
        "loss of labels, nats", "mean cross-entropy of the labels of the examples held out, in nats", SMALL, "nats"
    ),
    "removed_share": Quantity(
        "share of squares removed",
        "squares of the singular values removed over those of all, in the matrices that removal concerns",
        SMALL,
    ),
}
"""Columns of `task=finetune`."""


STUDY = Study(
    name="finetune",
    run="jacspec.studies.finetune.run:run_finetune",
    options=FinetuneOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "finetune", "precision", "seed"}),
    takes=("precision", "seed"),
    rows=EXPERIMENTS,
    columns=FINETUNE,
    files={"models": "the fine-tuned models, one a seed, in HF layout"},
    figures="jacspec.studies.finetune.figures:finetune_figures",
    page=Page(
        title="removal of singular values before and after fine-tuning",
        reading=(
            "Each matrix of the chosen roles loses one group of its singular values (group 1: the largest), "
            "either before the model is fine-tuned or after it. What fine-tuning makes good shows in the first "
            "order; what the fine-tuned model needs of the group shows in the second. The accuracy is that of "
            "examples held out; chance is the answer that is right most often among them.",
        ),
        sentences="jacspec.studies.finetune.findings:finetune_findings",
        caution="Intervals of 95 % over seeds; the choice of the examples held out is not in them.",
    ),
)
