r"""Does it matter: the last token's stream is changed along a direction, and carried on to the logits there.

At a layer a direction d is added to the stream x of the last token, ±ε‖x‖ along it, or taken away, x − (d·x) d. All
changes of all layers go through a block together while it is in memory. What comes out is compared with the unchanged
run: the loss of the true token, KL(p‖p′) of its distribution, all logits. In a decoder the token is the next one. In an
encoder it is the last token itself, which is masked: the sample is cut behind it.

The linear prediction is the product of all Jacobians in between, that of the head included, with the change
(forward-mode products at the unchanged run; in an encoder through all tokens): what it explains of the change of the
logits, less their mean, is $1 - \|\Delta z - \Delta \hat z\|^2 / \|\Delta z\|^2$.

Directions: `write` (u₁ of a component, where its output has been added) and `read` (v₁, where the component reads), of
each sample's own Jacobian; beside them, at the same place, `random` ones of the covariance of the stream and
`principal`, the first principal component of the stream. With `_k` it is a subspace, of as many directions as modes
are kept: the change is along the part of the stream that lies in it, so that `remove` takes the whole subspace away.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.errors import JacspecError
from jacspec.jacobians.solvers import carry_bytes
from jacspec.jacobians.streaming import Stream, Visit, last_tokens, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch, in_order
from jacspec.scoring.windows import model_kind
from jacspec.studies.modes.carried import ENTER, LEAVE, MIDDLE, Seen, State, begin, find_bases, go_on, see, take_last
from jacspec.studies.modes.changes import Stocks, draw_stocks, find_amounts, modes_of, name_directions
from jacspec.studies.modes.directions import Modes
from jacspec.studies.modes.effects import Effect, check_rows, compare
from jacspec.text.corpus import Sample, make_batches

REMOVE = "remove"
DIRECTIONS = 10
"""Directions at a place of a block, about: what the memory of a whole sample's copies is estimated by."""


class CheckPlan(NamedTuple):
    """At which `layers` what is changed: by ±ε of the stream's length, ε in `epsilons`; `random` directions a sample.

    `memory_bytes`, what copies of the stream and their logits may take on the way.
    """

    layers: Sequence[int]
    epsilons: Sequence[float] = (0.1,)
    random: int = 5
    seed: int = 0
    memory_bytes: float = 2.0**30

    @property
    def changes(self) -> list[str]:
        """Name what is done along each direction; what is added stands there with both signs."""
        return [*(f"{epsilon:g}" for epsilon in self.epsilons), REMOVE]


class _Label(NamedTuple):
    layer: int
    place: str
    kind: str
    component: str


class _Changed(NamedTuple):
    """All changes of a batch so far: where they are, along which directions of length 1 they began, and how far."""

    state: State
    starts: Float[Array, "row direction d_model"]
    amounts: Float[np.ndarray, "row direction change"]

    def join(self, other: "_Changed") -> "_Changed":
        starts = jnp.concatenate([self.starts, other.starts], axis=1)
        return _Changed(self.state.join(other.state), starts, np.concatenate([self.amounts, other.amounts], axis=1))


def check_possible(checkpoint: Checkpoint) -> None:
    """Refuse models in which the check is not made; raises `JacspecError`."""
    if len(checkpoint.spec.stacks) > 1:
        raise JacspecError(
            "modes.check is for decoders and for encoders with a masked-language-model head; what the decoder of this "
            "model predicts depends on what its encoder is given. Type modes.check=false."
        )
    if not checkpoint.has_head:
        raise JacspecError(
            f"{checkpoint.name} was saved without its language-model head: it predicts no token. "
            "Type modes.check=false."
        )


