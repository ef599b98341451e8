"""What is in the columns of a `task=removal` run."""

from collections.abc import Mapping

from jacspec.quantities import Quantity

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
