"""Figures of a `task=merge` run: how compatible checkpoints of one architecture are."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jacspec.report.labels import COMPARED, metric_label, model_name
from jacspec.report.plotting import CHANCE, add_names, from_zero, styles_of
from jacspec.runs import Run
from jacspec.studies.merge import BASE, ILL_CONDITIONED, MISMATCH, TASKS, WEIGHTS
from jacspec.studies.merge.findings import judged_pairs
from jacspec.studies.study import Plot

if TYPE_CHECKING:
    import pandas

SIDES = (("left", "#0072B2", "o", -0.15), ("right", "#E69F00", "s", 0.15))
"""Left and right subspaces: colour, mark, and how far from the middle of their pair's row."""

LONGEST, PAIRS_THAT_FIT = 34, 10


CAPTION = (
    "By layer, a line a role, the mean over pairs: overlap of leading subspaces (mean of left and right; dashed: "
    "chance), cosine, distance of effective ranks, distance of spectra. Below: singular values over the largest, the "
    "mean over matrices; overlap of each pair over all matrices, median and quartiles."
)


CONFIDENCE = (
    "The weights of two models, the base left out, a line a role, the mean over pairs. Left: confidence min(r, 1/r), "
    "r the ratio of their largest singular values; dashed: 0.5, below which ModelCypher calls a pair a mismatch. It "
    "compares strengths, not directions: random matrices of one variance have 1. Right: condition numbers κ of the "
    "second model; dashed: 100, above which ModelCypher calls it ill-conditioned; dotted: what 5 % of Gaussian "
    "matrices of the shape are above."
)


def merge_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of the run: what is compared, and on request how far ModelCypher's rules trust it."""
    figures = {"compatibility": Plot(lambda: draw_compatibility(run), CAPTION)}
    if "confidence" in run.metrics and (run.metrics["compared"] == WEIGHTS).any():
        figures["confidence"] = Plot(lambda: draw_confidence(run), CONFIDENCE, on_request=True)
    return figures


def draw_confidence(run: Run) -> Figure:
    """Draw the confidence and the condition number of the weights by layer, with thresholds and chance."""
    rows = judged_pairs(run)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    trusted, conditions = figure.subplots(1, 2)
    _draw_layers(trusted, rows, "confidence", metric_label(run, "confidence"))
    trusted.set_ylim(0, 1.02)
    _draw_layers(conditions, rows, "condition_second", metric_label(run, "condition_second"), log=True)
    for panel, threshold in ((trusted, MISMATCH), (conditions, ILL_CONDITIONED)):
        panel.axhline(threshold, color=CHANCE, linewidth=1.1, linestyle="--")
    for role, (colour, _) in styles_of(list(dict.fromkeys(rows["role"]))).items():
        chance = rows[rows["role"] == role].groupby("layer")["condition_chance"].mean()
        conditions.plot(chance.index, chance, ":", color=colour, linewidth=1.1)
    _add_roles(figure, trusted)
    figure.suptitle(model_name(run), fontsize="medium", parse_math=False)
    return figure


def draw_compatibility(run: Run) -> Figure:
    """Draw four columns by layer and role, the spectra of each model, and the overlaps of each pair.

    By layer are shown task vectors of two models; with one model these and the base's weights, without a base weights.
    """
    table = run.metrics.assign(overlap=run.metrics[["left_overlap", "right_overlap"]].mean(axis=1))
    there = set(table["compared"])
    shown = next(kind for kind in (TASKS, BASE, WEIGHTS) if kind in there)
    rows = table[table["compared"] == shown]
    pairs = len(table[["compared", "first", "second"]].drop_duplicates())
    figure = Figure(figsize=(14.5, 8 + 0.3 * max(pairs - PAIRS_THAT_FIT, 0)), layout="constrained")
    axes = figure.subplots(2, 3).ravel().tolist()
    _draw_layers(axes[0], rows, "overlap", "overlap of leading subspaces, left and right")
    _draw_chance(axes[0], rows)
    for panel, name in zip(axes[1:4], ("cosine", "effective_rank_distance", "spectrum_distance"), strict=True):
        _draw_layers(panel, rows, name, metric_label(run, name))
    for panel in axes[:4]:
        panel.set_title(COMPARED[shown], fontsize="medium")
    _draw_spectra(axes[4], run)
    _draw_pairs(axes[5], table)
    _add_roles(figure, axes[0])
    figure.suptitle(model_name(run), fontsize="medium", parse_math=False)
    return figure


def _add_roles(figure: Figure, panel: Axes) -> None:
    add_names(figure, panel.get_legend_handles_labels()[0], place="outside right upper", title="role")


