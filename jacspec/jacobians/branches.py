"""What is differentiated: each component of a block as a function of the last token's residual stream alone.

`f(x)` is what the branch adds to the stream, its own norm inside; the identity path is not part of it. The other
tokens' keys and values are held fixed in the context.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError, suggest
from jacspec.models.block import Block

Branch = Callable[[Block, Any, Float[Array, " d_model"]], Float[Array, " d_model"]]

BRANCHES: Mapping[str, Branch] = {
    "attn": lambda block, context, x: block.attn_branch(x, context),
    "mlp": lambda block, context, x: block.mlp_branch(x),
}
"""`f(block, context, x)` by component: the branch output at the last token."""


class Point(NamedTuple):
    """Where a component is differentiated: the stream that enters it, and what else it reads, held fixed."""

    context: Any
    x: Float[Array, "*sample d_model"]


@jax.jit
def branch_points(
    block: Block, h: Float[Array, "sample token d_model"], lengths: Int[Array, " sample"]
) -> dict[str, Point]:
    """Find where each component of a block is differentiated, for samples with residual streams `h`.

    Attention is differentiated at the stream that enters the block, the MLP after attention was added.

    **Returns:** a `Point` a component, with a leading sample axis on every leaf.
    """

    def point(h: Array, length: Array) -> dict[str, Point]:
        x = h[length - 1]
        prefix = block.prefix(h, length)
        return {"attn": Point(prefix, x), "mlp": Point(None, x + block.attn_branch(x, prefix))}

    return jax.vmap(point)(h, lengths)


def choose_components(names: Sequence[str]) -> tuple[str, ...]:
    """Check a choice of components; raises `JacspecError` for an unknown one or none at all."""
    for name in names:
        if name not in BRANCHES:
            raise JacspecError(f"components has {name!r}, which is no component. " + suggest(name, BRANCHES))
    if not names:
        raise JacspecError("components is empty. " + suggest("", BRANCHES))
    return tuple(dict.fromkeys(names))
