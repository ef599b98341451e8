"""Figures of a run through depth: boxes of its metrics, exponents with depth, spectra."""

import functools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import box_plots, list_words, spectra_plots
from jacspec.report.labels import component_words, metric_label, title_lines
from jacspec.runs import Run
from jacspec.studies.depth import EXPONENT
from jacspec.studies.study import Plot

EXPONENTS = "lyapunov"
CAPTION = (
    "Growth of a small change a layer, from the first layer to the layer named: Lyapunov exponents (medians over "
    "samples, the quartiles as bands), and the same from the largest singular values of the products, dashed."
)


def depth_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a run: a box plot a metric, one of all exponents, the spectra."""
    figures = box_plots(run, [name for name in run.metric_names if not EXPONENT.fullmatch(name)])
    if exponent_names(run):
        words = f"Line plots of the Lyapunov exponents against depth, a panel each for {list_words(run.components)}."
        figures[EXPONENTS] = Plot(functools.partial(draw_exponents, run), CAPTION, lambda: words)
    return figures | spectra_plots(run)


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
            label = metric_label(run, name)
            low, middle, high = _quantiles(found[name].values, [0.25, 0.5, 0.75])
            axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(layers, middle, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
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


def exponent_names(run: Run) -> tuple[str, ...]:
    """List the Lyapunov exponents of a run."""
    return tuple(name for name in run.metric_names if (found := EXPONENT.fullmatch(name)) and found[1] == EXPONENTS)


def _quantiles(values: Float[np.ndarray, "layer sample"], shares: Sequence[float]) -> Float[np.ndarray, "share layer"]:
    """Compute quantiles over the samples that have a value; NaN of a layer where none has."""
    found = np.full((len(shares), len(values)), np.nan)
    for layer, row in enumerate(values):
        if (known := row[np.isfinite(row)]).size:
            found[:, layer] = np.quantile(known, shares)
    return found
