r"""Singular triples of a batch of Jacobians, how far each may be off, and which are known as a subspace only.

Of $J = \sum_i \sigma_i u_i v_i^\top$ the pair $u_i, v_i$ is known as well as its value stands apart: with residual r
and distance δ to the values of others, the sine of the angle to the true subspace is at most r/δ (Wedin 1972). Where
that says nothing, or where the values are so close that a change of J in the last digit that anyone believes would
turn the vectors, only the subspace of all values of the cluster is known. `group_values` finds these.

Lanczos takes exactly equal values for one: what its start vector has of their subspace is the one direction that it
sees of it. So what it found is taken out of J (`Deflated`) and the largest value of the rest is sought from another
start vector. Where that is above the least that was found, one had been missed, and takes its place.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jacspec.backend import Program
from jacspec.jacobians.bounds import TopValues
from jacspec.jacobians.branches import Products, Vectors
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.lanczos import (
    Operator,
    decompose,
    leading_vectors,
    list_programs,
    start_vectors,
    vector_programs,
)
from jacspec.spectra.svd import leading_pairs

SINE = 0.1
"""The largest sine of an angle between a vector and the true one at which it still counts as known: |cos| is off by
half a percent then."""
PROBE = 1.0
"""The tolerance at which the largest value of the rest is sought: `FINEST` of it, a thousandth of the value, says
whether one was missed and how near the next is; where further values lie does not matter."""
ROUNDING = 64
"""What rounding may make of a residual of a dense SVD, in eps of σ₁; the audit allows the same."""
UNKNOWN = -1
"""The group of a mode whose cluster goes on beyond the modes that are kept."""


class Triples(NamedTuple):
    """Singular values with their vectors; `bounds` of both residuals ‖Jv − σu‖, ‖Jᵀu − σv‖, and groups.

    Modes of one group, a number from 0, are one subspace; `UNKNOWN` belongs to one that is not held whole.
    """

    sigma: Float[np.ndarray, "sample mode"]
    left: Float[np.ndarray, "sample mode d_model"]
    right: Float[np.ndarray, "sample mode d_model"]
    bounds: Float[np.ndarray, "sample mode"]
    group: Int[np.ndarray, "sample mode"]

    def only(self, k: int) -> "Triples":
        """Keep the first `k`; of a group that goes on beyond them no subspace is known."""
        return Triples(*(array[:, :k] for array in self))._replace(group=cut_groups(self.group, k))


def cut_groups(group: Int[np.ndarray, "sample mode"], k: int) -> Int[np.ndarray, "sample k"]:
    """Keep the groups of the first `k` modes; one that goes on beyond them is unknown."""
    kept = group[:, :k]
    return np.where((kept[:, :, None] == group[:, None, k:]).any(axis=-1), UNKNOWN, kept)


def alone(group: Int[np.ndarray, "*sample mode"]) -> np.ndarray:
    """Say which modes have a direction of their own: those that are the whole of their group."""
    same = group[..., :, None] == group[..., None, :]
    return (group != UNKNOWN) & (same.sum(axis=-1) == 1)


def group_values(
    sigma: Float[np.ndarray, "sample k"],
    bounds: Float[np.ndarray, "sample k"],
    kept: Sequence[int],
    *,
    gap: float,
) -> Int[np.ndarray, "sample mode"]:
    """Find clusters of values, and say of the ones that are `kept` which they belong to.

    Two neighbours are apart where the relative gap is above `gap` and Wedin's bound on the angle between the two
    subspaces is at most `SINE`.

    **Arguments:** `sigma`, descending, with values beyond the kept ones as far as they are known; `bounds`, of their
    errors and of the residuals of kept ones.
    """
    index = np.asarray(kept, int)
    held = np.zeros(sigma.shape[1], bool)
    held[index] = True
    residuals = np.where(held, bounds, 0)
    distance = sigma[:, :-1] - sigma[:, 1:]
    sure = distance - bounds[:, :-1] - bounds[:, 1:]
    reach = np.maximum(residuals[:, :-1], residuals[:, 1:])
    with np.errstate(invalid="ignore"):
        apart = (distance > gap * sigma[:, :-1]) & (reach <= SINE * sure)
    label = np.concatenate([np.zeros((len(sigma), 1), int), np.cumsum(apart, axis=1)], axis=1)
    own = label[:, index]
    whole = (own[:, :, None] == label[:, None, :]).sum(axis=-1)
    same = own[:, :, None] == own[:, None, :]
    return np.where(same.sum(axis=-1) == whole, same.argmax(axis=-1), UNKNOWN)


def dense_triples(
    matrices: Float[Array, "sample d_model d_model"], *, k: int, trailing: int, gap: float
) -> tuple[Float[np.ndarray, "sample d_model"], Triples]:
    """Take the `k` leading and the `trailing` last triples of matrices; returns all singular values beside them."""
    size = matrices.shape[1]
    left, sigma, right = map(np.asarray, leading_pairs(matrices, size if trailing else k))
    kept = [*range(k), *range(size - trailing, size)]
    bounds = np.broadcast_to(ROUNDING * float(np.finfo(sigma.dtype).eps) * sigma[:, :1], sigma.shape)
    u, v = (side[:, :, kept].swapaxes(1, 2) for side in (left, right))
    return sigma, Triples(sigma[:, kept], u, v, bounds[:, kept], group_values(sigma, bounds, kept, gap=gap))


def lanczos_triples(
    operator: Any, samples: Int[np.ndarray, " sample"], x: Vectors, *, k: int, tolerance: float, gap: float, seed: int
) -> tuple[TopValues, Triples]:
    """Find the `k` leading triples of a batch without forming a matrix.

    **Arguments:** `samples`, their numbers, which with `seed` decide the start vectors; `x`, an array as the vectors
    are, for shape, type and devices.

    **Returns:** the values as `decompose` says them, and the triples; of more values than there are steps, none.
    """

    def starts(more: int) -> Vectors:
        return shard_like(start_vectors(samples, x.shape[1], x.dtype, seed=seed + more), x)

    found, bases = decompose(operator, starts(0), k=k, tolerance=tolerance)
    right, left = leading_vectors(found, bases, top=k)
    rest, beyond = found.singular_values[:, :0], found.bounds[:, :0]
    for more in range(1, k + 2 if k < x.shape[1] else 1):
        deflated = deflate(operator, shard_like(jnp.asarray(right), x))
        probe, _ = decompose(deflated, starts(more), k=1, tolerance=PROBE)
        rest, beyond = probe.singular_values, probe.bounds
        # A value that is rounding has a direction only by chance.
        missed = rest[:, 0] > found.singular_values[:, -1] + found.bounds[:, -1]
        if not missed.any():
            break
        hidden, hidden_bases = decompose(deflated, starts(more), k=1, tolerance=tolerance)
        sides = [side[:, 0] for side in leading_vectors(hidden, hidden_bases)]
        found, right, left = _insert(missed, found, (right, left), hidden, sides)
    values, bounds = (
        np.concatenate(parts, axis=1) for parts in ((found.singular_values, rest), (found.bounds, beyond))
    )
    group = group_values(values, bounds, range(k), gap=gap)
    return found, Triples(found.singular_values, left, right, found.bounds, group)


def _insert(
    missed: np.ndarray, found: TopValues, vectors: tuple[np.ndarray, np.ndarray], hidden: TopValues, own: Sequence[Any]
) -> tuple[TopValues, np.ndarray, np.ndarray]:
    """Put the value that had been missed into its place, the least of the others going, where one had."""
    # What the vectors that were taken out may be off by is in the residual too.
    bound = hidden.bounds[:, 0] + np.linalg.norm(found.bounds, axis=1)
    values = found.singular_values.copy()
    bounds, sides = found.bounds.copy(), [side.copy() for side in vectors]
    for sample in np.flatnonzero(missed).tolist():
        place = int((values[sample] >= hidden.singular_values[sample, 0]).sum())
        for array, new in zip((values, bounds, *sides), (hidden.singular_values[:, 0], bound, *own), strict=True):
            array[sample, place + 1 :] = array[sample, place:-1].copy()
            array[sample, place] = new[sample]
    steps = found.steps + np.where(missed, hidden.steps, 0)
    converged = found.converged & (hidden.converged | ~missed)
    return TopValues(values, bounds, steps, converged), sides[0], sides[1]


class Deflated(NamedTuple):
    """A batch of matrices less what is read along some directions, J (1 − V Vᵀ): another operator's fields, and V."""

    shared: Partial
    own: tuple[Any, ...]
    directions: Float[Array, "sample mode d_model"]

    def products(self) -> Products:
        """Return what multiplies with the rest of the matrices, and with its transposes."""
        operator: Operator = self.shared(*self.own)
        forward, backward = operator.products()

        def without(vectors: Vectors) -> Vectors:
            # Twice, as in `lanczos`: once leaves what rounding makes of the largest values.
            for _ in range(2):
                shares = jnp.einsum("smd,sd->sm", self.directions, vectors)
                vectors = vectors - jnp.einsum("smd,sm->sd", self.directions, shares)
            return vectors

        return lambda vectors: forward(without(vectors)), lambda vectors: without(backward(vectors))


