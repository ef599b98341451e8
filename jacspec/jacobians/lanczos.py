"""Lanczos: the largest singular values of Jacobians that are never formed, of one component or of a product.

Golub–Kahan–Lanczos bidiagonalisation (Golub & Kahan 1965; Golub & Van Loan, Matrix Computations, 10.4) with full
reorthogonalisation, on `jax.linearize` and its transpose, a batch of samples in step so that every product with a
weight is a GEMM. matfree's `decomp.bidiag` has the recurrence but takes its number of steps in advance; here each
sample stops on its own error bound and says which, so the loop is written out.

The loop is one program (`_start`): it looks at the bounds itself (`bounds.py`) and ends when every sample has stopped
or the bases are full. What is handed out is computed once, on the host in float64, from the bidiagonal matrices.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt

from jacspec.backend import Program
from jacspec.jacobians.bounds import (
    CHECK_EVERY,
    FIRST_CHECK,
    LATER,
    Bases,
    TopValues,
    largest_eigenpairs,
    next_check,
    settle,
    should_stop,
)
from jacspec.jacobians.branches import Products, Vectors
from jacspec.jacobians.devices import mesh_of

CAPACITY = 64
"""Steps that the bases have room for at first: trained models take 10 to 24, flat random spectra at 1e-5 take 40."""
MAX_STEPS = 320
TOP = 2
"""Singular values that are computed: what ρ and δ need."""
STAGES = (16, 32)
"""Until so many steps are taken, vectors are made orthogonal to so many rows of a basis alone; then to all."""


class State(NamedTuple):
    """Where a batch is: its bases, the steps that each device has taken with its samples, and where samples stopped.

    `stopped` is the step, 0 for a sample that has not.
    """

    bases: Bases
    taken: Int[Array | np.ndarray, " device"]
    stopped: Int[Array | np.ndarray, " sample"]


@runtime_checkable
class Operator(Protocol):
    """A batch of matrices, known by their products: a `NamedTuple` whose first field all samples share."""

    def products(self) -> Products:
        """Return what multiplies with the matrices, and with their transposes."""


def decompose(operator: Operator, starts: Vectors, *, k: int, tolerance: float) -> tuple[TopValues, Bases]:
    r"""Find the `k` largest singular values of a batch of matrices, and the bases, which `leading_vectors` reads.

    After m steps $J V_m = U_m B_m$ and $J^\top U_m = V_m B_m^\top + \beta_m v_{m+1} e_m^\top$ with $B_m$ upper
    bidiagonal. A singular value $\theta_i$ of $B_m$ with left vector $p_i$ has residual
    $r_i = \beta_m |e_m^\top p_i|$, and J has a singular value within $r_i$ of it. A sample stops when $r_i$ is below
    `tolerance` times $\theta_i$ for all k, and below a hundredth of the distance to the next value found (down to a
    thousandth of the tolerance): of a cluster, a larger value may else hide. `bounds` add what rounding moves. They are
    of *a* singular value near; that none larger is missed is likely, not bounded, and exactly equal ones look like one
    (rates: docs/engines.md). The sharper bound of Kato and Temple, $r_i^2$ over the gap, stops a fifth
    earlier and was wrong where σ₂ and σ₃ are close: until they part, a mixture of both looks like one value with a
    wide gap around it (off by up to 9e-4 in 18 of 96 matrices made so, and by 1.7e-4 in a flat spectrum).

    **Arguments:** `starts`, a random vector a sample, any length; `tolerance`, relative.

    **Returns:** values at the step where a sample stopped, whatever its company in the batch does; `converged` is
    false for one that had not after `MAX_STEPS` steps.
    """
    limit = min(MAX_STEPS, starts.shape[1])
    relative, static = np.asarray(tolerance, starts.dtype), {"top": k, "mesh": mesh_of(starts)}
    state = _start(operator, starts, relative, capacity=min(CAPACITY, limit), **static)
    while True:
        found = settle(state.bases, state.taken, state.stopped, k=k, tolerance=tolerance, limit=limit)
        if found.done.all():
            return found.values, state.bases
        state = _resume(operator, state, found.done, relative, capacity=limit, **static)


def list_programs(operator: Any, starts: Any, *, top: int = TOP) -> list[Program]:
    """Say what `start_vectors` and `decompose` compile for the `top` values, given shapes."""
    (samples, d_model), dtype = starts.shape, starts.dtype
    numbers = jax.ShapeDtypeStruct((samples,), np.int32), jax.ShapeDtypeStruct((), np.uint32)
    sizes = {"top": min(top, d_model), "capacity": min(CAPACITY, MAX_STEPS, d_model), "mesh": None}
    return [
        Program(_draw, numbers, {"d_model": d_model, "dtype": jnp.dtype(dtype)}),
        Program(_start, (operator, starts, jax.ShapeDtypeStruct((), dtype)), sizes),
    ]


def vector_programs(operator: Any, starts: Any, *, top: int = TOP, count: int = 1) -> list[Program]:
    """Say what `leading_vectors` compiles for `count` values where `decompose` found the `top`, given shapes."""
    start = list_programs(operator, starts, top=top)[-1].result().bases
    samples, capacity = start.diagonal.shape
    weights = jax.ShapeDtypeStruct((2, samples, count, capacity), starts.dtype)
    return [Program(_combine, (weights, start), {})]


def decompose_by_steps(
    extend: Callable[[Bases, int, int], Bases], starts: Vectors, *, k: int, tolerance: float
) -> TopValues:
    """Do what `decompose` does with a matrix that no one program multiplies with.

    **Arguments:** `extend(bases, begin, end)` takes the steps `begin` to `end − 1` for every sample, by `grow_left`
    and `grow_right`.
    """
    limit = min(MAX_STEPS, starts.shape[1])
    relative = np.asarray(tolerance, starts.dtype)
    bases, stopped, taken = _begin(starts, capacity=min(CAPACITY, limit)), np.zeros(len(starts), np.int32), 0
    while True:
        if taken == bases.diagonal.shape[1]:
            bases = _widen(bases, capacity=limit)
        end = next_check(taken, limit)
        bases, taken = extend(bases, taken, end), end
        stops = np.asarray(should_stop(bases.diagonal, bases.above, np.asarray(taken, np.int32), relative, top=k))
        stopped = np.where((stopped == 0) & stops, taken, stopped).astype(np.int32)
        if stopped.all() or taken == limit:
            found = settle(bases, taken, stopped, k=k, tolerance=tolerance, limit=limit)
            if found.done.all():
                return found.values


def leading_vectors(
    found: TopValues, bases: Bases, *, top: int = 1, on_host: bool = False
) -> tuple[Float[np.ndarray, "sample mode d_model"], Float[np.ndarray, "sample mode d_model"]]:
    r"""Put together the right and left singular vectors of the `top` values, at the step where each sample stopped.

    They are $V_m q_i$ and $U_m p_i$ with the singular vectors of $B_m$, of unit length and of arbitrary common sign.
    $J v_i = \sigma_i u_i$ holds to rounding, and $\|J^\top u_i - \sigma_i v_i\| = r_i$ is in `found.bounds`: the sine
    of the angle to the true ones is at most $r_i$ over the distance to the other values (Wedin 1972). Where that is
    small there is no one direction. Of a value of zero, which has none, both are zero. `on_host` spares a program where
    bases are small.
    """
    bases = jax.tree.map(np.asarray, bases) if on_host else bases
    diagonal, above = (np.asarray(part, np.float64) for part in (bases.diagonal, bases.above))
    samples, capacity = diagonal.shape
    weights = np.zeros((2, samples, top, capacity), bases.right.dtype)
    for sample, m in enumerate(found.steps.tolist()):
        there = min(top, m)
        _, vectors = largest_eigenpairs(diagonal[sample, :m], above[sample, : m - 1], there)
        weights[:, sample, :there, :m] = vectors[::2, ::-1].T, vectors[1::2, ::-1].T
    zero = found.singular_values[:, :top, None] == 0
    if on_host:
        pairs = zip(weights, (bases.right[:, :-1], bases.left), strict=True)
        sides = [np.einsum("smc,scd->smd", own, basis) for own, basis in pairs]
        lengths = [np.linalg.norm(side, axis=-1, keepdims=True) for side in sides]
        right, left = (
            np.where(zero, 0, side / np.where(length > 0, length, 1))
            for side, length in zip(sides, lengths, strict=True)
        )
        return right, left
    right, left = (np.where(zero, 0, np.asarray(side)) for side in _combine(weights, bases))
    return right, left


@jax.jit
def _combine(
    weights: Float[Array, "side sample mode capacity"], bases: Bases
) -> tuple[Float[Array, "sample mode d_model"], Float[Array, "sample mode d_model"]]:
    def unit(weights: Array, basis: Array) -> Array:
        vectors = jnp.einsum("smc,scd->smd", weights, basis)
        length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        return vectors / jnp.where(length > 0, length, 1)

    return unit(weights[0], bases.right[:, :-1]), unit(weights[1], bases.left)


def start_vectors(
    samples: Int[np.ndarray, " sample"], d_model: int, dtype: jnp.dtype, *, seed: int
) -> Float[Array, "sample d_model"]:
    """Draw a start vector a sample, by the sample's own number, so that its company in a batch changes nothing."""
    numbers = np.asarray(samples, np.int32), np.asarray(seed % 2**32, np.uint32)
    return _draw(*numbers, d_model=d_model, dtype=jnp.dtype(dtype))


