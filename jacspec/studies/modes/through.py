r"""What the unembedding sees of a write: through the head alone, or through all later blocks too.

`direct`: $DN(h_L) \, u$, $N$ all that stands between the last block's output $h_L$ and the unembedding. `depth`:
$DN(h_L) \, J_{L-1} \cdots J_{l+1} \, u$ with the Jacobian $J_j$ of each later block at the last token, all that it
reads of other tokens held fixed: the product of `task=depth`. Of a write of attention the rest of its own block comes
first. In a causal stack this is the whole derivative, for no other token reads the last one; in an encoder the ways
through other tokens are left out.

The products are made from the end: of each sample the rows of $DN$ are multiplied by one block after another, so that
there is one matrix a sample, and with it everything that a layer's directions become, those of chance too.
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jacspec.jacobians.branches import Branch, Point, bind, bind_sublayer, sublayers_of
from jacspec.jacobians.devices import replicate
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.solvers import carry_bytes
from jacspec.jacobians.streaming import Stream, Visit, last_tokens, pass_through, walk
from jacspec.jacobians.triples import pull
from jacspec.models.block import Block, Head
from jacspec.models.checkpoint import Checkpoint
from jacspec.samples import PaddedBatch, in_order

Maps = list[Float[Array, "row width d_model"]]
"""Of each batch, what the unembedding reads, differentiated with respect to a stream further below."""


class Way(NamedTuple):
    """What becomes of directions on their way to the unembedding.

    `mean` is the map averaged over `samples`; `push` takes a vector of each of these, at its own sample.
    """

    mean: Float[Array, "width d_model"]
    push: Callable[[Float[np.ndarray, "sample d_model"]], Float[Array, "drawn width"]]
    samples: Int[np.ndarray, " drawn"]

    def push_in_turn(self, directions: Float[np.ndarray, "direction d_model"]) -> Float[Array, "direction width"]:
        """Take directions of chance through, each at one of `samples`, these in turn."""
        count, parts = len(self.samples), []
        for start in range(0, len(directions), count):
            own = directions[start : start + count]
            writes = np.zeros((self.samples.max() + 1, directions.shape[1]), directions.dtype)
            writes[self.samples[: len(own)]] = own
            parts.append(self.push(writes)[: len(own)])
        return jnp.concatenate(parts)


class Deep(NamedTuple):
    """The samples whose blocks are multiplied: numbers in the corpus, and batches that count from 0."""

    samples: Int[np.ndarray, " sample"]
    batches: Sequence[PaddedBatch]


def go_direct(head: Head, final: Float[np.ndarray, "sample d_model"]) -> Way:
    """Go through the head alone; `final` is what leaves the last block at each sample's last token."""
    entering = jnp.asarray(final)
    push = functools.partial(push_writes, head, entering)
    return Way(mean_map(head, entering), lambda writes: push(jnp.asarray(writes)), np.arange(len(final)))


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


