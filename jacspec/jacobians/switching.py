r"""How far a branch is from where its router chooses other experts: the edge of the region that its Jacobian is of."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.jacobians.branches import BRANCHES, Branch
from jacspec.models.block import Block
from jacspec.models.experts import Experts, ExpertsSpec

ROUTER_MARGIN = "router_margin"
NO_ROUTER = "no router: no distance to other experts"
ALL_CHOSEN = "all experts are chosen: no others to switch to"


def router_margins(branch: Branch) -> tuple[Float[np.ndarray, " sample"], np.ndarray]:
    r"""Compute $(r_k - r_{k+1}) / \lVert \nabla_x (r_k - r_{k+1}) \rVert$ at every sample, and why it is missing.

    $r_k$ and $r_{k+1}$ are the logits of the last expert that is chosen and of the first that is not: to first order
    the distance of the stream x that enters an MLP from where another set of experts is chosen.

    **Returns:** NaN, with the reason beside it, for a component without a router and where all experts are chosen.
    """
    block: Block = branch.f.args[0]
    spec, samples = block.spec.mlp, len(branch.point.x)
    if branch.f.func is not BRANCHES["mlp"] or not isinstance(spec, ExpertsSpec):
        return np.full(samples, np.nan), np.full(samples, NO_ROUTER)
    if spec.top_k == spec.experts:
        return np.full(samples, np.nan), np.full(samples, ALL_CHOSEN)
    return np.asarray(_margins(block, branch.point.x)), np.full(samples, "")


@jax.jit
def _margins(block: Block, x: Float[Array, "sample d_model"]) -> Float[Array, " sample"]:
    experts = block.mlp
    assert isinstance(experts, Experts)

    def margin(x: Float[Array, " d_model"]) -> Float[Array, ""]:
        routing = experts.route(block.mlp_norms.enter(x))
        gap, slope = jax.value_and_grad(lambda x: experts.gap(block.mlp_norms.enter(x), routing))(x)
        return gap / jnp.linalg.norm(slope)

    return jax.vmap(margin)(x)
