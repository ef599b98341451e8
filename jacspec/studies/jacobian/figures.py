"""Figures of a run over samples, and of how far its Jacobians hold: the error of their answer by length of a change."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from jacspec.report.figures import box_plots, list_words, spectra_plots
from jacspec.report.labels import component_words, title_lines
from jacspec.runs import Run
from jacspec.studies.jacobian import ALONG
from jacspec.studies.jacobian.complex_plane import plane_figures
from jacspec.studies.study import Plot

NOT_BOXED = ("ring_inner", "ring_outer", "rotated_ring_share", "rotated_radius")
"""What stands beside other columns, and has no box plot of its own."""
LINEARITY, CURVATURE = "linearity", "curvature"
CAPTION = (
    "How far the answer of the Jacobian, f(x) + ε‖x‖Jv, is from the branch's own at x + ε‖x‖v, as a share of ‖ε‖x‖Jv‖, "
    "the worse of +v and −v: the median over samples and layers, the quartiles as a band, a line for each third of the "
    "layers. Where it crosses the dashed line, a tenth, is the linearity radius; the grey line is an error that grows "
    "as ε does, as all begin."
)
GROUPS = 3
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:g} %")
TENTH = 0.1
LEAST = 1e-4
"""Errors below are not drawn: an exactly linear branch would stretch the axis over rounding."""


def jacobian_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a run: box plots and spectra, how far its Jacobians hold, and eigenvalues."""
    figures = box_plots(run, [name for name in run.metric_names if name not in NOT_BOXED]) | spectra_plots(run)
    if CURVATURE in figures:
        figures[CURVATURE] = figures[CURVATURE]._replace(on_request=True)
    if measured_along(run):
        words = (
            f"Line plots of the error against the length of the change, a panel each for {list_words(run.components)}."
        )
        figures[LINEARITY] = Plot(functools.partial(draw_errors, run), CAPTION, lambda: words)
    return figures | plane_figures(run)


def measured_along(run: Run) -> list[str]:
    """List the directions along which it was measured how far Jacobians hold, by the ends of their columns' names."""
    return [ending for ending in ALONG if f"linearity_radius{ending}" in run.metric_names]


def draw_errors(run: Run) -> Figure:
    """Draw the error of the Jacobian's answer against the length of the change: rows directions, columns components."""
    dataset, endings = run.dataset, measured_along(run)
    components = dataset["component"].values.tolist()
    size = (2.4 + 3.4 * len(components), 1.0 + 3.0 * len(endings))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(endings), len(components), sharex=True, sharey=True, squeeze=False)
    for row, ending in zip(panels, endings, strict=True):
        for axes, component in zip(row, components, strict=True):
            table = dataset[f"linearity_error{ending}"].sel(component=component)
            epsilon, errors = worse_sign(table.values, table["epsilon"].values)
            groups = list(layer_groups(errors, dataset["layer"].values.tolist()))
            if not groups:
                _say_missing(axes, "no value in any sample:\nthe derivative here is zero,\nor rounding hides the error")
            for (words, own), colour in zip(groups, _colours(len(groups)), strict=True):
                low, middle, high = np.maximum(_quartiles(own), LEAST)
                axes.fill_between(epsilon, low, high, color=colour, alpha=0.18, linewidth=0)
                axes.plot(epsilon, middle, color=colour, marker="o", markersize=3, linewidth=1.3, label=words)
            axes.axhline(TENTH, color="0.25", linestyle="--", linewidth=0.9, label="a tenth")
            axes.plot(epsilon, epsilon, color="0.7", linewidth=0.8, label="proportional to ε", zorder=0)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(component_words(component), fontsize="medium", parse_math=False)
            axes.xaxis.set_major_locator(FixedLocator(epsilon.tolist()))
            axes.xaxis.set_major_formatter(_PERCENT)
            axes.yaxis.set_major_formatter(_PERCENT)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(color="0.92", linewidth=0.6)
        row[0].set_ylabel(f"relative error along ${ALONG[ending][0]}$", fontsize="medium")
    figure.supxlabel(r"length of the change, $\epsilon$, as a share of $\|x\|$", fontsize="medium")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right center", frameon=False, fontsize="small")
    return figure


def _say_missing(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.7, words, transform=axes.transAxes, ha="center", va="center", fontsize="small", color="0.45")


def worse_sign(
    errors: Float[np.ndarray, "*axes epsilon"], epsilon: Float[np.ndarray, " epsilon"]
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, "*axes step"]]:
    """Fold signed steps to their lengths, with the larger error of the two signs."""
    count = len(epsilon) // 2
    return epsilon[count:], np.fmax(errors[..., count:], errors[..., count - 1 :: -1])


def layer_groups(
    errors: Float[np.ndarray, "layer sample step"], layers: Sequence[int]
) -> Iterator[tuple[str, Float[np.ndarray, "value step"]]]:
    """Part the layers into thirds, or each for itself where they are few; those without values are left out."""
    held = [place for place, own in enumerate(errors) if np.isfinite(own).any()]
    for part in np.array_split(held, min(GROUPS, len(held))) if held else ():
        first, last = layers[part[0]], layers[part[-1]]
        words = f"layer {first}" if first == last else f"layers {first} to {last}"
        yield words, errors[part].reshape(-1, errors.shape[-1])


def _colours(count: int) -> np.ndarray:
    return np.asarray(matplotlib.colormaps["viridis"](np.linspace(0, 0.85, count)))


def _quartiles(values: Float[np.ndarray, "value step"]) -> Float[np.ndarray, "share step"]:
    known = values[np.isfinite(values).all(axis=1)]
    return np.quantile(known, [0.25, 0.5, 0.75], axis=0)
