r"""Static beside dynamic: what a run of `task=coupling` says of each layer, and which layers read what others write.

A component writes along $u$, the leading left singular vector of its Jacobian at a sample, and reads along $v$, the
leading right one. $|u_{l,c} \cdot v_{l',c'}|$ at one and the same sample is the coupling of the write of one with the
read of the other.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

WRITES, READS = "write_vector", "read_vector"
"""Names of the vectors that are kept: leading left and right singular vectors of a Jacobian, of arbitrary sign."""


class Place(NamedTuple):
    """A component of a layer, and when it acts: of two in one stack the later `step` sees what the earlier writes."""

    layer: int
    component: str
    stack: str
    step: int


def downstream(write: Place, read: Place) -> bool:
    """Say whether one component's write is in the stream that the other reads."""
    return write.stack == read.stack and write.step < read.step


def random_alignment(d_model: int) -> float:
    r"""Return $E|u \cdot v|$ of independent uniformly random directions: the level of chance of an alignment.

    $\Gamma(\tfrac d2) / (\sqrt\pi\, \Gamma(\tfrac{d+1}2))$, about $\sqrt{2 / (\pi d)}$.
    """
    return math.exp(math.lgamma(d_model / 2) - math.lgamma((d_model + 1) / 2)) / math.sqrt(math.pi)


def couple(
    writes: Float[np.ndarray, "place sample d_model"], reads: Float[np.ndarray, "place sample d_model"]
) -> Float[np.ndarray, "sample place place"]:
    """Compute |u · v| of every write (row) with every read (column) at every sample, in float64."""
    left, right = (np.asarray(part, np.float64).transpose(1, 0, 2) for part in (writes, reads))
    return np.abs(left @ right.transpose(0, 2, 1))
