"""Figures of a run over attention heads, after the study of per-head W_QK spectra."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import lookup, metric_label, model_name
from jacspec.report.plotting import CHANCE, panels, roles_of
from jacspec.runs import Run
from jacspec.spectra.significance import SURE
from jacspec.studies.heads import NULLS
from jacspec.studies.study import Plot

COLOUR = "#0072B2"
DENSITY_BINS = np.linspace(0, 4, 81)
BY_HEAD = ("lambda_0", "npr_lambda", "spectral_entropy", "kappa_sigma", "positive_share", "copying_score")
FACTORS = tuple(f"{side}_{name}" for side in ("left", "right") for name in ("std", "kurtosis", "kl"))
AGAINST_ELEMENTS = ("lambda_0", "lambda_sum", "lambda_square_sum", "spectral_entropy")


CAPTIONS = {
    "lambda": "λ of every head by index, each head divided by its mean: a row a head.",
    "density": "How the λ of every head, divided by their mean, are distributed: a row a head; dashed, the edges that "
    "the product of two Gaussian factors has.",
    "by_head": "Largest λ, normalised participation ratio, entropy and condition number of every head, how many of its "
    "eigenvalues have a positive real part, and Σ Re μ / Σ |μ|, with the mean of each layer and what Gaussian factors "
    "give (mean and three standard deviations).",
    "factors": "Standard deviation, excess kurtosis and divergence from the normal law of the elements of both "
    "factors, a point a head, with the mean of each layer.",
    "standing": "σ₁ of every head over what each null has on average: Gaussian factors of one variance, Gaussian "
    "factors with its own row and column norms, its own factors turned to one another at random. A dot: q below 0.05 "
    "over all heads of the run, a ring: the smallest σ is that small.",
    "elements": "Spectral quantities against the standard deviation of the elements of the product, a point a head.",
    "grid": "Singular values of every head of one layer, with the median of the Gaussian baseline.",
    "entropy_npr": "Spectral entropy against normalised participation ratio, a point a head.",
}


def head_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=heads` run: seven of W_QK, six of W_OV, one of both."""
    figures: dict[str, Plot] = {}
    for role in roles_of(run):
        drawn: dict[str, Callable[[Run, str], Figure]] = {
            "standing": _draw_standing,
            "lambda": _draw_lambda,
            "density": _draw_density,
            "by_head": functools.partial(_draw_by_head, names=BY_HEAD, what="spectral quantities"),
            "factors": functools.partial(_draw_by_head, names=FACTORS, what="elements of the factors"),
            "elements": _draw_elements,
        }
        if role.endswith("qk"):
            drawn["grid"] = _draw_grid
        figures |= {
            f"{name}_{role}": Plot(functools.partial(draw, run, role), CAPTIONS[name]) for name, draw in drawn.items()
        }
    return figures | {"entropy_npr": Plot(lambda: _draw_entropy(run), CAPTIONS["entropy_npr"])}


def _title(run: Run, role: str, what: str) -> str:
    stack, _, kind = role.rpartition(".")
    product = {"qk": "W_Qᵀ W_K", "ov": "W_O W_V"}[kind]
    return f"{model_name(run)}: {what} of {product}{f', {stack}' if stack else ''}"


def _lambda(run: Run, role: str) -> Float[np.ndarray, "head k"]:
    """λ of every head of a role, layer after layer, over its mean."""
    sigma = run.dataset["singular_values"].values[run.dataset["role"].values == role].astype(np.float64)
    lam = sigma**2
    return lam / np.nanmean(lam, axis=1, keepdims=True)


def _label_layers(axes: Axes, run: Run, role: str) -> None:
    """Mark where layers begin on an axis of heads."""
    layers = run.dataset["layer"].values[run.dataset["role"].values == role]
    firsts = np.flatnonzero(np.r_[True, layers[1:] != layers[:-1]])
    step = -(-len(firsts) // 16)
    axes.set_yticks(firsts[::step] - 0.5, [str(layer) for layer in layers[firsts][::step]])
    axes.set_ylabel("head, in the order of layers (a tick where a layer begins)")


def _draw_lambda(run: Run, role: str) -> Figure:
    lam = _lambda(run, role)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    with np.errstate(divide="ignore"):
        shown = np.log10(np.maximum(lam, 1e-4))
    image = axes.imshow(
        shown,
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        extent=(0.5, lam.shape[1] + 0.5, len(lam) - 0.5, -0.5),
    )
    figure.colorbar(image, label=r"$\log_{10}(\lambda_k / \overline{\lambda})$, cut at −4")
    axes.set_xlabel("index $k$")
    _label_layers(axes, run, role)
    axes.set_title(_title(run, role, "λ by index"), fontsize="medium", parse_math=False)
    return figure


def _draw_density(run: Run, role: str) -> Figure:
    lam = _lambda(run, role)
    counts = np.stack([np.histogram(np.minimum(row, DENSITY_BINS[-1] - 1e-9), DENSITY_BINS)[0] for row in lam])
    share = counts / counts.sum(axis=1, keepdims=True)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        share,
        aspect="auto",
        cmap="magma_r",
        interpolation="nearest",
        extent=(DENSITY_BINS[0], DENSITY_BINS[-1], len(lam) - 0.5, -0.5),
        vmax=float(np.quantile(share, 0.995)),
    )
    figure.colorbar(image, label="share of the head's values in the bin")
    for edge in lookup(run.provenance, "baseline.edges") or ():
        axes.axvline(edge, color=COLOUR, linestyle="--", linewidth=1)
    axes.set_xlabel(r"$\lambda / \overline{\lambda}$ (larger ones in the last bin; dashed: edges of chance)")
    _label_layers(axes, run, role)
    axes.set_title(_title(run, role, "density of λ"), fontsize="medium", parse_math=False)
    return figure