@functools.partial(jax.jit, static_argnames=("d_model", "dtype"))
def _draw(samples: Int[Array, " sample"], seed: UInt[Array, ""], *, d_model: int, dtype: jnp.dtype) -> Vectors:
    def start(sample: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.key(seed), sample), (d_model,), dtype)

    return jax.vmap(start)(samples)


def grow_left(bases: Bases, images: Vectors, index: Array | int) -> Bases:
    """Take step `index` of every sample, first half: `images` are J times the right vectors `index`."""
    left, alpha = _orthonormal(images, bases.left, index)
    return bases._replace(left=bases.left.at[:, index].set(left), diagonal=bases.diagonal.at[:, index].set(alpha))


def grow_right(bases: Bases, images: Vectors, index: Array | int) -> Bases:
    """Take step `index` of every sample, second half: `images` are Jᵀ times the left vectors `index`.

    Where nothing is left of one, J keeps the space so far to itself, as the identity that a block of zeros is does: any
    other direction goes on, or a second value as large as the first would stay hidden.
    """
    right, beta = _orthonormal(images, bases.right, index + 1)
    lost = beta == 0

    def other() -> Vectors:
        any_vector = jnp.sin(jnp.arange(1, images.shape[1] + 1, dtype=images.dtype) ** 2)
        return jnp.where(
            lost[:, None], _orthonormal(jnp.tile(any_vector, (len(lost), 1)), bases.right, index + 1)[0], right
        )

    right = jax.lax.cond(jnp.any(lost), other, lambda: right)
    return bases._replace(right=bases.right.at[:, index + 1].set(right), above=bases.above.at[:, index].set(beta))


