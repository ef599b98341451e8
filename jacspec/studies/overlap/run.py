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
from jacspec.errors import JacspecError
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.streaming import Stream, Visit, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.matrices import block_roles
from jacspec.models.modules import leaf_names
from jacspec.runs.rows import MatrixKey, matrix_layout, matrix_row
from jacspec.samples import PaddedBatch
from jacspec.spectra.intrinsic_dimension import FEWEST
from jacspec.studies.head_factors import head_pairs, modes_of
from jacspec.studies.inputs import Inputs
from jacspec.studies.overlap import HEAD_ROLES, OF_HEADS, OF_MODEL, OF_POINTS, OVERLAP, FisherLabels, OverlapOptions
from jacspec.studies.overlap.activations import (
    ENOUGH,
    SAME_INPUT,
    Moments,
    compute_profile,
    input_dimensions,
    input_moments,
    missing_reason,
    null_overlap,
    own_norms,
    principal_directions,
    profile_along,
    summarise_profile,
)
from jacspec.studies.overlap.fisher import FisherOfBlock, FisherOfBlocks, prepare_fisher, without_fisher
from jacspec.studies.overlap.fisher_columns import OF_FISHER
from jacspec.studies.overlap.linear_model import PROFILES, DataDirections, data_directions, hold_against_model
from jacspec.studies.provenance import describe_checkpoint, describe_corpus
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