def check_numbers(plan: CheckPlan, measured: Collection[int]) -> None:
    """Refuse numbers that make no change, and layers that are not `measured`; raises `JacspecError`."""
    if not plan.layers:
        raise JacspecError("modes.check_layers is empty. Type modes.check_layers=null for first, middle and last.")
    if not plan.epsilons or not all(0 < epsilon < math.inf for epsilon in plan.epsilons):
        raise JacspecError(
            f"modes.check_epsilons={list(plan.epsilons)} has to be numbers above 0. Type 'modes.check_epsilons=[0.1]'."
        )
    if plan.random < 1:
        raise JacspecError(f"modes.check_random={plan.random} leaves no chance to compare with. Type 1 or more.")
    if missing := [layer for layer in plan.layers if layer not in measured]:
        raise JacspecError(
            f"modes.check_layers has {missing[0]}, whose modes are not measured. Type layers=null, or "
            f"'modes.check_layers=[{min(measured)}]'."
        )


def cut_samples(sample: Sample, *, least: int, seed: int) -> tuple[Sample, list[int]]:
    """End each sample at a drawn token, uniformly from `least` on where it has more, so that at least one follows.

    **Returns:** the samples, and the token that follows each.

    **Raises:** `JacspecError` where a sample has no token to follow.
    """
    draw = np.random.default_rng([seed, 2])
    if short := [number for number, ids in enumerate(sample.tokens) if len(ids) < 2]:
        raise JacspecError(
            f"Sample {short[0]} has one token, and modes.check needs one that follows. Type data.min_tokens=2."
        )
    ends = [int(draw.integers(min(max(least, 1), len(ids) - 1), len(ids))) for ids in sample.tokens]
    cut = [ids[:end] for ids, end in zip(sample.tokens, ends, strict=True)]
    return sample._replace(tokens=cut), [ids[end] for ids, end in zip(sample.tokens, ends, strict=True)]


def mask_samples(
    sample: Sample, mask: int, special: Collection[int], *, least: int, seed: int
) -> tuple[Sample, list[int]]:
    """End each sample with a mask, in the place of a token drawn from those that are not `special`.

    Of those that leave `least` tokens or more, where there are any.

    **Returns:** the samples, and the token that each mask hides.

    **Raises:** `JacspecError` where a sample has special tokens alone.
    """
    draw = np.random.default_rng([seed, 2])
    cut, hidden = [], []
    for number, ids in enumerate(sample.tokens):
        places = [place for place, token in enumerate(ids) if token not in special]
        if not places:
            raise JacspecError(f"Sample {number} has special tokens alone, and modes.check needs one to mask.")
        place = int(draw.choice([place for place in places if place + 1 >= least] or places))
        cut.append([*ids[:place], mask])
        hidden.append(ids[place])
    return sample._replace(tokens=cut), hidden


