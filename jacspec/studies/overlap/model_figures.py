"""Figures of matrices beside the linear model of learned noise: energies, spectra, and where small values read."""

import functools
from collections.abc import Callable

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.labels import run_title
from jacspec.report.plotting import COLOURS, MEAN, NULL, label_log, panels, roles_of
from jacspec.runs import Run
from jacspec.studies.study import Plot

GROUPS = 24
"""Points that a line is averaged to."""

CAPTIONS = {
    "energies": "Energy |W p|² along directions p of the data (of half of the samples), over its mean, against the "
    "variance of the other samples along p, over its mean: a line a matrix, layer after layer (dark: first), "
    "neighbours averaged but the strongest. Grey: independent entries. A line that falls is what learnt noise has, one "
    "that rises amplifies what varies most. Below the red dots, 1 − √(columns/rows), one direction alone makes a "
    "singular value below the bulk.",
    "model_spectra": "Singular values over their median, by rank: thin, a matrix each (dark: first layer), black their "
    "mean; grey, Marchenko–Pastur's law; blue, the law of the linear model with the exponent of each matrix, mean.",
    "strong_directions": "Share of a right singular vector that lies in the tenth of the directions of the data along "
    "which the data vary most, by the rank of its singular value (right: the smallest): thin, a matrix each (dark: "
    "first layer), black their mean; grey, random vectors; blue, the linear model, mean.",
}


def model_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a run that has the linear model."""
    if "energy_exponent" not in run.metric_names:
        return {}
    drawn: dict[str, Callable[[Run], Figure]] = {
        "energies": _draw_energies,
        "model_spectra": _draw_spectra,
        "strong_directions": _draw_strong,
    }
    return {name: Plot(functools.partial(draw, run), CAPTIONS[name]) for name, draw in drawn.items()}


def _profiles(run: Run, role: str, name: str) -> Float[np.ndarray, "matrix k"]:
    """Take a profile of the matrices of a role that have one, layer after layer."""
    values = run.dataset[name].values[run.dataset["role"].values == role].astype(np.float64)
    values = values[np.isfinite(values).any(axis=1)]
    return values[:, np.isfinite(values).any(axis=0)]


def _averaged(values: Float[np.ndarray, "matrix k"]) -> Float[np.ndarray, "matrix group"]:
    parts = np.array_split(values, min(GROUPS, values.shape[1]), axis=1)
    return np.stack([part.mean(axis=1) for part in parts], axis=1)


def _from_the_first(values: Float[np.ndarray, "matrix k"]) -> Float[np.ndarray, "matrix group"]:
    """Average so that the first few stay alone, and later ones are ever more together."""
    ends = np.unique(np.geomspace(1, values.shape[1], GROUPS).round().astype(int))
    return np.stack([part.mean(axis=1) for part in np.split(values, ends[:-1], axis=1)], axis=1)


def _layers(count: int) -> Float[np.ndarray, "matrix rgba"]:
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.92, count))


def _framed(run: Run, title: str, roles: list[str]) -> tuple[Figure, list[Axes]]:
    figure, axes = panels(len(roles), f"{run_title(run)}: {title}", size=(3.4, 2.6))
    for panel, role in zip(axes, roles, strict=True):
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    return figure, axes


def _roles(run: Run) -> list[str]:
    """List the roles that have an exponent, or all where none has."""
    known = [role for role in roles_of(run) if _profiles(run, role, "energy").size]
    return known or roles_of(run)[:1]


def _draw_energies(run: Run) -> Figure:
    """Draw the energy along directions of the data against the variance along them."""
    roles = _roles(run)
    figure, axes = _framed(run, "energy of weights along directions of the data", roles)
    for panel, role in zip(axes, roles, strict=True):
        energies, variances = (_from_the_first(_profiles(run, role, name)) for name in ("energy", "input_variance"))
        for x, y, colour in zip(variances, energies, _layers(len(energies)), strict=True):
            panel.plot(x, y, color=colour, linewidth=0.8)
        panel.axhline(1, color=NULL, linewidth=1)
        own = run.metrics[run.metrics["role"] == role].iloc[0]
        if own["cols"] < own["rows"]:
            panel.axhline(1 - (own["cols"] / own["rows"]) ** 0.5, color=COLOURS[5], linewidth=1, linestyle=":")
        panel.set_xscale("log")
        panel.set_yscale("log")
        label_log(panel.xaxis)
        label_log(panel.yaxis)
    figure.supxlabel("variance of the data along p, over the mean of all p", fontsize="medium")
    figure.supylabel("|W p|², over the mean of all p (grey: by chance)", fontsize="medium")
    return figure


def _draw_spectra(run: Run) -> Figure:
    """Draw singular values over their median beside both laws."""
    roles = _roles(run)
    figure, axes = _framed(run, "singular values beside Marchenko–Pastur and the model", roles)
    names = ("singular_values", "chance_singular_values", "model_singular_values")
    for panel, role in zip(axes, roles, strict=True):
        found, chance, model = (_over_median(_profiles(run, role, name)) for name in names)
        _add(panel, found, model, chance.mean(axis=0))
        panel.set_yscale("log")
        label_log(panel.yaxis)
    figure.supxlabel("index $k$ of the singular value", fontsize="medium")
    figure.supylabel("$\\sigma_k$, over the median", fontsize="medium")
    axes[0].legend(loc="upper right", frameon=False, fontsize="x-small")
    return figure


def _over_median(values: Float[np.ndarray, "matrix k"]) -> Float[np.ndarray, "matrix k"]:
    return values / np.median(values, axis=1, keepdims=True)


def _draw_strong(run: Run) -> Figure:
    """Draw the share of right singular vectors in the strongest tenth of the directions of the data."""
    roles = _roles(run)
    figure, axes = _framed(run, "share of singular vectors in the data's strongest tenth of directions", roles)
    for panel, role in zip(axes, roles, strict=True):
        found, model = (_averaged(_profiles(run, role, name)) for name in ("strong_share", "model_strong_share"))
        chance = run.metrics[run.metrics["role"] == role]["small_strong_chance"].mean()
        k = _profiles(run, role, "strong_share").shape[1]
        places = (np.arange(found.shape[1]) + 0.5) * k / found.shape[1]
        _add(panel, found, model, np.full(found.shape[1], chance), places)
        panel.set_ylim(bottom=0)
    figure.supxlabel("index $k$ of the singular value", fontsize="medium")
    figure.supylabel("share of $v_k$ in the strongest tenth", fontsize="medium")
    axes[0].legend(loc="upper right", frameon=False, fontsize="x-small")
    return figure


def _add(
    panel: Axes,
    found: Float[np.ndarray, "matrix k"],
    model: Float[np.ndarray, "matrix k"],
    chance: Float[np.ndarray, " k"],
    places: Float[np.ndarray, " k"] | None = None,
) -> None:
    """Draw what was found, each matrix and the mean, what the model has, and chance."""
    x = np.arange(1, found.shape[1] + 1) if places is None else places
    for values, colour in zip(found, _layers(len(found)), strict=True):
        panel.plot(x, values, color=colour, linewidth=0.5, alpha=0.5)
    panel.plot(x, chance, color=NULL, linewidth=1.6, label="independent entries")
    panel.plot(x, model.mean(axis=0), color=COLOURS[0], linewidth=1.6, linestyle="--", label="linear model")
    panel.plot(x, found.mean(axis=0), color=MEAN, linewidth=1.3, label="found (mean; thin: each matrix)")
