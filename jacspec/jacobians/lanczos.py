"""Lanczos: the largest singular values of Jacobians that are never formed, of one component or of a product.

Golub–Kahan–Lanczos bidiagonalisation (Golub & Kahan 1965; Golub & Van Loan, Matrix Computations, 10.4) with full
reorthogonalisation, on `jax.linearize` and its transpose, a batch of samples in step so that every product with a
weight is a GEMM. matfree's `decomp.bidiag` has the recurrence but takes its number of steps in advance; here each
sample stops on its own error bound and says which, so the loop is written out.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.linalg import eigh_tridiagonal

from jacspec.jacobians.branches import BRANCHES, Point
from jacspec.models.block import Block

FIRST_CHECK, CHECK_EVERY, LATER = 10, 2, 16
"""A sample looks at its bound after so many steps, then every two, beyond 16 every four. Looks are not free: each
linearises the branch anew, and one at 8 steps, where no trained spectrum has converged, cost a fifth."""
CAPACITY = 16
MAX_STEPS = 320
TOP = 2
"""Singular values that are computed: what ρ and δ need."""


class TopValues(NamedTuple):
    """The largest singular values of a batch, what each may be off by, and how many steps a sample took."""

    singular_values: Float[np.ndarray, "sample k"]
    bounds: Float[np.ndarray, "sample k"]
    steps: Int[np.ndarray, " sample"]
    converged: Bool[np.ndarray, " sample"]


class Bases(NamedTuple):
    """The two orthonormal bases so far, rows beyond the steps taken zero, and the bidiagonal matrix between them."""

    right: Float[Array, "*sample capacity+1 d_model"]
    left: Float[Array, "*sample capacity d_model"]
    diagonal: Float[Array, "*sample capacity"]
    above: Float[Array, "*sample capacity"]


def top_singular_values(
    block: Block, point: Point, component: str, starts: Float[Array, "sample d_model"], *, k: int, tolerance: float
) -> TopValues:
    """Compute the `k` largest singular values of one component's Jacobian at every sample: see `bidiagonalise`.

    Each step costs one product with J and one with its transpose, about twice a forward pass of one token each.
    """
    return bidiagonalise(extend_branch(block, point, component), starts, k=k, tolerance=tolerance)


def extend_branch(block: Block, point: Point, component: str) -> Callable[[Bases, int, int], Bases]:
    """Make what takes steps of Lanczos with one component's Jacobian at every sample."""
    return functools.partial(_extend, block, point.context, point.x, component=component)


def bidiagonalise(
    extend: Callable[[Bases, int, int], Bases], starts: Float[Array, "sample d_model"], *, k: int, tolerance: float
) -> TopValues:
    r"""Find the `k` largest singular values of a batch of matrices that `extend` multiplies with.

    After m steps $J V_m = U_m B_m$ and $J^\top U_m = V_m B_m^\top + \beta_m v_{m+1} e_m^\top$ with $B_m$ upper
    bidiagonal. A singular value $\theta_i$ of $B_m$ with left vector $p_i$ has residual
    $r_i = \beta_m |e_m^\top p_i|$, and J has a singular value within $r_i$ of it. A sample stops when $r_i$ is below
    `tolerance` times $\theta_i$ for all k. The sharper bound of Kato and Temple, $r_i^2$ over the gap, stops a fifth
    earlier and was wrong where σ₂ and σ₃ are close: until they part, a mixture of both looks like one value with a
    wide gap around it (off by up to 9e-4 in 18 of 96 matrices made so, and by 1.7e-4 in a flat spectrum).

    **Arguments:** `extend(bases, begin, end)` takes the steps `begin` to `end − 1` for every sample, by `grow_left`
    and `grow_right`; `starts`, a random vector a sample, any length; `tolerance`, relative.

    **Returns:** values at the step where a sample stopped, whatever its company in the batch does; `converged` is
    false for one that had not after `MAX_STEPS` steps.
    """
    return decompose(extend, starts, k=k, tolerance=tolerance)[0]


