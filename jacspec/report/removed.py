"""Figures and pages of experiments that remove groups of singular values before or after training."""

import functools
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.labels import metric_label, model_name
from jacspec.runs import Run
from jacspec.studies.study import Plot

if TYPE_CHECKING:
    import pandas

ORDERS: Mapping[str, tuple[str, str, str, str]] = {
    "before": ("removed before training", "#0072B2", "o", "-"),
    "after": ("removed after training", "#D55E00", "s", "--"),
    "both": ("removed after training, from $f_0$ too", "#009E73", "^", ":"),
}
"""By order: words, colour (Okabe & Ito), marker and line, so that they also differ in grey."""
WHOLE = ("nothing removed", "0.25")
CHANCE = ("chance", "0.55")
SCALE = r"output scale $\alpha$ (small: rich, large: lazy)"
CUT = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"), ("#CC79A7", "D", "-."))


def finetune_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a `task=finetune` run."""
    return {
        "accuracy": Plot(
            functools.partial(draw_groups, run, "accuracy"),
            "Accuracy on the examples held out against the group removed, before fine-tuning and after it; bars and "
            "band: one standard deviation over seeds.",
        ),
        "label_loss": Plot(
            functools.partial(draw_groups, run, "label_loss"),
            "Mean cross-entropy of the labels of the examples held out, in nats, in the same way.",
        ),
    }


def lazy_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a `task=lazy` run."""
    return {
        "test_accuracy": Plot(
            functools.partial(draw_scales, run, "test_accuracy"),
            "Accuracy on test points against the output scale α, a panel a group removed.",
        ),
        "test_loss": Plot(
            functools.partial(draw_scales, run, "test_loss"),
            "Mean of (output − target)²/2 over test points, in the same way.",
        ),
        "movement": Plot(
            functools.partial(draw_movement, run),
            "How far training moved the hidden weights, relative to their initial norm; dotted, what falls as 1/α "
            "from the last point.",
        ),
    }


def draw_groups(run: Run, name: str) -> Figure:
    """Draw a column against the group that was removed: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    table = run.metrics
    groups = sorted({*table["group"]} - {0})
    _add_level(axes, table[table["order"] == "none"][name], groups)
    if name == "accuracy":
        _add_chance(axes, run)
    for shift, order in ((-0.06, "before"), (0.06, "after")):
        _add_line(axes, table[table["order"] == order], "group", name, order, shift=shift)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlim(groups[0] - 0.5, groups[-1] + 0.5)
    axes.set_xlabel(f"group of singular values removed (1: largest, {groups[-1]}: smallest)")
    axes.set_ylabel(metric_label(run, name) + (", examples held out" if name == "accuracy" else ""))
    _finish(figure, run, axes)
    return figure


def draw_scales(run: Run, name: str) -> Figure:
    """Draw a column against the output scale α: a panel a group removed, a line an order."""
    table = run.metrics
    groups = sorted({*table["group"]} - {0})
    figure = Figure(figsize=(1.4 + 3.6 * max(len(groups), 1), 4.4), layout="constrained")
    panels = figure.subplots(1, max(len(groups), 1), sharey=True, squeeze=False).ravel().tolist()
    last = run.provenance["identity"]["config"]["lazy"]["groups"]
    for axes, group in zip(panels, groups, strict=False):
        whole = table[table["order"] == "none"].groupby("scale")[name].agg(["mean", "std"])
        _add_band(axes, whole)
        for order in ("before", "after", "both"):
            rows = table[(table["order"] == order) & (table["group"] == group)]
            _add_line(axes, rows, "scale", name, order)
        if name == "test_accuracy":
            _add_chance(axes, run)
        else:
            axes.set_yscale("log")
        words = {1: " (largest)", last: " (smallest)"}.get(group, "")
        axes.set_title(f"group {group} of {last}{words}", fontsize="medium")
        axes.set_xscale("log")
        axes.set_xlabel(SCALE)
    panels[0].set_ylabel(metric_label(run, name))
    _finish(figure, run, *panels)
    return figure


def draw_movement(run: Run) -> Figure:
    """Draw how far training moved the hidden weights against α, from whole networks and from cut ones."""
    table = run.metrics
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    whole = table[table["order"] == "none"].groupby("scale")["movement"].agg(["mean", "std"])
    _add_band(axes, whole)
    for group, (colour, marker, line) in zip(sorted({*table["group"]} - {0}), itertools.cycle(CUT), strict=False):
        rows = table[(table["order"] == "before") & (table["group"] == group)]
        mean = rows.groupby("scale")["movement"].mean()
        label = f"group {group} removed before training"
        axes.plot(mean.index, mean, line, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    lazy = whole["mean"].iloc[-1] * whole.index[-1] / whole.index
    axes.plot(whole.index, lazy, color=CHANCE[1], linewidth=0.9, linestyle=(0, (1, 2)), label=r"$\propto 1/\alpha$")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(SCALE)
    axes.set_ylabel(metric_label(run, "movement"))
    _finish(figure, run, axes)
    return figure


def _add_line(axes: Axes, rows: "pandas.DataFrame", key: str, name: str, order: str, *, shift: float = 0.0) -> None:
    """Draw means over seeds with bars of one standard deviation (none, of a single seed)."""
    words, colour, marker, line = ORDERS[order]
    found = rows.groupby(key)[name].agg(["mean", "std"])
    axes.errorbar(
        found.index + shift,
        found["mean"],
        yerr=found["std"].fillna(0.0),
        color=colour,
        marker=marker,
        markersize=5,
        linestyle=line,
        linewidth=1.4,
        capsize=3,
        label=words,
    )


def _add_level(axes: Axes, values: "pandas.Series", groups: list[int]) -> None:
    """Draw the level of what nothing was removed from: the mean over seeds, a band of one standard deviation."""
    mean, spread = values.mean(), np.nan_to_num(values.std())
    axes.axhspan(mean - spread, mean + spread, color=WHOLE[1], alpha=0.15, linewidth=0)
    axes.axhline(mean, color=WHOLE[1], linewidth=1.1, label=WHOLE[0])


def _add_band(axes: Axes, found: "pandas.DataFrame") -> None:
    spread = found["std"].fillna(0.0)
    axes.fill_between(
        found.index, found["mean"] - spread, found["mean"] + spread, color=WHOLE[1], alpha=0.15, linewidth=0
    )
    axes.plot(found.index, found["mean"], color=WHOLE[1], linewidth=1.1, label=WHOLE[0])


def _add_chance(axes: Axes, run: Run) -> None:
    axes.axhline(run.provenance["chance"], color=CHANCE[1], linewidth=1.1, linestyle=(0, (1, 2)), label=CHANCE[0])


def _finish(figure: Figure, run: Run, *panels: Axes) -> None:
    for axes in panels:
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    seeds = run.metrics["seed"].nunique()
    spread = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{model_name(run)}: {spread}", fontsize="medium", parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
