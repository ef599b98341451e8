r"""What a branch's Jacobian is made of: the factors of a bound on its largest singular value.

Every branch reads the stream through a norm and some weights, bends what they give locally, and writes with one
weight. With the Jacobians N and O of the norms on its input and output (the identity where there is none; O holds the
number that Granite multiplies branches by),

$$J = O\, W_{out} \Big[\sum_i S_i W_i\Big] N, \qquad
\rho(J) \le \sigma_1(O)\, \sigma_1(W_{out}) \Big[\sum_i \sigma_1(S_i)\, \sigma_1(W_i)\Big] \sigma_1(N),$$

since the spectral norm is submultiplicative. $W_{out}$ is $W_{down}$ or $W_O$; the paths i, and what their slopes
$\sigma_1(S_i)$ are:

| path | $S_i$ | slope |
|---|---|---|
| `up` | diag(act′(W_up u)); gated: diag(act(g)), g = W_gate u | its largest entry in size |
| `gate` | diag(act′(g) ⊙ W_up u) | its largest entry in size |
| `v` | per head $a_n$ | the root of Σ a_n² over the heads that share a value head, the largest |
| `q` | per head $\sum_t a_t c_t (v_t - o) k_t^\top R D_q$ | σ₁(… R) σ₁(D_q), the largest |
| `k` | per head $a_n c_n (v_n - o)\, q^\top R D_k$ | σ₁ of rows ‖a_n c_n (v_n − o)‖ qᵀR times σ₁(D_k), the largest |

with weights $a_t$, slopes $c_t$ of the scores (scale and softcap), the rotation R of the last token's position and the
Jacobians D of norms of queries and keys, as in `analytic.py`. S is block-diagonal in the heads, so its norm is that of
its largest block; heads that share a key or value head are one block. Cross attention has the path `q` alone. Slopes
of queries, keys and values that OLMo cuts off count as 1. Beside these inequalities nothing is approximate.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import eigh
from jaxtyping import Array, Float

from jacspec.jacobians.analytic import head_maps, hidden_slopes
from jacspec.jacobians.branches import Branch, Products
from jacspec.jacobians.lanczos import decompose, leading_vectors, start_vectors
from jacspec.models.attention import Attention
from jacspec.models.block import Block, Sublayer
from jacspec.models.layers import MLP, LayerNorm, Linear, RMSNorm
from jacspec.samples import Prefix
from jacspec.spectra.svd import eigensolver

PATHS: Mapping[str, tuple[str, ...]] = {"attn": ("v", "q", "k"), "cross": ("q",), "mlp": ("up", "gate")}
"""By component, the weights that its Jacobian may read the stream with; an MLP without a gate lacks that."""

HALVINGS = 60


class Lead(NamedTuple):
    """The largest singular value of a weight, and its leading direction in the stream, the gain of its norm folded in.

    The norm's gain and LayerNorm's centring belong to every sample; the rest of its Jacobian, the scale 1/s and the
    one direction x̂ that a norm cannot see a change along, does not and is left out. The direction of a zero weight,
    which has none, is zero.
    """

    sigma: Float[Array, ""]
    direction: Float[Array, " d_model"]


def read_weights(block: Block, component: str) -> dict[str, Linear]:
    """Name the weights that a component's Jacobian reads the stream with."""
    module, _, _ = _parts(block, component)
    return {name: getattr(module, name) for name in PATHS[component] if getattr(module, name) is not None}


def leading_weights(block: Block, component: str) -> tuple[dict[str, Lead], Lead]:
    r"""Find the `Lead` of each weight that a component reads with, and of the one that it writes with.

    On the side of the stream: right singular vectors of $W_i \operatorname{diag}(w) C$, the left one of
    $\operatorname{diag}(w_{out}) C\, W_{out}$, w the gain of the norm and $C = I - \tfrac1d 1 1^\top$ in a
    LayerNorm. Lanczos on the Gram matrix, to rounding.
    """
    _, output, norms = _parts(block, component)
    reads = {name: _lead(linear.weight[...], norms.norm) for name, linear in read_weights(block, component).items()}
    return reads, _lead(output.weight[...].T, norms.output_norm)


