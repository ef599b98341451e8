"""Spectra of a checkpoint's weight matrices, by role, beside chance."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.study import MATRICES, MISSING, Page, Quantity, Study


class Against(enum.Enum):
    """What a weight matrix is compared with: its own entries in another order, or Gaussian ones of their variance."""

    shuffled = "shuffled"
    gaussian = "gaussian"
    none = "none"


class Stacked(enum.Enum):
    """What a tensor of three axes, read by name, is: matrices one behind the other, a kernel, or nothing wanted."""

    auto = "auto"
    experts = "experts"
    kernel = "kernel"
    skip = "skip"


@dataclasses.dataclass
class WeightsOptions:
    """Which weight matrices, and what they are held against; see conf/task/weights.yaml."""

    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    stacked: Stacked = MISSING
    against: Against = MISSING
    show_layer: int = MISSING


WEIGHTWATCHER = "Martin & Mahoney 2021, JMLR 22, 165 (WeightWatcher)"

CLAUSET = "Clauset, Shalizi & Newman 2009, SIAM Review 51, 661"

SMALL = "Small Singular Values Matter"

MP = "Marchenko & Pastur 1967"

PROFILED = "Marchenko & Pastur 1967; quantiles, over the number above (docs/chance.md)"

TRACY_WIDOM = "Johnstone 2001; Ma 2012"

NORMS = "Zhang 2006; Couillet & Hachem 2014"

WEIGHT_METRICS: Mapping[str, Quantity] = {
    "log_spectral_norm": Quantity(r"$\log_{10} \lambda_1$", "log10 of the largest λ = σ²", WEIGHTWATCHER),
    "alpha": Quantity(r"$\alpha$", "exponent of the tail of λ, continuous maximum likelihood above x_min", CLAUSET),
    "alpha_sigma": Quantity(
        r"$\sigma_\alpha$", "standard error of α were x_min known: (α − 1)/√n, n values in the tail", CLAUSET
    ),
    "alpha_error": Quantity(
        r"$\sigma_\alpha^{\mathrm{search}}$",
        "standard error of α with the search for x_min: 1.4 times that, by calibration",
        CLAUSET,
    ),
    "alpha_null_low": Quantity(
        r"$\alpha_{0.05}^{\mathrm{null}}$",
        "α that 5 % of Gaussian matrices of this shape are below, which have no tail (99 draws, 19 of large ones)",
        CLAUSET,
    ),
    "alpha_null": Quantity(r"$\alpha^{\mathrm{null}}$", "their median α", CLAUSET),
    "alpha_null_high": Quantity(r"$\alpha_{0.95}^{\mathrm{null}}$", "α that 5 % of them are above", CLAUSET),
    "alpha_weighted": Quantity(r"$\alpha \log_{10} \lambda_1$", "α times log10 λ_1", WEIGHTWATCHER),
    "log_alpha_norm": Quantity(r"$\log_{10} \Sigma \lambda^\alpha$", "log10 Σ λ^α", WEIGHTWATCHER),
    "x_min": Quantity(r"$x_{\min}$", "where the tail of λ begins: the candidate of least distance D", CLAUSET),
    "ks_distance": Quantity(r"$D$", "Kolmogorov–Smirnov distance of the tail from its power law", CLAUSET),
    "tail_fraction": Quantity(r"tail fraction", "share of the positive λ at or above x_min", CLAUSET),
    "rand_distance": Quantity(
        r"$D_{JS}$",
        "Jensen–Shannon distance (nats, square root) between the ordered λ, divided by their sum, and those of the "
        "null (weights.against): the same entries in another order, or Gaussian ones",
        WEIGHTWATCHER,
    ),
    "null_low": Quantity(r"$\sigma_-^{\mathrm{null}}$", "smallest σ of the null (weights.against), one draw", SMALL),
    "null_high": Quantity(r"$\sigma_+^{\mathrm{null}}$", "largest σ of the null", SMALL),
    "above_null": Quantity(r"$n_>^{\mathrm{null}}$", "number of σ above the largest of the null", SMALL),
    "below_null": Quantity(r"$n_<^{\mathrm{null}}$", "number of σ below the smallest of the null", SMALL),
    "mp_low": Quantity(
        r"$\sigma_-$", "lower Marchenko–Pastur edge s(√N − √M) of σ, s² the variance of the entries", MP
    ),
    "mp_high": Quantity(r"$\sigma_+$", "upper edge s(√N + √M)", MP),
    "bulk_low": Quantity(
        r"$\sigma_-^{\mathrm{bulk}}$",
        "lower Marchenko–Pastur edge of the bulk: s_bulk(√(N − r) − √(M − r)), r values being above it",
        PROFILED,
    ),
    "bulk_high": Quantity(
        r"$\sigma_+^{\mathrm{bulk}}$", "upper edge of the bulk, s_bulk(√(N − r) + √(M − r))", PROFILED
    ),
    "bulk_share": Quantity(
        r"$s_{\mathrm{bulk}}^2 / s^2$",
        "variance of the bulk over that of the entries; missing where no bulk is identified",
        PROFILED,
    ),
    "bulk_error": Quantity("standard error of the bulk", "standard error of that", PROFILED),
    "bulk_distance": Quantity(
        r"$D_{MP}$", "Kolmogorov–Smirnov distance of the σ between the bulk's edges from Marchenko–Pastur there", MP
    ),
    "count_low": Quantity(
        r"$\sigma_<$", "σ below which a value is counted: one draw in 100 of the bulk alone has any", TRACY_WIDOM
    ),
    "count_high": Quantity(
        r"$\sigma_>$", "σ above which a value is counted: one draw in 100 of the bulk alone has any", TRACY_WIDOM
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
    ),
    "smallest_p": Quantity(
        r"$p_{\min}$",
        "chance of so small a smallest σ with Gaussian entries of one variance, that of the bulk",
        "Ma 2012; Edelman 1988 where it is square",
    ),
    "norms_low": Quantity(
        r"$\sigma_<^{rc}$",
        "as σ_<, with independent entries that have the matrix's own row and column norms",
        NORMS,
    ),
    "norms_high": Quantity(r"$\sigma_>^{rc}$", "as σ_>, with the matrix's own row and column norms", NORMS),
    "norms_above": Quantity(
        r"$n_>^{rc}$", "number of σ above that; 0.01 or fewer are expected with such entries", NORMS
    ),
    "norms_below": Quantity(r"$n_<^{rc}$", "number of positive σ below the lower one", NORMS),
    "norms_largest_p": Quantity(
        r"$p_{\max}^{rc}$",
        "chance, at most, of so large a σ_1 with Gaussian entries that have the matrix's own row and column norms",
        NORMS,
    ),
    "norms_smallest_p": Quantity(r"$p_{\min}^{rc}$", "chance of so small a smallest σ with such entries", NORMS),
}
"""Columns of `task=weights` beside `METRICS`: the tail of a spectrum, and the spectrum beside chance.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

