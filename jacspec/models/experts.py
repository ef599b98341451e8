r"""Mixtures of experts: an MLP that a router chooses for each token anew.

With router logits $r = W_r u$ and the set $C$ of the `top_k` largest of them the layer adds
$\sum_{e \in C} p_e(u)\, f_e(u)$. $C$ is piecewise constant in $u$: derivatives are those inside the region where it is
what it is, the weights $p_e$ are differentiated.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jacspec.models.layers import ACTIVATIONS, Linear, MLPSpec, Spread, Truncated, draw_normal


@dataclasses.dataclass(frozen=True)
class ClampedGate:
    """gpt-oss's hidden units: `(up + 1) g σ(alpha g)`, with `g` at most `limit` and `up` within ±`limit`."""

    alpha: float
    limit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExpertsSpec(MLPSpec):
    """`experts` gated MLPs with `d_ff` hidden units each, of which the router chooses `top_k` a token.

    The weights of the chosen are the softmax of the logits of all experts, or, where they are `normalised`, of theirs
    alone, so that they sum to one. `bias` is the experts', `router_bias` the router's; `clamped` takes the place of the
    activation.
    """

    experts: int
    top_k: int
    normalised: bool
    router_bias: bool = False
    clamped: ClampedGate | None = None

    @property
    def active(self) -> int:
        """Hidden units that one token uses."""
        return self.top_k * self.d_ff

    @property
    def gathered(self) -> int:
        """Rows of d_model weights that are copied for one sample: those of the experts that it uses."""
        return 3 * self.active


