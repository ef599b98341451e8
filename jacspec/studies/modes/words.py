r"""Directions in words: which tokens a write makes likelier, and which tokens lie along a read.

A write $u$ of a Jacobian changes the logits of the next token directly by $W_U \, DN(h_L) \, u$, $N$ all that stands
between the last block's output $h_L$ and the unembedding $W_U$ (the final norm; the transform of a masked model's
head), $DN$ its derivative at the sample's own last token. Scores are less their mean over the vocabulary, which
softmax does not see; a softcap comes after them. What later layers make of the write is left out: that is what the
check measures. A read $v$ is scored by its cosine with token embeddings less their mean, and above the first layer
with the average stream of each token of the text there, less the mean of those.

The sign of a singular vector is arbitrary. Here it is the one for which the largest |score| is positive.

Some token always comes first. Whether its score is more than chance depends on what chance is: streams and embeddings
of trained models lie along few directions, and so do directions that mean nothing. So a write is compared with
directions of the covariance of the stream that it goes to, a read with directions of the covariance of what it is
scored with, all of length 1, by the largest |score|: p = (1 + draws that reach it) / (1 + draws) (Davison & Hinkley
1997, 4.2.3).
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jacspec.jacobians.streaming import Stream
from jacspec.jacobians.triples import alone
from jacspec.models.block import Embedding, Head, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.modes import OWN_COLUMNS, WORD_COLUMNS

P, Q = WORD_COLUMNS.index("p"), WORD_COLUMNS.index("q")
OWN_P, OWN_Q = OWN_COLUMNS.index("p"), OWN_COLUMNS.index("q")

WRITE, READ, READ_STREAM = "write", "read", "read stream"
STABLE, SPLITS = 0.9, 3
"""|cos| of a shared direction between two halves of the samples, below which it has no words; ways to halve them."""

GAP = 0.05
"""How much less the next shared direction has to hold, relative to this one, for both to have words."""

SEEN = 3
"""Tokens whose average stream is taken: those that the samples hold as often at least."""

FEWEST_TOKENS = 10
"""Tokens with an average stream, below which none of them is scored."""

ROWS = 4096
"""Rows of a table that normal numbers are drawn for at once."""


class Modes(NamedTuple):
    """The leading singular triples of one component of one block, samples in the order of the corpus.

    Modes of a sample with the same `group` are one subspace; −1 stands for one that goes on beyond the kept modes.
    Vectors that there are none of are NaN.
    """

    sigma: Float[np.ndarray, "sample mode"]
    group: Int[np.ndarray, "sample mode"]
    reads: Float[np.ndarray, "sample mode d_model"]
    writes: Float[np.ndarray, "sample mode d_model"]


class WordsPlan(NamedTuple):
    """How words are found: `draws` of chance, `shown` tokens at either end, the first `own` modes of each sample."""

    draws: int = 499
    shown: int = 8
    own: int = 1
    seed: int = 0
    memory_bytes: float = 2.0**30


class Shared(NamedTuple):
    """Directions that samples share, the leading first: `holds` is what share of the samples' J lies along each.

    `gap` is how much less the next or the one before holds, relative to it; `stability` the least |cos| of the same
    from two halves of the samples, over `SPLITS` of them, NaN where a half has none.
    """

    directions: Float[np.ndarray, "mode d_model"]
    holds: Float[np.ndarray, " mode"]
    gap: Float[np.ndarray, " mode"]
    stability: Float[np.ndarray, " mode"]


class Table(NamedTuple):
    r"""Vectors $r_t$ of tokens that directions w are scored with: $s_t (r_t - \bar r) \cdot w$."""

    rows: Float[Array, "token width"]
    mean: Float[Array, " width"]
    scale: Float[Array, " token"]
    ids: Int[np.ndarray, " token"]


class Scores(NamedTuple):
    """The tokens at either end of each direction, and their scores; `top[:, 0]` is the largest |score|."""

    top: Float[np.ndarray, "direction shown"]
    top_ids: Int[np.ndarray, "direction shown"]
    bottom: Float[np.ndarray, "direction shown"]
    bottom_ids: Int[np.ndarray, "direction shown"]


class Null(NamedTuple):
    """What directions of chance give: the largest |score| of each, and the token that has it."""

    strongest: Float[np.ndarray, " draw"]
    first: Int[np.ndarray, " draw"]


class Writing(NamedTuple):
    """The way from the last block's output to logits: the head, where each sample enters it, DN averaged over them."""

    table: Table
    head: Head
    final: Float[Array, "sample d_model"]
    mean_map: Float[Array, "width d_model"]


