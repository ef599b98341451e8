"""From a checkpoint and batches of tokens to the spectra of every layer: one block in memory at a time."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Shaped

from jacspec.axes import LayerResult
from jacspec.backend import Program
from jacspec.errors import JacspecError
from jacspec.jacobians.audit import audit, audit_programs, draw_samples, rows_to_audit
from jacspec.jacobians.branches import BRANCHES, Branch, components_of
from jacspec.jacobians.collapse import COLLAPSE, measure_collapse
from jacspec.jacobians.devices import count_devices, largest_batch, spread_samples
from jacspec.jacobians.linearity import CURVATURE, RADIUS, linearity_programs, measure_linearity
from jacspec.jacobians.nonnormality import PSEUDOSPECTRA, RING, beside_chance, find_pseudospectra
from jacspec.jacobians.solvers import ALL, ENGINES, BranchSpectra, carry_bytes
from jacspec.jacobians.streaming import Stream, Visit, pass_through, stream_programs, walk
from jacspec.jacobians.switching import ROUTER_MARGIN, router_margins
from jacspec.jacobians.undefined import Reasons, explain, undefined_metrics
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.spectra.eigenvalues import relative_eigenvalues
from jacspec.spectra.metrics import METRICS, OF_SPECTRUM, compute_metrics
from jacspec.text.corpus import check_tokens, make_batches

SIGMA = "singular values"


class Plan(NamedTuple):
    """What is computed of every block, and how.

    `components` are full names from `branches.choose_components`, `engine` a row of `solvers.ENGINES`; `top_k` is
    that of the metrics; `decoder_input`, what a decoder is fed (`corpus.decoder_batch`); `tolerance`, relative, of
    engines that iterate; `seed`, of their start vectors and of the `audit` samples a block that are recomputed, drawn
    from all `samples` of the run, where they are more than those of the batches; `layers`, those that are measured
    (None: all); `margins`, whether how far each sample is from other experts is measured too; `linearity`, the
    directions, rows of `linearity.RADIUS`, along which it is measured how far the Jacobian holds; `eigenvalues`,
    whether they are kept; `pseudospectra`, of how many samples; `collapse`, whether the tokens' own ranks are measured.
    """

    components: Sequence[str]
    metric_names: Sequence[str]
    engine: str = "jacfwd"
    top_k: int = 10
    decoder_input: str = "shifted"
    tolerance: float = 1e-5
    seed: int = 0
    audit: int = 0
    samples: int | None = None
    layers: frozenset[int] | None = None
    margins: bool = False
    linearity: Sequence[str] = ()
    eigenvalues: bool = False
    pseudospectra: int = 0
    collapse: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Name the values a sample: how far J holds stands beside its largest values."""
        top = [name for name in self.metric_names if METRICS[name].needs == "top"]
        further = [name for name in self.metric_names if name not in top]
        margins, curved = [ROUTER_MARGIN] * self.margins, [CURVATURE] * ("top" in self.linearity)
        rings, pseudo = RING * self.eigenvalues, PSEUDOSPECTRA * (self.pseudospectra > 0)
        ranks = COLLAPSE * self.collapse
        return (*top, *(RADIUS[name] for name in self.linearity), *further, *margins, *curved, *rings, *pseudo, *ranks)


