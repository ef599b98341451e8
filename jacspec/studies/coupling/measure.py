"""Weights beside Jacobians, by layer: ρ of each component, the factors that bound it, and where it reads and writes.

Everything of J comes from products with it and its transpose (Lanczos); J is formed for audited samples only.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.axes import LayerResult
from jacspec.errors import JacspecError
from jacspec.jacobians.audit import audit_pair, audit_top, draw_samples, rounding, rows_to_audit
from jacspec.jacobians.branches import ALL, Branch, choose_components, components_of
from jacspec.jacobians.dense import jacobian_at
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.engine import (
    Measured,
    Part,
    count_samples,
    make_part,
    measure,
    measure_branches,
    stream_blocks,
    working_blocks,
)
from jacspec.jacobians.lanczos import TOP, decompose, leading_vectors, start_vectors
from jacspec.jacobians.solvers import top_spectra
from jacspec.jacobians.streaming import Stream
from jacspec.jacobians.undefined import ZERO_JACOBIAN, undefined_metrics
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.experts import ExpertsSpec
from jacspec.samples import PaddedBatch
from jacspec.spectra.cores import lapack_threads
from jacspec.studies.coupling import WEIGHTS
from jacspec.studies.coupling.factors import PATHS, Lead, branch_slopes, leading_weights
from jacspec.studies.coupling.tables import READS, WRITES

NAMES = ("spectral_radius", "decay_ratio")
WAYS_ON = "precision=float64"


class CouplingPlan(NamedTuple):
    """What is computed: of `components` (full names) the `columns`; the rest as in `engine.Plan`."""

    components: Sequence[str]
    columns: tuple[str, ...]
    decoder_input: str = "shifted"
    tolerance: float = 1e-5
    seed: int = 0
    audit: int = 0
    samples: int | None = None
    layers: frozenset[int] | None = None


def choose_factored(names: Sequence[str], spec: ModelSpec) -> tuple[str, ...]:
    """Resolve a choice of components as `choose_components` does; raises `JacspecError` for a whole block.

    `all` are all but whole blocks.
    """
    chosen = choose_components(names, spec)
    if ALL in names:
        chosen = tuple(name for name in chosen if name.rpartition(".")[2] in PATHS)
    if blocks := [name for name in chosen if name.rpartition(".")[2] not in PATHS]:
        raise JacspecError(
            f"components has {', '.join(blocks)}: a whole block is no product of weights. Type 'components=[attn,mlp]'."
        )
    routed = [block for block in spec.blocks if isinstance(block.mlp, ExpertsSpec)]
    if any("mlp" in components_of(block, chosen).values() for block in routed):
        raise JacspecError(
            "components has mlp, which is a mixture of experts in this model: its Jacobian is a sum over experts and "
            "their weights, no product of matrices. Type 'components=[attn]'."
        )
    return chosen


def coupling_columns(components: Sequence[str], spec: ModelSpec) -> tuple[str, ...]:
    """Name the values a sample; those of paths that a component has not are missing there."""
    found = {
        PATH
        for block in spec.blocks
        for own in components_of(block, components).values()
        for PATH in _paths(block, own)
    }
    paths = [path for path in ("up", "gate", "v", "q", "k") if path in found]
    return (
        *NAMES,
        "residual_gain",
        "bound",
        "bound_share",
        "norm_gain",
        "output_norm_gain",
        "sigma_out",
        *(f"{name}_{path}" for path in paths for name in ("sigma", "slope")),
        "write_alignment",
        *(f"read_alignment_{path}" for path in paths),
    )


def _paths(block: BlockSpec, component: str) -> list[str]:
    return [path for path in PATHS[component] if path != "gate" or block.mlp.gated]


def stream_coupling(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    plan: CouplingPlan,
    *,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    """Yield the result of each block: columns, the top two singular values, and where each component reads and writes.

    In memory are one block, the hidden states, and of every finished layer its two vectors a sample:
    2 · itemsize · samples · components · d_model bytes a layer, which `spectra.nc` holds too.

    **Arguments:** `done` and `advance` as in `engine.stream_layers`.

    **Raises:** `JacspecError` where a value is not finite or an audit fails, naming layer, component and sample.
    """
    working = working_blocks(checkpoint.spec, plan.components, plan.layers)
    measure_block = functools.partial(_measure_block, batches=batches, plan=plan, last=working[-1])
    found = stream_blocks(
        checkpoint, batches, working, measure_block, decoder_input=plan.decoder_input, done=done, advance=advance
    )
    for result in found:
        yield _arrange(result, plan.columns)


def _arrange(result: LayerResult, columns: Sequence[str]) -> LayerResult:
    """Fill columns that a component has not."""
    missing = np.full(len(next(iter(result.singular_values.values()))), np.nan)
    metrics = {
        component: {name: values.get(name, missing) for name in columns} for component, values in result.metrics.items()
    }
    return result._replace(metrics=metrics)


def _measure_block(
    block: Block,
    number: int,
    streams: Sequence[Stream],
    report: Callable[[int], None],
    *,
    batches: Sequence[PaddedBatch],
    plan: CouplingPlan,
    last: int,
) -> Measured:
    components = components_of(block.spec, plan.components)
    weights = {component: leading_weights(block, component) for component in components.values()}
    chosen = draw_samples(plan.audit, plan.samples or count_samples(batches), [plan.seed, number])

    def measure_branch(full: str, component: str, branch: Branch, padded: PaddedBatch) -> Part:
        where = f"block {number}, component {full}"
        return _measure(branch, component, weights[component], padded, chosen, where, plan)

    return measure_branches(block, components, batches, streams, report, measure_branch, last=number == last)


def _measure(
    branch: Branch,
    component: str,
    weights: Any,
    padded: PaddedBatch,
    chosen: set[int],
    where: str,
    plan: CouplingPlan,
) -> Part:
    """Compute all of one component at the samples of one batch."""
    x = branch.point.x
    starts = shard_like(start_vectors(padded.row_samples, x.shape[1], x.dtype, seed=plan.seed), x)
    found, bases = decompose(branch, starts, k=min(TOP, x.shape[1]), tolerance=plan.tolerance)
    vectors = [side[:, 0] for side in leading_vectors(found, bases)]
    reads, writes = map(_directions, vectors)
    spectra = top_spectra(found)
    values = measure(spectra, x, NAMES, top_k=TOP)
    with lapack_threads():
        slopes = jax.block_until_ready(branch_slopes(branch, component=component))
    values |= {"residual_gain": residual_gain(branch), **slopes}
    values |= _bound(values, *weights)
    values |= _alignments(reads, writes, *map(_blank_directions, weights))
    values |= {READS: reads, WRITES: writes}  # type: ignore[dict-item]
    undefined = _undefined(values, weights, *map(np.asarray, (spectra.singular_values, x)))
    audited = []
    for row in rows_to_audit(padded, chosen, spectra):
        exact = jacobian_at(branch, np.asarray(row, np.int32))
        here = f"{where}, sample {padded.samples[row]}"
        given = np.asarray(spectra.singular_values)[row]
        judge: dict[str, Any] = {"ways_on": WAYS_ON, "floor": functools.partial(rounding, branch, row, exact)}
        audit_pair(exact, given[0], vectors[0][row], vectors[1][row], here, plan.tolerance, **judge)
        audited.append(audit_top(given, exact, here, plan.tolerance, **judge))
    return make_part(padded, spectra, values, audited, undefined)


def _undefined(
    values: Mapping[str, Array],
    weights: tuple[Mapping[str, Lead], Lead],
    sigma: Float[np.ndarray, "sample k"],
    x: Float[np.ndarray, "sample d_model"],
) -> dict[str, np.ndarray]:
    """Say which values a sample has none of: a zero Jacobian reads and writes nowhere, nor does a zero weight."""
    zero = sigma[:, 0] == 0
    none = np.where(zero, ZERO_JACOBIAN, "")
    reads, writes = weights
    leads = {f"read_alignment_{path}": (WEIGHTS[path][1], lead) for path, lead in reads.items()}
    alignments = {
        name: none if np.any(lead.direction) else np.where(zero, ZERO_JACOBIAN, f"{weight} is zero: no alignment")
        for name, (weight, lead) in (leads | {"write_alignment": ("W_out", writes)}).items()
    }
    share = np.where(np.asarray(values["bound"]) == 0, none, "")
    vectors = dict.fromkeys((READS, WRITES), none)
    return undefined_metrics((*NAMES, "residual_gain"), sigma, x) | {"bound_share": share} | vectors | alignments


@jax.jit
def residual_gain(branch: Branch) -> Float[Array, " sample"]:
    """Compute ‖J x̂‖ of every sample by one product with J; see `METRICS`."""

    def gain(context: Any, x: Array) -> Array:
        direction = x / jnp.linalg.norm(x)
        return jnp.linalg.norm(jax.jvp(functools.partial(branch.f, context), (x,), (direction,))[1])

    return jax.vmap(gain)(*branch.point)


@jax.jit
def _bound(values: Mapping[str, Array], reads: Mapping[str, Any], writes: Any) -> dict[str, Array]:
    """Multiply the factors, one value a sample, and say which weights' they are."""
    rho = values["spectral_radius"]
    sigma = {f"sigma_{name}": jnp.broadcast_to(lead.sigma, rho.shape) for name, lead in reads.items()}
    sigma["sigma_out"] = jnp.broadcast_to(writes.sigma, rho.shape)
    inside = sum((values[f"slope_{name}"] * sigma[f"sigma_{name}"] for name in reads), jnp.zeros_like(rho))
    bound = values["output_norm_gain"] * sigma["sigma_out"] * inside * values["norm_gain"]
    return sigma | {"bound": bound, "bound_share": rho / bound}


@jax.jit
def _alignments(
    right: Float[Array, "sample d_model"], left: Float[Array, "sample d_model"], reads: Mapping[str, Any], writes: Any
) -> dict[str, Float[Array, " sample"]]:
    found = {f"read_alignment_{name}": jnp.abs(right @ lead.direction) for name, lead in reads.items()}
    return found | {"write_alignment": jnp.abs(left @ writes.direction)}


def _blank_directions(leads: Any) -> Any:
    return jax.tree.map(
        lambda lead: lead._replace(direction=_directions(lead.direction)),
        leads,
        is_leaf=lambda node: isinstance(node, Lead),
    )


def _directions(vectors: Any) -> Float[np.ndarray, "*sample d_model"]:
    """Blank (NaN) what has no direction: vectors of length zero."""
    found = np.asarray(vectors)
    return np.where(np.any(found != 0, axis=-1, keepdims=True), found, np.asarray(np.nan, found.dtype))
