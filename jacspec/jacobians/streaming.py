"""A checkpoint as a stream: all samples are carried through it, one block in memory at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jacspec.corpus import decoder_batch
from jacspec.glossary import Batch, Memory, PaddedBatch
from jacspec.jacobians.mesh import beside, on_each
from jacspec.models.block import Block, Embedding
from jacspec.models.checkpoint import Checkpoint

Result = TypeVar("Result")


class Stream(NamedTuple):
    """A batch on its way through a stack: its residual streams, and what its decoder reads."""

    hidden: Float[Array, "sample token d_model"]
    batch: Batch
    memory: Memory | None


def walk(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    visit: Callable[[int, Block, list[Stream]], Result | None],
    *,
    last: int,
    decoder_input: str,
) -> Iterator[Result]:
    """Carry all samples through blocks 0 to `last`, and yield what `visit(number, block, streams)` finds.

    Where it finds nothing (None), nothing is yielded. `streams` are those that enter the block. Only one block and the
    hidden states (sample, token, d_model) are in memory, in a decoder its encoder's output too, as long as `visit`
    keeps no block.
    """
    spec = checkpoint.spec
    streams = _enter(checkpoint, [padded.batch for padded in batches], None)
    for number in range(last + 1):
        if number and spec.blocks[number].stack != spec.blocks[number - 1].stack:
            streams = _enter_decoder(checkpoint, streams, decoder_input)
        block = on_each(checkpoint.block(number), streams[0].hidden)
        if (found := visit(number, block, streams)) is not None:
            yield found
        if number < last:
            streams = [stream._replace(hidden=_step(block, *stream)) for stream in streams]
        # What still reads this block ends before the next is made.
        jax.block_until_ready(streams)
        del block


def carry(checkpoint: Checkpoint, batches: Sequence[PaddedBatch]) -> list[Stream]:
    """Carry all samples through the whole of a model that has one stack, and return what leaves its last block."""
    last = len(checkpoint.spec.blocks) - 1

    def visit(number: int, block: Block, streams: list[Stream]) -> list[Stream] | None:
        return [stream._replace(hidden=_step(block, *stream)) for stream in streams] if number == last else None

    (left,) = walk(checkpoint, batches, visit, last=last, decoder_input="shifted")
    return left


def _enter(checkpoint: Checkpoint, batches: Sequence[Batch], memories: Sequence[Memory] | None) -> list[Stream]:
    """Embed the tokens of all batches."""
    embedding = on_each(checkpoint.embedding(), batches[0].tokens)
    return [
        Stream(_embed(embedding, batch.tokens), batch, memory)
        for batch, memory in zip(batches, memories or (None,) * len(batches), strict=True)
    ]


def _enter_decoder(checkpoint: Checkpoint, streams: Sequence[Stream], decoder_input: str) -> list[Stream]:
    """End the encoder with its norm, and embed what the decoder is fed."""
    start = checkpoint.spec.decoder_start
    assert start is not None
    norm = on_each(checkpoint.encoder_norm(), streams[0].hidden)
    memories = [Memory(_normed(norm, stream.hidden), jnp.asarray(stream.batch.lengths)) for stream in streams]
    batches = [
        beside(decoder_batch(stream.batch, start=start, kind=decoder_input), stream.hidden) for stream in streams
    ]
    return _enter(checkpoint, batches, memories)


@jax.jit
def _embed(embedding: Embedding, tokens: Int[Array, "sample token"]) -> Float[Array, "sample token d_model"]:
    return jax.vmap(embedding)(jnp.asarray(tokens))


@jax.jit
def _normed(norm: Any, h: Float[Array, "sample token d_model"]) -> Float[Array, "sample token d_model"]:
    return norm(h)


@jax.jit
def _step(
    block: Block, h: Float[Array, "sample token d_model"], batch: Batch, memory: Memory | None
) -> Float[Array, "sample token d_model"]:
    return jax.vmap(block)(h, jnp.asarray(batch.lengths), memory)
