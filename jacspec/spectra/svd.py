"""The SVD kernel: singular values of a batch of matrices."""

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg  # noqa: F401 (loads the LAPACK that XLA calls, for `_blas` to find)
from jaxtyping import Array, Float
from threadpoolctl import ThreadpoolController

ROWS = 4096
"""Rows that go into a Gram matrix at once: a part of the work for one core, and the copy that is in memory."""


def singular_values(
    matrices: Float[Array, "batch m n"] | Sequence[Float[np.ndarray, "m n"]],
) -> Float[Array, "batch k"]:
    r"""Compute $\sigma_1 \ge \dots \ge \sigma_k$, $k = \min(m, n)$, of every matrix of a batch.

    On a CPU float32 matrices that are not square go through Gram matrices (`_gram_spectra`), all others through
    divide-and-conquer SVD without vectors (LAPACK `gesdd` on a CPU, the vendor's library on a GPU), in the dtype of the
    input: about $\frac{8}{3} n^3$ FLOPs a square matrix, and a copy of the batch in memory.

    **Arguments:** `matrices`, any unit, stacked or one by one; for Gram matrices the latter are not copied whole.

    **Returns:** the singular values in descending order, in the unit and dtype of the matrices. Values that are not
    finite in a matrix make its row not finite; nothing is raised here.
    """
    with lapack_threads():
        if jax.default_backend() == "cpu":
            arrays = np.asarray(matrices) if isinstance(matrices, jax.Array) else matrices
            rows, cols = arrays[0].shape
            if rows != cols and arrays[0].dtype == np.float32:
                return jnp.asarray(_gram_spectra(arrays))
        stacked = matrices if isinstance(matrices, jax.Array) else jnp.asarray(np.stack(matrices))
        return jax.block_until_ready(_singular_values(stacked))


@contextlib.contextmanager
def lapack_threads() -> Iterator[None]:
    """Give each call of LAPACK on a CPU one thread, where a batch is spread over the cores.

    OpenBLAS would start its own threads on top: measured 1.6 to 3 times slower on 2 cores.
    """
    if jax.default_backend() != "cpu":
        yield
        return
    with _loaded_blas().limit(limits=1, user_api="blas"):
        yield


@functools.lru_cache(maxsize=1)
def _loaded_blas() -> ThreadpoolController:
    """Find the BLAS libraries that are loaded: 10 ms, as much as an SVD."""
    return ThreadpoolController()


_singular_values = jax.jit(jax.vmap(lambda matrix: jnp.linalg.svd(matrix, compute_uv=False)))


def _gram_spectra(
    matrices: Float[np.ndarray, "batch m n"] | Sequence[Float[np.ndarray, "m n"]],
) -> Float[np.ndarray, "batch k"]:
    r"""Compute singular values of float32 matrices as roots of the eigenvalues of $A^\top A$ in float64.

    $m n^2 + \frac43 n^3$ FLOPs for m ≥ n and 8 n² bytes a matrix. On one core 59 ms where `gesdd` takes 103 for
    3072 × 768; of square matrices it is no faster.

    With u = 1.1e-16 both steps move an eigenvalue by a small multiple of $u \sigma_1^2$, σ therefore by that of
    $u \sigma_1^2 / \sigma$, and where it is zero by $\sqrt u \sigma_1$ = 1e-8 σ₁ (2e-8 was seen at 3072 × 768): below
    float32's own 6e-8 σ₁, far below the threshold of the numerical rank, max(m, n) · 1.2e-7 σ₁. `gesdd` in float32 was
    off by 1e-7 to 2e-6 σ₁ there, and roots of a Gram matrix in float32 would be by 2e-4 σ₁. Squares of float32 values
    neither overflow nor underflow in float64, so that nothing is scaled.

    A core takes a matrix at a time, for A taller than `ROWS` a part of it. The parts are added in their order: the
    bits do not depend on the number of cores, nor on what else is in the batch.
    """
    tall = [matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T for matrix in matrices]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = [pool.map(_gram, np.split(matrix, range(ROWS, len(matrix), ROWS))) for matrix in tall]
        return np.stack(list(pool.map(_roots, [functools.reduce(np.add, each) for each in parts])))


def _gram(rows: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "n n"]:
    wide = rows.astype(np.float64)
    # NumPy sees that both are one array and calls BLAS's syrk: half the FLOPs.
    return wide.T @ wide


def _roots(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    # A value that is not finite reaches the diagonal; LAPACK may not end on it.
    if not np.isfinite(gram.diagonal()).all():
        return np.full(len(gram), np.nan, np.float32)
    with np.errstate(over="ignore"):  # σ₁ may lie beyond the largest float32
        return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)).astype(np.float32)
