r"""Directions in words: which tokens a write makes likelier, and which tokens lie along a read.

A write $u$ of a Jacobian changes the logits of the next token by $W_U \, G u$, $G$ the derivative of what the
unembedding $W_U$ reads with respect to the stream that is written to, at the sample's own last token: directly (that
of the final norm, or of the transform of a masked model's head), or through all later blocks (`through.py`). Scores
are less their mean over the vocabulary, which softmax does not see; a softcap comes after them. Directly, what later
layers make of the write is left out: that is what the check measures. A read $v$ is scored by its cosine with token
embeddings less their mean, and above the first layer with the average stream of each token of the text there, less the
mean of those.

The sign of a singular vector is arbitrary. Here it is the one for which the largest |score| is positive.

Some token always comes first. Whether its score is more than chance depends on what chance is: streams and embeddings
of trained models lie along few directions, and so do directions that mean nothing. So a write is compared with
directions of the covariance of the stream that it goes to, taken the same way, a read with directions of the
covariance of what it is scored with, all of length 1, by the largest |score|: p = (1 + draws that reach it) / (1 +
draws) (Davison & Hinkley 1997, 4.2.3).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jacspec.backend import Program
from jacspec.jacobians.streaming import Stream
from jacspec.jacobians.triples import alone
from jacspec.models.block import Head, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.modes import OWN_COLUMNS, WORD_COLUMNS
from jacspec.studies.modes.directions import STABLE, Modes, Shared, shared_directions, unnamed
from jacspec.studies.modes.through import Way, mean_map, push_writes
from jacspec.studies.modes.vocabulary import (
    Null,
    Table,
    average_streams,
    cosine_table,
    draw_like,
    draw_null,
    judge,
    later_tokens,
    say_tokens,
    score,
    score_program,
    token_text,
    token_vectors,
)

P, Q = WORD_COLUMNS.index("p"), WORD_COLUMNS.index("q")
OWN_P, OWN_Q = OWN_COLUMNS.index("p"), OWN_COLUMNS.index("q")

WRITE, READ, READ_STREAM = "write", "read", "read stream"
DEPTH = "depth"


FEWEST_TOKENS = 10
"""Tokens with an average stream, below which none of them is scored."""


class WordsPlan(NamedTuple):
    """How words are found: `draws` of chance, `shown` tokens at either end, the first `own` modes of each sample.

    `through` is `direct` or `depth`, of `samples` drawn ones.
    """

    draws: int = 499
    shown: int = 8
    own: int = 1
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

    drawn: Float[np.ndarray, "draw d_model"] | None
    streams: Table | None
    streams_null: Null | None


class Words(NamedTuple):
    """Rows under `WORD_COLUMNS` of directions that samples share, and under `OWN_COLUMNS` of each sample's own."""

    shared: list[tuple[Any, ...]]
    own: list[tuple[Any, ...]]


def make_lexicon(checkpoint: Checkpoint, plan: WordsPlan) -> Lexicon:
    """Read embedding and unembedding of a model, once a run."""
    ids = np.arange(checkpoint.spec.vocab)
    table = cosine_table(token_vectors(checkpoint.embedding()), ids)
    null = draw_null(table, draw_like(np.asarray(table.rows), plan.draws, [plan.seed, 11]), plan.memory_bytes)
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
        "through": plan.through,
        "draws": plan.draws,
        "reads": "token embeddings less their mean",
        "stable": STABLE,
    }
    return Lexicon(checkpoint.spec, checkpoint.tokenizer, plan, table, null, unembedding, facts)


def word_programs(checkpoint: Checkpoint, plan: WordsPlan, samples: int, k: int) -> list[Program]:
    """Say what words compile of `samples` samples with `k` modes, known from the model's spec."""
    width = jax.ShapeDtypeStruct((samples, checkpoint.spec.d_model), checkpoint.dtype)
    found = [Program(token_vectors, (checkpoint.shapes("embedding", 0),), {})]
    tables = [found[0].result()]
    if checkpoint.has_head:
        head = checkpoint.shapes("head", 0)
        tables.append(head.unembed.weight[...])
        if plan.through != DEPTH:
            found += [Program(mean_map, (head, width), {}), Program(push_writes, (head, width, width), {})]
    sizes = ((plan.draws, 1), (k, plan.shown), (samples, 1))
    return found + [score_program(rows, *size, plan.memory_bytes) for rows in tables for size in sizes]


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
        drawn = draw_like(later_tokens(batches, left)[0], plan.draws, [plan.seed, 12, number])
    if spec.layer(number):
        averages, ids = average_streams(*later_tokens(batches, entering))
        if len(ids) >= FEWEST_TOKENS:
            streams = cosine_table(jnp.asarray(averages), ids)
            null = draw_like(averages, plan.draws, [plan.seed, 13, number])
            streams_null = draw_null(streams, null, plan.memory_bytes)
    return Around(drawn, streams, streams_null)


