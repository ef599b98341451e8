"""Figures of Jacobians: those of all runs over samples, and eigenvalues in the complex plane with their null ring."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Patch

from jacspec.report.figures import box_plots, spectra_plots
from jacspec.report.labels import component_words, title_lines
from jacspec.report.plotting import CHANCE
from jacspec.runs import Run
from jacspec.spectra.eigenvalues import null_ring
from jacspec.studies.study import Plot

EIGENVALUES, ROTATED = "eigenvalues", "rotated_eigenvalues"
NOT_BOXED = ("ring_inner", "ring_outer", "rotated_ring_share", "rotated_radius")
"""What stands beside other columns, and has no box plot of its own."""

SHOWN_LAYERS, PANEL_INCHES, BINS, OWN = 6, 2.3, 40, "#5B9BD5"
CAPTION = (
    "Eigenvalues of {component} in the complex plane, all samples of a layer together (darker: denser, on a "
    "logarithmic scale), in layers spread over the depth. Dashed: the null ring of their singular values, in which the "
    "eigenvalues lie if the singular vectors on both sides are random (medians over samples). Below: the density of "
    "their sizes, and that of the same singular values randomly rotated, one draw a sample."
)


def jacobian_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a run: a box plot a metric, the spectra, and eigenvalues by component where they are kept."""
    figures = box_plots(run, [name for name in run.metric_names if name not in NOT_BOXED]) | spectra_plots(run)
    if "ring_share" in run.metric_names:
        for component in run.components:
            caption = CAPTION.format(component=component_words(component))
            figures[f"{EIGENVALUES}_{component}"] = Plot(functools.partial(draw_eigenvalues, run, component), caption)
    return figures


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
        _draw_plane(plane, values, ring)
        _draw_sizes(sizes, np.abs(values), np.abs(rotated), ring)
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


def spread_layers(layers: Sequence[int], most: int = SHOWN_LAYERS) -> list[int]:
    """Choose layers evenly, the first and the last among them."""
    places = np.linspace(0, len(layers) - 1, min(most, len(layers))).round().astype(int)
    return [layers[place] for place in places]


def _draw_plane(axes: Axes, values: Complex[np.ndarray, " value"], ring: Sequence[float]) -> None:
    """Draw where eigenvalues are dense, and the ring; the frame holds both."""
    reach = 1.06 * max(float(np.abs(values).max()), ring[1]) or 1.0
    counts, *edges = np.histogram2d(values.real, values.imag, BINS, [(-reach, reach)] * 2)
    most = max(counts.max(), 2.0)
    axes.pcolormesh(*edges, np.where(counts, counts, np.nan).T, cmap="Blues", norm=LogNorm(0.3, most), rasterized=True)
    for radius in ring:
        axes.add_patch(Circle((0, 0), radius, fill=False, color=CHANCE, linestyle="--", linewidth=1.1))
    axes.axhline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.85", linewidth=0.6, zorder=0)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.locator_params(nbins=4)


def _draw_sizes(
    axes: Axes, own: Float[np.ndarray, " value"], rotated: Float[np.ndarray, " value"], ring: Sequence[float]
) -> None:
    """Draw the density of sizes beside that of the rotated."""
    edges = np.linspace(0, max(own.max(), rotated.max(), ring[1]) or 1.0, BINS + 1).tolist()
    axes.hist(own, edges, density=True, color=OWN)
    axes.hist(rotated, edges, density=True, histtype="step", color=CHANCE, linewidth=1.2)
    for radius in ring:
        axes.axvline(radius, color=CHANCE, linestyle="--", linewidth=1.1)
    axes.set_yscale("log")
    axes.locator_params(axis="x", nbins=4)
