"""`task=overlap`: singular vectors of every weight matrix beside the activations that enter it."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.streaming import Stream, Visit, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.matrices import block_roles
from jacspec.models.modules import leaf_names
from jacspec.runs.rows import MatrixKey, matrix_layout, matrix_row
from jacspec.samples import PaddedBatch
from jacspec.studies.inputs import Inputs
from jacspec.studies.overlap import OVERLAP
from jacspec.studies.overlap.activations import (
    ENOUGH,
    SAME_INPUT,
    compute_profile,
    input_moments,
    missing_reason,
    null_overlap,
    own_norms,
    principal_directions,
    summarise_profile,
)
from jacspec.studies.provenance import describe_checkpoint, describe_corpus
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork


class BlockMatrix(NamedTuple):
    """A matrix of a block: its row's number, its leaf, and its row's layer, role, head (none) and name."""

    number: int
    leaf: str
    key: MatrixKey


def run_overlap(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute overlaps of all weight matrices into `folder`, or resume what `config.resume` holds."""
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, console, inputs))


def _prepare(config: Config, console: Console, inputs: Inputs) -> RowWork:
    checkpoint = inputs.checkpoint()
    corpus, sample = inputs.corpus, inputs.sample(checkpoint)
    batches = prepare_batches(checkpoint, sample.tokens, memory_gib=config.engine.memory_gib)
    tokens = sum(len(ids) for ids in sample.tokens)
    widest = max(max(block.d_model, block.mlp.d_ff) for block in checkpoint.spec.blocks)
    warning = None
    if tokens < ENOUGH * widest:
        warning = (
            f"{tokens} tokens are fewer than {ENOUGH} times the {widest} dimensions of the widest input: its principal "
            "directions are those of this sample more than of the text. Raise data.samples."
        )
        console.print(warning, style="bold red", soft_wrap=True, highlight=False)
    identity = {
        "checkpoint": describe_checkpoint(checkpoint),
        "corpus": describe_corpus(corpus, sample) | {"drawn": sample.candidates},
        "batches": [list(padded.batch.tokens.shape) for padded in batches],
    }
    source = {"name": inputs.corpus_name, "source": corpus.source, "candidates": len(corpus.texts)}
    facts = {"tokens": tokens, "warning": warning, "corpus": source}
    chosen = checkpoint.spec.choose_layers(config.layers)
    stream = functools.partial(_stream, checkpoint, batches, config.data.decoder_input.value, chosen=chosen)
    return RowWork(matrix_layout(tuple(OVERLAP)), identity, facts, stream, "matrices", learnt={"left_out": {}})


def _stream(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    decoder_input: str,
    done: Mapping[int, Row],
    *,
    chosen: frozenset[int] | None = None,
) -> Iterator[Sequence[Row]]:
    """Yield the matrices of each block in turn; a block that is done is carried through."""
    spec, free = checkpoint.spec, itertools.count()
    listed: dict[int, list[BlockMatrix]] = {}
    for number, roles in block_roles(spec).items():
        layer, stack = spec.layer(number), spec.blocks[number].stack
        listed[number] = [
            BlockMatrix(next(free), leaf, (layer, f"{stack}.{role}" if stack else role, None, f"block {number} {leaf}"))
            for role, leaf in roles.items()
        ]

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        unwanted = chosen is not None and spec.layer(number) not in chosen
        if unwanted or all(each.number in done for each in listed[number]):
            return Visit(None)
        return Visit(list(_measure(block, listed[number], streams, batches)))

    yield from walk(checkpoint, batches, visit, last=len(spec.blocks) - 1, decoder_input=decoder_input)


def _measure(
    block: Block, listed: Sequence[BlockMatrix], streams: Sequence[Stream], batches: Sequence[PaddedBatch]
) -> Iterator[Row]:
    """Measure every matrix of a block against the covariance of its inputs, computed once for those that share it."""
    moments = input_moments(block, streams, batches)
    leaves: dict[str, Any] = dict(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
    directions = {place: principal_directions(own) for place, own in moments.items()}
    for number, leaf, key in listed:
        place = leaf.removesuffix(".weight")
        place = SAME_INPUT.get(place, place)
        eigenvalues, vectors, covariance = directions[place]
        weight = leaves[leaf]
        profile = compute_profile(weight, vectors, covariance)
        null = null_overlap(len(covariance), eigenvalues.size)
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        norms = own_norms(np.asarray(weight), vectors, covariance)
        metrics = summarise_profile(profile, shape, float(moments[place].total), eigenvalues, null, norms)
        profiles = {"overlap": profile.overlap, "relative_variance": profile.variance}
        reason = missing_reason(profile.sigma, metrics)
        yield matrix_row(number, key, shape, profile.sigma, metrics, reason, profiles)
