"""Figures of a run of weights beside Jacobians: factors, alignments, which layer reads which, kinds of token."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import (
    BOX_INCHES,
    MARGIN_INCHES,
    STYLES,
    WIDEST_BOX,
    add_boxes,
    draw_boxes,
    label_layers,
    scale_values,
    uses_log_axis,
)
from jacspec.report.labels import component_words, metric_label, title_lines
from jacspec.runs import Run
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.coupling import BY_KIND, COUPLING_FILE
from jacspec.studies.kinds import KINDS
from jacspec.studies.study import Plot

FEWEST = 5
"""Samples of a kind below which its distribution is not drawn."""

BLACK, CHANCE = "black", "0.55"
# Okabe & Ito's colours; a weight and its slope share one, the slope dashed.
LINES: Mapping[str, tuple[str, str]] = {
    "norm_gain": ("#0072B2", "-"),
    "output_norm_gain": ("#0072B2", "--"),
    "sigma_out": ("#009E73", "-"),
    "sigma_up": ("#CC79A7", "-"),
    "slope_up": ("#CC79A7", "--"),
    "sigma_gate": ("#E69F00", "-"),
    "slope_gate": ("#E69F00", "--"),
    "sigma_v": ("#CC79A7", "-"),
    "slope_v": ("#CC79A7", "--"),
    "sigma_q": ("#E69F00", "-"),
    "slope_q": ("#E69F00", "--"),
    "sigma_k": ("#56B4E9", "-"),
    "slope_k": ("#56B4E9", "--"),
}
ALIGNMENTS: Mapping[str, tuple[str, str]] = {
    "write_alignment": ("#009E73", "o"),
    "read_alignment_up": ("#CC79A7", "s"),
    "read_alignment_gate": ("#E69F00", "^"),
    "read_alignment_v": ("#CC79A7", "s"),
    "read_alignment_q": ("#E69F00", "^"),
    "read_alignment_k": ("#56B4E9", "v"),
}
KIND_STYLES = dict(zip(KINDS, STYLES, strict=True))
PANEL_COLUMNS, LABELLED_PLACES, LABELLED_LAYERS = 3, 32, 16


CAPTIONS = {
    "factors": "ρ of each component, the bound that the product of the factors gives, and the factors: medians over "
    "samples by layer, of ρ and the bound with their quartiles. Weights do not change with the sample; the norm's "
    "gain and the slopes do.",
    "bound_share": "ρ over the bound, by layer: how much of what norms allow is reached.",
    "alignment": "Where the Jacobian's leading directions and those of its weights meet: |cos|, medians over samples "
    "with quartiles; dotted, what independent random directions have on average.",
    "coupling": "Which layer reads what another writes: the mean over samples of |u · v|, u the leading left singular "
    "vector of the row's Jacobian, v the leading right one of the column's, at the same sample. Above the line the "
    "read comes after the write in the stream; below it there is no way from one to the other, a control.",
    "kinds": "ρ and the gain of the residual direction by the kind of the token at which each sample ends.",
}


def coupling_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=coupling` run: bounds, alignments, who reads whom, kinds of token."""
    figures = {
        "factors": Plot(lambda: draw_factors(run), CAPTIONS["factors"]),
        "bound_share": Plot(lambda: draw_boxes(run, "bound_share"), CAPTIONS["bound_share"]),
        "alignment": Plot(lambda: draw_alignment(run), CAPTIONS["alignment"]),
        "coupling": Plot(lambda: draw_coupling(run), CAPTIONS["coupling"]),
    }
    if any(shown_kinds(run, component)[0] for component in run.components):
        figures["kinds"] = Plot(lambda: draw_kinds(run), CAPTIONS["kinds"])
    return figures


def draw_factors(run: Run) -> Figure:
    """Draw ρ, its bound and the factors by layer, a panel a component: medians, of ρ and the bound quartiles too."""
    figure, panels = _panels(run)
    for axes, component in zip(panels, run.components, strict=True):
        rows = _rows(run, component)
        for name, style in LINES.items():
            if name in rows and not (name == "output_norm_gain" and (rows[name]["median"] == 1).all()):
                colour, line = style
                axes.plot(rows[name]["median"], line, color=colour, linewidth=1.1, label=metric_label(run, name))
        _add_band(axes, rows["bound"], "#D55E00", "D", metric_label(run, "bound"))
        _add_band(axes, rows["spectral_radius"], BLACK, "o", metric_label(run, "spectral_radius"))
        axes.set_yscale("log")
    _add_legends(panels)
    figure.supylabel("gain (median over samples; bands: quartiles)", fontsize="medium")
    return figure


