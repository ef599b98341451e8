"""Tokens that directions are scored with, the scores, and what directions of chance get."""

import functools
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.backend import Program
from jacspec.jacobians.streaming import Stream
from jacspec.models.block import Embedding
from jacspec.samples import PaddedBatch

SEEN = 3
"""Tokens whose average stream is taken: those that the samples hold as often at least."""


FURTHER = 9
"""How many times as many directions of chance again are drawn for what none of the first reaches."""

ROWS = 4096
"""Rows of a table that normal numbers are drawn for at once."""


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


class Drawn(NamedTuple):
    """Directions of chance, and what draws `FURTHER` times as many more, where it can."""

    directions: Float[np.ndarray, "draw d_model"]
    further: Callable[[], np.ndarray] | None = None


class Null(NamedTuple):
    """What directions of chance give: the largest |score| of each, and what gives that of further ones."""

    strongest: Float[np.ndarray, " draw"]
    further: Callable[[], Float[np.ndarray, " draw"]] | None = None


@jax.jit
def token_vectors(embedding: Embedding) -> Float[Array, "token d_model"]:
    """Compute what each token alone puts into the stream before block 0, positions and token types left out."""
    h = embedding.spec.scale * embedding.token[...]
    last = embedding.spec.project_last
    h = embedding.project(h) if embedding.project is not None and not last else h
    h = h if embedding.norm is None else embedding.norm(h)
    return embedding.project(h) if embedding.project is not None and last else h


def cosine_table(rows: Float[Array, "token d_model"], ids: Int[np.ndarray, " token"]) -> Table:
    """Make the table whose scores are cosines with vectors less their mean."""
    mean, scale = about_mean(rows)
    return Table(rows, mean, scale, ids)


@jax.jit
def about_mean(rows: Float[Array, "token d_model"]) -> tuple[Float[Array, " d_model"], Float[Array, " token"]]:
    """Compute the mean of rows, and one over the length of each without it."""
    mean = rows.mean(axis=0)
    length = jnp.linalg.norm(rows - mean[None], axis=1)
    # A vector that is the mean has no direction; nor has what rounding leaves of it.
    none = length <= jnp.finfo(rows.dtype).eps * jnp.linalg.norm(rows, axis=1)
    return mean, jnp.where(none, 0, 1 / jnp.where(none, 1, length))


def score(table: Table, directions: Float[Array, "direction width"], shown: int, memory_bytes: float) -> Scores:
    """Find the tokens at either end of each direction, and their scores, as many directions at once as memory allows.

    About 2 · token · width FLOPs a direction.
    """
    ends = functools.partial(_score, shown=min(shown, len(table.rows)))
    top, top_ids, bottom, bottom_ids = _in_parts(ends, table, directions, memory_bytes)
    turned = -bottom[:, :1] > top[:, :1]
    ids = table.ids[top_ids], table.ids[bottom_ids]
    return Scores(
        np.where(turned, -bottom, top),
        np.where(turned, ids[1], ids[0]),
        np.where(turned, -top, bottom),
        np.where(turned, ids[0], ids[1]),
    )


def find_strongest(
    table: Table, directions: Float[Array, "direction width"], memory_bytes: float
) -> tuple[Float[np.ndarray, " direction"], Int[np.ndarray, " direction"]]:
    """Find each direction's largest |score|, and whose it is: `top[:, 0]` of `score`, in three quarters of its time."""
    values, places = _in_parts(_strongest, table, directions, memory_bytes)
    return values[:, 0], table.ids[places[:, 0]]


def _in_parts(
    scorer: Callable[[Any, Array], Sequence[Array]],
    table: Table,
    directions: Float[Array, "direction width"],
    memory_bytes: float,
) -> list[np.ndarray]:
    """Score as many directions at once as memory allows, and put together what comes of them."""
    size = _at_once(table.rows, len(directions), memory_bytes)
    parts = []
    for start in range(0, len(directions), size):
        part = directions[start : start + size]
        padded = jnp.pad(part, [(0, size - len(part)), (0, 0)])
        parts.append([np.asarray(array)[: len(part)] for array in scorer(table[:3], padded)])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def score_program(rows: Any, directions: int, shown: int, memory_bytes: float) -> Program:
    """Say what `score` compiles for so many directions, `rows` the shape of those of a table."""
    return Program(_score, _shapes(rows, directions, memory_bytes), {"shown": min(shown, rows.shape[0])})


