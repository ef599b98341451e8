"""Figures of a run over weight matrices: metrics by layer, spectra by role, the bulk beside chance, tails."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import lookup, metric_label, model_name
from jacspec.report.plotting import CHANCE, panels, roles_of, styles_of
from jacspec.runs import Run
from jacspec.spectra.random_matrix import marchenko_pastur_density
from jacspec.studies.study import Plot

PANELS_A_FIGURE = 12


CAPTIONS = {
    "metrics": "Each metric against the layer, a line a role.",
    "spectra": "Singular values of each role, a line a layer; dashed, the edges of the Marchenko–Pastur bulk.",
    "bulk": "Singular values over s√N of all layers, with the Marchenko–Pastur law of the bulk; ticks mark the values "
    "beyond its edges, above and below.",
    "bulk_of_layer": "The same for one layer (weights.show_layer).",
    "tails": "The share of λ = σ² at or above x in one layer, and the power law fitted from x_min on.",
    "one_matrix": "One matrix: singular values, cumulative variance, eigenvalues of its Gram matrix.",
}


def matrix_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=weights` run: its metrics a dozen a figure, spectra, chance, tails, one matrix."""
    drawn = [name for name in run.metric_names if run.metrics[name].notna().any()]
    pages = [drawn[start : start + PANELS_A_FIGURE] for start in range(0, len(drawn), PANELS_A_FIGURE)]
    figures = {
        f"metrics_{number}": Plot(functools.partial(_draw_metrics, run, names), CAPTIONS["metrics"], explored=True)
        for number, names in enumerate(pages, 1)
    }
    layer = shown_layer(run)
    return figures | {
        "spectra": Plot(lambda: _draw_spectra(run), CAPTIONS["spectra"]),
        "bulk": Plot(lambda: _draw_bulk(run, None), CAPTIONS["bulk"]),
        "bulk_of_layer": Plot(lambda: _draw_bulk(run, layer), CAPTIONS["bulk_of_layer"]),
        "tails": Plot(lambda: _draw_tails(run, layer), CAPTIONS["tails"]),
        "one_matrix": Plot(lambda: _draw_one(run, layer), CAPTIONS["one_matrix"]),
    }


def shown_layer(run: Run) -> int:
    """Return the layer whose single matrices are shown: the one asked for, or the first where that is not there."""
    layers = [layer for layer in run.dataset["layer"].values.tolist() if layer >= 0]
    asked = lookup(run.provenance, "config.weights.show_layer")
    return asked if asked in layers else min(layers, default=-1)


def _title(run: Run, what: str) -> str:
    return f"{model_name(run)}: {what}"


def _draw_metrics(run: Run, names: Sequence[str]) -> Figure:
    """Draw each metric against the layer, a line a role; roles outside the layers as marks at the left edge."""
    figure, axes = panels(len(names), _title(run, "weight matrices by layer"))
    table = run.metrics
    styles = styles_of(roles_of(run))
    for panel, name in zip(axes, names, strict=True):
        for role, (colour, line) in styles.items():
            rows = table[(table["role"] == role) & table["layer"].notna()].sort_values("layer", kind="stable")
            # Several matrices of one role in a layer, as in checkpoints that are read by name: points.
            alone = rows["layer"].is_unique
            kind: Any = {"linestyle": line} if alone else {"linestyle": "none"}
            panel.plot(
                rows["layer"], rows[name], color=colour, marker="o", markersize=2.5, linewidth=1, label=role, **kind
            )
        values = table[name].to_numpy(float)
        positive = values[np.isfinite(values) & (values > 0)]
        if positive.size == np.isfinite(values).sum() and uses_log_axis(values):
            panel.set_yscale("log")
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("layer", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _rows(run: Run, role: str, layer: int | None = None) -> list[int]:
    dataset = run.dataset
    mask = dataset["role"].values == role
    if layer is not None:
        mask = mask & (dataset["layer"].values == layer)
    finite = np.isfinite(dataset["singular_values"].values[:, 0])
    return np.flatnonzero(mask & finite).tolist()


def _sigma(run: Run, row: int) -> Float[np.ndarray, " k"]:
    values = run.dataset["singular_values"].values[row].astype(np.float64)
    return values[np.isfinite(values)]


def _draw_spectra(run: Run) -> Figure:
    """Draw the singular values of each role, a line a matrix, with the Marchenko–Pastur edges of the bulk."""
    roles = [role for role in roles_of(run) if _rows(run, role)]
    figure, axes = panels(max(len(roles), 1), _title(run, "singular values by role, a line a layer (dark: first)"))
    for panel, role in zip(axes, roles, strict=False):
        rows = _rows(run, role)
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(rows)))
        for row, colour in zip(rows, colours, strict=True):
            sigma = _sigma(run, row)
            sigma = sigma[sigma > sigma[0] * 1e-7]
            panel.plot(np.arange(1, sigma.size + 1), sigma, color=colour, linewidth=0.9)
        for name in ("bulk_low", "bulk_high"):
            edge = np.nanmedian(run.metrics[name].to_numpy(float)[rows])
            if np.isfinite(edge) and edge > 0:
                panel.axhline(edge, color=CHANCE, linewidth=0.9, linestyle="--")
        panel.set_yscale("log")
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("index $i$", fontsize="medium")
    figure.supylabel(
        r"singular value $\sigma_i$ (dashed: edges of the Marchenko–Pastur bulk, median)", fontsize="medium"
    )
    return figure


