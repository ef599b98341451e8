"""Figures of lines: the spectra themselves, a line a layer, and the key of layers."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from jacspec.report.labels import component_words, layer_words, title_lines
from jacspec.runs import Run

PANEL_COLUMNS = 3
LEGEND_LINES = 8


def draw_spectra(run: Run) -> Figure:
    """Draw the median over samples of each singular value against its index, a line a layer, a panel a component."""
    sigma = run.dataset["singular_values"]
    components, layers = sigma["component"].values.tolist(), sigma["layer"].values.tolist()
    columns = min(len(components), PANEL_COLUMNS)
    rows = -(-len(components) // columns)
    figure = Figure(figsize=(1.6 + 3.6 * columns, 0.8 + 3.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))  # paler yellow is lost on white
    for axes, component in zip(panels, components, strict=False):
        median = sigma.sel(component=component).median("sample").values
        visible = visible_spectrum(median, sigma.dtype)
        _add_lines(axes, visible, layers, colours, layer_words(components))
        if np.isfinite(visible).any():
            axes.set_yscale("log")
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(components) :]:
        axes.remove()
    figure.supxlabel("index $i$", fontsize="medium")
    figure.supylabel(r"singular value $\sigma_i$, median over samples", fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    add_layer_key(figure, panels[: len(components)], layers, colours, layer_words(components))
    return figure


def visible_spectrum(sigma: Float[np.ndarray, "layer k"], dtype: np.dtype) -> Float[np.ndarray, "layer k"]:
    """Blank what is rounding: values at or below σ₁ · k · eps of the dtype they were computed in.

    An exact zero or one of relative size 1e-16 would stretch a logarithmic axis over what means nothing.
    """
    threshold = sigma[:, :1] * sigma.shape[1] * np.finfo(dtype).eps
    return np.where(sigma > threshold, sigma, np.nan)


def _add_lines(
    axes: Axes, sigma: Float[np.ndarray, "layer k"], layers: Sequence[int], colours: np.ndarray, words: str
) -> None:
    index = np.arange(1, sigma.shape[1] + 1)
    marker = "o" if sigma.shape[1] <= 20 else ""
    for layer, values, colour in zip(layers, sigma, colours, strict=True):
        axes.plot(index, values, color=colour, linewidth=1.1, marker=marker, markersize=3, label=f"{words} {layer}")
    ticks = MaxNLocator(5, integer=True).tick_values(1, len(index))
    axes.xaxis.set_major_locator(FixedLocator([1, *(tick for tick in ticks if 1 < tick <= len(index))]))
    axes.grid(color="0.92", linewidth=0.6)


def add_layer_key(
    figure: Figure, panels: Sequence[Axes], layers: Sequence[int], colours: np.ndarray, words: str = "layer"
) -> None:
    """Say which colour is which layer: a legend of the lines with a label while there are few, else a colour bar."""
    if len(layers) <= LEGEND_LINES:
        labelled = [line for line in panels[0].get_lines() if not str(line.get_label()).startswith("_")]
        figure.legend(handles=labelled, loc="outside right center", frameon=False)
        return
    edges = np.arange(len(layers) + 1) - 0.5
    mappable = ScalarMappable(BoundaryNorm(edges, len(layers)), ListedColormap(colours))
    shown = range(0, len(layers), -(-len(layers) // 12))
    bar = figure.colorbar(mappable, ax=list(panels), label=words, ticks=list(shown), fraction=0.05)
    bar.ax.set_yticklabels([str(layers[position]) for position in shown])
    bar.ax.minorticks_off()
