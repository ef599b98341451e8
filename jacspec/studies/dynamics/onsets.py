r"""What changes first in training: when a value has made, and keeps, half of the change that it makes in all.

For a curve $m_0, \dots, m_S$ over training steps the change is $m_S - m_0$ and the onset the first step from which
$(m_s - m_0) / (m_S - m_0) \ge 1/2$ holds to the end. A curve that goes away and comes back has an early extreme and a
late onset: both are told.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

STEP = re.compile(r"(?:^|[^a-z])step[-_]?(\d+)|^(\d+)$", re.IGNORECASE)
KEPT = 0.5
"""The share of the whole change that is there from the onset on."""


class Onset(NamedTuple):
    """How one value moves over training: its first and last value, where the onset is, and its extreme.

    `onset` and `extreme` are places among the steps; the extreme is where the value is farthest from its first.
    """

    first: float
    last: float
    onset: int
    extreme: int


def step_of(revision: Any) -> int | None:
    """Read the training step out of a revision's name (`step1000`, `stage1-step150-tokens1B`, `1000`)."""
    found = STEP.search(str(revision)) if revision is not None else None
    return int(found[1] or found[2]) if found else None


def find_onset(curve: Float[np.ndarray, " step"]) -> Onset | None:
    """Find where a curve has made half of its change for good; None where a value is missing or nothing changes."""
    change = float(curve[-1] - curve[0])
    if not np.isfinite(curve).all() or change == 0:
        return None
    there = (curve - curve[0]) / change >= KEPT
    onset = int(np.flatnonzero(~there)[-1]) + 1
    return Onset(float(curve[0]), float(curve[-1]), onset, int(np.argmax(np.abs(curve - curve[0]))))