def decompose(
    extend: Callable[[Bases, int, int], Bases], starts: Float[Array, "sample d_model"], *, k: int, tolerance: float
) -> tuple[TopValues, Bases]:
    """Do what `bidiagonalise` does, and return the bases too, which `leading_vectors` reads."""
    samples, d_model = starts.shape
    limit = min(MAX_STEPS, d_model)
    capacity = min(CAPACITY, limit)
    bases = _begin(starts, capacity)
    found = TopValues(
        np.zeros((samples, k), starts.dtype),
        np.full((samples, k), np.inf, starts.dtype),
        np.zeros(samples, int),
        np.zeros(samples, bool),
    )
    taken, check = 0, min(FIRST_CHECK, limit)
    while not found.converged.all() and taken < limit:
        if check > capacity:
            room = min(2 * capacity, limit) - capacity
            bases, capacity = jax.tree.map(functools.partial(_widen, room=room), bases), capacity + room
        bases = extend(bases, taken, check)
        taken = check
        _record(found, bases, taken, tolerance)
        check = min(taken + (CHECK_EVERY if taken < LATER else 2 * CHECK_EVERY), limit)
    return found, bases


def leading_vectors(
    found: TopValues, bases: Bases
) -> tuple[Float[Array, "sample d_model"], Float[Array, "sample d_model"]]:
    r"""Put together the right and the left singular vector of σ₁, at the step where each sample stopped.

    They are $V_m q_1$ and $U_m p_1$ with the singular vectors of $B_m$, of unit length and of arbitrary common sign.
    With the residual $r_1$ in `found.bounds` the sine of the angle to the true ones is about
    $r_1 / (\sigma_1 - \sigma_2)$ at most (Wedin 1972): where σ₂ is close to σ₁ there is no one leading direction. Of a
    zero matrix, which has none, both are zero.
    """
    diagonal, above = (np.asarray(part, np.float64) for part in (bases.diagonal, bases.above))
    weights = np.zeros((2, *diagonal.shape))
    for sample, m in enumerate(found.steps.tolist()):
        _, vectors = _eigen_top(diagonal[sample, :m], above[sample, : m - 1], 1)
        weights[:, sample, :m] = vectors[::2, 0], vectors[1::2, 0]
    right, left = jnp.asarray(weights, bases.right.dtype)
    zero = found.singular_values[:, :1] == 0
    pair = _combine(right, bases.right[:, :-1]), _combine(left, bases.left)
    return jnp.where(zero, 0, pair[0]), jnp.where(zero, 0, pair[1])


@jax.jit
def _combine(
    weights: Float[Array, "sample capacity"], basis: Float[Array, "sample capacity d_model"]
) -> Float[Array, "sample d_model"]:
    vectors = jnp.einsum("sc,scd->sd", weights, basis)
    return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)


def start_vectors(
    samples: Int[np.ndarray, " sample"], d_model: int, dtype: jnp.dtype, *, seed: int
) -> Float[Array, "sample d_model"]:
    """Draw a start vector a sample, by the sample's own number, so that its company in a batch changes nothing."""
    key = jax.random.key(seed)

    def start(sample: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, sample), (d_model,), dtype)

    return jax.vmap(start)(jnp.asarray(samples))


def grow_left(bases: Bases, image: Float[Array, " d_model"], index: Array | int) -> Bases:
    """Take step `index` of one sample, first half: `image` is J times the right vector `index`."""
    left, alpha = _orthonormal(image, bases.left)
    return bases._replace(left=bases.left.at[index].set(left), diagonal=bases.diagonal.at[index].set(alpha))


def grow_right(bases: Bases, image: Float[Array, " d_model"], index: Array | int) -> Bases:
    """Take step `index` of one sample, second half: `image` is Jᵀ times the left vector `index`.

    Where nothing is left of it J keeps the space so far to itself, as the identity that a block of zeros is does: any
    other direction goes on, or a second value as large as the first would stay hidden.
    """
    right, beta = _orthonormal(image, bases.right)
    other, _ = _orthonormal(jnp.sin(jnp.arange(1, image.size + 1, dtype=image.dtype) ** 2), bases.right)
    right = jnp.where(beta == 0, other, right)
    return bases._replace(right=bases.right.at[index + 1].set(right), above=bases.above.at[index].set(beta))


