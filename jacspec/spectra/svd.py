r"""The SVD kernel: singular values of a batch of matrices, and singular vectors, each device in the way that is right.

Three ways, and what chooses between them (`choose_way`). Errors over σ₁ and milliseconds a matrix on an H100 are of
float32 matrices 768 × 768, flat Gaussian and decaying as i^(-3/2): `tests/benchmarks/gpu_kernels.json`.

| way      | where                                                   | error            | ms         |
|----------|---------------------------------------------------------|------------------|------------|
| `gram`   | float32 on GPUs with float64 at full rate (`FULL_RATE`) | 1.4e-11, 5.2e-14 | 1.9, 1.7   |
| `qr`     | float64 on a GPU, and float32 on all other GPUs         | 5.8e-8, 3.6e-8   | 51, 50     |
| `lapack` | CPUs; on the host for TPUs and all else                 | see below        |            |

JAX's own choice on a GPU, Jacobi for matrices of at most 1024, is 1.5e-4 σ₁ off and takes 34 to 38 ms: above
`engine.tolerance`. The polar one is wrong (16 σ₁), a Gram matrix in float32 off by 6.4e-4. A TPU has float64 in
software only, and JAX no SVD by QR there.

**Gram matrices** (`gram`, and `lapack` of float32 matrices that are not square). With u = 1.1e-16 the product and the
eigenvalues are each off by a small multiple of $u \sigma_1^2$, σ therefore by that of $u \sigma_1^2 / \sigma$, and
where it is zero by $\sqrt u \sigma_1$ = 1e-8 σ₁ (2e-8 was seen at 3072 × 768): below float32's own 6e-8 σ₁, far below
the threshold of the numerical rank, max(m, n) · 1.2e-7 σ₁. At that threshold σ is off by less than 1e-9 σ₁, so that no
rank depends on it. `gesdd` in float32 was off by 1e-7 to 2e-6 σ₁ there. Squares of float32 values neither overflow
nor underflow in float64, so that nothing is scaled. Vectors of the shorter side are the eigenvectors: two of them at
distance δ in σ mix by $u \sigma_1^2 / (2 \sigma \delta)$, less than in an SVD in float32, 6e-8 σ₁/δ, down to
σ = 1e-9 σ₁. Those of the longer side come from QR of A V, whose columns fall in length, so that they
are orthogonal to rounding where A v / σ would not be.
"""

import enum
import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import EighImplementation, SvdAlgorithm, eigh, svd
from jaxtyping import Array, Bool, Float

from jacspec.spectra.cores import map_on_cores

ROWS = 4096
"""Rows that go into a Gram matrix on a CPU at once: a part of the work for one core, and the copy that is in memory."""

PARTS = 4
"""Of a batch for each core: matrices of one size take times of their own."""

WORK_BYTES = 2.0**31
"""What the work arrays of an accelerator's batch may take; of a larger batch, one part after another is computed."""

FULL_RATE = frozenset({"P100", "V100", "A30", "A100", "A800", "H100", "H200", "H800", "GH200", "B200", "GB200"})
"""NVIDIA's GPUs whose float64 has half of float32's speed, by a word of their device kind; on others it has 1/32 or
1/64, and whether Gram matrices still win there was not measured. The H100 was; the others by their data sheets."""


class Way(enum.Enum):
    """How the kernel computes; see the module."""

    lapack = "lapack"
    gram = "gram"
    qr = "qr"


def choose_way(dtype: np.dtype | jnp.dtype) -> Way:
    """Choose the way for matrices of one type on this process's devices."""
    device = jax.local_devices()[0]
    if device.platform != "gpu":
        return Way.lapack
    full_rate = FULL_RATE.intersection(re.split(r"\W+", device.device_kind))
    return Way.gram if full_rate and dtype == np.float32 else Way.qr


def singular_values(
    matrices: Float[Array, "batch m n"] | Sequence[Float[np.ndarray, "m n"]], *, way: Way | None = None
) -> Float[Array, "batch k"]:
    r"""Compute $\sigma_1 \ge \dots \ge \sigma_k$, $k = \min(m, n)$, of every matrix of a batch.

    By LAPACK, float32 matrices that are not square go through Gram matrices (`_gram_spectra`), all others through
    divide-and-conquer SVD without vectors (`gesdd`) in the dtype of the input, a matrix a core: about $\frac{8}{3} n^3$
    FLOPs a square matrix. What an accelerator has stays on it.

    **Arguments:** `matrices`, any unit, stacked or one by one; for Gram matrices on a CPU the latter are not copied
    whole. `way`, by default `choose_way`'s.

    **Returns:** the singular values in descending order, in the unit and dtype of the matrices. Values that are not
    finite in a matrix make its row not finite; nothing is raised here.
    """
    way = way or choose_way(matrices[0].dtype)
    if way is not Way.lapack:
        return _on_device(_values, matrices, way)
    arrays = np.asarray(matrices) if isinstance(matrices, jax.Array) else matrices
    rows, cols = arrays[0].shape
    if rows != cols and arrays[0].dtype == np.float32:
        return jnp.asarray(_gram_spectra(arrays))
    return on_cores(_values_by_lapack, arrays)


