"""The figure of a `task=removal` run: how much worse a text is predicted without each group of singular values."""

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, PercentFormatter

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import corpus_name, metric_label, model_name
from jacspec.report.lines import add_layer_key
from jacspec.report.plotting import COLOURS, add_grid
from jacspec.runs import Run
from jacspec.studies.study import Plot

MARKERS = "osD^vPX"
LEGEND_LINES, LEGEND_COLUMNS = 20, 11
INSET = (0.46, 0.7, 0.51, 0.23)
"""Where the inset is, in parts of the axes: left, bottom, width, height."""

FREE = 0.62
"""The part of the axes' height that holds the curves, so that the inset hides none."""


CAPTION = (
    "Change of perplexity without each group of singular values, with standard errors; where the axis is logarithmic "
    "it is linear about zero. Inset: the spectra, the mean over the matrices of each target, the groups as bands."
)


BY_LAYER = (
    "Change of perplexity without each group of singular values of a layer, with standard errors; where the axis is "
    "logarithmic it is linear about zero. Beside it the spectra, the mean over the matrices of each layer, the groups "
    "as bands."
)


def removal_figures(run: Run) -> Mapping[str, Plot]:
    """Name the one figure of the run: a line a target, or of many layers a line a group."""
    if run.provenance["by"] == "layer" and len(_targets(run)) > len(COLOURS):
        return {"removal": Plot(lambda: draw_by_layer(run), BY_LAYER)}
    return {"removal": Plot(lambda: draw_removal(run), CAPTION, explored=True)}


def _targets(run: Run) -> list[str]:
    return [name for name in dict.fromkeys(run.metrics["target"]) if name != "none"]


def draw_by_layer(run: Run) -> Figure:
    """Draw the change of perplexity against the layer, a line a group removed, and beside it the spectra."""
    table = run.metrics[run.metrics["group"] > 0]
    targets, shares, name = _targets(run), run.provenance["shares"], run.metric_names[2]
    layers = [int(target.rpartition(" ")[2]) for target in targets]
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=(1.7, 1))
    for group, (colour, marker) in enumerate(_styles(len(shares)), 1):
        rows = table[table["group"] == group].set_index("target").reindex(targets)
        _add_changes(axes, layers, rows, name, colour, marker, _percent(shares[group - 1]))
    _scale_change(axes, table[name].to_numpy(float), table["delta_error"].to_numpy(float), free=1.0)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("layer")
    axes.set_ylabel(metric_label(run, name))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    spectra = run.dataset["mean_spectrum"].values
    for target, colour in zip(targets, colours, strict=True):
        _add_spectrum(beside, spectra[table.index[table["target"] == target][0]], colour)
    _finish_spectra(beside, shares, spectra)
    beside.set_ylabel(r"$\sigma_i$, mean over matrices")
    beside.set_xlabel("rank, % (0: the largest)")
    add_layer_key(figure, [beside], layers, colours)
    figure.suptitle(_title(run), fontsize="medium", parse_math=False)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        frameon=False,
        fontsize="small",
        title="without the singular values of ranks, % (0: the largest)",
        ncols=min(len(shares) + 1, LEGEND_COLUMNS),
    )
    return figure


def draw_removal(run: Run) -> Figure:
    """Draw the change of perplexity against the group removed, a line a target, with the spectra in an inset."""
    table = run.metrics[run.metrics["group"] > 0]
    targets = list(dict.fromkeys(table["target"]))
    shares = run.provenance["shares"]
    name = run.metric_names[2]
    figure = Figure(figsize=(min(max(6.4, 2.4 + 0.5 * len(shares)), 12.0), 5.2), layout="constrained")
    axes = figure.add_subplot()
    inset = axes.inset_axes(INSET)
    styles = _styles(len(targets))
    spectra = run.dataset["mean_spectrum"].values
    shift = np.linspace(-0.12, 0.12, len(targets)) if len(targets) > 1 else np.zeros(1)
    for target, (colour, marker), aside in zip(targets, styles, shift.tolist(), strict=True):
        rows = table[table["target"] == target]
        _add_changes(axes, rows["group"] + aside, rows, name, colour, marker, target)
        _add_spectrum(inset, spectra[rows.index[0]], colour)
    _scale_change(axes, table[name].to_numpy(float), table["delta_error"].to_numpy(float))
    _label_groups(axes, shares)
    axes.set_ylabel(metric_label(run, name))
    _finish_inset(inset, shares, spectra)
    axes.set_title(_title(run), fontsize="medium", parse_math=False)
    columns = -(-len(targets) // LEGEND_LINES)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small", title="removed from", ncols=columns)
    return figure


def _add_changes(axes: Axes, places: Any, rows: Any, name: str, colour: str, marker: str, label: str) -> None:
    """Draw the changes of some rows of the table, with their standard errors, as one line."""
    axes.errorbar(
        places,
        rows[name],
        yerr=rows["delta_error"].fillna(0),
        color=colour,
        marker=marker,
        markersize=4,
        linewidth=1.1,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def _title(run: Run) -> str:
    scored = run.provenance["scored"]
    count = f"{scored['chunks']} chunk{'s' * (scored['chunks'] != 1)}"
    return f"{model_name(run)}, {scored['tokens']} tokens of {corpus_name(run)} in {count}"


def _styles(count: int) -> list[tuple[str, str]]:
    """Give each line a colour and a marker: few are told apart by hue, many, as layers, by order."""
    if count <= len(COLOURS):
        return list(zip(COLOURS, MARKERS, strict=True))[:count]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))
    return [(matplotlib.colors.to_hex(colour), "o") for colour in colours]