def _record(found: TopValues, bases: Bases, taken: int, tolerance: float) -> None:
    """Note, for samples that have not stopped, the values after `taken` steps, their bounds, and whether they stop."""
    open_ = np.flatnonzero(~found.converged)
    diagonal, above = (np.asarray(part, np.float64)[open_, :taken] for part in (bases.diagonal, bases.above))
    theta, last = _top_of_bidiagonal(diagonal, above[:, :-1], found.singular_values.shape[1])
    bound = above[:, -1:] * last
    found.singular_values[open_] = theta
    found.bounds[open_] = bound
    found.steps[open_] = taken
    # A value that is zero has no relative error: rounding of the largest is as near as it comes.
    rounding = 16 * float(np.finfo(found.singular_values.dtype).eps) * theta[:, :1]
    found.converged[open_] = (bound <= np.maximum(tolerance * theta, rounding)).all(axis=1)


def _top_of_bidiagonal(
    diagonal: Float[np.ndarray, "sample m"], above: Float[np.ndarray, "sample m-1"], top: int
) -> tuple[Float[np.ndarray, "sample top"], Float[np.ndarray, "sample top"]]:
    """Compute the largest singular values of upper bidiagonal matrices, and where their left vectors end.

    **Returns:** the values, and the size of each left vector's last component. They are the upper half of the
    eigenvalues of the tridiagonal matrix with zeros on its diagonal and the entries in turn beside it, whose vectors
    hold right and left in turn (Golub & Kahan 1965). Only the top is computed: an SVD of each matrix at each look took
    longer than the products with J.
    """
    samples, m = diagonal.shape
    top = min(top, m)
    theta, last = np.zeros((samples, top)), np.zeros((samples, top))
    for sample in range(samples):
        values, vectors = _eigen_top(diagonal[sample], above[sample], top)
        theta[sample] = np.maximum(values[::-1], 0)
        last[sample] = np.minimum(np.sqrt(2) * np.abs(vectors[-1, ::-1]), 1)
    return theta, last


def _eigen_top(
    diagonal: Float[np.ndarray, " m"], above: Float[np.ndarray, " m-1"], top: int
) -> tuple[Float[np.ndarray, " top"], Float[np.ndarray, "2*m top"]]:
    """Compute the largest eigenvalues, ascending, and vectors of that tridiagonal matrix of one bidiagonal one."""
    m = len(diagonal)
    between = np.zeros(2 * m - 1)
    between[::2], between[1::2] = diagonal, above
    return eigh_tridiagonal(np.zeros(2 * m), between, select="i", select_range=(2 * m - top, 2 * m - 1))


@functools.partial(jax.jit, static_argnames="capacity")
def _begin(starts: Float[Array, "sample d_model"], capacity: int) -> Bases:
    samples, d_model = starts.shape
    # One right vector more: the one that the next step starts from.
    right = jnp.zeros((samples, capacity + 1, d_model), starts.dtype)
    first = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    none = jnp.zeros((samples, capacity), starts.dtype)
    return Bases(right.at[:, 0].set(first), right[:, 1:], none, none)


def _widen(part: Float[Array, "sample capacity *d_model"], room: int) -> Float[Array, "sample wider *d_model"]:
    return jnp.pad(part, [(0, room if axis == 1 else 0) for axis in range(part.ndim)])


@functools.partial(jax.jit, static_argnames="component", donate_argnames="bases")
def _extend(
    block: Block,
    context: Any,
    x: Float[Array, "sample d_model"],
    bases: Bases,
    begin: Int[Array, ""] | int,
    end: Int[Array, ""] | int,
    *,
    component: str,
) -> Bases:
    """Take the steps `begin` to `end − 1` for every sample."""

    def extend(context: Any, x: Array, bases: Bases) -> Bases:
        _, forward = jax.linearize(lambda moved: BRANCHES[component](block, context, moved), x)
        backward = jax.linear_transpose(forward, x)

        def step(index: Array, bases: Bases) -> Bases:
            bases = grow_left(bases, forward(bases.right[index]), index)
            (image,) = backward(bases.left[index])
            return grow_right(bases, image, index)

        return jax.lax.fori_loop(begin, end, step, bases)

    return jax.vmap(extend)(context, x, bases)


def _orthonormal(
    vector: Float[Array, " d_model"], basis: Float[Array, "capacity d_model"]
) -> tuple[Float[Array, " d_model"], Float[Array, ""]]:
    """Take the basis out of a vector, twice ("twice is enough", Parlett 1980), and norm what is left."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    length = jnp.linalg.norm(vector)
    return jnp.where(length > 0, vector / jnp.where(length > 0, length, 1), 0), length
