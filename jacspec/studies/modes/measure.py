"""The first pass: of each Jacobian the leading (and trailing) singular triples, with bounds and groups.

Samples are measured one by one, so that several processes may share them; what compares samples with each other comes
when all are there (`tables.py`).
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.axes import LayerResult
from jacspec.backend import Program
from jacspec.errors import JacspecError
from jacspec.jacobians import analytic, dense
from jacspec.jacobians.audit import (
    audit,
    audit_pair,
    audit_programs,
    audit_top,
    draw_samples,
    rounding,
    rows_to_audit,
)
from jacspec.jacobians.branches import Branch, components_of
from jacspec.jacobians.dense import jacobian_at
from jacspec.jacobians.engine import (
    Measured,
    Part,
    count_samples,
    make_part,
    measure,
    measure_branches,
    passing_programs,
    stream_blocks,
    working_blocks,
)
from jacspec.jacobians.lanczos import TOP
from jacspec.jacobians.solvers import ENGINES, BranchSpectra, top_spectra
from jacspec.jacobians.streaming import Stream
from jacspec.jacobians.triples import (
    UNKNOWN,
    Triples,
    alone,
    cut_groups,
    dense_triples,
    lanczos_triples,
    triple_programs,
)
from jacspec.jacobians.undefined import ZERO_JACOBIAN, ZERO_STREAM, Reasons, undefined_metrics
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.spectra.svd import singular_values

READS, WRITES, STREAM, OUTPUT = "read_vectors", "write_vectors", "stream", "output"
"""Names of the arrays that are stored: v and u of every mode, zero where σ is, x and f(x)."""

GROUP, BOUND = "group", "vector_bound"
"""Names of what is said of every mode: which group it is of, and how far it is from being a singular pair."""

OWN = ("residual_gain", "named_modes", "read_input")
"""Columns beside the metrics that are chosen."""

NO_SUBSPACE = "the leading values are too close to the next: no subspace"
WAYS_ON = "engine=analytic, or precision=float64"
FORMS: Mapping[str, Callable[[Branch], Array]] = {"jacfwd": dense.jacobians, "analytic": analytic.jacobians}


class ModesPlan(NamedTuple):
    """What is computed: `k` leading and `trailing` last modes, with names where values are `gap` apart.

    The rest as in `engine.Plan`.
    """

    components: Sequence[str]
    metric_names: Sequence[str]
    engine: str
    k: int
    trailing: int = 0
    gap: float = 0.01
    top_k: int = 10
    decoder_input: str = "shifted"
    tolerance: float = 1e-5
    seed: int = 0
    audit: int = 0
    samples: int | None = None
    layers: frozenset[int] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the values a sample."""
        return tuple(dict.fromkeys((*self.metric_names, *OWN)))

    def leading(self, d_model: int) -> int:
        """Say how many triples Lanczos finds: as many as are kept, and those that ρ and δ need."""
        return min(max(self.k, TOP), d_model)

    @property
    def numbers(self) -> list[int]:
        """Number the modes: 1 the largest value, -1 the least."""
        return [*range(1, self.k + 1), *range(-self.trailing, 0)]


def check_counts(k: int, trailing: int, gap: float, d_model: int) -> None:
    """Refuse numbers of modes that a matrix has not, and gaps that are none; raises `JacspecError`."""
    if not 1 <= k <= d_model or not 0 <= trailing <= d_model - k:
        raise JacspecError(
            f"modes.k={k} and modes.trailing={trailing} of {d_model} singular values. Accepted: k from 1, together at "
            f"most {d_model}."
        )
    if not 0 <= gap < 1:
        raise JacspecError(f"modes.gap={gap} is no share. Accepted: from 0 to below 1, as 0.01.")


