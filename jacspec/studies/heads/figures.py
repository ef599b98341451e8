"""Figures of a run over attention heads, after the study of per-head W_QK spectra."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import lookup, metric_label, model_name
from jacspec.report.plotting import AGAINST_ELEMENTS, CHANCE, add_grid, panels, roles_of, scatter_elements
from jacspec.runs import Run
from jacspec.spectra.significance import SURE
from jacspec.studies.heads import NULLS
from jacspec.studies.heads.lambda_figures import (
    draw_baseline,
    draw_density,
    draw_lambda,
    draw_layer,
    draw_two_heads,
    product_title,
)
from jacspec.studies.study import Plot

COLOUR = "#0072B2"
BY_HEAD = ("lambda_0", "npr_lambda", "spectral_entropy", "kappa_sigma", "positive_share", "copying_score")
FACTORS = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("std", "kurtosis", "kl"))


GIVEN = "Of the largest λ, dashes are what Gaussian factors have whose product has the same standard deviation."

CAPTIONS = {
    "lambda": "λ of every head by index, a row a head: λ itself, and divided by the mean of the head.",
    "density": "How the λ of every head are distributed, a row a head: λ itself, and divided by their mean; dashed, "
    "the edges that the product of two Gaussian factors has. White is none, and the d_model − d_head zeros of the "
    "product are not drawn.",
    "by_head": "Largest λ, normalised participation ratio, entropy and condition number of every head, how many of its "
    "eigenvalues have a positive real part, and Σ Re μ / Σ |μ|, with the mean of each layer and what Gaussian factors "
    f"give (mean and three standard deviations). {GIVEN}",
    "factors": "Standard deviation, excess kurtosis and divergence from the normal law of the elements of both "
    "factors, a point a head, with the mean of each layer.",
    "standing": "σ₁ of every head over what each null has on average: Gaussian factors of one variance, Gaussian "
    "factors with its own row and column norms, its own factors turned to one another at random. A dot: q below 0.05 "
    "over all heads of the run, a ring: the smallest σ is that small.",
    "elements": "Spectral quantities against the standard deviation of the elements of the product, a point a head.",
    "grid": "λ of every head of one layer by index; dashed, the median of Gaussian factors with the same mean λ.",
    "densities": "How the λ of every head of one layer, divided by their mean, are distributed; dashed, the law of "
    "products of Gaussian factors as both sizes grow.",
    "two_heads": "λ of two heads by index and as densities: those of `heads.shown`, else the one whose largest σ is "
    "nearest to that of Gaussian factors, and the farthest.",
    "baseline": "λ of products of two Gaussian factors of the heads' shape, over their mean: draws, the law of the "
    "product as both sizes grow (free probability), and Marchenko and Pastur's law of one factor; dotted, their edges. "
    "The mean is d² where the elements of the factors have variance 1, (d s)²/d_head where those of the product have "
    "standard deviation s.",
    "entropy_npr": "Spectral entropy against normalised participation ratio, a point a head.",
}


def head_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=heads` run: seven of W_QK, six of W_OV, one of both, and those on request."""
    figures: dict[str, Plot] = {}
    for role in roles_of(run):
        asked = ASKED if role.endswith("qk") else {**ASKED, "grid": DRAWN["grid"]}
        drawn = {name: draw for name, draw in DRAWN.items() if name not in asked}
        for name, draw in {**drawn, **asked}.items():
            figures[f"{name}_{role}"] = Plot(
                functools.partial(draw, run, role), CAPTIONS.get(name, CAPTIONS["by_head"]), on_request=name in asked
            )
    return figures | {"entropy_npr": Plot(lambda: _draw_entropy(run), CAPTIONS["entropy_npr"])}


