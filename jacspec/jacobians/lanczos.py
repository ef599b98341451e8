"""Lanczos: the largest singular values of Jacobians that are never formed, of one component or of a product.

Golub–Kahan–Lanczos bidiagonalisation (Golub & Kahan 1965; Golub & Van Loan, Matrix Computations, 10.4) with full
reorthogonalisation, on `jax.linearize` and its transpose, a batch of samples in step so that every product with a
weight is a GEMM. matfree's `decomp.bidiag` has the recurrence but takes its number of steps in advance; here each
sample stops on its own error bound and says which, so the loop is written out.

The loop is one program (`_start`): it looks at the bounds itself (`looks.py`) and ends when every sample has stopped or
the bases are full. What is handed out is computed once, on the host in float64, from the bidiagonal matrices.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt
from scipy.linalg import eigh_tridiagonal

from jacspec.backend import Program
from jacspec.jacobians.branches import BRANCHES, Point
from jacspec.jacobians.devices import mesh_of
from jacspec.jacobians.looks import should_stop
from jacspec.models.block import Block

FIRST_CHECK, CHECK_EVERY, LATER = 10, 2, 16
"""A sample looks at its bound after so many steps, then every two, beyond 16 every four."""
CAPACITY = 64
"""Steps that the bases have room for at first: trained models take 10 to 24, flat random spectra at 1e-5 take 40."""
MAX_STEPS = 320
TOP = 2
"""Singular values that are computed: what ρ and δ need."""
STAGES = (16, 32)
"""Until so many steps are taken, vectors are made orthogonal to so many rows of a basis alone; then to all."""


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


class State(NamedTuple):
    """Where a batch is: its bases, the steps that each device has taken with its samples, and where samples stopped.

    `stopped` is the step, 0 for a sample that has not.
    """

    bases: Bases
    taken: Int[Array | np.ndarray, " device"]
    stopped: Int[Array | np.ndarray, " sample"]


Vectors = Float[Array, "sample d_model"]
Products = tuple[Callable[[Vectors], Vectors], Callable[[Vectors], Vectors]]
"""Multiply a vector a sample with that sample's matrix, and with its transpose."""


class Operator(NamedTuple):
    """Matrices that are known by their products: `make(kind, *arrays)` gives these, `kind` compiled in."""

    make: Callable[..., Products]
    kind: Hashable
    arrays: tuple[Any, ...]


def top_singular_values(
    block: Block, point: Point, component: str, starts: Vectors, *, k: int, tolerance: float
) -> TopValues:
    """Compute the `k` largest singular values of one component's Jacobian at every sample: see `decompose`.

    Each step costs one product with J and one with its transpose, about twice a forward pass of one token each.
    """
    return decompose(branch_operator(block, point, component), starts, k=k, tolerance=tolerance)[0]


def branch_operator(block: Block, point: Point, component: str) -> Operator:
    """Take one component's Jacobian at every sample."""
    return Operator(_branch_products, component, (block, point))


def _branch_products(component: str, block: Block, point: Point) -> Products:
    def branches(x: Array) -> Array:
        return jax.vmap(functools.partial(BRANCHES[component], block))(point.context, x)

    # Samples do not depend on each other: the Jacobian of the batch has theirs on its diagonal.
    _, forward = jax.linearize(branches, point.x)
    backward = jax.linear_transpose(forward, point.x)
    return forward, lambda vectors: backward(vectors)[0]


def decompose(operator: Operator, starts: Vectors, *, k: int, tolerance: float) -> tuple[TopValues, Bases]:
    r"""Find the `k` largest singular values of a batch of matrices, and the bases, which `leading_vectors` reads.

    After m steps $J V_m = U_m B_m$ and $J^\top U_m = V_m B_m^\top + \beta_m v_{m+1} e_m^\top$ with $B_m$ upper
    bidiagonal. A singular value $\theta_i$ of $B_m$ with left vector $p_i$ has residual
    $r_i = \beta_m |e_m^\top p_i|$, and J has a singular value within $r_i$ of it. A sample stops when $r_i$ is below
    `tolerance` times $\theta_i$ for all k. The sharper bound of Kato and Temple, $r_i^2$ over the gap, stops a fifth
    earlier and was wrong where σ₂ and σ₃ are close: until they part, a mixture of both looks like one value with a
    wide gap around it (off by up to 9e-4 in 18 of 96 matrices made so, and by 1.7e-4 in a flat spectrum).

    **Arguments:** `starts`, a random vector a sample, any length; `tolerance`, relative.

    **Returns:** values at the step where a sample stopped, whatever its company in the batch does; `converged` is
    false for one that had not after `MAX_STEPS` steps.
    """
    limit = min(MAX_STEPS, starts.shape[1])
    capacity = min(CAPACITY, limit)
    relative = np.asarray(tolerance, starts.dtype)
    static = {"make": operator.make, "kind": operator.kind, "top": k, "mesh": mesh_of(starts)}
    state = _start(operator.arrays, starts, relative, capacity=capacity, **static)
    while True:
        found = settle(state.bases, state.taken, state.stopped, k=k, tolerance=tolerance, limit=limit)
        if found.done.all():
            return found.values, state.bases
        state = _resume(operator.arrays, state, found.done, relative, capacity=limit, **static)