@functools.partial(jax.jit, static_argnames="component")
def branch_slopes(branch: Branch, *, component: str) -> dict[str, Float[Array, " sample"]]:
    """Compute what of the bound changes with the sample: `norm_gain` σ₁(N), `output_norm_gain` σ₁(O), slopes by path.

    **Arguments:** `component`, the branch's own, a key of `PATHS`.

    **Returns:** slopes under `slope_` and the name of the path.
    """
    (block,) = branch.f.args
    module, _, norms = _parts(block, component)

    def one(context: Any, x: Array) -> dict[str, Array]:
        u = norms.enter(x)
        branch: Callable[[Array], Array]
        if isinstance(module, MLP):
            slopes = {name: jnp.max(jnp.abs(slope)) for name, slope in hidden_slopes(module, u).items()}
            branch = module
        else:
            slopes = _attention_slopes(module, context, u)
            branch = functools.partial(module.attend_last, prefix=context)
        one = jnp.ones((), x.dtype)
        gains = {
            "norm_gain": one if norms.norm is None else norm_gain(norms.norm, x),
            "output_norm_gain": abs(norms.scale)
            * (one if norms.output_norm is None else norm_gain(norms.output_norm, branch(u))),
        }
        return gains | {f"slope_{name}": slope for name, slope in slopes.items()}

    return jax.vmap(one)(*branch.point)


def norm_gain(norm: LayerNorm | RMSNorm, x: Float[Array, " size"]) -> Float[Array, ""]:
    r"""Compute σ₁ of the Jacobian of a norm at `x`, to rounding, in O(size) and without forming it.

    With $g = w/s$ and unit-variance $\hat x$ it is $N = \operatorname{diag}(g)(I - P)$ with P of rank two (one in an
    RMSNorm), so $N N^\top = \operatorname{diag}(g^2) - V V^\top$ with two columns. By Haynsworth's inertia additivity
    as many of its eigenvalues are above λ as

    $$\#\{g_i^2 > \lambda\} + n_+(I - V^\top (\operatorname{diag}(g^2) - \lambda)^{-1} V) - 2,$$

    with n₊ the number of positive eigenvalues; the least λ with none above is found by bisection from 0 to max g².
    """
    unit, scale = norm.standardise(x)
    own = norm.gain(x.dtype)
    largest = jnp.max(jnp.abs(own))
    gain = own / jnp.where(largest > 0, largest, 1)
    seen = jnp.mean(jnp.square(unit))  # var / (var + eps): what is left of 1
    along = gain * unit * jnp.sqrt((2 - seen) / x.size)
    across = gain / x.size**0.5 if isinstance(norm, LayerNorm) else jnp.zeros_like(gain)
    columns = jnp.stack([along, across])

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        away = jnp.square(gain) - middle
        away = jnp.where(away == 0, -jnp.finfo(x.dtype).tiny, away)
        small = jnp.eye(2, dtype=x.dtype) - jnp.einsum("an,bn->ab", columns / away[None], columns)
        trace, determinant = small[0, 0] + small[1, 1], small[0, 0] * small[1, 1] - small[0, 1] * small[1, 0]
        positive = jnp.where(determinant > 0, jnp.where(trace > 0, 2, 0), 1)
        above = jnp.sum(away > 0) + positive - 2
        return jnp.where(above > 0, middle, low), jnp.where(above > 0, high, middle)

    start = jnp.zeros((), x.dtype), jnp.ones((), x.dtype)
    _, high = jax.lax.fori_loop(0, HALVINGS, halve, start)
    return largest / scale[0] * jnp.sqrt(high)


def _parts(block: Block, component: str) -> tuple[MLP | Attention, Linear, Sublayer]:
    """Return the module of a component, the weight that it writes with, and its norms."""
    if component == "mlp":
        return block.mlp, block.mlp.down, block.mlp_norms
    if component == "attn":
        return block.attn, block.attn.o, block.attn_norms
    assert block.cross is not None
    assert block.cross_norms is not None
    return block.cross, block.cross.o, block.cross_norms


