"""Singular directions of one component over the samples, and those that samples share."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

STABLE = 0.9
"""|cos| of a shared direction between two halves of the samples, below which it has no words."""

QUARTERS = 4
"""Parts of the samples whose sums are kept: there are three ways to make two halves of them."""

RANK = 1e-12
"""The share of the squares below which an eigenvalue is rounding."""

RESIDUAL = 1e-10
"""The residual, relative to its eigenvalue, at which an eigenvector is found: where eigenvalues are `GAP` apart its
direction is off by some 1e-9; ARPACK's own default, rounding, takes twice as long."""

GAP = 0.05
"""How much less the next shared direction has to hold, relative to this one, for both to have words."""


class Modes(NamedTuple):
    """The leading singular triples of one component of one block, samples in the order of the corpus.

    Modes of a sample with the same `group` are one subspace; −1 stands for one that goes on beyond the kept modes.
    Vectors that there are none of are NaN.
    """

    sigma: Float[np.ndarray, "sample mode"]
    group: Int[np.ndarray, "sample mode"]
    reads: Float[np.ndarray, "sample mode d_model"]
    writes: Float[np.ndarray, "sample mode d_model"]


class Shared(NamedTuple):
    """Directions that samples share, the leading first: `holds` is what share of the samples' J lies along each.

    `gap` is how much less the next or the one before holds, relative to it; `stability` the least |cos| of the same
    from two halves of the samples, over the three ways to halve `QUARTERS`, NaN where a half has none.
    """

    directions: Float[np.ndarray, "mode d_model"]
    holds: Float[np.ndarray, " mode"]
    gap: Float[np.ndarray, " mode"]
    stability: Float[np.ndarray, " mode"]


def shared_directions(
    sigma: Float[np.ndarray, "sample mode"],
    group: Int[np.ndarray, "sample mode"],
    vectors: Float[np.ndarray, "sample mode d_model"],
) -> Shared:
    r"""Find the directions that samples share: leading eigenvectors of the mean of $J_k J_k^\top / \|J_k\|_F^2$.

    $J_k$ are the leading modes of a sample, `vectors` its writes (or reads, with $J_k^\top J_k$). Vectors of one
    subspace may be rotated there, the sum stays; modes of a subspace that is not whole (group −1) are left out.
    """
    known = (group >= 0) & np.isfinite(vectors).all(axis=2) & (sigma > 0)
    weights = np.where(known, sigma, 0).astype(np.float64)
    norms = np.linalg.norm(weights, axis=1)
    kept = norms > 0
    rows = (weights[kept] / norms[kept, None])[:, :, None] * np.nan_to_num(vectors[kept].astype(np.float64))
    count, numbers = vectors.shape[1], np.random.default_rng(0)
    quarter = numbers.permutation(len(rows)) % QUARTERS
    sums = np.stack([sum_squares(rows[quarter == own]) for own in range(QUARTERS)])
    # One more, to know how far the last is from it.
    directions, holds = leading_directions(sums.sum(axis=0), count + 1)
    stability = np.full((QUARTERS - 1, count), np.nan)
    for other in range(1, QUARTERS):
        half = np.isin(np.arange(QUARTERS), (0, other))
        first, second = (leading_directions(sums[own].sum(axis=0), count)[0] for own in (half, ~half))
        stability[other - 1] = np.abs((first * second).sum(axis=1))
    holds /= max(len(rows), 1)
    steps = np.abs(np.diff(holds))
    holds = holds[:count]
    apart = np.minimum(np.append(np.inf, steps[:-1]), steps)
    gap = np.divide(apart, holds, out=np.zeros(count), where=holds > 0)
    return Shared(directions[:count], holds, gap, np.where(holds > 0, stability.min(axis=0), np.nan))


def sum_squares(rows: Float[np.ndarray, "*axes d_model"]) -> Float[np.ndarray, "d_model d_model"]:
    """Add up the squares r rᵀ of all rows, in float64."""
    whole = np.asarray(rows, np.float64).reshape(-1, rows.shape[-1])
    return whole.T @ whole


def leading_directions(
    squares: Float[np.ndarray, "d_model d_model"], count: int
) -> tuple[Float[np.ndarray, "direction d_model"], Float[np.ndarray, " direction"]]:
    """Compute the leading eigenvectors of a sum of squares, and its eigenvalues; NaN and 0 beyond its rank."""
    width = len(squares)
    directions, values = np.full((count, width), np.nan), np.zeros(count)
    if width <= 8 * count or not squares.any():
        found, vectors = np.linalg.eigh(squares)
    else:
        from scipy.sparse.linalg import eigsh

        start = np.random.default_rng(0).standard_normal(width)
        found, vectors = eigsh(squares, count, v0=start, tol=RESIDUAL)
    order = np.argsort(-found)[:count]
    order = order[found[order] > RANK * squares.trace()]
    directions[: len(order)], values[: len(order)] = vectors.T[order], found[order]
    return directions, values


def unnamed(holds: float, gap: float, stability: float) -> str:
    """Say why a direction that samples share has no words; empty where it has."""
    if not holds > 0:
        return "no such direction"
    if gap < GAP:
        return "holds as much as its neighbour: a subspace, not one direction"
    if np.isnan(stability):
        return "too few samples to say whether they share it"
    if stability < STABLE:
        return "two halves of the samples give other directions: not one direction that they share"
    return ""
