"""Singular directions of one component over the samples, and those that samples share."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

STABLE, SPLITS = 0.9, 3
"""|cos| of a shared direction between two halves of the samples, below which it has no words; ways to halve them."""


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
    from two halves of the samples, over `SPLITS` of them, NaN where a half has none.
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
    count = vectors.shape[1]
    directions, holds = leading_directions(rows, count + 1)  # one more, to know how far the last is from it
    stability, numbers = np.full((SPLITS, count), np.nan), np.random.default_rng(0)
    for split in range(SPLITS):
        order = numbers.permutation(len(rows))
        first, second = (leading_directions(rows[order[start::2]], count)[0] for start in (0, 1))
        stability[split] = np.abs((first * second).sum(axis=1))
    steps = np.abs(np.diff(holds))
    holds = holds[:count]
    apart = np.minimum(np.append(np.inf, steps[:-1]), steps)
    gap = np.divide(apart, holds, out=np.zeros(count), where=holds > 0)
    return Shared(directions[:count], holds, gap, np.where(holds > 0, stability.min(axis=0), np.nan))


def leading_directions(rows: Float[np.ndarray, "sample mode d_model"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute right singular vectors of all rows, and the share of the squares along each; NaN where there is none."""
    width = rows.shape[2]
    directions, holds = np.full((count, width), np.nan), np.zeros(count)
    if not len(rows):
        return directions, holds
    whole = rows.reshape(-1, width)
    if min(whole.shape) <= 4 * count:
        _, values, found = np.linalg.svd(whole, full_matrices=False)
    else:
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(0).standard_normal(min(whole.shape))
        _, values, found = svds(whole, count, v0=start, return_singular_vectors="vh")
        order = np.argsort(-values)
        values, found = values[order], found[order]
    there = min(count, len(values))
    directions[:there], holds[:there] = found[:there], values[:there] ** 2 / len(rows)
    directions[holds <= 1e-12] = np.nan
    return directions, holds


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