def batch_size(spec: BlockSpec, *, tokens: int, itemsize: int, memory_bytes: float, engine: str = "jacfwd") -> int:
    """Choose how many samples go through one compiled step, from the memory that their work arrays need.

    Those of the engine, or those that carry them through the block, which are not there at the same time.
    """
    each = max(ENGINES[engine].bytes(spec, tokens, itemsize), carry_bytes(spec, tokens, itemsize))
    return int(max(memory_bytes // each, 1))


def memory_budget(memory_gib: float) -> float:
    """Return the bytes that work arrays may take: half of what the device says is free, else `memory_gib`.

    Of a device in whole GiB, so that the processes of a run, each on a device alike, make the same batches.
    """
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return memory_gib * 2**30
    return (statistics["bytes_limit"] - statistics["bytes_in_use"]) // 2**31 * 2.0**30


def prepare_batches(
    checkpoint: Checkpoint,
    tokens: Sequence[Sequence[int]],
    *,
    memory_gib: float,
    engine: str = "jacfwd",
    devices: str = "1",
    largest: int | None = None,
) -> list[PaddedBatch]:
    """Check token ids against the model and put them into batches that fit the memory budget.

    **Arguments:** `devices`, as `devices.count_devices` reads it, over which each batch is spread; `largest`, how many
    samples a batch holds at most, a device, as `devices.largest_batch` reads it.
    """
    if memory_gib <= 0:
        raise JacspecError(f"engine.memory_gib={memory_gib} leaves no memory. Type engine.memory_gib=N with N above 0.")
    most = largest_batch(largest)
    spec = checkpoint.spec
    check_tokens(tokens, positions=spec.positions, vocab=spec.vocab)
    size = batch_size(
        spec.blocks[0],
        tokens=max(len(ids) for ids in tokens),
        itemsize=checkpoint.dtype.itemsize,
        memory_bytes=memory_budget(memory_gib),
        engine=engine,
    )
    count = count_devices(devices)
    return spread_samples(make_batches(tokens, size=int(min(size, most)), packs=count), count)


def stream_layers(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    plan: Plan,
    *,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    """Yield the result of each block, carrying all samples through the model as it goes.

    Blocks in `done` are carried through and yielded as they are, so that resuming a run gives what an
    undisturbed run gives.

    **Arguments:** `done`, results by block number; `advance`, called with (place among the blocks that have a
    chosen component, samples) as samples are finished.

    **Raises:** `JacspecError` where a value is not finite or an audit fails, naming layer, component and sample.
    """
    working = working_blocks(checkpoint.spec, plan.components, plan.layers)
    measure_block = functools.partial(_measure_block, batches=batches, plan=plan, last=working[-1])
    return stream_blocks(
        checkpoint, batches, working, measure_block, decoder_input=plan.decoder_input, done=done, advance=advance
    )


def stream_blocks(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    working: Sequence[int],
    measure_block: Callable[[Block, int, Sequence[Stream], Callable[[int], None]], "Measured"],
    *,
    decoder_input: str,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    """Yield what `measure_block(block, number, streams, report)` finds of each of the blocks `working`.

    **Arguments:** `done` and `advance` as in `stream_layers`.
    """
    done = done or {}
    spec = checkpoint.spec
    if all(number in done for number in working):
        yield from (done[number] for number in working)
        return

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number not in working:
            return Visit(None)
        report = functools.partial(advance, working.index(number))
        if number in done:
            report(count_samples(batches))
            return Visit(done[number])
        found = measure_block(block, number, streams, report)
        return Visit(gather(number, spec.layer(number), batches, found.parts), found.left)

    yield from walk(checkpoint, batches, visit, last=working[-1], decoder_input=decoder_input)


def working_blocks(spec: ModelSpec, components: Sequence[str], layers: frozenset[int] | None = None) -> list[int]:
    """List the numbers of the blocks of `layers` (None: all) that have any of the chosen components."""
    return [
        number
        for number, block in enumerate(spec.blocks)
        if components_of(block, components) and (layers is None or spec.layer(number) in layers)
    ]


def list_programs(checkpoint: Checkpoint, batches: Sequence[PaddedBatch], plan: Plan) -> list[Program]:
    """Say what `stream_layers` compiles, the SVD kernel and metrics left out."""

    def solving(branch: Branch) -> list[Program]:
        audited = plan.audit and plan.engine != "jacfwd"
        engine = ENGINES[plan.engine]
        further = linearity_programs(branch, names=plan.linearity, formed=engine.needs == ALL)
        return [*engine.programs(branch), *(audit_programs(branch) if audited else ()), *further]

    last = working_blocks(checkpoint.spec, plan.components, plan.layers)[-1]
    return passing_programs(checkpoint, batches, plan.components, plan.decoder_input, solving, last=last)


def passing_programs(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    components: Sequence[str],
    decoder_input: str,
    solving: Callable[[Branch], list[Program]],
    *,
    last: int,
) -> list[Program]:
    """Say what a pass through blocks 0 to `last` compiles: some programs a kind of block, whatever layers and samples.

    Known from the model's spec and the shape of a batch. Of batches that are spread over devices nothing is said.

    **Arguments:** `solving(branch)`, what is compiled for a component, given shapes.
    """
    if len(batches[0].batch.tokens) > 1:
        return []
    found = stream_programs(checkpoint, batches[0].batch, components, decoder_input, solving, last=last)
    return [program for place, program in enumerate(found) if program not in found[:place]]


class Part(NamedTuple):
    """What one batch gave of one component: values by name, a row a sample, and the deviations of its audit.

    `undefined` says which values may be missing there, and why.
    """

    values: dict[str, np.ndarray]
    diagnostics: dict[str, np.ndarray]
    audited: list[float]
    undefined: Reasons


class Measured(NamedTuple):
    """What was found of one block: by full name of the component one part a batch; and the streams that leave it."""

    parts: dict[str, list[Part]]
    left: list[Stream]


def _measure_block(
    block: Block,
    number: int,
    streams: Sequence[Stream],
    report: Callable[[int], None],
    *,
    batches: Sequence[PaddedBatch],
    plan: Plan,
    last: int,
) -> Measured:
    engine = ENGINES[plan.engine]
    count = 0 if plan.engine == "jacfwd" else plan.audit  # the reference itself is not audited
    total = plan.samples or count_samples(batches)
    chosen = draw_samples(count, total, [plan.seed, number])
    held = frozenset(draw_samples(plan.pseudospectra, total, [plan.seed]))  # the same in every layer

    def measure_branch(full: str, component: str, branch: Branch, padded: PaddedBatch) -> Part:
        where = f"block {number}, component {full}, sample"
        spectra = engine.solve(branch, padded.row_samples, plan.tolerance, plan.seed)
        audited = [
            audit(branch, row, spectra, f"{where} {padded.samples[row]}", plan.tolerance)
            for row in rows_to_audit(padded, chosen, spectra)
        ]
        x = branch.point.x
        eigenvalues = _eigenvalues(spectra) if plan.eigenvalues else None
        values = measure(spectra, x, plan.metric_names, top_k=plan.top_k, eigenvalues=eigenvalues)
        undefined = undefined_metrics(plan.metric_names, *map(np.asarray, (spectra.singular_values, x)))
        if plan.margins:
            margins, undefined[ROUTER_MARGIN] = router_margins(branch)
            values[ROUTER_MARGIN] = jnp.asarray(margins)
        radii, missing = measure_linearity(
            branch, plan.linearity, spectra, padded, tolerance=plan.tolerance, seed=plan.seed, number=number
        )
        values, undefined = values | radii, undefined | missing
        beside = []
        if eigenvalues is not None:
            seed = [plan.seed, number, [*BRANCHES].index(component)]
            beside.append(beside_chance(spectra, eigenvalues, padded.samples, seed))
        if plan.pseudospectra:
            beside.append(find_pseudospectra(spectra, padded.samples, held if component == "block" else None))
        for found in beside:
            values |= {name: jnp.asarray(array) for name, array in found.values.items()}
            undefined |= found.undefined
        return make_part(padded, spectra, values, audited, undefined)

    components = components_of(block.spec, plan.components)
    measured = measure_branches(block, components, batches, streams, report, measure_branch, last=number == last)
    return _add_collapse(measured, block, components, batches, streams) if plan.collapse else measured


def _add_collapse(
    measured: Measured,
    block: Block,
    components: Mapping[str, str],
    batches: Sequence[PaddedBatch],
    streams: Sequence[Stream],
) -> Measured:
    """Put beside what was found of each batch how near its tokens are to one another."""
    found = [
        measure_collapse(block, components, stream, padded) for padded, stream in zip(batches, streams, strict=True)
    ]
    return measured._replace(
        parts={
            full: [
                part._replace(values=part.values | own[full][0], undefined={**part.undefined, **own[full][1]})
                for part, own in zip(parts, found, strict=True)
            ]
            for full, parts in measured.parts.items()
        }
    )


def measure_branches(
    block: Block,
    components: Mapping[str, str],
    batches: Sequence[PaddedBatch],
    streams: Sequence[Stream],
    report: Callable[[int], None],
    measure_branch: Callable[[str, str, Branch, PaddedBatch], Part],
    *,
    last: bool,
) -> Measured:
    """Carry the samples through a block, batch by batch, and measure its branches at each.

    **Arguments:** `components`, from full names to those in `BRANCHES`; `report`, told of samples that are done;
    `measure_branch(full, component, branch, padded)`; `last`, whether no block after this one is measured.
    """
    measured = Measured({full: [] for full in components}, [])
    for padded, stream in zip(batches, streams, strict=True):
        branches, left = pass_through(block, stream, list(components.values()), last=last)
        measured.left.append(left)
        for full, component in components.items():
            measured.parts[full].append(measure_branch(full, component, branches[component], padded))
        report(len(padded.samples))
    return measured


def count_samples(batches: Sequence[PaddedBatch]) -> int:
    """Count the samples of batches, their padding left out."""
    return sum(len(padded.samples) for padded in batches)


def make_part(
    padded: PaddedBatch,
    spectra: BranchSpectra,
    values: Mapping[str, Shaped[Array | np.ndarray, "row *each"]],
    audited: list[float],
    undefined: Reasons,
) -> Part:
    """Keep of a batch what belongs to its samples, leaving its padding out."""
    count = len(padded.samples)
    found = {SIGMA: spectra.singular_values, **values}
    return Part(
        {name: np.asarray(array)[:count] for name, array in found.items()},
        {name: array[:count] for name, array in spectra.diagnostics.items()},
        audited,
        {name: array[:count] for name, array in undefined.items()},
    )


def gather(number: int, layer: int, batches: Sequence[PaddedBatch], parts: Mapping[str, Sequence[Part]]) -> LayerResult:
    """Put what the batches of one block gave in the order of the samples.

    What has an axis more than a metric is one of its vectors. A value that is undefined by construction is missing
    (NaN) for a reason; any other that is not finite is refused.
    """
    # Batches hold samples in order of length; one of several processes has not all of them.
    samples = np.concatenate([padded.samples for padded in batches])
    order = np.argsort(samples)

    def in_order(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([row[name] for row in rows])[order] for name in rows[0]}

    whole, reasons = {}, {}
    for component, found in parts.items():
        values, undefined = in_order([part.values for part in found]), in_order([part.undefined for part in found])
        whole[component], reasons[component], strays = explain(values, undefined)
        for name, row in strays:
            raise JacspecError(
                f"Layer {layer}, component {component}, sample {samples[order][row]}: {name} not finite. "
                "Values too large or too small for the precision give that: try precision=float64."
            )
    sigma = {component: values.pop(SIGMA) for component, values in whole.items()}
    metrics, vectors = (
        {component: {name: each for name, each in values.items() if (each.ndim > 1) == wide}
         for component, values in whole.items()}
        for wide in (False, True)
    )  # fmt: skip
    diagnostics = {component: in_order([part.diagnostics for part in found]) for component, found in parts.items()}
    for component, found in parts.items():
        if audited := [deviation for part in found for deviation in part.audited]:
            diagnostics[component]["audit_deviation"] = np.array(audited)
    return LayerResult(number, layer, sigma, metrics, diagnostics, vectors, reasons)


def _eigenvalues(spectra: BranchSpectra) -> Complex[Array, "sample d_model"]:
    assert spectra.jacobians is not None
    return relative_eigenvalues(spectra.jacobians, spectra.singular_values)


def measure(
    spectra: BranchSpectra,
    x: Float[Array, "sample d_model"],
    metric_names: Sequence[str],
    *,
    top_k: int,
    eigenvalues: Complex[Array, "sample d_model"] | None = None,
) -> dict[str, Float[Array, " sample"]]:
    """Compute the chosen metrics of a batch of Jacobians taken at `x`; `eigenvalues` as in `compute_metrics`."""
    d_model = x.shape[1]
    needs_matrix = any(METRICS[name].needs not in OF_SPECTRUM for name in metric_names)
    return compute_metrics(
        metric_names,
        spectra.singular_values,
        shape=(d_model, d_model),
        top_k=top_k,
        matrices=spectra.jacobians if needs_matrix else None,
        directions=x if needs_matrix else None,
        eigenvalues=eigenvalues,
    )