Directions = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Eigenvalues, principal directions and covariance of an input."""


class BlockMatrix(NamedTuple):
    """A matrix of a block: its row's number, its leaf (its role, of a head), and its row's layer, role, head, name."""

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
    chosen, options = checkpoint.spec.choose_layers(config.layers), config.own(OverlapOptions)
    if options.points and options.points < FEWEST:
        raise JacspecError(f"overlap.points={options.points} is too few. Type overlap.points=2000, or 0 for none.")
    fisher = prepare_fisher(
        checkpoint,
        sample.tokens,
        count=options.fisher,
        drawn_labels=options.fisher_labels is FisherLabels.model,
        seed=config.seed,
        memory_gib=config.engine.memory_gib,
    )
    stream = functools.partial(
        _stream,
        checkpoint,
        batches,
        config.data.decoder_input.value,
        chosen=chosen,
        heads=options.heads,
        points=options.points,
        fisher=fisher,
        linear_model=options.linear_model,
    )
    columns = (*OVERLAP, *(OF_HEADS if options.heads else ()), *(OF_POINTS if options.points else ()))
    columns += tuple(OF_FISHER) if options.fisher else ()
    columns += tuple(OF_MODEL) if options.linear_model else ()
    return RowWork(matrix_layout(columns), identity, facts, stream, "matrices", learnt={"left_out": {}})


def _stream(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    decoder_input: str,
    done: Mapping[int, Row],
    *,
    chosen: frozenset[int] | None = None,
    heads: bool = False,
    points: int = 0,
    fisher: FisherOfBlocks | None = None,
    linear_model: bool = False,
) -> Iterator[Sequence[Row]]:
    """Yield the matrices of each block in turn; a block that is done is carried through.

    `fisher` measures Fisher spectra at blocks of these numbers, all before the first is yielded.
    """
    spec, free = checkpoint.spec, itertools.count()
    listed: dict[int, list[BlockMatrix]] = {}
    for number, roles in block_roles(spec).items():
        layer, stack = spec.layer(number), spec.blocks[number].stack
        keys: list[tuple[str, str, int | None, str]] = [(leaf, role, None, leaf) for role, leaf in roles.items()]
        if heads:
            every = range(spec.blocks[number].attention.heads)
            keys += [(role, role, head, f"head {head} {role}") for role in HEAD_ROLES for head in every]
        listed[number] = [
            BlockMatrix(next(free), leaf, (layer, f"{stack}.{role}" if stack else role, head, f"block {number} {name}"))
            for leaf, role, head, name in keys
        ]

    wanted = [
        number
        for number, own in listed.items()
        if (chosen is None or spec.layer(number) in chosen) and any(each.number not in done for each in own)
    ]
    spectra = fisher(wanted) if fisher and wanted else {}

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number not in wanted:
            return Visit(None)
        own, moments = spectra.get(number, {}), input_moments(block, streams, batches)
        rows = list(_measure(block, listed[number], streams, batches, moments, own, heads=heads, points=points))
        if linear_model:
            half = input_moments(block, streams, batches, half=True)
            rows = list(_add_model(block, listed[number], rows, moments, half))
        return Visit(rows)

    yield from walk(checkpoint, batches, visit, last=len(spec.blocks) - 1, decoder_input=decoder_input)


def _measure(
    block: Block,
    listed: Sequence[BlockMatrix],
    streams: Sequence[Stream],
    batches: Sequence[PaddedBatch],
    moments: Mapping[str, Moments],
    fisher: FisherOfBlock,
    *,
    heads: bool,
    points: int,
) -> Iterator[Row]:
    """Measure every matrix of a block against the covariance of its inputs, computed once for those that share it."""
    dimensions = input_dimensions(block, streams, batches, moments, points) if points else {}
    leaves: dict[str, Any] = dict(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
    directions = {place: principal_directions(own) for place, own in moments.items()}
    for number, leaf, key in listed:
        if leaf in HEAD_ROLES:
            continue
        place = leaf.removesuffix(".weight")
        place = SAME_INPUT.get(place, place)
        eigenvalues, vectors, covariance = directions[place]
        weight = leaves[leaf]
        profile = compute_profile(weight, vectors, covariance)
        null = null_overlap(len(covariance), eigenvalues.size)
        shape = (int(weight.shape[0]), int(weight.shape[1]))
        norms = own_norms(np.asarray(weight), vectors, covariance)
        variance, count = float(np.var(np.asarray(weight), dtype=np.float64)), float(moments[place].total)
        metrics = summarise_profile(profile, shape, variance, count, eigenvalues, null, norms)
        metrics |= dict.fromkeys(OF_HEADS if heads else (), float("nan")) | dimensions.get(place, {})
        profiles = {"overlap": profile.overlap, "relative_variance": profile.variance}
        reason = missing_reason(profile.sigma, metrics)
        if fisher:
            metrics, profiles, reason = fisher[leaf.removesuffix(".weight")].join(metrics, profiles, reason)
        yield matrix_row(number, key, shape, profile.sigma, metrics, reason, profiles)
    if heads:
        of_heads = [each for each in listed if each.leaf in HEAD_ROLES]
        of_input = dimensions.get("attn.q", {})
        for row in _measure_heads(block, of_heads, directions["attn.q"], float(moments["attn.q"].total)):
            row = row._replace(values={**row.values, **of_input})
            yield without_fisher(row) if fisher else row


def _measure_heads(block: Block, listed: Sequence[BlockMatrix], input_of: Directions, tokens: float) -> Iterator[Row]:
    """Measure the singular vectors of heads' products that read what enters attention; see `HEAD_ROLES`."""
    eigenvalues, vectors, covariance = input_of
    null = null_overlap(len(covariance), eigenvalues.size)
    pairs = head_pairs(block)
    modes = {product: [modes_of(pair) for pair in own] for product, own in pairs.items()}
    for number, role, key in listed:
        product, side = HEAD_ROLES[role]
        assert key[2] is not None
        found, factor = modes[product][key[2]], pairs[product][key[2]][side == "right"]
        profile = profile_along(found.sigma, getattr(found, side), vectors, covariance)
        norms = own_norms(factor, vectors, covariance)._replace(low=float("nan"), high=float("nan"))
        metrics = summarise_profile(profile, None, float("nan"), tokens, eigenvalues, null, norms)
        full = found.sigma[-1] > found.sigma[0] * len(covariance) * np.finfo(np.float64).eps
        metrics |= {
            "variance_last": float(profile.variance[-1]),
            "rounding_share": found.rounding / float(found.sigma[-1]) if full else float("nan"),
        }
        profiles = {"overlap": profile.overlap, "relative_variance": profile.variance}
        reason = missing_reason(profile.sigma, metrics, of_product=True)
        shape = (len(covariance), len(covariance))
        yield matrix_row(number, key, shape, profile.sigma, metrics, reason, profiles)


def _add_model(
    block: Block,
    listed: Sequence[BlockMatrix],
    rows: Sequence[Row],
    whole: Mapping[str, Moments],
    half: Mapping[str, Moments],
) -> Iterator[Row]:
    """Add to the rows of a block what a linear layer that has learnt would have; those of heads have none of it."""
    leaves: dict[str, Any] = dict(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
    known: dict[tuple[str, bool], DataDirections] = {}
    for (_, leaf, _), row in zip(listed, rows, strict=True):
        if leaf in HEAD_ROLES:
            nothing = dict.fromkeys(OF_MODEL, float("nan"))
            empty = {name: np.zeros(0) for name in PROFILES}
            yield row._replace(values={**row.values, **nothing}, arrays={**row.arrays, **empty})
            continue
        place = leaf.removesuffix(".weight")
        centred, place = f"{place}.bias" in leaves, SAME_INPUT.get(place, place)
        if (place, centred) not in known:
            known[place, centred] = data_directions(whole[place], half[place], centred=centred)
        found = hold_against_model(leaves[leaf], known[place, centred])
        yield row._replace(
            values={**row.values, **found.metrics},
            arrays={**row.arrays, **found.profiles},
            reason="; ".join(filter(None, (row.reason, found.reason))),
        )
