r"""The tail of a spectrum: a continuous power law by maximum likelihood, its beginning by the search of Clauset et al.

Every value but the largest is tried as $x_{\min}$; $\alpha = 1 + n / \sum \ln(x_i / x_{\min})$ over the n values from
there on; the one with the least Kolmogorov–Smirnov distance D between the tail and its law is taken. D compares the law
with the share strictly below each value, as the packages powerlaw and WeightWatcher do.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

FEWEST = 10
"""Positive values that a fit needs."""

STRIDE, AT_ONCE = 16, 16
"""Every which value of a tail bounds its distance at first, and how many candidates are then looked at together."""


class TailFits(NamedTuple):
    """One fit a matrix; `alpha_sigma` is (α − 1)/√n, `tail_fraction` n over all positive values.

    `valid` is false, and the rest NaN, where there are fewer than `FEWEST` values or all are equal.
    """

    alpha: Float[np.ndarray, " batch"]
    x_min: Float[np.ndarray, " batch"]
    ks_distance: Float[np.ndarray, " batch"]
    alpha_sigma: Float[np.ndarray, " batch"]
    tail_fraction: Float[np.ndarray, " batch"]
    valid: Bool[np.ndarray, " batch"]


def fit_tails(eigenvalues: Float[np.ndarray, "batch k"]) -> TailFits:
    """Fit the tail of each row, in float64; values that are NaN, zero or negative are left out.

    About k²/`STRIDE` numbers are in memory, and as many exponentials are most of the cost.
    """
    found = np.array([_fit(np.sort(row[row > 0].astype(np.float64))) for row in eigenvalues]).reshape(-1, 5)
    alpha, x_min, distance, alpha_sigma, fraction = found.T
    return TailFits(alpha, x_min, distance, alpha_sigma, fraction, valid=np.isfinite(alpha))


def _fit(values: Float[np.ndarray, " n"]) -> tuple[float, float, float, float, float]:
    """Fit one row of positive values in ascending order: the fields of `TailFits`, NaN where it has no tail."""
    if values.size < FEWEST or values[0] == values[-1]:
        return (float("nan"),) * 5
    alpha, place, distance = _search(np.log(values))
    tail = values.size - place
    return alpha, float(values[place]), distance, (alpha - 1) / tail**0.5, tail / values.size


def _search(logs: Float[np.ndarray, " n"]) -> tuple[float, int, float]:
    """Return α, the place of x_min and D, from logarithms in ascending order that are not all equal.

    D is a maximum over a tail, so that a few of its values bound it from below. The candidates are looked at whole in
    the order of their bounds, until the next bound is above the least D found: none is missed.
    """
    sizes = np.arange(logs.size, 0, -1)
    excess = np.cumsum(logs[::-1])[::-1] - sizes * logs
    candidates = np.flatnonzero(excess[:-1] > 0)
    exponents = sizes[candidates] / excess[candidates]
    bounds = _distances(logs, candidates, exponents, np.arange(logs.size - 1, -1, -STRIDE))
    order = np.argsort(bounds)
    least, best = np.inf, 0
    for start in range(0, order.size, AT_ONCE):
        some = order[start : start + AT_ONCE]
        if bounds[some[0]] > least:
            break
        distances = _distances(logs, candidates[some], exponents[some], np.arange(logs.size))
        least, best = min((least, best), *zip(distances.tolist(), some.tolist(), strict=True))
    return 1 + float(exponents[best]), int(candidates[best]), least


def _distances(
    logs: Float[np.ndarray, " n"],
    candidates: Int[np.ndarray, " candidate"],
    exponents: Float[np.ndarray, " candidate"],
    places: Int[np.ndarray, " place"],
) -> Float[np.ndarray, " candidate"]:
    """Compare at some places the tail from each candidate on with its law, whose exponent is α − 1."""
    beyond = np.maximum(logs[places] - logs[candidates, None], 0)
    model = -np.expm1(-exponents[:, None] * beyond)
    below = np.maximum(places - candidates[:, None], 0) / (logs.size - candidates[:, None])
    # Before the tail both are zero.
    return np.abs(model - below).max(axis=1)