def _scale_change(axes: Axes, change: np.ndarray, error: np.ndarray, *, free: float = FREE) -> None:
    """Scale the axis of the change: where it spans decades, logarithmic beyond what is typically within an error.

    Where no error is known it is so beyond the smallest change. The curves end at the part `free` of the axis; no
    tick is labelled in the room above them, which is the inset's, nor beside zero.
    """
    axes.axhline(0, color="0.35", linewidth=1, linestyle="--", zorder=1, label="nothing removed")
    add_grid(axes)
    sizes = np.abs(change[np.isfinite(change) & (change != 0)])
    if not sizes.size:
        return
    linear = 0.0
    if uses_log_axis(sizes):
        known = error[np.isfinite(error) & (error > 0)]
        least = max(float(np.median(known) if known.size else sizes.min()), 1e-9 * float(sizes.max()))
        linear = 10.0 ** math.ceil(math.log10(least))
        axes.set_yscale("symlog", linthresh=linear)
    reach = np.concatenate([change - np.nan_to_num(error), change + np.nan_to_num(error), np.zeros(1)])
    ends = np.array([reach[np.isfinite(reach)].min(), reach[np.isfinite(reach)].max()])
    scale = axes.transScale
    low, high = scale.transform(np.column_stack([np.ones(2), ends]))[:, 1]
    margin = 0.05 * (high - low)
    limits = np.array([low - margin, low - margin + (high - low + 2 * margin) / free])
    bottom, top = scale.inverted().transform(np.column_stack([np.ones(2), limits]))[:, 1].tolist()
    axes.set_ylim(bottom, top)
    ticks = (tick for tick in axes.get_yticks() if bottom <= tick <= 1.5 * ends[1])
    axes.set_yticks([tick for tick in ticks if tick == 0 or abs(tick) >= linear])
    axes.minorticks_off()


def _label_groups(axes: Axes, shares: list[list[float]]) -> None:
    count = len(shares)
    step = -(-count // 20)
    axes.xaxis.set_major_locator(FixedLocator(list(range(1, count + 1, step))))
    axes.set_xticklabels([_percent(shares[group - 1]) for group in range(1, count + 1, step)], fontsize="small")
    if count > 8:
        axes.tick_params(axis="x", rotation=45)
    axes.set_xlabel("singular values removed, % of the ranks (0: the largest)")


def _percent(share: list[float]) -> str:
    return f"{100 * share[0]:.3g}–{100 * share[1]:.3g}"


def _add_spectrum(axes: Axes, sigma: np.ndarray, colour: Any) -> None:
    """Draw singular values against their rank, as shares of how many there are."""
    sigma = sigma[np.isfinite(sigma)]
    axes.plot((np.arange(len(sigma)) + 0.5) / len(sigma), sigma, color=colour, linewidth=1)


def _finish_inset(inset: Axes, shares: list[list[float]], spectra: np.ndarray) -> None:
    _finish_spectra(inset, shares, spectra)
    # Its right end is the inset's, beyond which a longer title would leave the axes.
    inset.set_title(r"$\sigma_i$ by rank, mean over matrices", fontsize="x-small", pad=3)
    inset.tick_params(labelsize="x-small")


def _finish_spectra(axes: Axes, shares: list[list[float]], spectra: np.ndarray) -> None:
    """Scale axes of spectra and shade the groups."""
    if np.nanmax(spectra) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    for number, share in enumerate(shares):
        axes.axvspan(*share, color="0.97" if number % 2 else "0.9", linewidth=0, zorder=0)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