class Lexicon(NamedTuple):
    """What directions of all layers are read with. `facts` are for `run.json`."""

    spec: ModelSpec
    tokenizer: Any
    plan: WordsPlan
    embedding: Table
    embedding_null: Null | None
    writing: Writing | None
    facts: Mapping[str, Any]


class Around(NamedTuple):
    """What directions of one block are compared with: writes of chance, and average streams of tokens."""

    writes: Null | None
    streams: Table | None
    streams_null: Null | None


class Words(NamedTuple):
    """Rows under `WORD_COLUMNS` of directions that samples share, and under `OWN_COLUMNS` of each sample's own."""

    shared: list[tuple[Any, ...]]
    own: list[tuple[Any, ...]]


def shared_directions(
    sigma: Float[np.ndarray, "sample mode"],
    group: Int[np.ndarray, "sample mode"],
    vectors: Float[np.ndarray, "sample mode d_model"],
) -> Shared:
    r"""Find the directions that samples share: leading eigenvectors of the mean of $J_k J_k^\top / \|J_k\|_F^2$.

    $J_k$ are the leading modes of a sample, `vectors` its writes (or reads, with $J_k^\top J_k$). Vectors of one
    subspace may be rotated there, the sum stays; modes of a subspace that is not whole (group −1) are left out.
    """
    known = (group >= 0) & np.isfinite(vectors).all(axis=2) & (sigma > 0)
    weights = np.where(known, sigma, 0).astype(np.float64)
    norms = np.linalg.norm(weights, axis=1)
    kept = norms > 0
    rows = (weights[kept] / norms[kept, None])[:, :, None] * np.nan_to_num(vectors[kept].astype(np.float64))
    count = vectors.shape[1]
    directions, holds = leading_directions(rows, count + 1)  # one more, to know how far the last is from it
    stability, numbers = np.full((SPLITS, count), np.nan), np.random.default_rng(0)
    for split in range(SPLITS):
        order = numbers.permutation(len(rows))
        first, second = (leading_directions(rows[order[start::2]], count)[0] for start in (0, 1))
        stability[split] = np.abs((first * second).sum(axis=1))
    steps = np.abs(np.diff(holds))
    holds = holds[:count]
    apart = np.minimum(np.append(np.inf, steps[:-1]), steps)
    gap = np.divide(apart, holds, out=np.zeros(count), where=holds > 0)
    return Shared(directions[:count], holds, gap, np.where(holds > 0, stability.min(axis=0), np.nan))


