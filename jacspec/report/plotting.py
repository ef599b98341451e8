"""What figures of several studies share: panels, colours with their order, roles of matrices, metrics with values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.runs import Run

if TYPE_CHECKING:
    pass

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


def drawn_metrics(run: Run) -> list[str]:
    """List the metrics that have values."""
    known = run.metrics.groupby("metric")["n"].sum()
    return [name for name in run.metric_names if known.get(name, 0) > 0]
