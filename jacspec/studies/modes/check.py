r"""Does it matter: the last token's stream is changed along a direction, and carried on to the next token's logits.

At a layer a direction d is added to the stream x of the last token, ±ε‖x‖ along it, or taken away, x − (d·x) d. In a
causal stack no other token reads the last one, so that the changed stream alone goes through the later blocks, which
see the unchanged keys and values of the others; all changes of all layers go through a block together while it is in
memory. What comes out is compared with the unchanged run: the loss of the true next token, KL(p‖p′) of its
distribution, all logits.

The linear prediction is the product of all Jacobians in between, that of the head included, with the change
(forward-mode products at the unchanged run): what it explains of the change of the logits, less their mean, is
$1 - \|\Delta z - \Delta \hat z\|^2 / \|\Delta z\|^2$.

Directions: `write` (u₁ of a component, where its output has been added) and `read` (v₁, where the component reads), of
each sample's own Jacobian; beside them, at the same place, `random` ones of the covariance of the stream and
`principal`, the first principal component of the stream. With `_k` it is a subspace, of as many directions as modes
are kept: the change is along the part of the stream that lies in it, so that `remove` takes the whole subspace away.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.jacobians.branches import components_of
from jacspec.jacobians.solvers import carry_bytes
from jacspec.jacobians.streaming import Stream, Visit, pass_through, walk
from jacspec.jacobians.triples import alone
from jacspec.models.block import Block, Head
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch, Prefix
from jacspec.scoring.windows import model_kind
from jacspec.spectra.significance import FEWEST
from jacspec.studies.modes.after import in_order, last_tokens
from jacspec.studies.modes.words import Modes, draw_like, later_tokens, leading_directions
from jacspec.text.corpus import Sample

WRITE, READ, RANDOM, PRINCIPAL = KINDS = ("write", "read", "random", "principal")
SUBSPACE = "_k"
REMOVE = "remove"
ENTER, MIDDLE, LEAVE = "stream that enters", "stream after attention", "stream that leaves"
ROUNDING = 1000
"""Changes of the logits (root mean square) below this many roundings of the largest are not compared with others."""

DRAWS = 1000
"""Resamplings of the samples for intervals of 95 %."""


class CheckPlan(NamedTuple):
    """At which `layers` what is changed: by ±ε of the stream's length, ε in `epsilons`; `random` directions a sample.

    `memory_bytes`, what copies of the stream and their logits may take on the way.
    """

    layers: Sequence[int]
    epsilons: Sequence[float] = (0.1,)
    random: int = 4
    seed: int = 0
    memory_bytes: float = 2.0**30

    @property
    def changes(self) -> list[str]:
        """Name what is done along each direction; what is added stands there with both signs."""
        return [*(f"{epsilon:g}" for epsilon in self.epsilons), REMOVE]


class Effect(NamedTuple):
    """What changes along one kind of direction did at one place, samples in the order of the corpus.

    `direction` has length 1; `amount` is what of it was added, by change: ± of each ε, then the removal. `loss` is
    that of the true next token less the unchanged one, `kl` KL(p‖p′), in nats; `predicted` the share of the change
    of the logits that the Jacobians explain; `named` the change of the logit (less the mean) of the token that the
    direction names over what its score says. NaN where a sample has no such direction.
    """

    layer: int
    place: str
    kind: str
    component: str
    direction: Float[np.ndarray, "sample d_model"]
    amount: Float[np.ndarray, "sample change"]
    loss: Float[np.ndarray, "sample change"]
    kl: Float[np.ndarray, "sample change"]
    predicted: Float[np.ndarray, "sample change"]
    named: Float[np.ndarray, "sample change"]


class _Label(NamedTuple):
    layer: int
    place: str
    kind: str
    component: str


class _State(NamedTuple):
    """Changed streams of the last tokens of a batch on their way, and the changes' images under the Jacobians."""

    copies: Float[Array, "row copy d_model"]
    tangents: Float[Array, "row direction d_model"]
    starts: Float[Array, "row direction d_model"]
    amounts: Float[np.ndarray, "row direction change"]


def check_possible(checkpoint: Checkpoint) -> None:
    """Refuse models in which the check is not made; raises `JacspecError`."""
    if len(checkpoint.spec.stacks) > 1 or model_kind(checkpoint.spec) == "masked":
        raise JacspecError(
            "modes.check changes the last token's stream alone, which only in a decoder leaves the other tokens as "
            "they are; this model is an encoder or has one. Type modes.check=false."
        )
    if not checkpoint.has_head:
        raise JacspecError(
            f"{checkpoint.name} was saved without its language-model head: it predicts no token. "
            "Type modes.check=false."
        )


