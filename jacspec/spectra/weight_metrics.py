"""What is said of a weight matrix beyond `METRICS`: its tail, and its spectrum beside chance.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import xlogy

from jacspec.spectra.metrics import METRICS
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import (
    bulk_distance,
    fit_bulk,
    largest_p_value,
    marchenko_pastur_edges,
    smallest_p_value,
)
from jacspec.spectra.svd import singular_values

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


def compute_weight_metrics(
    sigma: Float[np.ndarray, "batch k"],
    shape: tuple[int, int],
    variances: Float[np.ndarray, " batch"],
    null: Float[np.ndarray, "batch k"] | None,
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Compute every row of `WEIGHT_METRICS` for a batch of matrices of one shape, in float64.

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
