"""The engines as a table: what each gives, what it costs, and which one serves a choice of metrics."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jacspec.backend import Program
from jacspec.errors import JacspecError, suggest
from jacspec.jacobians import analytic, dense
from jacspec.jacobians.bounds import Bases, TopValues
from jacspec.jacobians.branches import Branch
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.lanczos import CAPACITY, TOP, decompose, list_programs, start_vectors
from jacspec.models.block import BlockSpec, ModelSpec
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.svd import singular_values

AUTO = "auto"
ADVANTAGE = 10.0
"""`auto` gives the spectrum up only where that is this many times cheaper."""

EXPECTED_STEPS, SVD_FLOPS = 24, 8.0
"""Lanczos steps of a trained model at 1e-5, with room; FLOPs of a GEMM that takes as long as LAPACK's SVD, by n³: a
768 × 768 matrix of a batch took 21 ms on 2 cores, the GEMM of the MLP's closed form (3.6 GFLOP) 23 ms."""


class BranchSpectra(NamedTuple):
    """What an engine gives for one component of one block.

    All singular values or the largest; J where it has it; by name, what it says of its own accuracy a sample; and of
    Lanczos what `lanczos.leading_vectors` reads.
    """

    singular_values: Float[Array | np.ndarray, "sample k"]
    jacobians: Float[Array, "sample d_model d_model"] | None
    diagnostics: Mapping[str, np.ndarray]
    top: tuple[TopValues, Bases] | None = None


class Engine(NamedTuple):
    """A row of the table.

    `solve(branch, samples, tolerance, seed)` computes; `needs` are the needs of metrics that it serves; `flops` and
    `bytes` estimate a sample's cost, `bytes(spec, tokens, itemsize)` of work arrays; `programs(branch)` says what is
    compiled, given shapes.
    """

    solve: Callable[[Branch, np.ndarray, float, int], BranchSpectra]
    needs: frozenset[str]
    flops: Callable[[BlockSpec], float]
    bytes: Callable[[BlockSpec, int, int], int]
    programs: Callable[[Branch], list[Program]]


def _dense(form: Callable[[Branch], Array]) -> Callable[[Branch, np.ndarray, float, int], BranchSpectra]:
    """Make the solver of an engine that computes the Jacobians themselves."""

    def solve(branch: Branch, samples: np.ndarray, tolerance: float, seed: int) -> BranchSpectra:
        matrices = form(branch)
        return BranchSpectra(singular_values(matrices), matrices, {})

    return solve


def _lanczos(branch: Branch, samples: np.ndarray, tolerance: float, seed: int) -> BranchSpectra:
    x = branch.point.x
    starts = shard_like(start_vectors(samples, x.shape[1], x.dtype, seed=seed), x)
    found, bases = decompose(branch, starts, k=min(TOP, x.shape[1]), tolerance=tolerance)
    return top_spectra(found)._replace(top=(found, bases))


def top_spectra(found: TopValues) -> BranchSpectra:
    """Hand on the largest singular values, with what Lanczos says of their accuracy."""
    said = {"error_bound": found.bounds, "steps": found.steps, "converged": found.converged}
    return BranchSpectra(found.singular_values, None, said)


def pass_flops(spec: BlockSpec) -> float:
    """Count the FLOPs of one token's forward pass through a block, products with weights alone."""
    own, mlp = spec.attention, spec.mlp
    attention = 2 * own.d_head * (own.heads + own.kv_heads) * spec.d_model
    return 2.0 * (attention * (1 if spec.cross is None else 2) + (3 if mlp.gated else 2) * spec.d_model * mlp.active)


def carry_bytes(spec: BlockSpec, tokens: int, itemsize: int) -> int:
    """Estimate the work arrays that carry one sample through a block: scores of all heads, hidden units, streams."""
    return itemsize * tokens * (3 * spec.attention.heads * tokens + 3 * spec.mlp.d_ff + 6 * spec.d_model)


def _lanczos_bytes(spec: BlockSpec, tokens: int, itemsize: int) -> int:
    widest = 2 * CAPACITY * spec.d_model + 6 * spec.mlp.active + spec.mlp.gathered * spec.d_model
    prefix = 2 * tokens * spec.attention.kv_heads * spec.attention.d_head + 4 * spec.attention.heads * tokens
    return itemsize * (widest + prefix)


def svd_flops(spec: BlockSpec) -> float:
    """Count what the SVD of both branches of a block costs."""
    return 2 * SVD_FLOPS * spec.d_model**3


def _analytic_flops(spec: BlockSpec) -> float:
    attention = (1 if spec.cross is None else 2) * spec.attention.heads * spec.attention.d_head
    hidden = (2 if spec.mlp.gated else 1) * spec.mlp.active
    return 2.0 * spec.d_model**2 * (attention + hidden) + svd_flops(spec)


ALL = frozenset({"top", "spectrum", "matrix", "eigenvalues"})

ENGINES: Mapping[str, Engine] = {
    "jacfwd": Engine(
        _dense(dense.jacobians),
        ALL,
        lambda spec: spec.d_model * pass_flops(spec) + svd_flops(spec),
        lambda spec, tokens, itemsize: dense.work_bytes(spec, tokens=tokens, itemsize=itemsize),
        lambda branch: [Program(dense.jacobians, (branch,), {})],
    ),
    "analytic": Engine(
        _dense(analytic.jacobians),
        ALL,
        _analytic_flops,
        lambda spec, tokens, itemsize: analytic.work_bytes(spec, tokens=tokens, itemsize=itemsize),
        lambda branch: [Program(analytic.jacobians, (branch,), {})],
    ),
    "lanczos": Engine(
        _lanczos,
        frozenset({"top"}),
        lambda spec: 2 * EXPECTED_STEPS * pass_flops(spec),
        _lanczos_bytes,
        lambda branch: list_programs(branch, branch.point.x),
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