def _attention_slopes(attention: Attention, prefix: Prefix, u: Float[Array, " d_model"]) -> dict[str, Array]:
    maps, own = head_maps(attention, prefix, u), attention.spec
    gains = _projection_gains(attention.q, attention.q_norm, u, own.qk_norm, (own.kv_heads, own.group))
    slopes = {"q": jnp.max(_largest(maps.query) * gains)}
    if maps.own is None:
        return slopes
    gains = _projection_gains(attention.k, attention.k_norm, u, own.qk_norm, (own.kv_heads,))
    rows = jnp.linalg.norm(maps.own.away, axis=-1, keepdims=True) * maps.own.toward
    value = jnp.max(jnp.linalg.norm(maps.own.weight, axis=-1))
    return {"v": value, **slopes, "k": jnp.max(_largest(rows) * gains)}


def _projection_gains(
    linear: Linear,
    norm: LayerNorm | RMSNorm | None,
    u: Float[Array, " d_model"],
    kind: str | None,
    heads: tuple[int, ...],
) -> Float[Array, "*heads"]:
    """Compute σ₁ of the Jacobian of the norm on queries or keys, a value a head."""
    if norm is None:
        return jnp.ones(heads, u.dtype)
    projected = linear(u)
    if kind == "full":
        return jnp.broadcast_to(norm_gain(norm, projected), heads)
    split = projected.reshape(-1, projected.size // math.prod(heads))
    # The weights of `each` head are its own.
    return jax.vmap(norm_gain, in_axes=(0 if kind == "each" else None, 0))(norm, split).reshape(heads)


def _largest(matrices: Float[Array, "*axes m n"]) -> Float[Array, "*axes"]:
    """Compute σ₁ of each matrix, to rounding: its square is the largest eigenvalue of the smaller Gram matrix."""
    largest = jnp.max(jnp.abs(matrices), axis=(-2, -1), keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    unit = matrices / scale
    unit = unit if unit.shape[-2] <= unit.shape[-1] else jnp.swapaxes(unit, -1, -2)
    gram = jnp.matmul(unit, jnp.swapaxes(unit, -1, -2), precision=jax.lax.Precision.HIGHEST)
    _, values = eigh(gram, symmetrize_input=False, implementation=eigensolver(gram.shape[-1]))
    return scale[..., 0, 0] * jnp.sqrt(jnp.maximum(values[..., -1], 0))


def _lead(weight: Float[Array, "m d_model"], norm: LayerNorm | RMSNorm | None) -> Lead:
    """Find the `Lead` of a weight whose columns stand for the stream's coordinates."""
    pair = _fold(weight, norm)
    starts = start_vectors(np.arange(2), weight.shape[1], weight.dtype, seed=0)
    found, bases = decompose(_Gram(pair), starts, k=1, tolerance=0.0)
    sigma, directions = np.sqrt(found.singular_values[0, 0]), np.asarray(leading_vectors(found, bases)[0][:, 0])
    return Lead(jnp.asarray(sigma), jnp.asarray(directions[1]))


@jax.jit
def _fold(weight: Float[Array, "m d_model"], norm: LayerNorm | RMSNorm | None) -> Float[Array, "2 m d_model"]:
    """Stack a weight as it is, and with the gain of a norm and its centring folded in."""
    folded = weight
    if norm is not None:
        folded = weight * norm.gain(weight.dtype)[None]
        if isinstance(norm, LayerNorm):
            folded -= jnp.mean(folded, axis=1, keepdims=True)
    return jnp.stack([weight, folded])


class _Gram(NamedTuple):
    """The Gram matrix of each of a pair of weights, which is never formed."""

    pair: Float[Array, "pair m n"]

    def products(self) -> Products:
        def forward(vectors: Float[Array, "pair n"]) -> Float[Array, "pair n"]:
            return jnp.einsum("pmn,pm->pn", self.pair, jnp.einsum("pmn,pn->pm", self.pair, vectors))

        return forward, forward
