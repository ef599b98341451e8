"""Flax modules that blocks are made of: linear maps, norms, attention, MLP.

Every module is an `nnx.Module` used as an immutable pytree: plain `jax.jit`, `vmap` and `jacfwd` act on it.
Modules see one sample; callers vmap over samples.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jacspec.glossary import Prefix

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
"""Activations by their HF names, spelled exactly: `gelu` is the erf form, `gelu_new` the tanh form."""


class Linear(nnx.Module):
    """`y = W x + b` with `W: (out, in)`, drawn from N(0, std²) with zero bias until a checkpoint fills it."""

    def __init__(self, n_in: int, n_out: int, *, std: float, bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.weight = nnx.Param(std * jax.random.normal(rngs.params(), (n_out, n_in), dtype))
        self.bias = nnx.Param(jnp.zeros(n_out, dtype)) if bias else None

    def __call__(self, x: Float[Array, "*axes n"]) -> Float[Array, "*axes m"]:
        """Map the last axis from `n` inputs to `m` outputs; 2·m·n FLOPs a vector."""
        y = jnp.einsum("...n,mn->...m", x, self.weight[...])
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...], y.shape)


class LayerNorm(nnx.Module):
    """`(x − mean) / √(var + eps) · weight + bias` over the last axis, the variance in a second pass.

    The two passes and the checkpoint's own `eps` matter: flax's defaults (1e-6, E[x²] − E[x]²) were seen to
    give relative errors up to 1e-2 on trained checkpoints.
    """

    def __init__(self, d_model: int, *, eps: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones(d_model, dtype))
        self.bias = nnx.Param(jnp.zeros(d_model, dtype))
        self.eps = eps

    def __call__(self, x: Float[Array, "*axes d_model"]) -> Float[Array, "*axes d_model"]:
        """Normalise each vector of the last axis."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        weight, bias = (jnp.broadcast_to(leaf[...], x.shape) for leaf in (self.weight, self.bias))
        return centred / jnp.sqrt(variance + self.eps) * weight + bias


class Attention(nnx.Module):
    """Multi-head attention, seen from all tokens (`__call__`) or from the last one alone (`attend_last`)."""

    def __init__(
        self,
        d_model: int,
        *,
        heads: int,
        kv_heads: int,
        d_head: int,
        scale: float,
        std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        linear = functools.partial(Linear, dtype=dtype, rngs=rngs)
        self.q = linear(d_model, heads * d_head, std=std)
        self.k = linear(d_model, kv_heads * d_head, std=std)
        self.v = linear(d_model, kv_heads * d_head, std=std)
        self.o = linear(heads * d_head, d_model, std=out_std)
        self.kv_heads, self.group, self.d_head, self.scale = kv_heads, heads // kv_heads, d_head, scale

    def query(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token kv_head group d_head"]:
        """Project normed residual vectors to queries, grouped by the kv head they read."""
        return self.q(x).reshape(*x.shape[:-1], self.kv_heads, self.group, self.d_head)

    def key_value(
        self, x: Float[Array, "*token d_model"]
    ) -> tuple[Float[Array, "*token kv_head d_head"], Float[Array, "*token kv_head d_head"]]:
        """Project normed residual vectors to keys and values."""
        shape = (*x.shape[:-1], self.kv_heads, self.d_head)
        return self.k(x).reshape(shape), self.v(x).reshape(shape)

    def __call__(
        self, x: Float[Array, "token d_model"], visible: Bool[Array, "token token"]
    ) -> Float[Array, "token d_model"]:
        """Attend from every token (rows of `visible`) to those it may see (columns)."""
        query, (key, value) = self.query(x), self.key_value(x)
        # (query token, kv_head, group, d_head) x (token, kv_head, d_head) -> (kv_head, group, query token, token)
        logits = self.scale * jnp.einsum("qkgd,tkd->kgqt", query, key)
        weights = jax.nn.softmax(jnp.where(visible[None, None], logits, -jnp.inf), axis=-1)
        mixed = jnp.einsum("kgqt,tkd->qkgd", weights, value)
        return self.o(mixed.reshape(x.shape[0], -1))

    def attend_last(self, x: Float[Array, " d_model"], prefix: Prefix) -> Float[Array, " d_model"]:
        """Attend from the last token, whose query, key and value all come from `x`, to itself and the prefix.

        The last token's own score and value stand apart from the prefix's, so that a derivative in `x` never
        touches an array with a token axis other than the scores: 20 to 30 times cheaper than differentiating
        the sequence, and exact.
        """
        query, (key, value) = self.query(x), self.key_value(x)
        prefix_logits = jnp.where(prefix.visible[None, None], jnp.einsum("kgd,tkd->kgt", query, prefix.key), -jnp.inf)
        own_logit = jnp.einsum("kgd,kd->kg", query, key)
        weights = jax.nn.softmax(self.scale * jnp.concatenate([prefix_logits, own_logit[..., None]], axis=-1), axis=-1)
        mixed = jnp.einsum("kgt,tkd->kgd", weights[..., :-1], prefix.value) + weights[..., -1:] * value[:, None, :]
        return self.o(mixed.reshape(-1))


class MLP(nnx.Module):
    """`W_down act(W_up x + b_up) + b_down`."""

    def __init__(
        self,
        d_model: int,
        *,
        d_ff: int,
        activation: str,
        std: float,
        out_std: float,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.up = Linear(d_model, d_ff, std=std, dtype=dtype, rngs=rngs)
        self.down = Linear(d_ff, d_model, std=out_std, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Apply the MLP to normed residual vectors."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))
