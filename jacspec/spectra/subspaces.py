"""Leading singular subspaces, and the angles between two of them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Float

from jacspec.spectra.svd import leading_pairs


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