def _draw_grid(run: Run, role: str) -> Figure:
    """Draw the singular values of each head of the first layer beside the Gaussian baseline."""
    dataset = run.dataset
    layer = int(dataset["layer"].values[dataset["role"].values == role].min())
    rows = np.flatnonzero((dataset["role"].values == role) & (dataset["layer"].values == layer))
    figure, axes = panels(
        len(rows), _title(run, role, f"singular values of the heads of layer {layer}"), size=(2.6, 2.0)
    )
    chance = lookup(run.provenance, "baseline.median sigma")
    for panel, row in zip(axes, rows, strict=True):
        sigma = dataset["singular_values"].values[row].astype(np.float64)
        index = np.arange(1, sigma.size + 1)
        size = np.sqrt(np.nanmean(sigma**2))
        panel.plot(index, sigma / (size or 1), color=COLOUR, linewidth=1.2, label="this head")
        if chance and len(chance) == sigma.size:
            panel.plot(index, chance, "--", color=CHANCE, linewidth=1, label="Gaussian factors")
        panel.set_title(f"head {int(dataset['head'].values[row])}", fontsize="small")
        _add_grid(panel)
    axes[0].legend(fontsize="x-small", frameon=False)
    figure.supxlabel("index $i$", fontsize="medium")
    figure.supylabel(r"$\sigma_i$ / root mean square", fontsize="medium")
    return figure


def _add_grid(panel: Axes) -> None:
    panel.grid(color="0.92", linewidth=0.6)
    panel.set_axisbelow(True)  # lines lie over points otherwise


def _draw_standing(run: Run, role: str) -> Figure:
    """Draw layer by head how far σ₁ is above what each null has, with a mark where q says so."""
    table = run.metrics[run.metrics["role"] == role]
    layers = sorted(set(table["layer"]))
    figure, axes = panels(len(NULLS), _title(run, role, "largest σ"), size=(3.6, 3.4))
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
    figure, axes = panels(len(names), _title(run, role, what), size=(4.2, 2.8))
    for panel, name in zip(axes, names, strict=True):
        _add_points(panel, run, table, name, lookup(run.provenance, f"baseline.metrics.{name}"))
    figure.supxlabel(
        "layer (a point a head, shifted by head; line: mean of the layer; band: chance)", fontsize="medium"
    )
    return figure


def _add_points(panel: Axes, run: Run, table: Any, name: str, chance: Any) -> None:
    if not table[name].notna().any():
        return
    layers, heads = table["layer"].to_numpy(float), table["head"].to_numpy(float)
    panel.scatter(layers + 0.7 * (heads / (heads.max() + 1) - 0.35), table[name], s=6, color=COLOUR, linewidths=0)
    means = table.groupby("layer")[name].mean()
    panel.plot(means.index, means, color="black", linewidth=1.2)
    if chance:
        panel.axhspan(chance["mean"] - 3 * chance["sd"], chance["mean"] + 3 * chance["sd"], color=CHANCE, alpha=0.35)
    values = table[name].to_numpy(float)
    if not (values <= 0).any() and uses_log_axis(values):
        panel.set_yscale("log")
    panel.set_ylabel(metric_label(run, name), fontsize="small")
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _add_grid(panel)


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
        _add_grid(panel)
    figure.colorbar(points, ax=axes, label="layer")
    figure.supxlabel(metric_label(run, "npr_lambda"), fontsize="medium")
    figure.supylabel(metric_label(run, "spectral_entropy"), fontsize="medium")
    return figure


def _draw_elements(run: Run, role: str) -> Figure:
    table = run.metrics[run.metrics["role"] == role]
    figure, axes = panels(len(AGAINST_ELEMENTS), _title(run, role, "spectra against elements"), size=(4.0, 2.9))
    colours = matplotlib.colormaps["viridis"](table["layer"] / max(table["layer"].max(), 1))
    for panel, name in zip(axes, AGAINST_ELEMENTS, strict=True):
        if table[name].notna().any():
            panel.scatter(table["element_std"], table[name], s=9, c=colours, linewidths=0)
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        if (table["element_std"] > 0).all():
            panel.set_xscale("log")
            panel.set_yscale("log" if name != "spectral_entropy" else "linear")
        _add_grid(panel)
    figure.supxlabel("standard deviation of the elements (dark: first layer, light: last)", fontsize="medium")
    return figure
