"""How much of its runs a page holds, and how numbers are written there."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SPECTRUM_VALUES, METRIC_VALUES = 200_000, 300_000
"""Singular values, and values of metrics a sample, that a page holds of all its runs together.

A float32 number takes 6 bytes of the page, so that they take 1.2 and 1.8 MB beside the 2 MB of Plotly.
"""


class Budget(NamedTuple):
    """What there is room for of one run: so many singular values, and whether every sample's metrics."""

    spectra: int
    samples: bool


def spread(count: int, room: int) -> list[int]:
    """Choose at most `room` of `count` things, evenly spaced, the first among them."""
    chosen = min(count, room)
    return [index * count // chosen for index in range(chosen)]


def partly(what: str, shown: int, of: int, units: str) -> list[str]:
    """Say of what a page holds a part; nothing where it holds the whole."""
    return [] if shown == of else [f"{what} of {shown} of {of} {units}"]


def short_decimals(values: Float[np.ndarray, " value"]) -> list[float | None]:
    """Write singular values with the fewest digits that tell float32 values apart; `None` where one is missing."""
    texts = values.astype(np.float32).astype(str).tolist()
    return [float(text) if finite else None for text, finite in zip(texts, np.isfinite(values).tolist(), strict=True)]


def finite_values(values: Float[np.ndarray, " value"]) -> list[float | None]:
    """List values as they are; `None` where JSON has no word for one."""
    return [value if finite else None for value, finite in zip(values.tolist(), np.isfinite(values), strict=True)]
