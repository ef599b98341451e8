"""How many singular values a page holds, which ones, and how they are written."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SPECTRUM_VALUES = 250_000
"""Singular values that a page holds, all its runs together: about 1.6 MB of it. Metrics are all there, always."""


class Spectra(NamedTuple):
    """What a page has of the spectra of a run: the data by group or row, and which part of the whole that is.

    `left_out` says what is not there, in words; it is empty where all is.
    """

    layers: Sequence[int | None]
    samples: Sequence[int] = ()
    left_out: str = ""


def spread(count: int, room: int) -> list[int]:
    """Choose at most `room` of `count` things, evenly spaced, the first among them."""
    chosen = min(count, room)
    return [index * count // chosen for index in range(chosen)]


def share(left_out: str, shown: int, of: int, what: str) -> str:
    """Add to the words for what is left out."""
    return left_out if shown == of else f"{left_out}{', ' if left_out else ''}{shown} of {of} {what}"


def short_decimals(values: Float[np.ndarray, " value"]) -> list[float | None]:
    """Write singular values with the fewest digits that tell float32 values apart; `None` where one is missing."""
    texts = values.astype(np.float32).astype(str)
    return [float(text) if finite else None for text, finite in zip(texts, np.isfinite(values), strict=True)]


def finite_values(values: Float[np.ndarray, " value"]) -> list[float | None]:
    """List values as they are; `None` where JSON has no word for one."""
    return [value if finite else None for value, finite in zip(values.tolist(), np.isfinite(values), strict=True)]