def choose_deep(
    checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], *, count: int, seed: int, memory_bytes: float
) -> Deep:
    """Draw `count` samples, and put them into batches whose rows of derivatives fit `memory_bytes`."""
    drawn = np.random.default_rng([seed, 15]).choice(len(tokens), min(count, len(tokens)), replace=False)
    samples = np.sort(drawn)
    own = [tokens[sample] for sample in samples]
    longest, itemsize = max(map(len, own)), checkpoint.dtype.itemsize
    # One token of each row: what a whole sample takes, over its tokens.
    each = max(carry_bytes(block, longest, itemsize) for block in checkpoint.spec.blocks) // longest
    largest = int(max(memory_bytes // (each * checkpoint.spec.head.width), 1))
    memory_gib = memory_bytes / 2**30
    batches = prepare_batches(checkpoint, own, memory_gib=memory_gib, engine="lanczos", largest=largest)
    return Deep(samples, batches)


def go_back(
    checkpoint: Checkpoint, deep: Deep, numbers: Collection[int], decoder_input: str
) -> Iterator[tuple[int, dict[str, Way]]]:
    """Yield, from the last to the first of the blocks `numbers`, what becomes of what each component writes.

    All blocks from the first of them to the last of the model are multiplied: 2 · parameters · width FLOPs a sample
    and block. In memory are a matrix a sample (width, d_model), and the keys and values of all these blocks.
    """
    first, last = min(numbers), len(checkpoint.spec.blocks) - 1
    points, final = _find_points(checkpoint, deep.batches, first, decoder_input)
    head = checkpoint.head()
    maps = [_read_out(head, h) for h in final]
    for number in range(last, first - 1, -1):
        block = replicate(checkpoint.block(number), maps[0])
        ways, maps = _multiply(block, points.pop(number), maps)
        if number in numbers:
            yield number, {component: _average(deep, found) for component, found in ways.items()}


def _find_points(
    checkpoint: Checkpoint, batches: Sequence[PaddedBatch], first: int, decoder_input: str
) -> tuple[dict[int, list[dict[str, Point]]], list[Float[Array, "row d_model"]]]:
    """Find where all blocks from `first` on are differentiated, a batch each, and what leaves the last."""
    points: dict[int, list[dict[str, Point]]] = {}
    last = len(checkpoint.spec.blocks) - 1

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        if number < first:
            return Visit(None)
        names = ("block", *sublayers_of(block.spec))
        passed = [pass_through(block, stream, names, last=False) for stream in streams]
        points[number] = [{name: branch.point for name, branch in branches.items()} for branches, _ in passed]
        left = [after for _, after in passed]
        return Visit([last_tokens(stream) for stream in left] if number == last else None, left)

    (final,) = walk(checkpoint, batches, visit, last=last, decoder_input=decoder_input)
    return points, final


@jax.jit
def _read_out(head: Head, final: Float[Array, "row d_model"]) -> Float[Array, "row width d_model"]:
    return jax.vmap(jax.jacfwd(head.features))(final)


def _multiply(block: Block, points: Sequence[dict[str, Point]], maps: Maps) -> tuple[dict[str, Maps], Maps]:
    """Take the maps from behind a block to before it, and tell them where each component writes."""
    ways = {"block": maps}
    if block.spec.parallel:
        through = [pull(bind(block, "block", own["block"]), rows) for own, rows in zip(points, maps, strict=True)]
        return dict.fromkeys(("attn", "mlp", "block"), maps), through
    for part in reversed(sublayers_of(block.spec)):
        ways[part] = [_before_sum(block, part, own[part], rows) for own, rows in zip(points, maps, strict=True)]
        maps = [pull(bind_sublayer(block, part, own[part]), rows) for own, rows in zip(points, maps, strict=True)]
    return ways, maps


def _before_sum(
    block: Block, part: str, point: Point, rows: Float[Array, "row width d_model"]
) -> Float[Array, "row width d_model"]:
    """Take maps behind a sublayer to where its branch writes: in a post-norm block a norm of the sum stands between."""
    if getattr(block, f"{part}_norms").sum_norm is None:
        return rows
    written = _branch_output(bind(block, part, point))
    return pull(Branch(Partial(_ADDED[part], block), Point(point.x, written)), rows)


@jax.jit
def _branch_output(branch: Branch) -> Float[Array, "row d_model"]:
    return jax.vmap(branch.f)(*branch.point)


def _added(part: str, block: Block, x: Float[Array, " d_model"], written: Float[Array, " d_model"]) -> Array:
    return getattr(block, f"{part}_norms").add(x, written)


# One function a sublayer: that of a `Partial` tells compiled programs apart.
_ADDED: dict[str, Callable[..., Any]] = {part: functools.partial(_added, part) for part in ("attn", "cross", "mlp")}


def _average(deep: Deep, maps: Maps) -> Way:
    """Average maps over samples, and keep them to push each sample's own vectors."""
    counts = [len(padded.samples) for padded in deep.batches]
    total = sum(rows[:count].sum(axis=0) for rows, count in zip(maps, counts, strict=True))

    def push(writes: Float[np.ndarray, "sample d_model"]) -> Float[Array, "drawn width"]:
        pushed = [
            np.asarray(_push_rows(rows[:count], jnp.asarray(writes[deep.samples[padded.samples]], rows.dtype)))
            for rows, count, padded in zip(maps, counts, deep.batches, strict=True)
        ]
        return jnp.asarray(in_order(deep.batches, pushed))

    return Way(jnp.asarray(total) / len(deep.samples), push, deep.samples)


@jax.jit
def _push_rows(
    maps: Float[Array, "sample width d_model"], writes: Float[Array, "sample d_model"]
) -> Float[Array, "sample width"]:
    return jnp.einsum("swd,sd->sw", maps, writes)
