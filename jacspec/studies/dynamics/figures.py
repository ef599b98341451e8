"""What is drawn and said of `task=dynamics`: metrics by training step, when each changes, what comes first."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import component_words, metric_label, metric_title, model_name
from jacspec.report.lines import add_layer_key
from jacspec.report.markup import Markup, element, fold, section, together
from jacspec.report.overlaps import EDGES, WORDS, Spectra, add_spectra, frame_overlap, label_overlap
from jacspec.report.plotting import drawn_metrics, panels
from jacspec.report.tables import list_runs
from jacspec.runs import Run
from jacspec.studies.dynamics import ONSETS_FILE
from jacspec.studies.dynamics.findings import changes_by_step
from jacspec.studies.study import Plot

if TYPE_CHECKING:
    import pandas
    import xarray

ONSETS, OVERLAP = "onsets", "overlap_by_step"
LISTED_STEPS = 12
WIDEST = 8.0
"""Inches of all columns of a map together; a page shows what is wider with letters that are too small."""


CAPTIONS = {
    "onsets": "The step by which half of the change from first to last step is there for good, by metric and layer; "
    "white where the change is too small or within noise.",
    "overlap_by_step": "O_k = max_j |v_k · f_j| by index, the mean over layers, a line a step; grey, what random "
    f"directions have (mean and 99 %). {WORDS} The lines are of the last step.",
}


def dynamics_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a run: onsets, overlaps where there are any, and each metric that moves by step."""
    figures: dict[str, Plot] = {}
    if (run.table(ONSETS_FILE)["appears"] == 1).any():
        figures[ONSETS] = Plot(lambda: draw_onsets(run), CAPTIONS[ONSETS])
    if "overlap" in run.dataset:
        figures[OVERLAP] = Plot(lambda: draw_overlap(run), CAPTIONS[OVERLAP])
    # What no revision changes, as the number of tokens, is no curve.
    moving = set(run.table(ONSETS_FILE)["metric"])
    for name in (name for name in drawn_metrics(run) if name in moving):
        words = f"{metric_title(run, name)} against the training step, a line a layer (dark: first)."
        figures[name] = Plot(functools.partial(draw_steps, run, name), words)
    return figures


