"""The further tables of a `task=coupling` run: which layers read what others write, and values by kind of token."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jacspec.glossary import LayerResult
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise
from jacspec.studies.coupling.alignment import READS, WRITES, Place, couple, downstream

COUPLING_FILE, KINDS_FILE = "coupling.csv", "kinds.csv"
STATISTICS = SUMMARY_COLUMNS[3:]
COUPLING_COLUMNS = ("write_layer", "write_component", "read_layer", "read_component", "downstream", *STATISTICS)
KIND_COLUMNS = ("layer", "component", "metric", "kind", *STATISTICS)
BY_KIND = ("spectral_radius", "residual_gain")
"""What is summed up by the kind of the last token."""


def coupling_rows(results: Sequence[LayerResult], places: Mapping[tuple[int, str], Place]) -> Iterator[tuple[Any, ...]]:
    """Sum the coupling up over samples, a row a (write, read); `downstream` is 1 where the read sees the write.

    **Arguments:** `places`, by layer and component.
    """
    found = {
        places[result.layer, component]: vectors for result in results for component, vectors in result.vectors.items()
    }
    writes, reads = (np.stack([vectors[name] for vectors in found.values()]) for name in (WRITES, READS))
    matrices = couple(writes, reads)
    for row, write in enumerate(found):
        for column, read in enumerate(found):
            numbers = summarise(matrices[:, row, column])
            yield (write.layer, write.component, read.layer, read.component, int(downstream(write, read)), *numbers)


def kind_rows(results: Sequence[LayerResult], kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Sum up by the kind of the last token.

    **Arguments:** `kinds`, by component, a kind a sample.
    """
    for result in results:
        for component, metrics in result.metrics.items():
            own = np.asarray(kinds[component])
            for metric in BY_KIND:
                for kind in sorted(set(own.tolist())):
                    values = np.asarray(metrics[metric], np.float64)[own == kind]
                    yield (result.layer, component, metric, kind, *summarise(values))