def deflate(operator: Any, directions: Any) -> Deflated:
    """Take what is read along some directions out of the matrices of an operator; all may be of shapes."""
    return Deflated(Partial(type(operator), operator[0]), tuple(operator[1:]), directions)


def triple_programs(operator: Any, x: Any, k: int) -> list[Program]:
    """Say what `lanczos_triples` compiles where no value was missed, given shapes."""
    directions = jax.ShapeDtypeStruct((len(x), k, x.shape[1]), x.dtype)
    probe = list_programs(deflate(operator, directions), x, top=1)[-1:] if k < x.shape[1] else []
    return [*list_programs(operator, x, top=k), *vector_programs(operator, x, top=k, count=k), *probe]


@jax.jit
def push(operator: Any, columns: Float[Array, "sample mode d_model"]) -> Float[Array, "sample mode d_model"]:
    """Multiply several vectors a sample with that sample's matrix."""
    return jax.vmap(operator.products()[0], in_axes=1, out_axes=1)(columns)


@jax.jit
def pull(operator: Any, rows: Float[Array, "sample row d_model"]) -> Float[Array, "sample row d_model"]:
    """Multiply several vectors a sample with the transpose of that sample's matrix."""
    return jax.vmap(operator.products()[1], in_axes=1, out_axes=1)(rows)
