r"""The bounds of Lanczos: looked at on the device between steps (`should_stop`), settled on the host (`settle`).

The singular values of an upper bidiagonal matrix are the positive eigenvalues of the tridiagonal matrix T with zeros on
its diagonal and the entries in turn beside it (Golub & Kahan 1965). The device finds the largest without LAPACK, by
counting: as many eigenvalues are above x as $T - x I = L D L^\top$ has positive pivots (Sturm). Where an eigenvector
ends follows from the pivots from both ends, joined where they meet best (the twisted factorisation of Parlett & Dhillon
1997), as sums of logarithms, so that a vector's end is known however small it is. All of it acts on each matrix of a
batch alone.

For 64 matrices and 16 steps it takes 1.3 ms of two cores in float32.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.linalg.lapack import dstebz, dstein

FIRST_CHECK, CHECK_EVERY, LATER = 10, 2, 16
"""A sample looks at its bound after so many steps, then every two, beyond 16 every four: the more often it looks, the
more often is a mixture of two close values taken for one."""
SHIFTS = 32
"""Places at which eigenvalues are counted at once; each round leaves a 33rd of the interval."""
ROUNDING = 16
"""What rounding may move a singular value by beside its residual, in eps of σ₁: constructed matrices of 60 rows
moved by 1.6 in float32, 4 in float64 at most (tests/benchmarks/clusters.py)."""
APART, FINEST = 0.01, 0.001
"""How much nearer than the next value a residual must be, and the share of the tolerance at which it is near enough.
Of matrices with three or five values within 1e-4 at the top, 12 to 28 % had a value off by more than 1e-5 without it,
1 % at most with it (tests/benchmarks/clusters.py)."""
UNROLL = 4
"""Rows that a turn of a loop takes: 16 are a third faster and take XLA three times as long to compile."""


class Bases(NamedTuple):
    """The two orthonormal bases so far, rows beyond the steps taken zero, and the bidiagonal matrix between them."""

    right: Float[Array, "*sample capacity+1 d_model"]
    left: Float[Array, "*sample capacity d_model"]
    diagonal: Float[Array, "*sample capacity"]
    above: Float[Array, "*sample capacity"]


class TopValues(NamedTuple):
    """The largest singular values of a batch, what each may be off by, and how many steps a sample took."""

    singular_values: Float[np.ndarray, "sample k"]
    bounds: Float[np.ndarray, "sample k"]
    steps: Int[np.ndarray, " sample"]
    converged: Bool[np.ndarray, " sample"]


class Settled(NamedTuple):
    """What a batch gave so far, and which samples need no further step."""

    values: TopValues
    done: Bool[np.ndarray, " sample"]


@functools.partial(jax.jit, static_argnames="top")
def should_stop(
    diagonal: Float[Array, "sample capacity"],
    above: Float[Array, "sample capacity"],
    taken: Int[Array, ""],
    tolerance: Float[Array, ""],
    *,
    top: int,
) -> Bool[Array, " sample"]:
    """Say which samples have the `top` largest values within bounds after `taken` steps, or are not finite.

    The rule of `lanczos.decompose`, in the dtype of the bases: an eigenvalue is found to a rounding of the largest.
    """
    index = jnp.arange(diagonal.shape[1], dtype=taken.dtype)
    residual = jnp.take(above, taken - 1, axis=1)
    entries = jnp.where(index < taken, diagonal, 0), jnp.where(index < taken - 1, above, 0)
    between = jnp.stack(entries, axis=-1).reshape(diagonal.shape[0], -1)
    scale = jnp.max(between, axis=1, keepdims=True)
    between = between / jnp.where(scale > 0, scale, 1)
    theta = _largest(between, top + 1, 2 * taken)
    values = scale * theta
    bound = residual[:, None] * jnp.minimum(2**0.5 * _vector_end(between, theta[:, :top], 2 * taken), 1)
    wanted = _wanted(values, tolerance, ROUNDING * float(jnp.finfo(values.dtype).eps), jnp)
    return jnp.all(bound <= wanted, axis=1) | ~jnp.isfinite(scale[:, 0] + residual)


def _wanted(values: Any, tolerance: Any, rounding: float, numpy: Any) -> Any:
    r"""Say which residuals the largest values must be within, given one value more and `rounding` in units of σ₁.

    A residual r says that J has *a* singular value so near. That it is the one of this rank follows only where no
    other is as near: of a cluster, one that the start vector has little of may hide at the distance d with a
    probability of about r/d. So a residual must be `APART` times smaller than the distance to the next value found,
    down to `FINEST` of the tolerance; and a value below what rounding leaves has no relative error.
    """
    gaps = values[..., :-1] - values[..., 1:]
    nearest = numpy.minimum(gaps, numpy.concatenate([gaps[..., :1], gaps[..., :-1]], axis=-1))
    most, least = tolerance * values[..., :-1], rounding * values[..., :1]
    return numpy.where(most > least, numpy.clip(APART * nearest, FINEST * most, most), least)


def _largest(between: Float[Array, "sample size"], top: int, rows: Int[Array, ""]) -> Float[Array, "sample top"]:
    """Find the largest eigenvalues of tridiagonal matrices of `rows` rows, whose entries are at most 1.

    Of the bases only what is filled is gone through, a fourth of it where a sample usually stops.
    """
    wanted = jnp.arange(1, top + 1, dtype=jnp.int32)[None, :, None]
    # A row of zeros counts nothing: turns of `UNROLL` rows may end beyond the last.
    squares = jnp.square(jnp.pad(between[:, :-1], ((0, 0), (0, -(between.shape[1] - 1) % UNROLL)))).T
    turns = (rows - 2) // UNROLL + 1
    shares = jnp.arange(1, SHIFTS + 1, dtype=between.dtype) / (SHIFTS + 1)

    def narrow(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        shifts = low[..., None] + (high - low)[..., None] * shares[None, None]

        def pivots(turn: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            last, positive = carry
            for square in jax.lax.dynamic_slice_in_dim(squares, turn * UNROLL, UNROLL):
                last = _away_from_zero(-shifts - square[:, None, None] / last)
                positive += jnp.asarray(last > 0, jnp.int32)
            return last, positive

        start = _away_from_zero(-shifts), jnp.zeros(shifts.shape, jnp.int32)
        _, positive = jax.lax.fori_loop(0, turns, pivots, start)
        below = jnp.sum(positive >= wanted, axis=-1, keepdims=True)
        places = jnp.concatenate([low[..., None], shifts, high[..., None]], axis=-1)
        low, high = (jnp.take_along_axis(places, place, axis=-1)[..., 0] for place in (below, below + 1))
        return low, high

    shape = (between.shape[0], top)
    whole = jnp.zeros(shape, between.dtype), jnp.full(shape, 2, between.dtype)
    rounds = 5 if between.dtype == jnp.float32 else 11
    low, high = jax.lax.fori_loop(0, rounds, narrow, whole)
    return 0.5 * (low + high)


def _vector_end(
    between: Float[Array, "sample size"], theta: Float[Array, "sample top"], rows: Int[Array, ""]
) -> Float[Array, "sample top"]:
    """Compute the size of component `rows − 1`, the last that counts, of the unit eigenvectors of `theta`.

    With pivots $d_j$ from above and $u_j$ from below and the entries $b_j$ between rows, $z_j = -(b_j / d_j) z_{j+1}$
    above the row r where both meet best, $z_j = -(b_{j-1} / u_j) z_{j-1}$ below it.
    """
    entries = between[:, :-1].T
    counts = jnp.arange(entries.shape[0], dtype=rows.dtype) < rows - 1
    # From both ends at once.
    pivots, sums = _pivots(
        jnp.stack([entries, entries[::-1]], axis=1), jnp.stack([counts, counts[::-1]], axis=1), theta
    )
    down, before, up, after = pivots[:, 0], sums[:, 0], pivots[::-1, 1], sums[::-1, 1]
    row = jnp.arange(down.shape[0], dtype=rows.dtype)[:, None, None]
    meeting = jnp.where(row < rows, jnp.abs(down + up + theta[None]), jnp.inf)
    twist = jnp.asarray(jnp.argmin(meeting, axis=0), rows.dtype)[None]
    above, below = (jnp.take_along_axis(sums, twist, axis=0) - sums for sums in (before, after))
    size = jnp.where(row < rows, jnp.where(row < twist, above, below), -jnp.inf)
    return jnp.exp(jnp.take(size, rows - 1, axis=0) - 0.5 * jax.nn.logsumexp(2 * size, axis=0))


def _pivots(
    entries: Float[Array, "size end sample"], counts: Bool[Array, "size end"], theta: Float[Array, "sample top"]
) -> tuple[Float[Array, "row end sample top"], Float[Array, "row end sample top"]]:
    """Compute the pivots of T − θ from the first row on, and before each row the sum of ln |entry / pivot|."""

    def pivot(carry: tuple[Array, Array], given: tuple[Array, Array]) -> tuple[tuple[Array, Array], Any]:
        (last, total), (entry, counted) = carry, given
        ratio = entry[..., None] / last
        logarithm = jnp.log(jnp.maximum(jnp.abs(ratio), jnp.finfo(ratio.dtype).tiny))
        new = _away_from_zero(-theta[None] - ratio * entry[..., None])
        found = new, total + jnp.where(counted[:, None, None], logarithm, 0)
        return found, found

    start = _away_from_zero(-jnp.stack([theta, theta])), jnp.zeros((2, *theta.shape), theta.dtype)
    _, found = jax.lax.scan(pivot, start, (entries, counts), unroll=UNROLL)
    pivots, sums = (jnp.concatenate([one[None], many]) for one, many in zip(start, found, strict=True))
    return pivots, sums


def _away_from_zero(pivot: Array) -> Array:
    return jnp.where(pivot == 0, -jnp.finfo(pivot.dtype).tiny, pivot)


def next_check(taken: int, limit: int) -> int:
    """Say after how many steps samples look at their bounds next."""
    if taken == 0:
        return min(FIRST_CHECK, limit)
    return min(taken + (CHECK_EVERY if taken < LATER else 2 * CHECK_EVERY), limit)


def settle(bases: Bases, taken: Any, stopped: Any, *, k: int, tolerance: float, limit: int) -> Settled:
    """Compute values and bounds in float64 at the step where each sample stopped.

    The device's look says when a sample may stop; that it may is decided here, if need be some looks later. Both
    depend on nothing but the sample.
    """
    diagonal, above = (np.asarray(part, np.float64) for part in (bases.diagonal, bases.above))
    stopped = np.asarray(stopped)
    limits = np.repeat(np.asarray(taken).reshape(-1), len(stopped) // np.size(taken)).tolist()
    dtype, samples = np.asarray(bases.diagonal).dtype, len(stopped)
    rounding = ROUNDING * float(np.finfo(dtype).eps)
    sigma, bounds = np.zeros((samples, k), dtype), np.full((samples, k), np.inf, dtype)
    steps, converged = np.zeros(samples, int), np.zeros(samples, bool)
    for sample, (first, most) in enumerate(zip(stopped.tolist(), limits, strict=True)):
        m = first or most
        while True:
            values, last = _top_of_bidiagonal(diagonal[sample, :m], above[sample, : m - 1], k + 1)
            theta, bound = values[:k], above[sample, m - 1] * last[:k]
            converged[sample] = bool((bound <= _wanted(values, tolerance, rounding, np)).all())
            if converged[sample] or m == most or not np.isfinite(theta).all():
                break
            m = next_check(m, limit)
        sigma[sample], bounds[sample], steps[sample] = theta, bound + rounding * theta[0], m
    done = converged | (steps == limit) | ~np.isfinite(sigma).all(axis=1)
    return Settled(TopValues(sigma, bounds, steps, converged), done)


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
    values, vectors = largest_eigenpairs(diagonal, above, there)
    theta[:there] = np.maximum(values[::-1], 0)
    last[:there] = np.minimum(np.sqrt(2) * np.abs(vectors[-1, ::-1]), 1)
    return theta, last


def largest_eigenpairs(
    diagonal: Float[np.ndarray, " m"], above: Float[np.ndarray, " m-1"], top: int
) -> tuple[Float[np.ndarray, " top"], Float[np.ndarray, "2*m top"]]:
    """Compute the largest eigenvalues, ascending, and vectors of that tridiagonal matrix of one bidiagonal one.

    By LAPACK's bisection and inverse iteration, as SciPy's `eigh_tridiagonal` does, whose checks take as long as they.
    """
    size = 2 * len(diagonal)
    zeros, between = np.zeros(size), np.zeros(size - 1)
    between[::2], between[1::2] = diagonal, above
    count, values, block, split, failed = dstebz(zeros, between, 2, 0.0, 0.0, size - top + 1, size, 0.0, "B")
    vectors, lost = dstein(zeros, between, values[:count], block, split)
    if failed or lost:
        raise np.linalg.LinAlgError("Eigenvalues of a tridiagonal matrix did not converge.")
    order = np.argsort(values[:count])
    return values[order], vectors[:, order]
