"""What is drawn and said of `task=compare`: metrics over relative depth, differences with their noise."""

import functools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import component_words, metric_label, metric_title, model_name, number_format
from jacspec.report.markup import Markup, fold, section
from jacspec.report.plotting import (
    AGAINST_ELEMENTS,
    add_grid,
    add_names,
    drawn_metrics,
    panels,
    scatter_elements,
    styles_of,
)
from jacspec.report.tables import list_runs, table
from jacspec.runs import Run
from jacspec.studies.compare import DIFFERENCES_FILE, HEADS_FILE, RUNS_FILE
from jacspec.studies.compare.quality_figures import caption, draw_quality, leading_metrics, quality_tables
from jacspec.studies.compare.side_by_side import side_by_side
from jacspec.studies.study import Plot

if TYPE_CHECKING:
    import pandas

MARKERS = "osD^vPX"
CHANCE_BAND = "0.85"
LONGEST_LABEL = 26
"""Letters of a line of the legend."""


def compare_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a comparison: two a metric where units tell noise."""
    figures: dict[str, Plot] = {}
    if "quality" in run.provenance and len(leading_metrics(run)):
        figures["quality"] = Plot(functools.partial(draw_quality, run), caption(run))
    differences = run.table(DIFFERENCES_FILE)
    for name in drawn_metrics(run):
        title = metric_title(run, name)
        words = f"{title}: means of each layer over relative depth, a line a group of runs, bands over seeds."
        figures[name] = Plot(functools.partial(draw_curves, run, name), words)
        if differences.loc[differences["metric"] == name, "low"].notna().any():
            words = (
                f"{title}: difference of each run from its reference by layer, with its interval of 95 %; grey, the "
                "noise floor. A logarithmic axis is linear about zero."
            )
            figures[f"difference_{name}"] = Plot(functools.partial(draw_differences, run, name), words)
    if (run.folder / HEADS_FILE).is_file():
        for role in dict.fromkeys(run.table(HEADS_FILE)["role"]):
            words = f"Spectral quantities of {role} against the standard deviation of its elements, a point a head."
            figures[f"elements_{role}"] = Plot(functools.partial(draw_elements, run, role), words)
    return figures | side_by_side(run)


def _styles(run: Run) -> dict[str, tuple[str, str]]:
    return styles_of(list(dict.fromkeys(run.table(RUNS_FILE)["group"].astype(str))))


def _panels(run: Run, components: Sequence[str], title: str) -> tuple[Figure, list[Axes]]:
    figure, axes = panels(len(components), f"{model_name(run)}: {title}", size=(3.7, 2.8))
    for panel, component in zip(axes, components, strict=True):
        panel.set_title(component_words(component), fontsize="medium", parse_math=False)
        add_grid(panel)
    return figure, axes


def draw_curves(run: Run, metric: str) -> Figure:
    """Draw the means of each layer over relative depth, a line a group; over its seeds their mean and spread."""
    table = run.metrics[run.metrics["metric"] == metric]
    groups = run.table(RUNS_FILE).set_index("run")["group"].astype(str)
    components = list(dict.fromkeys(table["component"]))
    spread = ", bands: spread of seeds (one standard deviation)" if groups.duplicated().any() else ""
    figure, axes = _panels(run, components, f"means by layer{spread}")
    for panel, component in zip(axes, components, strict=True):
        own = table[table["component"] == component]
        for place, (group, (colour, line)) in enumerate(_styles(run).items()):
            curve = _over_seeds(own[own["run"].map(groups) == group])
            marker = MARKERS[place % len(MARKERS)]
            panel.plot(
                *(curve.index, curve["mean"]),
                line,
                color=colour,
                marker=marker,
                markersize=3,
                linewidth=1.2,
                label=group,
            )
            spread = curve["spread"].fillna(0)
            if (spread > 0).any():
                band = curve["mean"] - spread, curve["mean"] + spread
                panel.fill_between(curve.index, *band, color=colour, alpha=0.2, linewidth=0)
        # One scale for all panels: side by side they are compared.
        _scale(panel, table["mean"].to_numpy(float))
    figure.supxlabel("relative depth (0: first layer, 1: last)", fontsize="medium")
    figure.supylabel(metric_label(run, metric), fontsize="medium")
    _add_legend(figure, axes[0])
    return figure


def _over_seeds(rows: "pandas.DataFrame") -> "pandas.DataFrame":
    """Average the runs of one group at each depth; `spread` is their standard deviation, missing of a single run."""
    return rows.groupby("depth")["mean"].agg(mean="mean", spread="std")


def _scale(panel: Axes, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    if finite.size and finite.min() > 0 and uses_log_axis(finite):
        panel.set_yscale("log")


def draw_differences(run: Run, metric: str) -> Figure:
    """Draw each run's difference from its reference by layer, with the interval of 95 % and the noise floor in grey."""
    table = run.table(DIFFERENCES_FILE)
    table = table[table["metric"] == metric]
    named = run.table(RUNS_FILE).set_index("run")
    components, numbers = (list(dict.fromkeys(table[name])) for name in ("component", "run"))
    figure, axes = _panels(run, components, "differences of means (grey: noise floor)")
    styles = _styles(run)
    aside = np.linspace(-0.25, 0.25, len(numbers)) if len(numbers) > 1 else np.zeros(1)
    for panel, component in zip(axes, components, strict=True):
        own = table[table["component"] == component]
        floor = own.groupby("layer")["floor"].max()
        panel.bar(floor.index, 2 * floor, bottom=-floor, width=0.9, color=CHANCE_BAND, linewidth=0)
        panel.use_sticky_edges = False  # a bar's end would be the axis's, and the floor look cut off
        sizes, within = own["difference"].abs().max(), float(floor.median())
        if within > 0 and sizes > 100 * within:
            panel.set_yscale("symlog", linthresh=10.0 ** math.ceil(math.log10(within)))
        panel.axhline(0, color="0.5", linewidth=0.8)
        for place, (number, shift) in enumerate(zip(numbers, aside.tolist(), strict=True)):
            rows = own[own["run"] == number]
            colour, _ = styles[str(named["group"][number])]
            reach = [
                (rows["difference"] - rows["low"]).clip(lower=0),
                (rows["high"] - rows["difference"]).clip(lower=0),
            ]
            panel.errorbar(
                *(rows["layer"] + shift, rows["difference"]),
                yerr=reach,
                fmt=MARKERS[place % len(MARKERS)],
                color=colour,
                markersize=3,
                elinewidth=0.9,
                capsize=1.5,
                label=f"{named['label'][number]} − {_short(named['label'], named['against'][number])}",
            )
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    figure.supxlabel("layer", fontsize="medium")
    figure.supylabel(f"difference of {metric_label(run, metric)}", fontsize="medium")
    _add_legend(figure, axes[0])
    return figure


