r"""The tables of a `task=modes` run: modes and subspaces between samples, layers, and beside the input.

A mode is compared alone only where its value stands apart; all known modes of a sample together are a subspace with the
projector $P_s = V_s V_s^\top$ of rank $p_s$, and two of these are as alike as
$\operatorname{tr}(P_s P_t) / \sqrt{p_s p_t}$, the mean squared cosine of their principal angles where the ranks are
the same: 1 for one subspace, $\sqrt{p_s p_t} / d$ on average for random ones. None of it depends on which vectors
a subspace is given by.

Chance is twofold: `random`, uniformly random directions, and `stream`, those with the covariance of the stream over the
samples. Of pairs at one sample it is `other`: the same with the second taken from another sample.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.axes import LayerResult
from jacspec.jacobians.branches import Site, downstream
from jacspec.jacobians.triples import UNKNOWN, alone
from jacspec.runs.layers import Stored
from jacspec.spectra.cores import map_on_cores
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.modes.angles import as_many_dimensions, draw_pairs, mean_angles, random_subspaces
from jacspec.studies.modes.directions import leading_directions, sum_squares
from jacspec.studies.modes.input_tables import (
    MEAN,
    STREAM,
    Inputs,
    Outputs,
    along_modes,
    along_rows,
    group_rows,
    input_rows,
    measure_inputs,
    read_shares,
)
from jacspec.studies.modes.known import NOTHING, Estimate, Known, Places, Vectors, mean_samples, read_known

DRAWS = 192
"""Subspaces that stand for the covariance of the stream."""


class Tables(NamedTuple):
    """The rows of the tables, by their columns; `reads`, by layer and component, a value a sample by name."""

    modes: list[tuple[Any, ...]]
    shared: list[tuple[Any, ...]]
    between: list[tuple[Any, ...]]
    input: list[tuple[Any, ...]]
    along: list[tuple[Any, ...]]
    groups: list[tuple[Any, ...]]
    reads: dict[tuple[int, str], dict[str, Float[np.ndarray, " sample"]]]


def compare_modes(
    results: Sequence[LayerResult],
    read: Callable[[int], Stored],
    sites: Places,
    *,
    numbers: Sequence[int],
    groups: Mapping[str, Mapping[str, Sequence[str]]],
    coupled: Mapping[tuple[int, str], Float[np.ndarray, " sample"]],
    seed: int,
) -> Tables:
    """Compare the modes of all layers, two layers in memory, and of each earlier component what it wrote.

    **Arguments:** `read`, what is stored of a block; `numbers`, of the modes that are; `groups`, by component and name
    of a column, a group a sample; `coupled`, by layer and component, m_K of a Jacobian with the next layer's
    (`after.py`).
    """
    found, before = Tables([], [], [], [], [], [], {}), list[Known]()
    outputs: dict[Site, Float[np.ndarray, "sample d_model"]] = {}
    for result in results:
        here = sorted(read_known(result, read(result.number), sites, numbers), key=lambda known: known.site.step)
        outputs |= {known.site: known.output for known in here}
        make = functools.partial(_rows_of, outputs=outputs, groups=groups, seed=seed)
        for own in map_on_cores(make, here):
            for name in ("modes", "shared", "input", "along", "groups"):
                getattr(found, name).extend(getattr(own, name))
            found.reads.update(own.reads)
        leading = [known.leading for known in here]
        found.between.extend(_between_rows(before, leading, coupled))
        before = leading
    return found


def _rows_of(whole: Known, *, outputs: Outputs, groups: Mapping[str, Mapping[str, Sequence[str]]], seed: int) -> Tables:
    """Make the rows of one component, beside what it and those before it wrote."""
    known, place = whole.leading, (whole.site.layer, whole.site.component)
    inputs = measure_inputs(whole, outputs)
    draw = np.random.default_rng([seed, known.site.step])
    null = draw_subspaces(known.stream, len(known.numbers), draw)
    return Tables(
        [*_mode_rows(whole, null, inputs)],
        [*_shared_rows(known, null, draw)],
        [],
        [*input_rows(known, inputs)],
        [*along_rows(whole, inputs)],
        [*group_rows(known, inputs, groups[known.site.component])],
        {place: read_shares(known, inputs)},
    )


# Samples with each other


def draw_subspaces(
    stream: Float[np.ndarray, "sample d_model"], k: int, draw: np.random.Generator
) -> Float[np.ndarray, "draw mode d_model"]:
    """Draw subspaces of `k` orthonormal directions with the covariance of the stream over samples; zero of one sample.

    There are no more directions than the samples less one span.
    """
    away = np.asarray(stream, np.float64) - stream.mean(axis=0, dtype=np.float64)
    count = min(k, max(len(away) - 1, 0))
    if not count or not away.any():
        return np.zeros((DRAWS, k, stream.shape[1]))
    drawn = draw.standard_normal((DRAWS * count, len(away))) @ away
    bases = np.linalg.qr(drawn.reshape(DRAWS, count, -1).swapaxes(1, 2))[0].swapaxes(1, 2)
    return np.concatenate([bases, np.zeros((DRAWS, k - count, stream.shape[1]))], axis=1)


def mean_pairs(sums: Float[np.ndarray, " sample"]) -> Estimate:
    r"""Estimate the mean over pairs of samples, with the jackknife's error, from each sample's sum over the others.

    A sample is in many pairs, so that pairs are not repeats: with $T = \sum_s T_s$ the mean without sample s is
    $(T - 2 T_s) / ((n - 1)(n - 2))$ (Efron & Stein 1981).
    """
    n, total = len(sums), sums.sum()
    if n < 2:
        return NOTHING
    without = (total - 2 * sums) / ((n - 1) * (n - 2)) if n > 2 else np.full(n, np.nan)
    error = np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return Estimate(n, float(total / (n * (n - 1))), float(error))


def vectors_alike(vectors: Float[np.ndarray, "sample d_model"]) -> Estimate:
    """Compute the mean |cos| of unit vectors over pairs of samples."""
    cosines = np.abs(vectors @ vectors.T)
    np.fill_diagonal(cosines, 0)
    return mean_pairs(cosines.sum(axis=1, dtype=np.float64))


def half_projectors(bases: Vectors) -> Float[np.ndarray, "half d_model d_model"]:
    """Add up the projectors of every other sample's subspace, each scaled to the length 1, and of the others."""
    unit = _scaled(bases)
    return np.stack([sum_squares(unit[half::2]) for half in (0, 1)])


