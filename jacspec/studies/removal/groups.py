r"""Remove groups of rank-ordered singular values from the weight matrices of a model.

Of $W = \sum_i \sigma_i u_i v_i^\top$, $\sigma_1 \ge \sigma_2 \ge \dots$, the group $g$ of indices is taken away:
$W - \sum_{i \in g} \sigma_i u_i v_i^\top$ ("Small Singular Values Matter", Fig. 6). A matrix that loses nothing is the
weight itself, one that loses everything is zero.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jacspec.errors import JacspecError, suggest
from jacspec.models.block import Block, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.matrices import Matrix, block_roles, in_batches
from jacspec.models.modules import leaf_names, module_template
from jacspec.spectra.subspaces import Factors, RankRange, group_of, remove_group
from jacspec.spectra.svd import right_vectors

Place = tuple[int, str]
"""Where a matrix is: the number of its block, and its role."""


ALL_ZERO = "all zero: no share of squares"


class RemovalTarget(NamedTuple):
    """What loses a group at once: one role in all layers, all roles in one layer, or all of all."""

    name: str
    places: tuple[Place, ...]


def choose_targets(spec: ModelSpec, *, by: str, roles: Sequence[str]) -> list[RemovalTarget]:
    """List what loses singular values in turn.

    **Arguments:** `by`, `role`, `layer` or `all`; `roles`, those taken, none meaning all that the model has.

    **Raises:** `JacspecError` for a role that the model does not have.
    """
    there = block_roles(spec)
    known = list(dict.fromkeys(role for leaves in there.values() for role in leaves))
    for role in roles:
        if role not in known:
            raise JacspecError(f"removal.roles: this model has no role {role!r}. " + suggest(role, known))
    places = [(number, role) for number, leaves in there.items() for role in leaves if not roles or role in roles]
    if by == "all":
        return [RemovalTarget("all", tuple(places))]
    if by == "role":
        kept = [role for role in known if not roles or role in roles]
        return [RemovalTarget(role, tuple(place for place in places if place[1] == role)) for role in kept]
    return [
        RemovalTarget(f"layer {number}", tuple(place for place in places if place[0] == number)) for number in there
    ]


def fewest_values(spec: ModelSpec, targets: Sequence[RemovalTarget]) -> int:
    """Count the singular values of the smallest matrix of all targets."""
    leaves = block_roles(spec)
    shapes = {}
    for number in leaves:
        template = module_template(spec, "block", number)
        shapes[number] = {
            name: leaf.shape for name, leaf in zip(leaf_names(template), jax.tree.leaves(template), strict=True)
        }
    return min(min(shapes[number][leaves[number][role]]) for target in targets for number, role in target.places)


def decompose_target(checkpoint: Checkpoint, target: RemovalTarget, *, memory_bytes: float) -> dict[Place, Factors]:
    """Compute the SVD of every matrix of a target, once for all groups.

    Returned are k² + k numbers a matrix, k its shorter side: as much as the weights themselves where they are square,
    less where they are not. On the way there are a batch of matrices of one shape and its vectors (`memory_bytes`).
    The vectors are `svd.right_vectors`'s.
    """
    leaves = block_roles(checkpoint.spec)

    def matrices() -> Iterator[tuple[int, Matrix]]:
        for number in dict.fromkeys(number for number, _ in target.places):
            block = checkpoint.block(number)
            values = dict(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
            for index, (own, role) in enumerate(target.places):
                if own == number:
                    yield index, Matrix(number, role, "", np.asarray(values[leaves[number][role]]))

    found: dict[int, Factors] = {}
    for batch in in_batches(matrices(), memory_bytes=memory_bytes / 4):
        tall = [each.values if each.values.shape[0] >= each.values.shape[1] else each.values.T for _, each in batch]
        sigma, rows = map(np.asarray, right_vectors(jnp.asarray(np.stack(tall))))
        found |= {index: Factors(*parts) for (index, _), *parts in zip(batch, sigma, rows.swapaxes(1, 2), strict=True)}
    return {place: found[index] for index, place in enumerate(target.places)}


def without_group(checkpoint: Checkpoint, factors: Mapping[Place, Factors], ranks: RankRange) -> Checkpoint:
    """Return the model with a group of singular values taken from each matrix that has `factors`."""
    leaves = block_roles(checkpoint.spec)

    def change(number: int, block: Block) -> Block:
        own = {leaves[number][role]: found for (place, role), found in factors.items() if place == number}
        values, tree = jax.tree.flatten(block)
        named = zip(leaf_names(block), values, strict=True)
        return jax.tree.unflatten(
            tree, [remove_group(leaf, own[name], ranks) if name in own else leaf for name, leaf in named]
        )

    return checkpoint.with_blocks(change)


def count_removed(factors: Mapping[Place, Factors], ranks: RankRange) -> tuple[int, float]:
    """Count the singular values of a group in all matrices, and their share of the variance, Σ_g σ² / Σ σ².

    Where all matrices are zero there is no share (NaN).
    """
    groups = [np.square(found.sigma[group_of(ranks, len(found.sigma))], dtype=np.float64) for found in factors.values()]
    total = sum(float(np.square(found.sigma, dtype=np.float64).sum()) for found in factors.values())
    removed = sum(float(values.sum()) for values in groups)
    return sum(values.size for values in groups), removed / total if total else float("nan")


def mean_spectrum(factors: Mapping[Place, Factors]) -> Float[np.ndarray, " k"]:
    """Average the singular values of matrices rank by rank; those of fewer values at the same share of their ranks."""
    longest = max(len(found.sigma) for found in factors.values())
    ranks = (np.arange(longest) + 0.5) / longest
    spectra = [
        np.interp(ranks, (np.arange(len(found.sigma)) + 0.5) / len(found.sigma), found.sigma)
        for found in factors.values()
    ]
    return np.mean(spectra, axis=0)
