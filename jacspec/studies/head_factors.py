r"""The factors of attention heads, and the modes of their products: singular vectors in the stream.

$W_{QK} = W_Q^\top W_K$ and $W_{OV} = W_O W_V$ are d_model × d_model of rank d_head at most and are never formed whole.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jacspec.models.block import Block

Pair = tuple[Float[np.ndarray, "d_head d_model"], Float[np.ndarray, "d_head d_model"]]
"""The factors of a product."""


class Modes(NamedTuple):
    """The singular values of a product Aᵀ B in descending order, with their vectors as rows, in float64.

    `rounding` is what rounding of the stored factors moves the smallest by.
    """

    sigma: Float[np.ndarray, " d_head"]
    left: Float[np.ndarray, "d_head d_model"]
    right: Float[np.ndarray, "d_head d_model"]
    rounding: float


def head_factors(block: Block) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the factors of each product: (kv_head group d_head d_model) on the left, (kv_head d_head d_model)."""
    own = block.attn.spec
    d_model = block.spec.d_model
    query = block.attn.q.weight[...].reshape(own.kv_heads, own.group, own.d_head, d_model)
    # W_O (out, in) reads the heads along its inputs.
    output = block.attn.o.weight[...].T.reshape(own.kv_heads, own.group, own.d_head, d_model)
    key, value = (part.weight[...].reshape(own.kv_heads, own.d_head, d_model) for part in (block.attn.k, block.attn.v))
    return {"qk": query, "ov": output}, {"qk": key, "ov": value}


def head_pairs(block: Block) -> dict[str, list[Pair]]:
    """Return both factors of every query head, by product; heads that share keys or values share their factor."""
    left, right = head_factors(block)
    found = {}
    for name, factors in left.items():
        shared = np.repeat(np.asarray(right[name]), factors.shape[1], axis=0)
        found[name] = list(zip(np.asarray(factors).reshape(-1, *factors.shape[2:]), shared, strict=True))
    return found


def modes_of(pair: Pair) -> Modes:
    r"""Decompose a product by QR of its factors, and estimate what rounding moves its smallest value by.

    With $A^\top B v = \sigma u$ a change of A moves σ by $\sum_{ij} \delta A_{ij} u_j (B v)_i$ to first order, one of B
    by $\sum_{ij} \delta B_{ij} v_j (A u)_i$; entries are off by their last place over √12 (`_last_places`), each by
    itself; root mean square. Cost: O(d_model · d_head²).
    """
    left, right = (part.astype(np.float64) for part in pair)
    bases, roots = zip(*(np.linalg.qr(part.T) for part in (left, right)), strict=True)
    inner, sigma, other = np.linalg.svd(roots[0] @ roots[1].T)
    rows = (bases[0] @ inner).T, (bases[1] @ other.T).T
    u, v = (part[-1] for part in rows)
    squares = (
        np.square(_last_places(part)) @ np.square(along) @ np.square(across)
        for part, along, across in ((left, u, right @ v), (right, v, left @ u))
    )
    return Modes(sigma, *rows, float(np.sqrt(sum(squares) / 12)))


def _last_places(values: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    """Return the distance of each entry from its neighbours in the type it was stored in.

    That is seen from the entries: a type of p bits leaves the others of float64 empty in all of them.
    """
    parts, exponents = np.frexp(values)
    bits = np.bitwise_or.reduce(np.abs(np.ldexp(parts, 53)).astype(np.int64), axis=None)
    used = 53 - (int(bits) & -int(bits)).bit_length() + 1 if bits else 1
    return np.where(values != 0, np.ldexp(1.0, exponents - used), 0)
