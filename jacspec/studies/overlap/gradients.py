r"""Gradients of each sample's loss with respect to every weight matrix, as factors: forward once, then back by blocks.

Of a matrix $y = W x$ the gradient of the loss of one sample is $g = \sum_t \delta_t x_t^\top$ over its tokens,
$\delta_t$ that with respect to $y_t$: what enters and what comes back, m + n numbers a token, say all of g, which is
never formed. No token reads one of another sample, so one backward pass of the sum of all losses gives the
factors of each. $\delta$ is read off a bias that every token has for itself.

The loss is the mean over a sample's predicted tokens, in nats: of a decoder all but its first, of an encoder those that
are masked, `MASKED` of them. Labels are those of the text (empirical Fisher), or drawn from the prediction (Fisher's
own; Kunstner, Balles & Hennig 2019).
"""

import functools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.jacobians.devices import replicate
from jacspec.jacobians.engine import memory_budget, prepare_batches
from jacspec.jacobians.streaming import Stream, Visit, step, walk
from jacspec.models.block import Block, Head
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import Packing, PaddedBatch
from jacspec.scoring.perplexity import MAX_ROWS
from jacspec.scoring.windows import mask_token, model_kind
from jacspec.studies.overlap.activations import SAME_INPUT

MASKED = 0.15
"""Share of an encoder's tokens that are masked, as in BERT's training (Devlin et al. 2019)."""

HOST_GIB = 8.0
"""What the streams that enter the blocks may take on the host between the forward and the backward pass."""

DRAWN = 21
"""Tells the random numbers of this module from those of others with the same seed."""


class Scored(NamedTuple):
    """Samples with what is predicted of each, by position: the token, and its weight in the sample's mean (0: none).

    `lots` are uniform in [0, 1): which label is drawn there from the model's own prediction.
    """

    tokens: list[list[int]]
    targets: list[Int[np.ndarray, " token"]]
    weights: list[Float[np.ndarray, " token"]]
    lots: list[Float[np.ndarray, " token"]]

    @property
    def counts(self) -> Int[np.ndarray, " sample"]:
        """How many tokens of each sample are predicted."""
        return np.array([np.count_nonzero(own) for own in self.weights])


class Factors(NamedTuple):
    """What enters a matrix at every token, and the derivative of its sample's loss with respect to what it gives."""

    inputs: Float[np.ndarray, "token n"]
    slopes: Float[np.ndarray, "token m"]


class BlockGradients(NamedTuple):
    """The factors at the matrices of a block, by place; `owner` is the number of each token's sample."""

    number: int
    block: Block
    factors: dict[str, Factors]
    owner: Int[np.ndarray, " token"]


def score_samples(checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], *, count: int, seed: int) -> Scored:
    """Draw `count` samples (all, where there are no more) and say what of each the model is to predict.

    **Raises:** `JacspecError` for encoder-decoder models, models without a head, and samples with nothing to predict.
    """
    if len(checkpoint.spec.stacks) > 1:
        raise JacspecError(
            "overlap.fisher is for decoders and for encoders with a masked-language-model head; what the decoder of "
            "this model predicts depends on what its encoder is given. Type overlap.fisher=0."
        )
    if not checkpoint.has_head:
        raise JacspecError(
            f"{checkpoint.name} was saved without its language-model head: it has no loss. Type overlap.fisher=0."
        )
    chosen = np.random.default_rng([seed, DRAWN]).choice(len(tokens), min(count, len(tokens)), replace=False)
    masked = model_kind(checkpoint.spec) == "masked"
    mask = mask_token(checkpoint) if masked else 0
    special = frozenset(checkpoint.tokenizer.all_special_ids) if masked else frozenset[int]()
    found = []
    for sample in np.sort(chosen).tolist():
        draw, own = np.random.default_rng([seed, DRAWN, sample]), list(tokens[sample])
        read, places = _mask(own, mask, special, draw) if masked else (own, np.arange(len(own) - 1))
        if not len(places):
            raise JacspecError(f"Sample {sample} has no token to predict. Type data.min_tokens=5, or overlap.fisher=0.")
        targets, weights = np.zeros(len(own), np.int32), np.zeros(len(own))
        targets[places] = np.array(own)[places if masked else places + 1]
        weights[places] = 1 / len(places)
        found.append((read, targets, weights, draw.random(len(own))))
    return Scored(*(list(parts) for parts in zip(*found, strict=True)))


def _mask(
    tokens: list[int], mask: int, special: Collection[int], draw: np.random.Generator
) -> tuple[list[int], Int[np.ndarray, " masked"]]:
    """Mask a share of the tokens that are not special, one at least."""
    free = np.array([place for place, token in enumerate(tokens) if token not in special], int)
    places = np.sort(draw.choice(free, max(round(MASKED * len(free)), 1), replace=False)) if len(free) else free
    read = np.array(tokens)
    read[places] = mask
    return read.tolist(), places