def _short(labels: "pandas.Series[str]", number: Any) -> str:
    """Name a run by its label where that fits a line, else by its number."""
    return str(labels[number]) if len(str(labels[number])) <= LONGEST_LABEL else f"run {number}"


def draw_elements(run: Run, role: str) -> Figure:
    """Draw heads of all runs: spectral quantities against the standard deviation of the product's elements."""
    table = run.table(HEADS_FILE)
    named = run.table(RUNS_FILE).set_index("run")["group"].astype(str)
    figure, axes = panels(
        len(AGAINST_ELEMENTS), f"{role}: spectra against elements, heads of all runs", size=(4.0, 2.9)
    )
    groups = table["run"].map(named)
    for group, (colour, _) in _styles(run).items():
        scatter_elements(run, axes, table[(table["role"] == role) & (groups == group)], colour, group)
    figure.supxlabel("standard deviation of the elements", fontsize="medium")
    _add_legend(figure, axes[0])
    return figure


def _add_legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(textwrap.fill(label, LONGEST_LABEL))
    add_names(figure, handles)


def compare_sections(run: Run) -> Iterator[Markup]:
    """List the runs, what goes with their models' quality where it is known, and the means over layers of each."""
    rows = run.metrics[run.metrics["n"] > 0]
    means = rows.groupby(["metric", "component", "run"], sort=False)["mean"].mean().unstack("run")

    def lines() -> Iterator[Sequence[Any]]:
        for (metric, component), values in means.iterrows():
            write = number_format(values.tolist())
            yield (f"{metric_title(run, metric)}, {component_words(component)}", *(write(value) for value in values))

    labels = run.table(RUNS_FILE).set_index("run")["label"]
    head = ("mean over layers", *(_short(labels, number) for number in means.columns))
    yield list_runs(run)
    if "quality" in run.provenance:
        yield quality_tables(run)
    yield section("Numbers", fold(table(head, lines()), len(means), "rows"))
