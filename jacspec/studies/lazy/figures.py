"""Figures of a `task=lazy` run."""

import functools
import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jacspec.report.labels import lookup, metric_label
from jacspec.report.plotting import CHANCE_LINE, ORDERS, add_band, add_chance, add_line, finish_orders
from jacspec.runs import Run
from jacspec.studies.study import Plot

SCALE = r"output scale $\alpha$ (small: rich, large: lazy)"

CUT = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"), ("#CC79A7", "D", "-."))


def lazy_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a `task=lazy` run."""
    if lookup(run.provenance, "config.lazy.and_smaller"):
        words = (
            "Accuracy on test points against the share of the smallest singular values removed after training, a line "
            "an output scale α; right, where there is an f₀, from it too, so that only what training changed is judged."
        )
        return {"test_accuracy": Plot(functools.partial(draw_shares, run), words)}
    figures = {
        "test_accuracy": Plot(
            functools.partial(draw_scales, run, "test_accuracy"),
            "Accuracy on test points against the output scale α, a panel a group removed.",
            explored=True,
        ),
        "test_loss": Plot(
            functools.partial(draw_scales, run, "test_loss"),
            "The loss on test points, in the same way.",
            explored=True,
        ),
    }
    if (run.metrics["movement"] > 0).any():  # not where all hidden layers are frozen
        figures["movement"] = Plot(
            functools.partial(draw_movement, run),
            "How far training moved the hidden weights, relative to their initial norm; dotted, what falls as 1/α "
            "from the last point.",
        )
    return figures


def draw_scales(run: Run, name: str) -> Figure:
    """Draw a column against the output scale α: a panel a group removed, a line an order."""
    table = run.metrics
    groups = sorted({*table["group"]} - {0})
    figure = Figure(figsize=(1.4 + 3.6 * max(len(groups), 1), 4.4), layout="constrained")
    panels = figure.subplots(1, max(len(groups), 1), sharey=True, squeeze=False).ravel().tolist()
    last = run.provenance["identity"]["config"]["lazy"]["groups"]
    for axes, group in zip(panels, groups, strict=False):
        whole = table[table["order"] == "none"].groupby("scale")[name].agg(["mean", "std"])
        add_band(axes, whole)
        for order in ORDERS:
            rows = table[(table["order"] == order) & (table["group"] == group)]
            if len(rows):
                add_line(axes, rows, "scale", name, order)
        if name == "test_accuracy":
            add_chance(axes, run)
        else:
            axes.set_yscale("log")
        words = {1: " (largest)", last: " (smallest)"}.get(group, "")
        axes.set_title(f"group {group} of {last}{words}", fontsize="medium")
        axes.set_xscale("log")
        axes.set_xlabel(SCALE)
    panels[0].set_ylabel(metric_label(run, name))
    finish_orders(figure, run, *panels)
    return figure


def draw_shares(run: Run) -> Figure:
    """Draw the accuracy against the share of smallest values removed after training, a line a scale."""
    table, groups = run.metrics, run.provenance["config"]["lazy"]["groups"]
    orders = [order for order in ("after", "both") if order in set(table["order"])]
    figure = Figure(figsize=(1.4 + 3.8 * len(orders), 4.2), layout="constrained")
    panels = figure.subplots(1, len(orders), sharey=True, squeeze=False).ravel().tolist()
    by_mass = lookup(run.provenance, "config.lazy.by_mass")
    what = (
        "share of Σσ removed, the smallest first, %" if by_mass else "share of the smallest singular values removed, %"
    )
    for axes, order in zip(panels, orders, strict=True):
        for scale, (colour, marker, line) in zip(sorted({*table["scale"]}), itertools.cycle(CUT), strict=False):
            own = table[(table["scale"] == scale) & table["order"].isin(("none", order))]
            share = np.where(own["order"] == "none", 0.0, 1 - (own["group"] - 1) / groups)
            found = own.groupby(100 * share)["test_accuracy"].agg(["mean", "std"])
            axes.errorbar(
                found.index,
                found["mean"],
                yerr=found["std"].fillna(0.0),
                color=colour,
                marker=marker,
                linestyle=line,
                markersize=4,
                linewidth=1.4,
                capsize=3,
                label=rf"$\alpha = {scale:g}$",
            )
        add_chance(axes, run)
        axes.set_title(ORDERS[order][0], fontsize="medium")
        axes.set_xlabel(what)
    panels[0].set_ylabel(metric_label(run, "test_accuracy"))
    finish_orders(figure, run, *panels)
    return figure


def draw_movement(run: Run) -> Figure:
    """Draw how far training moved the hidden weights against α, from whole networks and from cut ones."""
    table = run.metrics
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    whole = table[table["order"] == "none"].groupby("scale")["movement"].agg(["mean", "std"])
    add_band(axes, whole)
    for group, (colour, marker, line) in zip(sorted({*table["group"]} - {0}), itertools.cycle(CUT), strict=False):
        rows = table[(table["order"] == "before") & (table["group"] == group)]
        mean = rows.groupby("scale")["movement"].mean()
        label = f"group {group} removed before training"
        axes.plot(mean.index, mean, line, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    lazy = whole["mean"].iloc[-1] * whole.index[-1] / whole.index
    axes.plot(
        whole.index, lazy, color=CHANCE_LINE[1], linewidth=0.9, linestyle=(0, (1, 2)), label=r"$\propto 1/\alpha$"
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(SCALE)
    axes.set_ylabel(metric_label(run, "movement"))
    finish_orders(figure, run, axes)
    return figure
