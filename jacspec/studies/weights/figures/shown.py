"""What figures of weight matrices share: the matrices of a role, their singular values and edges, a panel a role."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.labels import LETTERS_AN_INCH, lookup, model_name
from jacspec.report.plotting import panels, roles_of
from jacspec.runs import Run

BARS, POINTS, NORMS = "#56B4E9", "#0072B2", "#009E73"


def shown_layer(run: Run) -> int:
    """Return the layer whose single matrices are shown: the one asked for, or the first where that is not there."""
    layers = [layer for layer in run.dataset["layer"].values.tolist() if layer >= 0]
    asked = lookup(run.provenance, "config.weights.show_layer")
    return asked if asked in layers else min(layers, default=-1)


def title_of(run: Run, what: str) -> str:
    """Write the title of a figure."""
    return f"{model_name(run)}: {what}"


def label_values(figure: Figure, words: str) -> None:
    """Name the value axes of a figure, in as many lines as its height needs; math in the words has no spaces."""
    lines = textwrap.wrap(words, int(figure.get_figheight() * LETTERS_AN_INCH), break_on_hyphens=False)
    figure.supylabel("\n".join(lines), fontsize="medium")


def rows_of(run: Run, role: str, layer: int | None = None) -> list[int]:
    """List the rows of the matrices of a role that have a spectrum."""
    dataset = run.dataset
    mask = dataset["role"].values == role
    if layer is not None:
        mask = mask & (dataset["layer"].values == layer)
    finite = np.isfinite(dataset["singular_values"].values[:, 0])
    return np.flatnonzero(mask & finite).tolist()


def sigma_of(run: Run, row: int) -> Float[np.ndarray, " k"]:
    """Take the singular values of a row, in float64."""
    values = run.dataset["singular_values"].values[row].astype(np.float64)
    return values[np.isfinite(values)]


def edges_of(
    run: Run, rows: Sequence[int], what: str, over: Float[np.ndarray, " row"] | float = 1.0
) -> tuple[float, float]:
    """Return the medians of two columns of edges over some rows; NaN where none has one, or an older run no column."""
    found = []
    for name in (f"{what}_low", f"{what}_high"):
        values = run.metrics[name].to_numpy(float)[rows] / over if name in run.metrics else np.array([np.nan])
        finite = values[np.isfinite(values)]
        found.append(float(np.median(finite)) if finite.size else float("nan"))
    return found[0], found[1]


def role_panels(run: Run, what: str, layer: int | None = None) -> tuple[Figure, list[tuple[Axes, list[int]]]]:
    """Make a figure with a panel for each role that has matrices (in a layer, where one is given), with their rows."""
    rows = {role: found for role in roles_of(run) if (found := rows_of(run, role, layer))}
    figure, axes = panels(max(len(rows), 1), title_of(run, what))
    for panel, role in zip(axes, rows, strict=False):
        panel.set_title(role, fontsize="medium", parse_math=False)
    return figure, list(zip(axes, rows.values(), strict=False))
