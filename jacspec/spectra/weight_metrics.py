"""What is said of a weight matrix beyond `METRICS`: its tail, and its spectrum beside chance.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import eigvalsh_tridiagonal
from scipy.special import xlogy

from jacspec.spectra.bulk import FEWEST, bulk_distance, fit_bulk
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import (
    beyond_edge,
    chance_above,
    chance_below,
    counting_edges,
    largest_p_value,
    marchenko_pastur_edges,
    smallest_edge,
    smallest_p_value,
)
from jacspec.spectra.svd import singular_values
from jacspec.spectra.variance_profile import Profile, profile_edges

SCALING: Mapping[str, int] = {
    "x_min": 2,
    "detx_lambda": 2,
    **dict.fromkeys(("ring_inner", "ring_outer", "rotated_radius"), 1),
    **{f"{what}_{side}": 1 for what in ("null", "mp", "bulk", "count", "norms") for side in ("low", "high")},
    **{name: metric.scaling for name, metric in METRICS.items() if metric.scaling is not None},
}
"""The p of s(cA) = |c|ᵖ s(A) where it is not 0; logarithms are moved by `rescale` instead."""


def rescale(metrics: Mapping[str, float], exponent: int) -> tuple[dict[str, float], list[str]]:
    """Turn the metrics of a matrix into those of two to the `exponent` times it.

    **Returns:** the metrics, NaN where float64 does not hold one that is not zero, and the names of these.
    """
    decades = 2 * exponent * math.log10(2)
    added = {"log_spectral_norm": decades}
    added |= dict.fromkeys(("alpha_weighted", "log_alpha_norm"), metrics.get("alpha", math.nan) * decades)
    added["alpha_weighted_null"] = metrics.get("alpha_null", math.nan) * decades
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
    profiles: Sequence[Profile | None],
    *,
    seed: int,
) -> tuple[dict[str, Float[np.ndarray, " batch"]], list[list[str]]]:
    """Compute every row of `WEIGHT_METRICS` for a batch of matrices of one shape, in float64.

    **Arguments:** `sigma`, singular values in descending order, rows of NaN for matrices without any; `variances`, of
    the entries about their mean; `null`, singular values of what the matrices are compared with; `profiles`, their row
    and column norms; `seed`, of the draws of α by chance.

    **Returns:** one value a matrix and row, NaN where there is none; for each matrix why values of `CHANCE` are
    missing.
    """
    sigma = sigma.astype(np.float64)
    some = above_rounding(sigma, shape)
    lam = np.where(some, sigma**2, np.nan)
    tailed = np.where(equal_to_rounding(sigma, shape)[:, None], np.nan, lam)
    tails = {name: np.asarray(values, np.float64) for name, values in fit_tails(tailed)._asdict().items()}
    alpha = np.where(tails["valid"], tails["alpha"], np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_first = np.log10(np.where(sigma[:, 0] > 0, sigma[:, 0], np.nan) ** 2)
        # In units of the largest, so that no power overflows.
        log_norm = alpha * log_first + np.log10(np.nansum((lam / lam[:, :1]) ** alpha[:, None], axis=1))
    by_chance = alpha_of_chance((min(shape), max(shape)), seed)
    found = {
        "log_spectral_norm": log_first,
        "alpha": alpha,
        "alpha_sigma": tails["alpha_sigma"],
        "alpha_error": SEARCHED * tails["alpha_sigma"],
        **{name: np.where(tails["valid"], value, np.nan) for name, value in by_chance.items()},
        "alpha_weighted": alpha * log_first,
        "alpha_weighted_null": np.full(len(sigma), np.nan),  # filled in below, from the edge of chance
        "log_alpha_norm": log_norm,
        "x_min": tails["x_min"],
        "ks_distance": tails["ks_distance"],
        "tail_fraction": tails["tail_fraction"],
        **_beside_null(sigma, np.full_like(sigma, np.nan) if null is None else null.astype(np.float64)),
    }
    chance, reasons = [], []
    for row, variance, profile in zip(np.where(some, sigma, 0), variances, profiles, strict=True):
        one, why = _beside_chance(row, shape, float(variance), profile)
        chance.append(one)
        reasons.append(why)
    found |= {name: np.array([one[name] for one in chance]) for name in CHANCE}
    with np.errstate(divide="ignore", invalid="ignore"):
        found["alpha_weighted_null"] = found["alpha_null"] * 2 * np.log10(found["mp_high"])
    return found, reasons


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
    *("mp_low", "mp_high", "bulk_low", "bulk_high", "bulk_share", "bulk_error", "bulk_distance"),
    *("count_low", "count_high", "outliers_above", "outliers_below", "largest_p", "smallest_p"),
    *("norms_low", "norms_high", "norms_above", "norms_below", "norms_largest_p", "norms_smallest_p"),
)
"""What `_beside_chance` computes."""


def _beside_chance(
    sigma: Float[np.ndarray, " k"], shape: tuple[int, int], variance: float, profile: Profile | None
) -> tuple[dict[str, float], list[str]]:
    """Compare a spectrum, zero where it is zero to rounding, with its nulls; say what of that is missing, and why."""
    found = dict.fromkeys(CHANCE, float("nan"))
    if not (sigma[0] > 0 and variance > 0):  # of NaN neither is
        return found, []
    found["mp_low"], found["mp_high"] = marchenko_pastur_edges(shape, variance)
    found["largest_p"] = largest_p_value(float(sigma[0]), shape, variance)
    reasons, positive = [], sigma[sigma > 0]
    zeros = sigma.size - positive.size
    if zeros:
        reasons.append("below full rank: no p-value of the smallest, zeros are not counted below")
    bulk = fit_bulk(sigma, shape)
    if bulk.reason:
        reasons.append(f"no bulk of one variance: {bulk.reason}")
    else:
        found["bulk_low"], found["bulk_high"] = bulk.edges
        found["bulk_share"], found["bulk_error"] = bulk.variance / variance, bulk.error / variance
        found["bulk_distance"] = bulk_distance(sigma, bulk)
        found["count_low"], found["count_high"] = counting_edges(bulk.shape, bulk.variance)
        found["outliers_above"] = float((sigma > found["count_high"]).sum())
        if not zeros:
            found["smallest_p"] = smallest_p_value(float(sigma[-1]), bulk.shape, bulk.variance)
        if math.isfinite(found["count_low"]):
            found["outliers_below"] = float((positive < found["count_low"]).sum())
    if smallest_edge(shape) is None:
        nearly = "" if shape[0] == shape[1] else "nearly "
        reasons.append(f"{nearly}square: the bulk reaches to zero, none is counted below")
    if profile is not None and min(profile.shape) >= FEWEST:
        found |= _beside_profile(positive, profile, full_rank=not zeros)
        if not math.isfinite(found["norms_low"]) and smallest_edge(profile.shape):
            reasons.append("with its own norms the bulk reaches to zero: none is counted below it")
    return found, reasons


def _beside_profile(positive: Float[np.ndarray, " r"], profile: Profile, *, full_rank: bool) -> dict[str, float]:
    """Compare the σ that are not zero with independent entries that have its row and column norms."""
    low, high = profile_edges(profile)
    least, most = beyond_edge(low, -1), beyond_edge(high, 1)
    found = {
        "norms_low": least,
        "norms_high": most,
        "norms_above": float((positive > most).sum()),
        "norms_largest_p": chance_above(float(positive[0]) ** 2, high, profile.spread),
    }
    if low is not None:
        found["norms_below"] = float((positive < least).sum())
        if full_rank:
            found["norms_smallest_p"] = chance_below(float(positive[-1]) ** 2, low)
    return found


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


def _bidiagonal(shape: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, " entry"]:
    r"""Draw a bidiagonal matrix that has the singular values of one of independent standard normal entries.

    Reflections from both sides make the matrix, (m, n) with m ≥ n, bidiagonal: on the diagonal χ of m, m − 1, … degrees
    of freedom, above it of n − 1, n − 2, …, all independent (Silverstein 1985). Only these are drawn.

    **Returns:** both diagonals in turn.
    """
    n, m = sorted(shape)
    return np.sqrt(rng.chisquare(np.stack([m - np.arange(n), n - 1 - np.arange(n)], axis=1).ravel()[:-1]))


@functools.lru_cache(maxsize=64)
def gaussian_spectrum(shape: tuple[int, int], seed: int) -> Float[np.ndarray, " k"]:
    r"""Compute the singular values of one matrix of independent standard normal entries, in float64.

    Entries of another variance only scale it, so that one draw serves all matrices of a shape. The symmetric matrix of
    order 2n that has the diagonals of `_bidiagonal` in turn beside a diagonal of zeros has the eigenvalues ±σ (Golub &
    Kahan 1965): O(n²) FLOPs.
    """
    beside = _bidiagonal(shape, np.random.default_rng([seed, *shape]))
    n = min(shape)
    return eigvalsh_tridiagonal(np.zeros(2 * n), beside, lapack_driver="sterf")[: n - 1 : -1]


@functools.lru_cache(maxsize=8)
def gaussian_eigenvalues(shape: tuple[int, int], seed: int) -> Float[np.ndarray, "draw k"]:
    """Draw λ of `ALPHA_DRAWS` such matrices as eigenvalues of B Bᵀ, ascending, right to rounding of the largest.

    A quarter of the cost of singular values.
    """
    draws = ALPHA_DRAWS[min(shape) <= LARGE]
    rng = np.random.default_rng([seed, draws, *shape])
    found = []
    for _ in range(draws):
        entries = _bidiagonal(shape, rng)
        diagonal, above = entries[::2], np.append(entries[1::2], 0.0)
        beside = above[:-1] * diagonal[1:]
        found.append(eigvalsh_tridiagonal(diagonal**2 + above**2, beside, lapack_driver="sterf"))
    return np.stack(found)


SEARCHED = 1.4
"""What the search for x_min multiplies the standard error of α by; docs/chance.md has what it covers."""

ALPHA_DRAWS = 19, 99
"""Gaussian matrices that the level of α is drawn from: with more than `LARGE` values, and with fewer.

