r"""The `analytic` engine: the Jacobian of every branch in closed form, from one forward pass and a few GEMMs.

Nothing is pushed through the branch column by column. With a norm's Jacobian $N = \operatorname{diag}(w / s)
(I - \tfrac1d 1 1^\top - \tfrac1d \hat x \hat x^\top)$ (an RMSNorm has no middle term), an MLP is
$W_{down} \operatorname{diag}(\mathrm{act}') W_{up} N$, a gated one
$W_{down} (\operatorname{diag}(\mathrm{act}' \odot u) W_{gate} + \operatorname{diag}(\mathrm{act}) W_{up}) N$, and
experts $f_e$ with weights $p_e$ give $(\sum_e p_e J_e + f_e \nabla p_e^\top) N$, $e$ over those that were chosen. For a
head with weights $a_t$ over tokens, slopes $c_t$ of the scores (the scale, and the derivative of a softcap), output
$o = \sum_t a_t v_t$, query $q$:

$$\frac{\partial o}{\partial x} =
\Big[\sum_t a_t c_t (v_t - o) k_t^\top W_Q + a_n c_n (v_n - o) q^\top W_K + a_n W_V\Big] N$$

with rotations, and the Jacobians of norms of queries and keys, between the two factors of the first two terms. The
last two are the last token's own key and value, which cross attention has not. Where queries, keys and values are cut
off at ±clip, the rows of those that are cut off are zero. Granite multiplies every branch by a number.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jacspec.jacobians.branches import BRANCHES, Branch
from jacspec.models.attention import Attention
from jacspec.models.block import Block, BlockSpec, Sublayer
from jacspec.models.experts import ChosenUnits, Experts
from jacspec.models.layers import ACTIVATIONS, MLP, LayerNorm, Linear, RMSNorm
from jacspec.models.positions import rotate
from jacspec.samples import Prefix


@jax.jit
def jacobians(branch: Branch) -> Float[Array, "sample d_model d_model"]:
    r"""Compute $J_{ij} = \partial f_i / \partial x_j$ of a branch at every sample, in closed form.

    FLOPs a sample: 2·d_model²·d_ff for an MLP (twice that if gated), 2·d_model·heads·d_head·(d_model + d_head) for
    attention, their sum and 2·d_model³ more for a sequential block; `work_bytes` of memory.
    """
    return jax.vmap(functools.partial(CLOSED_FORMS[branch.f.func], *branch.f.args))(*branch.point)


def work_bytes(spec: BlockSpec, *, tokens: int, itemsize: int) -> int:
    """Estimate the memory that `jacobians` and the SVD of one sample need, the larger component counting.

    A copy of the weights on one side of the activation, or of the heads' part before W_O; J and the copies of it
    that norms, sums and the SVD make; what attention holds of the prefix.
    """
    own = spec.attention
    inner = own.heads * own.d_head
    mlp = ((2 if spec.mlp.gated else 1) * spec.mlp.active + spec.mlp.gathered) * spec.d_model
    # W_Q, W_K and the sum of the three terms.
    attention = (3 if own.qk_norm else 1) * inner * spec.d_model + own.heads * (own.d_head**2 + 3 * (tokens + 1))
    prefix = 2 * (tokens + 1) * (own.kv_heads + own.heads) * own.d_head
    return itemsize * (max(mlp, attention) + prefix + 5 * spec.d_model**2)


def _attn(block: Block, prefix: Prefix, x: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    return _attending(block.attn, block.attn_norms, prefix, x)


def _cross(block: Block, read: Prefix, x: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    assert block.cross is not None
    assert block.cross_norms is not None
    return _attending(block.cross, block.cross_norms, read, x)


def _attending(
    attention: Attention, norms: Sublayer, prefix: Prefix, x: Float[Array, " d_model"]
) -> Float[Array, "d_model d_model"]:
    inside = functools.partial(_attention, attention, prefix)
    return _branch(norms, lambda u: attention.attend_last(u, prefix), inside, x)


def _mlp(block: Block, context: None, x: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    inside = _experts if isinstance(block.mlp, Experts) else _hidden
    return _branch(block.mlp_norms, block.mlp, functools.partial(inside, block.mlp), x)


def _block(
    block: Block, context: tuple[Prefix, Prefix | None], x: Float[Array, " d_model"]
) -> Float[Array, "d_model d_model"]:
    prefix, read = context
    identity = jnp.eye(x.size, dtype=x.dtype)
    jacobian = identity + _attn(block, prefix, x)
    if block.spec.parallel:
        return jacobian + _mlp(block, None, x)
    x, jacobian = _summed(block.attn_norms, x + block.attn_branch(x, prefix), jacobian)
    if block.cross_norms is not None:
        assert read is not None
        jacobian = jacobian + _cross(block, read, x) @ jacobian
        x, jacobian = _summed(block.cross_norms, x + block.cross_branch(x, read), jacobian)
    jacobian = jacobian + _mlp(block, None, x) @ jacobian
    return _summed(block.mlp_norms, x + block.mlp_branch(x), jacobian)[1]


CLOSED_FORMS: dict[Callable[..., Array], Callable[..., Array]] = {
    BRANCHES["attn"]: _attn,
    BRANCHES["cross"]: _cross,
    BRANCHES["mlp"]: _mlp,
    BRANCHES["block"]: _block,
}
"""The Jacobian of each function in `BRANCHES`, for one sample."""


def _branch(
    norms: Sublayer,
    branch: Callable[[Array], Array],
    inside: Callable[[Array], Array],
    x: Float[Array, " d_model"],
) -> Float[Array, "d_model d_model"]:
    """Put a branch's norms around its Jacobian `inside`, both functions of what its norm gives."""
    u = norms.enter(x)
    jacobian = inside(u)
    if norms.output_norm is not None:
        jacobian = _norm_times(norms.output_norm, branch(u), jacobian)
    jacobian = jacobian if norms.scale == 1 else norms.scale * jacobian
    return jacobian if norms.norm is None else _times_norm(jacobian, norms.norm, x)