@functools.partial(jax.jit, static_argnames="capacity")
def _begin(starts: Vectors, capacity: int) -> Bases:
    samples, d_model = starts.shape
    # One right vector more: the one that the next step starts from.
    right = jnp.zeros((samples, capacity + 1, d_model), starts.dtype)
    first = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    none = jnp.zeros((samples, capacity), starts.dtype)
    return Bases(right.at[:, 0].set(first), right[:, 1:], none, none)


@functools.partial(jax.jit, static_argnames="capacity")
def _widen(bases: Bases, capacity: int) -> Bases:
    room = capacity - bases.diagonal.shape[1]
    return jax.tree.map(lambda part: jnp.pad(part, [(0, room if axis == 1 else 0) for axis in range(part.ndim)]), bases)


@functools.partial(jax.jit, static_argnames=("top", "capacity", "mesh"))
def _start(
    operator: Any, starts: Vectors, tolerance: Float[Array, ""], *, top: int, capacity: int, mesh: Mesh | None
) -> State:
    """Take steps until every sample has stopped or the bases are full."""

    def start(operator: Operator, starts: Array, tolerance: Array) -> State:
        state = State(_begin(starts, capacity), jnp.zeros(1, jnp.int32), jnp.zeros(starts.shape[0], jnp.int32))
        return _run(operator.products(), state, tolerance, top)

    return _on_own(start, mesh, operator)(operator, starts, tolerance)