def right_vectors(
    matrices: Float[Array, "batch m n"], *, way: Way | None = None
) -> tuple[Float[Array, "batch k"], Float[Array, "batch k n"]]:
    """Compute the singular values of every matrix of a batch, and its right singular vectors as rows.

    About $4 m n^2 + 8 n^3$ FLOPs by LAPACK's `gesdd` (Golub & Van Loan 2013, Fig. 8.6.1). Beyond the rank the vectors
    are arbitrary, but orthonormal.
    """
    way = way or choose_way(matrices.dtype)
    if way is not Way.lapack:
        return _on_device(_right, matrices, way)
    return on_cores(_right_by_lapack, matrices)


def leading_pairs(
    matrices: Float[Array, "batch m n"], top: int, *, way: Way | None = None
) -> tuple[Float[Array, "batch m r"], Float[Array, "batch k"], Float[Array, "batch n r"]]:
    """Compute the singular values of every matrix of a batch, and `top` left and right vectors as columns.

    Cost as `right_vectors`, which see.
    """
    way = way or choose_way(matrices.dtype)
    if way is not Way.lapack:
        return _on_device(_leading, matrices, way, top)
    return on_cores(_leading_by_lapack(top), matrices)


# On an accelerator


def _on_device(function: Any, matrices: Array | Sequence[np.ndarray], way: Way, *static: int) -> Any:
    """Call with as many matrices at once as `WORK_BYTES` allow; in float32 too, since `gram` passes through float64."""
    stacked = matrices if isinstance(matrices, jax.Array) else jnp.asarray(np.stack(matrices))
    rows, cols = sorted(stacked.shape[1:], reverse=True)
    size = int(WORK_BYTES // (8 * (3 * rows + 3 * cols) * cols)) * len(stacked.devices())
    with jax.enable_x64(True):
        return function(stacked, way, max(size, 1), *static)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _values(matrices: Float[Array, "batch m n"], way: Way, size: int) -> Float[Array, "batch k"]:
    return _mapped(lambda matrix: _spectrum(matrix, way), matrices, size)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _right(
    matrices: Float[Array, "batch m n"], way: Way, size: int
) -> tuple[Float[Array, "batch k"], Float[Array, "batch k n"]]:
    def decompose(matrix: Array) -> tuple[Array, Array]:
        found = _thin_svd(matrix, way)
        return found.sigma, found.right.T

    return _mapped(decompose, matrices, size)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _leading(
    matrices: Float[Array, "batch m n"], way: Way, size: int, top: int
) -> tuple[Float[Array, "batch m r"], Float[Array, "batch k"], Float[Array, "batch n r"]]:
    def decompose(matrix: Array) -> tuple[Array, Array, Array]:
        found = _thin_svd(matrix, way)
        return found.left[:, :top], found.sigma, found.right[:, :top]

    return _mapped(decompose, matrices, size)


def _mapped(function: Callable[[Array], Any], matrices: Float[Array, "batch m n"], size: int) -> Any:
    if len(matrices) <= size:
        return jax.vmap(function)(matrices)
    return jax.lax.map(function, matrices, batch_size=size)


class _Thin(NamedTuple):
    """Singular values, and vectors as columns; what a caller leaves is not computed."""

    left: Float[Array, "m k"]
    sigma: Float[Array, " k"]
    right: Float[Array, "n k"]


def _spectrum(matrix: Float[Array, "m n"], way: Way) -> Float[Array, " k"]:
    if way is Way.gram:
        return _thin_svd(matrix, way).sigma
    finite, safe = _without_nan(matrix)
    return jnp.where(finite, svd(safe, compute_uv=False, algorithm=SvdAlgorithm.QR), jnp.nan)


def _thin_svd(matrix: Float[Array, "m n"], way: Way) -> _Thin:
    if matrix.shape[0] < matrix.shape[1]:
        left, sigma, right = _thin_svd(matrix.T, way)
        return _Thin(right, sigma, left)
    finite, safe = _without_nan(matrix)
    parts = _by_gram(safe) if way is Way.gram else _by_qr(safe)
    return _Thin(*(jnp.where(finite, part, jnp.nan).astype(matrix.dtype) for part in parts))


def _without_nan(matrix: Float[Array, "m n"]) -> tuple[Bool[Array, ""], Float[Array, "m n"]]:
    """Say whether a matrix is finite, and make it zero where it is not: an eigensolver might not end on it."""
    finite = jnp.isfinite(matrix).all()
    return finite, jnp.where(finite, matrix, jnp.zeros_like(matrix))


def _by_gram(matrix: Float[Array, "m n"]) -> tuple[Array, Array, Array]:
    wide = matrix.astype(jnp.float64)
    gram = jnp.matmul(wide.T, wide, precision=jax.lax.Precision.HIGHEST)
    ascending, eigenvalues = eigh(gram, symmetrize_input=False, implementation=eigensolver(len(gram)))
    right, squares = ascending[:, ::-1], eigenvalues[::-1]
    left, triangle = jnp.linalg.qr(jnp.matmul(wide, right, precision=jax.lax.Precision.HIGHEST))
    signs = jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)
    return left * signs[None], jnp.sqrt(jnp.maximum(squares, 0)), right


