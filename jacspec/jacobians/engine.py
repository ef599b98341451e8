"""From a checkpoint and batches of tokens to the spectra of every layer: one block in memory at a time."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.corpus import check_tokens, decoder_batch, make_batches
from jacspec.errors import JacspecError
from jacspec.glossary import Batch, LayerResult, Memory, PaddedBatch
from jacspec.jacobians.branches import branch_points, components_of
from jacspec.jacobians.solvers import ENGINES, BranchSpectra, audit
from jacspec.models.block import Block, BlockSpec, Embedding, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import METRICS, compute_metrics

MAX_BATCH = 32
"""Samples in one compiled step at most: beyond it only memory grows, and progress comes in larger steps."""


SIGMA = "singular values"


class Plan(NamedTuple):
    """What is computed of every block, and how.

    `components` are full names from `branches.choose_components`, `engine` a row of `solvers.ENGINES`; `top_k` is
    that of the metrics; `decoder_input`, what a decoder is fed (`corpus.decoder_batch`); `tolerance`, relative, of
    engines that iterate; `seed`, of their start vectors and of the `audit` samples a block that are recomputed.
    """

    components: Sequence[str]
    metric_names: Sequence[str]
    engine: str = "jacfwd"
    top_k: int = 10
    decoder_input: str = "shifted"
    tolerance: float = 1e-5
    seed: int = 0
    audit: int = 0


def batch_size(spec: BlockSpec, *, tokens: int, itemsize: int, memory_bytes: float, engine: str = "jacfwd") -> int:
    """Choose how many samples go through one compiled step, from the memory that their work arrays need."""
    return int(min(max(memory_bytes // ENGINES[engine].bytes(spec, tokens, itemsize), 1), MAX_BATCH))


def memory_budget(memory_gib: float) -> float:
    """Return the bytes that work arrays may take: half of what the device says is free, else `memory_gib`."""
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return memory_gib * 2**30
    return 0.5 * (statistics["bytes_limit"] - statistics["bytes_in_use"])


def prepare_batches(
    checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], *, memory_gib: float, engine: str = "jacfwd"
) -> list[PaddedBatch]:
    """Check token ids against the model and put them into batches that fit the memory budget."""
    if memory_gib <= 0:
        raise JacspecError(f"engine.memory_gib={memory_gib} leaves no memory. Type engine.memory_gib=N with N above 0.")
    spec = checkpoint.spec
    check_tokens(tokens, positions=spec.positions, vocab=spec.vocab)
    size = batch_size(
        spec.blocks[0],
        tokens=max(len(ids) for ids in tokens),
        itemsize=checkpoint.dtype.itemsize,
        memory_bytes=memory_budget(memory_gib),
        engine=engine,
    )
    return make_batches(tokens, size=size)


def stream_layers(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    plan: Plan,
    *,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda number, samples: None,
) -> Iterator[LayerResult]:
    """Yield the result of each block, carrying all samples through the model as it goes.

    Only one block and the hidden states (sample, token, d_model) are in memory, in a decoder its encoder's output
    too. Blocks in `done` are carried through and yielded as they are, so that going on with a run gives what an
    undisturbed run gives.

    **Arguments:** `done`, results by block number; `advance`, called with (place among the blocks that have a
    chosen component, samples) as samples are finished.

    **Raises:** `JacspecError` where a value is not finite or an audit fails, naming layer, component and sample.
    """
    done = done or {}
    spec = checkpoint.spec
    working = working_blocks(spec, plan.components)
    if all(number in done for number in working):
        yield from (done[number] for number in working)
        return
    streams = _enter(checkpoint, [padded.batch for padded in batches], None)
    for number in range(working[-1] + 1):
        if number and spec.blocks[number].stack != spec.blocks[number - 1].stack:
            streams = _enter_decoder(checkpoint, streams, plan.decoder_input)
        block = checkpoint.block(number)
        if number in done:
            advance(working.index(number), sum(len(padded.samples) for padded in batches))
            yield done[number]
        elif number in working:
            report = functools.partial(advance, working.index(number))
            yield _gather(
                number, spec.layer(number), batches, _measure_block(block, number, streams, batches, plan, report)
            )
        if number < working[-1]:
            streams = [stream._replace(hidden=_step(block, *stream)) for stream in streams]
        # Only one block is ever in memory: what still reads this one ends before the next is made.
        jax.block_until_ready(streams)
        del block


def working_blocks(spec: ModelSpec, components: Sequence[str]) -> list[int]:
    """List the numbers of the blocks that have any of the chosen components."""
    return [number for number, block in enumerate(spec.blocks) if components_of(block, components)]


class _Stream(NamedTuple):
    """A batch on its way through a stack: its residual streams, and what its decoder reads."""

    hidden: Float[Array, "sample token d_model"]
    batch: Batch
    memory: Memory | None


def _enter(checkpoint: Checkpoint, batches: Sequence[Batch], memories: Sequence[Memory] | None) -> list[_Stream]:
    """Embed the tokens of all batches."""
    embedding = checkpoint.embedding()
    return [
        _Stream(_embed(embedding, batch.tokens), batch, memory)
        for batch, memory in zip(batches, memories or (None,) * len(batches), strict=True)
    ]


def _enter_decoder(checkpoint: Checkpoint, streams: Sequence[_Stream], decoder_input: str) -> list[_Stream]:
    """End the encoder with its norm, and embed what the decoder is fed."""
    start = checkpoint.spec.decoder_start
    assert start is not None
    norm = checkpoint.encoder_norm()
    memories = [Memory(_normed(norm, stream.hidden), jnp.asarray(stream.batch.lengths)) for stream in streams]
    batches = [decoder_batch(stream.batch, start=start, kind=decoder_input) for stream in streams]
    return _enter(checkpoint, batches, memories)


class _Part(NamedTuple):
    """What one batch gave of one component: values by name, a row a sample, and the deviations of its audit."""

    values: dict[str, np.ndarray]
    diagnostics: dict[str, np.ndarray]
    audited: list[float]


def _measure_block(
    block: Block,
    number: int,
    streams: Sequence[_Stream],
    batches: Sequence[PaddedBatch],
    plan: Plan,
    report: Callable[[int], None],
) -> dict[str, list[_Part]]:
    """Compute one block: by full name of the component, one part a batch."""
    components = components_of(block.spec, plan.components)
    parts: dict[str, list[_Part]] = {full: [] for full in components}
    chosen = _audited(plan, number, sum(len(padded.samples) for padded in batches))
    for padded, stream in zip(batches, streams, strict=True):
        points = branch_points(block, stream.hidden, stream.batch.lengths, stream.memory)
        count, rows = len(padded.samples), len(padded.batch.lengths)
        samples = np.array(padded.samples + padded.samples[-1:] * (rows - count))
        for full, component in components.items():
            point = points[component]
            spectra = ENGINES[plan.engine].solve(block, point, component, samples, plan.tolerance, plan.seed)
            values = measure(spectra, point.x, plan.metric_names, top_k=plan.top_k)
            found = {SIGMA: spectra.singular_values, **values}
            converged = spectra.diagnostics.get("converged", np.ones(rows, bool))
            parts[full].append(
                _Part(
                    {name: np.asarray(array)[:count] for name, array in found.items()},
                    {name: array[:count] for name, array in spectra.diagnostics.items()},
                    [
                        audit(
                            block,
                            point,
                            component,
                            row,
                            spectra,
                            f"block {number}, component {full}, sample {sample}",
                            plan.tolerance,
                        )
                        for row, sample in enumerate(padded.samples)
                        if sample in chosen and converged[row]
                    ],
                )
            )
        report(count)
    return parts


def _audited(plan: Plan, number: int, samples: int) -> set[int]:
    """Draw the samples of a block that are recomputed; none where the engine is the reference itself."""
    if plan.engine == "jacfwd":
        return set()
    drawn = np.random.default_rng([plan.seed, number]).choice(samples, min(plan.audit, samples), replace=False)
    return set(drawn.tolist())


def _gather(
    number: int, layer: int, batches: Sequence[PaddedBatch], parts: Mapping[str, Sequence[_Part]]
) -> LayerResult:
    """Put what the batches of one block gave in the order of the samples; refuse values that are not finite."""
    # Batches hold samples in order of length.
    order = np.argsort(np.concatenate([padded.samples for padded in batches]))

    def in_order(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([row[name] for row in rows])[order] for name in rows[0]}

    whole = {component: in_order([part.values for part in found]) for component, found in parts.items()}
    for component, arrays in whole.items():
        for name, values in arrays.items():
            finite = np.isfinite(values).reshape(len(order), -1).all(axis=1)
            if not finite.all():
                raise JacspecError(
                    f"Layer {layer}, component {component}, sample {int(np.argmin(finite))}: {name} not finite. A zero "
                    "Jacobian has no ratios; values too large for the precision overflow (try precision=float64)."
                )
    sigma = {component: values.pop(SIGMA) for component, values in whole.items()}
    diagnostics = {component: in_order([part.diagnostics for part in found]) for component, found in parts.items()}
    for component, found in parts.items():
        if audited := [deviation for part in found for deviation in part.audited]:
            diagnostics[component]["audit_deviation"] = np.array(audited)
    return LayerResult(number, layer, sigma, whole, diagnostics)


def measure(
    spectra: BranchSpectra, x: Float[Array, "sample d_model"], metric_names: Sequence[str], *, top_k: int
) -> dict[str, Float[Array, " sample"]]:
    """Compute the chosen metrics of a batch of Jacobians taken at `x`."""
    d_model = x.shape[1]
    needs_matrix = any(METRICS[name].needs == "matrix" for name in metric_names)
    return compute_metrics(
        metric_names,
        spectra.singular_values,
        shape=(d_model, d_model),
        top_k=top_k,
        matrices=spectra.jacobians if needs_matrix else None,
        directions=x if needs_matrix else None,
    )


@jax.jit
def _embed(embedding: Embedding, tokens: Int[Array, "sample token"]) -> Float[Array, "sample token d_model"]:
    return jax.vmap(embedding)(jnp.asarray(tokens))


@jax.jit
def _normed(norm: Any, h: Float[Array, "sample token d_model"]) -> Float[Array, "sample token d_model"]:
    return norm(h)


@jax.jit
def _step(
    block: Block, h: Float[Array, "sample token d_model"], batch: Batch, memory: Memory | None
) -> Float[Array, "sample token d_model"]:
    return jax.vmap(block)(h, jnp.asarray(batch.lengths), memory)
