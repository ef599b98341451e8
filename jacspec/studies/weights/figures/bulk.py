"""Figures of the bulk of singular values beside the laws of chance."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.plotting import CHANCE
from jacspec.runs import Run
from jacspec.studies.weights.figures.shown import BARS, NORMS, edges_of, label_values, role_panels, sigma_of

ONE_VARIANCE = "black"

OF_BULK = (
    "Singular values over s√N of all layers. Black, dashed: the Marchenko–Pastur law of entries of one variance, that "
    "of all; orange: of the bulk, where one is identified. Dotted: where independent entries with the matrix's own "
    "row and column norms end (medians); ticks mark the values beyond."
)

OF_LAYER = "The same for one layer (weights.show_layer)."


def draw_bulk(run: Run, layer: int | None) -> Figure:
    """Draw histograms of σ over s√N with the laws of chance, and mark what lies beyond."""
    where = "all layers" if layer is None else f"layer {layer}"
    figure, shown = role_panels(run, f"singular values beside Marchenko–Pastur, {where}", layer)
    for panel, rows in shown:
        _add_histogram(panel, run, rows)
    figure.supxlabel(
        r"$\sigma / (s \sqrt{N})$; dotted, and ticks: beyond chance with its row and column norms", fontsize="medium"
    )
    label_values(figure, "density (black: law of one variance; orange: of the bulk)")
    return figure


def _add_histogram(panel: Axes, run: Run, rows: Sequence[int]) -> None:
    table = run.metrics
    least = table[["rows", "cols"]].min(axis=1).to_numpy(float)
    most = table[["rows", "cols"]].max(axis=1).to_numpy(float)
    scales = table["mp_high"].to_numpy(float) / (1 + np.sqrt(least / most))
    rows = [row for row in rows if scales[row] > 0]
    if not rows:
        panel.annotate("nothing to show", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    # Runs from before these columns have the bulk's edges alone.
    what = "norms" if "norms_high" in table else "bulk"
    scaled, outliers = [], []
    for row in rows:
        low, high = edges_of(run, [row], what)
        sigma = sigma_of(run, row)
        scaled.append(sigma / scales[row])
        outliers.append(sigma[(sigma > high) | (sigma < low)] / scales[row])
    values, beyond = np.concatenate(scaled), np.concatenate(outliers)
    edge = float(np.median(1 + np.sqrt(least[rows] / most[rows])))
    shown = max(1.6 * edge, float(np.quantile(values, 0.97)))
    panel.hist(np.minimum(values, shown), bins=60, density=True, color=BARS, edgecolor="none")
    for name, colour, line in (("mp", ONE_VARIANCE, "--"), ("bulk", CHANCE, "-")):
        low, high = edges_of(run, rows, name, scales[rows])
        if high > 0:
            grid = np.linspace(max(low, 1e-3), high, 400)
            panel.plot(grid, _law(grid, low, high), color=colour, linestyle=line, linewidth=1.2)
    for end in edges_of(run, rows, "norms", scales[rows]):
        if np.isfinite(end):
            panel.axvline(end, color=NORMS, linewidth=1, linestyle=":")
    if beyond.size:  # marks that are not clipped and none would be laid out at the figure's corner
        panel.plot(np.minimum(beyond, shown), np.zeros_like(beyond), "|", color="black", markersize=8, clip_on=False)
    words = [f"{len(beyond)} of {len(values)} beyond"]
    words += [f"largest {values.max():.3g}"] if values.max() > shown else []
    panel.annotate(
        "\n".join(words),
        (0.97, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},  # lines of edges run behind it
    )


def _law(sigma: Float[np.ndarray, " point"], low: float, high: float) -> Float[np.ndarray, " point"]:
    """Compute the density of Marchenko and Pastur from its edges alone, s(√N ∓ √M)."""
    inside = np.clip((high**2 - sigma**2) * (sigma**2 - low**2), 0, None)
    return np.sqrt(inside) / (np.pi * sigma * ((high - low) / 2) ** 2)
