"""Figures of eigenvalues: in the complex plane by layer, and their sizes, with the null ring."""

import functools
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jacspec.report.complex_plane import OWN, PANEL_INCHES, draw_plane, draw_sizes, spread_layers
from jacspec.report.labels import component_words, title_lines
from jacspec.report.plotting import CHANCE
from jacspec.runs import Run
from jacspec.spectra.eigenvalues import null_ring
from jacspec.studies.study import Plot

EIGENVALUES, ROTATED = "eigenvalues", "rotated_eigenvalues"
CAPTION = (
    "Eigenvalues of {component} in the complex plane, all samples of a layer together (darker: denser, on a "
    "logarithmic scale), in layers spread over the depth. Dashed: the null ring of their singular values, in which the "
    "eigenvalues lie if the singular vectors on both sides are random (medians over samples). Below: the density of "
    "their sizes, and that of the same singular values randomly rotated, one draw a sample."
)


def plane_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of the eigenvalues, one a component, where they are kept."""
    if "ring_share" not in run.metric_names:
        return {}
    captions = {name: CAPTION.format(component=component_words(name)) for name in run.components}
    return {
        f"{EIGENVALUES}_{name}": Plot(functools.partial(draw_eigenvalues, run, name), caption)
        for name, caption in captions.items()
    }


def draw_eigenvalues(run: Run, component: str) -> Figure:
    """Draw the eigenvalues of some layers in the plane, above the density of their sizes, with the null ring."""
    found = run.dataset.sel(component=component)
    there = np.isfinite(found["singular_values"].values).all(axis=(1, 2))  # stacks may differ in depth
    layers = spread_layers(found["layer"].values[there].tolist())
    figure = Figure(figsize=(1.0 + PANEL_INCHES * len(layers), 5.4), layout="constrained")
    panels = figure.subplots(2, len(layers), squeeze=False, height_ratios=(1.2, 1))
    for layer, plane, sizes in zip(layers, *panels, strict=True):
        own = found.sel(layer=layer)
        values, rotated = (own[name].values.ravel() for name in (EIGENVALUES, ROTATED))
        ring = [float(np.median(radii)) for radii in null_ring(own["singular_values"].values)]
        draw_plane(plane, values, ring)
        draw_sizes(sizes, np.abs(values), np.abs(rotated), ring)
        plane.set_title(f"layer {layer}", fontsize="medium")
        plane.set_xlabel(r"$\mathrm{Re}\,\lambda$")
        sizes.set_xlabel(r"$|\lambda|$")
    panels[0, 0].set_ylabel(r"$\mathrm{Im}\,\lambda$")
    panels[1, 0].set_ylabel("density")
    title = f"{title_lines(run, figure.get_figwidth())}\neigenvalues of {component_words(component)}"
    figure.suptitle(title, fontsize="medium", parse_math=False)
    handles: list[Any] = [
        Patch(facecolor=OWN, label="eigenvalues of the Jacobians"),
        Line2D([], [], color=CHANCE, label="the same singular values, randomly rotated"),
        Line2D([], [], color=CHANCE, linestyle="--", label="null ring"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(layers), 3), frameon=False)
    return figure