@functools.partial(jax.jit, static_argnames=("top", "capacity", "mesh"))
def _resume(
    operator: Any,
    state: State,
    done: Bool[Array, " sample"],
    tolerance: Float[Array, ""],
    *,
    top: int,
    capacity: int,
    mesh: Mesh | None,
) -> State:
    """Take further steps for samples that are not `done`, in bases of a larger capacity."""

    def resume(operator: Operator, given: tuple[State, Array], tolerance: Array) -> State:
        state, done = given
        stopped = jnp.where(done, state.taken[0], 0)
        wide = State(_widen(state.bases, capacity), jnp.asarray(state.taken), stopped)
        further = _run(operator.products(), wide, tolerance, top)
        # Where a sample first stopped stands, also if the host asked for more.
        first = jnp.asarray(state.stopped)
        return further._replace(stopped=jnp.where(first > 0, first, further.stopped))

    return _on_own(resume, mesh, operator)(operator, (state, done), tolerance)


def _on_own(work: Callable[..., State], mesh: Mesh | None, operator: Any) -> Callable[..., State]:
    """Let each device go through its own samples: none waits for another to stop.

    The first field of the operator lies whole on each, the others and what is given beside it are spread over them.
    """
    if mesh is None:
        return work
    spread = PartitionSpec("sample")
    specs = operator._make((PartitionSpec(), *(spread for _ in operator[1:])))
    return jax.shard_map(work, mesh=mesh, in_specs=(specs, spread, PartitionSpec()), out_specs=spread, check_vma=False)


def _run(products: Products, state: State, tolerance: Float[Array, ""], top: int) -> State:
    forward, backward = products
    capacity = state.bases.diagonal.shape[1]

    def step(index: Array, bases: Bases) -> Bases:
        bases = grow_left(bases, forward(bases.right[:, index]), index)
        return grow_right(bases, backward(bases.left[:, index]), index)

    def open_(state: State) -> Array:
        return jnp.any(jnp.asarray(state.stopped) == 0) & (state.taken[0] < capacity)

    def advance(state: State) -> State:
        taken = jnp.asarray(state.taken)[0]
        later = taken + jnp.where(taken < LATER, CHECK_EVERY, 2 * CHECK_EVERY)
        end = jnp.minimum(jnp.where(taken == 0, FIRST_CHECK, later), capacity)
        bases = jax.lax.fori_loop(taken, end, step, state.bases)
        stops = should_stop(bases.diagonal, bases.above, end, tolerance, top=top)
        return State(bases, end[None], jnp.where((state.stopped == 0) & stops, end, state.stopped))

    return jax.lax.while_loop(open_, advance, state)


def _orthonormal(
    vectors: Vectors, basis: Float[Array, "sample row d_model"], rows: Array | int
) -> tuple[Vectors, Array]:
    """Take the first `rows` of a basis out of vectors, twice ("twice is enough", Parlett 1980), and norm the rest."""

    def without(most: int, vectors: Array) -> Array:
        part = basis[:, :most]
        for _ in range(2):
            vectors = vectors - jnp.einsum("srd,sr->sd", part, jnp.einsum("srd,sd->sr", part, vectors))
        return vectors

    stages = [most for most in STAGES if most < basis.shape[1]]
    stage = sum((jnp.asarray(rows > most, jnp.int32) for most in stages), jnp.zeros((), jnp.int32))
    branches = [functools.partial(without, most) for most in (*stages, basis.shape[1])]
    vectors = jax.lax.switch(stage, branches, vectors)
    length = jnp.linalg.norm(vectors, axis=1)
    whole = (length > 0)[:, None]
    return jnp.where(whole, vectors / jnp.where(whole, length[:, None], 1), 0), length
