"""The engines as a table: what each gives, what it costs, which one serves a choice of metrics, and their audit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.errors import JacspecError, suggest
from jacspec.jacobians.branches import Point
from jacspec.jacobians.dense import jacobians, work_bytes
from jacspec.jacobians.lanczos import MAX_STEPS, top_singular_values
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.svd import singular_values

AUTO = "auto"
TOP = 2
"""Singular values that the metrics of the top need: ρ and δ."""

ADVANTAGE = 10.0
"""`auto` gives the spectrum up only where that is this many times cheaper."""

EXPECTED_STEPS, SVD_FLOPS = 24, 25.0
"""Lanczos steps of a trained model at 1e-5, with room; FLOPs that take as long as LAPACK's SVD, by n³: the 40 ms a
768 × 768 matrix took on 2 cores, against the GEMMs of the same machine."""


class BranchSpectra(NamedTuple):
    """What an engine gives for one component of one block.

    All singular values or the largest; J where it has it; by name, what it says of its own accuracy a sample.
    """

    singular_values: Float[Array, "sample k"]
    jacobians: Float[Array, "sample d_model d_model"] | None
    diagnostics: Mapping[str, np.ndarray]


class Engine(NamedTuple):
    """A row of the table.

    `solve(block, point, component, samples, tolerance, seed)` computes; `needs` are the needs of metrics that it
    serves; `flops` and `bytes` estimate a sample's cost, `bytes(spec, tokens, itemsize)` of work arrays.
    """

    solve: Callable[[Block, Point, str, np.ndarray, float, int], BranchSpectra]
    needs: frozenset[str]
    flops: Callable[[BlockSpec], float]
    bytes: Callable[[BlockSpec, int, int], int]


def _jacfwd(
    block: Block, point: Point, component: str, samples: np.ndarray, tolerance: float, seed: int
) -> BranchSpectra:
    matrices = jacobians(block, point.context, point.x, component=component)
    return BranchSpectra(singular_values(matrices), matrices, {})


def _lanczos(
    block: Block, point: Point, component: str, samples: np.ndarray, tolerance: float, seed: int
) -> BranchSpectra:
    d_model, dtype = point.x.shape[1], point.x.dtype
    key = jax.random.key(seed)

    def start(sample: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, sample), (d_model,), dtype)

    # By the number of the sample, so that its company in a batch changes nothing.
    starts = jax.vmap(start)(jnp.asarray(samples))
    found = top_singular_values(block, point, component, starts, k=min(TOP, d_model), tolerance=tolerance)
    said = {"error_bound": found.bounds, "steps": found.steps, "converged": found.converged}
    return BranchSpectra(jnp.asarray(found.singular_values), None, said)


def _passes(spec: BlockSpec) -> float:
    """Count the FLOPs of one token's forward pass through a block, products with weights alone."""
    own, mlp = spec.attention, spec.mlp
    attention = 2 * own.d_head * (own.heads + own.kv_heads) * spec.d_model
    return 2.0 * (attention * (1 if spec.cross is None else 2) + (3 if mlp.gated else 2) * spec.d_model * mlp.d_ff)


def _lanczos_bytes(spec: BlockSpec, tokens: int, itemsize: int) -> int:
    widest = 2 * MAX_STEPS * spec.d_model + 6 * spec.mlp.d_ff
    prefix = 2 * tokens * spec.attention.kv_heads * spec.attention.d_head + 4 * spec.attention.heads * tokens
    return itemsize * (widest + prefix)


ENGINES: Mapping[str, Engine] = {
    "jacfwd": Engine(
        _jacfwd,
        frozenset({"top", "spectrum", "matrix"}),
        lambda spec: spec.d_model * _passes(spec) + 2 * SVD_FLOPS * spec.d_model**3,
        lambda spec, tokens, itemsize: work_bytes(spec, tokens=tokens, itemsize=itemsize),
    ),
    "lanczos": Engine(
        _lanczos,
        frozenset({"top"}),
        lambda spec: 2 * EXPECTED_STEPS * _passes(spec),
        _lanczos_bytes,
    ),
}
"""Engines by name."""


def check_engine(name: str) -> None:
    """Refuse a name that is no engine; raises `JacspecError`."""
    if name != AUTO and name not in ENGINES:
        raise JacspecError(f"engine={name} is not known. " + suggest(name, [AUTO, *ENGINES]))


def choose_engine(name: str, metric_names: Sequence[str], spec: ModelSpec) -> str:
    """Resolve a choice of engine for a choice of metrics and a model.

    `auto` takes `jacfwd`, which gives the whole spectrum, unless only the top is asked for and the estimate of
    FLOPs says that `lanczos` is `ADVANTAGE` times cheaper.

    **Raises:** `JacspecError` for an unknown engine, or one that does not give what a metric needs.
    """
    check_engine(name)
    needs = {METRICS[metric].needs for metric in metric_names}
    if name == AUTO:
        block = spec.blocks[0]
        cheap = ENGINES["jacfwd"].flops(block) >= ADVANTAGE * ENGINES["lanczos"].flops(block)
        return "lanczos" if cheap and needs <= ENGINES["lanczos"].needs else "jacfwd"
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

    **Returns:** the largest relative deviation of the singular values that the engine gave.

    **Raises:** `JacspecError`, naming `where`, if it is above `tolerance`, or above rounding where that is coarser.
    """
    alone: Any = jax.tree.map(lambda leaf: leaf[row : row + 1], point)
    reference = np.asarray(singular_values(jacobians(block, alone.context, alone.x, component=component)))[0]
    given = np.asarray(found.singular_values)[row]
    largest = reference[: len(given)]
    deviation = float((np.abs(given - largest) / np.where(largest > 0, largest, 1)).max())
    allowed = max(tolerance, 64 * float(np.finfo(reference.dtype).eps))
    if not deviation <= allowed:
        raise JacspecError(
            f"Audit failed: {where}: the singular values deviate by {deviation:.1e} from jacfwd and SVD, more than "
            f"{allowed:.1e}. Type engine=jacfwd, or precision=float64."
        )
    return deviation
