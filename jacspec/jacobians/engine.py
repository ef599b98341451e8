"""From a checkpoint and batches of tokens to the spectra of every layer: one block in memory at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.corpus import check_tokens, make_batches
from jacspec.errors import JacspecError, suggest
from jacspec.glossary import LayerResult, PaddedBatch
from jacspec.jacobians.branches import Point, branch_points
from jacspec.jacobians.dense import jacobians, work_bytes
from jacspec.models.block import Block, BlockSpec, Embedding
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import METRICS, compute_metrics
from jacspec.spectra.svd import singular_values

MAX_BATCH = 32
"""Samples in one compiled step at most: beyond it only memory grows, and progress comes in larger steps."""


class BranchSpectra(NamedTuple):
    """What an engine gives for one component of one block: singular values, and J where it has it."""

    singular_values: Float[Array, "sample k"]
    jacobians: Float[Array, "sample d_model d_model"] | None


def _jacfwd_engine(block: Block, point: Point, component: str) -> BranchSpectra:
    matrices = jacobians(block, point.context, point.x, component=component)
    return BranchSpectra(singular_values(matrices), matrices)


ENGINES: Mapping[str, Callable[[Block, Point, str], BranchSpectra]] = {"jacfwd": _jacfwd_engine}
"""`engine(block, point, component)` by name."""

AUTO = "auto"
SIGMA = "singular values"


def choose_engine(name: str) -> str:
    """Resolve `auto` to the cheapest engine that gives the chosen metrics; raises `JacspecError` for an unknown one."""
    if name != AUTO and name not in ENGINES:
        raise JacspecError(f"engine={name} is not known. " + suggest(name, [AUTO, *ENGINES]))
    return "jacfwd" if name == AUTO else name


def batch_size(spec: BlockSpec, *, tokens: int, itemsize: int, memory_bytes: float) -> int:
    """Choose how many samples go through one compiled step, from the memory that their work arrays need."""
    return int(min(max(memory_bytes // work_bytes(spec, tokens=tokens, itemsize=itemsize), 1), MAX_BATCH))


def memory_budget(memory_gib: float) -> float:
    """Return the bytes that work arrays may take: half of what the device says is free, else `memory_gib`."""
    statistics = jax.local_devices()[0].memory_stats()
    if not statistics or "bytes_limit" not in statistics:
        return memory_gib * 2**30
    return 0.5 * (statistics["bytes_limit"] - statistics["bytes_in_use"])


def prepare_batches(checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], *, memory_gib: float) -> list[PaddedBatch]:
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
    )
    return make_batches(tokens, size=size)


def stream_layers(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    *,
    components: Sequence[str],
    metric_names: Sequence[str],
    engine: str = "jacfwd",
    top_k: int = 10,
    done: Mapping[int, LayerResult] | None = None,
    advance: Callable[[int, int], None] = lambda layer, samples: None,
) -> Iterator[LayerResult]:
    """Yield the result of each layer, carrying all samples through the model as it goes.

    Only one block and the hidden states (sample, token, d_model) are in memory. Layers in `done` are carried
    through and yielded as they are, so that going on with a run gives what an undisturbed run gives.

    **Arguments:** `advance`, called with (layer, samples) as samples are finished.

    **Raises:** `JacspecError` where a value is not finite, naming layer, component and sample.
    """
    done = done or {}
    embedding = checkpoint.embedding()
    hidden = [_embed(embedding, padded.batch.tokens) for padded in batches]
    del embedding
    n_samples = sum(len(padded.samples) for padded in batches)
    last = len(checkpoint.spec.blocks) - 1
    if all(layer in done for layer in range(last + 1)):
        yield from (done[layer] for layer in range(last + 1))
        return
    for layer, block in enumerate(checkpoint.blocks()):
        if layer in done:
            advance(layer, n_samples)
            yield done[layer]
        else:
            yield _layer_result(layer, block, hidden, batches, components, metric_names, engine, top_k, advance)
        if layer < last:
            hidden = [_step(block, h) for h in hidden]


def _layer_result(
    layer: int,
    block: Block,
    hidden: Sequence[Float[Array, "_ _ d_model"]],
    batches: Sequence[PaddedBatch],
    components: Sequence[str],
    metric_names: Sequence[str],
    engine: str,
    top_k: int,
    advance: Callable[[int, int], None],
) -> LayerResult:
    """Compute one layer for all batches."""
    rows: dict[str, list[dict[str, np.ndarray]]] = {component: [] for component in components}
    for padded, h in zip(batches, hidden, strict=True):
        points = branch_points(block, h, padded.batch.lengths)
        for component in components:
            spectra = ENGINES[engine](block, points[component], component)
            values = measure(spectra, points[component].x, metric_names, top_k=top_k)
            found = {SIGMA: spectra.singular_values, **values}
            rows[component].append(_checked(layer, component, padded.samples, found))
        advance(layer, len(padded.samples))
    whole = {
        component: {name: _in_sample_order(batches, [row[name] for row in parts]) for name in parts[0]}
        for component, parts in rows.items()
    }
    sigma = {component: values.pop(SIGMA) for component, values in whole.items()}
    return LayerResult(layer, sigma, whole)


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


def _checked(layer: int, component: str, samples: Sequence[int], arrays: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Bring a batch to the host without the rows that pad it; refuse values that are not finite."""
    rows = {name: np.asarray(array)[: len(samples)] for name, array in arrays.items()}
    for name, values in rows.items():
        finite = np.isfinite(values).reshape(len(samples), -1).all(axis=1)
        if not finite.all():
            raise JacspecError(
                f"Layer {layer}, component {component}, sample {samples[int(np.argmin(finite))]}: {name} not finite. "
                "A zero Jacobian has no ratios; values too large for the precision overflow (try precision=float64)."
            )
    return rows


def _in_sample_order(batches: Sequence[PaddedBatch], rows: Sequence[np.ndarray]) -> np.ndarray:
    """Put the rows of all batches, which hold samples in order of length, in the order of the samples."""
    order = np.concatenate([padded.samples for padded in batches])
    return np.concatenate(rows)[np.argsort(order)]


@jax.jit
def _embed(embedding: Embedding, tokens: Int[Array, "sample token"]) -> Float[Array, "sample token d_model"]:
    return jax.vmap(embedding)(jnp.asarray(tokens))


@jax.jit
def _step(block: Block, h: Float[Array, "sample token d_model"]) -> Float[Array, "sample token d_model"]:
    return jax.vmap(block)(h)
