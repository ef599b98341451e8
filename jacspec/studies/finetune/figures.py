"""Figures and pages of experiments that remove groups of singular values before or after training."""

import functools
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.labels import metric_label
from jacspec.report.plotting import add_chance, add_level, add_line, finish_orders
from jacspec.runs import Run
from jacspec.studies.study import Plot


def finetune_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a `task=finetune` run."""
    return {
        "accuracy": Plot(
            functools.partial(draw_groups, run, "accuracy"),
            "Accuracy on the examples held out against the group removed, before fine-tuning and after it; bars and "
            "band: one standard deviation over seeds.",
            explored=True,
        ),
        "label_loss": Plot(
            functools.partial(draw_groups, run, "label_loss"),
            "Mean cross-entropy of the labels of the examples held out, in nats, in the same way.",
            explored=True,
        ),
    }


def draw_groups(run: Run, name: str) -> Figure:
    """Draw a column against the group that was removed: mean over seeds, bars of one standard deviation."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    table = run.metrics
    groups = sorted({*table["group"]} - {0})
    add_level(axes, table[table["order"] == "none"][name], groups)
    if name == "accuracy":
        add_chance(axes, run)
    for shift, order in ((-0.06, "before"), (0.06, "after")):
        add_line(axes, table[table["order"] == order], "group", name, order, shift=shift)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.set_xlim(groups[0] - 0.5, groups[-1] + 0.5)
    axes.set_xlabel(f"group of singular values removed (1: largest, {groups[-1]}: smallest)")
    axes.set_ylabel(metric_label(run, name) + (", examples held out" if name == "accuracy" else ""))
    finish_orders(figure, run, axes)
    return figure
