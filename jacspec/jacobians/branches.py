"""What is differentiated: each component of a block as a function of the last token's residual stream alone.

`f(x)` is what the branch adds to the stream, its own norm inside; the identity path is not part of it. For `block` it
is the whole block at the last token, identity and all norms included. The other tokens' keys and values, and the
encoder's output, are held fixed in the context.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError, suggest
from jacspec.models.attention import KeyValue
from jacspec.models.block import Block, BlockSpec, ModelSpec
from jacspec.samples import Memory, Packing, Prefix

BRANCHES: Mapping[str, Callable[[Block, Any, Float[Array, " d_model"]], Float[Array, " d_model"]]] = {
    "attn": lambda block, context, x: block.attn_branch(x, context),
    "cross": lambda block, context, x: block.cross_branch(x, context),
    "mlp": lambda block, context, x: block.mlp_branch(x),
    "block": lambda block, context, x: block.last(x, *context),
}
"""`f(block, context, x)` by component, in the order of the block: the output at the last token."""

SUBLAYERS: Mapping[str, Callable[[Block, Any, Float[Array, " d_model"]], Float[Array, " d_model"]]] = {
    "attn": lambda block, context, x: block.attn_norms.add(x, block.attn_branch(x, context)),
    "cross": lambda block, context, x: block.cross_norms.add(x, block.cross_branch(x, context)),  # type: ignore[union-attr]
    "mlp": lambda block, context, x: block.mlp_norms.add(x, block.mlp_branch(x)),
}
"""What each branch makes of the stream, identity and a norm after the sum included: in turn they are the block."""


class Point(NamedTuple):
    """Where a component is differentiated: the stream that enters it, and what else it reads, held fixed."""

    context: Any
    x: Float[Array, "*sample d_model"]


Vectors = Float[Array, "*sample d_model"]
Products = tuple[Callable[[Vectors], Vectors], Callable[[Vectors], Vectors]]
"""Multiply a vector a sample with that sample's matrix, and with its transpose."""


class Branch(NamedTuple):
    """A component of a block, bound to where it is differentiated: `f(context, x)`, the operator that engines take.

    `f` holds the block, which all samples share; `point` is of one sample, or has a leading sample axis. The function
    of a `Partial` is part of its structure as a pytree: a program is compiled once for all blocks of one shape.
    """

    f: Partial
    point: Point

    def products(self) -> Products:
        """Return what multiplies with the Jacobian, and with its transpose."""
        context, x = self.point
        # Samples do not depend on each other: the Jacobian of the batch has theirs on its diagonal.
        f = self.f if x.ndim == 1 else jax.vmap(self.f)
        _, forward = jax.linearize(functools.partial(f, context), x)
        backward = jax.linear_transpose(forward, x)
        return forward, lambda vectors: backward(vectors)[0]

    def only(self, row: Int[Array | np.ndarray, ""]) -> "Branch":
        """Return the branch at one row of a batch, as a batch of one."""
        return Branch(self.f, jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), self.point))


def bind(block: Block, component: str, point: Point) -> Branch:
    """Bind a component, a name in `BRANCHES`, to a block and a point; all may be of shapes."""
    return Branch(Partial(BRANCHES[component], block), point)


def bind_sublayer(block: Block, component: str, point: Point) -> Branch:
    """Bind what a branch makes of the stream, identity included, a row of `SUBLAYERS`, as `bind` does the branch."""
    return Branch(Partial(SUBLAYERS[component], block), point)


def sublayers_of(block: BlockSpec) -> tuple[str, ...]:
    """List the sublayers that a block is the product of, in order; none where attention and MLP act at once."""
    return () if block.parallel else tuple(name for name in SUBLAYERS if name != "cross" or block.cross is not None)


def bind_samples(
    block: Block,
    h: Float[Array, "sample token d_model"],
    lengths: Int[Array, " sample"],
    memory: Memory | None = None,
) -> dict[str, Branch]:
    """Bind each component of a block to where it is differentiated, for samples with residual streams `h`.

    Attention is differentiated at the stream that enters the block, the MLP at the stream after attention, or in
    parallel blocks at the same.

    **Arguments:** `memory`, the encoder's output with a leading sample axis, for blocks with cross attention.

    **Returns:** a `Branch` a component, with a leading sample axis on every leaf of its point.
    """
    return {component: bind(block, component, point) for component, point in _points(block, h, lengths, memory).items()}


