"""Figures of a `task=delta` run: what was changed by layer, and the shift of each singular value beside noise."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.labels import metric_label, model_name
from jacspec.report.plotting import CHANCE, add_names, from_zero, panels, styles_of
from jacspec.runs import Run
from jacspec.studies.study import Plot

BY_LAYER = ("relative", "structure", "intruders_left", "least_match_left", "median_shift", "below_noise")

COUNTS = ("intruders_left", "below_noise")

CAPTIONS = {
    "changes": "By layer, a line a role: size of the change, its largest singular value over that of noise, intruders, "
    "the worst match of a leading vector, median shift, and singular values below the noise.",
    "shifts": "The shift of each singular value over the noise s against the value over the noise's edge, all layers "
    "of a role; dashed, Weyl's bound (median) and the edge.",
}


def delta_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of the run."""
    return {
        "changes": Plot(lambda: _draw_changes(run), CAPTIONS["changes"], explored=True),
        "shifts": Plot(lambda: _draw_shifts(run), CAPTIONS["shifts"]),
    }


def _draw_changes(run: Run) -> Figure:
    """Draw six columns against the layer, a line a role, the mean over matrices of one role in a layer."""
    table = run.metrics
    figure, axes = panels(len(BY_LAYER), f"{model_name(run)}: what was changed")
    styles = styles_of(list(dict.fromkeys(table["role"])))
    for panel, name in zip(axes, BY_LAYER, strict=True):
        for role, (colour, line) in styles.items():
            means = table[table["role"] == role].groupby("layer")[name].mean()
            panel.plot(means.index, means, "o", linestyle=line, color=colour, markersize=3, linewidth=1.1, label=role)
        if name == "structure":
            panel.axhline(1, color=CHANCE, linewidth=0.9, linestyle="--")
        if (table[name].dropna() >= 0).all():
            from_zero(panel)
        if name in COUNTS:
            panel.yaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("layer", fontsize="medium")
    add_names(figure, axes[0].get_legend_handles_labels()[0], title="role")
    return figure


def _draw_shifts(run: Run) -> Figure:
    """Draw |σ′ − σ| / s against σ over the noise's edge, on log–log axes, a panel a role."""
    table, dataset = run.metrics, run.dataset
    roles = list(dict.fromkeys(table["role"]))
    figure, axes = panels(len(roles), f"{model_name(run)}: shifts of singular values")
    for panel, role in zip(axes, roles, strict=True):
        own = table[(table["role"] == role) & (table["noise"] > 0)]
        for number, row in own.iterrows():
            before, after = (dataset[name].values[number] for name in ("sigma_base", "sigma"))
            shift = np.abs(after - before) / row["noise"]
            shown = np.isfinite(shift) & (shift > 0) & (before > 0)
            panel.plot(before[shown] / row["noise_edge"], shift[shown], ".", color="#0072B2", markersize=2, alpha=0.5)
        if len(own):
            bound = float((own["spectral_delta"] / own["noise"]).median())
            panel.axhline(bound, color=CHANCE, linewidth=0.9, linestyle="--")
            panel.axvline(1, color="0.6", linewidth=0.8, linestyle="--")
            panel.set_xscale("log")
            panel.set_yscale("log")
        else:
            panel.annotate("nothing was changed", (0.5, 0.5), xycoords="axes fraction", ha="center")
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(r"singular value of the base over the noise's edge $s(\sqrt{N} + \sqrt{M})$", fontsize="medium")
    figure.supylabel(r"$|\sigma_i' - \sigma_i| / s$", fontsize="medium")
    return figure
