"""The engines as a table: what each gives, what it costs, which one serves a choice of metrics, and their audit."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.backend import Program
from jacspec.errors import JacspecError, suggest
from jacspec.jacobians import analytic, dense
from jacspec.jacobians.branches import Point
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.lanczos import (
    CAPACITY,
    TOP,
    TopValues,
    branch_program,
    start_program,
    start_vectors,
    top_singular_values,
)
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.svd import singular_values

AUTO = "auto"
ADVANTAGE = 10.0
"""`auto` gives the spectrum up only where that is this many times cheaper."""

EXPECTED_STEPS, SVD_FLOPS = 24, 8.0
"""Lanczos steps of a trained model at 1e-5, with room; FLOPs of a GEMM that takes as long as LAPACK's SVD, by n³: a
768 × 768 matrix of a batch took 21 ms on 2 cores, the GEMM of the MLP's closed form (3.6 GFLOP) 23 ms."""


ROUNDED, CANCELLING, NOTHING_ELSE = 512, 0.01, 0.25
"""What `rounding` changes inputs by, in eps, and the shares of σ₁ from which it says that terms cancel, and that
nothing but rounding is left. Of a model whose weights are all 1 engines differed by up to three times what 64 eps
moved; trained models move by 3e-4 in float32."""


class BranchSpectra(NamedTuple):
    """What an engine gives for one component of one block.

    All singular values or the largest; J where it has it; by name, what it says of its own accuracy a sample.
    """

    singular_values: Float[Array | np.ndarray, "sample k"]
    jacobians: Float[Array, "sample d_model d_model"] | None
    diagnostics: Mapping[str, np.ndarray]


class Engine(NamedTuple):
    """A row of the table.

    `solve(block, point, component, samples, tolerance, seed)` computes; `needs` are the needs of metrics that it
    serves; `flops` and `bytes` estimate a sample's cost, `bytes(spec, tokens, itemsize)` of work arrays;
    `programs(block, point, component)` says what is compiled, given shapes.
    """

    solve: Callable[[Block, Point, str, np.ndarray, float, int], BranchSpectra]
    needs: frozenset[str]
    flops: Callable[[BlockSpec], float]
    bytes: Callable[[BlockSpec, int, int], int]
    programs: Callable[[Any, Any, str], list[Program]]


def _dense(form: Callable[..., Array]) -> Callable[[Block, Point, str, np.ndarray, float, int], BranchSpectra]:
    """Make the solver of an engine that computes the Jacobians themselves."""

    def solve(
        block: Block, point: Point, component: str, samples: np.ndarray, tolerance: float, seed: int
    ) -> BranchSpectra:
        matrices = form(block, point.context, point.x, component=component)
        return BranchSpectra(singular_values(matrices), matrices, {})

    return solve


def _dense_programs(form: Any) -> Callable[[Any, Any, str], list[Program]]:
    def programs(block: Any, point: Any, component: str) -> list[Program]:
        return [Program(form, (block, point.context, point.x), {"component": component})]

    return programs


def _lanczos_programs(block: Any, point: Any, component: str) -> list[Program]:
    samples, d_model = point.x.shape
    return [start_program(samples, d_model, point.x.dtype), branch_program(block, point, component)]


def audit_programs(block: Any, point: Any, component: str) -> list[Program]:
    """Say what an audit compiles, given shapes."""
    row = jax.ShapeDtypeStruct((), np.int32)
    return [Program(dense.jacobian_at, (block, point, row), {"component": component})]


def _lanczos(
    block: Block, point: Point, component: str, samples: np.ndarray, tolerance: float, seed: int
) -> BranchSpectra:
    d_model = point.x.shape[1]
    starts = shard_like(start_vectors(samples, d_model, point.x.dtype, seed=seed), point.x)
    found = top_singular_values(block, point, component, starts, k=min(TOP, d_model), tolerance=tolerance)
    return top_spectra(found)


def top_spectra(found: TopValues) -> BranchSpectra:
    """Hand on the largest singular values, with what Lanczos says of their accuracy."""
    said = {"error_bound": found.bounds, "steps": found.steps, "converged": found.converged}
    return BranchSpectra(found.singular_values, None, said)


def pass_flops(spec: BlockSpec) -> float:
    """Count the FLOPs of one token's forward pass through a block, products with weights alone."""
    own, mlp = spec.attention, spec.mlp
    attention = 2 * own.d_head * (own.heads + own.kv_heads) * spec.d_model
    return 2.0 * (attention * (1 if spec.cross is None else 2) + (3 if mlp.gated else 2) * spec.d_model * mlp.d_ff)


def carry_bytes(spec: BlockSpec, tokens: int, itemsize: int) -> int:
    """Estimate the work arrays that carry one sample through a block: scores of all heads, hidden units, streams."""
    return itemsize * tokens * (3 * spec.attention.heads * tokens + 3 * spec.mlp.d_ff + 6 * spec.d_model)


def _lanczos_bytes(spec: BlockSpec, tokens: int, itemsize: int) -> int:
    widest = 2 * CAPACITY * spec.d_model + 6 * spec.mlp.d_ff
    prefix = 2 * tokens * spec.attention.kv_heads * spec.attention.d_head + 4 * spec.attention.heads * tokens
    return itemsize * (widest + prefix)


def svd_flops(spec: BlockSpec) -> float:
    """Count what the SVD of both branches of a block costs."""
    return 2 * SVD_FLOPS * spec.d_model**3


def _analytic_flops(spec: BlockSpec) -> float:
    attention = (1 if spec.cross is None else 2) * spec.attention.heads * spec.attention.d_head
    hidden = (2 if spec.mlp.gated else 1) * spec.mlp.d_ff
    return 2.0 * spec.d_model**2 * (attention + hidden) + svd_flops(spec)


