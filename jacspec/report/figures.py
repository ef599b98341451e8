"""Figures of a run over samples: for each metric a box plot by layer, and the spectra themselves; how all are saved.

Everything is drawn on `Figure` objects, without pyplot: nothing global is changed and nothing needs a display.
"""

import contextlib
import functools
import io
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogFormatterSciNotation, MaxNLocator
from PIL import Image

from jacspec.report.labels import component_words, layer_words, metric_label, metric_title, title_lines
from jacspec.report.lines import draw_spectra
from jacspec.runs import SUMMARY_COLUMNS, Run, summarise, write_atomically
from jacspec.runs.files import FIGURES, make_subfolder
from jacspec.studies.study import Plot

SPECTRA = "spectra"
SPECTRA_CAPTION = (
    "Singular values by index, the median over samples, a line a layer. Values that are rounding only (σ₁ · k · eps "
    "and below) are not drawn."
)
DPI, COMPRESSION = 200, 3
"""Of PNG files; more than level 3 takes twice as long for a tenth less."""
MARGIN_INCHES, BOX_INCHES, WIDEST_BOX, TICK_INCHES = 1.0, 0.23, 0.4, 0.3


class Style(NamedTuple):
    """How a component's boxes are filled: a colour and a hatch, so that they also differ in grey."""

    colour: str
    hatch: str


# Okabe & Ito's colours, which the colour-blind tell apart; https://jfly.uni-koeln.de/color/
STYLES = (
    Style("#0072B2", ""),
    Style("#E69F00", "////"),
    Style("#009E73", "...."),
    Style("#CC79A7", "\\\\\\\\"),
    Style("#56B4E9", "xxxx"),
)
FIXED_STYLES = {"attn": 0, "mlp": 1}


def box_plots(run: Run, metrics: Sequence[str]) -> dict[str, Plot]:
    """Make a box plot a metric, named like it."""
    of = f"of {list_words(run.components)} by layer;"
    return {
        metric: Plot(
            functools.partial(draw_boxes, run, metric),
            f"{metric_title(run, metric)} {of} {_count_known(run, metric)} samples a box.",
            functools.partial(_box_words, run, metric),
            explored=True,
        )
        for metric in metrics
    }


def _count_known(run: Run, metric: str) -> int:
    """Count the samples that have a metric, where most have it: some are computed of a few that are drawn."""
    known = np.isfinite(run.metrics[metric].to_numpy(np.float64))
    counts = run.metrics[known].groupby(["layer", "component"]).size()
    return int(counts.max()) if len(counts) else len(run.samples)


def spectra_plots(run: Run) -> dict[str, Plot]:
    """Make the figure of the spectra where a run has any: two points a layer are none."""
    if not has_spectra(run):
        return {}
    words = f"Line plots of the singular values of each layer, a panel each for {list_words(run.components)}."
    return {SPECTRA: Plot(functools.partial(draw_spectra, run), SPECTRA_CAPTION, lambda: words, explored=True)}


def has_spectra(run: Run) -> bool:
    """Say whether a run has more than two singular values a layer."""
    return bool(run.dataset.sizes["k"] > 2)


def list_words(components: Sequence[str]) -> str:
    """Name components in words, as in `attention and MLP`."""
    *others, last = map(component_words, components)
    return f"{', '.join(others)} and {last}" if others else last


def _box_words(run: Run, metric: str) -> str:
    """Say what the picture shows to those who do not see it: where the medians run from and to."""
    rows = run.summary[run.summary["metric"] == metric].dropna(subset=["median"])
    words = f"Box plots of {metric_title(run, metric)} by layer."
    if rows.empty:
        return f"{words} No finite values."
    ends = [rows.loc[rows["median"].idxmin()], rows.loc[rows["median"].idxmax()]]
    low, high = (f"{end['median']:.4g} ({component_words(end['component'])}, layer {end['layer']})" for end in ends)
    return f"{words} Medians run from {low} to {high}."