def check_numbers(plan: CheckPlan, measured: Collection[int]) -> None:
    """Refuse numbers that make no change, and layers that are not `measured`; raises `JacspecError`."""
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


def check_modes(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    targets: Sequence[int],
    modes: Mapping[tuple[int, str], Modes],
    plan: CheckPlan,
) -> list[tuple[Any, ...]]:
    """Measure what changes along the modes do, beside directions of chance; rows under `CHECK_COLUMNS`.

    **Arguments:** `targets`, the true next token of each sample; `modes` by (layer, component) for `plan.layers`.
    """
    return check_rows(measure_effects(checkpoint, batches, targets, modes, plan), plan)


def measure_effects(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    targets: Sequence[int],
    modes: Mapping[tuple[int, str], Modes],
    plan: CheckPlan,
) -> list[Effect]:
    """Carry all changes to the end, one block in memory, and compare with the unchanged run.

    In memory are the hidden states and, of each sample, a stream a change and two a direction. A change costs a
    token's pass through the later blocks and the head.
    """
    states: list[_State | None] = [None] * len(batches)
    labels: list[_Label] = []

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        passed = [pass_through(block, stream, ("block",), last=False) for stream in streams]
        left = [after for _, after in passed]
        points = [branches["block"].point for branches, _ in passed]
        own = _own_modes(block, number, modes) if number in plan.layers else {}
        around = _surroundings(number, batches, (streams, left), own, plan) if own else {}
        for place, (padded, point) in enumerate(zip(batches, points, strict=True)):
            prefix, state = point.context[0], states[place]
            state = None if state is None else _onward(block, ENTER, prefix, point.x, state, plan)
            if own:
                found, begun = _begin(block, number, prefix, point.x, padded, own, around, plan)
                state = begun if state is None else _State(*map(_join, state, begun))
                labels.extend(found if not place else ())
            states[place] = state
        ends = [last_tokens(stream) for stream in left] if number == last else None
        return Visit(ends, left)

    last = len(checkpoint.spec.blocks) - 1
    (final,) = walk(checkpoint, batches, visit, last=last, decoder_input="shifted")
    head = checkpoint.head()
    parts = []
    for padded, state, ended in zip(batches, states, final, strict=True):
        assert state is not None
        count = len(padded.samples)
        own = np.asarray([targets[sample] for sample in padded.samples], np.int32)
        parts.append(
            _compare(head, jax.tree.map(lambda part, count=count: part[:count], state), ended[:count], own, plan)
        )
    arrays = [in_order(batches, found) for found in zip(*parts, strict=True)]
    return [Effect(*label, *(array[:, place] for array in arrays)) for place, label in enumerate(labels)]


def _join(first: Any, second: Any) -> Any:
    return (np if isinstance(first, np.ndarray) else jnp).concatenate([first, second], axis=1)


def _own_modes(block: Block, number: int, modes: Mapping[tuple[int, str], Modes]) -> dict[str, Modes]:
    names = [name for layer, name in modes if layer == number]
    return {own: modes[number, full] for full, own in components_of(block.spec, names).items()}


def _places(component: str, *, parallel: bool) -> dict[str, str]:
    """Say where a component reads and where its output has been added: before, in the middle of or behind a block."""
    read = MIDDLE if component == "mlp" and not parallel else ENTER
    write = MIDDLE if component == "attn" and not parallel else LEAVE
    return {READ: read, WRITE: write}


class _Stock(NamedTuple):
    """Directions of chance at one place: random ones of every sample, and principal components."""

    random: Float[np.ndarray, "sample draw d_model"]
    principal: Float[np.ndarray, "mode d_model"]


def _surroundings(
    number: int,
    batches: Sequence[PaddedBatch],
    streams: tuple[Sequence[Stream], Sequence[Stream]],
    own: Mapping[str, Modes],
    plan: CheckPlan,
) -> dict[str, _Stock]:
    """Draw directions with the covariance of the streams that enter (for the middle: leave) a block."""
    modes = next(iter(own.values()))
    samples, k, _ = modes.reads.shape
    stocks = {}
    for place, found in ((ENTER, streams[0]), (LEAVE, streams[1])):
        rows, _ = later_tokens(batches, found)
        count = plan.random + k
        drawn = draw_like(rows, samples * count, [plan.seed, 21, number, place == LEAVE])
        if drawn is None:
            raise JacspecError(
                "modes.check draws directions with the covariance of the streams, and these samples have too few "
                "tokens for one. Type data.min_tokens=3."
            )
        centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
        principal = leading_directions(centred[:, None], k)[0]
        stocks[place] = _Stock(drawn.reshape(samples, count, -1), principal)
    return {**stocks, MIDDLE: stocks[LEAVE]}