def stream_gradients(
    checkpoint: Checkpoint, scored: Scored, wanted: Collection[int], *, drawn_labels: bool, memory_gib: float
) -> Iterator[BlockGradients]:
    """Yield the factors of all samples' gradients at the blocks `wanted`, from the last of them to the first.

    Cost: a forward pass, and from the end to the first of them each block once more with its backward pass. On the host
    are the streams that enter these blocks, (block, token, d_model), on the device one block with a batch.

    **Raises:** `JacspecError` where the streams take more than `HOST_GIB`.
    """
    first, last = min(wanted), len(checkpoint.spec.blocks) - 1
    batches = prepare_batches(checkpoint, scored.tokens, memory_gib=memory_gib)
    _check_memory(checkpoint, batches, last + 1 - first, len(scored.tokens))
    entering, final = _go_forward(checkpoint, batches, first)
    owner = np.concatenate([_owners(padded)[_holding(padded)] for padded in batches])
    memory_bytes = memory_budget(memory_gib)
    gradients = _begin(checkpoint, batches, scored, final, drawn_labels=drawn_labels, memory_bytes=memory_bytes)
    for number in range(last, first - 1, -1):
        block = replicate(checkpoint.block(number), jnp.asarray(gradients[0]))
        found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        for place, (padded, hidden) in enumerate(zip(batches, entering.pop(number), strict=True)):
            before, factors = _go_back(block, hidden, padded.batch.packing, gradients[place])
            gradients[place], held = np.asarray(before), _holding(padded)
            for name, pair in factors.items() if number in wanted else ():
                found.setdefault(name, []).append((np.asarray(pair[0])[held], np.asarray(pair[1])[held]))
        if number in wanted:
            yield BlockGradients(number, block, _join(found), owner)


def _join(found: dict[str, list[tuple[np.ndarray, np.ndarray]]]) -> dict[str, Factors]:
    """Put batches one behind the other; matrices that read the same share what enters."""
    inputs = {place: np.concatenate([own for own, _ in parts]) for place, parts in found.items()}
    slopes = {place: np.concatenate([own for _, own in parts]) for place, parts in found.items()}
    return {place: Factors(inputs[SAME_INPUT.get(place, place)], own) for place, own in slopes.items()}


def _check_memory(checkpoint: Checkpoint, batches: Sequence[PaddedBatch], blocks: int, samples: int) -> None:
    places = sum(padded.batch.tokens.size for padded in batches)
    gib = blocks * places * checkpoint.spec.d_model * checkpoint.dtype.itemsize / 2**30
    if gib > HOST_GIB:
        raise JacspecError(
            f"overlap.fisher={samples} keeps {gib:.1f} GiB of streams on the host, more than {HOST_GIB:g}. "
            f"Type overlap.fisher={int(samples * HOST_GIB / gib)}, or a lower data.max_tokens."
        )


def _go_forward(
    checkpoint: Checkpoint, batches: Sequence[PaddedBatch], first: int
) -> tuple[dict[int, list[np.ndarray]], list[np.ndarray]]:
    """Keep the streams that enter the blocks from `first` on, a batch each, and those that leave the last."""
    last = len(checkpoint.spec.blocks) - 1
    kept: dict[int, list[np.ndarray]] = {}

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number >= first:
            kept[number] = [np.asarray(stream.hidden) for stream in streams]
        return Visit([np.asarray(step(block, stream).hidden) for stream in streams] if number == last else None)

    (final,) = walk(checkpoint, batches, visit, last=last, decoder_input="shifted")
    return kept, final


def _holding(padded: PaddedBatch) -> np.ndarray:
    return padded.batch.packing.holding(len(padded.samples))


def _owners(padded: PaddedBatch) -> Int[np.ndarray, "pack place"]:
    """Find the number of the sample at every place of a batch, where it holds a token that counts."""
    packs, slots, tokens = padded.batch.packing.places.shape
    slot = np.arange(packs)[:, None] * slots + np.asarray(padded.batch.packing.rows) // tokens
    found: np.ndarray = padded.row_samples[slot]
    return found


def _laid(padded: PaddedBatch, values: Sequence[np.ndarray]) -> np.ndarray:
    """Put values by sample and position where their tokens lie in a batch; 0 where none does."""
    held, owners = _holding(padded), _owners(padded)
    position = np.asarray(padded.batch.packing.rows) % padded.batch.packing.places.shape[-1]
    found = np.zeros(held.shape, values[0].dtype)
    found[held] = [values[sample][place] for sample, place in zip(owners[held], position[held], strict=True)]
    return found


