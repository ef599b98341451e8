r"""How near the tokens of a sample are to one another: rank collapse, layer by layer.

Let X be the streams of a sample, a row a token. Attention alone drives X to rank one, all rows alike (Dong, Cordonnier
& Loukas 2021); its distance is $\lVert X - 1 \bar x^\top \rVert_F / \lVert X \rVert_F$, $\bar x$ the mean row, which is
what is nearest in this norm. The paper's own norm, $\sqrt{\lVert \cdot \rVert_1 \lVert \cdot \rVert_\infty}$, is given
of the same residual. Beside it the stable rank $\lVert X \rVert_F^2 / \sigma_1^2$, and that of the attention matrices
(Nait Saada, Naderi & Tanner 2024).
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.jacobians.streaming import Stream
from jacspec.models.block import Block
from jacspec.samples import Memory, Packing, PaddedBatch
from jacspec.spectra.svd import singular_values

TOKENS = ("token_stable_rank", "rank_one_distance", "rank_one_distance_composite")
ATTENTION = "attention_stable_rank"
COLLAPSE = (*TOKENS, ATTENTION)
NO_ATTENTION = "no attention matrix of its own: its stable rank is that of attn"
ZERO_STREAMS = "zero streams: no rank"

Values = dict[str, Float[np.ndarray, " sample"]]


def measure_collapse(
    block: Block, components: Mapping[str, str], stream: Stream, padded: PaddedBatch
) -> dict[str, tuple[Values, dict[str, np.ndarray]]]:
    """Measure the tokens that enter each component, and the attention of `attn`, at every sample of a batch.

    **Arguments:** `components`, from full names to those in `BRANCHES`; `stream`, what enters the block.

    **Returns:** by full name, values by column and why they are missing. The attention's stable rank is the mean over
    heads. A singular value decomposition a sample, and one a head and sample for attention.
    """
    count = len(padded.samples)
    found = {}
    for full, component in components.items():
        rows = _entering(block, stream.hidden, stream.batch.packing, stream.memory, component)
        values: Values = {name: np.asarray(each)[:count] for name, each in zip(TOKENS, _distances(*rows), strict=True)}
        missing = dict.fromkeys(TOKENS, np.where(np.asarray(rows[0])[:count].any(axis=(1, 2)), "", ZERO_STREAMS))
        missing[ATTENTION] = np.full(count, "" if component == "attn" else NO_ATTENTION)
        values[ATTENTION] = np.full(count, np.nan)
        if component == "attn":
            maps = _attention(block, stream.hidden, stream.batch.packing)
            ranks = _stable_ranks(maps.reshape(-1, *maps.shape[-2:]))
            values[ATTENTION] = np.asarray(ranks).reshape(maps.shape[:2]).mean(axis=1)[:count]
        found[full] = values, missing
    return found


def _distances(rows: Array, lengths: Array) -> Sequence[Array]:
    """Compute the columns `TOKENS` of tokens in rows, those beyond the length zero."""
    counted = (jnp.arange(rows.shape[1], dtype=lengths.dtype)[None] < lengths[:, None])[..., None]
    mean = rows.sum(axis=1, keepdims=True) / lengths[:, None, None].astype(rows.dtype)
    residual = jnp.where(counted, rows - mean, 0)
    frobenius = _frobenius(residual) / _frobenius(rows)
    return _stable_ranks(rows), frobenius, _composite(residual) / _composite(rows)


def _stable_ranks(matrices: Float[Array, "batch m n"]) -> Float[Array, " batch"]:
    return jnp.square(_frobenius(matrices) / singular_values(matrices)[:, 0])


def _frobenius(matrices: Float[Array, "batch m n"]) -> Float[Array, " batch"]:
    return jnp.sqrt(jnp.square(matrices).sum(axis=(1, 2)))


def _composite(matrices: Float[Array, "batch m n"]) -> Float[Array, " batch"]:
    """Compute the square root of the largest column sum times the largest row sum, of absolute values."""
    size = jnp.abs(matrices)
    return jnp.sqrt(size.sum(axis=1).max(axis=1) * size.sum(axis=2).max(axis=1))


def _entering(
    block: Block, h: Float[Array, "pack place d_model"], packing: Packing, memory: Memory | None, component: str
) -> tuple[Float[Array, "sample token d_model"], Array]:
    """Take apart the tokens that enter a component, zero beyond each sample's length, and the lengths."""
    rows, lengths = _split_entering(block, h, packing, memory, component)
    return rows.reshape(-1, *rows.shape[2:]), lengths.reshape(-1)


def _one_entering(block: Block, h: Array, packing: Packing, memory: Memory | None, component: str) -> Array:
    if component in ("attn", "block") or block.spec.parallel:
        return h
    h = block.attn_norms.add(h, block.attn_branches(h, packing))
    if component == "mlp" and block.cross_norms is not None:
        assert memory is not None
        h = block.cross_norms.add(h, block.cross_branches(h, memory, packing))
    return h


@functools.partial(jax.jit, static_argnames="component")
def _split_entering(
    block: Block, h: Array, packing: Packing, memory: Memory | None, component: str
) -> tuple[Array, Array]:
    def one(h: Array, packing: Packing, memory: Memory | None) -> Array:
        rows = packing.split(_one_entering(block, h, packing, memory, component))
        return jnp.where(
            (jnp.arange(rows.shape[1], dtype=packing.lengths.dtype)[None] < packing.lengths[:, None])[..., None],
            rows,
            0,
        )

    return jax.vmap(one)(h, packing, memory), packing.lengths


@jax.jit
def _attention(block: Block, h: Array, packing: Packing) -> Float[Array, "sample head token token"]:
    def one(h: Array, packing: Packing) -> Array:
        maps = block.attn.patterns(block.attn_norms.enter(h), packing)
        counted = jnp.arange(maps.shape[-1], dtype=packing.lengths.dtype)[None] < packing.lengths[:, None]
        return jnp.where(counted[:, None, :, None], maps, 0)

    maps = jax.vmap(one)(h, packing)
    return maps.reshape(-1, *maps.shape[2:])
