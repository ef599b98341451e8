"""The figure of eigenvalues of square matrices beside those of random rotations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jacspec.report.complex_plane import BINS, OWN, PANEL_INCHES, draw_plane, draw_sizes, spread_layers
from jacspec.report.labels import lookup
from jacspec.report.plotting import CHANCE, panels, roles_of
from jacspec.runs import Run
from jacspec.spectra.eigenvalues import null_ring
from jacspec.studies.weights.figures.shown import sigma_of, title_of

PLANES = ("eigenvalues", "rotated_eigenvalues")

OF_EIGENVALUES = (
    "Eigenvalues of the square matrices of one role (weights.show_role) in units of σ₁, in layers spread over the "
    "depth. Dashed: the null ring of their singular values, in which the eigenvalues of a large matrix lie if the "
    "singular vectors on both sides are random. Below: the density of their sizes, and that of the same singular "
    "values randomly rotated, one draw."
)


def square_rows(run: Run) -> list[int]:
    """List the rows of square matrices of one role: the one asked for, none where it is not square, else the first."""
    there = [row for row in range(len(run.metrics)) if np.isfinite(run.metrics["ring_share"].iloc[row])]
    roles = [str(run.metrics["role"].iloc[row]) for row in there]
    if not there:
        return []
    asked = lookup(run.provenance, "config.weights.show_role")
    role = asked if asked in roles_of(run) else roles[0]
    return [row for row, own in zip(there, roles, strict=True) if own == role]


def draw_eigenvalues(run: Run, rows: Sequence[int]) -> Figure:
    """Draw eigenvalues in the plane above the density of their sizes, with the null ring, in units of σ₁."""
    if not rows:
        role = lookup(run.provenance, "config.weights.show_role")
        figure, (panel,) = panels(1, title_of(run, f"{role} is not square: it has no eigenvalues"))
        panel.set_axis_off()
        return figure
    shown = [rows[place] for place in spread_layers(range(len(rows)))]
    figure = Figure(figsize=(max(1.0 + PANEL_INCHES * len(shown), 5.0), 5.4), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, height_ratios=(1.2, 1))
    for row, plane, sizes in zip(shown, *grid, strict=True):
        size = sigma_of(run, row).size
        own, rotated = (run.dataset[name].values[row][:size] for name in PLANES)
        sigma = run.dataset["singular_values"].values[row][:size]
        ring = [float(radius[0]) for radius in null_ring(sigma[None] / sigma[0])]
        draw_plane(plane, own, ring, dotted=True)
        draw_sizes(sizes, np.abs(own), np.abs(rotated), ring, bins=min(max(size // 8, 8), BINS), log=False)
        layer = run.metrics["layer"].iloc[row]
        plane.set_title("no layer" if np.isnan(layer) else f"layer {layer:.0f}", fontsize="medium")
        plane.set_xlabel(r"$\mathrm{Re}\,\lambda / \sigma_1$")
        sizes.set_xlabel(r"$|\lambda| / \sigma_1$")
    grid[0, 0].set_ylabel(r"$\mathrm{Im}\,\lambda / \sigma_1$")
    grid[1, 0].set_ylabel("density")
    what = f"eigenvalues of {run.metrics['role'].iloc[shown[0]]}"
    figure.suptitle(title_of(run, what), fontsize="medium", parse_math=False)
    handles: list[Any] = [
        Patch(facecolor=OWN, label="eigenvalues of the matrix"),
        Line2D([], [], color=CHANCE, label="the same singular values, randomly rotated"),
        Line2D([], [], color=CHANCE, linestyle="--", label="null ring"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(shown), 3), frameon=False)
    return figure
