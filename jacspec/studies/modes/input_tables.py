"""Where in the spectrum the input lies: the stream, its mean over samples, and what each earlier component wrote.

Vectors within a subspace of equal values may be turned at will, so that what lies along one of them is nothing of its
own: of a group of g modes each is given 1/g of what lies in the whole subspace. So the shares along modes add up to the
share in the subspace of all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jacspec.jacobians.branches import Site, downstream
from jacspec.jacobians.triples import UNKNOWN
from jacspec.studies.modes.known import Known, Vectors, mean_samples
from jacspec.studies.modes.measure import directions, share_in

Outputs = Mapping[Site, Float[np.ndarray, "sample d_model"]]
Source = tuple[Any, str]
"""The layer of a component that wrote, and its name; no layer of the stream."""
STREAM, MEAN = ("", "stream"), ("", "mean stream")


def sources_of(known: Known, outputs: Outputs) -> dict[Source, Float[np.ndarray, "sample d_model"]]:
    """List what a component may read: the stream at its input, the mean of that, and what was written before it."""
    found: dict[Source, Any] = {STREAM: known.stream}
    found[MEAN] = np.broadcast_to(known.stream.mean(axis=0), known.stream.shape)
    written = {site: output for site, output in outputs.items() if downstream(site, known.site)}
    return found | {(site.layer, site.component): output for site, output in written.items()}


def shares_along(
    reads: Vectors, group: Int[np.ndarray, "sample mode"], vectors: Float[np.ndarray, "sample d_model"]
) -> Float[np.ndarray, "sample mode"]:
    """Compute what share of a vector's square lies along each mode, of a group the mean; NaN where that is unknown."""
    inside = np.square(np.einsum("smd,sd->sm", np.asarray(reads, np.float64), directions(vectors)))
    known = group != UNKNOWN
    same = (group[:, :, None] == group[:, None, :]) & known[:, None, :]
    return np.where(known, (same * inside[:, None, :]).sum(axis=2) / np.maximum(same.sum(axis=2), 1), np.nan)


def input_rows(known: Known, outputs: Outputs) -> Iterator[tuple[Any, ...]]:
    """Say how much of each source the leading reads hold, beside that of another sample's source."""
    ranks = known.ranks[known.ranks > 0]
    random = float(ranks.mean()) / known.stream.shape[1] if ranks.size else np.nan
    for (layer, source), vectors in sources_of(known, outputs).items():
        own, other = (share_in(known.reads, side) for side in (vectors, np.roll(vectors, 1, axis=0)))
        place = (known.site.layer, known.site.component, layer, source)
        yield (*place, *mean_samples(own), random, mean_samples(other).value)


def along_rows(known: Known, outputs: Outputs) -> Iterator[tuple[Any, ...]]:
    """Say how much of each source lies along each mode that is kept, the trailing ones too."""
    for (layer, source), vectors in sources_of(known, outputs).items():
        own, other = (shares_along(known.reads, known.group, side) for side in (vectors, np.roll(vectors, 1, axis=0)))
        for place, number in enumerate(known.numbers):
            where = (known.site.layer, known.site.component, number, layer, source)
            level = mean_samples(other[:, place]).value
            yield (*where, *mean_samples(own[:, place]), 1 / known.stream.shape[1], level)


def group_rows(known: Known, outputs: Outputs, groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Say by group of samples how much of each source the leading reads hold.

    **Arguments:** `groups`, by the name of a column, a group a sample.
    """
    for (layer, source), vectors in sources_of(known, outputs).items():
        shares = share_in(known.reads, vectors)
        for column, own in groups.items():
            labels = np.asarray(own)
            for label in sorted({*own}):
                place = (known.site.layer, known.site.component, layer, source, column, label)
                yield (*place, *mean_samples(shares[labels == label]))


def read_shares(known: Known, outputs: Outputs) -> dict[str, Float[np.ndarray, " sample"]]:
    """Compute of each sample the share of the mean stream in its reads, and the mean of those of earlier writes.

    Every write counts alike, however long it is: the sum of all would be that of the few longest. Where none was
    measured before, there is no such share.
    """
    shares = {source: share_in(known.reads, vectors) for source, vectors in sources_of(known, outputs).items()}
    found = {"read_mean_stream": shares.pop(MEAN)}
    shares.pop(STREAM)
    return found | ({"read_writes": np.mean([*shares.values()], axis=0)} if shares else {})
