"""Figures of Fisher spectra: F's eigenvalues, and the sensitivity of the loss to tenths of the singular values."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jacspec.report.labels import run_title
from jacspec.report.lines import add_layer_key
from jacspec.report.plotting import MEAN, NULL, add_grid, label_log, panels
from jacspec.runs import Run
from jacspec.studies.study import Plot

TENTHS = 10

CAPTIONS = {
    "sensitivity": "How sensitive the loss is to the singular values of a matrix: S, the mean over each tenth of them, "
    "the largest left; a line a layer, black their median. 1 is what random pairs of directions have on average, the "
    "band two standard deviations of the mean over a tenth of such pairs (median over layers).",
    "fisher_spectrum": "Eigenvalues of the Fisher matrix of each weight matrix over its trace: a line a layer, black "
    "their median; grey, dashed, those of gradients of the same norms in independent directions (median).",
}


def fisher_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of the run's Fisher spectra; none where it has no such columns."""
    if "fisher_trace" not in run.metric_names:
        return {}
    return {
        "sensitivity": Plot(lambda: _draw_sensitivity(run), CAPTIONS["sensitivity"]),
        "fisher_spectrum": Plot(lambda: _draw_spectrum(run), CAPTIONS["fisher_spectrum"]),
    }


def mean_tenths(values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " tenth"]:
    """Average values by index over tenths of their places."""
    return np.array([part.mean() if part.size else np.nan for part in np.array_split(values, TENTHS)])


def _rows(run: Run, role: str) -> Any:
    """Take the matrices of a role that have a Fisher spectrum."""
    known = np.isfinite(run.dataset["fisher_trace"].values) & (run.dataset["role"].values == role)
    return run.dataset.isel(matrix=np.flatnonzero(known))


def _roles(run: Run) -> list[str]:
    known = np.isfinite(run.dataset["fisher_trace"].values)
    return list(dict.fromkeys(run.dataset["role"].values[known].tolist()))


def _draw_sensitivity(run: Run) -> Figure:
    """Draw S by tenth of the spectrum, a panel a role, on one scale."""
    figure, axes, layers, colours = _begin(run, "sensitivity of the loss to singular values")
    places = (np.arange(TENTHS) + 0.5) * 100 / TENTHS
    for panel, role in zip(axes, _roles(run), strict=True):
        panel.set_title(role, fontsize="medium", parse_math=False)
        own = _rows(run, role)
        rows = [mean_tenths(each[np.isfinite(each)]) for each in own["sensitivity"].values]
        _add_lines(panel, places, rows, own["layer"].values, layers, colours)
        if np.isfinite(spread := float(np.nanmedian(own["sensitivity_spread"].values))):
            panel.axhspan(max(1 - 2 * spread, 0.02), 1 + 2 * spread, color=NULL, alpha=0.3, linewidth=0, zorder=0)
        panel.axhline(1, color=NULL, linewidth=1)
        panel.set_xlim(0, 100)
    _share_log_scale(axes)
    handles = [
        Patch(color=NULL, alpha=0.4, label="random pairs of directions, ± 2 standard deviations of a tenth's mean"),
    ]
    _label_lowest(axes, "place in the spectrum, %\n(0: the largest singular value)")
    figure.supylabel(r"relative sensitivity $S$, mean over a tenth", fontsize="medium")
    return _finish(figure, axes, layers, colours, handles)


def _draw_spectrum(run: Run) -> Figure:
    """Draw F's eigenvalues over its trace against their index, both logarithmic."""
    figure, axes, layers, colours = _begin(run, "Fisher spectra")
    for panel, role in zip(axes, _roles(run), strict=True):
        panel.set_title(role, fontsize="medium", parse_math=False)
        own = _rows(run, role)
        kept = np.isfinite(own["fisher_eigenvalues"].values).any(axis=0)
        rows = [np.where(each > 1e-7, each, np.nan)[kept] for each in own["fisher_eigenvalues"].values]
        index = np.arange(1, kept.sum() + 1)
        _add_lines(panel, index, rows, own["layer"].values, layers, colours)
        chance = np.nanmedian(own["fisher_chance"].values[:, kept], axis=0)
        panel.plot(index, np.where(chance > 1e-7, chance, np.nan), color="0.45", linewidth=1.6, linestyle="--")
        panel.set_xscale("log")
        label_log(panel.xaxis)
    _share_log_scale(axes)
    handles = [
        Line2D([], [], color="0.45", linewidth=1.6, linestyle="--", label="independent directions, the same norms"),
    ]
    _label_lowest(axes, "index $j$ of the eigenvalue")
    figure.supylabel(r"$\lambda_j\,/\,\mathrm{tr}\,F$", fontsize="medium")
    return _finish(figure, axes, layers, colours, handles)


def _begin(run: Run, what: str) -> tuple[Figure, list[Axes], list[int], np.ndarray]:
    samples = int(np.nanmax(run.dataset["fisher_samples"].values))
    labels = "labels of the text" if run.provenance["config"]["overlap"]["fisher_labels"] == "data" else "drawn labels"
    figure, axes = panels(len(_roles(run)), f"{run_title(run)}: {what}, {samples} samples, {labels}", size=(3.3, 2.7))
    known = np.isfinite(run.dataset["fisher_trace"].values)
    layers = sorted(set(run.dataset["layer"].values[known].tolist()))
    return figure, axes, layers, matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))


def _add_lines(
    panel: Axes,
    places: np.ndarray,
    rows: Sequence[np.ndarray],
    own: np.ndarray,
    layers: Sequence[int],
    colours: np.ndarray,
) -> None:
    for values, layer in zip(rows, own.tolist(), strict=True):
        colour = colours[layers.index(layer)]
        panel.plot(places, values, color=colour, linewidth=0.7, alpha=0.8, label=f"layer {layer}")
    if len(rows) > 1:
        panel.plot(places, np.nanmedian(rows, axis=0), color=MEAN, linewidth=1.6)


def _share_log_scale(axes: Sequence[Axes]) -> None:
    drawn = [np.asarray(line.get_ydata(), np.float64) for panel in axes for line in panel.get_lines()]
    values = np.concatenate([each[np.isfinite(each) & (each > 0)] for each in drawn])
    for panel in axes:
        panel.set_yscale("log")
        panel.set_ylim(values.min() / 1.3, values.max() * 1.3)
        label_log(panel.yaxis)
        add_grid(panel)


def _label_lowest(axes: Sequence[Axes], label: str) -> None:
    """Label the lowest panel of each column: a label of the whole figure would lie where the legend is."""
    spec = axes[0].get_subplotspec()
    assert spec is not None
    for panel in axes[-spec.get_gridspec().ncols :]:
        panel.set_xlabel(label, fontsize="small")


def _finish(
    figure: Figure, axes: Sequence[Axes], layers: list[int], colours: np.ndarray, handles: Sequence[Any]
) -> Figure:
    """Add the key of layers and the legend."""
    add_layer_key(figure, axes, layers, colours)
    median = Line2D([], [], color=MEAN, linewidth=1.6, label="median over layers")
    handles = [*([median] if len(layers) > 1 else []), *handles]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize="small")
    return figure
