"""What changes did to the prediction of a token, and its sums over samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.models.block import Head
from jacspec.report.findings import median_interval
from jacspec.studies.modes.carried import State
from jacspec.studies.modes.changes import RANDOM, SUBSPACE

ROUNDING = 1000
"""Changes of the logits (root mean square) below this many roundings of the largest are not compared with others."""


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


def compare(
    head: Head,
    final: Float[Array, "row d_model"],
    state: State,
    starts: Float[Array, "row direction d_model"],
    amounts: Float[np.ndarray, "row direction change"],
    targets: Int[np.ndarray, " row"],
    memory_bytes: float,
) -> tuple[np.ndarray, ...]:
    """Compute what `Effect` holds of the changes of a batch, from `loss` on: arrays (row, direction, change)."""
    rows, directions, changes = amounts.shape
    width = final.shape[1]
    vocab = head.unembed.weight.shape[0]
    pairs = (
        jnp.repeat(final, directions, axis=0),
        state.copies.reshape(-1, changes, width),
        state.tangents.reshape(-1, width),
        starts.reshape(-1, width),
        jnp.asarray(amounts.reshape(-1, changes)),
        jnp.repeat(jnp.asarray(targets), directions),
    )
    size = int(max(memory_bytes // (4 * (changes + 3) * vocab * final.dtype.itemsize), 1))
    size, total = min(size, rows * directions), rows * directions
    found = []
    for start in range(0, total, size):
        part = [pair[start : start + size] for pair in pairs]
        missing = size - len(part[0])
        part = [jnp.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), mode="edge") for array in part]
        found.append([np.asarray(array)[: size - missing] for array in _effects(head, *part)])
    measured = [np.concatenate(arrays).reshape(rows, directions, changes) for arrays in zip(*found, strict=True)]
    return tuple(measured)


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


def check_rows(effects: Sequence[Effect], changes: Sequence[str]) -> list[tuple[Any, ...]]:
    """Sum up over samples: medians and their intervals of 95 %, chance beside them.

    `changes` are their names. Both signs of what is added are averaged, and all random directions of a sample.
    `ratio` is the median over samples of KL over the median of that of the sample's random directions at the same
    place: how many times as much as chance. One more random direction would be above the median of an odd number of
    others in half of the samples, so that the median and its interval are about 1 then; KL over the *mean* of others is
    below 1 in most, for KL has a long tail.
    """
    chance = {
        (effect.layer, effect.place, effect.kind): np.median(_signs_averaged(_same(effects, effect, 3), "kl"), axis=0)
        for effect in effects
        if effect.kind.startswith(RANDOM)
    }
    rows = []
    for effect in _once(effects):
        same = _same(effects, effect, 4)
        by_name = {name: _signs_averaged(same, name).mean(axis=0) for name in ("loss", "kl", "predicted", "named")}
        baseline = chance[effect.layer, effect.place, RANDOM + SUBSPACE * effect.kind.endswith(SUBSPACE)]
        for place, change in enumerate(changes):
            own = {name: values[:, place] for name, values in by_name.items()}
            random = baseline[:, place]
            ratio = np.full(len(random), np.nan)
            np.divide(own["kl"], random, out=ratio, where=(random > 0) & (not effect.kind.startswith(RANDOM)))
            known = int(np.isfinite(own["kl"]).sum())
            where = effect.component or effect.place
            numbers = [number for name in ("loss", "kl") for number in median_interval(own[name])]
            numbers += [_median(random), *median_interval(ratio)]
            for name in ("predicted", "named"):
                # Of a few samples with a change beyond rounding it would be those in which least is removed.
                if np.isfinite(own[name]).sum() < known / 2:
                    own[name] = np.full(len(random), np.nan)
            numbers += [*median_interval(own["predicted"]), _median(own["named"])]
            rows.append((effect.layer, where, effect.kind, change, known, *numbers))
    return rows


def _once(effects: Sequence[Effect]) -> list[Effect]:
    """Take one of the random directions at each place, for all of them."""
    return list({effect[:4]: effect for effect in effects}.values())


def _same(effects: Sequence[Effect], effect: Effect, fields: int) -> list[Effect]:
    """Take the directions that agree with one in the first fields: all random ones of one kind at one place."""
    return [each for each in effects if each[:fields] == effect[:fields]]


def _signs_averaged(effects: Sequence[Effect], name: str) -> Float[np.ndarray, "direction sample change"]:
    """Average over both signs of what is added."""
    values = np.stack([getattr(effect, name).astype(np.float64) for effect in effects])
    added = values[:, :, :-1].reshape(*values.shape[:2], -1, 2).mean(axis=3)
    return np.concatenate([added, values[:, :, -1:]], axis=2)


def _median(values: Float[np.ndarray, " sample"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")
