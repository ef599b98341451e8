"""What singular values matter, by how much worse a text is predicted without them."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from jacspec.studies.study import EXPERIMENTS, MISSING, Page, Quantity, Study


class RemoveBy(enum.Enum):
    """What loses singular values at once: a role in all layers, all roles in a layer, or all roles in all layers."""

    role = "role"
    layer = "layer"
    all = "all"


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
    save: str | None = MISSING


SMALL = "Small Singular Values Matter, Fig. 6"

HF = "HF, Perplexity of fixed-length models"

SALAZAR = "Salazar et al. 2020, Masked Language Model Scoring"

COCHRAN = "Cochran 1977, Sampling Techniques, ch. 6"

REMOVAL: Mapping[str, Quantity] = {
    "perplexity": Quantity("perplexity", "exp of the mean −ln p of a token, given those before it in its window", HF),
    "pseudo_perplexity": Quantity(
        "pseudo-perplexity", "exp of the mean −ln p of a token that is masked, given all others of its window", SALAZAR
    ),
    "perplexity_error": Quantity(
        "s.e. of perplexity",
        "standard error over chunks of the text: of a ratio, carried through exp",
        COCHRAN,
    ),
    "delta_perplexity": Quantity("change of perplexity", "perplexity minus that of the unmodified model", SMALL),
    "delta_pseudo_perplexity": Quantity(
        "change of pseudo-perplexity", "pseudo-perplexity minus that of the unmodified model", SMALL
    ),
    "delta_error": Quantity(
        "s.e. of change",
        "standard error of the difference, paired over the same chunks of the text (delta method)",
        COCHRAN,
    ),
    "nll": Quantity("nats a token", "mean −ln p of a token", HF, "nats"),
    "removed_values": Quantity("values removed", "singular values that were removed, in all matrices", SMALL),
    "removed_share": Quantity(
        "share of squares removed",
        "squares of the singular values removed over those of all, in the matrices that lose some",
        SMALL,
    ),
}
"""Columns of `task=removal`."""


STUDY = Study(
    name="removal",
    run="jacspec.studies.removal.run:run_removal",
    options=RemovalOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "engine", "removal", "precision", "seed"}),
    takes=("memory_gib", "precision", "seed"),
    rows=EXPERIMENTS,
    columns=REMOVAL,
    files={"spectra.nc": "nats and tokens of each chunk of the text, and the mean spectrum of each target (netCDF)"},
    figures="jacspec.studies.removal.figures:removal_figures",
    page=Page(
        title="perplexity without groups of singular values",
        reading=(
            "Each row is the model without one group of the rank-ordered singular values of every matrix of its "
            "target (a role in all layers, all roles in a layer, or all); group 1 holds the largest. The perplexity "
            "is that of a text in sliding windows, every token scored once; of encoders it is the "
            "pseudo-perplexity, each token masked in turn. Standard errors are over chunks of the text; that of "
            "a change is paired, the same chunks with and without the group, and says how far another part of "
            "the text may differ, not whether one group differs from another.",
        ),
        sentences="jacspec.studies.removal.findings:removal_findings",
        caution="In brackets, intervals of 95 % over chunks of this text, in pairs; of another model they say nothing.",
    ),
)
