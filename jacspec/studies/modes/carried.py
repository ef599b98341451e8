"""Changed streams on their way through blocks, and what the Jacobians make of the changes.

In a causal stack no other token reads the last one: its changed stream alone goes through later blocks, which see the
unchanged keys and values of the others. In an encoder all tokens read it and hand the change back, so that each change
takes the streams of the whole sample along.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jacspec.jacobians.solvers import carry_bytes
from jacspec.jacobians.streaming import Stream, pass_through
from jacspec.models.block import Block, BlockSpec
from jacspec.samples import Prefix

ENTER, MIDDLE, LEAVE = "stream that enters", "stream after attention", "stream that leaves"

Moving = Float[Array, "*axes d_model"]
"""What moves through a block: the last token's stream, or those of all tokens."""


class Seen(NamedTuple):
    """What changed streams meet in a block, a row a sample.

    `x` is the last token's unchanged stream and `prefix` what it sees of others. Where others see the last token too,
    `whole` are the unchanged streams of all tokens, and `length` says how many of them count.
    """

    x: Float[Array, "*row d_model"]
    prefix: Prefix
    whole: Float[Array, "*row token d_model"] | None
    length: Int[Array, "*row"]


class State(NamedTuple):
    """Changed streams of a batch on their way, and the images of their directions under the Jacobians."""

    copies: Float[Array, "row copy *token d_model"]
    tangents: Float[Array, "row direction *token d_model"]

    def join(self, other: "State") -> "State":
        """Put further changes behind these."""
        return State(*(jnp.concatenate(pair, axis=1) for pair in zip(self, other, strict=True)))


def see(block: Block, stream: Stream) -> tuple[Seen, Stream]:
    """Find what changed streams meet in a block, and the stream that leaves it unchanged."""
    branches, left = pass_through(block, stream, ("block",), last=False)
    point, packing = branches["block"].point, stream.batch.packing
    whole = None if block.spec.attention.causal else _apart(stream.hidden, packing)
    return Seen(point.x, point.context[0], whole, packing.lengths.reshape(-1)), left


@jax.jit
def _apart(hidden: Float[Array, "pack place d_model"], packing: Any) -> Float[Array, "row token d_model"]:
    found = jax.vmap(lambda packed, own: own.split(packed))(hidden, packing)
    return found.reshape(-1, *found.shape[2:])


@jax.jit
def find_bases(block: Block, seen: Seen) -> dict[str, Float[Array, "row d_model"]]:
    """Compute the last token's unchanged stream at each place of a block; a parallel one has no middle."""

    def one(seen: Seen) -> dict[str, Array]:
        x, prefix = seen.x, seen.prefix
        middle = {} if block.spec.parallel else {MIDDLE: block.attn_norms.add(x, block.attn_branch(x, prefix))}
        return {ENTER: x, **middle, LEAVE: block.last(x, prefix, None)}

    return jax.vmap(one)(seen)


@functools.partial(jax.jit, static_argnames="place")
def begin(
    block: Block,
    seen: Seen,
    directions: Float[Array, "row direction d_model"],
    amounts: Float[Array, "row direction change"],
    *,
    place: str,
) -> State:
    """Add amounts of directions to the last token's stream at a place of a block."""

    def one(seen: Seen, directions: Array, amounts: Array) -> State:
        unchanged = _unchanged(block, seen, place)
        changes = (amounts[:, :, None] * directions[:, None]).reshape(-1, directions.shape[-1])
        copies = jax.vmap(lambda change: _add(seen, unchanged, change))(changes)
        tangents = jax.vmap(lambda direction: _add(seen, jnp.zeros_like(unchanged), direction))(directions)
        return State(copies, tangents)

    return jax.vmap(one)(seen, directions, amounts)


def go_on(block: Block, place: str, seen: Seen, state: State, memory_bytes: float) -> State:
    """Carry changed streams and images from a place in a block to its end, as many at once as memory allows."""
    if place == LEAVE:
        return state
    size = int(max(memory_bytes // (2 * len(seen.x) * moving_bytes(block.spec, seen)), 1))
    copies = _in_chunks(lambda part: _carry(block, seen, part, place=place), state.copies, size)
    tangents = _in_chunks(lambda part: _push(block, seen, part, place=place), state.tangents, max(size // 2, 1))
    return State(copies, tangents)


def moving_bytes(spec: BlockSpec, seen: Seen) -> int:
    """Estimate the work arrays of one change at one sample: a token of it, or all."""
    tokens = seen.prefix.visible.shape[-1]
    each = carry_bytes(spec, tokens, seen.x.dtype.itemsize)
    return each // tokens if seen.whole is None else each


@jax.jit
def take_last(state: State, length: Int[Array, " row"]) -> State:
    """Take the last token's streams where those of all tokens have been carried; `length` says which it is."""
    if state.copies.ndim == 3:
        return state
    return State(*(jax.vmap(lambda own, length: own[:, length - 1])(part, length) for part in state))


def _in_chunks(f: Callable[[Array], Array], whole: Float[Array, "row copy *token d_model"], size: int) -> Array:
    """Apply a function to parts of the second axis of one size; the last repeats its end."""
    count = whole.shape[1]
    if count <= size:
        return f(whole)
    padded = jnp.pad(whole, [(0, 0), (0, -count % size), *[(0, 0)] * (whole.ndim - 2)], mode="edge")
    parts = [f(padded[:, start : start + size]) for start in range(0, count, size)]
    return jnp.concatenate(parts, axis=1)[:, :count]


@functools.partial(jax.jit, static_argnames="place")
def _carry(block: Block, seen: Seen, copies: Float[Array, "row copy *token d_model"], *, place: str) -> Array:
    def one(seen: Seen, copies: Array) -> Array:
        return jax.vmap(lambda moving: _rest(block, seen, moving, place))(copies)

    return jax.vmap(one)(seen, copies)


@functools.partial(jax.jit, static_argnames="place")
def _push(block: Block, seen: Seen, tangents: Float[Array, "row direction *token d_model"], *, place: str) -> Array:
    def one(seen: Seen, tangents: Array) -> Array:
        rest = functools.partial(_rest, block, seen, place=place)
        _, push = jax.linearize(rest, _unchanged(block, seen, place))
        return jax.vmap(push)(tangents)

    return jax.vmap(one)(seen, tangents)


def _rest(block: Block, seen: Seen, moving: Moving, place: str) -> Moving:
    """Carry one change from a place in a block to its end."""
    if place == MIDDLE:
        return block.mlp_norms.add(moving, block.mlp_branch(moving))
    return block.last(moving, seen.prefix, None) if seen.whole is None else block(moving, seen.length)


def _unchanged(block: Block, seen: Seen, place: str) -> Moving:
    """Compute what a change is added to at a place."""
    x = seen.x if seen.whole is None else seen.whole
    if place == ENTER:
        return x
    if place == LEAVE:
        return _rest(block, seen, x, ENTER)
    attended = block.attn_branch(x, seen.prefix) if seen.whole is None else block.attn_branches(x, seen.length)
    return block.attn_norms.add(x, attended)


def _add(seen: Seen, moving: Moving, change: Float[Array, " d_model"]) -> Moving:
    """Add a change to the last token's stream."""
    return moving + change if seen.whole is None else moving.at[seen.length - 1].add(change)
