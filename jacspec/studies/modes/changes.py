"""Along which directions a stream is changed at one layer, and how far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.jacobians.branches import components_of
from jacspec.jacobians.streaming import Stream, Visit, step, walk
from jacspec.jacobians.triples import alone
from jacspec.models.block import Block, BlockSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch
from jacspec.studies.modes.carried import ENTER, LEAVE, MIDDLE
from jacspec.studies.modes.directions import Modes, leading_directions, sum_squares
from jacspec.studies.modes.vocabulary import draw_like, later_tokens

WRITE, READ, RANDOM, PRINCIPAL = KINDS = ("write", "read", "random", "principal")


SUBSPACE = "_k"


class Stock(NamedTuple):
    """Directions of chance at one place: random ones of every sample, and principal components."""

    random: Float[np.ndarray, "sample draw d_model"]
    principal: Float[np.ndarray, "mode d_model"]


Stocks = Mapping[int, Mapping[str, Stock]]
"""By the number of a block, and by the place in it."""


def draw_stocks(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    layers: Sequence[int],
    *,
    random: int,
    k: int,
    samples: int,
    seed: int,
) -> Stocks:
    """Draw directions with the covariance of the streams at each place of each of the blocks."""
    found: dict[int, Mapping[str, Stock]] = {}

    def draw(number: int, place: str, streams: Sequence[Stream]) -> Stock:
        rows, _ = later_tokens(batches, streams)
        count = random + k
        drawn = draw_like(rows, samples * count, [seed, 21, number, (ENTER, LEAVE, MIDDLE).index(place)])
        if drawn is None:
            raise JacspecError(
                "modes.check draws directions with the covariance of the streams, and these samples have too few "
                "tokens for one. Type data.min_tokens=3."
            )
        centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
        principal = leading_directions(sum_squares(centred), k)[0]
        return Stock(drawn.reshape(samples, count, -1), principal)

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number not in layers:
            return Visit(None)
        left = [step(block, stream) for stream in streams]
        there = {ENTER: streams, LEAVE: left}
        if not block.spec.parallel:
            between = [_after_attention(block, stream.hidden, stream.batch.packing) for stream in streams]
            there[MIDDLE] = [stream._replace(hidden=own) for stream, own in zip(streams, between, strict=True)]
        found[number] = {place: draw(number, place, own) for place, own in there.items()}
        return Visit(None, left)

    for _ in walk(checkpoint, batches, visit, last=max(layers), decoder_input="shifted"):
        pass
    return found


@jax.jit
def _after_attention(
    block: Block, hidden: Float[Array, "pack place d_model"], packing: Any
) -> Float[Array, "pack place d_model"]:
    return jax.vmap(lambda h, own: block.attn_norms.add(h, block.attn_branches(h, own)))(hidden, packing)


def modes_of(block: BlockSpec, number: int, modes: Mapping[tuple[int, str], Modes]) -> dict[str, Modes]:
    """Take the modes of the components of one block."""
    names = [name for layer, name in modes if layer == number]
    return {own: modes[number, full] for full, own in components_of(block, names).items()}


def _places(component: str, *, parallel: bool) -> dict[str, str]:
    """Say where a component reads and where its output has been added: before, in the middle of or behind a block."""
    read = MIDDLE if component == "mlp" and not parallel else ENTER
    write = MIDDLE if component == "attn" and not parallel else LEAVE
    return {READ: read, WRITE: write}


def name_directions(
    block: BlockSpec,
    place: str,
    rows: Int[np.ndarray, " row"],
    base: Float[np.ndarray, "row d_model"],
    own: Mapping[str, Modes],
    stock: Stock,
) -> Iterable[tuple[tuple[str, str, int], Float[np.ndarray, "row d_model"]]]:
    """Name the directions of each row at one place, each of length 1, NaN where there is none."""
    there, random = False, stock.random.shape[1] - len(stock.principal)
    for component, modes in own.items():
        for side, where in _places(component, parallel=block.parallel).items():
            if where != place:
                continue
            there = True
            vectors = (modes.writes if side == WRITE else modes.reads)[rows]
            single = alone(modes.group)[rows, 0]
            yield (component, side, 0), np.where(single[:, None], vectors[:, 0], np.nan)
            whole = (modes.group[rows] >= 0).all(axis=1)
            yield (component, side + SUBSPACE, 0), np.where(whole[:, None], part_inside(vectors, base), np.nan)
    if there:
        for draw in range(random):
            yield ("", RANDOM, draw), stock.random[rows, draw]
        spans = np.linalg.qr(stock.random[rows, random:].transpose(0, 2, 1))[0].transpose(0, 2, 1)
        yield ("", RANDOM + SUBSPACE, 0), part_inside(spans, base)
        yield ("", PRINCIPAL, 0), np.broadcast_to(stock.principal[0], base.shape)
        principal = np.broadcast_to(stock.principal, (len(rows), *stock.principal.shape))
        yield ("", PRINCIPAL + SUBSPACE, 0), part_inside(principal, base)


def part_inside(
    basis: Float[np.ndarray, "row mode d_model"], x: Float[np.ndarray, "row d_model"]
) -> Float[np.ndarray, "row d_model"]:
    """Return the direction of what of each x lies in the span of its orthonormal basis; NaN where nothing does."""
    inside = np.einsum("rkd,rk->rd", basis, np.einsum("rkd,rd->rk", basis, x))
    lengths = np.linalg.norm(inside, axis=1, keepdims=True)
    return inside / np.where(lengths > 0, lengths, np.nan)


def find_amounts(
    base: Float[np.ndarray, "row d_model"],
    directions: Float[np.ndarray, "row direction d_model"],
    epsilons: Sequence[float],
) -> Float[np.ndarray, "row direction change"]:
    """Say how much of each direction is added: ± each ε of the stream's length, and minus what there is of it."""
    lengths = np.broadcast_to(np.linalg.norm(base, axis=1)[:, None], directions.shape[:2])
    added = [sign * epsilon * lengths for epsilon in epsilons for sign in (1, -1)]
    return np.stack([*added, -np.einsum("rjd,rd->rj", directions, base)], axis=2).astype(base.dtype)
