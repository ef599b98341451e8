r"""The further table of a `task=coupling` run: which layers read what others write.

A component writes along $u$, the leading left singular vector of its Jacobian at a sample, and reads along $v$, the
leading right one. $|u_{l,c} \cdot v_{l',c'}|$ at one and the same sample is the coupling of the write of one with the
read of the other.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jacspec.axes import LayerResult
from jacspec.jacobians.branches import Site, downstream
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise

WRITES, READS = "write_vector", "read_vector"
"""Names of the vectors that are kept: leading left and right singular vectors of a Jacobian, of arbitrary sign."""


def couple(
    writes: Float[np.ndarray, "place sample d_model"], reads: Float[np.ndarray, "place sample d_model"]
) -> Float[np.ndarray, "sample place place"]:
    """Compute |u · v| of every write (row) with every read (column) at every sample, in float64."""
    left, right = (np.asarray(part, np.float64).transpose(1, 0, 2) for part in (writes, reads))
    return np.abs(left @ right.transpose(0, 2, 1))


STATISTICS = SUMMARY_COLUMNS[3:]
COUPLING_COLUMNS = ("write_layer", "write_component", "read_layer", "read_component", "downstream", *STATISTICS)


def coupling_rows(results: Sequence[LayerResult], places: Mapping[tuple[int, str], Site]) -> Iterator[tuple[Any, ...]]:
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
