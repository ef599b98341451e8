"""What is in the columns of a `task=finetune` run."""

from collections.abc import Mapping

from jacspec.quantities import Quantity

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
