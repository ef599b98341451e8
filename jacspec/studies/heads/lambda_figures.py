"""Figures of λ = σ² of heads: all heads as maps, the heads of one layer or two chosen ones, and chance by itself."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jacspec.errors import JacspecError
from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import lookup, model_name
from jacspec.report.plotting import CHANCE, COLOURS, add_grid, panels
from jacspec.runs import Run
from jacspec.spectra.products import plain_products, product_density, product_edges
from jacspec.spectra.random_matrix import marchenko_pastur_density, marchenko_pastur_edges
from jacspec.studies.heads.shown import shown_heads

RELATIVE_BINS = np.linspace(0, 4, 81)
BINS = 80
LEAST = 1e-6
"""Of λ over the largest of its head: what is below is drawn as that."""


class Spectra(NamedTuple):
    """λ of every head of a role, in the order of layers, and which head each is."""

    lam: Float[np.ndarray, "head k"]
    layers: Int[np.ndarray, " head"]
    heads: Int[np.ndarray, " head"]
    d_model: int

    @property
    def mean(self) -> Float[np.ndarray, "head 1"]:
        """The mean λ of each head; NaN where all are zero."""
        mean = np.nanmean(self.lam, axis=1, keepdims=True)
        return np.where(mean > 0, mean, np.nan)


def spectra_of(run: Run, role: str) -> Spectra:
    """Take λ of the heads of a role."""
    dataset = run.dataset
    own = dataset["role"].values == role
    lam = dataset["singular_values"].values[own].astype(np.float64) ** 2
    width = run.metrics.loc[run.metrics["role"] == role, "rows"].iloc[0]
    return Spectra(lam, dataset["layer"].values[own].astype(int), dataset["head"].values[own].astype(int), int(width))


def product_title(run: Run, role: str, what: str) -> str:
    """Write the title of a figure of one product."""
    stack, _, kind = role.rpartition(".")
    product = {"qk": "W_Qᵀ W_K", "ov": "W_O W_V"}[kind]
    return f"{model_name(run)}: {what} of {product}{f', {stack}' if stack else ''}"


def draw_lambda(run: Run, role: str) -> Figure:
    """Draw λ of all heads by index, a row a head: itself, and over its mean."""
    spectra = spectra_of(run, role)
    floor = LEAST * np.nanmax(spectra.lam)
    figure, axes = panels(2, product_title(run, role, "λ by index"), size=(5.0, 5.2))
    extent = (0.5, spectra.lam.shape[1] + 0.5)
    _add_map(axes[0], np.maximum(spectra.lam, floor), extent, r"$\lambda_k$")
    relative = np.maximum(spectra.lam / spectra.mean, 1e-4)
    _add_map(axes[1], relative, extent, r"$\lambda_k / \overline{\lambda}$, cut at $10^{-4}$")
    for panel in axes:
        panel.set_xlabel("index $k$")
        _label_layers(panel, spectra)
    return figure


def draw_density(run: Run, role: str) -> Figure:
    """Draw how λ of all heads are distributed, a row a head: λ itself on a logarithmic axis, and λ over its mean."""
    spectra = spectra_of(run, role)
    figure, axes = panels(2, product_title(run, role, "density of λ"), size=(5.0, 5.2))
    floor = LEAST * np.nanmax(spectra.lam)
    low, high = np.log10([np.nanmin(np.maximum(spectra.lam, floor)), np.nanmax(spectra.lam)])
    ends = np.linspace(low, high + 1e-9, BINS + 1)
    _add_map(axes[0], _shares(np.log10(np.maximum(spectra.lam, floor)), ends), (low, high), "share of the head's λ")
    axes[0].set_xlabel(r"$\log_{10} \lambda$")
    relative = np.minimum(spectra.lam / spectra.mean, RELATIVE_BINS[-1] - 1e-9)
    _add_map(axes[1], _shares(relative, RELATIVE_BINS), (0, RELATIVE_BINS[-1]), "share of the head's λ")
    for edge in lookup(run.provenance, "baseline.edges") or ():
        axes[1].axvline(edge, color=COLOURS[0], linestyle="--", linewidth=1)
    axes[1].set_xlabel(r"$\lambda / \overline{\lambda}$ (larger ones in the last bin; dashed: edges of chance)")
    for panel in axes:
        _label_layers(panel, spectra)
    return figure


def _shares(values: Float[np.ndarray, "head k"], ends: Float[np.ndarray, " end"]) -> Float[np.ndarray, "head bin"]:
    """Count the share of each head's values in every bin; NaN where there is none."""
    counts = np.stack([np.histogram(row, ends)[0] for row in values]).astype(np.float64)
    return np.where(counts > 0, counts / values.shape[1], np.nan)


