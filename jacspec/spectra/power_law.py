r"""The tail of a spectrum: a continuous power law by maximum likelihood, its beginning by the search of Clauset et al.

Every value but the largest is tried as $x_{\min}$; $\alpha = 1 + n / \sum \ln(x_i / x_{\min})$ over the n values from
there on; the one with the least Kolmogorov–Smirnov distance D between the tail and its law is taken. D compares the law
with the share strictly below each value, as the packages powerlaw and WeightWatcher do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jacspec.backend import numerics

FEWEST = 10
"""Positive values that a fit needs."""


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

    All candidates of a row are tried at once, k² numbers in memory, the rows one after the other.
    """
    positive = np.where(eigenvalues > 0, eigenvalues.astype(np.float64), np.inf)
    # Ascending, what is left out at the end.
    values = np.sort(positive, axis=1)
    counts = np.isfinite(values).sum(axis=1)
    spread = np.array([row[count - 1] > row[0] if count else False for row, count in zip(values, counts, strict=True)])
    valid = (counts >= FEWEST) & spread
    with numerics("float64"):
        logs = jnp.log(jnp.asarray(np.where(np.isfinite(values), values, 1.0)))
        alpha, place, distance = (np.array(part) for part in _search(logs, jnp.asarray(counts)))
    tail = counts - place
    found = {
        "alpha": alpha,
        "x_min": np.take_along_axis(values, place[:, None], axis=1)[:, 0],
        "ks_distance": distance,
        "alpha_sigma": (alpha - 1) / np.sqrt(np.maximum(tail, 1)),
        "tail_fraction": tail / np.maximum(counts, 1),
    }
    return TailFits(**{name: np.where(valid, each, np.nan) for name, each in found.items()}, valid=valid)


@jax.jit
def _search(
    logs: Float[Array, "batch k"], counts: Int[Array, " batch"]
) -> tuple[Float[Array, " batch"], Int[Array, " batch"], Float[Array, " batch"]]:
    """Return α, the place of x_min and D, from logarithms in ascending order of which `counts` are there."""

    def search(row: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        log, count = row
        index = jnp.arange(log.size)
        there = index < count
        sums = jnp.cumsum(jnp.where(there, log, 0)[::-1])[::-1]
        sizes = jnp.maximum(count - index, 1).astype(log.dtype)
        excess = sums - sizes * log
        alpha = 1 + sizes / jnp.where(excess > 0, excess, 1)
        # Rows: candidates; columns: the values of their tails.
        model = -jnp.expm1((1 - alpha)[:, None] * (log[None] - log[:, None]))
        below = (index[None] - index[:, None]).astype(log.dtype) / sizes[:, None]
        in_tail = (index[None] >= index[:, None]) & there[None]
        distance = jnp.max(jnp.where(in_tail, jnp.abs(model - below), 0), axis=1)
        distance = jnp.where((index < count - 1) & (excess > 0), distance, jnp.inf)
        best = jnp.argmin(distance)
        return alpha[best], best, distance[best]

    return jax.lax.map(search, (logs, counts))
