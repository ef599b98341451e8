"""The SVD kernel: singular values of a batch of matrices."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from threadpoolctl import threadpool_limits


def singular_values(matrices: Float[Array, "batch m n"]) -> Float[Array, "batch k"]:
    r"""Compute $\sigma_1 \ge \dots \ge \sigma_k$, $k = \min(m, n)$, of every matrix of a batch.

    Divide-and-conquer SVD without vectors (LAPACK `gesdd` on a CPU, the vendor's library on a GPU), in the dtype of
    the input; about $\frac{8}{3} n^3$ FLOPs a square matrix, and a copy of the batch in memory.

    **Arguments:** `matrices`, any unit.

    **Returns:** the singular values in descending order, in the unit of the matrices. Values that are not finite
    in a matrix make its row not finite; nothing is raised here.
    """
    with lapack_threads():
        return jax.block_until_ready(_singular_values(matrices))


@contextlib.contextmanager
def lapack_threads() -> Iterator[None]:
    """Let XLA alone decide on threads while LAPACK runs on a CPU.

    XLA spreads a batch over the cores and each call of LAPACK would start OpenBLAS's own threads on top:
    measured 1.6 to 3 times slower on 2 cores.
    """
    if jax.default_backend() != "cpu":
        yield
        return
    with threadpool_limits(limits=1, user_api="blas"):
        yield


_singular_values = jax.jit(jax.vmap(lambda matrix: jnp.linalg.svd(matrix, compute_uv=False)))
