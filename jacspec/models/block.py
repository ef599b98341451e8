"""One transformer block, and the two modules around the stack of blocks.

`Block` gives each branch twice: at the last token as a function of that token's residual stream alone (what a
Jacobian differentiates), and inside the forward pass over the whole sample.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jacspec.glossary import Prefix
from jacspec.models.layers import MLP, Attention, LayerNorm, Linear


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """The choices that make a block: sizes, activation, norm, attention scale, initial spread.

    `std` and `out_std` are the standard deviations of the family's own random initialisation, for weights that
    read the residual stream and for those that write to it.
    """

    d_model: int
    heads: int
    kv_heads: int
    d_head: int
    d_ff: int
    activation: str
    norm_eps: float
    attention_scale: float
    std: float
    out_std: float


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A whole model: vocabulary, positions, one `BlockSpec` a layer, whether the unembedding is the embedding."""

    vocab: int
    positions: int
    blocks: tuple[BlockSpec, ...]
    tied: bool

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.blocks[0].d_model


class Block(nnx.Module):
    """A pre-norm block: `h += Attn(Norm(h)); h += MLP(Norm(h))`."""

    def __init__(self, spec: BlockSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.attn_norm = LayerNorm(spec.d_model, eps=spec.norm_eps, dtype=dtype)
        self.attn = Attention(
            spec.d_model,
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            d_head=spec.d_head,
            scale=spec.attention_scale,
            std=spec.std,
            out_std=spec.out_std,
            dtype=dtype,
            rngs=rngs,
        )
        self.mlp_norm = LayerNorm(spec.d_model, eps=spec.norm_eps, dtype=dtype)
        self.mlp = MLP(
            spec.d_model,
            d_ff=spec.d_ff,
            activation=spec.activation,
            std=spec.std,
            out_std=spec.out_std,
            dtype=dtype,
            rngs=rngs,
        )

    def prefix(self, h: Float[Array, "token d_model"], length: Int[Array, ""]) -> Prefix:
        """Compute what the last token (position `length − 1`) sees of the tokens before it."""
        key, value = self.attn.key_value(self.attn_norm(h))
        return Prefix(key, value, jnp.arange(h.shape[0], dtype=length.dtype) < length - 1)

    def attn_branch(self, x: Float[Array, " d_model"], prefix: Prefix) -> Float[Array, " d_model"]:
        """Compute what attention adds to the residual stream at the last token, whose stream is `x`."""
        return self.attn.attend_last(self.attn_norm(x), prefix)

    def mlp_branch(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Compute what the MLP adds to the residual stream `x`, which already holds the attention branch."""
        return self.mlp(self.mlp_norm(x))

    def attn_branches(self, h: Float[Array, "token d_model"]) -> Float[Array, "token d_model"]:
        """Compute what attention adds at every token; causal order hides the padding from every real one."""
        position = jnp.arange(h.shape[0])
        visible = position[None, :] <= position[:, None]
        return self.attn(self.attn_norm(h), visible)

    def __call__(self, h: Float[Array, "token d_model"]) -> Float[Array, "token d_model"]:
        """Carry the residual stream of one sample through the block."""
        h = h + self.attn_branches(h)
        return h + self.mlp_branch(h)


class Embedding(nnx.Module):
    """Token and learned position vectors: tokens in, the residual stream before block 0 out."""

    def __init__(self, spec: ModelSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        std = spec.blocks[0].std
        self.token = nnx.Param(std * jax.random.normal(rngs.params(), (spec.vocab, spec.d_model), dtype))
        self.position = nnx.Param(std * jax.random.normal(rngs.params(), (spec.positions, spec.d_model), dtype))

    def __call__(self, tokens: Int[Array, " token"]) -> Float[Array, "token d_model"]:
        """Look up the vectors of one sample; padding beyond the last position repeats that position."""
        position = jnp.minimum(jnp.arange(tokens.shape[0]), self.position.shape[0] - 1)
        return self.token[...][tokens] + self.position[...][position]


class Head(nnx.Module):
    """Final norm and unembedding: the residual stream after the last block in, logits out."""

    def __init__(self, spec: ModelSpec, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = LayerNorm(spec.d_model, eps=spec.blocks[0].norm_eps, dtype=dtype)
        std = spec.blocks[0].std
        self.unembed = Linear(spec.d_model, spec.vocab, std=std, bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, h: Float[Array, "*token d_model"]) -> Float[Array, "*token vocab"]:
        """Compute logits of the next token."""
        return self.unembed(self.norm(h))