def _draw_layers(panel: Axes, rows: "pandas.DataFrame", name: str, label: str, *, log: bool = False) -> None:
    """Draw a column against the layer, a line a role, the mean over pairs; matrices outside the layers left of 0."""
    for role, (colour, line) in styles_of(list(dict.fromkeys(rows["role"]))).items():
        means = rows[rows["role"] == role].groupby("layer")[name].mean()
        panel.plot(means.index, means, "o", linestyle=line, color=colour, markersize=3, linewidth=1.1, label=role)
    panel.set_xlabel("layer")
    panel.set_ylabel(label)
    if log:
        panel.set_yscale("log")
    else:
        panel.axhline(0, color="0.6", linewidth=0.8)  # takes zero into the range too
        if (rows[name].dropna() >= 0).all():
            from_zero(panel)
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panel.grid(color="0.92", linewidth=0.6)


def _draw_chance(panel: Axes, rows: "pandas.DataFrame") -> None:
    levels = rows[["left_chance", "right_chance"]].to_numpy(float)
    if np.isfinite(levels).any():
        low, high = float(np.nanmin(levels)), float(np.nanmax(levels))
        panel.axhspan(low, high, color=CHANCE, alpha=0.2, linewidth=0)
        panel.axhline(
            (low + high) / 2, color=CHANCE, linewidth=0.9, linestyle="--"
        )  # matrices of one shape have no band
    panel.set_ylim(0, 1.02)


def _draw_spectra(panel: Axes, run: Run) -> None:
    """Draw the spectrum of each task vector (without a base of each model), σ/σ₁, the mean over matrices."""
    table, dataset = run.metrics, run.dataset
    has_base = (table["compared"] == BASE).any()
    rows = table[table["compared"] == (BASE if has_base else WEIGHTS)]
    ranks = np.linspace(0, 1, 101)
    found: dict[str, dict[object, np.ndarray]] = {}
    for number, row in rows.iterrows():
        for place in ("first",) if has_base else ("first", "second"):
            sigma = dataset[f"sigma_{place}"].values[number]
            sigma = sigma[np.isfinite(sigma)]
            if sigma[0] > 0:
                shares = np.linspace(0, 1, sigma.size)
                found.setdefault(str(row[place]), {})[row["layer"], row["role"]] = np.interp(
                    ranks, shares, sigma / sigma[0]
                )
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(found)))
    for (label, spectra), colour in zip(found.items(), colours, strict=True):
        panel.plot(ranks, np.mean(list(spectra.values()), axis=0), color=colour, linewidth=1.4, label=_short(label))
    panel.set_title("spectra of task vectors" if has_base else "spectra of weights", fontsize="medium")
    panel.set_xlabel("share of the ranks (0: largest)")
    panel.xaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_ylabel(r"$\sigma_i / \sigma_1$, mean over matrices")
    panel.grid(color="0.92", linewidth=0.6)
    if not found:
        panel.annotate("all task vectors are zero", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    panel.set_yscale("log")
    for text in panel.legend(frameon=False, fontsize="small").get_texts():
        text.set_parse_math(False)


def _draw_pairs(panel: Axes, table: "pandas.DataFrame") -> None:
    """Draw the overlaps of each pair: the median over matrices, the quartiles, and a bar at chance."""
    pairs = table.groupby(["compared", "first", "second"], sort=False)
    names = []
    for place, ((compared, first, second), rows) in enumerate(pairs):
        names.append(f"{COMPARED[compared]}\n{_short(first)} · {_short(second)}")
        for side, colour, marker, shift in SIDES:
            values = rows[f"{side}_overlap"].dropna()
            if values.empty:
                continue
            q1, middle, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
            height = place + shift
            panel.plot([q1, q3], [height] * 2, color=colour, linewidth=2.2, alpha=0.6)
            panel.plot(middle, height, marker, color=colour, markersize=5)
            chance = rows[f"{side}_chance"].median()
            panel.plot(chance, height, "|", color=CHANCE, markersize=9, markeredgewidth=1.6)
    panel.set_yticks(range(len(names)), names, fontsize="x-small")
    for label in panel.get_yticklabels():
        label.set_parse_math(False)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.set_xlim(-0.02, 1.02)
    panel.set_title("left (circles) and right (squares)", fontsize="medium")
    panel.set_xlabel("overlap, median and quartiles (bars: chance)")
    panel.grid(axis="x", color="0.92", linewidth=0.6)


def _short(label: str) -> str:
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[:half]}…{label[-half:]}"