def subspaces_alike(bases: Vectors, projectors: Float[np.ndarray, "half d_model d_model"]) -> Estimate:
    """Compute the mean likeness of subspaces over pairs of samples; those of no dimension are left out.

    By the sum of all projectors (`half_projectors`): O(sample · mode · d_model²), whatever the number of pairs.
    """
    unit = _scaled(bases)
    unit = unit[unit.any(axis=(1, 2))].astype(bases.dtype)
    rows = unit.reshape(-1, unit.shape[-1])
    # One product: one a sample takes several times as long. In the type of the vectors: half of float64's time.
    within = np.einsum("rd,rd->r", rows @ projectors.sum(axis=0).astype(rows.dtype), rows, dtype=np.float64)
    sums = within.reshape(unit.shape[:2]).sum(axis=1)
    # Less each sample's likeness with itself, which is 1.
    return mean_pairs(sums - 1)


def _scaled(bases: Vectors) -> Vectors:
    """Scale bases so that their projectors have the length 1; those of no dimension are zero."""
    wide = np.asarray(bases, np.float64)
    ranks = np.square(wide).sum(axis=(1, 2))
    kept = ranks > 0.5
    return np.where(kept, 1 / np.where(kept, ranks, 1) ** 0.25, 0)[:, None, None] * wide


def held_by_mean(
    bases: Vectors,
    weights: Float[np.ndarray, "sample mode"],
    projectors: Float[np.ndarray, "half d_model d_model"],
    k: int,
) -> Float[np.ndarray, " sample"]:
    """Compute what share of each sample's known modes the mean subspace of the *other half* of the samples holds.

    The mean subspace are the `k` leading eigenvectors Q of a half's sum of projectors; the share is
    Σ σᵢ² ‖Q v_i‖² / Σ σᵢ², with J of the rank of what is known ‖J Q‖² / ‖J‖². A subspace would hold more of what it
    was made of.

    **Returns:** NaN for samples of no dimension, and where a half has none.
    """
    wide = np.asarray(bases, np.float64)
    known = np.square(wide).sum(axis=-1) > 0.5
    share = np.full(len(wide), np.nan)
    for half, others in ((0, 1), (1, 0)):
        if not projectors[others].any():
            continue
        own = slice(half, None, 2)
        mean = np.nan_to_num(leading_directions(projectors[others], k)[0])
        inside = np.square(wide[own] @ mean.T).sum(axis=-1)
        energy = np.where(known, np.square(np.asarray(weights, np.float64)), 0)[own]
        whole = energy.sum(axis=1)
        share[own] = np.where(whole > 0, (energy * inside).sum(axis=1) / np.where(whole > 0, whole, 1), np.nan)
    return share