def draw_steps(run: Run, metric: str) -> Figure:
    """Draw the mean of each layer against the training step, a line a layer, a panel a component."""
    table = run.metrics[(run.metrics["metric"] == metric) & (run.metrics["n"] > 0)]
    components, layers = _components(run, table), sorted(set(table["layer"]))
    figure, axes = panels(len(components), f"{model_name(run)}: layers through training", size=(3.7, 2.8))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    for panel, component in zip(axes, components, strict=True):
        own = table[table["component"] == component]
        for layer, colour in zip(layers, colours, strict=True):
            rows = own[own["layer"] == layer].sort_values("step")
            panel.plot(
                *(rows["step"], rows["mean"]), "o-", color=colour, markersize=3, linewidth=1.1, label=f"layer {layer}"
            )
        values = own["mean"].to_numpy(float)
        if values.min() > 0 and uses_log_axis(values):
            panel.set_yscale("log")
        scale_steps(panel, run.provenance["steps"])
        panel.set_title(component_words(component), fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("training step", fontsize="medium")
    figure.supylabel(metric_label(run, metric), fontsize="medium")
    add_layer_key(figure, axes, layers, colours)
    return figure


def _components(run: Run, table: "pandas.DataFrame") -> list[str]:
    """List the components that a table has, in the order of the run, whatever is missing."""
    there = set(table["component"])
    return [name for name in dict.fromkeys(run.metrics["component"]) if name in there]


def scale_steps(panel: Axes, steps: Sequence[int]) -> None:
    """Scale the axis of steps: where they span decades, logarithmic from the first above zero on."""
    positive = [step for step in steps if step > 0]
    if positive[-1] > 10 * positive[0]:
        panel.set_xscale("symlog", linthresh=positive[0])
        # Below zero there are no steps, and the scale would give them as much room as those above.
        panel.set_xlim(min(steps) - 0.3 * positive[0] * (min(steps) == 0), 1.5 * steps[-1])
    shown = steps[:: -(-len(steps) // LISTED_STEPS)]
    panel.xaxis.set_major_locator(FixedLocator(list(shown)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticklabels([str(step) for step in shown], fontsize="small", rotation=45)


def draw_onsets(run: Run) -> Figure:
    """Draw the onset of each metric in each layer as a colour, a panel a component."""
    table = run.table(ONSETS_FILE)
    steps = run.provenance["steps"][1:]  # nothing can have changed by the first
    metrics = [name for name in run.metric_names if name in set(table["metric"])]
    components, layers = _components(run, table), sorted(set(table["layer"]))
    width = max(0.22 * len(layers), 1.2)
    columns = min(len(components), max(int(WIDEST / width), 1))
    rows = -(-len(components) // columns)
    size = (3.2 + width * columns, 1.4 + max(0.19 * len(metrics), 1.0) * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    colours = ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0, 0.95, len(steps))))
    norm = BoundaryNorm(np.arange(len(steps) + 1) - 0.5, len(steps))
    for panel, component in zip(axes, components, strict=False):
        own = table[(table["component"] == component) & (table["appears"] == 1)]
        cells = np.full((len(metrics), len(layers)), np.nan)
        for metric, layer, onset in zip(own["metric"], own["layer"], own["onset"], strict=True):
            cells[metrics.index(metric), layers.index(layer)] = steps.index(onset)
        picture = panel.imshow(cells, cmap=colours, norm=norm, aspect="auto", interpolation="nearest")
        panel.set_title(component_words(component), fontsize="medium", parse_math=False)
        panel.set_yticks(
            range(len(metrics)), [metric_title(run, name) for name in metrics], fontsize="x-small", parse_math=False
        )
        shown = range(0, len(layers), -(-len(layers) // 12))
        panel.set_xticks(list(shown), [str(layers[place]) for place in shown], fontsize="small")
    for panel in axes[len(components) :]:
        panel.remove()
    figure.supxlabel("layer", fontsize="medium")
    figure.suptitle(
        f"{model_name(run)}: step by which half of the change is there", fontsize="medium", parse_math=False
    )
    bar = figure.colorbar(picture, ax=axes[: len(components)], label="training step", ticks=list(range(len(steps))))
    bar.ax.set_yticklabels([str(step) for step in steps])
    bar.ax.minorticks_off()
    return figure


def draw_overlap(run: Run) -> Figure:
    """Draw O_k against the index, a line a step (the mean over layers), with chance in grey and the spectra inset."""
    dataset, table = run.dataset, run.metrics
    roles, steps = list(dict.fromkeys(dataset["component"].values.tolist())), run.provenance["steps"]
    title = f"{model_name(run)}: overlap with the principal directions of the input, mean over layers"
    figure, axes = panels(len(roles), title, size=(3.6, 2.9))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(steps)))
    for panel, role in zip(axes, roles, strict=True):
        own = dataset.isel(place=np.flatnonzero(dataset["component"].values == role))
        mine = table[table["component"] == role]
        overlaps = np.stack([_mean_over_layers(rows) for rows in own["overlap"].values])
        spectra = [_spectra_at(own, mine, step) for step in steps]
        levels = mine[mine["step"] == steps[-1]].groupby("metric")["mean"].mean().to_dict()
        inset = frame_overlap(panel, role, overlaps, levels, spectra[-1])
        for step, colour, overlap, each in zip(steps, colours, overlaps, spectra, strict=True):
            panel.plot(np.arange(1, overlap.size + 1), overlap, color=colour, linewidth=1, label=f"step {step}")
            add_spectra(inset, each, colour)
        panel.grid(color="0.92", linewidth=0.6)
    label_overlap(figure, " of the last step")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize="small")
    return figure


def _spectra_at(places: "xarray.Dataset", table: "pandas.DataFrame", step: int) -> Spectra:
    """Collect the singular values of a role at a step, a row a layer, with the edges that the table has of them."""
    sigma = places["singular_values"].sel(step=step).values.astype(np.float64)
    rows = table[table["step"] == step].pivot(index="layer", columns="metric", values="mean")
    rows = rows.reindex(index=places["layer"].values, columns=[*EDGES])  # none, of runs from before these columns
    return Spectra(sigma[:, np.isfinite(sigma).any(axis=0)], *rows.to_numpy(np.float64).T)


def _mean_over_layers(rows: np.ndarray) -> np.ndarray:
    rows = rows[:, np.isfinite(rows).any(axis=0)].astype(np.float64)
    return np.nanmean(rows, axis=0)


def dynamics_sections(run: Run) -> Iterator[Markup]:
    """List what changes by which step, and the runs."""
    steps = [element("li", f"By step {step}: {changes}.") for step, changes in changes_by_step(run)]
    if steps:
        yield section("What changes when", fold(element("ul", together(steps, "\n")), len(steps), "steps"))
    yield list_runs(run)
