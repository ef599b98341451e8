"""Figures of a `task=train` run."""

import functools
import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from jacspec.report.labels import metric_label, model_name
from jacspec.report.plotting import CHANCE_LINE, add_grid
from jacspec.runs import Run
from jacspec.studies.study import Plot
from jacspec.studies.train import CURVE_FILE

TRAINING, HELD_OUT = "#0072B2", "#D55E00"


def train_figures(run: Run) -> Mapping[str, Plot]:
    """Name the figures of a `task=train` run."""
    return {
        "loss": Plot(
            functools.partial(draw_loss, run),
            "Training loss of single batches against the step, in nats a token; dotted, the loss of a model that knows "
            "nothing.",
        ),
        "bits_per_byte": Plot(
            functools.partial(draw_bits, run),
            "Bits per byte of the held-out text at every revision that was kept.",
            explored=True,
        ),
    }


def draw_loss(run: Run) -> Figure:
    """Draw the loss curve."""
    curve = run.table(CURVE_FILE)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(curve["step"], curve["loss"], color=TRAINING, linewidth=1.2, label="training loss, single batches")
    nothing = math.log(run.provenance["vocabulary"])
    axes.axhline(nothing, color=CHANCE_LINE[1], linewidth=1.1, linestyle=(0, (1, 2)), label="ln of the vocabulary")
    axes.set_ylabel("loss (nats a token)")
    axes.legend(frameon=False, fontsize="small")
    return _finish(figure, run)


def draw_bits(run: Run) -> Figure:
    """Draw the bits per byte of every revision."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(run.metrics["step"], run.metrics["bits_per_byte"], color=HELD_OUT, marker="o", linewidth=1.2)
    axes.set_ylabel(metric_label(run, "bits_per_byte"))
    return _finish(figure, run)


def _finish(figure: Figure, run: Run) -> Figure:
    (axes,) = figure.axes
    axes.set_xlabel("step")
    add_grid(axes)
    figure.suptitle(model_name(run), fontsize="medium", parse_math=False)
    return figure
