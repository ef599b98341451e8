"""What figures of several studies share: panels, colours with their order, levels of chance, metrics with values.

Of experiments that remove singular values before or after training, lines, bands and the level of nothing removed.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from jacspec.report.labels import LETTERS_AN_INCH, metric_label, run_title
from jacspec.runs import Run

if TYPE_CHECKING:
    import pandas

COLUMNS = 3

# Okabe & Ito's colours, then the same dashed.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")

LINES = ("-", "--", ":")

CHANCE = "#D55E00"


def roles_of(run: Run) -> list[str]:
    """List the roles of a run in the order of the checkpoint."""
    return list(dict.fromkeys(run.dataset["role"].values.tolist()))


def styles_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Give each role a colour and a kind of line."""
    return {
        name: (COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)])
        for index, name in enumerate(names)
    }


def panels(count: int, title: str, *, size: tuple[float, float] = (3.3, 2.6)) -> tuple[Figure, list[Axes]]:
    """Make a figure of as many panels as asked for."""
    columns = 2 if count == 4 else min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns + 1.2, size[1] * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for extra in axes[count:]:
        extra.remove()
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure, axes[:count]


def from_zero(panel: Axes) -> None:
    """Let the value axis begin at zero, with room above the largest: alone, Matplotlib leaves a share of the spread."""
    low, high = panel.dataLim.intervaly
    panel.set_ylim(min(low, 0.0), 1.05 * high if high > 0 else 1.0)


def drawn_metrics(run: Run) -> list[str]:
    """List the metrics that have values."""
    known = run.metrics.groupby("metric")["n"].sum()
    return [name for name in run.metric_names if known.get(name, 0) > 0]


MEAN, NULL = "black", "0.55"


ORDERS: Mapping[str, tuple[str, str, str, str]] = {
    "before": ("removed before training", "#0072B2", "o", "-"),
    "after": ("removed after training", "#D55E00", "s", "--"),
    "both": ("removed after training, from $f_0$ too", "#009E73", "^", ":"),
}
"""By order: words, colour (Okabe & Ito), marker and line, so that they also differ in grey."""

WHOLE = ("nothing removed", "0.25")

CHANCE_LINE = ("chance", "0.55")


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
    axes.plot(found.index, found["mean"], color=WHOLE[1], marker=".", linewidth=1.1, label=WHOLE[0])


def add_chance(axes: Axes, run: Run) -> None:
    """Draw the level of chance."""
    axes.axhline(
        run.provenance["chance"], color=CHANCE_LINE[1], linewidth=1.1, linestyle=(0, (1, 2)), label=CHANCE_LINE[0]
    )


def add_grid(axes: Axes) -> None:
    """Draw a light grid under all that is drawn; its lines lie over points otherwise."""
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def add_names(
    figure: Figure,
    handles: Sequence[Any],
    *,
    place: Literal["outside right center", "outside right upper"] = "outside right center",
    title: str | None = None,
) -> None:
    """Put a legend of names beside the panels, as they are written: a `$` in one is no formula."""
    legend = figure.legend(handles=handles, loc=place, frameon=False, fontsize="small", title=title)
    for text in legend.get_texts():
        text.set_parse_math(False)


def finish_orders(figure: Figure, run: Run, *panels: Axes) -> None:
    """Add grid, title and legend."""
    for axes in panels:
        add_grid(axes)
    seeds = run.metrics["seed"].nunique()
    spread = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    title = "\n".join(textwrap.wrap(f"{run_title(run)}: {spread}", int(figure.get_figwidth() * LETTERS_AN_INCH)))
    figure.suptitle(title, fontsize="medium", parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def label_log(axis: Axis) -> None:
    """Label a logarithmic axis so that no label runs into the next: powers of ten, of few decades more."""
    axis.axes.autoscale_view()
    low, high = axis.get_view_interval()
    decades = np.log10(high / low) if low > 0 else 0
    between = (1,) if decades > FEW_DECADES else (1, 2, 5) if decades > 0.6 else (1, 2, 3, 5, 7)
    axis.set_major_locator(LogLocator(subs=between))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_power(value)))
    axis.set_minor_formatter(NullFormatter())


FEW_DECADES = 2.2
"""Decades of an axis up to which labels between powers of ten have room."""


def _plain_power(value: float) -> str:
    """Write 0.02 and 500 as they are, and 2e-05 with a power of ten."""
    if not 0 < value < np.inf or 1e-3 <= value < 1e4:
        return f"{value:g}"
    power = int(np.floor(np.log10(value) + 1e-9))
    first = f"{value / 10.0**power:g}"
    return rf"$10^{{{power}}}$" if first == "1" else rf"${first} \times 10^{{{power}}}$"


AGAINST_ELEMENTS = ("lambda_0", "lambda_sum", "lambda_square_sum", "spectral_entropy")


def scatter_elements(run: Run, axes: Sequence[Axes], table: "pandas.DataFrame", colour: Any, label: str = "") -> None:
    """Draw columns of heads against the standard deviation of the elements of their product, a panel a column."""
    for panel, name in zip(axes, AGAINST_ELEMENTS, strict=True):
        if table[name].notna().any():
            panel.scatter(table["element_std"], table[name], s=9, c=colour, linewidths=0, label=label)
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        if (table["element_std"] > 0).all():
            panel.set_xscale("log")
            label_log(panel.xaxis)
            if name != "spectral_entropy":
                panel.set_yscale("log")
                label_log(panel.yaxis)
        panel.tick_params(labelsize="small")
        add_grid(panel)