def save_figure(run: Run, name: str, figure: Figure, formats: Sequence[str]) -> None:
    """Write a figure into `figures/` in each of `formats`; the same run gives the same bytes."""
    folder = make_subfolder(run.folder, FIGURES)
    for kind in formats:
        write_atomically(folder / f"{name}.{kind}", _RENDER[kind](figure))


def draw_boxes(run: Run, metric: str) -> Figure:
    """Draw a metric's distribution over samples: a box a (layer, component), components side by side.

    Box, whiskers and fliers come from the same function as `summary.csv`, so that picture and table agree.
    """
    table = run.metrics
    measured = set(table.loc[table[metric].notna(), "component"])
    components = [name for name in run.components if name in measured or not measured]
    layers = sorted(set(table["layer"].tolist()))
    figure = Figure(figsize=(figure_width(len(layers), len(components)), 4.4), layout="constrained")
    axes = figure.add_subplot()
    inches = figure.get_figwidth() - MARGIN_INCHES
    # Of layers that are far from each other boxes may be wider than the distance of two that follow.
    apart, pitch = min(np.diff(layers), default=1), inches / len(layers)
    slot = min(0.84 * apart / len(components), WIDEST_BOX * (layers[-1] - layers[0] + 1) / inches)
    for position, (component, style) in enumerate(component_styles(components).items()):
        rows = table[table["component"] == component]
        samples = {layer: rows.loc[rows["layer"] == layer, metric].to_numpy(np.float64) for layer in layers}
        add_boxes(axes, samples, style, shift=(position - (len(components) - 1) / 2) * slot, width=0.86 * slot)
    scale_values(axes, table[metric].to_numpy(np.float64))
    label_layers(axes, layers, pitch)
    edge = max(0.6, 0.6 * slot * len(components))
    axes.set_xlim(layers[0] - edge, layers[-1] + edge)
    axes.set_xlabel(layer_words(components))
    known, label = _count_known(run, metric), metric_label(run, metric)
    axes.set_ylabel(label if known == len(run.samples) else f"{label}\nof {known} samples")
    axes.set_title(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    _add_legend(figure, components)
    return figure


def figure_width(layers: int, components: int) -> float:
    """Choose a figure's width in inches: room for each layer's boxes, within what a page can show."""
    return min(max(MARGIN_INCHES + BOX_INCHES * layers * max(components, 2), 5.6), 14.0)


def uses_log_axis(values: Float[np.ndarray, " value"]) -> bool:
    """Decide for a logarithmic axis: where positive values span a decade; two where none is above 1, as of shares."""
    positive = values[np.isfinite(values) & (values > 0)]
    return bool(positive.size) and bool(positive.max() > (10 if positive.max() > 1 else 100) * positive.min())


def component_styles(components: Sequence[str]) -> dict[str, Style]:
    """Give each component its style; attention and MLP have theirs in every figure, others take what is left."""
    taken = {name: FIXED_STYLES[name] for name in components if name in FIXED_STYLES}
    free = (index for index in itertools.count() if index not in taken.values())
    return {name: STYLES[taken[name] if name in taken else next(free) % len(STYLES)] for name in components}


def add_boxes(axes: Axes, samples: Mapping[int, np.ndarray], style: Style, *, shift: float, width: float) -> None:
    """Draw a box a layer, `shift` beside the layer's place."""
    boxes = {layer: statistics for layer, values in samples.items() if (statistics := _box_statistics(values))}
    axes.bxp(
        list(boxes.values()),
        positions=[layer + shift for layer in boxes],
        widths=width,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": style.colour, "hatch": style.hatch, "edgecolor": "0.15", "linewidth": 0.7},
        medianprops={"color": "black", "linewidth": 1.6},
        whiskerprops={"color": "0.25", "linewidth": 0.8},
        capprops={"color": "0.25", "linewidth": 0.8},
        flierprops={
            "marker": "o",
            "markersize": 2,
            "markeredgewidth": 0.4,
            "markeredgecolor": style.colour,
            "alpha": 0.7,
        },
    )
    # A box without height has no colour to tell the component by: mark it.
    flat = {layer + shift: found["med"] for layer, found in boxes.items() if found["q1"] == found["q3"]}
    axes.plot(list(flat), list(flat.values()), "D", color=style.colour, markeredgecolor="0.15", markersize=6, zorder=3)


def _box_statistics(values: np.ndarray) -> dict[str, Any]:
    """Summarise one box as `Axes.bxp` reads it; empty where no value is there to draw."""
    found = dict(zip(SUMMARY_COLUMNS[3:], summarise(values), strict=True))
    if not found["n"]:
        return {}
    low, high = found["whisker_low"], found["whisker_high"]
    beyond = values[np.isfinite(values) & ((values < low) | (values > high))]
    return {
        "med": found["median"],
        "q1": found["q1"],
        "q3": found["q3"],
        "whislo": low,
        "whishi": high,
        "fliers": beyond,
    }


class PlainLogFormatter(LogFormatterSciNotation):
    """Write the ticks of a logarithmic axis as plain numbers, where Matplotlib writes any."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Write one tick."""
        return f"{x:g}" if super().__call__(x, pos) else ""


def scale_values(axes: Axes, values: np.ndarray) -> None:
    """Choose the scale of the value axis, and say so where it cannot show every value."""
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    finite = values[np.isfinite(values)]
    if not finite.size:
        axes.annotate("no finite values", (0.5, 0.5), xycoords="axes fraction", ha="center")
        axes.set_yticks([])
    elif uses_log_axis(finite):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(PlainLogFormatter())
        axes.yaxis.set_minor_formatter(PlainLogFormatter())
        if hidden := int((finite <= 0).sum()):
            axes.annotate(
                f"values ≤ 0, below the axis: {hidden}", (0.01, 0.02), xycoords="axes fraction", fontsize="small"
            )
    elif (finite == np.round(finite)).all():
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def label_layers(axes: Axes, layers: Sequence[int], pitch: float) -> None:
    """Put layers on the horizontal axis, `pitch` inches apart."""
    step = next(step for step in _steps() if step * pitch >= TICK_INCHES)
    axes.xaxis.set_major_locator(FixedLocator([layer for layer in layers if layer % step == 0]))
    axes.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
    axes.set_xlabel("layer")


def _steps() -> Iterator[int]:
    return (factor * 10**power for power in itertools.count() for factor in (1, 2, 5))


def _add_legend(figure: Figure, components: Sequence[str]) -> None:
    handles = [
        Patch(
            facecolor=style.colour, hatch=style.hatch, edgecolor="0.15", linewidth=0.7, label=component_words(component)
        )
        for component, style in component_styles(components).items()
    ]
    columns = max(1, int(figure.get_figwidth() / 1.9))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


@contextlib.contextmanager
def _lacking_glyphs() -> Iterator[None]:
    """Be quiet about letters of a model's name that the font lacks: a box stands for each, the page has them right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def render_png(figure: Figure) -> bytes:
    """Draw once, where `savefig` draws twice to lay out; its pixels are the same, but for an alpha that is 1."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    with _lacking_glyphs():
        canvas.draw()
    stream = io.BytesIO()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    Image.fromarray(pixels).save(stream, "png", dpi=(DPI, DPI), compress_level=COMPRESSION)
    return stream.getvalue()


def _render_pdf(figure: Figure) -> bytes:
    stream = io.BytesIO()
    # Type 42 keeps text as text; journals refuse Type 3, Matplotlib's default.
    with _lacking_glyphs(), matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(stream, format="pdf", dpi=DPI, metadata={"CreationDate": None})
    return stream.getvalue()


_RENDER = {"png": render_png, "pdf": _render_pdf}
