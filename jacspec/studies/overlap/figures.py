"""Figures of a run of `task=overlap`: what each singular vector reads of the activations, by index."""

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from jacspec.report.labels import run_title
from jacspec.report.overlaps import EDGES, LEVELS, WORDS, Spectra, add_spectra, frame_overlap, label_overlap
from jacspec.report.plotting import MEAN, NULL, panels, roles_of
from jacspec.runs import Run
from jacspec.studies.overlap.fisher_figures import fisher_figures
from jacspec.studies.overlap.model_figures import model_figures
from jacspec.studies.study import Plot

CAPTIONS = {
    "overlap": "O_k = max_j |v_k · f_j| of the right singular vectors with the principal directions of what enters "
    "the matrix, by index: a line a matrix or head, layer after layer, black their mean; grey, what random directions "
    "have (mean and 99 %; dotted, "
    "99 % of those with the column norms of the matrix). "
    f"{WORDS}",
    "variance": "Variance of what enters the matrix along its right singular vectors, over that of an average "
    "direction, by index: a line a matrix or head, layer after layer, black their mean; 1 is what random directions "
    "have on average, "
    "dotted what those with the column norms of the matrix have.",
}


def overlap_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of the run: overlap with principal directions, variance along singular vectors, Fisher."""
    return {
        "overlap": Plot(lambda: _draw_overlap(run), CAPTIONS["overlap"]),
        "variance": Plot(lambda: _draw_variance(run), CAPTIONS["variance"]),
        **fisher_figures(run),
        **model_figures(run),
    }


def _profiles(run: Run, role: str, name: str) -> Float[np.ndarray, "matrix k"]:
    """Collect a profile of all matrices of a role, layer after layer."""
    values = run.dataset[name].values[run.dataset["role"].values == role].astype(np.float64)
    return values[:, np.isfinite(values).any(axis=0)]


def _add_layers(panel: Axes, rows: Float[np.ndarray, "matrix k"]) -> None:
    index = np.arange(1, rows.shape[1] + 1)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(rows)))
    for values, colour in zip(rows, colours, strict=True):
        panel.plot(index, values, color=colour, linewidth=0.6, alpha=0.7)
    panel.plot(index, np.nanmean(rows, axis=0), color=MEAN, linewidth=1.3)
    panel.grid(color="0.92", linewidth=0.6)


def _draw_overlap(run: Run) -> Figure:
    """Draw O_k against the index, with the level of chance and the spectrum inset."""
    roles = roles_of(run)
    title = f"{run_title(run)}: overlap with the principal directions of the input, a line a matrix (dark: first)"
    figure, axes = panels(len(roles), title, size=(3.6, 2.9))
    table = run.metrics
    for panel, role in zip(axes, roles, strict=True):
        overlap = _profiles(run, role, "overlap")
        _add_layers(panel, overlap)
        own = table[table["role"] == role]
        levels = {name: own[name].mean() for name in LEVELS if name in own}
        # Runs from before these columns have no edges.
        low, high = (own.get(name, np.nan * own["overlap_null"]).to_numpy(float) for name in EDGES)
        spectra = Spectra(_profiles(run, role, "singular_values"), low, high)
        add_spectra(frame_overlap(panel, role, overlap, levels, spectra), spectra, "#0072B2")
    label_overlap(figure)
    return figure


def _draw_variance(run: Run) -> Figure:
    """Draw the relative variance of the input along each singular vector."""
    roles = roles_of(run)
    title = f"{run_title(run)}: variance of the input along singular vectors, a line a matrix (dark: first)"
    figure, axes = panels(len(roles), title, size=(3.6, 2.6))
    for panel, role in zip(axes, roles, strict=True):
        rows = _profiles(run, role, "relative_variance")
        _add_layers(panel, np.where(rows > 0, rows, np.nan))
        panel.axhline(1, color=NULL, linewidth=1)
        own = run.metrics.loc[run.metrics["role"] == role]
        if "variance_norms" in own and (level := own["variance_norms"].mean()) > 0:
            panel.axhline(level, color=NULL, linewidth=1, linestyle=":")
        panel.set_yscale("log")
        low, high = np.log10(panel.get_ylim())
        # Some of 1, 2 and 5 in each decade while these are few, else decades: as the explorer does.
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 3 else (1,)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_title(role, fontsize="medium", parse_math=False)
    figure.supxlabel("index $k$ of the singular value", fontsize="medium")
    figure.supylabel(
        r"$n\, v_k^\top C v_k\, /\, \mathrm{tr}\, C$ (grey: average direction; dotted: with its norms)",
        fontsize="medium",
    )
    return figure