def branch_program(block: Any, point: Any, component: str) -> Program:
    """Say what `top_singular_values` compiles for the `TOP` values, given shapes."""
    starts = point.x
    d_model = starts.shape[1]
    return Program(
        _start,
        ((block, point), starts, jax.ShapeDtypeStruct((), starts.dtype)),
        {
            "make": _branch_products,
            "kind": component,
            "top": min(TOP, d_model),
            "capacity": min(CAPACITY, MAX_STEPS, d_model),
            "mesh": None,
        },
    )


def start_program(samples: int, d_model: int, dtype: Any) -> Program:
    """Say what `start_vectors` compiles."""
    numbers = jax.ShapeDtypeStruct((samples,), np.int32), jax.ShapeDtypeStruct((), np.uint32)
    return Program(_draw, numbers, {"d_model": d_model, "dtype": jnp.dtype(dtype)})


def decompose_by_steps(
    extend: Callable[[Bases, int, int], Bases], starts: Vectors, *, k: int, tolerance: float
) -> TopValues:
    """Do what `decompose` does with a matrix that no one program multiplies with.

    **Arguments:** `extend(bases, begin, end)` takes the steps `begin` to `end − 1` for every sample, by `grow_left`
    and `grow_right`.
    """
    limit = min(MAX_STEPS, starts.shape[1])
    capacity = min(CAPACITY, limit)
    relative = np.asarray(tolerance, starts.dtype)
    bases, stopped, taken = _begin(starts, capacity=capacity), np.zeros(len(starts), np.int32), 0
    while True:
        if taken == bases.diagonal.shape[1]:
            bases = _widen(bases, capacity=limit)
        end = next_check(taken, limit)
        bases, taken = extend(bases, taken, end), end
        stops = np.asarray(_look(bases, np.asarray(taken, np.int32), relative, top=k))
        stopped = np.where((stopped == 0) & stops, taken, stopped).astype(np.int32)
        if stopped.all() or taken == limit:
            found = settle(bases, taken, stopped, k=k, tolerance=tolerance, limit=limit)
            if found.done.all():
                return found.values


def next_check(taken: int, limit: int) -> int:
    """Say after how many steps samples look at their bounds next."""
    if taken == 0:
        return min(FIRST_CHECK, limit)
    return min(taken + (CHECK_EVERY if taken < LATER else 2 * CHECK_EVERY), limit)


class Settled(NamedTuple):
    """What a batch gave so far, and which samples need no further step."""

    values: TopValues
    done: Bool[np.ndarray, " sample"]


def settle(bases: Bases, taken: Any, stopped: Any, *, k: int, tolerance: float, limit: int) -> Settled:
    """Compute values and bounds in float64 at the step where each sample stopped.

    The device's look says when a sample may stop; that it may is decided here, if need be some looks later. Both
    depend on nothing but the sample.
    """
    diagonal, above = (np.asarray(part, np.float64) for part in (bases.diagonal, bases.above))
    stopped = np.asarray(stopped)
    limits = np.repeat(np.asarray(taken).reshape(-1), len(stopped) // np.size(taken)).tolist()
    dtype, samples = np.asarray(bases.diagonal).dtype, len(stopped)
    sigma, bounds = np.zeros((samples, k), dtype), np.full((samples, k), np.inf, dtype)
    steps, converged = np.zeros(samples, int), np.zeros(samples, bool)
    for sample, (first, most) in enumerate(zip(stopped.tolist(), limits, strict=True)):
        m = first or most
        while True:
            theta, last = _top_of_bidiagonal(diagonal[sample, :m], above[sample, : m - 1], k)
            bound = above[sample, m - 1] * last
            # A value that is zero has no relative error: rounding of the largest is as near as it comes.
            rounding = 16 * float(np.finfo(dtype).eps) * theta[0]
            converged[sample] = bool((bound <= np.maximum(tolerance * theta, rounding)).all())
            if converged[sample] or m == most or not np.isfinite(theta).all():
                break
            m = next_check(m, limit)
        sigma[sample], bounds[sample], steps[sample] = theta, bound, m
    done = converged | (steps == limit) | ~np.isfinite(sigma).all(axis=1)
    return Settled(TopValues(sigma, bounds, steps, converged), done)


def leading_vectors(
    found: TopValues, bases: Bases
) -> tuple[Float[np.ndarray, "sample d_model"], Float[np.ndarray, "sample d_model"]]:
    r"""Put together the right and the left singular vector of σ₁, at the step where each sample stopped.

    They are $V_m q_1$ and $U_m p_1$ with the singular vectors of $B_m$, of unit length and of arbitrary common sign.
    With the residual $r_1$ in `found.bounds` the sine of the angle to the true ones is about
    $r_1 / (\sigma_1 - \sigma_2)$ at most (Wedin 1972): where σ₂ is close to σ₁ there is no one leading direction. Of a
    zero matrix, which has none, both are zero.
    """
    diagonal, above = (np.asarray(part, np.float64) for part in (bases.diagonal, bases.above))
    weights = np.zeros((2, *diagonal.shape), bases.right.dtype)
    for sample, m in enumerate(found.steps.tolist()):
        _, vectors = _eigen_top(diagonal[sample, :m], above[sample, : m - 1], 1)
        weights[:, sample, :m] = vectors[::2, 0], vectors[1::2, 0]
    zero = found.singular_values[:, :1] == 0
    right, left = (np.where(zero, 0, np.asarray(side)) for side in _combine(weights, bases))
    return right, left


@jax.jit
def _combine(weights: Float[Array, "side sample capacity"], bases: Bases) -> tuple[Vectors, Vectors]:
    def unit(weights: Array, basis: Array) -> Array:
        vectors = jnp.einsum("sc,scd->sd", weights, basis)
        return vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)

    return unit(weights[0], bases.right[:, :-1]), unit(weights[1], bases.left)


