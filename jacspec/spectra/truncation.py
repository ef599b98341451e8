r"""Groups of rank-ordered singular values, taken away from a matrix.

Of $W = \sum_i \sigma_i u_i v_i^\top$, $\sigma_1 \ge \sigma_2 \ge \dots$, the group $g$ of indices is taken away:
$W - \sum_{i \in g} \sigma_i u_i v_i^\top$ ("Small Singular Values Matter", Fig. 6). A matrix that loses nothing is the
weight itself, one that loses everything is zero.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.spectra.svd import right_vectors

Share = tuple[float, float]
"""A group of singular values by where it begins and ends among all of a matrix, from 0 (largest) to 1."""


class Factors(NamedTuple):
    r"""What is kept of the SVD of a matrix: its values, and the singular vectors of its shorter side, as columns.

    With them $\sum_g \sigma_i u_i v_i^\top = W V_g V_g^\top$ ($U_g U_g^\top W$ where W is wide): k² numbers, and the
    longer side's vectors are never kept.
    """

    sigma: Float[np.ndarray, " k"]
    basis: Float[np.ndarray, "k k"]


def equal_shares(groups: int) -> list[Share]:
    """Divide all singular values into groups of the same size, as 10 for deciles, the largest values first."""
    return [(group / groups, (group + 1) / groups) for group in range(groups)]


def group_of(share: Share, k: int) -> slice:
    """Say which of `k` rank-ordered values a group is, from ⌊start · k⌋ to before ⌊stop · k⌋, 0 being the largest."""
    # 0.29 · 100 is 28.999999999999996.
    start, stop = (math.floor(end * k + 1e-9) for end in share)
    return slice(start, stop)


def factorise(weight: Float[Array, "m n"]) -> Factors:
    """Compute the SVD of one matrix; as `decompose`."""
    tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
    sigma, rows = map(np.asarray, right_vectors(tall[None]))
    return Factors(sigma[0], rows[0].T)


def remove_group(weight: Float[Array, "m n"], factors: Factors, share: Share) -> Float[Array, "m n"]:
    """Take a group of singular values from a matrix, of which `factors` are those of its SVD; O(m n |g|)."""
    k = len(factors.sigma)
    group = group_of(share, k)
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
