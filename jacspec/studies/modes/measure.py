"""The first pass: of each Jacobian the leading (and trailing) singular triples, with bounds and groups.

Whole samples are measured one by one, so that several processes may share them; what compares samples with each other
comes after (`after.py`).
"""

from typing import NamedTuple

READS, WRITES, STREAM, OUTPUT = "read_vectors", "write_vectors", "stream", "output"
"""Names of the arrays that are stored: v and u of every mode, x and f(x)."""

GROUP, BOUND = "group", "vector_bound"
"""Names of what is said of every mode: which group it is of, and how far it is from being a singular pair."""


class Modes(NamedTuple):
    """Which modes are kept: `k` leading ones and `trailing` ones."""

    k: int
    trailing: int

    @property
    def numbers(self) -> list[int]:
        """Number the modes: 1 the largest value, -1 the least."""
        return [*range(1, self.k + 1), *range(-self.trailing, 0)]