def leading_directions(rows: Float[np.ndarray, "sample mode d_model"], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute right singular vectors of all rows, and the share of the squares along each; NaN where there is none."""
    width = rows.shape[2]
    directions, holds = np.full((count, width), np.nan), np.zeros(count)
    if not len(rows):
        return directions, holds
    whole = rows.reshape(-1, width)
    if min(whole.shape) <= 4 * count:
        _, values, found = np.linalg.svd(whole, full_matrices=False)
    else:
        from scipy.sparse.linalg import svds

        start = np.random.default_rng(0).standard_normal(min(whole.shape))
        _, values, found = svds(whole, count, v0=start, return_singular_vectors="vh")
        order = np.argsort(-values)
        values, found = values[order], found[order]
    there = min(count, len(values))
    directions[:there], holds[:there] = found[:there], values[:there] ** 2 / len(rows)
    directions[holds <= 1e-12] = np.nan
    return directions, holds


def make_lexicon(checkpoint: Checkpoint, final: Float[np.ndarray, "sample d_model"], plan: WordsPlan) -> Lexicon:
    """Read embedding and head of a model, once a run.

    **Arguments:** `final`, what leaves the last block at each sample's last token.
    """
    embedding = checkpoint.embedding()
    ids = np.arange(checkpoint.spec.vocab)
    table = cosine_table(token_vectors(embedding), ids)
    null = draw_null(table, draw_like(np.asarray(table.rows), plan.draws, [plan.seed, 11]), plan)
    writing, said = None, "no unembedding in this checkpoint: writes have no words, reads alone"
    if checkpoint.has_head:
        head, entering = checkpoint.head(), jnp.asarray(final)
        unembedding = head.unembed.weight[...]
        scale = jnp.ones(len(unembedding), unembedding.dtype)
        through = "MLM head" if head.transform is not None else "final norm" if head.norm is not None else "no norm"
        writing = Writing(
            Table(unembedding, unembedding.mean(axis=0), scale, ids), head, entering, mean_map(head, entering)
        )
        said = f"derivative of the head ({through}) at each sample's last token, unembedding less its mean"
        if len(checkpoint.spec.stacks) > 1:
            said += "; encoder: no unembedding, reads alone"
    facts = {"writes": said, "draws": plan.draws, "reads": "token embeddings less their mean", "stable": STABLE}
    return Lexicon(checkpoint.spec, checkpoint.tokenizer, plan, table, null, writing, facts)


@jax.jit
def token_vectors(embedding: Embedding) -> Float[Array, "token d_model"]:
    """Compute what each token alone puts into the stream before block 0, positions and token types left out."""
    h = embedding.spec.scale * embedding.token[...]
    last = embedding.spec.project_last
    h = embedding.project(h) if embedding.project is not None and not last else h
    h = h if embedding.norm is None else embedding.norm(h)
    return embedding.project(h) if embedding.project is not None and last else h


@jax.jit
def mean_map(head: Head, final: Float[Array, "sample d_model"]) -> Float[Array, "width d_model"]:
    """Average the derivative of what the unembedding reads over samples: linear, so one product a direction."""

    def add(total: Array, h: Array) -> tuple[Array, None]:
        return total + jax.jacfwd(head.features)(h), None

    start = jnp.zeros((head.unembed.weight.shape[1], final.shape[1]), final.dtype)
    return jax.lax.scan(add, start, final)[0] / len(final)


@jax.jit
def push_writes(
    head: Head, final: Float[Array, "sample d_model"], writes: Float[Array, "sample d_model"]
) -> Float[Array, "sample width"]:
    """Multiply each sample's vector by the derivative of what the unembedding reads, there."""
    return jax.vmap(lambda h, u: jax.jvp(head.features, (h,), (u,))[1])(final, writes)


def cosine_table(rows: Float[Array, "token d_model"], ids: Int[np.ndarray, " token"]) -> Table:
    """Make the table whose scores are cosines with vectors less their mean."""
    mean = rows.mean(axis=0)
    length = jnp.linalg.norm(rows - mean[None], axis=1)
    # A vector that is the mean has no direction; nor has what rounding leaves of it.
    none = length <= jnp.finfo(rows.dtype).eps * jnp.linalg.norm(rows, axis=1)
    return Table(rows, mean, jnp.where(none, 0, 1 / jnp.where(none, 1, length)), ids)


def draw_like(rows: Float[np.ndarray, "row d_model"], draws: int, seed: Sequence[int]) -> np.ndarray | None:
    """Draw directions of length 1 from normal distributions with the covariance of `rows`; None where that is zero."""
    numbers = np.random.default_rng(seed)
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(rows.shape[1])
    found = np.zeros((draws, rows.shape[1]))
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS].astype(np.float64) - mean
        found += numbers.standard_normal((draws, len(part))) @ part
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / lengths if len(rows) > 1 and lengths.min() > 0 else None


def draw_null(
    table: Table, directions: np.ndarray | None, plan: WordsPlan, through: Array | None = None
) -> Null | None:
    """Score directions of chance with a table, after the linear map `through` where there is one."""
    if directions is None:
        return None
    drawn = jnp.asarray(directions, table.rows.dtype)
    found = score(table, drawn if through is None else drawn @ through.T, 1, plan.memory_bytes)
    return Null(found.top[:, 0], found.top_ids[:, 0])