def _draw_bulk(run: Run, layer: int | None) -> Figure:
    """Draw histograms of σ over s√N with the law of chance, and mark what lies beyond the bulk's edges."""
    roles = [role for role in roles_of(run) if _rows(run, role, layer)]
    where = "all layers" if layer is None else f"layer {layer}"
    figure, axes = panels(max(len(roles), 1), _title(run, f"singular values beside Marchenko–Pastur, {where}"))
    for panel, role in zip(axes, roles, strict=False):
        rows = _rows(run, role, layer)
        _add_histogram(panel, run, rows)
        panel.set_title(role, fontsize="medium", parse_math=False)
    figure.supxlabel(r"$\sigma / (s_{\mathrm{bulk}} \sqrt{N})$; ticks above the axis: outliers", fontsize="medium")
    figure.supylabel("density (orange: Marchenko–Pastur law of the bulk)", fontsize="medium")
    return figure


def _add_histogram(panel: Axes, run: Run, rows: Sequence[int]) -> None:
    table, scaled, outliers = run.metrics, [], []
    shape = (1, 1)
    for row in rows:
        shape = (int(table["rows"].iloc[row]), int(table["cols"].iloc[row]))
        low, high = (float(table[name].iloc[row]) for name in ("bulk_low", "bulk_high"))
        scale = high / (1 + np.sqrt(min(shape) / max(shape)))
        if not np.isfinite(scale) or scale <= 0:
            continue
        sigma = _sigma(run, row)
        scaled.append(sigma / scale)
        outliers.append(sigma[(sigma > high) | (sigma < low)] / scale)
    if not scaled:
        panel.annotate("nothing to show", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    values, beyond = np.concatenate(scaled), np.concatenate(outliers)
    edge = 1 + np.sqrt(min(shape) / max(shape))
    shown = max(1.6 * edge, float(np.quantile(values, 0.97)))
    panel.hist(np.minimum(values, shown), bins=60, density=True, color="#56B4E9", edgecolor="none")
    grid = np.linspace(1e-3, edge * 1.001, 400)
    panel.plot(
        grid, marchenko_pastur_density(grid * np.sqrt(max(shape)), shape, 1.0) * np.sqrt(max(shape)), color=CHANCE
    )
    if beyond.size:  # marks that are not clipped and none would be laid out at the figure's corner
        panel.plot(np.minimum(beyond, shown), np.zeros_like(beyond), "|", color="black", markersize=8, clip_on=False)
    panel.annotate(
        f"{len(beyond)} of {len(values)} beyond", (0.97, 0.93), xycoords="axes fraction", ha="right", fontsize="small"
    )
    if values.max() > shown:
        panel.annotate(
            f"largest {values.max():.3g}", (0.97, 0.83), xycoords="axes fraction", ha="right", fontsize="small"
        )


def _draw_tails(run: Run, layer: int) -> Figure:
    """Draw the share of λ at or above x on log–log axes, with the fitted power law from x_min on."""
    roles = [role for role in roles_of(run) if _rows(run, role, layer)]
    figure, axes = panels(max(len(roles), 1), _title(run, f"tails of λ = σ², layer {layer}"))
    for panel, role in zip(axes, roles, strict=False):
        row = _rows(run, role, layer)[0]
        lam = np.sort(_sigma(run, row) ** 2)
        lam = lam[lam > lam[-1] * 1e-12]
        share = 1 - np.arange(lam.size) / lam.size
        panel.loglog(lam, share, ".", color="#0072B2", markersize=3)
        alpha, begin = (float(run.metrics[name].iloc[row]) for name in ("alpha", "x_min"))
        if np.isfinite(alpha):
            tail = np.geomspace(begin, lam[-1], 50)
            panel.loglog(tail, share[np.searchsorted(lam, begin)] * (tail / begin) ** (1 - alpha), color=CHANCE)
            panel.axvline(begin, color="0.6", linewidth=0.8, linestyle="--")
            panel.annotate(rf"$\alpha = {alpha:.2f}$", (0.05, 0.08), xycoords="axes fraction")
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(r"$\lambda$ (dashed: $x_{\min}$)", fontsize="medium")
    figure.supylabel("share of values at or above (orange: power law)", fontsize="medium")
    return figure


def _draw_one(run: Run, layer: int) -> Figure:
    """Draw one matrix as the c_attn walk-through does: σ, cumulative variance, eigenvalues of its Gram matrix."""
    roles = [role for role in roles_of(run) if _rows(run, role, layer)]
    if not roles:
        return panels(1, _title(run, "no matrix of this layer has a spectrum"))[0]
    role = "qkv" if "qkv" in roles else roles[0]
    row = _rows(run, role, layer)[0]
    sigma = _sigma(run, row)
    figure, axes = panels(3, _title(run, str(run.dataset["name"].values[row])))
    index, lam = np.arange(1, sigma.size + 1), sigma**2
    drawn: Mapping[str, Any] = {
        r"singular value $\sigma_i$": sigma,
        r"cumulative variance $\Sigma_{j \leq i} \lambda_j / \Sigma \lambda$": np.cumsum(lam) / lam.sum(),
        r"eigenvalue $\lambda_i$ of $W^T W$": lam,
    }
    for panel, (label, values) in zip(axes, drawn.items(), strict=True):
        positive = values > values[0] * 1e-12
        panel.plot(index[positive], values[positive], color="#0072B2", linewidth=1.2)
        panel.set_ylabel(label)
        panel.grid(color="0.92", linewidth=0.6)
    for panel in (axes[0], axes[2]):
        panel.set_yscale("log")
    axes[1].axhline(0.9, color="0.6", linewidth=0.8, linestyle="--")
    figure.supxlabel("index $i$", fontsize="medium")
    return figure
