"""What figures of overlaps with activations share: levels of chance, the Marchenko–Pastur regime, the spectrum inset.

The layout of "Small Singular Values Matter", Figures 3, 4, 5, 9 and 10: O_k by index, upright lines where the regime of
Marchenko and Pastur's law begins and ends, and a histogram of the singular values beside that law.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.plotting import CHANCE, NULL
from jacspec.spectra.random_matrix import marchenko_pastur_density

LEVELS = {"overlap_null": "-", "overlap_null_99": "--", "overlap_norms_99": ":"}

EDGES = ("mp_low", "mp_high")

INSET = (0.52, 0.69, 0.46, 0.29)
"""Where the inset is, in parts of the axes: left, bottom, width, height. Curves end below it."""

BINS, BEYOND = 40, 1.6
"""Most bars of an inset, and how far its axis goes in units of the law's upper edge."""

WORDS = (
    "Between the upright dashed lines σ lies within the edges of Marchenko and Pastur's law at the variance of the "
    "entries (median matrix; no line where nothing lies beyond). Inset: histogram of σ over s√N beside that law, "
    "dashed; its last bar has all beyond."
)
"""Of a caption: what `frame_overlap` draws."""


class Spectra(NamedTuple):
    """Singular values of matrices, and the edges of Marchenko and Pastur's law at the variance of their entries."""

    sigma: Float[np.ndarray, "matrix k"]
    low: Float[np.ndarray, " matrix"]
    high: Float[np.ndarray, " matrix"]

    def regime(self) -> tuple[float, float] | None:
        """Return how many values lie above, and from which index on below, the edges; None where these are unknown."""
        known = self.high > 0
        if not known.any():
            return None
        sigma, low, high = (each[known] for each in self)
        above = np.median((sigma > high[:, None]).sum(axis=1))
        below = np.median((sigma < low[:, None]).sum(axis=1))
        return float(above), float(np.isfinite(sigma).any(axis=0).sum() - below)

    def scaled(self) -> tuple[Float[np.ndarray, " value"], float]:
        """Return all σ over s√N of their matrix, and the ratio of the sides: both follow from the edges s(√N ± √M)."""
        known = self.high > 0
        sigma, low, high = (each[known] for each in self)
        values = 2 * sigma / (low + high)[:, None]
        ratio = float(np.median(((high - low) / (high + low)) ** 2)) if known.any() else 0.0
        return values[np.isfinite(values)], ratio


def frame_overlap(
    panel: Axes, role: str, overlap: Float[np.ndarray, "line k"], levels: Mapping[str, float], spectra: Spectra
) -> Axes:
    """Draw what stands around the overlaps of a role: levels of chance, and where Marchenko and Pastur's regime ends.

    **Returns:** the inset, which spectra are drawn into, with the law in it.
    """
    top = 1.05 * float(np.nanmax([np.nanmax(overlap), *(levels.get(name, np.nan) for name in LEVELS)]))
    for name, line in LEVELS.items():
        if np.isfinite(levels.get(name, np.nan)):
            panel.axhline(levels[name], color=NULL, linewidth=1, linestyle=line)
    for end in _ends(spectra, overlap.shape[1]):
        panel.axvline(end, color=CHANCE, linewidth=1, linestyle="--")
    panel.set_ylim(0, top / INSET[1])
    panel.set_yticks([tick for tick in MaxNLocator(5).tick_values(0, top) if 0 <= tick <= top])
    panel.set_title(role, fontsize="medium", parse_math=False)
    inset = panel.inset_axes(INSET)
    _, ratio = spectra.scaled()
    if ratio > 0:
        grid = np.linspace(max(1 - ratio**0.5, 1e-3), 1 + ratio**0.5, 200)
        inset.plot(grid, marchenko_pastur_density(grid, (ratio, 1.0), 1.0), color=CHANCE, linestyle="--", linewidth=0.9)
    inset.tick_params(labelsize="xx-small", length=2, pad=1)
    inset.set_yticks([])
    return inset


def _ends(spectra: Spectra, count: int) -> Iterator[float]:
    """Yield between which indices, from 1 to `count`, σ crosses an edge."""
    above, last = spectra.regime() or (0, count)
    yield from (end + 0.5 for end in (above, last) if 0 < end < count)


def add_spectra(inset: Axes, spectra: Spectra, colour: Any) -> None:
    """Draw the histogram of the singular values over s√N; nothing where no edge is known."""
    values, ratio = spectra.scaled()
    if not values.size:
        return
    shown = BEYOND * (1 + ratio**0.5)
    bins = min(BINS, 2 * math.isqrt(values.size))
    bars: dict[str, Any] = {"bins": bins, "range": (0, shown), "density": True, "histtype": "step", "linewidth": 0.8}
    inset.hist(np.minimum(values, shown), color=colour, **bars)
    inset.set_xlim(0, shown)


def label_overlap(figure: Figure, whose: str = "") -> None:
    """Label the axes of a figure of overlaps; `whose` says of what the edges are, where not of all that is drawn."""
    figure.supxlabel(
        f"index $k$ of the singular value (between the dashed lines: Marchenko–Pastur regime{whose})\n"
        r"inset: $\sigma / (s \sqrt{N})$ beside Marchenko–Pastur, dashed",
        fontsize="medium",
    )
    figure.supylabel(
        r"$O_k = \max_j |v_k \cdot f_j|$ (grey: by chance, mean and 99 %; dotted: 99 % with its norms)",
        fontsize="medium",
    )