def _begin(
    block: Block,
    number: int,
    prefix: Prefix,
    x: Float[Array, "row d_model"],
    padded: PaddedBatch,
    own: Mapping[str, Modes],
    stocks: Mapping[str, _Stock],
    plan: CheckPlan,
) -> tuple[list[_Label], _State]:
    """Make all changes at one block, and carry them to its end."""
    rows, states, labels = padded.row_samples, [], list[_Label]()
    for place, base in _bases(block, prefix, x).items():
        found = dict(_directions(block, place, rows, np.asarray(base), own, stocks[place], plan))
        if not found:
            continue
        labels += [_Label(number, place, kind, component) for component, kind, _ in found]
        directions = np.stack(list(found.values()), axis=1).astype(np.asarray(base).dtype)
        amounts = _amounts(np.asarray(base), directions, plan.epsilons)
        starts = jnp.asarray(directions)
        copies = _change(base, starts, jnp.asarray(amounts))
        carried = _onward(block, place, prefix, base, _State(copies, starts, starts, amounts), plan)
        states.append(carried)
    return labels, functools.reduce(lambda first, second: _State(*map(_join, first, second)), states)


def _bases(block: Block, prefix: Prefix, x: Float[Array, "row d_model"]) -> dict[str, Float[Array, "row d_model"]]:
    """Compute the unchanged stream at each place of a block; a parallel one has no middle."""
    middle, leave = _inside(block, prefix, x)
    return {ENTER: x, **({} if block.spec.parallel else {MIDDLE: middle}), LEAVE: leave}


@jax.jit
def _inside(block: Block, prefix: Prefix, x: Float[Array, "row d_model"]) -> tuple[Array, Array]:
    def one(prefix: Prefix, x: Array) -> tuple[Array, Array]:
        return block.attn_norms.add(x, block.attn_branch(x, prefix)), block.last(x, prefix, None)

    return jax.vmap(one)(prefix, x)


def _directions(
    block: Block,
    place: str,
    rows: Int[np.ndarray, " row"],
    base: Float[np.ndarray, "row d_model"],
    own: Mapping[str, Modes],
    stock: _Stock,
    plan: CheckPlan,
) -> Iterable[tuple[tuple[str, str, int], Float[np.ndarray, "row d_model"]]]:
    """Name the directions of each row at one place, each of length 1, NaN where there is none."""
    there = False
    for component, modes in own.items():
        for side, where in _places(component, parallel=block.spec.parallel).items():
            if where != place:
                continue
            there = True
            vectors = (modes.writes if side == WRITE else modes.reads)[rows]
            single = alone(modes.group)[rows, 0]
            yield (component, side, 0), np.where(single[:, None], vectors[:, 0], np.nan)
            whole = (modes.group[rows] >= 0).all(axis=1)
            yield (component, side + SUBSPACE, 0), np.where(whole[:, None], part_inside(vectors, base), np.nan)
    if there:
        for draw in range(plan.random):
            yield ("", RANDOM, draw), stock.random[rows, draw]
        spans = np.linalg.qr(stock.random[rows, plan.random :].transpose(0, 2, 1))[0].transpose(0, 2, 1)
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


def _amounts(
    base: Float[np.ndarray, "row d_model"],
    directions: Float[np.ndarray, "row direction d_model"],
    epsilons: Sequence[float],
) -> Float[np.ndarray, "row direction change"]:
    """Say how much of each direction is added: ± each ε of the stream's length, and minus what there is of it."""
    lengths = np.broadcast_to(np.linalg.norm(base, axis=1)[:, None], directions.shape[:2])
    added = [sign * epsilon * lengths for epsilon in epsilons for sign in (1, -1)]
    return np.stack([*added, -np.einsum("rjd,rd->rj", directions, base)], axis=2).astype(base.dtype)


@jax.jit
def _change(
    base: Float[Array, "row d_model"],
    directions: Float[Array, "row direction d_model"],
    amounts: Float[Array, "row direction change"],
) -> Float[Array, "row copy d_model"]:
    changed = base[:, None, None] + amounts[..., None] * directions[:, :, None]
    return changed.reshape(len(base), -1, base.shape[1])