def _mode_rows(known: Known, null: Vectors, given: Inputs) -> Iterator[tuple[Any, ...]]:
    """Say of each mode how often it stands alone, how alike it is between samples, and what of the input it holds."""
    own, whole = alone(known.group), known.group != UNKNOWN
    inputs, means = (along_modes(given[source].own, known.group) for source in (STREAM, MEAN))
    single = np.asarray(null[:, 0])
    chance = vectors_alike(single).value if single.any() else np.nan
    for mode, number in enumerate(known.numbers):
        rows = own[:, mode]
        reads, writes = known.reads[rows, mode], known.writes[rows, mode]
        numbers = (vectors_alike(reads), vectors_alike(writes))
        of_input, of_mean = (mean_samples(side[:, mode]) for side in (inputs, means))
        yield (
            *(known.site.layer, known.site.component, number, len(own), int(rows.sum()), int(whole[:, mode].sum())),
            float(np.median(known.sigma[:, mode])),
            *(number for estimate in numbers for number in (estimate.value, estimate.error)),
            *(random_alignment(reads.shape[1]), chance),
            *(of_input.value, of_input.error, of_mean.value, of_mean.error, 1 / reads.shape[1]),
        )


def _shared_rows(known: Known, null: Vectors, draw: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    """Compare the subspaces of all samples with each other, and with the mean subspace of the corpus."""
    d_model, k = known.reads.shape[2], known.group.shape[1]
    level, even = np.nan, np.nan
    if null.any():
        projectors = half_projectors(null)
        level = subspaces_alike(null, projectors).value
        even = held_by_mean(null, np.ones(null.shape[:2]), projectors, k).mean()
    ranks = known.ranks[known.ranks > 0]
    random = float(np.sqrt(ranks).mean() ** 2) / d_model if ranks.size else np.nan
    for side, bases in (("read", known.reads), ("write", known.writes)):
        projectors = half_projectors(bases)
        alike = subspaces_alike(bases, projectors)
        held = mean_samples(held_by_mean(bases, known.sigma, projectors, k))
        yield (
            *(known.site.layer, known.site.component, side, alike.n, float(known.ranks.mean())),
            *(alike.value, alike.error, random, level, held.value, held.error, min(k / d_model, 1), float(even)),
            *_angle_columns(bases, null, draw),
        )


def _angle_columns(
    bases: Vectors, null: Float[np.ndarray, "draw mode d_model"], draw: np.random.Generator
) -> Iterator[float]:
    """Give how many pairs of samples were drawn, and their smallest and largest principal angle beside chance."""
    pairs = draw_pairs(bases, draw)
    own = mean_angles(pairs)
    yield own.smallest.n
    random, stream = (
        mean_angles(as_many_dimensions(pairs, side)) for side in (random_subspaces(*bases.shape[1:]), null)
    )
    for found, *chance in zip(own, random, stream, strict=True):
        yield from (found.value, found.error, *(level.value for level in chance))


# One component with another, at the same sample


def overlap_subspaces(first: Vectors, second: Vectors) -> Float[np.ndarray, " sample"]:
    """Compute how alike two subspaces of each sample are; NaN where one has no dimension."""
    ranks = np.prod([np.einsum("smd,smd->s", side, side, dtype=np.float64) for side in (first, second)], axis=0)
    inner = np.square(first @ second.swapaxes(1, 2), dtype=np.float64).sum(axis=(1, 2))
    return np.where(ranks > 0.25, inner / np.sqrt(np.where(ranks > 0.25, ranks, 1)), np.nan)


def _between_rows(
    before: Sequence[Known], here: Sequence[Known], coupled: Mapping[tuple[int, str], Float[np.ndarray, " sample"]]
) -> Iterator[tuple[Any, ...]]:
    """Compare neighbours in the stream: what one writes with what the next reads, and a component with itself later."""
    for first in (*before, *here):
        for second in here:
            if not downstream(first.site, second.site) or second.site.layer > first.site.layer + 1:
                continue
            pairs = {"write-read": (first.writes, second.reads)}
            if first.site.component == second.site.component:
                pairs |= {"read-read": (first.reads, second.reads), "write-write": (first.writes, second.writes)}
            place = (first.site.layer, first.site.component, second.site.layer, second.site.component)
            for what, (left, right) in pairs.items():
                own, other = (overlap_subspaces(left, side) for side in (right, np.roll(right, 1, axis=0)))
                ranks = np.sqrt(first.ranks * second.ranks)[np.isfinite(own)]
                random = float(ranks.mean()) / left.shape[2] if ranks.size else np.nan
                yield (*place, what, *mean_samples(own), random, mean_samples(other).value)
            key = (first.site.layer, first.site.component)
            if first.site.component == second.site.component and key in coupled:
                yield (*place, "m_K", *mean_samples(coupled[key]), 1.0, np.nan)