def draw_alignment(run: Run) -> Figure:
    """Draw the alignment of J's leading directions with those of its weights by layer, a panel a component."""
    figure, panels = _panels(run)
    chance = random_alignment(run.dataset.sizes["d_model"])
    for axes, component in zip(panels, run.components, strict=True):
        rows = _rows(run, component)
        for name, (colour, marker) in ALIGNMENTS.items():
            if name in rows:
                _add_band(axes, rows[name], colour, marker, metric_label(run, name))
        axes.axhline(chance, color=CHANCE, linestyle=":", linewidth=1.2, label=f"random directions: {chance:.3f}")
        axes.set_ylim(0, 1)
    _add_legends(panels)
    figure.supylabel("|cos| of leading directions (median; bands: quartiles)", fontsize="medium")
    return figure


def draw_coupling(run: Run) -> Figure:
    """Draw the mean over samples of the coupling of every write with every read, and where a read sees a write."""
    table = coupling_table(run)
    places = list(dict.fromkeys(zip(table["write_layer"], table["write_component"], strict=True)))
    size = len(places)
    mean, seen = (table[name].to_numpy(float).reshape(size, size) for name in ("mean", "downstream"))
    figure = Figure(figsize=(7.4, 6.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(mean, cmap="viridis", interpolation="nearest", vmin=0)
    chance = random_alignment(run.dataset.sizes["d_model"])
    bar = figure.colorbar(image, label=f"mean of |u · v| over samples (line: random directions, {chance:.3f})")
    bar.ax.axhline(chance, color="white", linewidth=2)
    for row, column in np.ndindex(size, size):
        _add_border(axes, seen, row, column)
    of = _label_places(axes, places)
    axes.set_xlabel(f"read: leading right singular vector $v$ of {of}")
    axes.set_ylabel(f"write: leading left singular vector $u$ of {of}")
    title = f"{title_lines(run, figure.get_figwidth())}\nabove the line: reads that come after the write in the stream"
    axes.set_title(title, fontsize="medium", parse_math=False)
    return figure


def _label_places(axes: Axes, places: Sequence[tuple[int, str]]) -> str:
    """Name layer and component at every place, or, where these are many, layers alone; returns what ticks are of."""
    if len(places) <= LABELLED_PLACES:
        names = [f"{layer} {component_words(component)}" for layer, component in places]
        axes.set_xticks(range(len(places)), names, rotation=90, fontsize="small", parse_math=False)
        axes.set_yticks(range(len(places)), names, fontsize="small", parse_math=False)
        return "layer and component"
    layers = np.array([layer for layer, _ in places])
    begins = np.flatnonzero(np.r_[True, layers[1:] != layers[:-1]])
    step = -(-len(begins) // LABELLED_LAYERS)
    middles = (begins + np.r_[begins[1:], len(places)] - 1) / 2
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(middles[::step], [str(layer) for layer in layers[begins][::step]], fontsize="small")
        axis.set_ticks(begins - 0.5, minor=True)
        axis.set_tick_params(which="major", length=0)
    inside = dict.fromkeys(component_words(component) for _, component in places)
    return f"layer (in each: {', '.join(inside)})"


def draw_kinds(run: Run) -> Figure:
    """Draw ρ and the gain of the residual direction by layer and kind of the last token: a row a component."""
    layers = sorted(set(run.metrics["layer"].tolist()))
    shown = {component: shown_kinds(run, component)[0] for component in run.components}
    widest = max(2, *map(len, shown.values()))
    panel = min(max(MARGIN_INCHES + BOX_INCHES * len(layers) * widest, 4.2), 9.0)
    figure = Figure(figsize=(len(BY_KIND) * panel, 0.9 + 2.7 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), len(BY_KIND), squeeze=False)
    pitch = (panel - MARGIN_INCHES) / len(layers)
    for row, (component, kinds) in zip(grid, shown.items(), strict=True):
        own = np.asarray(run.provenance["token_kinds"][component])
        rows = run.metrics[run.metrics["component"] == component].sort_values(["layer", "sample"])
        slot = min(0.84 / max(len(kinds), 1), WIDEST_BOX / pitch)
        for axes, metric in zip(row, BY_KIND, strict=True):
            drawn = []
            for position, kind in enumerate(kinds):
                samples = {
                    layer: part[metric].to_numpy(np.float64)[own == kind] for layer, part in rows.groupby("layer")
                }
                shift = (position - (len(kinds) - 1) / 2) * slot
                add_boxes(axes, samples, KIND_STYLES[kind], shift=shift, width=0.86 * slot)
                drawn += list(samples.values())
            values = np.concatenate(drawn) if drawn else np.zeros(0)
            scale_values(axes, values)
            if values.size and values.min() > 0 and uses_log_axis(values):
                axes.set_yscale("log")
            label_layers(axes, layers, pitch)
            axes.set_ylabel(metric_label(run, metric))
            axes.set_title(component_words(component), fontsize="medium", parse_math=False)
    _add_kind_legend(run, figure, shown)
    return figure


def shown_kinds(run: Run, component: str) -> tuple[list[str], dict[str, int]]:
    """List the kinds of token with samples enough to be drawn, and count those of the others."""
    own = run.provenance["token_kinds"][component]
    counts = {kind: own.count(kind) for kind in KINDS if kind in own}
    shown = [kind for kind, count in counts.items() if count >= FEWEST]
    return shown, {kind: count for kind, count in counts.items() if count < FEWEST}


def coupling_table(run: Run) -> pandas.DataFrame:
    """Read the coupling of every write with every read."""
    return pandas.read_csv(run.folder / COUPLING_FILE)


def _panels(run: Run) -> tuple[Figure, list[Axes]]:
    count = len(run.components)
    columns = min(count, PANEL_COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(1 + 4.2 * columns, 6), 0.6 + 4.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel().tolist()
    for axes in panels[count:]:
        axes.remove()
    for axes, component in zip(panels, run.components, strict=False):
        axes.set_title(component_words(component), fontsize="medium", parse_math=False)
        axes.set_xlabel("layer")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.tick_params(labelleft=True)
        axes.grid(color="0.92", linewidth=0.6)
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    return figure, panels[:count]


def _rows(run: Run, component: str) -> dict[str, pandas.DataFrame]:
    """Take a component's rows of `summary.csv` by metric, layers down; those without any value are left out."""
    own = run.summary[(run.summary["component"] == component) & (run.summary["n"] > 0)]
    return {str(name): rows.set_index("layer") for name, rows in own.groupby("metric")}


def _add_band(axes: Axes, rows: pandas.DataFrame, colour: str, marker: str, label: str) -> None:
    axes.fill_between(rows.index, rows["q1"], rows["q3"], color=colour, alpha=0.18, linewidth=0)
    axes.plot(rows["median"], color=colour, marker=marker, markersize=4, linewidth=1.6, label=label)


def _add_legends(panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
            fontsize="x-small",
            frameon=False,
            handlelength=2.8,
        )


def _add_border(axes: Axes, seen: np.ndarray, row: int, column: int) -> None:
    """Draw the line between cells whose read sees the write and others, on this cell's right and lower side."""
    line: dict[str, Any] = {"color": "white", "linewidth": 2, "solid_capstyle": "projecting"}
    last = len(seen) - 1
    if column < last and seen[row, column] != seen[row, column + 1]:
        axes.plot([column + 0.5] * 2, [row - 0.5, row + 0.5], **line)
    if row < last and seen[row, column] != seen[row + 1, column]:
        axes.plot([column - 0.5, column + 0.5], [row + 0.5] * 2, **line)


def _add_kind_legend(run: Run, figure: Figure, shown: Mapping[str, Sequence[str]]) -> None:
    names = [kind for kind in KINDS if any(kind in kinds for kinds in shown.values())]
    handles = [
        Patch(
            facecolor=KIND_STYLES[kind].colour,
            hatch=KIND_STYLES[kind].hatch,
            edgecolor="0.15",
            linewidth=0.7,
            label=f"{kind} ({_counted(run, kind)})",
        )
        for kind in names
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(
        f"{title_lines(run, figure.get_figwidth())}, by kind of last token", fontsize="medium", parse_math=False
    )


def _counted(run: Run, kind: str) -> str:
    """Count a kind's samples: one number where all components agree."""
    counts = {own.count(kind) for own in run.provenance["token_kinds"].values()}
    return " or ".join(map(str, sorted(counts)))
