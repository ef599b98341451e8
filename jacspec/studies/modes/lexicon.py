"""What directions of a run are read in words with: embedding, unembedding, directions of chance, average streams."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.backend import Program
from jacspec.jacobians.streaming import Stream
from jacspec.models.block import Head, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.studies.modes.directions import STABLE
from jacspec.studies.modes.through import Way, mean_map, push_writes
from jacspec.studies.modes.vocabulary import (
    Drawn,
    Null,
    Table,
    about_mean,
    average_streams,
    cosine_table,
    draw_chance,
    draw_null,
    later_tokens,
    score_program,
    strongest_program,
    token_vectors,
)

DEPTH = "depth"

FEWEST_TOKENS = 10
"""Tokens with an average stream, below which none of them is scored."""


class WordsPlan(NamedTuple):
    """How words are found: `draws` of chance, `shown` tokens at either end, the first `own` modes of each sample.

    Of more samples than `own_samples` so many are drawn for their own modes.

    `through` is `direct` or `depth`, of `samples` drawn ones.
    """

    draws: int = 499
    shown: int = 8
    own: int = 1
    own_samples: int = 256
    seed: int = 0
    memory_bytes: float = 2.0**30
    through: str = "direct"
    samples: int = 32


class Lexicon(NamedTuple):
    """What directions of all layers are read with. `facts` are for `run.json`."""

    spec: ModelSpec
    tokenizer: Any
    plan: WordsPlan
    embedding: Table
    embedding_null: Null | None
    unembedding: Table | None
    facts: Mapping[str, Any]

    def writes_to_tokens(self, stack: str) -> bool:
        """Say whether a stack has a way to logits: an encoder beside a decoder has none."""
        return self.unembedding is not None and stack != "encoder"


class Around(NamedTuple):
    """What directions of one block are compared with: directions of chance to write, and average streams of tokens."""

    drawn: Drawn | None
    streams: Table | None
    streams_null: Null | None


def make_lexicon(checkpoint: Checkpoint, plan: WordsPlan) -> Lexicon:
    """Read embedding and unembedding of a model, once a run."""
    ids = np.arange(checkpoint.spec.vocab)
    table = cosine_table(token_vectors(checkpoint.embedding()), ids)
    null = draw_null(table, draw_chance(np.asarray(table.rows), plan.draws, [plan.seed, 11]), plan.memory_bytes)
    unembedding, said = None, "no unembedding in this checkpoint: writes have no words, reads alone"
    if checkpoint.has_head:
        head = checkpoint.head()
        rows = head.unembed.weight[...]
        unembedding = Table(rows, rows.mean(axis=0), jnp.ones(len(rows), rows.dtype), ids)
        said = _say_way(head, plan)
        if len(checkpoint.spec.stacks) > 1:
            said += "; encoder: no unembedding, reads alone"
    facts = {
        "writes": said,
        "through": plan.through if checkpoint.has_head else None,
        "draws": plan.draws,
        "reads": "token embeddings less their mean",
        "stable": STABLE,
    }
    return Lexicon(checkpoint.spec, checkpoint.tokenizer, plan, table, null, unembedding, facts)


def word_programs(checkpoint: Checkpoint, plan: WordsPlan, samples: int, k: int) -> list[Program]:
    """Say what words compile of `samples` samples with `k` modes, known from the model's spec."""
    spec, dtype = checkpoint.spec, checkpoint.dtype
    streams = jax.ShapeDtypeStruct((samples, spec.d_model), dtype)
    found = [Program(token_vectors, (checkpoint.shapes("embedding", 0),), {})]
    tables = [found[0].result()]
    found.append(Program(about_mean, (tables[0],), {}))
    if checkpoint.has_head:
        head = checkpoint.shapes("head", 0)
        tables.append(jax.ShapeDtypeStruct((spec.vocab, spec.head.width), dtype))
        if plan.through != DEPTH:
            found += [Program(mean_map, (head, streams), {}), Program(push_writes, (head, streams, streams), {})]
    for rows in tables:
        found.append(score_program(rows, k, plan.shown, plan.memory_bytes))
        counts = (plan.draws, min(samples, plan.own_samples))
        found += [strongest_program(rows, count, plan.memory_bytes) for count in counts]
    return found


def _say_way(head: Head, plan: WordsPlan) -> str:
    through = "MLM head" if head.transform is not None else "final norm" if head.norm is not None else "no norm"
    said = f"derivative of the head ({through}) at each sample's last token"
    if plan.through == DEPTH:
        said = f"derivative of all later blocks and of the head ({through}) at the last token of {plan.samples} samples"
    return f"{said}, unembedding less its mean"


def surround(
    lexicon: Lexicon, number: int, batches: Sequence[PaddedBatch], entering: Sequence[Stream], left: Sequence[Stream]
) -> Around:
    """Collect what directions of block `number` are compared with, from the streams that enter and leave it.

    Each sample's first token is left out: there streams of trained models are of another size (attention sinks).
    """
    plan, spec = lexicon.plan, lexicon.spec
    drawn, streams, streams_null = None, None, None
    if lexicon.writes_to_tokens(spec.blocks[number].stack):
        drawn = draw_chance(later_tokens(batches, left)[0], plan.draws, [plan.seed, 12, number])
    if spec.layer(number):
        averages, ids = average_streams(*later_tokens(batches, entering))
        if len(ids) >= FEWEST_TOKENS:
            streams = cosine_table(jnp.asarray(averages), ids)
            null = draw_chance(averages, plan.draws, [plan.seed, 13, number])
            streams_null = draw_null(streams, null, plan.memory_bytes)
    return Around(drawn, streams, streams_null)


class WriteNulls(NamedTuple):
    """What directions of chance that a block writes give: through the mean map, and each at one of the samples."""

    shared: Null | None
    own: Null | None


def draw_writes(lexicon: Lexicon, way: Way, around: Around) -> WriteNulls:
    """Score directions of chance that a block writes, taken the same way as what it does write."""
    assert lexicon.unembedding is not None
    draw = functools.partial(draw_null, lexicon.unembedding, around.drawn, lexicon.plan.memory_bytes)
    return WriteNulls(draw(lambda directions: through_mean(way, directions)), draw(way.push_in_turn))


def through_mean(way: Way, directions: Float[np.ndarray, "direction d_model"]) -> Float[Array, "direction width"]:
    """Take directions through the map that is averaged over samples."""
    return jnp.asarray(directions, way.mean.dtype) @ way.mean.T
