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

The own vectors of samples are as alike as they are, so that many naming one token says no more than that. What is
tested of them is the same as of a shared one, each direction of chance at one of the samples, by twice the median of
the samples' p-values: that is a p-value whatever depends on what (Rüschendorf 1982, doi:10.2307/1426670).
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jacspec.jacobians.triples import alone
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.modes import OWN_COLUMNS, WORD_COLUMNS
from jacspec.studies.modes.directions import Modes, Shared, unnamed
from jacspec.studies.modes.lexicon import Around, Lexicon, WriteNulls, through_mean
from jacspec.studies.modes.through import Way
from jacspec.studies.modes.vocabulary import (
    Null,
    Table,
    find_strongest,
    judge,
    say_tokens,
    score,
    token_text,
)

P, Q = WORD_COLUMNS.index("p"), WORD_COLUMNS.index("q")
OWN_P, OWN_Q = OWN_COLUMNS.index("p"), OWN_COLUMNS.index("q")

WRITE, READ, READ_STREAM = "write", "read", "read stream"


class Words(NamedTuple):
    """Rows under `WORD_COLUMNS` of directions that samples share, and under `OWN_COLUMNS` of each sample's own."""

    shared: list[tuple[Any, ...]]
    own: list[tuple[Any, ...]]


def read_component(lexicon: Lexicon, around: Around, layer: int, component: str, modes: Modes, found: Shared) -> Words:
    """Find the words of what one component reads: of directions that samples share, and of each sample's first modes.

    A direction has words where it is one: not inside a subspace of equal singular values, and, shared, where two
    halves of the samples find the same. `found` are the shared ones of the reads.
    """
    key = (layer, component)
    rows = _shared_rows(lexicon, (*key, READ), found, lexicon.embedding, lexicon.embedding_null, jnp.asarray)
    if around.streams is not None:
        further = _shared_rows(lexicon, (*key, READ_STREAM), found, around.streams, around.streams_null, jnp.asarray)
        rows = [*rows, *further]
    own = []
    for mode in _own_modes(lexicon, modes):
        chosen = own_samples(lexicon, len(modes.reads))
        reads, keep = jnp.asarray(np.nan_to_num(modes.reads[chosen, mode])), _named(modes)[chosen, mode]
        own.append(_own_row(lexicon, (*key, READ, mode + 1), reads, keep, lexicon.embedding, lexicon.embedding_null))
    return Words([*rows], own)


def write_component(
    lexicon: Lexicon, way: Way, nulls: WriteNulls, layer: int, component: str, modes: Modes, found: Shared
) -> Words:
    """Find the words of what one component writes, as `read_component` does of its reads.

    **Arguments:** `way`, what becomes of what it writes; `nulls`, directions of chance taken the same way.
    """
    assert lexicon.unembedding is not None
    key, table = (layer, component, WRITE), lexicon.unembedding
    rows = _shared_rows(lexicon, key, found, table, nulls.shared, functools.partial(through_mean, way))
    own = []
    for mode in _own_modes(lexicon, modes):
        drawn = own_samples(lexicon, len(way.samples))
        pushed = way.push(np.nan_to_num(modes.writes[:, mode]))[drawn]
        keep = _named(modes)[way.samples[drawn], mode]
        own.append(_own_row(lexicon, (*key, mode + 1), pushed, keep, table, nulls.own))
    return Words([*rows], own)


def own_samples(lexicon: Lexicon, count: int) -> Int[np.ndarray, " drawn"]:
    """Draw the samples whose own modes are read in words, the same for all components; all where they are few."""
    numbers = np.random.default_rng([lexicon.plan.seed, 16])
    return np.sort(numbers.permutation(count)[: lexicon.plan.own_samples])


def _own_modes(lexicon: Lexicon, modes: Modes) -> range:
    return range(min(lexicon.plan.own, modes.sigma.shape[1]))


def _named(modes: Modes) -> Bool[np.ndarray, "sample mode"]:
    """Say which vectors are directions of their own."""
    return alone(modes.group) & np.isfinite(modes.writes).all(axis=2) & np.isfinite(modes.reads).all(axis=2)


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
        chance, p = judge(strongest, null)
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
    """Count which token comes first for the samples' own vectors, and hold their largest |score| against chance."""
    plan, count = lexicon.plan, int(keep.sum())
    head = (*key, count, int((~keep).sum()))
    if not count:
        return (*head, "", *[float("nan")] * 5, "")
    values, first = find_strongest(table, directions, plan.memory_bytes)
    ids, counts = np.unique(first[keep], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    # Of an even number the lower one: at least half of the samples' p-values are as small as its own.
    strongest = float(np.sort(values[keep])[(count - 1) // 2])
    chance, p = judge(strongest, null)
    shown = order[: plan.shown]
    tokens = say_tokens(lexicon.tokenizer, ids[shown], counts[shown])
    return (
        *head,
        token_text(lexicon.tokenizer, int(ids[order[0]])),
        int(counts[order[0]]),
        strongest,
        chance,
        min(1.0, 2 * p) if count > 1 else p,
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
