"""The `jacfwd` engine: forward-mode Jacobians of whole batches, then the SVD kernel. The reference for all others."""

import functools
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.jacobians.branches import BRANCHES, Point
from jacspec.models.block import Block, BlockSpec


@functools.partial(jax.jit, static_argnames="component")
def jacobians(
    block: Block, context: Any, x: Float[Array, "sample d_model"], *, component: str
) -> Float[Array, "sample d_model d_model"]:
    r"""Compute $J_{ij} = \partial f_i / \partial x_j$ of one component at every sample, by `jax.jacfwd`.

    Every sample pushes the d_model columns of the identity through the branch: about d_model times the cost of
    evaluating it at one token, and `work_bytes` of memory.

    **Arguments:** `context` and `x` as `branches.branch_points` gives them; `component`, a name in `BRANCHES`.
    """

    def jacobian(context: Any, x: Array) -> Array:
        return jax.jacfwd(lambda moved: BRANCHES[component](block, context, moved))(x)

    return jax.vmap(jacobian)(context, x)


@functools.partial(jax.jit, static_argnames="component")
def jacobian_at(
    block: Block, point: Point, row: Int[Array | np.ndarray, ""], *, component: str
) -> Float[Array, "1 d_model d_model"]:
    """Compute the Jacobian of one component at one row of a batch, as `jacobians` does."""
    alone: Any = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, row, 1), point)
    return jacobians(block, alone.context, alone.x, component=component)


def work_bytes(spec: BlockSpec, *, tokens: int, itemsize: int) -> int:
    """Estimate the memory that `jacobians` and the SVD of one sample need, the larger component counting.

    A column of tangents holds for the MLP its hidden units before and after the activation, for attention the
    scores over the prefix and their softmax; both hold the stream, the norm and the output. The SVD copies J.
    """
    mlp = (5 if spec.mlp.gated else 3) * spec.mlp.d_ff
    attention = spec.attention.heads * (3 * (tokens + 1) + 4 * spec.attention.d_head)
    return itemsize * spec.d_model * (max(mlp, attention) + 5 * spec.d_model)
