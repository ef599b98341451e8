"""Figures of metrics of weight matrices against the layer, a line or a mark a role."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import metric_label
from jacspec.report.plotting import add_names, panels, roles_of, styles_of
from jacspec.runs import Run
from jacspec.studies.weights.depth import FUSED, check_depth
from jacspec.studies.weights.figures.shown import title_of
from jacspec.studies.weights.verdicts import THIRDS

TAILED = (2, 6)
"""Between these Martin & Mahoney find α of well-trained layers."""

SMALLEST_P = 1e-16
"""Below a rounding of 1, p-values are no longer told apart."""

OF_METRICS = (
    "Each metric against the layer, a line a role. Of α, shaded, where well-trained layers are said to lie (2 to 6); "
    "of exponents, dotted, the median of Gaussian matrices of the same shape, which have no tail; of p-values, "
    "dotted, 1 %."
)

OF_THIRDS = (
    "Tail exponents α by layer, a mark a matrix. Boxes: the ranges that the document on merging gives for early, "
    "middle and late layers. Black bars: means of thirds of the layers, each role less its own mean. Dotted, a line a "
    "role: the median of Gaussian matrices of the shape, which have no tail."
)


def draw_metrics(run: Run, names: Sequence[str]) -> Figure:
    """Draw each metric against the layer, a line a role; roles outside the layers as marks at the left edge."""
    figure, axes = panels(len(names), title_of(run, "weight matrices by layer"))
    table = run.metrics
    styles = styles_of(roles_of(run))
    for panel, name in zip(axes, names, strict=True):
        for role, (colour, line) in styles.items():
            rows = table[(table["role"] == role) & table["layer"].notna()].sort_values("layer", kind="stable")
            heights = rows[name].clip(lower=SMALLEST_P) if _is_p(name) else rows[name]
            # Several matrices of one role in a layer, as in checkpoints that are read by name: points.
            alone = rows["layer"].is_unique
            kind: Any = {"linestyle": line} if alone else {"linestyle": "none"}
            panel.plot(
                rows["layer"], heights, color=colour, marker="o", markersize=2.5, linewidth=1, label=role, **kind
            )
            if f"{name}_null" in table and alone:
                panel.plot(rows["layer"], rows[f"{name}_null"], color=colour, linewidth=0.9, linestyle=":")
        _scale_metric(panel, name, table[name].to_numpy(float))
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("layer", fontsize="medium")
    add_names(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _scale_metric(panel: Axes, name: str, values: Float[np.ndarray, " row"]) -> None:
    """Choose the scale of a metric, and draw what it is read beside: p-values end at `SMALLEST_P` and 1."""
    finite = values[np.isfinite(values)]
    if _is_p(name):
        panel.set_yscale("log")
        panel.set_ylim(SMALLEST_P / 3, 3)
        panel.axhline(0.01, color="0.4", linewidth=0.9, linestyle=":")
    elif (finite > 0).all() and uses_log_axis(values):
        panel.set_yscale("log")
    if name == "alpha":
        panel.axhspan(*TAILED, color="0.93", zorder=0)


def _is_p(name: str) -> bool:
    return name.endswith("_p")


def draw_thirds(run: Run) -> Figure:
    """Draw α by layer with the ranges given for thirds of the depth, and what the thirds have."""
    check, table = check_depth(run.metrics), run.metrics
    assert check is not None
    rows = table[table["layer"].notna() & ~table["role"].isin(FUSED)]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panel = figure.subplots()
    figure.suptitle(title_of(run, "tail exponents in thirds of the depth"), fontsize="medium", parse_math=False)
    for role, (colour, _) in styles_of([role for role in roles_of(run) if role not in FUSED]).items():
        own = rows[rows["role"] == role].sort_values("layer")
        panel.plot(own["layer"], own["alpha"], "o", color=colour, markersize=3, label=role)
        if "alpha_null" in own:
            panel.plot(own["layer"], own["alpha_null"], ":", color=colour, linewidth=0.9)
    layers = np.sort(rows["layer"].dropna().unique())
    third = np.arange(layers.size) * len(THIRDS) // layers.size
    for place, ((name, least, most), mean) in enumerate(zip(THIRDS, check.means, strict=True)):
        own = layers[third == place]
        ends = (own[0] - 0.45, own[-1] + 0.45)
        panel.fill_between(ends, least, most, color="0.88", zorder=0, linewidth=0)
        panel.plot(ends, (mean, mean), color="black", linewidth=1.8)
        panel.annotate(name, (sum(ends) / 2, most), ha="center", va="bottom", fontsize="small", color="0.35")
    panel.set_ylim(bottom=min(1.0, float(rows["alpha"].min()) - 0.2))
    if uses_log_axis(rows["alpha"].to_numpy(float)):
        panel.set_yscale("log")
    panel.set_xlabel("layer")
    panel.set_ylabel(metric_label(run, "alpha"))
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    handles: list[Any] = [
        *panel.get_legend_handles_labels()[0],
        Line2D([], [], color="0.4", linestyle=":", label="Gaussian, median"),
        Line2D([], [], color="black", linewidth=1.8, label="mean of a third"),
        Patch(facecolor="0.88", label="range given"),
    ]
    add_names(figure, handles)
    return figure