LEADING, THRESHOLD = 10, 0.5
"""How many leading singular vectors may be intruders, and the |cos| below which one is: PEFT's own defaults."""

SHUTTLEWORTH = "Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence"

INTRUDERS: Mapping[str, Quantity] = {
    "intruders_left": Quantity(
        "intruders, left",
        f"of an adapter: number of the {LEADING} first left singular vectors of the sum whose largest |cos| with one "
        f"of the base's is below {THRESHOLD} (other numbers: task=delta)",
        SHUTTLEWORTH,
    ),
    "intruders_right": Quantity("intruders, right", "the same of right singular vectors", SHUTTLEWORTH),
    "least_match_left": Quantity("worst match, left", "the smallest of these largest |cos|, left", SHUTTLEWORTH),
    "least_match_right": Quantity("worst match, right", "the smallest of these largest |cos|, right", SHUTTLEWORTH),
}
"""Columns beside these where the model is an adapter on its base."""


STUDY = Study(
    name="weights",
    run="jacspec.studies.weights.run:run_weights",
    options=WeightsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "weights", "layers", "precision", "seed"}),
    takes=("layers", "metrics", "top_k", "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns={**WEIGHT_METRICS, **INTRUDERS},
    console=("spectral_radius", "stable_rank", "alpha", "alpha_null", "outliers_above", "norms_above"),
    figures="jacspec.studies.weights.figures:matrix_figures",
    page=Page(
        title="weight matrices",
        sentences="jacspec.studies.weights.findings:matrix_findings",
        caution="The matrices of one model are not independent, and are of one training run.",
        reading=(
            "A matrix W (out, in) has singular values σ and λ = σ², without a factor of 1/N. Beside them stand three "
            "nulls. Plain Marchenko–Pastur and Tracy–Widom: independent entries of one variance. What is beyond that "
            "(n_>, n_<, p_max, p_min) may have no more than rows of different norms, as an untrained matrix can have "
            "too. The null of its own row and column norms (rc) rejects independent entries with these norms: beyond "
            "it, entries depend on one another. One draw (weights.against) is the third.",
            "Values are counted beyond the edge that one draw in 100 passes: with random entries 0.01 a matrix are "
            "expected on each side. A bulk of one variance is identified where its lower and upper half agree and two "
            "searches find it; where not, what depends on it is missing. α means nothing without that of Gaussian "
            "matrices, which have no power law: α^null with its 5 and 95 %.",
            "Of an adapter, each matrix that it changes has three rows: the sum, the base's (.base) and what was "
            "added (.update), whose spectrum is that of its factors. An intruder is a leading singular vector of the "
            "sum that has no counterpart in the base.",
            "A missing value (–) has its reason in the last column of metrics.csv.",
        ),
    ),
)