def eigensolver(size: int) -> EighImplementation | None:
    """Choose the solver for symmetric matrices: JAX's own, but Jacobi's nowhere, which it takes on a GPU up to 32."""
    return EighImplementation.QR if size <= 32 and jax.default_backend() == "gpu" else None


def _by_qr(matrix: Float[Array, "m n"]) -> tuple[Array, Array, Array]:
    left, sigma, rows = svd(matrix, full_matrices=False, algorithm=SvdAlgorithm.QR)
    return left, sigma, rows.T


# On the host


def on_cores(function: Callable[..., Any], *batches: Array | np.ndarray | Sequence[np.ndarray]) -> Any:
    """Call `function` with each row of some batches on the host, shared by its cores, and stack what it gives.

    XLA's kernels take a batch apart for its threads, but often one thread takes all parts: of ten batches of eight
    matrices 512 × 512 six left one of two cores idle. Two such batches at once can wait for each other for ever; a
    matrix after the other, as here in each thread, cannot.

    **Arguments:** `function(*rows)`, the same object at each call, since it is compiled for it; `batches`, of one
    length.

    **Returns:** what the rows give, stacked, on this process's first device.
    """
    host = jax.local_devices(backend="cpu")[0]
    lists = [np.asarray(batch) if isinstance(batch, jax.Array) else batch for batch in batches]
    length = len(lists[0])
    size = -(-length // (PARTS * (os.cpu_count() or 1)))

    def call(start: int) -> Any:
        # All parts are of one length, so that there is one program: the last one repeats rows.
        own = np.minimum(np.arange(start, start + size), length - 1)
        rows = [np.stack([batch[row] for row in own]) for batch in lists]
        # Settings are a thread's own.
        with jax.enable_x64(rows[0].dtype == np.float64):
            return jax.tree.map(np.asarray, _one_after_the_other(function, *jax.device_put(rows, host)))

    found = map_on_cores(call, range(0, length, size))
    stacked = jax.tree.map(lambda *parts: np.concatenate(parts)[:length], *found)
    return jax.device_put(stacked, jax.local_devices()[0])


@functools.partial(jax.jit, static_argnums=0)
def _one_after_the_other(function: Callable[..., Any], *batches: Array) -> Any:
    return jax.lax.map(lambda rows: function(*rows), batches)


def _values_by_lapack(matrix: Float[Array, "m n"]) -> Float[Array, " k"]:
    return jnp.linalg.svd(matrix, compute_uv=False)


def _right_by_lapack(matrix: Float[Array, "m n"]) -> tuple[Float[Array, " k"], Float[Array, "k n"]]:
    _, sigma, rows = jnp.linalg.svd(matrix, full_matrices=False)
    return sigma, rows


@functools.cache
def _leading_by_lapack(top: int) -> Callable[[Float[Array, "m n"]], tuple[Array, Array, Array]]:
    def decompose(matrix: Float[Array, "m n"]) -> tuple[Array, Array, Array]:
        left, sigma, rows = jnp.linalg.svd(matrix, full_matrices=False)
        return left[:, :top], sigma, rows[:top].T

    return decompose


def _gram_spectra(
    matrices: Float[np.ndarray, "batch m n"] | Sequence[Float[np.ndarray, "m n"]],
) -> Float[np.ndarray, "batch k"]:
    r"""Compute singular values of float32 matrices as roots of the eigenvalues of $A^\top A$ in float64.

    $m n^2 + \frac43 n^3$ FLOPs for m ≥ n and 8 n² bytes a matrix. On one core 59 ms where `gesdd` takes 103 for
    3072 × 768; of square matrices it is no faster.

    A core takes a matrix at a time, for A taller than `ROWS` a part of it. The parts are added in their order: the
    bits do not depend on the number of cores, nor on what else is in the batch.
    """
    tall = [matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T for matrix in matrices]
    parts = [np.split(matrix, range(ROWS, len(matrix), ROWS)) for matrix in tall]
    found = iter(map_on_cores(_gram, itertools.chain.from_iterable(parts)))
    grams = [functools.reduce(np.add, itertools.islice(found, len(own))) for own in parts]
    return np.stack(map_on_cores(_roots, grams))


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