Of 19 draws the least and the largest stand for 5 % and 95 %: a further one is beyond either in one of twenty cases.
"""

LARGE = 256


@functools.lru_cache(maxsize=64)
def alpha_of_chance(shape: tuple[int, int], seed: int) -> dict[str, float]:
    """Fit the tail of Gaussian matrices of a shape, which have none: α depends on the shape alone.

    **Returns:** the columns `alpha_null_low` (5 %), `alpha_null` (median) and `alpha_null_high` (95 %); NaN where a
    spectrum of this size has no tail.
    """
    alpha = np.sort(fit_tails(gaussian_eigenvalues(shape, seed)).alpha)
    draws = alpha.size
    places = (draws + 1) // 20 - 1, draws // 2, draws - (draws + 1) // 20
    names = "alpha_null_low", "alpha_null", "alpha_null_high"
    return dict(zip(names, map(float, alpha[list(places)]), strict=True))


def equal_to_rounding(sigma: Float[np.ndarray, "batch k"], shape: tuple[int, int]) -> Bool[np.ndarray, " batch"]:
    """Say where all values are equal but for rounding, as those of an orthogonal matrix."""
    return sigma[:, 0] - sigma[:, -1] <= sigma[:, 0] * max(shape) * float(np.finfo(np.float32).eps)


def above_rounding(sigma: Float[np.ndarray, "batch k"], shape: tuple[int, int]) -> np.ndarray:
    """Say which values are more than rounding, as `numerical_rank` does for float32."""
    return sigma > sigma[:, :1] * max(shape) * float(np.finfo(np.float32).eps)


def js_distance(left: Float[np.ndarray, "batch k"], right: Float[np.ndarray, "batch k"]) -> Float[np.ndarray, " batch"]:
    """Compute the Jensen–Shannon distance (square root, nats) of rows divided by their sums; NaN beside zeros alone."""
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = (part / part.sum(axis=1, keepdims=True) for part in (left, right))
        middle = (p + q) / 2
        divergence = sum(xlogy(part, part / middle).sum(axis=1) for part in (p, q)) / 2
    return np.sqrt(np.maximum(divergence, 0))
