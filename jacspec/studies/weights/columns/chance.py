"""Columns of a spectrum beside chance: one draw of a null, entries of one variance, the matrix's own norms."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity
from jacspec.studies.weights.columns.tail import WEIGHTWATCHER

SMALL = "Small Singular Values Matter"

MP = "Marchenko & Pastur 1967"

PROFILED = "Marchenko & Pastur 1967; quantiles, over the number above (docs/chance.md)"

TRACY_WIDOM = "Johnstone 2001; Ma 2012"

NORMS = "Zhang 2006; Couillet & Hachem 2014"

BENJAMINI = "Benjamini & Hochberg 1995"

CHANCE: Mapping[str, Quantity] = {
    "rand_distance": Quantity(
        r"$D_{JS}$",
        "Jensen–Shannon distance (nats, square root) between the ordered λ, divided by their sum, and those of the "
        "null (weights.against): the same entries in another order, or Gaussian ones",
        WEIGHTWATCHER,
        words="distance from the null",
    ),
    "null_low": Quantity(
        r"$\sigma_-^{\mathrm{null}}$",
        "smallest σ of the null (weights.against), one draw",
        SMALL,
        scale=True,
        words="smallest σ of the null",
    ),
    "null_high": Quantity(
        r"$\sigma_+^{\mathrm{null}}$", "largest σ of the null", SMALL, scale=True, words="largest σ of the null"
    ),
    "above_null": Quantity(
        r"$n_>^{\mathrm{null}}$", "number of σ above the largest of the null", SMALL, words="values above the null"
    ),
    "below_null": Quantity(
        r"$n_<^{\mathrm{null}}$", "number of σ below the smallest of the null", SMALL, words="values below the null"
    ),
    "mp_low": Quantity(
        r"$\sigma_-$",
        "lower Marchenko–Pastur edge s(√N − √M) of σ, s² the variance of the entries",
        MP,
        scale=True,
        words="lower Marchenko–Pastur edge",
    ),
    "mp_high": Quantity(r"$\sigma_+$", "upper edge s(√N + √M)", MP, scale=True, words="upper Marchenko–Pastur edge"),
    "bulk_low": Quantity(
        r"$\sigma_-^{\mathrm{bulk}}$",
        "lower Marchenko–Pastur edge of the bulk: s_bulk(√(N − r) − √(M − r)), r values being above it",
        PROFILED,
        scale=True,
        words="lower edge of the bulk",
    ),
    "bulk_high": Quantity(
        r"$\sigma_+^{\mathrm{bulk}}$",
        "upper edge of the bulk, s_bulk(√(N − r) + √(M − r))",
        PROFILED,
        scale=True,
        words="upper edge of the bulk",
    ),
    "bulk_share": Quantity(
        r"$s_{\mathrm{bulk}}^2 / s^2$",
        "variance of the bulk over that of the entries; missing where no bulk is identified",
        PROFILED,
        words="variance of the bulk",
    ),
    "bulk_error": Quantity("standard error of the bulk", "standard error of that", PROFILED),
    "bulk_distance": Quantity(
        r"$D_{MP}$",
        "Kolmogorov–Smirnov distance of the σ between the bulk's edges from Marchenko–Pastur there",
        MP,
        words="distance from Marchenko–Pastur",
    ),
    "count_low": Quantity(
        r"$\sigma_<$",
        "σ below which a value is counted: one draw in 100 of the bulk alone has any",
        TRACY_WIDOM,
        scale=True,
        words="outliers begin below",
    ),
    "count_high": Quantity(
        r"$\sigma_>$",
        "σ above which a value is counted: one draw in 100 of the bulk alone has any",
        TRACY_WIDOM,
        scale=True,
        words="outliers begin above",
    ),
    "outliers_above": Quantity(
        r"$n_>$", "number of σ above σ_>; 0.01 are expected where all entries have one variance", TRACY_WIDOM
    ),
    "outliers_below": Quantity(
        r"$n_<$",
        "number of positive σ below σ_<; 0.01 are expected by chance; none is defined of a square matrix",
        TRACY_WIDOM,
    ),
    "largest_p": Quantity(
        r"$p_{\max}$",
        "chance of so large a σ_1 with Gaussian entries of one variance, that of all entries",
        "Johnstone 2001; Ma 2012; drawn below 16 rows",
        words="p of the largest σ",
    ),
    "smallest_p": Quantity(
        r"$p_{\min}$",
        "chance of so small a smallest σ with Gaussian entries of one variance, that of the bulk",
        "Ma 2012; Edelman 1988 where it is square",
        words="p of the smallest σ",
    ),
    "norms_low": Quantity(
        r"$\sigma_<^{rc}$",
        "as σ_<, with independent entries that have the matrix's own row and column norms",
        NORMS,
        scale=True,
        words="lower edge, own norms",
    ),
    "norms_high": Quantity(
        r"$\sigma_>^{rc}$",
        "as σ_>, with the matrix's own row and column norms",
        NORMS,
        scale=True,
        words="upper edge, own norms",
    ),
    "norms_above": Quantity(
        r"$n_>^{rc}$",
        "number of σ above that; 0.01 or fewer are expected with such entries",
        NORMS,
        words="values above, own norms",
    ),
    "norms_below": Quantity(
        r"$n_<^{rc}$", "number of positive σ below the lower one", NORMS, words="values below, own norms"
    ),
    "norms_largest_p": Quantity(
        r"$p_{\max}^{rc}$",
        "chance, at most, of so large a σ_1 with Gaussian entries that have the matrix's own row and column norms",
        NORMS,
        words="p of the largest σ, own norms",
    ),
    "norms_smallest_p": Quantity(
        r"$p_{\min}^{rc}$",
        "chance of so small a smallest σ with such entries",
        NORMS,
        words="p of the smallest σ, own norms",
    ),
}
"""Of every matrix."""

OVER_MATRICES: Mapping[str, Quantity] = {
    "largest_q": Quantity(
        r"$q_{\max}$",
        "false discovery rate of p_max over all matrices of the run that have one",
        BENJAMINI,
        words="q of the largest σ",
    ),
    "smallest_q": Quantity(r"$q_{\min}$", "the same of p_min", BENJAMINI, words="q of the smallest σ"),
    "norms_largest_q": Quantity(
        r"$q_{\max}^{rc}$",
        "the same of p_max with the matrix's own norms",
        BENJAMINI,
        words="q of the largest σ, own norms",
    ),
    "norms_smallest_q": Quantity(
        r"$q_{\min}^{rc}$",
        "the same of p_min with the matrix's own norms",
        BENJAMINI,
        words="q of the smallest σ, own norms",
    ),
}
"""Columns that are known once all matrices are; each has its p-value's name but for the last letter."""
