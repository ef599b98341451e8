"""The `lanczos` engine: the largest singular values of Jacobians that are never formed.

Golub–Kahan–Lanczos bidiagonalisation (Golub & Kahan 1965; Golub & Van Loan, Matrix Computations, 10.4) with full
reorthogonalisation, on `jax.linearize` and its transpose, a batch of samples in step so that every product with a
weight is a GEMM. matfree's `decomp.bidiag` has the recurrence but takes its number of steps in advance; here each
sample stops on its own error bound and says which, so the loop is written out.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jacspec.jacobians.branches import BRANCHES, Point
from jacspec.models.block import Block

FIRST_CHECK, CHECK_EVERY = 8, 2
CAPACITY = 32
MAX_STEPS = 320


class TopValues(NamedTuple):
    """The largest singular values of a batch, what each may be off by, and how many steps a sample took."""

    singular_values: Float[np.ndarray, "sample k"]
    bounds: Float[np.ndarray, "sample k"]
    steps: Int[np.ndarray, " sample"]
    converged: Bool[np.ndarray, " sample"]


class _Bases(NamedTuple):
    """The two orthonormal bases so far, rows beyond the steps taken zero, and the bidiagonal matrix between them."""

    right: Float[Array, "*sample capacity+1 d_model"]
    left: Float[Array, "*sample capacity d_model"]
    diagonal: Float[Array, "*sample capacity"]
    above: Float[Array, "*sample capacity"]


def top_singular_values(
    block: Block, point: Point, component: str, starts: Float[Array, "sample d_model"], *, k: int, tolerance: float
) -> TopValues:
    r"""Compute the `k` largest singular values of one component's Jacobian at every sample.

    After m steps $J V_m = U_m B_m$ and $J^\top U_m = V_m B_m^\top + \beta_m v_{m+1} e_m^\top$ with $B_m$ upper
    bidiagonal. A singular value $\theta_i$ of $B_m$ with left vector $p_i$ has residual
    $r_i = \beta_m |e_m^\top p_i|$, and J has a singular value within $r_i$ of it; where the gap $g_i$ to its
    neighbours is larger than $r_i$, within $r_i^2 / (g_i - r_i)$ (Kato–Temple, the gap taken between the values of
    $B_m$). A sample stops when the smaller of the two is below `tolerance` times $\theta_i$ for all k. Each step
    costs one product with J and one with its transpose, about twice a forward pass of one token each.

    **Arguments:** `starts`, a random vector a sample, any length; `tolerance`, relative.

    **Returns:** values at the step where a sample stopped, whatever its company in the batch does; `converged` is
    false for one that had not after `MAX_STEPS` steps.
    """
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
        bases = _extend(block, point.context, point.x, bases, taken, check, component=component)
        taken = check
        _record(found, bases, taken, tolerance)
        check = min(taken + CHECK_EVERY, limit)
    return found


def _record(found: TopValues, bases: _Bases, taken: int, tolerance: float) -> None:
    """Note, for samples that have not stopped, the values after `taken` steps, their bounds, and whether they stop."""
    k = found.singular_values.shape[1]
    diagonal, above = (np.asarray(part, np.float64)[:, :taken] for part in (bases.diagonal, bases.above))
    matrix = np.zeros((len(diagonal), taken, taken))
    index = np.arange(taken)
    matrix[:, index, index] = diagonal
    matrix[:, index[:-1], index[1:]] = above[:, :-1]
    left, theta, _ = np.linalg.svd(matrix)
    residual = above[:, -1:] * np.abs(left[:, -1, :k])
    distance = np.abs(theta[:, :k, None] - theta[:, None, :])
    distance[:, np.arange(k), np.arange(k)] = np.inf
    gap = distance.min(axis=2) - residual
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = np.where(gap > residual, residual**2 / gap, residual)
    open_ = ~found.converged
    found.singular_values[open_] = theta[open_, :k]
    found.bounds[open_] = bound[open_]
    found.steps[open_] = taken
    # A value that is zero has no relative error: rounding of the largest is as near as it comes.
    rounding = 16 * float(np.finfo(found.singular_values.dtype).eps) * theta[:, :1]
    found.converged[open_] = (bound <= np.maximum(tolerance * theta[:, :k], rounding)).all(axis=1)[open_]


@functools.partial(jax.jit, static_argnames="capacity")
def _begin(starts: Float[Array, "sample d_model"], capacity: int) -> _Bases:
    samples, d_model = starts.shape
    # One right vector more: the one that the next step starts from.
    right = jnp.zeros((samples, capacity + 1, d_model), starts.dtype)
    first = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    none = jnp.zeros((samples, capacity), starts.dtype)
    return _Bases(right.at[:, 0].set(first), right[:, 1:], none, none)


def _widen(part: Float[Array, "sample capacity *d_model"], room: int) -> Float[Array, "sample wider *d_model"]:
    return jnp.pad(part, [(0, room if axis == 1 else 0) for axis in range(part.ndim)])


@functools.partial(jax.jit, static_argnames="component")
def _extend(
    block: Block,
    context: Any,
    x: Float[Array, "sample d_model"],
    bases: _Bases,
    begin: Int[Array, ""] | int,
    end: Int[Array, ""] | int,
    *,
    component: str,
) -> _Bases:
    """Take the steps `begin` to `end − 1` for every sample."""

    def extend(context: Any, x: Array, bases: _Bases) -> _Bases:
        _, forward = jax.linearize(lambda moved: BRANCHES[component](block, context, moved), x)
        backward = jax.linear_transpose(forward, x)

        def step(index: Array, bases: _Bases) -> _Bases:
            left, alpha = _orthonormal(forward(bases.right[index]), bases.left)
            (image,) = backward(left)
            right, beta = _orthonormal(image, bases.right)
            return _Bases(
                bases.right.at[index + 1].set(right),
                bases.left.at[index].set(left),
                bases.diagonal.at[index].set(alpha),
                bases.above.at[index].set(beta),
            )

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
