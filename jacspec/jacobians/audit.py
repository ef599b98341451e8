"""The audit of an engine: samples drawn from all are recomputed by `jacfwd` and SVD, and what deviates is refused."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.backend import Program
from jacspec.errors import JacspecError
from jacspec.jacobians.branches import Branch
from jacspec.jacobians.dense import jacobian_at
from jacspec.jacobians.solvers import BranchSpectra
from jacspec.samples import PaddedBatch
from jacspec.spectra.svd import singular_values

ROUNDED, CANCELLING, NOTHING_ELSE = 512, 0.01, 0.25
"""What `rounding` changes inputs by, in eps, and the shares of σ₁ from which it says that terms cancel, and that
nothing but rounding is left. Of a model whose weights are all 1 engines differed by up to three times what 64 eps
moved; trained models move by 3e-4 in float32."""


def draw_samples(count: int, samples: int, seed: Sequence[int]) -> set[int]:
    """Draw the samples that an audit recomputes."""
    drawn = np.random.default_rng(seed).choice(samples, min(count, samples), replace=False)
    return set(drawn.tolist())


def rows_to_audit(padded: PaddedBatch, chosen: set[int], spectra: BranchSpectra) -> list[int]:
    """List the rows of a batch that an audit recomputes: chosen ones that converged."""
    converged = spectra.diagnostics.get("converged", np.ones(len(padded.samples), bool))
    return [row for row, sample in enumerate(padded.samples) if sample in chosen and converged[row]]


def audit_programs(branch: Branch) -> list[Program]:
    """Say what an audit compiles, given shapes."""
    return [Program(jacobian_at, (branch, jax.ShapeDtypeStruct((), np.int32)), {})]


def audit(branch: Branch, row: int, found: BranchSpectra, where: str, tolerance: float) -> float:
    """Recompute one sample with `jacfwd` and the SVD kernel.

    **Returns:** the largest relative deviation: of the singular values that the engine gave, each against itself;
    of an engine that gave J, the spectral norm of the difference against σ₁, which no singular value's error
    exceeds (Weyl). The Frobenius norm would add up the rounding of all d² numbers. It is above `allowed_deviation`
    where the terms of J cancel and its values are what rounding leaves.

    **Raises:** `JacspecError`, naming `where`, if it is above `tolerance`, or above rounding where that is coarser.
    Of a Jacobian whose terms cancel, what they leave is rounding: there `rounding` is what deviations are held to.
    """
    place = np.asarray(row, np.int32)
    exact = jacobian_at(branch, place)
    moved = functools.partial(rounding, branch, row, exact)
    if found.jacobians is None:
        return audit_top(np.asarray(found.singular_values)[row], exact, where, tolerance, ways_on=WAYS_ON, floor=moved)
    off = top_value(_difference(found.jacobians, exact, place))
    return _allow(off, top_value(exact), "the Jacobian", where, tolerance, exact.dtype, WAYS_ON, moved)


def rounding(branch: Branch, row: int, exact: Float[Array, "1 m n"]) -> float:
    """Measure how far the Jacobian `exact` of one sample moves, in σ₁ of the difference, if its inputs are rounded.

    Every weight, the stream and what attention sees are changed by ±`ROUNDED` eps of themselves, drawn at random: no
    computation in this precision knows the Jacobian much better. A zero stays one: what is exactly zero does not move.

    **Returns:** 0 for an ordinary Jacobian, which moves by less than `CANCELLING` of its own σ₁; at least eps for one
    that moves by `NOTHING_ELSE` of it, as with W_K = W_V = 0 and biases: x + J dx holds no smaller share of dx.
    """
    rng = np.random.default_rng(0)
    eps = float(np.finfo(exact.dtype).eps)

    def rounded(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        signs = 2 * rng.integers(0, 2, leaf.shape, np.int8) - 1
        return leaf * np.asarray(1 + ROUNDED * eps * signs, leaf.dtype)

    moved = top_value(jacobian_at(jax.tree.map(rounded, branch), np.asarray(row, np.int32)) - exact)
    largest = top_value(exact)
    if moved <= CANCELLING * largest:
        return 0.0
    return moved if moved <= NOTHING_ELSE * largest else max(moved, eps)


def top_value(matrix: Float[Array, "1 m n"]) -> float:
    """Compute σ₁ of one matrix."""
    return float(np.asarray(singular_values(matrix))[0, 0])


@jax.jit
def _difference(
    found: Float[Array, "sample m n"], exact: Float[Array, "1 m n"], row: Int[Array, ""]
) -> Float[Array, "1 m n"]:
    return jax.lax.dynamic_slice_in_dim(found, row, 1) - exact


WAYS_ON = "engine=jacfwd, or precision=float64"


def audit_top(
    given: Float[np.ndarray, " k"],
    exact: Float[Array, "1 m n"],
    where: str,
    tolerance: float,
    *,
    ways_on: str,
    floor: Callable[[], float] = lambda: 0.0,
    values: Float[np.ndarray, " all"] | None = None,
) -> float:
    """Compare the largest singular values of one sample with those of its matrix; as `audit`.

    Each is compared with itself, one below rounding of σ₁ with what is above it: what is zero by construction, as σ₂
    of a matrix of rank one, is known no better. A zero matrix has nothing but zeros.

    **Arguments:** `ways_on`, what the error tells the user to type; `floor`, asked only where the audit would fail:
    what the terms of the matrix leave by rounding, which no value is known better than; `values`, the singular values
    of the matrix where they are known.
    """
    largest = (np.asarray(singular_values(exact))[0] if values is None else values)[: len(given)]
    least = largest[0] * _rounding(exact.dtype) / allowed_deviation(tolerance, exact.dtype)
    scale = np.maximum(largest, least)
    return _allow(np.abs(given - largest), scale, "a singular value", where, tolerance, exact.dtype, ways_on, floor)


def audit_pair(
    exact: Float[Array, "1 m n"],
    sigma: float | np.floating[Any],
    right: Float[Array | np.ndarray, " n"],
    left: Float[Array | np.ndarray, " m"],
    where: str,
    tolerance: float,
    *,
    ways_on: str,
    floor: Callable[[], float] = lambda: 0.0,
    largest: float | None = None,
) -> float:
    """Check that a pair of vectors belongs to a singular value: the larger of ‖A v − σ u‖ and ‖Aᵀ u − σ v‖, over σ₁.

    **Arguments:** as `audit_top`; `largest`, σ₁ where it is known, which costs an SVD.

    **Raises:** as `audit`.
    """
    matrix = np.asarray(exact, np.float64)[0]
    largest = top_value(exact) if largest is None else largest
    v, u = (np.asarray(vector, np.float64) for vector in (right, left))
    off = float(max(np.linalg.norm(matrix @ v - sigma * u), np.linalg.norm(matrix.T @ u - sigma * v)))
    return _allow(off, largest, "a singular vector", where, tolerance, exact.dtype, ways_on, floor)


def _allow(
    off: float | np.ndarray,
    scale: float | np.ndarray,
    what: str,
    where: str,
    tolerance: float,
    dtype: jnp.dtype,
    ways_on: str,
    floor: Callable[[], float],
) -> float:
    allowed = allowed_deviation(tolerance, dtype)
    deviation = _relative(off, scale)
    if not (deviation <= allowed or _relative(off, np.maximum(scale, floor() / allowed)) <= allowed):
        raise JacspecError(
            f"Audit failed: {where}: {what} is off by {deviation:.1e} from jacfwd and SVD, more than "
            f"{allowed:.1e}. Type {ways_on}."
        )
    return deviation


def _relative(off: float | np.ndarray, scale: float | np.ndarray) -> float:
    """Return the largest of deviations, each in units of its scale; of nothing, only nothing deviates by nothing."""
    off, scale = np.atleast_1d(off), np.atleast_1d(scale)
    return float(np.divide(off, scale, out=np.where(off == 0, 0.0, np.inf), where=scale > 0).max())


def _rounding(dtype: jnp.dtype) -> float:
    """Return what rounding may move a singular value by, in units of σ₁."""
    return 64 * float(np.finfo(dtype).eps)


def allowed_deviation(tolerance: float, dtype: jnp.dtype) -> float:
    """Return the relative deviation that an audit allows; what passed with more has values that are rounding."""
    return max(tolerance, _rounding(dtype))