def strongest_program(rows: Any, directions: int, memory_bytes: float) -> Program:
    """Say what `find_strongest` compiles, as `score_program` does."""
    return Program(_strongest, _shapes(rows, directions, memory_bytes), {})


def _shapes(rows: Any, directions: int, memory_bytes: float) -> tuple[Any, Any]:
    count, width = rows.shape
    table = (rows, *(jax.ShapeDtypeStruct((size,), rows.dtype) for size in (width, count)))
    return table, jax.ShapeDtypeStruct((_at_once(rows, directions, memory_bytes), width), rows.dtype)


def _at_once(rows: Any, directions: int, memory_bytes: float) -> int:
    """Choose how many directions are scored at once."""
    return int(min(max(memory_bytes // (4 * rows.shape[0] * rows.dtype.itemsize), 1), directions))


@functools.partial(jax.jit, static_argnames="shown")
def _score(table: Any, directions: Float[Array, "direction width"], *, shown: int) -> tuple[Array, ...]:
    scores = _scores(table, directions)
    top, top_ids = jax.lax.top_k(scores, shown)
    bottom, bottom_ids = jax.lax.top_k(-scores, shown)
    return top, top_ids, -bottom, bottom_ids


@jax.jit
def _strongest(table: Any, directions: Float[Array, "direction width"]) -> tuple[Array, ...]:
    return tuple(jax.lax.top_k(jnp.abs(_scores(table, directions)), 1))


def _scores(table: Any, directions: Float[Array, "direction width"]) -> Float[Array, "direction token"]:
    rows, mean, scale = table
    return (directions @ rows.T - (directions @ mean)[:, None]) * scale[None]


def draw_like(rows: Float[np.ndarray, "row d_model"], draws: int, seed: Sequence[int]) -> np.ndarray | None:
    """Draw directions of length 1 from normal distributions with the covariance of `rows`; None where that is zero."""
    numbers = np.random.default_rng(seed)
    mean = rows.mean(axis=0, dtype=np.float64) if len(rows) else np.zeros(rows.shape[1])
    found = np.zeros((draws, rows.shape[1]))
    for start in range(0, len(rows), ROWS):
        # In the type of the rows: twice as fast in float32, and the numbers are of chance.
        part = (rows[start : start + ROWS] - mean).astype(rows.dtype)
        found += numbers.standard_normal((draws, len(part)), rows.dtype) @ part
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    return found / lengths if len(rows) > 1 and lengths.min() > 0 else None


def draw_chance(rows: Float[np.ndarray, "row d_model"], draws: int, seed: Sequence[int]) -> Drawn | None:
    """Draw directions as `draw_like` does, and be ready to draw further ones; `rows` are kept for that."""
    directions = draw_like(rows, draws, seed)

    def further() -> np.ndarray:
        more = draw_like(rows, FURTHER * draws, [*seed, 1])
        assert more is not None  # there were some
        return more

    return None if directions is None else Drawn(directions, further)


def draw_null(
    table: Table,
    drawn: Drawn | None,
    memory_bytes: float,
    through: Callable[[np.ndarray], Float[Array, "direction width"]] = jnp.asarray,
) -> Null | None:
    """Score directions of chance with a table, after what `through` makes of them."""
    if drawn is None:
        return None

    def strongest(directions: np.ndarray) -> Float[np.ndarray, " draw"]:
        return find_strongest(table, through(directions.astype(table.rows.dtype)), memory_bytes)[0]

    more = drawn.further
    return Null(strongest(drawn.directions), None if more is None else functools.cache(lambda: strongest(more())))


def judge(value: float, null: Null | None) -> tuple[float, float]:
    """Return the median of what chance gives and p, the share of it that is as large; NaN where there is none.

    Where no direction of chance is as large, further ones are drawn: p would else not get below one in all draws, too
    large for one finding among many. It stays a p-value, for the first draws have to leave it in any case (Besag &
    Clifford 1991).
    """
    if null is None:
        return float("nan"), float("nan")
    reached, count = int((null.strongest >= value).sum()), len(null.strongest)
    if not reached and null.further is not None:
        more = null.further()
        reached, count = int((more >= value).sum()), count + len(more)
    return float(np.median(null.strongest)), (1 + reached) / (1 + count)


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
    from scipy.sparse import csr_array

    ids, places, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    belongs = csr_array((np.ones(len(tokens)), (places, np.arange(len(tokens)))), shape=(len(ids), len(tokens)))
    often = counts >= SEEN
    return ((belongs @ rows)[often] / counts[often, None]).astype(rows.dtype), ids[often]


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