def _begin(
    checkpoint: Checkpoint,
    batches: Sequence[PaddedBatch],
    scored: Scored,
    final: Sequence[np.ndarray],
    *,
    drawn_labels: bool,
    memory_bytes: float,
) -> list[np.ndarray]:
    """Differentiate the sum of all samples' losses with respect to what leaves the last block, a batch each.

    The logits of `rows` tokens are in memory at once.
    """
    head, itemsize = checkpoint.head(), checkpoint.dtype.itemsize
    laid = [[_laid(padded, values) for values in scored[1:]] for padded in batches]
    predicted = [weights > 0 for _, weights, _ in laid]
    h, targets, weights, lots = (
        np.concatenate([part[own] for part, own in zip(parts, predicted, strict=True)])
        for parts in (final, *zip(*laid, strict=True))
    )
    rows = int(min(max(memory_bytes // (6 * checkpoint.spec.vocab * itemsize), 1), MAX_ROWS, len(h)))
    found = np.empty_like(h)
    for start in range(0, len(h), rows):
        part = slice(start, start + rows)
        missing = rows - len(h[part])
        padded_parts = (np.pad(each[part], (0, missing)) for each in (targets, weights.astype(h.dtype), lots))
        slopes = _slopes(head, np.pad(h[part], [(0, missing), (0, 0)]), *padded_parts, drawn=drawn_labels)
        found[part] = np.asarray(slopes)[: rows - missing]
    if not np.isfinite(found).all():
        raise JacspecError("A gradient of the loss is not finite. Type precision=float64.")
    ends = np.cumsum([own.sum() for own in predicted])
    spread = [np.zeros_like(each) for each in final]
    for whole, own, values in zip(spread, predicted, np.split(found, ends[:-1]), strict=True):
        whole[own] = values
    return spread


@functools.partial(jax.jit, static_argnames="drawn")
def _slopes(
    head: Head,
    h: Float[Array | np.ndarray, "token d_model"],
    targets: Int[Array | np.ndarray, " token"],
    weights: Float[Array | np.ndarray, " token"],
    lots: Float[Array | np.ndarray, " token"],
    *,
    drawn: bool,
) -> Float[Array, "token d_model"]:
    """Differentiate the weighted nats of each token with respect to its stream, the labels given or drawn."""

    def nats(h: Array) -> Array:
        logits = head(h)
        labels = _draw(jax.lax.stop_gradient(logits), jnp.asarray(lots)) if drawn else jnp.asarray(targets)
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jnp.sum(jnp.asarray(weights) * (jax.nn.logsumexp(logits, axis=1) - chosen))

    return jax.grad(nats)(jnp.asarray(h))


def _draw(logits: Float[Array, "token vocab"], lots: Float[Array, " token"]) -> Int[Array, " token"]:
    """Draw a label of each prediction: where its distribution function passes the token's lot."""
    below = jnp.cumsum(jax.nn.softmax(logits, axis=1), axis=1)
    passed = below <= (lots.astype(logits.dtype) * below[:, -1])[:, None]
    return jnp.minimum(jnp.sum(passed, axis=1), logits.shape[1] - 1)


@jax.jit
def _go_back(
    block: Block,
    hidden: Float[Array | np.ndarray, "pack place d_model"],
    packing: Packing,
    gradient: Float[Array | np.ndarray, "pack place d_model"],
) -> tuple[Float[Array, "pack place d_model"], dict[str, tuple[Array, Array]]]:
    """Carry a gradient back through a block; of each place what enters there, and the gradient at what is given."""

    def one(h: Array, packing: Packing, gradient: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        inputs = block.matrix_inputs(h, packing)
        _, pull = jax.vjp(lambda own, h: own(h, packing), _with_own_biases(block, inputs, h.shape[0]), h)
        slopes, before = pull(gradient)
        found = {}
        for place, entering in inputs.items():
            bias = linear_at(slopes, place).bias
            assert bias is not None
            found[place] = (entering if place not in SAME_INPUT else entering[:, :0], bias[...])
        return before, found

    return jax.vmap(one)(jnp.asarray(hidden), packing, jnp.asarray(gradient))


def _with_own_biases(block: Block, places: Collection[str], tokens: int) -> Block:
    """Give every matrix a bias of each token's own, in the place of the one that all share."""
    own = jax.tree.map(lambda leaf: leaf, block)
    for place in places:
        linear = linear_at(own, place)
        weight = linear.weight[...]
        bias = jnp.zeros(weight.shape[:1], weight.dtype) if linear.bias is None else linear.bias[...]
        linear.bias = nnx.data(nnx.Param(jnp.broadcast_to(bias, (tokens, *bias.shape))))
    return own


def linear_at(block: Any, place: str) -> Any:
    """Find the map of a block at a place, as `attn.q`."""
    module, name = place.split(".")
    return getattr(getattr(block, module), name)
