"""Figures of a run of modes: shared or specific, from layer to layer, and where the input lies."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from jacspec.report.figures import box_plots, spectra_plots
from jacspec.report.labels import component_words, title_lines
from jacspec.runs import Run
from jacspec.studies.modes import BETWEEN_FILE, CHECK_FILE, INPUT_FILE, MODES_FILE, SHARED_FILE
from jacspec.studies.modes.check_page import CHECK_CAPTION, draw_check
from jacspec.studies.study import Plot

READ, WRITE, THIRD, FOURTH = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
RANDOM, STREAM = ":", "--"
GREY, MISSING = "0.45", "0.85"
SURE = 1.96
LABELLED = 16
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")

CAPTIONS = {
    "shared": "Shared or specific? Above: |cos| of the leading read and write vectors between samples, where they "
    "stand alone. Below: what share of a sample's leading modes the mean subspace of the other half of the samples "
    "holds. Means, bands of 95 %; grey, directions with the covariance of the stream (dashed) and uniformly random "
    "ones (dotted). Lines end where a layer was not measured; a dash is chance at a single one.",
    "between": "From each component to what follows, at one sample. Above: how alike the subspaces are that it writes "
    "and that the next component reads, and those that it reads, or writes, and its own of the next layer; dotted "
    "(a dash at a single layer), the same with the second taken from another sample: what all samples share. Below: "
    "m_K of consecutive Jacobians, 0 where the modes of the next layer are those of this one, and about 1 where they "
    "have nothing to do with each other; of samples in which all modes of the next layer stand alone.",
    "input": "What share of the stream, of another sample's and of the mean over samples lies in the subspace that is "
    "read; dotted, what uniformly random directions have. A norm on a component's input does not see the stream's own "
    "direction.",
    "sources": "What each component reads of what earlier ones wrote at the same sample: the share of a write that "
    "lies in the subspace of the leading reads, over that of random directions. Grey: nothing to compare, as what is "
    "written later.",
}


def modes_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a run: what is shared, layer to layer, the input, a box plot a column, the spectra."""
    draws: Mapping[str, Callable[[Run], Figure]] = {
        "shared": draw_shared,
        "between": draw_between,
        "input": draw_input,
        "sources": draw_sources,
    }
    plots = {name: Plot(functools.partial(draw, run), CAPTIONS[name]) for name, draw in draws.items()}
    if (run.folder / CHECK_FILE).is_file():
        plots["check"] = Plot(functools.partial(draw_check, run), CHECK_CAPTION)
    return plots | box_plots(run, run.metric_names) | spectra_plots(run)


def draw_shared(run: Run) -> Figure:
    """Draw by layer how alike leading directions are between samples, and what the mean subspace holds."""
    modes, shared = run.table(MODES_FILE), run.table(SHARED_FILE)
    figure, grid = _grid(run, ("|cos| of mode 1 between samples", "share held by the mean subspace"))
    for column, component in enumerate(run.components):
        first = modes[(modes["component"] == component) & (modes["mode"] == 1)].set_index("layer")
        for name, colour in (("read", READ), ("write", WRITE)):
            _line(grid[0][column], first[f"{name}_cos"], first[f"{name}_error"], colour, f"{name}s")
        _levels(grid[0][column], first["random"], first["stream"])
        own = shared[shared["component"] == component]
        for name, colour in (("read", READ), ("write", WRITE)):
            rows = own[own["side"] == name].set_index("layer")
            _line(grid[1][column], rows["held"], rows["held_error"], colour, f"{name}s")
        rows = own[own["side"] == "read"].set_index("layer")
        _levels(grid[1][column], rows["held_random"], rows["held_stream"])
        for axes in (grid[0][column], grid[1][column]):
            axes.set_ylim(0, 1.02)
    _legend(figure, grid[0][0])
    return figure


def draw_between(run: Run) -> Figure:
    """Draw by layer how alike the subspaces of neighbours are, and m_K of consecutive Jacobians."""
    table = run.table(BETWEEN_FILE)
    figure, grid = _grid(run, ("likeness of subspaces", "m_K with the next layer"))
    styles = {
        "write-read": (READ, "write with the next component's read"),
        "read-read": (THIRD, "read with the next layer's read"),
        "write-write": (WRITE, "write with the next layer's write"),
    }
    for column, component in enumerate(run.components):
        own = table[table["component"] == component]
        above, below = grid[0][column], grid[1][column]
        for what, (colour, label) in styles.items():
            rows = own[own["what"] == what]
            if what == "write-read":  # the one that comes next
                rows = rows.drop_duplicates("layer")
            rows = rows.set_index("layer")
            if rows.empty:
                continue
            _line(above, rows["mean"], rows["standard_error"], colour, label)
            _level(above, rows["other"], RANDOM, colour)
        above.plot([], [], RANDOM, color="black", linewidth=1.1, label="the same with another sample's")
        rows = own[own["what"] == "m_K"].set_index("layer")
        if rows["mean"].notna().any():
            _line(below, rows["mean"], rows["standard_error"], "black", "m_K")
        if not above.lines[:-1]:
            _say(above, "no component that is measured\nfollows in this layer or the next")
        if not below.lines:
            of_two = "in no sample do all modes\nof the next layer stand alone"
            _say(below, of_two if len(rows) else "no two layers that are measured\nfollow each other")
        below.axhline(1, color=GREY, linewidth=1.1, linestyle=RANDOM)
    for axes in (grid[0][0], grid[1][0]):  # what was drawn in any panel sets the limits of all
        axes.set_ylim(bottom=0)
    grid[1][0].set_ylim(top=max(1.1, grid[1][0].get_ylim()[1]))
    layers = run.metrics["layer"]
    margin = max(0.05 * (layers.max() - layers.min()), 0.2)
    grid[0][0].set_xlim(layers.min() - margin, layers.max() + margin)
    _legend(figure, grid[0][0])
    return figure