ALL = frozenset({"top", "spectrum", "matrix"})

ENGINES: Mapping[str, Engine] = {
    "jacfwd": Engine(
        _dense(dense.jacobians),
        ALL,
        lambda spec: spec.d_model * pass_flops(spec) + svd_flops(spec),
        lambda spec, tokens, itemsize: dense.work_bytes(spec, tokens=tokens, itemsize=itemsize),
        _dense_programs(dense.jacobians),
    ),
    "analytic": Engine(
        _dense(analytic.jacobians),
        ALL,
        _analytic_flops,
        lambda spec, tokens, itemsize: analytic.work_bytes(spec, tokens=tokens, itemsize=itemsize),
        _dense_programs(analytic.jacobians),
    ),
    "lanczos": Engine(
        _lanczos,
        frozenset({"top"}),
        lambda spec: 2 * EXPECTED_STEPS * pass_flops(spec),
        _lanczos_bytes,
        _lanczos_programs,
    ),
}
"""Engines by name."""


def check_engine(name: str) -> None:
    """Refuse a name that is no engine; raises `JacspecError`."""
    if name != AUTO and name not in ENGINES:
        raise JacspecError(f"engine={name} is not known. " + suggest(name, [AUTO, *ENGINES]))


def choose_engine(name: str, metric_names: Sequence[str], spec: ModelSpec) -> str:
    """Resolve a choice of engine for a choice of metrics and a model.

    `auto` takes the engine of the least estimated FLOPs, one that gives the top alone only where the metrics need
    no more and it is `ADVANTAGE` times cheaper than those that give the whole spectrum.

    **Raises:** `JacspecError` for an unknown engine, or one that does not give what a metric needs.
    """
    check_engine(name)
    needs = {METRICS[metric].needs for metric in metric_names}
    if name == AUTO:
        cost = {each: engine.flops(spec.blocks[0]) for each, engine in ENGINES.items() if needs <= engine.needs}
        whole = min((each for each in cost if ENGINES[each].needs == ALL), key=cost.__getitem__)
        best = min(cost, key=cost.__getitem__)
        return best if ADVANTAGE * cost[best] <= cost[whole] else whole
    unserved = [metric for metric in metric_names if METRICS[metric].needs not in ENGINES[name].needs]
    if unserved:
        raise JacspecError(
            f"engine={name} gives the largest singular values only, and {', '.join(unserved)} need more. "
            "Type engine=auto, or leave these metrics out."
        )
    return name


def audit(
    block: Block, point: Point, component: str, row: int, found: BranchSpectra, where: str, tolerance: float
) -> float:
    """Recompute one sample with `jacfwd` and the SVD kernel.

    **Returns:** the largest relative deviation: of the singular values that the engine gave, each against itself;
    of an engine that gave J, the spectral norm of the difference against σ₁, which no singular value's error
    exceeds (Weyl). The Frobenius norm would add up the rounding of all d² numbers. It is above `allowed_deviation`
    where the terms of J cancel and its values are what rounding leaves.

    **Raises:** `JacspecError`, naming `where`, if it is above `tolerance`, or above rounding where that is coarser.
    Of a Jacobian whose terms cancel, what they leave is rounding: there `rounding` is what deviations are held to.
    """
    place = np.asarray(row, np.int32)
    exact = dense.jacobian_at(block, point, place, component=component)
    moved = functools.partial(rounding, block, point, component, row, exact)
    if found.jacobians is None:
        return audit_top(np.asarray(found.singular_values)[row], exact, where, tolerance, ways_on=WAYS_ON, floor=moved)
    off = top_value(_difference(found.jacobians, exact, place))
    return _allow(off, top_value(exact), "the Jacobian", where, tolerance, exact.dtype, WAYS_ON, moved)


def rounding(block: Block, point: Point, component: str, row: int, exact: Float[Array, "1 m n"]) -> float:
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

    changed = jax.tree.map(rounded, (block, point))
    moved = top_value(dense.jacobian_at(*changed, np.asarray(row, np.int32), component=component) - exact)
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
) -> float:
    """Compare the largest singular values of one sample with those of its matrix; as `audit`.

    Each is compared with itself, one below rounding of σ₁ with what is above it: what is zero by construction, as σ₂
    of a matrix of rank one, is known no better. A zero matrix has nothing but zeros.

    **Arguments:** `ways_on`, what the error tells the user to type; `floor`, asked only where the audit would fail:
    what the terms of the matrix leave by rounding, which no value is known better than.
    """
    largest = np.asarray(singular_values(exact))[0, : len(given)]
    least = largest[0] * _rounding(exact.dtype) / allowed_deviation(tolerance, exact.dtype)
    scale = np.maximum(largest, least)
    return _allow(np.abs(given - largest), scale, "a singular value", where, tolerance, exact.dtype, ways_on, floor)


def audit_pair(
    exact: Float[Array, "1 m n"],
    right: Float[Array | np.ndarray, " n"],
    left: Float[Array | np.ndarray, " m"],
    where: str,
    tolerance: float,
    *,
    ways_on: str,
    floor: Callable[[], float] = lambda: 0.0,
) -> float:
    """Check that a pair of vectors belongs to σ₁ of a matrix: the larger of ‖A v − σ₁ u‖ and ‖Aᵀ u − σ₁ v‖, over σ₁.

    **Arguments:** as `audit_top`.

    **Raises:** as `audit`.
    """
    matrix = np.asarray(exact, np.float64)[0]
    largest = top_value(exact)
    v, u = (np.asarray(vector, np.float64) for vector in (right, left))
    off = float(max(np.linalg.norm(matrix @ v - largest * u), np.linalg.norm(matrix.T @ u - largest * v)))
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