def _onward(
    block: Block, place: str, prefix: Prefix, base: Float[Array, "row d_model"], state: _State, plan: CheckPlan
) -> _State:
    """Carry changed streams and images from a place in a block to its end, as many at once as memory allows."""
    if place == LEAVE:
        return state
    tokens = prefix.visible.shape[-1]
    # One token of each copy: what a whole sample takes, over its tokens.
    each = carry_bytes(block.spec, tokens, base.dtype.itemsize) // tokens * len(base)
    size = int(max(plan.memory_bytes // (2 * each), 1))
    copies = _in_chunks(lambda part: _carry(block, prefix, part, place=place), state.copies, size)
    tangents = _in_chunks(lambda part: _push(block, prefix, base, part, place=place), state.tangents, max(size // 2, 1))
    return state._replace(copies=copies, tangents=tangents)


def _in_chunks(f: Callable[[Array], Array], whole: Float[Array, "row copy d_model"], size: int) -> Array:
    """Apply a function to parts of the second axis of one size; the last repeats its end."""
    count = whole.shape[1]
    if count <= size:
        return f(whole)
    padded = jnp.pad(whole, [(0, 0), (0, -count % size), (0, 0)], mode="edge")
    parts = [f(padded[:, start : start + size]) for start in range(0, count, size)]
    return jnp.concatenate(parts, axis=1)[:, :count]


def _rest(block: Block, prefix: Prefix, x: Float[Array, " d_model"], place: str) -> Float[Array, " d_model"]:
    """Carry one stream from a place in a block to its end."""
    return block.last(x, prefix, None) if place == ENTER else block.mlp_norms.add(x, block.mlp_branch(x))


@functools.partial(jax.jit, static_argnames="place")
def _carry(block: Block, prefix: Prefix, copies: Float[Array, "row copy d_model"], *, place: str) -> Array:
    def one(prefix: Prefix, copies: Array) -> Array:
        return jax.vmap(lambda x: _rest(block, prefix, x, place))(copies)

    return jax.vmap(one)(prefix, copies)


@functools.partial(jax.jit, static_argnames="place")
def _push(
    block: Block,
    prefix: Prefix,
    base: Float[Array, "row d_model"],
    tangents: Float[Array, "row direction d_model"],
    *,
    place: str,
) -> Array:
    def one(prefix: Prefix, x: Array, tangents: Array) -> Array:
        _, push = jax.linearize(lambda x: _rest(block, prefix, x, place), x)
        return jax.vmap(push)(tangents)

    return jax.vmap(one)(prefix, base, tangents)


def _compare(
    head: Head, state: _State, final: Float[Array, "row d_model"], targets: Int[np.ndarray, " row"], plan: CheckPlan
) -> tuple[np.ndarray, ...]:
    """Compute what `Effect` holds of the changes of a batch: arrays (row, direction, …)."""
    rows, directions, changes = state.amounts.shape
    width = final.shape[1]
    vocab = head.unembed.weight.shape[0]
    pairs = (
        jnp.repeat(final, directions, axis=0),
        state.copies.reshape(-1, changes, width),
        state.tangents.reshape(-1, width),
        state.starts.reshape(-1, width),
        jnp.asarray(state.amounts.reshape(-1, changes)),
        jnp.repeat(jnp.asarray(targets), directions),
    )
    size = int(max(plan.memory_bytes // (4 * (changes + 3) * vocab * final.dtype.itemsize), 1))
    size, total = min(size, rows * directions), rows * directions
    found = []
    for start in range(0, total, size):
        part = [pair[start : start + size] for pair in pairs]
        missing = size - len(part[0])
        part = [jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), mode="edge") for array in part]
        found.append([np.asarray(array)[: size - missing] for array in _effects(head, *part)])
    measured = [np.concatenate(arrays).reshape(rows, directions, changes) for arrays in zip(*found, strict=True)]
    return (np.asarray(state.starts), state.amounts, *measured)


@jax.jit
def _effects(
    head: Head,
    final: Float[Array, "pair d_model"],
    copies: Float[Array, "pair change d_model"],
    tangents: Float[Array, "pair d_model"],
    starts: Float[Array, "pair d_model"],
    amounts: Float[Array, "pair change"],
    targets: Int[Array, " pair"],
) -> tuple[Float[Array, "pair change"], ...]:
    """Compare the logits of changed streams with those of the unchanged, and with what Jacobians and words say."""

    def one(h: Array, copies: Array, tangent: Array, start: Array, amounts: Array, target: Array) -> tuple[Array, ...]:
        before, image = jax.jvp(head, (h,), (tangent,))
        # What the words of the direction say: through the head alone.
        score = head.unembed.weight[...] @ jax.jvp(head.features, (h,), (start,))[1]
        score = score - score.mean()
        first = jnp.argmax(jnp.abs(score))
        after = head(copies)
        log_p, log_q = jax.nn.log_softmax(before), jax.nn.log_softmax(after)
        change = after - before[None]
        change = change - change.mean(axis=1, keepdims=True)
        expected = amounts[:, None] * (image - image.mean())[None]
        loss = log_p[target] - log_q[:, target]
        # Below zero is rounding.
        kl = jnp.maximum(jnp.sum(jnp.exp(log_p)[None] * (log_p[None] - log_q), axis=1), 0)
        size = jnp.mean(change**2, axis=1)
        explained = 1 - jnp.mean((change - expected) ** 2, axis=1) / size
        least = ROUNDING * jnp.finfo(before.dtype).eps * jnp.abs(before).max()
        seen = jnp.sqrt(size) > least
        return (
            loss,
            kl,
            *(jnp.where(seen, x, jnp.nan) for x in (explained, change[:, first] / (amounts * score[first]))),
        )

    return jax.vmap(one)(final, copies, tangents, starts, amounts, targets)


def check_rows(effects: Sequence[Effect], plan: CheckPlan) -> list[tuple[Any, ...]]:
    """Sum up over samples: medians and their intervals of 95 % (bootstrap over samples), chance beside them.

    Both signs of what is added are averaged, and all random directions of a sample. `ratio` is the median over
    samples of KL over that of the sample's random directions at the same place: how many times more than chance.
    """
    chance = {
        (effect.layer, effect.place, effect.kind): _averaged(
            [each for each in effects if each[:3] == effect[:3]], "kl", plan
        )
        for effect in effects
        if effect.kind.startswith(RANDOM)
    }
    rows = []
    for effect in _once(effects):
        same = [each for each in effects if each[:4] == effect[:4]]
        by_name = {name: _averaged(same, name, plan) for name in ("loss", "kl", "predicted", "named")}
        baseline = chance[effect.layer, effect.place, RANDOM + SUBSPACE * effect.kind.endswith(SUBSPACE)]
        for place, change in enumerate(plan.changes):
            own = {name: values[:, place] for name, values in by_name.items()}
            random = baseline[:, place]
            ratio = np.full(len(random), np.nan)
            np.divide(own["kl"], random, out=ratio, where=(random > 0) & (not effect.kind.startswith(RANDOM)))
            known = int(np.isfinite(own["kl"]).sum())
            where = effect.component or effect.place
            numbers = [number for name in ("loss", "kl") for number in median_interval(own[name], plan.seed)]
            numbers += [_median(random), *median_interval(ratio, plan.seed)]
            numbers += [*median_interval(own["predicted"], plan.seed), _median(own["named"])]
            rows.append((effect.layer, where, effect.kind, change, known, *numbers))
    return rows


def _once(effects: Sequence[Effect]) -> list[Effect]:
    """Take one of the random directions at each place, for all of them."""
    return list({effect[:4]: effect for effect in effects}.values())


def _averaged(effects: Sequence[Effect], name: str, plan: CheckPlan) -> Float[np.ndarray, "sample change"]:
    """Average over directions of one kind and both signs of what is added."""
    values = np.mean([getattr(effect, name).astype(np.float64) for effect in effects], axis=0)
    added = values[:, :-1].reshape(len(values), len(plan.epsilons), 2).mean(axis=2)
    return np.concatenate([added, values[:, -1:]], axis=1)


def _median(values: Float[np.ndarray, " sample"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def median_interval(values: Float[np.ndarray, " sample"], seed: int) -> tuple[float, float, float]:
    """Compute a median over samples and its bootstrap interval of 95 %, NaN where there are too few."""
    known = values[np.isfinite(values)]
    if len(known) < FEWEST:
        return _median(values), float("nan"), float("nan")
    picks = np.random.default_rng(seed).integers(0, len(known), (DRAWS, len(known)))
    low, high = np.quantile(np.median(known[picks], axis=1), [0.025, 0.975])
    return _median(values), float(low), float(high)