def _add_map(panel: Axes, values: Float[np.ndarray, "head n"], extent: tuple[float, float], label: str) -> None:
    """Draw a row a head in logarithmic colours; white where there is nothing."""
    known = values[np.isfinite(values)]
    norm = LogNorm(known.min(), max(known.max(), known.min() * 1.01)) if known.size else None
    image = panel.imshow(
        values,
        aspect="auto",
        cmap="viridis",
        interpolation="nearest",
        norm=norm,
        extent=(*extent, len(values) - 0.5, -0.5),
    )
    figure = panel.figure
    assert isinstance(figure, Figure)
    figure.colorbar(image, ax=panel, label=label)


def _label_layers(axes: Axes, spectra: Spectra) -> None:
    """Mark where layers begin on an axis of heads."""
    firsts = np.flatnonzero(np.r_[True, spectra.layers[1:] != spectra.layers[:-1]])
    step = -(-len(firsts) // 16)
    axes.set_yticks(firsts[::step] - 0.5, [str(layer) for layer in spectra.layers[firsts][::step]])
    axes.set_ylabel("head, in the order of layers (a tick where one begins)")


def draw_layer(run: Run, role: str, *, density: bool) -> Figure:
    """Draw each head of the first layer of the run: λ by index, or their density, beside Gaussian factors."""
    spectra = spectra_of(run, role)
    layer = int(spectra.layers.min())
    places = np.flatnonzero(spectra.layers == layer)
    what = "density of λ" if density else "λ"
    figure, axes = panels(
        len(places), product_title(run, role, f"{what} of the heads of layer {layer}"), size=(2.8, 2.1)
    )
    add: Callable[..., None] = add_density if density else add_index
    for panel, place in zip(axes, places, strict=True):
        add(panel, spectra, int(place), COLOURS[0], run, chance=CHANCE)
        panel.set_title(f"head {spectra.heads[place]}", fontsize="small")
    if density:  # the heads of a layer are compared with one another
        _share_axes(axes)
    handles, _ = axes[0].get_legend_handles_labels()
    axes[0].legend(handles, ("this head", "chance"), fontsize="x-small", frameon=False)
    figure.supxlabel(RELATIVE_LABEL if density else "index $k$", fontsize="medium")
    figure.supylabel(DENSITY_LABEL if density else r"$\lambda_k$", fontsize="medium")
    return figure


RELATIVE_LABEL, DENSITY_LABEL = r"$\lambda / \overline{\lambda}$", r"density of $\ln \lambda$"


def _share_axes(axes: Sequence[Axes]) -> None:
    for name in ("xlim", "ylim"):
        limits = np.array([getattr(panel, f"get_{name}")() for panel in axes])
        for panel in axes:
            getattr(panel, f"set_{name}")(limits[:, 0].min(), limits[:, 1].max())


def add_index(panel: Axes, spectra: Spectra, place: int, colour: str, run: Run, *, chance: str = "") -> None:
    """Draw λ by index, where `chance` names a colour with the median of Gaussian factors of the same mean λ."""
    index = np.arange(1, spectra.lam.shape[1] + 1)
    panel.plot(index, _positive(spectra.lam[place]), color=colour, linewidth=1.2, label=_name(spectra, place))
    median = lookup(run.provenance, "baseline.median sigma")
    if chance and median and len(median) == index.size:
        panel.plot(index, np.square(median) * spectra.mean[place], "--", color=chance, linewidth=1, label="chance")
    if uses_log_axis(spectra.lam[place]):
        panel.set_yscale("log")
    add_grid(panel)


def add_density(panel: Axes, spectra: Spectra, place: int, colour: str, run: Run, *, chance: str = "") -> None:
    """Draw the density of ln λ over its mean: of a head as steps, of Gaussian factors as both sizes grow as a line."""
    lam = _positive(spectra.lam[place] / spectra.mean[place])
    logs = np.log(lam[np.isfinite(lam)])
    if logs.size:
        count = max(8, round(logs.size**0.5 * 2))
        found, ends = np.histogram(logs, count, density=True)
        panel.stairs(found, np.exp(ends), color=colour, linewidth=1.2, label=_name(spectra, place))
    if chance:
        x = np.geomspace(*_widened(product_edges(spectra.d_model, spectra.lam.shape[1])), 400)
        density = x * product_density(x, spectra.d_model, spectra.lam.shape[1])
        panel.plot(x, density, "--", color=chance, linewidth=1, label="chance")
    panel.set_xscale("log")
    add_grid(panel)


def _widened(edges: tuple[float, float]) -> tuple[float, float]:
    return max(edges[0], 1e-4 * edges[1]) / 1.02, edges[1] * 1.02


def _positive(lam: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Leave out what is zero but for rounding."""
    return np.where(lam > lam[0] * 1e-12, lam, np.nan)


def _name(spectra: Spectra, place: int) -> str:
    return f"L{spectra.layers[place]} H{spectra.heads[place]}"


def draw_two_heads(run: Run, role: str) -> Figure:
    """Draw two heads, by index and as densities: of `heads.shown`, else the nearest to chance and the farthest."""
    spectra = spectra_of(run, role)
    figure, axes = panels(2, product_title(run, role, "λ of two heads"), size=(4.4, 3.6))
    for place, colour in zip(_chosen(run, role, spectra), (COLOURS[0], COLOURS[2]), strict=False):
        add_index(axes[0], spectra, place, colour, run, chance=colour)
        add_density(axes[1], spectra, place, colour, run)
    add_density(axes[1], spectra._replace(lam=np.zeros_like(spectra.lam)), 0, "", run, chance=CHANCE)
    axes[0].set_xlabel("index $k$ (dashed: Gaussian factors of the same mean)")
    axes[0].set_ylabel(r"$\lambda_k$")
    axes[1].set_xlabel(RELATIVE_LABEL)
    axes[1].set_ylabel(DENSITY_LABEL)
    axes[1].set_yscale("log")
    axes[1].legend(fontsize="small", frameon=False)
    return figure


def _chosen(run: Run, role: str, spectra: Spectra) -> list[int]:
    shown = shown_heads(lookup(run.provenance, "config.heads.shown") or ())
    if not shown:
        excess = run.metrics.loc[run.metrics["role"] == role, "plain_excess"].to_numpy(float)
        away = np.where(np.isfinite(excess), np.abs(np.log(excess)), np.nan)
        return [int(np.nanargmin(away)), int(np.nanargmax(away))] if np.isfinite(away).any() else [0]
    there = {
        head: place for place, head in enumerate(zip(spectra.layers.tolist(), spectra.heads.tolist(), strict=True))
    }
    if missing := [head for head in shown if head not in there]:
        raise JacspecError("The run has no head L{}H{}; heads.shown names it.".format(*missing[0]))
    return [there[head] for head in shown]


def draw_baseline(run: Run, role: str) -> Figure:
    """Draw λ of products of Gaussian factors of the heads' shape, with both laws, and their upper edge enlarged."""
    spectra = spectra_of(run, role)
    d_model, d_head = spectra.d_model, spectra.lam.shape[1]
    lam = _drawn(run, d_model, d_head)
    product, single = product_edges(d_model, d_head), _single_edges(d_model, d_head)
    title = f"Gaussian factors, d_model {d_model}, d_head {d_head}, {len(lam)} draws"
    figure, axes = panels(2, title, size=(4.4, 3.4))
    x = np.linspace(max(min(product[0], single[0]), 1e-3), lam.max() * 1.02, 800)
    laws: dict[str, tuple[np.ndarray, tuple[float, float], str, str]] = {
        "their product's law": (product_density(x, d_model, d_head), product, CHANCE, "-"),
        "Marchenko–Pastur's law of one": (_single_density(x, d_model, d_head), single, COLOURS[2], "--"),
    }
    for panel in axes:
        panel.hist(lam.ravel(), bins=np.linspace(0, lam.max(), 121).tolist(), density=True, color="0.8", label="draws")
        for words, (density, edges, colour, line) in laws.items():
            panel.plot(x, density, line, color=colour, linewidth=1.3, label=words)
            for edge in edges:
                panel.axvline(edge, color=colour, linewidth=0.8, linestyle=":")
        panel.set_xlabel(RELATIVE_LABEL)
        add_grid(panel)
    axes[0].set_ylabel(r"density $P(\lambda / \overline{\lambda})$")
    axes[0].legend(fontsize="small", frameon=False)
    axes[1].set_xlim(0.9 * single[1], lam.max() * 1.01)
    beyond = product_density(np.array([0.9 * single[1]]), d_model, d_head)[0]
    axes[1].set_ylim(0, 1.3 * max(beyond, _single_density(np.array([0.9 * single[1]]), d_model, d_head)[0]))
    axes[1].set_title("upper edge", fontsize="medium")
    return figure


def _drawn(run: Run, d_model: int, d_head: int) -> Float[np.ndarray, "draw k"]:
    """Draw λ as the run did, over their mean."""
    draws: Any = lookup(run.provenance, "baseline.draws")
    lam = np.square(plain_products(d_model, d_head, draws=int(draws), seed=int(run.provenance["seed"])))
    return lam / lam.mean()


def _single_edges(d_model: int, d_head: int) -> tuple[float, float]:
    low, high = marchenko_pastur_edges((d_model, d_head), 1 / d_model)
    return low**2, high**2


def _single_density(x: Float[np.ndarray, " point"], d_model: int, d_head: int) -> Float[np.ndarray, " point"]:
    """Compute the density of λ of one Gaussian factor at mean 1."""
    sigma = np.sqrt(x)
    return marchenko_pastur_density(sigma, (d_model, d_head), 1 / d_model) / (2 * sigma)
