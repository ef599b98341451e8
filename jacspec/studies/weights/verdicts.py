"""What is said once all matrices of a run are there: q-values, verdicts with their rules, flags."""

import math
from collections.abc import Callable, Mapping, Sequence

from jacspec.axes import Row
from jacspec.spectra.significance import SURE
from jacspec.spectra.spacings import GOE_RATIO
from jacspec.studies.weights.columns import OVER_MATRICES
from jacspec.studies.work import adjust_rows

RANGES = ((2.0, "below 2"), (4.0, "2 to 4"), (6.0, "4 to 6"), (math.inf, "above 6"))
"""Where the rules for α change, with the words for what is below."""

HEAVIER = "heavier than by chance"

THIRDS = (("early", 2.5, 3.5), ("middle", 2.0, 3.0), ("late", 1.5, 2.5))
"""The ranges that the merging document gives for α by depth."""

REJECTED = 0.1
"""p-value below which Clauset, Shalizi & Newman 2009 rule a power law out."""

MANY = 0.05
"""Share of vectors beyond chance at 1 % that is flagged: five times what chance gives."""

FLAGS: Mapping[str, Callable[[Mapping[str, float]], bool]] = {
    "tail as by chance": lambda row: row["alpha"] >= row["alpha_null_low"],
    "no power law": lambda row: row.get("power_p", math.nan) < REJECTED,
    "strongest beyond its norms": lambda row: row["norms_largest_q"] < SURE,
    "weakest beyond its norms": lambda row: row["norms_smallest_q"] < SURE,
    "no bulk of one variance": lambda row: math.isnan(row["outliers_above"]) and not math.isnan(row["mp_high"]),
    "large entries": lambda row: row.get("num_traps", 0) > 0,
    "vectors beyond chance": lambda row: row.get("vectors_p01", 0) > max(MANY, 2 * row.get("vectors_p01_norms", 0)),
    "no repulsion": lambda row: row.get("spacing_ratio", 1) + 3 * row.get("spacing_ratio_error", 0) < GOE_RATIO,
}
"""What a matrix is flagged for; a value that is missing flags nothing."""


def complete_rows(rows: Sequence[Row], depth: int | None) -> Sequence[Row]:
    """Add q-values over all matrices, verdicts and flags; `depth`, the number of layers, None where nobody knows."""
    return [row._replace(words=_words(row.key[0], depth, row.values)) for row in adjust_rows(rows, OVER_MATRICES)]


def _words(layer: object, depth: int | None, values: Mapping[str, float]) -> dict[str, str]:
    alpha, low, high = values["alpha"], values["alpha_null_low"], values["alpha_null_high"]
    words = {
        "verdict": "",
        "depth_verdict": "",
        "flags": "; ".join(name for name, test in FLAGS.items() if test(values)),
    }
    if not math.isfinite(alpha) or not math.isfinite(low):
        return words
    relation = HEAVIER if alpha < low else "lighter than by chance" if alpha > high else "as by chance"
    words["verdict"] = f"{next(name for end, name in RANGES if alpha < end)}, {relation}"
    if isinstance(layer, int) and depth and layer < depth and alpha < low:
        name, least, most = THIRDS[layer * len(THIRDS) // depth]
        where = "within" if least <= alpha <= most else "outside"
        words["depth_verdict"] = f"{name}: {where} {least:g} to {most:g}"
    return words