def _summed(
    norms: Sublayer, total: Float[Array, " d_model"], jacobian: Float[Array, "d_model d_model"]
) -> tuple[Float[Array, " d_model"], Float[Array, "d_model d_model"]]:
    """Pass the stream after an addition, and its Jacobian, through the norm that stands there in post-norm blocks."""
    if norms.sum_norm is None:
        return total, jacobian
    return norms.sum_norm(total), _norm_times(norms.sum_norm, total, jacobian)


def _hidden(mlp: MLP, u: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    """Compute the Jacobian of an MLP at `u`, its norms left out."""
    slopes = hidden_slopes(mlp, u)
    down = mlp.down.weight[...]
    # Scales stand on W_down's columns, so that a batch of samples is one GEMM with W_up.
    jacobian = _columns(down, slopes["up"]) @ mlp.up.weight[...]
    if mlp.gate is not None:
        jacobian += _columns(down, slopes["gate"]) @ mlp.gate.weight[...]
    return jacobian


def _experts(mlp: Experts, u: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    """Compute the Jacobian of a mixture of experts at `u`, its norms left out, inside the region of its choice."""
    units = mlp.units(u)
    chosen, weights = units.routing
    gates, ups, downs = (part.weight for part in units.maps)
    through_gate, through_up = hidden_unit_slopes(mlp, units)
    down = jnp.moveaxis(weights[:, None, None] * downs, 0, 1).reshape(u.size, -1)
    jacobian = _columns(down, through_up.reshape(-1)) @ ups.reshape(-1, u.size)
    jacobian += _columns(down, through_gate.reshape(-1)) @ gates.reshape(-1, u.size)
    return jacobian + mlp.outputs(units).T @ _weights_slope(mlp, u, chosen, weights)


def hidden_unit_slopes(mlp: Experts, units: ChosenUnits) -> tuple[Float[Array, "k d_ff"], Float[Array, "k d_ff"]]:
    """Compute what a small change of each gate, and of each unit's own input, is multiplied by on its way to W_down."""
    return (
        _slope(lambda gate: mlp.mix(gate, units.up), units.gate),
        _slope(lambda up: mlp.mix(units.gate, up), units.up),
    )


def _weights_slope(
    mlp: Experts, u: Float[Array, " d_model"], chosen: Int[Array, " k"], weights: Float[Array, " k"]
) -> Float[Array, "k d_model"]:
    """Compute the gradient of the chosen experts' weights: p_e (W_e − Σ_j p_j W_j), j over what the softmax is over."""
    router = mlp.router.weight[...]
    mean = weights @ router[chosen] if mlp.spec.normalised else jax.nn.softmax(mlp.router(u)) @ router
    return weights[:, None] * (router[chosen] - mean[None])


def hidden_slopes(mlp: MLP, u: Float[Array, " d_model"]) -> dict[str, Float[Array, " d_ff"]]:
    """Compute what a small change of each projection is multiplied by on its way to W_down, at `u` after the norm.

    **Returns:** by projection, act′(W_up u) for `up`; in a gated MLP act(g) for `up` and act′(g) ⊙ W_up u for `gate`,
    with g = W_gate u.
    """
    act = ACTIVATIONS[mlp.spec.activation]
    if mlp.gate is None:
        return {"up": _slope(act, mlp.up(u))}
    gate = mlp.gate(u)
    return {"up": act(gate), "gate": _slope(act, gate) * mlp.up(u)}


def _attention(attention: Attention, prefix: Prefix, u: Float[Array, " d_model"]) -> Float[Array, "d_model d_model"]:
    """Compute the Jacobian of attention at the last token at `u`, its norms left out."""
    maps = head_maps(attention, prefix, u)
    # What a query does to a head's output, and what W_Q does to the query.
    heads = jnp.einsum("kgve,kgen->kgvn", maps.query, _query(attention, u))
    if maps.own is not None:
        key = jnp.einsum("kge,ken->kgn", maps.own.toward, _key(attention, u))
        value = _projection(attention, attention.v, None, u, (attention.spec.kv_heads,))[:, None]
        heads += maps.own.away[..., None] * key[..., None, :] + maps.own.weight[..., None, None] * value
    return attention.o.weight[...] @ heads.reshape(-1, u.size)


class OwnToken(NamedTuple):
    r"""What the last token's own key and value do to each head's output.

    A change of the key (not yet rotated) goes through $\text{away}\,\text{toward}^\top = a_n c_n (v_n - o)\,q^\top R$,
    one of the value is multiplied by `weight` $= a_n$.
    """

    away: Float[Array, "kv_head group d_head"]
    toward: Float[Array, "kv_head group d_head"]
    weight: Float[Array, "kv_head group"]


class HeadMaps(NamedTuple):
    r"""What each head does to a small change of its query, not yet rotated, and of the token's own key and value.

    `query` is $\sum_t a_t c_t (v_t - o) k_t^\top R$; `own` is None in cross attention.
    """

    query: Float[Array, "kv_head group d_head d_head"]
    own: OwnToken | None


def head_maps(attention: Attention, prefix: Prefix, u: Float[Array, " d_model"]) -> HeadMaps:
    """Compute the local linear map of every head at the last token, `u` after the norm; see this file's equation."""
    look = attention.look(u, prefix)
    keys, values = prefix.key, prefix.value
    if look.key is not None and look.value is not None:
        keys = jnp.concatenate([keys, look.key[:, None]], axis=1)
        values = jnp.concatenate([values, look.value[:, None]], axis=1)
    products = jnp.einsum("kgd,ktd->kgt", look.query, keys)
    pull = look.weights * _slope(attention.score, products)
    mixed = jnp.einsum("kgt,ktv->kgv", look.weights, values)
    away = values[:, None] - mixed[:, :, None]
    query = _turned_back(attention, prefix, jnp.einsum("kgt,kgtv,kte->kgve", pull, away, keys))
    if look.value is None:
        return HeadMaps(query, None)
    toward = _turned_back(attention, prefix, look.query)
    return HeadMaps(query, OwnToken(pull[..., -1:] * away[:, :, -1], toward, look.weights[..., -1]))


def _query(attention: Attention, u: Float[Array, " d_model"]) -> Float[Array, "kv_head group d_head d_model"]:
    return _projection(attention, attention.q, attention.q_norm, u, (attention.spec.kv_heads, attention.spec.group))


def _key(attention: Attention, u: Float[Array, " d_model"]) -> Float[Array, "kv_head d_head d_model"]:
    return _projection(attention, attention.k, attention.k_norm, u, (attention.spec.kv_heads,))


def _projection(
    attention: Attention,
    linear: Linear,
    norm: LayerNorm | RMSNorm | None,
    u: Float[Array, " d_model"],
    heads: tuple[int, ...],
) -> Float[Array, "*heads d_head d_model"]:
    """Compute the Jacobian of queries, keys or values before they are rotated: the weight, the norm, the cut."""
    kind, weight, projected = attention.spec.qk_norm, linear.weight[...], linear(u)
    if norm is not None and kind == "full":
        weight, projected = _norm_times(norm, projected, weight), norm(projected)
    d_head = attention.spec.d_head
    split, projected = weight.reshape(-1, d_head, u.size), projected.reshape(-1, d_head)
    if norm is not None and kind != "full":
        # The weights of `each` head are its own.
        through = jax.vmap(_norm_times, in_axes=(0 if kind == "each" else None, 0, 0))
        split, projected = through(norm, projected, split), norm(projected)
    if attention.spec.clip is not None:
        split = _slope(attention.cut, projected)[..., None] * split
    return split.reshape(*heads, d_head, u.size)


def _turned_back(
    attention: Attention, prefix: Prefix, rows: Float[Array, "*axes d_head"]
) -> Float[Array, "*axes d_head"]:
    """Multiply rows by the rotation of the last token's position from the right: `rows R`, as `Rᵀ` on each of them."""
    if attention.spec.rotary is None:
        return rows
    assert prefix.turn is not None
    cos, sin = prefix.turn
    return rotate(attention.spec.rotary, rows, jnp.stack([cos, -sin]))


def _columns(matrix: Float[Array, "m n"], scales: Float[Array, " n"]) -> Float[Array, "m n"]:
    """Scale the columns of a matrix."""
    return matrix * scales[None]


def _slope(function: Callable[[Array], Array], x: Float[Array, "*axes"]) -> Float[Array, "*axes"]:
    """Compute the derivative of a function that acts on each number alone."""
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _directions(
    norm: LayerNorm | RMSNorm, x: Float[Array, " size"]
) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
    """Return a norm's gain w / s, and the unit-variance vector that it cannot see a change along."""
    unit, scale = norm.standardise(x)
    return norm.gain(x.dtype) / scale, unit


def _norm_times(
    norm: LayerNorm | RMSNorm, x: Float[Array, " size"], matrix: Float[Array, "size n"]
) -> Float[Array, "size n"]:
    """Multiply the Jacobian of a norm at `x` with a matrix, in O(size · n)."""
    gain, unit = _directions(norm, x)
    rest = matrix - jnp.outer(unit, unit @ matrix / x.size)
    if isinstance(norm, LayerNorm):
        rest -= jnp.mean(matrix, axis=0, keepdims=True)
    return gain[:, None] * rest


def _times_norm(
    matrix: Float[Array, "m size"], norm: LayerNorm | RMSNorm, x: Float[Array, " size"]
) -> Float[Array, "m size"]:
    """Multiply a matrix with the Jacobian of a norm at `x`, in O(m · size)."""
    gain, unit = _directions(norm, x)
    scaled = _columns(matrix, gain)
    rest = scaled - jnp.outer(scaled @ unit / x.size, unit)
    if isinstance(norm, LayerNorm):
        rest -= jnp.mean(scaled, axis=1, keepdims=True)
    return rest
