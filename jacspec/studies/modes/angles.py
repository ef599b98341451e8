"""Principal angles between the subspaces of two samples, beside those of chance."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.spectra.subspaces import principal_angles
from jacspec.studies.modes.known import Estimate, Vectors, mean_samples

PAIRS = 96
"""The most pairs of samples whose angles are computed."""

Pair = tuple[Float[np.ndarray, "_ d_model"], Float[np.ndarray, "_ d_model"]]
"""Orthonormal bases of two subspaces, each of its own rank, as rows."""


class Angles(NamedTuple):
    """The mean over pairs of the smallest and of the largest angle, in degrees."""

    smallest: Estimate
    largest: Estimate


def draw_pairs(bases: Vectors, draw: np.random.Generator) -> list[Pair]:
    """Draw pairs of samples with a known subspace, every sample in one pair at most: pairs are independent."""
    numbers = draw.permutation(np.flatnonzero(bases.any(axis=(1, 2))))
    count = min(len(numbers) // 2, PAIRS)
    return [(_held(bases[first]), _held(bases[second])) for first, second in numbers[: 2 * count].reshape(count, 2)]


def _held(basis: Float[np.ndarray, "mode d_model"]) -> Float[np.ndarray, "rank d_model"]:
    return basis[basis.any(axis=1)]


def mean_angles(pairs: Sequence[Pair]) -> Angles:
    """Compute the principal angles of pairs of subspaces: the smallest and the largest of each, and their means."""
    found = [principal_angles(first.T, second.T) for first, second in pairs]
    ends = np.array([(each[0], each[-1]) for each in found if each.size]).reshape(-1, 2)
    return Angles(mean_samples(ends[:, 0]), mean_samples(ends[:, 1]))


def as_many_dimensions(pairs: Sequence[Pair], null: Vectors) -> list[Pair]:
    """Take pairs of subspaces of chance with as many dimensions as `pairs` have: two of `null` for each, in turn.

    **Arguments:** `null`, of each subspace orthonormal vectors of which the first few are one of fewer dimensions.
    """
    drawn = [_held(basis) for basis in null]
    return [
        (drawn[2 * place % len(drawn)][: len(first)], drawn[(2 * place + 1) % len(drawn)][: len(second)])
        for place, (first, second) in enumerate(pairs)
    ]


@functools.lru_cache(maxsize=4)
def random_subspaces(k: int, d_model: int) -> Vectors:
    """Draw uniformly random subspaces, two for each pair."""
    numbers = np.random.default_rng(0).standard_normal((2 * PAIRS, d_model, k))
    return np.linalg.qr(numbers)[0].swapaxes(1, 2)
