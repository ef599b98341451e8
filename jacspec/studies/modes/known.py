"""What is known of the modes of one component of a block, and means over samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jacspec.axes import LayerResult
from jacspec.jacobians.branches import Site
from jacspec.jacobians.triples import UNKNOWN, cut_groups
from jacspec.runs.layers import Stored
from jacspec.studies.modes.measure import GROUP, OUTPUT, READS, STREAM, WRITES

Vectors = Float[np.ndarray, "sample mode d_model"]
Places = Mapping[tuple[int, str], Site]


class Known(NamedTuple):
    """What is known of one component of one block: vectors that belong to no known subspace are zero.

    `numbers` says which modes: 1 has the largest value, −1 the least.
    """

    site: Site
    numbers: Sequence[int]
    sigma: Float[np.ndarray, "sample mode"]
    group: Int[np.ndarray, "sample mode"]
    reads: Vectors
    writes: Vectors
    stream: Float[np.ndarray, "sample d_model"]
    output: Float[np.ndarray, "sample d_model"]

    @property
    def ranks(self) -> Int[np.ndarray, " sample"]:
        """How many dimensions of each sample are known."""
        return (self.group != UNKNOWN).sum(axis=1)

    @property
    def leading(self) -> "Known":
        """The leading modes alone; of a group that goes on among the trailing ones no subspace is known."""
        k = sum(number > 0 for number in self.numbers)
        group = cut_groups(self.group, k)
        reads, writes = (_only_known(side[:, :k], group) for side in (self.reads, self.writes))
        return Known(self.site, self.numbers[:k], self.sigma[:, :k], group, reads, writes, self.stream, self.output)


def read_known(result: LayerResult, stored: Stored, sites: Places, numbers: Sequence[int]) -> Iterator[Known]:
    """Put the modes of each component of a block together, `numbers` the ones that are stored."""
    places = [number - 1 if number > 0 else number for number in numbers]
    for component, arrays in stored.items():
        group = result.diagnostics[component][GROUP]
        reads, writes = (_only_known(arrays[name], group) for name in (READS, WRITES))
        site, sigma = sites[result.layer, component], result.singular_values[component][:, places]
        yield Known(site, numbers, sigma, group, reads, writes, arrays[STREAM], arrays[OUTPUT])


def _only_known(vectors: Vectors, group: Int[np.ndarray, "sample mode"]) -> Vectors:
    return np.where((group != UNKNOWN)[..., None], vectors, 0)


class Estimate(NamedTuple):
    """A mean over pairs or samples, its standard error, and how many samples it is of."""

    n: int
    value: float
    error: float


NOTHING = Estimate(0, np.nan, np.nan)


def mean_samples(values: Float[np.ndarray, " sample"]) -> Estimate:
    """Estimate a mean over samples; those without a value are left out."""
    known = values[np.isfinite(values)]
    if not known.size:
        return NOTHING
    error = known.std(ddof=1) / known.size**0.5 if known.size > 1 else np.nan
    return Estimate(int(known.size), float(known.mean()), float(error))