def score(table: Table, directions: Float[Array, "direction width"], shown: int, memory_bytes: float) -> Scores:
    """Find the tokens at either end of each direction, and their scores, as many directions at once as memory allows.

    About 2 · token · width FLOPs a direction.
    """
    shown = min(shown, len(table.rows))
    size = int(min(max(memory_bytes // (4 * len(table.rows) * table.rows.dtype.itemsize), 1), len(directions)))
    parts = []
    for start in range(0, len(directions), size):
        part = directions[start : start + size]
        padded = jnp.pad(part, [(0, size - len(part)), (0, 0)])
        parts.append([np.asarray(array)[: len(part)] for array in _score(table[:3], padded, shown=shown)])
    top, top_ids, bottom, bottom_ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    turned = -bottom[:, :1] > top[:, :1]
    ids = table.ids[top_ids], table.ids[bottom_ids]
    return Scores(
        np.where(turned, -bottom, top),
        np.where(turned, ids[1], ids[0]),
        np.where(turned, -top, bottom),
        np.where(turned, ids[0], ids[1]),
    )


@functools.partial(jax.jit, static_argnames="shown")
def _score(table: Any, directions: Float[Array, "direction width"], *, shown: int) -> tuple[Array, ...]:
    rows, mean, scale = table
    scores = (directions @ rows.T - (directions @ mean)[:, None]) * scale[None]
    top, top_ids = jax.lax.top_k(scores, shown)
    bottom, bottom_ids = jax.lax.top_k(-scores, shown)
    return top, top_ids, -bottom, bottom_ids


def surround(
    lexicon: Lexicon, number: int, batches: Sequence[PaddedBatch], entering: Sequence[Stream], left: Sequence[Stream]
) -> Around:
    """Collect what directions of block `number` are compared with, from the streams that enter and leave it.

    Each sample's first token is left out: there streams of trained models are of another size (attention sinks).
    """
    plan, spec = lexicon.plan, lexicon.spec
    writes, streams, streams_null = None, None, None
    if _writes(lexicon, spec.blocks[number].stack) is not None:
        assert lexicon.writing is not None
        drawn = draw_like(later_tokens(batches, left)[0], plan.draws, [plan.seed, 12, number])
        writes = draw_null(lexicon.writing.table, drawn, plan, lexicon.writing.mean_map)
    if spec.layer(number):
        averages, ids = average_streams(*later_tokens(batches, entering))
        if len(ids) >= FEWEST_TOKENS:
            streams = cosine_table(jnp.asarray(averages), ids)
            streams_null = draw_null(streams, draw_like(averages, plan.draws, [plan.seed, 13, number]), plan)
    return Around(writes, streams, streams_null)


def _writes(lexicon: Lexicon, stack: str) -> Writing | None:
    """Return the way to logits of a stack, where it has one: an encoder beside a decoder has none."""
    return None if stack == "encoder" else lexicon.writing


def later_tokens(batches: Sequence[PaddedBatch], streams: Sequence[Stream]) -> tuple[np.ndarray, np.ndarray]:
    """Take the streams of all tokens but the first of each sample, and which tokens they are."""
    rows, ids = [], []
    for padded, stream in zip(batches, streams, strict=True):
        packing = stream.batch.packing
        later = np.asarray(packing.rows) % np.asarray(packing.places).shape[-1] > 0
        counted = packing.holding(len(padded.samples)) & later
        rows.append(np.asarray(stream.hidden)[counted])
        ids.append(np.asarray(stream.batch.tokens)[counted])
    return np.concatenate(rows), np.concatenate(ids)


def average_streams(
    rows: Float[np.ndarray, "place d_model"], tokens: Int[np.ndarray, " place"]
) -> tuple[Float[np.ndarray, "token d_model"], Int[np.ndarray, " token"]]:
    """Average the streams of each token that is there `SEEN` times or more."""
    ids, places, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    sums = np.zeros((len(ids), rows.shape[1]))
    np.add.at(sums, places, rows)
    often = counts >= SEEN
    return (sums[often] / counts[often, None]).astype(rows.dtype), ids[often]


def read_component(lexicon: Lexicon, around: Around, layer: int, component: str, modes: Modes) -> Words:
    """Find the words of one component: of the directions that samples share, and of each sample's own first modes.

    A direction has words where it is one: not inside a subspace of equal singular values, and, shared, where two
    halves of the samples find the same.
    """
    key = (layer, component)
    stack = component.rpartition(".")[0]
    writing, shared, own = _writes(lexicon, stack), list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    if writing is not None:
        found = shared_directions(modes.sigma, modes.group, modes.writes)
        through = functools.partial(_through, writing.mean_map)
        shared += _shared_rows(lexicon, (*key, WRITE), found, writing.table, around.writes, through)
    found = shared_directions(modes.sigma, modes.group, modes.reads)
    shared += _shared_rows(lexicon, (*key, READ), found, lexicon.embedding, lexicon.embedding_null, jnp.asarray)
    if around.streams is not None:
        shared += _shared_rows(lexicon, (*key, READ_STREAM), found, around.streams, around.streams_null, jnp.asarray)
    named = alone(modes.group) & np.isfinite(modes.writes).all(axis=2) & np.isfinite(modes.reads).all(axis=2)
    for mode in range(min(lexicon.plan.own, modes.sigma.shape[1])):
        keep = named[:, mode]
        if writing is not None:
            pushed = push_writes(writing.head, writing.final, jnp.asarray(np.nan_to_num(modes.writes[:, mode])))
            own.append(_own_row(lexicon, (*key, WRITE, mode + 1), pushed, keep, writing.table, around.writes))
        reads = jnp.asarray(np.nan_to_num(modes.reads[:, mode]))
        own.append(_own_row(lexicon, (*key, READ, mode + 1), reads, keep, lexicon.embedding, lexicon.embedding_null))
    return Words(shared, own)


def _through(matrix: Array, directions: np.ndarray) -> Array:
    return jnp.asarray(directions, matrix.dtype) @ matrix.T


def _shared_rows(
    lexicon: Lexicon, key: tuple[Any, ...], found: Shared, table: Table, null: Null | None, through: Any
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


def unnamed(holds: float, gap: float, stability: float) -> str:
    """Say why a direction that samples share has no words; empty where it has."""
    if not holds > 0:
        return "no such direction"
    if gap < GAP:
        return "holds as much as its neighbour: a subspace, not one direction"
    if np.isnan(stability):
        return "too few samples to say whether they share it"
    if stability < STABLE:
        return "two halves of the samples give other directions: not one direction that they share"
    return ""


def judge(value: float, drawn: np.ndarray | None) -> tuple[float, float]:
    """Return the median of what chance gives and p, the share of it that is as large; NaN where there is none."""
    if drawn is None:
        return float("nan"), float("nan")
    return float(np.median(drawn)), float((1 + (drawn >= value).sum()) / (1 + len(drawn)))


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


def say_tokens(tokenizer: Any, ids: Sequence[int] | np.ndarray, values: Sequence[float] | np.ndarray) -> str:
    """Write tokens and their numbers as JSON, a pair each."""
    pairs = [
        [token_text(tokenizer, int(token)), round(float(value), 4) if isinstance(value, np.floating) else int(value)]
        for token, value in zip(ids, values, strict=True)
    ]
    return json.dumps(pairs, ensure_ascii=False)


def token_text(tokenizer: Any, token: int) -> str:
    """Return the text of one token, the space that its mark stands for in front; its piece where that is no text."""
    piece = tokenizer.convert_ids_to_tokens(token) if token < len(tokenizer) else None
    if piece is None:
        return f"<{token}>"
    text = tokenizer.convert_tokens_to_string([piece])
    if piece.startswith("▁"):
        return f" {text.lstrip(' ')}"
    return piece if "\N{REPLACEMENT CHARACTER}" in text or not text else text
