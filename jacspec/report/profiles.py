"""Panels of a profile by index of the singular value, with what chance gives and the spectrum inset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.plotting import CHANCE

MEAN, NULL = "black", "0.55"

LEVELS, EDGES = {"overlap_null": "-", "overlap_null_99": "--"}, ("bulk_low", "bulk_high")


def frame_overlap(panel: Axes, role: str, levels: Mapping[str, float]) -> Axes:
    """Draw what stands around the overlaps of a role: the level of chance, and an inset with the edges of the bulk.

    **Returns:** the inset, which spectra are drawn into.
    """
    for name, line in LEVELS.items():
        panel.axhline(levels[name], color=NULL, linewidth=1, linestyle=line)
    panel.set_ylim(0, 1.45)  # the room above 1 is the inset's
    panel.set_yticks([0, 0.25, 0.5, 0.75, 1])
    panel.set_title(role, fontsize="medium", parse_math=False)
    inset = panel.inset_axes((0.52, 0.66, 0.46, 0.32))
    for name in EDGES:
        if np.isfinite(levels[name]) and levels[name] > 0:
            inset.axhline(levels[name], color=CHANCE, linewidth=0.8, linestyle="--")
    inset.set_yscale("log")
    inset.tick_params(labelsize="xx-small", length=2, pad=1)
    inset.minorticks_off()
    return inset


def add_spectrum(inset: Axes, sigma: Float[np.ndarray, " k"], colour: Any) -> None:
    """Draw the singular values that are more than rounding."""
    visible = np.where(sigma > sigma[0] * 1e-7, sigma, np.nan)
    inset.plot(np.arange(1, sigma.size + 1), visible, color=colour, linewidth=0.6)


def label_overlap(figure: Figure, edges: str) -> None:
    """Label the axes of a figure of overlaps; `edges` says which the inset has."""
    figure.supxlabel(f"index $k$ of the singular value (inset: singular values, {edges})", fontsize="medium")
    figure.supylabel(r"$O_k = \max_j |v_k \cdot f_j|$ (grey: by chance, mean and 99 %)", fontsize="medium")