def draw_input(run: Run) -> Figure:
    """Draw by layer what share of the stream, of its mean and of another sample's the leading reads hold."""
    table = run.table(INPUT_FILE)
    figure, grid = _grid(run, ("share in the subspace of the reads",))
    for column, component in enumerate(run.components):
        axes, own = grid[0][column], table[table["component"] == component]
        for source, colour in (("stream", READ), ("mean stream", WRITE)):
            rows = own[own["source"] == source].set_index("layer")
            _line(axes, rows["mean"], rows["standard_error"], colour, source)
            if source == "stream":
                _level(axes, rows["other"], STREAM, colour, "another sample's stream")
        _level(axes, rows["random"], RANDOM, GREY, "random directions")
    grid[0][0].set_ylim(bottom=0)
    _legend(figure, grid[0][0])
    return figure


def draw_sources(run: Run) -> Figure:
    """Draw how much of each earlier write each component reads, as a heat map in units of chance."""
    table = run.table(INPUT_FILE)
    table = table[~table["source"].isin(("stream", "mean stream"))]
    places = list(dict.fromkeys(zip(run.metrics["layer"], run.metrics["component"], strict=True)))
    index = {place: number for number, place in enumerate(places)}
    ratio = np.full((len(places), len(places)), np.nan)
    for row in table.to_dict("records"):
        source, reader = (int(row["source_layer"]), row["source"]), (row["layer"], row["component"])
        ratio[index[source], index[reader]] = row["mean"] / row["random"] if row["random"] else np.nan
    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(MISSING)
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    if known.size:
        most = max(float(known.max()), 1.1)
        # A share of zero is the darkest blue, not missing.
        image = axes.imshow(
            np.maximum(ratio, 1 / most), cmap="RdBu_r", norm=LogNorm(1 / most, most), interpolation="nearest"
        )
        bar = figure.colorbar(image, label="share read, over that of random directions (white: as much)")
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        bar.ax.yaxis.set_major_formatter(PLAIN)
        bar.ax.yaxis.set_minor_locator(NullLocator())
    _label_places(axes, places)
    axes.set_xlabel("reads")
    axes.set_ylabel("what was written by")
    axes.set_title(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    return figure


def _label_places(axes: Axes, places: Sequence[tuple[int, str]]) -> None:
    step = max(-(-len(places) // (2 * LABELLED)), 1)
    # With as many components a layer as the step, every label would be of one component.
    step += step > 1 and step % 2 == 0
    names = [f"{layer} {component_words(component)}" for layer, component in places][::step]
    axes.set_xticks(range(0, len(places), step), names, rotation=90, fontsize="x-small", parse_math=False)
    axes.set_yticks(range(0, len(places), step), names, fontsize="x-small", parse_math=False)


def _grid(run: Run, rows: Sequence[str]) -> tuple[Figure, list[list[Axes]]]:
    """Make a panel a row and component, layers across."""
    components = run.components
    figure = Figure(figsize=(max(1 + 4 * len(components), 6), 0.9 + 2.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(components), squeeze=False, sharex=True, sharey="row").tolist()
    for name, line in zip(rows, grid, strict=True):
        line[0].set_ylabel(name)
        for axes in line:
            axes.grid(color="0.92", linewidth=0.6)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    for axes, component in zip(grid[0], components, strict=True):
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    return figure, grid


def _line(axes: Axes, mean: "pandas.Series[Any]", error: "pandas.Series[Any]", colour: str, label: str) -> None:
    mean, reach = _broken(mean), SURE * _broken(error).fillna(0.0)
    low, high = mean - reach, mean + reach
    axes.fill_between(mean.index, low, high, color=colour, alpha=0.2, linewidth=0)
    single = _single(mean)  # between layers without values a band has no width
    axes.vlines(mean.index[single], low[single], high[single], color=colour, alpha=0.35, linewidth=3)
    axes.plot(mean, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)


def _levels(axes: Axes, random: "pandas.Series[Any]", stream: "pandas.Series[Any]") -> None:
    _level(axes, stream, STREAM, GREY, "directions of the stream's covariance")
    _level(axes, random, RANDOM, GREY, "uniformly random directions")


def _level(axes: Axes, values: "pandas.Series[Any]", style: str, colour: str, label: str | None = None) -> None:
    """Draw a level of chance by layer; a dash at a layer whose neighbours have none."""
    values = _broken(values)
    axes.plot(values, style, color=colour, linewidth=1.2, label=label)
    axes.plot(values[_single(values)], linestyle="none", marker="_", markersize=7, color=colour)


def _broken(values: "pandas.Series[Any]") -> "pandas.Series[Any]":
    """Put NaN at the layers between that were not measured, so that no line crosses them."""
    if values.empty:
        return values
    return values.reindex(range(int(values.index.min()), int(values.index.max()) + 1)).astype(float)


def _single(values: "pandas.Series[Any]") -> np.ndarray:
    """Say which layers have a value where those before and behind have none."""
    there = np.concatenate([[False], values.notna().to_numpy(), [False]])
    return there[1:-1] & ~there[:-2] & ~there[2:]


def _say(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize="small", color=GREY)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
