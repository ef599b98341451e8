"""What is said of a weight matrix beyond `METRICS`: its tail, and its spectrum beside chance. One table, `STATIC`.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import xlogy

from jacspec.backend import numerics
from jacspec.quantities import Quantity
from jacspec.spectra.metrics import METRICS, compute_metrics
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import (
    bulk_distance,
    fit_bulk,
    largest_p_value,
    marchenko_pastur_edges,
    smallest_p_value,
)
from jacspec.spectra.svd import singular_values

WEIGHTWATCHER = "Martin & Mahoney 2021, JMLR 22, 165 (WeightWatcher)"
CLAUSET = "Clauset, Shalizi & Newman 2009, SIAM Review 51, 661"
SMALL = "Small Singular Values Matter"
MP = "Marchenko & Pastur 1967"

STATIC: Mapping[str, Quantity] = {
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


SCALING: Mapping[str, int] = {
    "x_min": 2,
    **dict.fromkeys(("null_low", "null_high", "mp_low", "mp_high", "bulk_low", "bulk_high"), 1),
    **{name: metric.scaling for name, metric in METRICS.items()},
}
"""The p of s(cA) = |c|ᵖ s(A) where it is not 0; logarithms are moved by `rescale` instead."""


def rescale(metrics: Mapping[str, float], exponent: int) -> tuple[dict[str, float], list[str]]:
    """Turn the metrics of a matrix into those of two to the `exponent` times it.

    **Returns:** the metrics, NaN where float64 does not hold one that is not zero, and the names of these.
    """
    decades = 2 * exponent * math.log10(2)
    added = {"log_spectral_norm": decades}
    added |= dict.fromkeys(("alpha_weighted", "log_alpha_norm"), metrics.get("alpha", math.nan) * decades)
    found, lost = {}, []
    for name, value in metrics.items():
        with np.errstate(over="ignore", under="ignore"):
            found[name] = float(np.ldexp(value + added.get(name, 0.0), exponent * SCALING.get(name, 0)))
        if value and math.isfinite(value) and (not found[name] or math.isinf(found[name])) and name in SCALING:
            found[name] = math.nan
            lost.append(name)
    return found, lost


STUDY = "the study of per-head W_QK spectra"

HEADS: Mapping[str, Quantity] = {
    "lambda_0": Quantity(r"$\lambda_0$", "the largest λ = σ² (the study counts from 0)", STUDY),
    "lambda_sum": Quantity(r"$\Sigma \lambda$", "Σλ, the square of the Frobenius norm", STUDY),
    "lambda_square_sum": Quantity(r"$\Sigma \lambda^2$", "Σλ²", STUDY),
    "npr_lambda": Quantity(r"$\mathrm{NPR}_\lambda$", "(Σλ)² / (d_head Σλ²), on λ as the study's text has it", STUDY),
    "npr_sigma": Quantity(r"$\mathrm{NPR}_\sigma$", "(Σσ)² / (d_head Σσ²), on σ as the study's code has it", STUDY),
    "spectral_entropy": Quantity(METRICS["spectral_entropy"].symbol, METRICS["spectral_entropy"].definition, STUDY),
    "effective_rank": Quantity(
        METRICS["effective_rank"].symbol, METRICS["effective_rank"].definition, METRICS["effective_rank"].source
    ),
    "kappa_sigma": Quantity(r"$\kappa_\sigma$", "σ_1 / σ_d_head; infinite below full rank, then missing", STUDY),
    "kappa_lambda": Quantity(r"$\kappa_\lambda$", "its square, λ_1 / λ_d_head", STUDY),
    "element_mean": Quantity(r"mean of $W_{ij}$", "mean over the d_model² elements of the product", STUDY),
    "element_std": Quantity(r"$\sigma(W_{ij})$", "standard deviation of the elements: not a singular value", STUDY),
    "element_skewness": Quantity(r"skewness of $W_{ij}$", "third central moment of the elements over σ³", STUDY),
    "element_kurtosis": Quantity(r"excess kurtosis of $W_{ij}$", "fourth central moment over σ⁴, less 3", STUDY),
}
"""What `task=heads` says of each head: its columns."""

SHARED = ("normalized_participation_ratio", "sigma_participation_ratio", "spectral_entropy", "effective_rank")
"""Rows of `METRICS` that columns of heads come from."""


def head_metrics(sigma: Float[np.ndarray, "head d_head"]) -> dict[str, Float[np.ndarray, " head"]]:
    """Compute the rows of `HEADS` that come from singular values, in float64; NaN where a head is all zero."""
    sigma = sigma.astype(np.float64)
    lam, d_head = sigma**2, sigma.shape[1]
    whole = sigma[:, 0] > 0
    with numerics("float64"):
        shared = compute_metrics(SHARED, jnp.asarray(sigma), shape=(d_head, d_head))
    table = {name: np.asarray(values) for name, values in shared.items()}
    full_rank = sigma[:, -1] > sigma[:, 0] * d_head * float(np.finfo(np.float32).eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(full_rank, sigma[:, 0] / sigma[:, -1], np.nan)
    found = {
        "lambda_0": lam[:, 0],
        "lambda_sum": lam.sum(axis=1),
        "lambda_square_sum": np.square(lam).sum(axis=1),
        "npr_lambda": table["normalized_participation_ratio"],
        "npr_sigma": table["sigma_participation_ratio"] / d_head,
        "spectral_entropy": table["spectral_entropy"],
        "effective_rank": table["effective_rank"],
        "kappa_sigma": kappa,
        "kappa_lambda": np.square(kappa),
    }
    return {name: np.where(whole, values, np.nan) for name, values in found.items()}


def static_metrics(
    sigma: Float[np.ndarray, "batch k"],
    shape: tuple[int, int],
    variances: Float[np.ndarray, " batch"],
    null: Float[np.ndarray, "batch k"] | None,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Compute every row of `STATIC` for a batch of matrices of one shape, in float64.

    **Arguments:** `sigma`, singular values in descending order, rows of NaN for matrices without any; `variances`, of
    the entries about their mean; `null`, singular values of what the matrices are compared with.

    **Returns:** one value a matrix and row; NaN where there is none (see `missing_reason`).
    """
    sigma = sigma.astype(np.float64)
    lam = np.where(_above_rounding(sigma, shape), sigma**2, np.nan)
    tails = {name: np.asarray(values, np.float64) for name, values in fit_tails(lam)._asdict().items()}
    alpha = np.where(tails["valid"], tails["alpha"], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_first = np.log10(np.where(sigma[:, 0] > 0, sigma[:, 0], np.nan) ** 2)
        # In units of the largest, so that no power overflows.
        log_norm = alpha * log_first + np.log10(np.nansum((lam / lam[:, :1]) ** alpha[:, None], axis=1))
    found = {
        "log_spectral_norm": log_first,
        "alpha": alpha,
        "alpha_sigma": tails["alpha_sigma"],
        "alpha_weighted": alpha * log_first,
        "log_alpha_norm": log_norm,
        "x_min": tails["x_min"],
        "ks_distance": tails["ks_distance"],
        "tail_fraction": tails["tail_fraction"],
        **_beside_null(sigma, np.full_like(sigma, np.nan) if null is None else null.astype(np.float64)),
    }
    chance = [_beside_chance(row, shape, float(variance)) for row, variance in zip(sigma, variances, strict=True)]
    return found | {name: np.array([one[name] for one in chance]) for name in chance[0]}


def _beside_null(
    sigma: Float[np.ndarray, "batch k"], null: Float[np.ndarray, "batch k"]
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Compare each spectrum with one draw of its null; NaN where there is none."""
    low, high = null[:, -1], null[:, 0]
    there = np.isfinite(sigma).all(axis=1) & np.isfinite(null).all(axis=1) & (high > 0)
    found = {
        "rand_distance": js_distance(sigma**2, null**2),
        "null_low": low,
        "null_high": high,
        "above_null": (sigma > high[:, None]).sum(axis=1).astype(np.float64),
        "below_null": (sigma < low[:, None]).sum(axis=1).astype(np.float64),
    }
    return {name: np.where(there, values, np.nan) for name, values in found.items()}


CHANCE = (
    *("mp_low", "mp_high", "bulk_low", "bulk_high", "bulk_share", "bulk_distance"),
    *("outliers_above", "outliers_below", "largest_p", "smallest_p"),
)
"""What `_beside_chance` computes."""


def _beside_chance(sigma: Float[np.ndarray, " k"], shape: tuple[int, int], variance: float) -> dict[str, float]:
    if not (np.isfinite(sigma).all() and variance > 0):
        return dict.fromkeys(CHANCE, float("nan"))
    low, high = marchenko_pastur_edges(shape, variance)
    bulk = fit_bulk(sigma, shape)
    bulk_low, bulk_high = marchenko_pastur_edges(shape, bulk)
    found = {
        "mp_low": low,
        "mp_high": high,
        "bulk_low": bulk_low,
        "bulk_high": bulk_high,
        "bulk_share": bulk / variance,
        "bulk_distance": bulk_distance(sigma, shape, bulk),
        "outliers_above": (sigma > bulk_high).sum(),
        "outliers_below": (sigma < bulk_low).sum(),
        "largest_p": largest_p_value(float(sigma[0]), shape, variance),
        "smallest_p": smallest_p_value(float(sigma[-1]), shape, variance),
    }
    return {name: float(found[name]) for name in CHANCE}


def shuffled_spectra(
    seeds: Sequence[Sequence[int]], matrices: Sequence[Float[np.ndarray, "m n"]]
) -> Float[np.ndarray, "batch k"]:
    """Compute the singular values of every matrix with its own entries in another order, one draw, a seed a matrix.

    NumPy shuffles: `jax.random.permutation` sorts, and took nine times as long for 2.4 million entries.
    """
    drawn = [
        np.random.default_rng(seed).permutation(matrix.ravel()).reshape(matrix.shape)
        for seed, matrix in zip(seeds, matrices, strict=True)
    ]
    return np.asarray(singular_values(drawn))


@functools.lru_cache(maxsize=64)
def gaussian_spectrum(shape: tuple[int, int], seed: int) -> Float[np.ndarray, " k"]:
    r"""Compute the singular values of one matrix of independent standard normal entries, in float64.

    Entries of another variance only scale it, so that one draw serves all matrices of a shape. Reflections from both
    sides make the matrix, (m, n) with m ≥ n, bidiagonal: on the diagonal χ of m, m − 1, … degrees of freedom, above it
    of n − 1, n − 2, …, all independent (Silverstein 1985). Only these are drawn. The symmetric matrix of order 2n that
    has them in turn beside a diagonal of zeros has the eigenvalues ±σ (Golub & Kahan 1965): O(n²) FLOPs.
    """
    n, m = sorted(shape)
    degrees = np.stack([m - np.arange(n), n - 1 - np.arange(n)], axis=1).ravel()[:-1]
    beside = np.sqrt(np.random.default_rng([seed, *shape]).chisquare(degrees))
    return eigvalsh_tridiagonal(np.zeros(2 * n), beside, lapack_driver="sterf")[: n - 1 : -1]


def _above_rounding(sigma: Float[np.ndarray, "batch k"], shape: tuple[int, int]) -> np.ndarray:
    """Say which values are more than rounding, as `numerical_rank` does for float32."""
    return sigma > sigma[:, :1] * max(shape) * float(np.finfo(np.float32).eps)


def js_distance(left: Float[np.ndarray, "batch k"], right: Float[np.ndarray, "batch k"]) -> Float[np.ndarray, " batch"]:
    """Compute the Jensen–Shannon distance (square root, nats) of rows divided by their sums; NaN beside zeros alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (part / part.sum(axis=1, keepdims=True) for part in (left, right))
        middle = (p + q) / 2
        divergence = sum(xlogy(part, part / middle).sum(axis=1) for part in (p, q)) / 2
    return np.sqrt(np.maximum(divergence, 0))