def read_component(lexicon: Lexicon, around: Around, layer: int, component: str, modes: Modes) -> Words:
    """Find the words of what one component reads: of directions that samples share, and of each sample's first modes.

    A direction has words where it is one: not inside a subspace of equal singular values, and, shared, where two
    halves of the samples find the same.
    """
    key = (layer, component)
    found = shared_directions(modes.sigma, modes.group, modes.reads)
    rows = _shared_rows(lexicon, (*key, READ), found, lexicon.embedding, lexicon.embedding_null, jnp.asarray)
    if around.streams is not None:
        further = _shared_rows(lexicon, (*key, READ_STREAM), found, around.streams, around.streams_null, jnp.asarray)
        rows = [*rows, *further]
    own = []
    for mode in _own_modes(lexicon, modes):
        reads = jnp.asarray(np.nan_to_num(modes.reads[:, mode]))
        keep = _named(modes)[:, mode]
        own.append(_own_row(lexicon, (*key, READ, mode + 1), reads, keep, lexicon.embedding, lexicon.embedding_null))
    return Words([*rows], own)


def write_component(lexicon: Lexicon, way: Way, null: Null | None, layer: int, component: str, modes: Modes) -> Words:
    """Find the words of what one component writes, as `read_component` does of its reads.

    **Arguments:** `way`, what becomes of what it writes; `null`, directions of chance taken the same way.
    """
    assert lexicon.unembedding is not None
    key, table = (layer, component, WRITE), lexicon.unembedding
    found = shared_directions(modes.sigma, modes.group, modes.writes)
    rows = _shared_rows(lexicon, key, found, table, null, lambda directions: _through(way.mean, directions))
    own = []
    for mode in _own_modes(lexicon, modes):
        pushed = way.push(np.nan_to_num(modes.writes[:, mode]))
        own.append(_own_row(lexicon, (*key, mode + 1), pushed, _named(modes)[way.samples, mode], table, null))
    return Words([*rows], own)


def draw_writes(lexicon: Lexicon, way: Way, around: Around) -> Null | None:
    """Score directions of chance that a block writes, taken the same way."""
    assert lexicon.unembedding is not None
    return draw_null(lexicon.unembedding, around.drawn, lexicon.plan.memory_bytes, way.mean)


def _own_modes(lexicon: Lexicon, modes: Modes) -> range:
    return range(min(lexicon.plan.own, modes.sigma.shape[1]))


def _named(modes: Modes) -> Bool[np.ndarray, "sample mode"]:
    """Say which vectors are directions of their own."""
    return alone(modes.group) & np.isfinite(modes.writes).all(axis=2) & np.isfinite(modes.reads).all(axis=2)


def _through(matrix: Array, directions: np.ndarray) -> Array:
    return jnp.asarray(directions, matrix.dtype) @ matrix.T


def _shared_rows(
    lexicon: Lexicon,
    key: tuple[Any, ...],
    found: Shared,
    table: Table,
    null: Null | None,
    through: Callable[[np.ndarray], Array],
) -> Iterable[tuple[Any, ...]]:
    """Make a row of each direction that samples share."""
    plan = lexicon.plan
    there = np.nan_to_num(found.directions).astype(table.rows.dtype)
    scores = score(table, through(there), plan.shown, plan.memory_bytes)
    for place, numbers in enumerate(zip(*found[1:], strict=True)):
        head = (*key, place + 1, *map(float, numbers))
        reason = unnamed(*numbers)
        if reason:
            yield (*head, *[float("nan")] * 4, "", "", reason)
            continue
        strongest = float(scores.top[place, 0])
        chance, p = judge(strongest, None if null is None else null.strongest)
        ends = (
            say_tokens(lexicon.tokenizer, ids[place], values[place])
            for ids, values in ((scores.top_ids, scores.top), (scores.bottom_ids, scores.bottom))
        )
        yield (
            *head,
            strongest,
            chance,
            p,
            float("nan"),
            *ends,
            "" if null is not None else "too few streams: no chance",
        )


def _own_row(
    lexicon: Lexicon,
    key: tuple[Any, ...],
    directions: Float[Array, "sample width"],
    keep: Bool[np.ndarray, " sample"],
    table: Table,
    null: Null | None,
) -> tuple[Any, ...]:
    """Count which token comes first for the samples' own vectors.

    Chance draws, for every sample, one of the directions of chance, all through the derivative averaged over samples.
    """
    plan, count = lexicon.plan, int(keep.sum())
    head = (*key, count, int((~keep).sum()))
    if not count:
        return (*head, "", *[float("nan")] * 4, "")
    firsts = score(table, directions, 1, plan.memory_bytes).top_ids[keep, 0]
    ids, counts = np.unique(firsts, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    times = int(counts[order[0]])
    drawn = None
    if null is not None:
        numbers = np.random.default_rng([plan.seed, 14])
        picks = null.first[numbers.integers(0, len(null.first), (plan.draws, count))]
        drawn = np.array([np.unique(row, return_counts=True)[1].max() for row in picks])
    shown = order[: plan.shown]
    tokens = say_tokens(lexicon.tokenizer, ids[shown], counts[shown])
    return (
        *head,
        token_text(lexicon.tokenizer, int(ids[order[0]])),
        times,
        *judge(float(times), drawn),
        float("nan"),
        tokens,
    )


def finish_words(found: Iterable[Words]) -> Words:
    """Put the words of all components together, and adjust their p-values for how many there are (q)."""
    parts = list(found)
    shared, own = ([row for words in parts for row in words[place]] for place in (0, 1))
    return Words(_adjusted(shared, P, Q), _adjusted(own, OWN_P, OWN_Q))


def _adjusted(rows: Sequence[tuple[Any, ...]], p: int, q: int) -> list[tuple[Any, ...]]:
    values = adjust_for_many(np.array([row[p] for row in rows], np.float64)).tolist()
    return [(*row[:q], value, *row[q + 1 :]) for row, value in zip(rows, values, strict=True)]
