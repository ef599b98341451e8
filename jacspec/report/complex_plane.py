"""Eigenvalues in the complex plane and the density of their sizes, with their null ring: what studies draw with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Circle

from jacspec.report.plotting import CHANCE

SHOWN_LAYERS, PANEL_INCHES, BINS, OWN = 6, 2.3, 40, "#5B9BD5"
DOTTED = 4000
"""Eigenvalues up to which each may be a dot; of more, only where they are dense is seen."""


def spread_layers(layers: Sequence[int], most: int = SHOWN_LAYERS) -> list[int]:
    """Choose layers evenly, the first and the last among them."""
    places = np.linspace(0, len(layers) - 1, min(most, len(layers))).round().astype(int)
    return [layers[place] for place in places]


def draw_plane(
    axes: Axes, values: Complex[np.ndarray, " value"], ring: Sequence[float], *, dotted: bool = False
) -> None:
    """Draw where eigenvalues are dense, and the ring; the frame holds both. `dotted` draws each if they are few."""
    reach = 1.06 * max(float(np.abs(values).max()), ring[1]) or 1.0
    if dotted and values.size <= DOTTED:
        axes.plot(values.real, values.imag, ".", color=OWN, markersize=2.5, rasterized=True)
    else:
        counts, *edges = np.histogram2d(values.real, values.imag, BINS, [(-reach, reach)] * 2)
        shown, most = np.where(counts, counts, np.nan).T, max(counts.max(), 2.0)
        axes.pcolormesh(*edges, shown, cmap="Blues", norm=LogNorm(0.3, most), rasterized=True)
    for radius in ring:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=CHANCE, linestyle="--", linewidth=1.1))
    axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.locator_params(nbins=4)


def draw_sizes(
    axes: Axes,
    own: Float[np.ndarray, " value"],
    rotated: Float[np.ndarray, " value"],
    ring: Sequence[float],
    *,
    bins: int = BINS,
    log: bool = True,
) -> None:
    """Draw the density of sizes beside that of the rotated."""
    edges = np.linspace(0, max(own.max(), rotated.max(), ring[1]) or 1.0, bins + 1).tolist()
    axes.hist(own, edges, density=True, color=OWN)
    axes.hist(rotated, edges, density=True, histtype="step", color=CHANCE, linewidth=1.2)
    for radius in ring:
        axes.axvline(radius, color=CHANCE, linestyle="--", linewidth=1.1)
    if log:
        axes.set_yscale("log")
    axes.locator_params(axis="x", nbins=4)