def check_batches(
    checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], batches: Sequence[PaddedBatch], plan: CheckPlan
) -> Sequence[PaddedBatch]:
    """Make smaller batches where a change takes a whole sample along, so that all of them fit the memory."""
    if model_kind(checkpoint.spec) == "causal":
        return batches
    longest, block = max(map(len, tokens)), checkpoint.spec.blocks[0]
    copies = len(plan.layers) * 3 * (DIRECTIONS + plan.random) * (2 * len(plan.epsilons) + 2)
    each = copies * longest * block.d_model * checkpoint.dtype.itemsize + carry_bytes(
        block, longest, checkpoint.dtype.itemsize
    )
    return make_batches(tokens, size=int(min(max(plan.memory_bytes // each, 1), len(tokens))))


def check_modes(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    targets: Sequence[int],
    modes: Mapping[tuple[int, str], Modes],
    plan: CheckPlan,
) -> list[tuple[Any, ...]]:
    """Measure what changes along the modes do, beside directions of chance; rows under `CHECK_COLUMNS`.

    **Arguments:** `targets`, the true token of each sample; `modes` by (layer, component) for `plan.layers`.
    """
    return check_rows(measure_effects(checkpoint, batches, targets, modes, plan), plan.changes)


def measure_effects(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    targets: Sequence[int],
    modes: Mapping[tuple[int, str], Modes],
    plan: CheckPlan,
) -> list[Effect]:
    """Carry all changes to the end, one block in memory, and compare with the unchanged run.

    In memory are the hidden states and, of each sample, a stream a change and two a direction. A change costs a
    token's pass through the later blocks and the head. In an encoder it is all tokens in their place, and batches go
    through the model one after the other.
    """
    samples, k, _ = next(iter(modes.values())).reads.shape
    stocks = draw_stocks(checkpoint, batches, plan.layers, random=plan.random, k=k, samples=samples, seed=plan.seed)
    together = [batches] if model_kind(checkpoint.spec) == "causal" else [[padded] for padded in batches]
    labels: list[_Label] = []
    parts = []
    for group in together:
        labels, found = _measure_group(checkpoint, group, targets, modes, stocks, plan)
        parts += found
    arrays = [in_order(batches, found) for found in zip(*parts, strict=True)]
    return [Effect(*label, *(array[:, place] for array in arrays)) for place, label in enumerate(labels)]


def _measure_group(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    targets: Sequence[int],
    modes: Mapping[tuple[int, str], Modes],
    stocks: Stocks,
    plan: CheckPlan,
) -> tuple[list[_Label], list[tuple[np.ndarray, ...]]]:
    """Carry the changes of some batches: what they are, and a batch each the arrays of `Effect`."""
    changed: list[_Changed | None] = [None] * len(batches)
    labels: list[_Label] = []

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        met = [see(block, stream) for stream in streams]
        left = [after for _, after in met]
        own = modes_of(block.spec, number, modes) if number in plan.layers else {}
        for place, (padded, (seen, _)) in enumerate(zip(batches, met, strict=True)):
            before = changed[place]
            if before is not None:
                before = before._replace(state=go_on(block, ENTER, seen, before.state, plan.memory_bytes))
            for label, begun in _begin(block, number, seen, padded, own, stocks, plan) if own else ():
                before = begun if before is None else before.join(begun)
                labels.extend(label if not place else ())
            changed[place] = before
        if number < last:
            return Visit(None, left)
        return Visit([(last_tokens(stream), seen.length) for stream, (seen, _) in zip(left, met, strict=True)])

    last = len(checkpoint.spec.blocks) - 1
    (final,) = walk(checkpoint, batches, visit, last=last, decoder_input="shifted")
    head = checkpoint.head()
    parts = []
    for padded, own, (ended, length) in zip(batches, changed, final, strict=True):
        assert own is not None
        count = len(padded.samples)
        state = State(*(part[:count] for part in take_last(own.state, length)))
        true = np.asarray([targets[sample] for sample in padded.samples], np.int32)
        starts, amounts = own.starts[:count], own.amounts[:count]
        found = compare(head, ended[:count], state, starts, amounts, true, plan.memory_bytes)
        parts.append((np.asarray(starts), amounts, *found))
    return labels, parts


def _begin(
    block: Block,
    number: int,
    seen: Seen,
    padded: PaddedBatch,
    own: Mapping[str, Modes],
    stocks: Stocks,
    plan: CheckPlan,
) -> Iterator[tuple[list[_Label], _Changed]]:
    """Make all changes at each place of one block, and carry them to its end."""
    rows, bases = padded.row_samples, find_bases(block, seen)
    for place in (place for place in (ENTER, MIDDLE, LEAVE) if place in bases):
        base = bases[place]
        found = dict(name_directions(block.spec, place, rows, np.asarray(base), own, stocks[number][place]))
        if not found:
            continue
        directions = np.stack(list(found.values()), axis=1).astype(np.asarray(base).dtype)
        amounts = find_amounts(np.asarray(base), directions, plan.epsilons)
        starts = jnp.asarray(directions)
        state = begin(block, seen, starts, jnp.asarray(amounts), place=place)
        state = go_on(block, place, seen, state, plan.memory_bytes)
        yield [_Label(number, place, kind, component) for component, kind, _ in found], _Changed(state, starts, amounts)