class Stacked(nnx.Module):
    """A linear map of every expert: `weight: (expert, out, in)`, `bias: (expert, out)`."""

    def __init__(
        self,
        experts: int,
        n_in: int,
        n_out: int,
        *,
        std: float | Truncated,
        bias: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.weight = nnx.Param(draw_normal(rngs.params(), (experts, n_out, n_in), std, dtype))
        self.bias = nnx.Param(jnp.zeros((experts, n_out), dtype)) if bias else None

    def of(self, expert: Int[Array, " *k"]) -> "Affine":
        """Take the maps of some experts."""
        return Affine(self.weight[...][expert], None if self.bias is None else self.bias[...][expert])

    @property
    def every(self) -> "Affine":
        """The maps of all experts."""
        return Affine(self.weight[...], None if self.bias is None else self.bias[...])


class Affine(NamedTuple):
    """Linear maps, of several experts with a leading axis."""

    weight: Float[Array, "*k m n"]
    bias: Float[Array, "*k m"] | None

    def apply(self, x: Float[Array, "*token n"]) -> Float[Array, "*token m"]:
        """Apply the map of one expert to vectors."""
        y = jnp.einsum("...n,mn->...m", x, self.weight)
        return y if self.bias is None else y + jnp.broadcast_to(self.bias, y.shape)


class Routing(NamedTuple):
    """Which experts a token goes to, and with which weights."""

    chosen: Int[Array, "*token k"]
    weights: Float[Array, "*token k"]


class ChosenUnits(NamedTuple):
    """The experts of one token and what enters their activation."""

    routing: Routing
    gate: Float[Array, "k d_ff"]
    up: Float[Array, "k d_ff"]
    maps: tuple[Affine, Affine, Affine]


class Experts(nnx.Module):
    """A router and its experts, their weights stacked, so that a token's can be picked by number.

    A single token, which is what is differentiated, picks the weights of its `top_k` experts: 3 · top_k · d_ff ·
    d_model numbers a sample, as many as the closed form of a dense MLP of that many hidden units copies, and no more
    arithmetic than they need. A sequence, whose tokens together use most experts, goes through all of them one after
    the other, with weight zero where a token has not chosen one: experts / top_k times the arithmetic, but the
    memory of one expert's hidden units, where a copy of weights a token would be tokens times the layer.
    """

    def __init__(self, spec: ExpertsSpec, d_model: int, *, std: Spread, dtype: jnp.dtype, rngs: nnx.Rngs):
        stacked = functools.partial(Stacked, spec.experts, bias=spec.bias, dtype=dtype, rngs=rngs)
        self.router = Linear(d_model, spec.experts, std=std.up, bias=spec.router_bias, dtype=dtype, rngs=rngs)
        if spec.router_bias:  # of all biases the one that is drawn (gpt-oss)
            self.router.bias = nnx.Param(draw_normal(rngs.params(), (spec.experts,), std.up, dtype))
        self.up = stacked(d_model, spec.d_ff, std=std.up)
        self.down = stacked(spec.d_ff, d_model, std=std.down)
        self.gate = stacked(d_model, spec.d_ff, std=std.up)
        self.spec = spec

    def __call__(self, x: Float[Array, "*token d_model"]) -> Float[Array, "*token d_model"]:
        """Apply each token's experts to normed residual vectors."""
        return self._one(x) if x.ndim == 1 else self._every(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    def route(self, x: Float[Array, "*token d_model"]) -> Routing:
        """Choose the experts of each token: those of the largest logits, the largest first."""
        logits = self.router(x)
        top, chosen = jax.lax.top_k(logits, self.spec.top_k)
        if self.spec.normalised:
            return Routing(chosen, jax.nn.softmax(top, axis=-1))
        return Routing(chosen, jnp.take_along_axis(jax.nn.softmax(logits, axis=-1), chosen, axis=-1))

    def mix(self, gate: Float[Array, "*axes"], up: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
        """Compute hidden units from what their gates and they themselves are given, each alone."""
        if (own := self.spec.clamped) is None:
            return ACTIVATIONS[self.spec.activation](gate) * up
        gate, up = jnp.minimum(gate, own.limit), jnp.clip(up, -own.limit, own.limit)
        return (up + 1) * gate * jax.nn.sigmoid(own.alpha * gate)

    def gap(self, x: Float[Array, " d_model"], routing: Routing) -> Float[Array, ""]:
        """Compute by how much the last expert that was chosen leads the best of the others, where `routing` chose."""
        logits = self.router(x)
        others = logits.at[routing.chosen].set(-jnp.inf)
        return logits[routing.chosen[-1]] - logits[jnp.argmax(others)]

    def units(self, x: Float[Array, " d_model"]) -> ChosenUnits:
        """Pick the experts of one token, and compute what enters their activation."""
        routing = self.route(x)
        maps = tuple(part.of(routing.chosen) for part in (self.gate, self.up, self.down))
        gate, up = (jax.vmap(Affine.apply, in_axes=(0, None))(part, x) for part in maps[:2])
        return ChosenUnits(routing, gate, up, maps)  # type: ignore[arg-type]

    def outputs(self, units: ChosenUnits) -> Float[Array, "k d_model"]:
        """Compute what each of a token's experts gives."""
        return jax.vmap(Affine.apply)(units.maps[2], self.mix(units.gate, units.up))

    def _one(self, x: Float[Array, " d_model"]) -> Float[Array, " d_model"]:
        units = self.units(x)
        return units.routing.weights @ self.outputs(units)

    def _every(self, x: Float[Array, "token d_model"]) -> Float[Array, "token d_model"]:
        routing = self.route(x)
        tokens = jnp.arange(x.shape[0])[:, None]
        shares = jnp.zeros((self.spec.experts, x.shape[0]), x.dtype).at[routing.chosen, tokens].set(routing.weights)

        def add(total: Array, own: tuple[Affine, Affine, Affine, Array]) -> tuple[Array, None]:
            gate, up, down, share = own
            return total + share[:, None] * down.apply(self.mix(gate.apply(x), up.apply(x))), None

        every = (self.gate.every, self.up.every, self.down.every, shares)
        return jax.lax.scan(add, jnp.zeros_like(x), every)[0]
