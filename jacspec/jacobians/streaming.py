"""A checkpoint as a stream: all samples are carried through it, one block in memory at a time."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from jacspec.backend import Program, shapes_of
from jacspec.jacobians.branches import Branch, Point, bind, components_of, pack_points
from jacspec.jacobians.devices import replicate, shard_like
from jacspec.models.block import Block, Embedding
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import Memory, Packed, PaddedBatch
from jacspec.text.corpus import decoder_batch

Result = TypeVar("Result")


class Stream(NamedTuple):
    """A batch on its way through a stack: its residual streams, and what its decoder reads."""

    hidden: Float[Array, "pack place d_model"]
    batch: Packed
    memory: Memory | None


class Visit(NamedTuple):
    """What was found of a block, None where nothing was; and the streams that leave it, where they were computed."""

    found: Any
    left: list[Stream] | None = None


def walk(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    visit: Callable[[int, Block, list[Stream]], Visit],
    *,
    last: int,
    decoder_input: str,
) -> Iterator[Any]:
    """Carry all samples through blocks 0 to `last`, and yield what `visit(number, block, streams)` finds.

    Where it finds nothing (None), nothing is yielded. `streams` are those that enter the block. Only one block and the
    hidden states (pack, place, d_model) are in memory, in a decoder its encoder's output too, as long as `visit`
    keeps no block.
    """
    spec = checkpoint.spec
    streams = _enter(checkpoint, [padded.batch for padded in batches], None)
    for number in range(last + 1):
        if number and spec.blocks[number].stack != spec.blocks[number - 1].stack:
            streams = _enter_decoder(checkpoint, streams, decoder_input)
        block = replicate(checkpoint.block(number), streams[0].hidden)
        found, left = visit(number, block, streams)
        if found is not None:
            yield found
        if number < last:
            streams = [step(block, stream) for stream in streams] if left is None else left
        # What still reads this block ends before the next is made.
        jax.block_until_ready(streams)
        del block, left


def carry(checkpoint: Checkpoint, batches: Sequence[PaddedBatch]) -> list[Stream]:
    """Carry all samples through the whole of a model that has one stack, and return what leaves its last block."""
    last = len(checkpoint.spec.blocks) - 1

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        return Visit([step(block, stream) for stream in streams] if number == last else None)

    (left,) = walk(checkpoint, batches, visit, last=last, decoder_input="shifted")
    return left


def step(block: Block, stream: Stream) -> Stream:
    """Carry a batch through a block."""
    return stream._replace(hidden=_step(block, *stream))


def last_tokens(stream: Stream) -> Float[Array, "row d_model"]:
    """Take the last token of every row of a batch."""
    return _last(stream.hidden, stream.batch.packing)


@jax.jit
def _last(hidden: Float[Array, "pack place d_model"], packing: Any) -> Float[Array, "row d_model"]:
    found = jax.vmap(lambda packed, own: own.last(packed))(hidden, packing)
    return found.reshape(-1, hidden.shape[-1])


def pass_through(
    block: Block, stream: Stream, components: Sequence[str], *, last: bool
) -> tuple[dict[str, Branch], Stream]:
    """Bind components to where they are differentiated at each row of a batch, and carry it on unless `last`.

    One program, in which keys and values are computed once.
    """
    found, hidden = _pass_through(block, *stream, np.asarray(not last), components=tuple(components))
    branches = {component: bind(block, component, point) for component, point in found.items()}
    return branches, stream._replace(hidden=hidden)


def _enter(checkpoint: Checkpoint, batches: Sequence[Packed], memories: Sequence[Memory] | None) -> list[Stream]:
    """Embed the tokens of all batches."""
    embedding = replicate(checkpoint.embedding(), batches[0].tokens)
    return [
        Stream(_embed(embedding, batch), batch, memory)
        for batch, memory in zip(batches, memories or (None,) * len(batches), strict=True)
    ]


def _enter_decoder(checkpoint: Checkpoint, streams: Sequence[Stream], decoder_input: str) -> list[Stream]:
    """End the encoder with its norm, and embed what the decoder is fed."""
    start = checkpoint.spec.decoder_start
    assert start is not None
    norm = replicate(checkpoint.encoder_norm(), streams[0].hidden)
    memories = [Memory(_normed(norm, stream.hidden), stream.batch.packing) for stream in streams]
    batches = [
        shard_like(decoder_batch(stream.batch, start=start, kind=decoder_input), stream.hidden) for stream in streams
    ]
    return _enter(checkpoint, batches, memories)


def stream_programs(
    checkpoint: Checkpoint,
    batch: Packed,
    components: Sequence[str],
    decoder_input: str,
    solving: Callable[[Branch], list[Program]],
    *,
    last: int,
) -> list[Program]:
    """Say what carrying a batch through blocks 0 to `last` compiles, and `solving(branch)` there, given shapes."""
    spec, found, memory, hidden = checkpoint.spec, list[Program](), None, None
    kinds = dict.fromkeys(spec.blocks[: last + 1])
    stack = None
    for kind in kinds:
        if kind.stack != stack:
            if stack is not None:
                assert spec.decoder_start is not None
                norm = Program(_normed, (checkpoint.shapes("encoder_norm", 0), hidden), {})
                memory = Memory(norm.result(), shapes_of(batch.packing))
                batch = decoder_batch(batch, start=spec.decoder_start, kind=decoder_input)
                found.append(norm)
            embedding = Program(_embed, (checkpoint.shapes("embedding", 0), shapes_of(batch)), {})
            hidden, stack = embedding.result(), kind.stack
            found.append(embedding)
        block = checkpoint.shapes("block", spec.blocks.index(kind))
        own = tuple(components_of(kind, components).values())
        onward = jax.ShapeDtypeStruct((), np.bool_)
        passing = Program(_pass_through, (block, hidden, shapes_of(batch), memory, onward), {"components": own})
        points = passing.result()[0]
        found += [passing, *(program for name in own for program in solving(bind(block, name, points[name])))]
    return found


@jax.jit
def _embed(embedding: Embedding, batch: Packed) -> Float[Array, "pack place d_model"]:
    return jax.vmap(lambda own: embedding(own.tokens, own.packing.positions()))(batch)


@jax.jit
def _normed(norm: Any, h: Float[Array, "pack place d_model"]) -> Float[Array, "pack place d_model"]:
    return norm(h)


@jax.jit
def _step(
    block: Block, h: Float[Array, "pack place d_model"], batch: Packed, memory: Memory | None
) -> Float[Array, "pack place d_model"]:
    return jax.vmap(block)(h, batch.packing, memory)


@functools.partial(jax.jit, static_argnames="components")
def _pass_through(
    block: Block,
    h: Float[Array, "pack place d_model"],
    batch: Packed,
    memory: Memory | None,
    onward: Bool[Array | np.ndarray, ""],
    *,
    components: tuple[str, ...],
) -> tuple[dict[str, Point], Float[Array, "pack place d_model"]]:
    def one(h: Array, batch: Packed, memory: Memory | None) -> tuple[dict[str, Point], Array]:
        seen = block.key_value(h)
        points = pack_points(block, h, batch.packing, memory, seen)
        left = jax.lax.cond(onward, lambda: block(h, batch.packing, memory, seen), lambda: h)
        return {component: points[component] for component in components}, left

    points, left = jax.vmap(one)(h, batch, memory)
    # Rows of all packs, one after the other.
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), points), left
