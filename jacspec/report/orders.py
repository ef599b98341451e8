"""Lines of experiments that remove singular values before or after training: colours, bands, chance."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.labels import model_name
from jacspec.runs import Run

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


def add_line(axes: Axes, rows: "pandas.DataFrame", key: str, name: str, order: str, *, shift: float = 0.0) -> None:
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


def add_level(axes: Axes, values: "pandas.Series", groups: list[int]) -> None:
    """Draw the level of what nothing was removed from: the mean over seeds, a band of one standard deviation."""
    mean, spread = values.mean(), np.nan_to_num(values.std())
    axes.axhspan(mean - spread, mean + spread, color=WHOLE[1], alpha=0.15, linewidth=0)
    axes.axhline(mean, color=WHOLE[1], linewidth=1.1, label=WHOLE[0])


def add_band(axes: Axes, found: "pandas.DataFrame") -> None:
    """Draw means with a band of one standard deviation, of networks from which nothing was removed."""
    spread = found["std"].fillna(0.0)
    axes.fill_between(
        found.index, found["mean"] - spread, found["mean"] + spread, color=WHOLE[1], alpha=0.15, linewidth=0
    )
    axes.plot(found.index, found["mean"], color=WHOLE[1], linewidth=1.1, label=WHOLE[0])


def add_chance(axes: Axes, run: Run) -> None:
    """Draw the level of chance."""
    axes.axhline(run.provenance["chance"], color=CHANCE[1], linewidth=1.1, linestyle=(0, (1, 2)), label=CHANCE[0])


def finish(figure: Figure, run: Run, *panels: Axes) -> None:
    """Add grid, title and legend."""
    for axes in panels:
        axes.grid(color="0.92", linewidth=0.6)
        axes.set_axisbelow(True)
    seeds = run.metrics["seed"].nunique()
    spread = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    figure.suptitle(f"{model_name(run)}: {spread}", fontsize="medium", parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
