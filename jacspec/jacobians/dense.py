"""The `jacfwd` engine: forward-mode Jacobians of whole batches, then the SVD kernel. The reference for all others."""

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.jacobians.branches import Branch
from jacspec.models.block import BlockSpec


@jax.jit
def jacobians(branch: Branch) -> Float[Array, "sample d_model d_model"]:
    r"""Compute $J_{ij} = \partial f_i / \partial x_j$ of a branch at every sample, by `jax.jacfwd`.

    Every sample pushes the d_model columns of the identity through the branch: about d_model times the cost of
    evaluating it at one token, and `work_bytes` of memory.
    """
    return jax.vmap(jax.jacfwd(branch.f, argnums=1))(*branch.point)


@jax.jit
def jacobian_at(branch: Branch, row: Int[Array | np.ndarray, ""]) -> Float[Array, "1 d_model d_model"]:
    """Compute the Jacobian of a branch at one row of a batch, as `jacobians` does."""
    return jacobians(branch.only(row))


def work_bytes(spec: BlockSpec, *, tokens: int, itemsize: int) -> int:
    """Estimate the memory that `jacobians` and the SVD of one sample need, the larger component counting.

    A column of tangents holds for the MLP its hidden units before and after the activation, for attention the
    scores over the prefix and their softmax; both hold the stream, the norm and the output. The SVD copies J.
    """
    mlp = (5 if spec.mlp.gated else 3) * spec.mlp.active
    attention = spec.attention.heads * (3 * (tokens + 1) + 4 * spec.attention.d_head)
    return itemsize * spec.d_model * (max(mlp + spec.mlp.gathered, attention) + 5 * spec.d_model)
