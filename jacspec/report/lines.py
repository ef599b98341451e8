"""Figures of lines: the spectra themselves, and exponents with depth."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from jacspec.report.labels import EXPONENT, component_words, metric_label, title_lines
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
        _add_lines(axes, visible, layers, colours)
        if np.isfinite(visible).any():
            axes.set_yscale("log")
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(components) :]:
        axes.remove()
    figure.supxlabel("index $i$", fontsize="medium")
    figure.supylabel(r"singular value $\sigma_i$, median over samples", fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    add_layer_key(figure, panels[: len(components)], layers, colours)
    return figure


def draw_exponents(run: Run) -> Figure:
    """Draw Lyapunov exponents against the layer they reach to: medians over samples, with the quartiles as bands.

    Beside them, dashed, what the top singular values of the same products give: ln σᵢ / t.
    """
    dataset = run.dataset
    components, layers = dataset["component"].values.tolist(), dataset["layer"].values
    names = exponent_names(run)
    figure = Figure(figsize=(2.6 + 3.6 * len(components), 4.2), layout="constrained")
    panels = figure.subplots(1, len(components), sharey=True, squeeze=False).ravel().tolist()
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    for axes, component in zip(panels, components, strict=True):
        found = dataset.sel(component=component)
        for name, colour in zip(names, colours, strict=True):
            low, middle, high = _quantiles(found[name].values, [0.25, 0.5, 0.75])
            axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(layers, middle, color=colour, marker="o", markersize=3, linewidth=1.2, label=metric_label(name))
        sigma = found["singular_values"].values
        growth = np.log(np.where(sigma > 0, sigma, np.nan)) / (layers - layers[0] + 1)[:, None, None]
        for index, style in zip(range(sigma.shape[2]), ("--", ":"), strict=False):
            label = rf"$\ln\,\sigma_{index + 1}\,/\,t$"
            axes.plot(layers, _quantiles(growth[:, :, index], [0.5])[0], style, color="0.25", linewidth=1, label=label)
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(f"to the output of layer (from the input of layer {layers[0]})", fontsize="medium")
    figure.supylabel("growth a layer, nats", fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return figure


def _quantiles(values: Float[np.ndarray, "layer sample"], shares: Sequence[float]) -> Float[np.ndarray, "share layer"]:
    """Compute quantiles over the samples that have a value; NaN of a layer where none has."""
    found = np.full((len(shares), len(values)), np.nan)
    for layer, row in enumerate(values):
        if (known := row[np.isfinite(row)]).size:
            found[:, layer] = np.quantile(known, shares)
    return found


def exponent_names(run: Run) -> tuple[str, ...]:
    """List the Lyapunov exponents of a run."""
    return tuple(name for name in run.metric_names if EXPONENT.fullmatch(name))


def visible_spectrum(sigma: Float[np.ndarray, "layer k"], dtype: np.dtype) -> Float[np.ndarray, "layer k"]:
    """Blank what is rounding: values at or below σ₁ · k · eps of the dtype they were computed in.

    An exact zero or one of relative size 1e-16 would stretch a logarithmic axis over what means nothing.
    """
    threshold = sigma[:, :1] * sigma.shape[1] * np.finfo(dtype).eps
    return np.where(sigma > threshold, sigma, np.nan)


def _add_lines(axes: Axes, sigma: Float[np.ndarray, "layer k"], layers: Sequence[int], colours: np.ndarray) -> None:
    index = np.arange(1, sigma.shape[1] + 1)
    marker = "o" if sigma.shape[1] <= 20 else ""
    for layer, values, colour in zip(layers, sigma, colours, strict=True):
        axes.plot(index, values, color=colour, linewidth=1.1, marker=marker, markersize=3, label=f"layer {layer}")
    ticks = MaxNLocator(5, integer=True).tick_values(1, len(index))
    axes.xaxis.set_major_locator(FixedLocator([1, *(tick for tick in ticks if 1 < tick <= len(index))]))
    axes.grid(color="0.92", linewidth=0.6)


def add_layer_key(figure: Figure, panels: Sequence[Axes], layers: Sequence[int], colours: np.ndarray) -> None:
    """Say which colour is which layer: a legend while its lines can be told apart, else a colour bar."""
    if len(layers) <= LEGEND_LINES:
        figure.legend(handles=panels[0].get_lines(), loc="outside right center", frameon=False)
        return
    edges = np.arange(len(layers) + 1) - 0.5
    mappable = ScalarMappable(BoundaryNorm(edges, len(layers)), ListedColormap(colours))
    shown = range(0, len(layers), -(-len(layers) // 12))
    bar = figure.colorbar(mappable, ax=list(panels), label="layer", ticks=list(shown), fraction=0.05)
    bar.ax.set_yticklabels([str(layers[position]) for position in shown])
    bar.ax.minorticks_off()
