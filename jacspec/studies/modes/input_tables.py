"""Where in the spectrum the input lies: the stream, its mean over samples, and what each earlier component wrote.

Vectors within a subspace of equal values may be turned at will, so that what lies along one of them is nothing of its
own: of a group of g modes each is given 1/g of what lies in the whole subspace. So the shares along modes add up to the
share in the subspace of all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jacspec.jacobians.branches import Site, downstream
from jacspec.jacobians.triples import UNKNOWN
from jacspec.studies.modes.known import Known, mean_samples
from jacspec.studies.modes.measure import directions

Outputs = Mapping[Site, Float[np.ndarray, "sample d_model"]]
Source = tuple[Any, str]
"""The layer of a component that wrote, and its name; no layer of the stream."""
STREAM, MEAN = ("", "stream"), ("", "mean stream")


class Inside(NamedTuple):
    """What share of the square of a sample's source lies along each of its modes, and of another sample's source."""

    own: Float[np.ndarray, "sample mode"]
    other: Float[np.ndarray, "sample mode"]


Inputs = Mapping[Source, Inside]


def measure_inputs(whole: Known, outputs: Outputs) -> Inputs:
    """Compute along each mode that is kept what a component may read.

    That is the stream at its input, the mean of that over samples, and what was written before it.
    """
    reads = np.asarray(whole.reads, np.float64)
    sources: dict[Source, Any] = {STREAM: whole.stream, MEAN: whole.stream.mean(axis=0, keepdims=True)}
    sources |= {(site.layer, site.component): own for site, own in outputs.items() if downstream(site, whole.site)}
    found = {}
    for source, vectors in sources.items():
        unit = np.broadcast_to(directions(vectors), whole.stream.shape)
        found[source] = Inside(_squares(reads, unit), _squares(reads, np.roll(unit, 1, axis=0)))
    return found


def _squares(
    reads: Float[np.ndarray, "sample mode d_model"], unit: Float[np.ndarray, "sample d_model"]
) -> Float[np.ndarray, "sample mode"]:
    # One product a sample: `einsum` takes ten times as long.
    return np.square((reads @ unit[:, :, None])[..., 0])


def along_modes(
    inside: Float[np.ndarray, "sample mode"], group: Int[np.ndarray, "sample mode"]
) -> Float[np.ndarray, "sample mode"]:
    """Spread what lies in a subspace of equal values over its modes; NaN where that is unknown."""
    known = group != UNKNOWN
    same = (group[:, :, None] == group[:, None, :]) & known[:, None, :]
    return np.where(known, (same * inside[:, None, :]).sum(axis=2) / np.maximum(same.sum(axis=2), 1), np.nan)


def _held(leading: Known, inside: Float[np.ndarray, "sample mode"]) -> Float[np.ndarray, " sample"]:
    """Add up what lies in the subspace of the leading modes; NaN where that has no dimension."""
    there = (leading.reads != 0).any(axis=2)
    return np.where(there.any(axis=1), np.where(there, inside[:, : there.shape[1]], 0).sum(axis=1), np.nan)


def input_rows(leading: Known, inputs: Inputs) -> Iterator[tuple[Any, ...]]:
    """Say how much of each source the leading reads hold, beside that of another sample's source."""
    ranks = leading.ranks[leading.ranks > 0]
    random = float(ranks.mean()) / leading.stream.shape[1] if ranks.size else np.nan
    for (layer, source), inside in inputs.items():
        own, other = (_held(leading, side) for side in inside)
        place = (leading.site.layer, leading.site.component, layer, source)
        yield (*place, *mean_samples(own), random, mean_samples(other).value)


def along_rows(whole: Known, inputs: Inputs) -> Iterator[tuple[Any, ...]]:
    """Say how much of each source lies along each mode that is kept, the trailing ones too."""
    for (layer, source), inside in inputs.items():
        own, other = (along_modes(side, whole.group) for side in inside)
        for place, number in enumerate(whole.numbers):
            where = (whole.site.layer, whole.site.component, number, layer, source)
            level = mean_samples(other[:, place]).value
            yield (*where, *mean_samples(own[:, place]), 1 / whole.stream.shape[1], level)


def group_rows(leading: Known, inputs: Inputs, groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Say by group of samples how much of each source the leading reads hold.

    **Arguments:** `groups`, by the name of a column, a group a sample.
    """
    for (layer, source), inside in inputs.items():
        shares = _held(leading, inside.own)
        for column, own in groups.items():
            labels = np.asarray(own)
            for label in sorted({*own}):
                place = (leading.site.layer, leading.site.component, layer, source, column, label)
                yield (*place, *mean_samples(shares[labels == label]))


def read_shares(leading: Known, inputs: Inputs) -> dict[str, Float[np.ndarray, " sample"]]:
    """Return of each sample the share of the mean stream in its reads, and the mean of those of earlier writes.

    Every write counts alike, however long it is: the sum of all would be that of the few longest. Where none was
    measured before, there is no such share.
    """
    shares = {source: _held(leading, inside.own) for source, inside in inputs.items()}
    found = {"read_mean_stream": shares.pop(MEAN)}
    shares.pop(STREAM)
    return found | ({"read_writes": np.mean([*shares.values()], axis=0)} if shares else {})