def stream_modes(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    plan: ModesPlan,
    *,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    """Yield the result of each block: columns, singular values, groups, and what is stored of every mode.

    In memory are one block, the hidden states and the modes of one layer, 2 · itemsize · samples · modes · d_model
    bytes a component.

    **Arguments:** `done` and `advance` as in `engine.stream_layers`.

    **Raises:** `JacspecError` where a value is not finite or an audit fails, naming layer, component and sample.
    """
    working = working_blocks(checkpoint.spec, plan.components, plan.layers)
    measure_block = functools.partial(_measure_block, batches=batches, plan=plan, last=working[-1])
    found = stream_blocks(
        checkpoint, batches, working, measure_block, decoder_input=plan.decoder_input, done=done, advance=advance
    )
    for result in found:
        yield result if result.number in (done or {}) else _arrange(result, plan.columns)


def list_programs(checkpoint: Checkpoint, batches: Sequence[PaddedBatch], plan: ModesPlan) -> list[Program]:
    """Say what `stream_modes` compiles, the SVD kernel and metrics left out."""

    def solving(branch: Branch) -> list[Program]:
        x = branch.point.x
        audited = audit_programs(branch) if plan.audit and plan.engine != "jacfwd" else []
        if plan.engine in FORMS:
            found = ENGINES[plan.engine].programs(branch)
        else:
            found = triple_programs(branch, x, plan.leading(x.shape[1]))
        return [*found, Program(_evaluate, (branch,), {}), *audited]

    last = working_blocks(checkpoint.spec, plan.components, plan.layers)[-1]
    return passing_programs(checkpoint, batches, plan.components, plan.decoder_input, solving, last=last)


def _arrange(result: LayerResult, columns: Sequence[str]) -> LayerResult:
    """Part what is stored, and what is said of modes, from the columns."""

    def take(names: Sequence[str], found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, dict[str, np.ndarray]]:
        return {component: {name: values[name] for name in names} for component, values in found.items()}

    told = take((GROUP, BOUND), result.vectors)
    said = {component: {**own, **told[component]} for component, own in result.diagnostics.items()}
    stored = take((READS, WRITES, STREAM, OUTPUT), result.vectors)
    return result._replace(metrics=take(columns, result.metrics), stored=stored, diagnostics=said, vectors={})


def _measure_block(
    block: Block,
    number: int,
    streams: Sequence[Stream],
    report: Callable[[int], None],
    *,
    batches: Sequence[PaddedBatch],
    plan: ModesPlan,
    last: int,
) -> Measured:
    components = components_of(block.spec, plan.components)
    count = 0 if plan.engine == "jacfwd" else plan.audit
    chosen = draw_samples(count, plan.samples or count_samples(batches), [plan.seed, number])

    def measure_branch(full: str, component: str, branch: Branch, padded: PaddedBatch) -> Part:
        return _measure(branch, padded, chosen, f"block {number}, component {full}, sample", plan)

    return measure_branches(block, components, batches, streams, report, measure_branch, last=number == last)


def _measure(branch: Branch, padded: PaddedBatch, chosen: set[int], where: str, plan: ModesPlan) -> Part:
    """Compute all of one component at the samples of one batch."""
    x = branch.point.x
    spectra, triples = _solve(branch, padded, plan)
    of_spectra = [name for name in plan.metric_names if name not in OWN]
    values: dict[str, Any] = dict(measure(spectra, x, of_spectra, top_k=plan.top_k))
    output, gain = _evaluate(branch)
    stream = np.asarray(x)
    known = cut_groups(triples.group, plan.k) != UNKNOWN
    values |= {
        "residual_gain": gain,
        "named_modes": alone(triples.group)[:, : plan.k].sum(axis=1).astype(stream.dtype),
        "read_input": _read_input(stream, triples.right[:, : plan.k] * known[:, :, None]),
        READS: triples.right,
        WRITES: triples.left,
        STREAM: stream,
        OUTPUT: output,
        GROUP: triples.group,
        BOUND: triples.bounds,
    }
    undefined = _undefined(plan, np.asarray(spectra.singular_values), stream, known)
    audited = [
        _audit(branch, row, spectra, triples, f"{where} {padded.samples[row]}", plan)
        for row in rows_to_audit(padded, chosen, spectra)
    ]
    return make_part(padded, spectra, values, audited, undefined)


def _solve(branch: Branch, padded: PaddedBatch, plan: ModesPlan) -> tuple[BranchSpectra, Triples]:
    if plan.engine in FORMS:
        matrices = FORMS[plan.engine](branch)
        sigma, triples = dense_triples(matrices, k=plan.k, trailing=plan.trailing, gap=plan.gap)
        return BranchSpectra(sigma, matrices, {}), triples
    x, numbers = branch.point.x, padded.row_samples
    k = plan.leading(x.shape[1])
    found, triples = lanczos_triples(branch, numbers, x, k=k, tolerance=plan.tolerance, gap=plan.gap, seed=plan.seed)
    return top_spectra(found), triples.only(plan.k)


@jax.jit
def _evaluate(branch: Branch) -> tuple[Float[Array, "sample d_model"], Float[Array, " sample"]]:
    """Compute f(x) and ‖J x̂‖ of every sample, by one product with J."""

    def one(context: Any, x: Array) -> tuple[Array, Array]:
        output, along = jax.jvp(functools.partial(branch.f, context), (x,), (x / jnp.linalg.norm(x),))
        return output, jnp.linalg.norm(along)

    return jax.vmap(one)(*branch.point)


def _read_input(stream: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Compute what share of the stream's square lies in the span of the vectors that are known; NaN where none is."""
    return np.where(stream.any(axis=1), share_in(known, stream), np.nan).astype(stream.dtype)


def directions(vectors: Float[np.ndarray, "sample d_model"]) -> Float[np.ndarray, "sample d_model"]:
    """Scale vectors to length 1; zero stays zero."""
    wide = np.asarray(vectors, np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(length > 0, length, 1)


def share_in(
    bases: Float[np.ndarray, "sample mode d_model"], vectors: Float[np.ndarray, "sample d_model"]
) -> Float[np.ndarray, " sample"]:
    """Compute what share of each vector's square lies in its sample's subspace; NaN where that has no dimension."""
    wide = np.asarray(bases, np.float64)
    inside = np.square(np.einsum("smd,sd->sm", wide, directions(vectors))).sum(axis=1)
    return np.where(np.square(wide).sum(axis=(1, 2)) > 0.5, inside, np.nan)


def _undefined(plan: ModesPlan, sigma: np.ndarray, stream: np.ndarray, known: np.ndarray) -> Reasons:
    """Say which values a sample has none of: a zero Jacobian reads nothing, a cluster that is cut has no subspace."""
    zero, silent = sigma[:, 0] == 0, (stream == 0).all(axis=1)
    share = np.where(silent, ZERO_STREAM, np.where(zero, ZERO_JACOBIAN, np.where(known.any(axis=1), "", NO_SUBSPACE)))
    return undefined_metrics((*plan.metric_names, "residual_gain"), sigma, stream) | {"read_input": share}


def _audit(branch: Branch, row: int, spectra: BranchSpectra, triples: Triples, where: str, plan: ModesPlan) -> float:
    """Recompute one sample with `jacfwd` and SVD, and check that every mode is a singular pair of that."""
    if spectra.jacobians is not None:
        return audit(branch, row, spectra, where, plan.tolerance)
    exact = jacobian_at(branch, np.asarray(row, np.int32))
    judge: dict[str, Any] = {"ways_on": WAYS_ON, "floor": functools.partial(rounding, branch, row, exact)}
    values = np.asarray(singular_values(exact))[0]
    for sigma, right, left in zip(triples.sigma[row], triples.right[row], triples.left[row], strict=True):
        if sigma > 0:
            audit_pair(exact, sigma, right, left, where, plan.tolerance, largest=float(values[0]), **judge)
    return audit_top(np.asarray(spectra.singular_values)[row], exact, where, plan.tolerance, values=values, **judge)
