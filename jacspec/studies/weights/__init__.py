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

WEIGHT_METRICS: Mapping[str, Quantity] = {
    "log_spectral_norm": Quantity(r"$\log_{10} \lambda_1$", "log10 of the largest λ = σ²", WEIGHTWATCHER),
    "alpha": Quantity(r"$\alpha$", "exponent of the tail of λ, continuous maximum likelihood above x_min", CLAUSET),
    "alpha_sigma": Quantity(r"$\sigma_\alpha$", "standard error of α: (α − 1)/√n, n values in the tail", CLAUSET),
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
    "bulk_low": Quantity(r"$\sigma_-^{\mathrm{bulk}}$", "lower edge for the variance that fits the bulk", SMALL),
    "bulk_high": Quantity(r"$\sigma_+^{\mathrm{bulk}}$", "upper edge for the variance that fits the bulk", SMALL),
    "bulk_share": Quantity(
        r"$s_{\mathrm{bulk}}^2 / s^2$", "variance that fits the bulk over that of the entries", SMALL
    ),
    "bulk_distance": Quantity(
        r"$D_{MP}$", "Kolmogorov–Smirnov distance of the σ between the bulk's edges from Marchenko–Pastur there", MP
    ),
    "outliers_above": Quantity(r"$n_>$", "number of σ above the bulk's upper edge", SMALL),
    "outliers_below": Quantity(r"$n_<$", "number of σ below the bulk's lower edge", SMALL),
    "largest_p": Quantity(
        r"$p_{\max}$",
        "chance of so large a σ_1 in a Gaussian matrix of the entries' variance",
        "Johnstone 2001; Ma 2012",
    ),
    "smallest_p": Quantity(
        r"$p_{\min}$", "chance of so small a smallest σ in such a matrix", "Ma 2012; Edelman 1988 where it is square"
    ),
}
"""Columns of `task=weights` beside `METRICS`: the tail of a spectrum, and the spectrum beside chance.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""


STUDY = Study(
    name="weights",
    run="jacspec.studies.weights.run:run_weights",
    options=WeightsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "weights", "layers", "precision", "seed"}),
    takes=("layers", "metrics", "top_k", "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns=WEIGHT_METRICS,
    console=("spectral_radius", "stable_rank", "alpha", "outliers_above", "outliers_below"),
    figures="jacspec.studies.weights.figures:matrix_figures",
    page=Page(
        title="weight matrices",
        reading=(
            "A matrix W (out, in) has singular values σ and λ = σ², without a factor of 1/N. What entries drawn "
            "at random give is the Marchenko–Pastur law between its two edges; values beyond them, above or "
            "below, are what training put there. A missing value (–) has its reason in the last column of "
            "metrics.csv.",
        ),
    ),
)