def _draw_standing(run: Run, role: str) -> Figure:
    """Draw layer by head how far σ₁ is above what each null has, with a mark where q says so."""
    table = run.metrics[run.metrics["role"] == role]
    layers = sorted(set(table["layer"]))
    figure, axes = panels(len(NULLS), product_title(run, role, "largest σ"), size=(3.6, 3.4))
    excess = np.log2(table[[f"{null}_excess" for null in NULLS]].to_numpy(float))
    known = np.abs(excess[np.isfinite(excess)])
    reach = max(float(known.max()), 0.1) if known.size else 1.0
    places = table["head"].to_numpy(int), np.array([layers.index(layer) for layer in table["layer"]])
    for panel, null, values in zip(axes, NULLS, excess.T, strict=True):
        cells = np.full((len(layers), places[0].max() + 1), np.nan)
        cells[places[1], places[0]] = values
        picture = panel.imshow(cells, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", interpolation="nearest")
        for end, style in MARKS.items():
            sure = (table[f"{null}_{end}_q"] < SURE).to_numpy()
            panel.scatter(places[0][sure], places[1][sure], linewidths=0.7, **style)
        panel.set_yticks(range(len(layers))[:: -(-len(layers) // 16)], layers[:: -(-len(layers) // 16)])
        panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        panel.set_title(TITLES[null], fontsize="small")
    figure.supxlabel("head (dot: largest σ, ring: smallest σ beyond chance, q < 0.05)", fontsize="medium")
    figure.supylabel("layer", fontsize="medium")
    figure.colorbar(picture, ax=axes, label=r"$\log_2 (\sigma_1 / \sigma_1^{\mathrm{null}})$")
    return figure


MARKS: Mapping[str, Mapping[str, Any]] = {
    "largest": {"s": 10, "c": "black", "edgecolors": "white"},
    "smallest": {"s": 26, "c": "none", "edgecolors": "0.2"},
}

TITLES = {"plain": "Gaussian, one variance", "norms": "Gaussian, its own norms", "turned": "its own factors, turned"}


def _draw_by_head(run: Run, role: str, *, names: Sequence[str], what: str) -> Figure:
    table = run.metrics[run.metrics["role"] == role]
    names = [name for name in names if name in table]
    size = (6.4, 3.4) if len(names) == 1 else (4.2, 2.8)
    figure, axes = panels(len(names), product_title(run, role, what), size=size)
    for panel, name in zip(axes, names, strict=True):
        _add_points(panel, run, table, name, lookup(run.provenance, f"baseline.metrics.{name}"))
    figure.supxlabel(
        "layer (a point a head, shifted by head; line: mean of the layer; band or dashes: chance)", fontsize="medium"
    )
    return figure


def _add_points(panel: Axes, run: Run, table: Any, name: str, chance: Any) -> None:
    if not table[name].notna().any():
        return
    layers, heads = table["layer"].to_numpy(float), table["head"].to_numpy(float)
    places = layers + 0.7 * (heads / (heads.max() + 1) - 0.35)
    over_mean = lookup(run.provenance, "baseline.lambda_0 over mean")
    if name == "lambda_0" and over_mean:
        given = over_mean["mean"] * np.square(table["rows"] * table["element_std"]) / run.dataset.sizes["k"]
        panel.scatter(places, given, s=16, color=CHANCE, marker="_", linewidths=1)
    panel.scatter(places, table[name], s=6, color=COLOUR, linewidths=0)
    means = table.groupby("layer")[name].mean()
    panel.plot(means.index, means, color="black", linewidth=1.2)
    if chance:
        panel.axhspan(chance["mean"] - 3 * chance["sd"], chance["mean"] + 3 * chance["sd"], color=CHANCE, alpha=0.35)
    values = table[name].to_numpy(float)
    if not (values <= 0).any() and uses_log_axis(values):
        panel.set_yscale("log")
    panel.set_ylabel(metric_label(run, name), fontsize="small")
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    add_grid(panel)


def _draw_entropy(run: Run) -> Figure:
    roles = roles_of(run)
    figure, axes = panels(len(roles), f"{model_name(run)}: entropy against participation", size=(4.0, 3.4))
    for panel, role in zip(axes, roles, strict=True):
        table = run.metrics[run.metrics["role"] == role]
        points = panel.scatter(
            table["npr_lambda"], table["spectral_entropy"], s=9, c=table["layer"], cmap="viridis", linewidths=0
        )
        place = [lookup(run.provenance, f"baseline.metrics.{name}.mean") for name in ("npr_lambda", "spectral_entropy")]
        if None not in place:
            panel.plot(*place, "+", color=CHANCE, markersize=12, markeredgewidth=2, label="Gaussian factors")
            panel.legend(fontsize="small", frameon=False)
        panel.set_title(role, fontsize="medium")
        add_grid(panel)
    figure.colorbar(points, ax=axes, label="layer")
    figure.supxlabel(metric_label(run, "npr_lambda"), fontsize="medium")
    figure.supylabel(metric_label(run, "spectral_entropy"), fontsize="medium")
    return figure


def _draw_elements(run: Run, role: str) -> Figure:
    table = run.metrics[run.metrics["role"] == role]
    figure, axes = panels(len(AGAINST_ELEMENTS), product_title(run, role, "spectra against elements"), size=(4.0, 2.9))
    colours = matplotlib.colormaps["viridis"](table["layer"] / max(table["layer"].max(), 1))
    scatter_elements(run, axes, table, colours)
    figure.supxlabel("standard deviation of the elements (dark: first layer, light: last)", fontsize="medium")
    return figure


Draw = Callable[[Run, str], Figure]

DRAWN: Mapping[str, Draw] = {
    "standing": _draw_standing,
    "lambda": draw_lambda,
    "density": draw_density,
    "by_head": functools.partial(_draw_by_head, names=BY_HEAD, what="spectral quantities"),
    "factors": functools.partial(_draw_by_head, names=FACTORS, what="elements of the factors"),
    "elements": _draw_elements,
    "grid": functools.partial(draw_layer, density=False),
}
"""Figures of each product by name."""

ASKED: Mapping[str, Draw] = {
    "baseline": draw_baseline,
    "two_heads": draw_two_heads,
    "densities": functools.partial(draw_layer, density=True),
    **{
        name: functools.partial(_draw_by_head, names=(name,), what=words)
        for name, words in (("lambda_0", "largest λ"), ("npr_lambda", "participation"), ("spectral_entropy", "entropy"))
    },
    "kappa": functools.partial(_draw_by_head, names=("kappa_lambda", "kappa_sigma"), what="condition numbers"),
}
"""Those that are drawn where their name is given."""