def start_vectors(
    samples: Int[np.ndarray, " sample"], d_model: int, dtype: jnp.dtype, *, seed: int
) -> Float[Array, "sample d_model"]:
    """Draw a start vector a sample, by the sample's own number, so that its company in a batch changes nothing."""
    return _draw(
        np.asarray(samples, np.int32), np.asarray(seed % 2**32, np.uint32), d_model=d_model, dtype=jnp.dtype(dtype)
    )


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


def _top_of_bidiagonal(
    diagonal: Float[np.ndarray, " m"], above: Float[np.ndarray, " m-1"], top: int
) -> tuple[Float[np.ndarray, " top"], Float[np.ndarray, " top"]]:
    """Compute the largest singular values of an upper bidiagonal matrix, and where their left vectors end.

    **Returns:** the values, NaN where the matrix is not finite, and the size of each left vector's last component.
    They are the upper half of the eigenvalues of the tridiagonal matrix with zeros on its diagonal and the entries in
    turn beside it, whose vectors hold right and left in turn (Golub & Kahan 1965). Only the top is computed: an SVD
    of the whole took longer than the products with J.
    """
    theta, last = np.zeros(top), np.zeros(top)
    if not (np.isfinite(diagonal).all() and np.isfinite(above).all()):
        return np.full(top, np.nan), last
    there = min(top, len(diagonal))
    values, vectors = _eigen_top(diagonal, above, there)
    theta[:there] = np.maximum(values[::-1], 0)
    last[:there] = np.minimum(np.sqrt(2) * np.abs(vectors[-1, ::-1]), 1)
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


@functools.partial(jax.jit, static_argnames="top")
def _look(bases: Bases, taken: Int[Array, ""], tolerance: Float[Array, ""], *, top: int) -> Bool[Array, " sample"]:
    return should_stop(bases.diagonal, bases.above, taken, tolerance, top=top)


@functools.partial(jax.jit, static_argnames=("make", "kind", "top", "capacity", "mesh"))
def _start(
    arrays: Any,
    starts: Vectors,
    tolerance: Float[Array, ""],
    *,
    make: Callable[..., Products],
    kind: Hashable,
    top: int,
    capacity: int,
    mesh: Mesh | None,
) -> State:
    """Take steps until every sample has stopped or the bases are full."""

    def start(arrays: Any, starts: Array, tolerance: Array) -> State:
        state = State(_begin(starts, capacity), jnp.zeros(1, jnp.int32), jnp.zeros(starts.shape[0], jnp.int32))
        return _run(make(kind, *arrays), state, tolerance, top)

    return _on_own(start, mesh, arrays, starts)(arrays, starts, tolerance)


@functools.partial(jax.jit, static_argnames=("make", "kind", "top", "capacity", "mesh"))
def _resume(
    arrays: Any,
    state: State,
    done: Bool[Array, " sample"],
    tolerance: Float[Array, ""],
    *,
    make: Callable[..., Products],
    kind: Hashable,
    top: int,
    capacity: int,
    mesh: Mesh | None,
) -> State:
    """Take further steps for samples that are not `done`, in bases of a larger capacity."""

    def resume(arrays: Any, given: tuple[State, Array], tolerance: Array) -> State:
        state, done = given
        stopped = jnp.where(done, state.taken[0], 0)
        wide = State(_widen(state.bases, capacity), jnp.asarray(state.taken), stopped)
        further = _run(make(kind, *arrays), wide, tolerance, top)
        # Where a sample first stopped stands, also if the host asked for more.
        first = jnp.asarray(state.stopped)
        return further._replace(stopped=jnp.where(first > 0, first, further.stopped))

    given = state, done
    return _on_own(resume, mesh, arrays, given)(arrays, given, tolerance)


def _on_own(work: Callable[..., State], mesh: Mesh | None, arrays: Any, rows: Any) -> Callable[..., State]:
    """Let each device go through its own samples: none waits for another to stop.

    The first of `arrays` lies whole on each, the others and `rows` are spread over them.
    """
    if mesh is None:
        return work
    spread = PartitionSpec("sample")
    specs = (PartitionSpec(), *(spread for _ in arrays[1:]))
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
