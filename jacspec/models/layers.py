"""Flax modules that blocks are made of: linear maps, norms and MLPs (attention: `attention.py`).

Every module is an `nnx.Module` used as an immutable pytree: plain `jax.jit`, `vmap` and `jacfwd` act on it.
Modules see one sample; callers vmap over samples. What a family chooses stands in the frozen specs, which are
static: blocks with equal specs share one compiled step.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_GELU = functools.partial(jax.nn.gelu, approximate=False)
_GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    **dict.fromkeys(("gelu", "gelu_python"), _GELU),
    **dict.fromkeys(("gelu_accurate", "gelu_fast", "gelu_new", "gelu_python_tanh", "gelu_pytorch_tanh"), _GELU_TANH),
    "bloom_gelu": lambda x: x * 0.5 * (1 + jnp.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "hardswish": jax.nn.hard_swish,
    "leaky_relu": jax.nn.leaky_relu,
    "linear": lambda x: x,
    "mish": jax.nn.mish,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "relu6": jax.nn.relu6,
    "sigmoid": jax.nn.sigmoid,
    **dict.fromkeys(("silu", "swish"), jax.nn.silu),
    "tanh": jnp.tanh,
}
"""Activations by their HF names: `gelu` is the erf form, `gelu_new` and its kin the tanh form, `bloom_gelu` that with
BLOOM's digits of √(2/π)."""


@dataclasses.dataclass(frozen=True)
class NormSpec:
    """`kind` is `layernorm` or `rmsnorm`; with `unit_offset` (Gemma) the stored weight is what is added to 1.

    A LayerNorm may lack its `bias`, or its `weight` too (OLMo).
    """

    kind: str
    eps: float
    unit_offset: bool = False
    weight: bool = True
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class MLPSpec:
    """`W_down act(W_up x)`, or with `gated` `W_down (act(W_gate x) ⊙ W_up x)`; `bias` on all of them or none."""

    d_ff: int
    activation: str
    gated: bool
    bias: bool

    @property
    def active(self) -> int:
        """Hidden units that one token uses."""
        return self.d_ff

    @property
    def gathered(self) -> int:
        """Rows of d_model weights that are copied for one sample: none, as all samples use the same."""
        return 0


class Truncated(NamedTuple):
    """The spread of a normal distribution that is cut off at ± `cutoff` standard deviations `std` (ModernBERT)."""

    std: float
    cutoff: float


@dataclasses.dataclass(frozen=True)
class Spread:
    """Standard deviations of a family's own random initialisation, by role; `gate` is drawn as `up` is."""

    q: float | Truncated
    k: float | Truncated
    v: float | Truncated
    o: float | Truncated
    up: float | Truncated
    down: float | Truncated
    relative: float = 0.0


def draw_normal(key: Any, shape: tuple[int, ...], std: float | Truncated, dtype: jnp.dtype) -> Float[Array, "..."]:
    """Draw from N(0, std²), to the same bits in a compiled program as outside of one."""
    if isinstance(std, Truncated):
        drawn, std = jax.random.truncated_normal(key, -std.cutoff, std.cutoff, shape, dtype), std.std
    else:
        drawn = jax.random.normal(key, shape, dtype)
    # Else XLA multiplies the spread with the constants of the drawing first.
    return std * jax.lax.optimization_barrier(drawn)


class Linear(nnx.Module):
    """`y = W x + b` with `W: (out, in)`, drawn from N(0, std²) with zero bias until a checkpoint fills it."""

    def __init__(
        self, n_in: int, n_out: int, *, std: float | Truncated, bias: bool = True, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.weight = nnx.Param(draw_normal(rngs.params(), (n_out, n_in), std, dtype))
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

    def __init__(self, size: int | tuple[int, ...], *, eps: float, weight: bool, bias: bool, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.ones(size, dtype)) if weight else None
        self.bias = nnx.Param(jnp.zeros(size, dtype)) if bias else None
        self.eps, self.size = eps, size

    def gain(self, dtype: jnp.dtype) -> Float[Array, " size"]:
        """Return what each coordinate is multiplied by after it is standardised; `dtype`, where that is 1."""
        return jnp.ones(self.size, dtype) if self.weight is None else self.weight[...]

    def standardise(self, x: Float[Array, "*axes size"]) -> tuple[Float[Array, "*axes size"], Float[Array, "*axes 1"]]:
        """Return vectors of mean zero and unit variance, and the √(variance + eps) that they were divided by."""
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        scale = jnp.sqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
        return centred / scale, scale

    def __call__(self, x: Float[Array, "*axes size"]) -> Float[Array, "*axes size"]:
        """Normalise each vector of the last axis."""
        y = self.standardise(x)[0]
        y = y if self.weight is None else y * jnp.broadcast_to(self.weight[...], x.shape)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...], x.shape)


class RMSNorm(nnx.Module):
    """`x / √(mean(x²) + eps) · weight` over the last axis (Zhang & Sennrich 2019); `offset` is added to the weight."""

    def __init__(self, size: int | tuple[int, ...], *, eps: float, offset: float, dtype: jnp.dtype):
        self.weight = nnx.Param(jnp.full(size, 1.0 - offset, dtype))
        self.eps, self.offset = eps, offset

    def gain(self, dtype: jnp.dtype) -> Float[Array, " size"]:
        """Return what each coordinate is multiplied by after it is standardised; as LayerNorm's."""
        return self.weight[...] + self.offset

    def standardise(self, x: Float[Array, "*axes size"]) -> tuple[Float[Array, "*axes size"], Float[Array, "*axes 1"]]:
        """Return vectors of unit mean square, and the √(mean square + eps) that they were divided by."""
        scale = jnp.sqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x / scale, scale

    def __call__(self, x: Float[Array, "*axes size"]) -> Float[Array, "*axes size"]:
        """Normalise each vector of the last axis."""
        return self.standardise(x)[0] * jnp.broadcast_to(self.gain(x.dtype), x.shape)


def make_norm(spec: NormSpec, size: int | tuple[int, ...], dtype: jnp.dtype) -> LayerNorm | RMSNorm:
    """Make the norm that a spec asks for, over vectors of `size`, the last of several."""
    if spec.kind == "layernorm":
        return LayerNorm(size, eps=spec.eps, weight=spec.weight, bias=spec.bias, dtype=dtype)
    return RMSNorm(size, eps=spec.eps, offset=1.0 if spec.unit_offset else 0.0, dtype=dtype)


class MLP(nnx.Module):
    """`W_down act(W_up x + b_up) + b_down`, or gated: `W_down (act(W_gate x) ⊙ W_up x)`."""

    def __init__(self, spec: MLPSpec, d_model: int, *, std: Spread, dtype: jnp.dtype, rngs: nnx.Rngs):
        linear = functools.partial(Linear, bias=spec.bias, dtype=dtype, rngs=rngs)
        self.up = linear(d_model, spec.d_ff, std=std.up)
        self.down = linear(spec.d_ff, d_model, std=std.down)
        self.gate = linear(d_model, spec.d_ff, std=std.up) if spec.gated else None
        self.spec = spec

    def __call__(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Apply the MLP to normed residual vectors."""
        return self.down(self.hidden(x))

    def hidden(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_ff"]:
        """Compute the hidden units, what enters W_down."""
        act = ACTIVATIONS[self.spec.activation]
        return act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x)
