r"""Subspaces of singular vectors: the leading ones and the angles between two, and groups taken from a matrix.

Of $W = \sum_i \sigma_i u_i v_i^\top$, $\sigma_1 \ge \sigma_2 \ge \dots$, the group $g$ of indices is taken away:
$W - \sum_{i \in g} \sigma_i u_i v_i^\top$ ("Small Singular Values Matter", Fig. 6). A matrix that loses nothing is the
weight itself, one that loses everything is zero.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from jacspec.spectra.svd import leading_pairs, right_vectors


class Decomposed(NamedTuple):
    """A thin SVD, singular vectors as columns, the largest value first."""

    left: Float[np.ndarray, "m k"]
    sigma: Float[np.ndarray, " k"]
    right: Float[np.ndarray, "n k"]

    @property
    def rank(self) -> int:
        """How many values are above rounding; the vectors of the others are arbitrary."""
        longest = max(len(self.left), len(self.right))
        return int((self.sigma > self.sigma[0] * longest * np.finfo(self.sigma.dtype).eps).sum())


def decompose(matrices: Sequence[Float[np.ndarray, "m n"]]) -> list[Decomposed]:
    """Compute the thin SVDs of matrices of one shape, in their own type; about 4 m n² + 8 n³ FLOPs each, m ≥ n."""
    found = leading_pairs(jnp.asarray(np.stack(matrices)), min(matrices[0].shape))
    return [Decomposed(*parts) for parts in zip(*map(np.asarray, found), strict=True)]


class Matches(NamedTuple):
    """Of each leading singular vector of a matrix the largest |cos| with one of another, on both sides.

    Intruder dimensions are those below a threshold (Shuttleworth et al. 2024). There are none beside a matrix of zeros.
    """

    left: Float[np.ndarray, " top"]
    right: Float[np.ndarray, " top"]

    def columns(self, threshold: float) -> dict[str, float]:
        """Count those below a threshold and say the least, on each side; NaN where there are none."""
        found = {}
        for side, match in self._asdict().items():
            found[f"intruders_{side}"] = float((match < threshold).sum()) if match.size else math.nan
            found[f"least_match_{side}"] = float(match.min()) if match.size else math.nan
        return found


def match_leading(before: Decomposed, after: Decomposed, top_k: int) -> Matches:
    """Match the first `top_k` singular vectors of `after` with all of `before`.

    Vectors beyond the rank are arbitrary: those of `after` are left out, those of `before` are nobody's counterpart.
    """
    if not before.rank:
        return Matches(np.zeros(0), np.zeros(0))
    kept, top = before.rank, min(top_k, after.rank)
    sides = ((before.left, after.left), (before.right, after.right))
    return Matches(*(np.abs(old[:, :kept].T @ new[:, :top]).max(axis=0) for old, new in sides))


def random_alignment(d_model: int) -> float:
    r"""Return $E|u \cdot v|$ of independent uniformly random directions: the level of chance of an alignment.

    $\Gamma(\tfrac d2) / (\sqrt\pi\, \Gamma(\tfrac{d+1}2))$, about $\sqrt{2 / (\pi d)}$.
    """
    return math.exp(math.lgamma(d_model / 2) - math.lgamma((d_model + 1) / 2)) / math.sqrt(math.pi)


class Leading(NamedTuple):
    """All singular values of a matrix, and the singular vectors of the largest as columns.

    There are fewer than asked for where the rank is less: beyond it the vectors are arbitrary.
    """

    sigma: Float[np.ndarray, " k"]
    left: Float[np.ndarray, "m r"]
    right: Float[np.ndarray, "n r"]


def leading_subspaces(
    matrices: Sequence[Float[np.ndarray, "m n"]], top_k: int, *, memory_bytes: float
) -> Iterator[Leading]:
    """Compute the SVD of matrices of one shape and type, and keep the `top_k` leading vectors of each side.

    `memory_bytes` is what a batch with its vectors and LAPACK's copies may take; a single matrix may exceed it. The
    rank is `numerical_rank` of `METRICS`. About $4 m n^2 + 8 n^3$ FLOPs a matrix (m, n), m ≥ n.
    """
    size = max(1, int(memory_bytes / (4 * matrices[0].nbytes)))
    for start in range(0, len(matrices), size):
        batch = jnp.asarray(np.stack(matrices[start : start + size]))
        found = map(np.asarray, leading_pairs(batch, min(top_k, *batch.shape[1:])))
        for left, sigma, right in zip(*found, strict=True):
            rank = int((sigma > sigma[0] * max(batch.shape[1:]) * np.finfo(sigma.dtype).eps).sum())
            yield Leading(sigma, left[:, :rank], right[:, :rank])


def principal_angles(first: Float[np.ndarray, "m p"], second: Float[np.ndarray, "m q"]) -> Float[np.ndarray, " least"]:
    r"""Compute the principal angles $0 \le \theta_1 \le \dots \le \theta_{\min(p, q)} \le 90$ degrees of two subspaces.

    SciPy's `subspace_angles` takes small ones from their sines (Knyazev & Argentati 2002): cosines alone would know
    an angle only to the square root of the rounding.

    **Arguments:** bases of the subspaces, as columns; there are no angles with a basis of none.
    """
    if not min(first.shape[1], second.shape[1]):
        return np.zeros(0)
    angles = scipy.linalg.subspace_angles(first.astype(np.float64), second.astype(np.float64))
    return np.rad2deg(angles[::-1])


RankRange = tuple[float, float]
"""A group of singular values by where it begins and ends among all of a matrix, from 0 (largest) to 1."""


class Factors(NamedTuple):
    r"""What is kept of the SVD of a matrix: its values, and the singular vectors of its shorter side, as columns.

    With them $\sum_g \sigma_i u_i v_i^\top = W V_g V_g^\top$ ($U_g U_g^\top W$ where W is wide): k² numbers, and the
    longer side's vectors are never kept.
    """

    sigma: Float[np.ndarray, " k"]
    basis: Float[np.ndarray, "k k"]


def equal_ranges(groups: int) -> list[RankRange]:
    """Divide all singular values into groups of the same size, as 10 for deciles, the largest values first."""
    return [(group / groups, (group + 1) / groups) for group in range(groups)]


def group_of(ranks: RankRange, k: int) -> slice:
    """Say which of `k` rank-ordered values a group is, from ⌊start · k⌋ to before ⌊stop · k⌋, 0 being the largest."""
    # 0.29 · 100 is 28.999999999999996.
    start, stop = (math.floor(end * k + 1e-9) for end in ranks)
    return slice(start, stop)


def factorise(weight: Float[Array, "m n"]) -> Factors:
    """Compute the SVD of one matrix; about 4 m n² + 8 n³ FLOPs, m ≥ n."""
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    sigma, rows = map(np.asarray, right_vectors(tall[None]))
    return Factors(sigma[0], rows[0].T)


def remove_group(weight: Float[Array, "m n"], factors: Factors, ranks: RankRange) -> Float[Array, "m n"]:
    """Take a group of singular values from a matrix, of which `factors` are those of its SVD; O(m n |g|)."""
    k = len(factors.sigma)
    group = group_of(ranks, k)
    if group.start == group.stop:
        return weight
    if group == slice(0, k):
        return jnp.zeros_like(weight)
    return _subtract(weight, jnp.asarray(factors.basis[:, group]))


@jax.jit
def _subtract(weight: Float[Array, "m n"], vectors: Float[Array, "k g"]) -> Float[Array, "m n"]:
    if weight.shape[0] >= weight.shape[1]:
        return weight - (weight @ vectors) @ vectors.T
    return weight - vectors @ (vectors.T @ weight)