@jax.jit
def _points(block: Block, h: Array, lengths: Array, memory: Memory | None) -> dict[str, Point]:
    def point(h: Array, length: Array, memory: Any) -> dict[str, Point]:
        read = None if block.cross is None or memory is None else block.cross.memory_prefix(memory)
        return _sample_points(block, h[length - 1], block.prefix(h, length), read)

    return jax.vmap(point)(h, lengths, memory)


def pack_points(
    block: Block, h: Float[Array, "place d_model"], packing: Packing, memory: Memory | None, seen: KeyValue
) -> dict[str, Point]:
    """Find the points of every sample of a pack, as `bind_samples` does; `seen` as `block.key_value` gives it."""
    read = None if block.cross is None or memory is None else block.cross.memory_prefix(memory)
    x, prefix = packing.last(h), block.prefix(h, packing, seen)
    return jax.vmap(functools.partial(_sample_points, block))(x, prefix, read)


def _sample_points(block: Block, x: Float[Array, " d_model"], prefix: Prefix, read: Prefix | None) -> dict[str, Point]:
    """Find the points of one sample from the last token's stream and what it sees."""
    points, entering = {"attn": Point(prefix, x)}, x
    if not block.spec.parallel:
        x = block.attn_norms.add(x, block.attn_branch(x, prefix))
    if block.cross is not None:
        assert block.cross_norms is not None
        assert read is not None
        points["cross"] = Point(read, x)
        x = block.cross_norms.add(x, block.cross_branch(x, read))
    return points | {"mlp": Point(None, x), "block": Point((prefix, read), entering)}


ALL = "all"
"""The word for every component of a model."""


def choose_components(names: Sequence[str], spec: ModelSpec) -> tuple[str, ...]:
    """Resolve a choice of components to those of a model: `attn` means the attention of every stack, `all` all.

    **Returns:** full names, `attn`, or `encoder.attn` in an encoder-decoder model, in the order of the choice.

    **Raises:** `JacspecError` for an unknown one, one the model has not, or none at all.
    """
    check_components(names)
    # Blocks of one stack have the same components.
    known = {block.stack: _components(block) for block in spec.blocks}
    chosen: list[str] = []
    for name in names:
        found = [full for stack in known for full in known[stack] if name in (ALL, full, known[stack][full])]
        if not found:
            every = [full for stack in known for full in known[stack]]
            raise JacspecError(f"components has {name!r}, which this model has not. " + suggest(name, every))
        chosen += found
    return tuple(dict.fromkeys(chosen))


def check_components(names: Sequence[str]) -> None:
    """Refuse names that are components of no model; raises `JacspecError`."""
    known = [ALL, *BRANCHES, "encoder.attn", "encoder.block", "encoder.mlp", *(f"decoder.{name}" for name in BRANCHES)]
    for name in names:
        if name not in known:
            raise JacspecError(f"components has {name!r}, which is no component. " + suggest(name, known))
    if not names:
        raise JacspecError("components is empty. " + suggest("", known))


def components_of(block: BlockSpec, chosen: Sequence[str]) -> dict[str, str]:
    """Map the full names of the chosen components that a block has to their names in `BRANCHES`."""
    own = _components(block)
    return {full: own[full] for full in chosen if full in own}


def _components(block: BlockSpec) -> dict[str, str]:
    """Map the full names of all components that a block has to their names in `BRANCHES`."""
    names = [name for name in BRANCHES if name != "cross" or block.cross is not None]
    return {f"{block.stack}.{name}" if block.stack else name: name for name in names}


class Site(NamedTuple):
    """A component of a layer, and when it acts: of two in one stack the later `step` sees what the earlier writes."""

    layer: int
    component: str
    stack: str
    step: int


def downstream(write: Site, read: Site) -> bool:
    """Say whether one component's write is in the stream that the other reads."""
    return write.stack == read.stack and write.step < read.step


def list_sites(components: Sequence[str], spec: ModelSpec) -> dict[tuple[int, str], Site]:
    """Say when each component of each layer acts: attention and MLP of a parallel block at the same step."""
    order = list(BRANCHES)
    return {
        (spec.layer(number), full): Site(
            spec.layer(number), full, block.stack, len(order) * number + (0 if block.parallel else order.index(own))
        )
        for number, block in enumerate(spec.blocks)
        for full, own in components_of(block, components).items()
    }
