"""Figures of a run through depth: boxes of its metrics, exponents with depth, spectra."""

import functools
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import PlainLogFormatter, box_plots, list_words, spectra_plots, uses_log_axis
from jacspec.report.labels import component_words, metric_label, title_lines
from jacspec.runs import Run
from jacspec.studies.depth import EXPONENT, PARTS
from jacspec.studies.study import Plot

EXPONENTS, SPLIT, NORMAL = "lyapunov", "lyapunov_parts", "normality"
CAPTION = (
    "Growth of a small change a layer, from the first layer to the layer named: Lyapunov exponents (medians over "
    "samples, the quartiles as bands), and the same from the largest singular values of the products, dashed."
)
SPLIT_CAPTION = (
    "What each layer adds to the sum whose mean is the first Lyapunov exponent, and what of that attention and the MLP "
    "add (medians over samples, the quartiles as bands). Above 0 a random small change grows there."
)
NORMAL_CAPTION = (
    "Growth a layer of the small change that grows most, of the blocks as they are and of their normal parts, which "
    "have the same eigenvalues: medians over the samples of which the product is formed, the quartiles as bands."
)
PART_COLOURS = {"attn": "#0072B2", "cross": "#009E73", "mlp": "#E69F00"}
GROWTHS = {"finite_time_1": ("the blocks", "#0072B2"), "normal_finite_time_1": ("their normal parts", "#D55E00")}


def depth_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a run: a box plot a metric, exponents and their parts, growth if normal, the spectra."""
    lines = {"normal_finite_time_1", "nonnormal_growth"}
    figures = box_plots(run, [name for name in run.metric_names if name not in lines and not EXPONENT.fullmatch(name)])
    if exponent_names(run):
        words = f"Line plots of the Lyapunov exponents against depth, a panel each for {list_words(run.components)}."
        figures[EXPONENTS] = Plot(functools.partial(draw_exponents, run), CAPTION, lambda: words)
    if split_parts(run):
        figures[SPLIT] = Plot(functools.partial(draw_parts, run), SPLIT_CAPTION)
    if lines <= {*run.metric_names}:
        figures[NORMAL] = Plot(functools.partial(draw_normality, run), NORMAL_CAPTION)
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
        _scale_growth(axes)
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(f"to the output of layer (from the input of layer {layers[0]})", fontsize="medium")
    figure.supylabel("growth a layer, nats", fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return figure


def exponent_names(run: Run) -> tuple[str, ...]:
    """List the Lyapunov exponents of a run, whole ones."""
    named = ((name, EXPONENT.fullmatch(name)) for name in run.metric_names)
    return tuple(name for name, found in named if found and found[1] == EXPONENTS and found[2] is None)


def split_parts(run: Run) -> list[str]:
    """List the sublayers that a run splits exponents among."""
    return [part for part in PARTS if f"{EXPONENTS}_{part}_1" in run.metric_names]


def draw_parts(run: Run) -> Figure:
    """Draw what each layer, and each sublayer of it, adds to the first Lyapunov exponent's sum."""
    whole = {"": ("the layer", "0.25"), **{f"{part}_": (PARTS[part], PART_COLOURS[part]) for part in split_parts(run)}}
    lines = {f"{EXPONENTS}_{part}1": said for part, said in whole.items()}
    return _draw_lines(run, lines, "layer", "growth in the layer, nats", each=True)


def draw_normality(run: Run) -> Figure:
    """Draw the growth of the blocks with depth beside that of their normal parts, of the same samples."""
    first, like = run.dataset["layer"].values[0], "normal_finite_time_1"
    over = f"to the output of layer (from the input of layer {first})"
    count = int(np.isfinite(run.dataset[like].values).any(axis=(0, 1)).sum())
    return _draw_lines(run, GROWTHS, over, f"growth a layer, nats, of {count} samples", like=like)


def _draw_lines(
    run: Run,
    lines: Mapping[str, tuple[str, str]],
    over: str,
    label: str,
    *,
    each: bool = False,
    like: str | None = None,
) -> Figure:
    """Draw medians of columns against the layer, the quartiles as bands, a panel a component.

    **Arguments:** `lines`, words and colours by column; `each`, whether what each layer adds is drawn, not the mean of
    the layers so far; `like`, a column whose samples alone count.
    """
    dataset = run.dataset
    components, layers = dataset["component"].values.tolist(), dataset["layer"].values
    count = (layers - layers[0] + 1)[:, None]
    figure = Figure(figsize=(2.8 + 3.6 * len(components), 4.0), layout="constrained")
    panels = figure.subplots(1, len(components), sharey=True, squeeze=False).ravel().tolist()
    for axes, component in zip(panels, components, strict=True):
        found = dataset.sel(component=component)
        for name, (words, colour) in lines.items():
            values = found[name].values
            if like is not None:
                values = np.where(np.isfinite(found[like].values), values, np.nan)
            if each:
                values = np.diff(values * count, axis=0, prepend=np.zeros((1, values.shape[1])))
            low, middle, high = _quantiles(values, [0.25, 0.5, 0.75])
            axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(layers, middle, color=colour, marker="o", markersize=3, linewidth=1.2, label=words)
        _scale_growth(axes)
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(over, fontsize="medium")
    figure.supylabel(label, fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    handles, words_ = panels[-1].get_legend_handles_labels()
    figure.legend(handles, words_, loc="outside right center", frameon=False, fontsize="small")
    return figure


def _scale_growth(axes: Axes) -> None:
    """Choose a logarithmic axis for growths that span a decade, and mark no growth on any other."""
    drawn = np.concatenate([np.ravel(line.get_ydata()) for line in axes.get_lines()])
    if np.nanmin(drawn) > 0 and uses_log_axis(drawn):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(PlainLogFormatter())
        axes.yaxis.set_minor_formatter(PlainLogFormatter())
    else:
        axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)


def _quantiles(values: Float[np.ndarray, "layer sample"], shares: Sequence[float]) -> Float[np.ndarray, "share layer"]:
    """Compute quantiles over the samples that have a value; NaN of a layer where none has."""
    found = np.full((len(shares), len(values)), np.nan)
    for layer, row in enumerate(values):
        if (known := row[np.isfinite(row)]).size:
            found[:, layer] = np.quantile(known, shares)
    return found
