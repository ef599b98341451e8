r"""The bulk of a spectrum: the part that follows Marchenko and Pastur, once what stands above it is left out.

r values far above the bulk take r dimensions from both sides: what is left is the spectrum of an (M − r) × (N − r)
matrix of noise, not of an M × N one (Schur's complement; at 40 % of the values the upper edge of a square matrix falls
by a fifth). Spikes of finite strength take a little more (`_without`). The search goes from r to the variance that fits
the quantiles of the rest, from that to its upper edge, and from that to the r above, until nothing changes. Other
estimators are compared with it in docs/chance.md.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.spectra.random_matrix import Sides, counting_edges, marchenko_pastur_cdf, marchenko_pastur_edges

FEWEST = 16
"""Values that a bulk needs."""

MOST_ABOVE = 0.42
"""Share of the values that may lie above a bulk: where 0.4 were planted as many, or one or two more, were found."""

RANGES = ((0.1, 0.9), (0.1, 0.5), (0.5, 0.9))
"""Quantiles that the variance is fitted to; then those of the lower and of the upper half, which have to agree."""

APART, APART_BY_SIZE = 0.05, 6.5
"""How far the variances of the two halves, or of two searches, may differ: the larger of the first and the second over
the number of values, which Gaussian square matrices keep to in 99 of 100 draws (with N = 4M they differ by a third)."""

ERROR_BY_SIZE = 2.0
"""Relative standard error of the variance of Gaussian entries times the number of values: 1.3 to 1.9 for a square, 0.8
at N = 4M."""


class Bulk(NamedTuple):
    """A bulk: the variance of its entries, the standard error of that, the shape left to it, and how many are above.

    Where none is identified `reason` says why, and the numbers are NaN.
    """

    variance: float
    error: float
    shape: Sides
    above: int
    reason: str = ""

    @property
    def edges(self) -> tuple[float, float]:
        """The edges of its law of σ."""
        return marchenko_pastur_edges(self.shape, self.variance)


def fit_bulk(sigma: Float[np.ndarray, " k"], shape: tuple[int, int]) -> Bulk:
    """Find the bulk of a spectrum, values that are zero left out.

    It is identified where the search that begins with no value above and the one that begins with half of them end at
    the same variance, with no more than `MOST_ABOVE` above it, and the lower and the upper half of what is left have
    the same variance too.

    **Returns:** the bulk, of the search that began with none. Its standard error is half of what the halves differ by,
    and what Gaussian entries give (`ERROR_BY_SIZE`), in quadrature.
    """
    values = np.sort(sigma[sigma > 0])
    whole = min(shape) - (sigma.size - values.size), max(shape)
    if values.size < FEWEST:
        return _none(whole, f"fewer than {FEWEST} positive singular values")
    above = _search(values, whole, 0)
    if above > MOST_ABOVE * values.size:
        return _none(whole, f"more than {MOST_ABOVE:.0%} of the values would be above it")
    left, (variance, low, high) = _fit(values, whole, above)
    size = values.size - above
    allowed = max(APART, APART_BY_SIZE / size) * variance
    if abs(high - low) > allowed:
        return _none(whole, "its lower and upper half differ")
    other = _fit(values, whole, _search(values, whole, values.size // 2))[1][0]
    if abs(other - variance) > allowed:
        return _none(whole, "two searches end apart")
    error = float(np.hypot((high - low) / 2, ERROR_BY_SIZE / size * variance))
    return Bulk(variance, error, left, above)


def _none(shape: Sides, reason: str) -> Bulk:
    return Bulk(float("nan"), float("nan"), shape, 0, reason)


def _fit(values: Float[np.ndarray, " n"], shape: Sides, above: int) -> tuple[Sides, list[float]]:
    """Fit the variance to the quantiles of all but the largest; values in ascending order.

    **Returns:** the shape left, and the variance in each of `RANGES`.
    """
    kept = values[: values.size - above]
    left = shape[0] - above, shape[1] - above
    if above:
        spikes = values[values.size - above :] ** 2 / _variances(kept, left)[0]
        left = _without(left, spikes)
    return left, _variances(kept, left)


def _without(left: Sides, spikes: Float[np.ndarray, " r"]) -> Sides:
    r"""Take off what spikes of finite strength push the bulk down by, λ over the variance being given.

    A spike of strength θ has λ = (θ² + M)(θ² + N)/θ² (Benaych-Georges & Nadakuditi 2012). Of the sum of all λ,
    Σθ² + MN, that leaves MN − Σ(M + N + MN/θ²) to the others: a dimension more of MN/((M + N)θ²) each.
    """
    m, n = left
    middle = spikes - m - n
    strength = (middle + np.sqrt(np.maximum(middle**2 - 4 * m * n, 0))) / 2
    more = float((m * n / ((m + n) * np.maximum(strength, (m * n) ** 0.5))).sum())
    return m - more, n - more


def _variances(kept: Float[np.ndarray, " n"], left: Sides) -> list[float]:
    place = (np.arange(kept.size) + 0.5) / kept.size
    grid, share = quantiles(left)
    found = []
    for low, high in RANGES:
        wanted = np.linspace(low, high, 81)
        model = np.interp(wanted, share, grid)
        found.append(float(np.interp(wanted, place, kept) @ model / (model @ model)) ** 2)
    return found


def _search(values: Float[np.ndarray, " n"], shape: Sides, above: int) -> int:
    """Return how many values lie above the edge that the others have, from `above` on in one direction, to half."""
    down = above > 0
    while True:
        left, (variance, *_) = _fit(values, shape, above)
        found = min(int((values > counting_edges(left, variance)[1]).sum()), values.size // 2)
        if found == above or (found > above) == down:
            return above
        above = found


@functools.lru_cache(maxsize=256)
def quantiles(shape: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the law at variance 1: σ on a grid that is dense at the edges, and the share at or below."""
    low, high = marchenko_pastur_edges(shape, 1.0)
    grid = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 401))) / 2
    return grid, marchenko_pastur_cdf(grid, shape, 1.0)


def bulk_distance(sigma: Float[np.ndarray, " k"], bulk: Bulk) -> float:
    """Compute the Kolmogorov–Smirnov distance of the σ between the edges from the law; NaN where none is."""
    low, high = bulk.edges
    inside = np.sort(sigma[(sigma >= low) & (sigma <= high)])
    if not inside.size:
        return float("nan")
    grid, share = quantiles(bulk.shape)
    model = np.interp(inside / bulk.variance**0.5, grid, share)
    steps = np.arange(inside.size + 1) / inside.size
    return float(np.maximum(np.abs(model - steps[:-1]), np.abs(model - steps[1:])).max())
