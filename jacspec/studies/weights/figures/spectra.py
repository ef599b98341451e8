"""Figures of singular values: of each role, their tails, and one matrix by itself."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from jacspec.report.labels import lookup
from jacspec.report.plotting import CHANCE, panels, roles_of
from jacspec.runs import Run
from jacspec.studies.weights.figures.shown import (
    NORMS,
    POINTS,
    edges_of,
    label_values,
    role_panels,
    rows_of,
    sigma_of,
    title_of,
)

BESIDE_ALPHA = ("alpha_null_low", "alpha_null", "alpha_null_high")

OF_SPECTRA = (
    "Singular values of each role, a line a layer; dashed, the edges of the Marchenko–Pastur bulk where one is "
    "identified; dotted, where independent entries with the matrix's own row and column norms end (medians)."
)

OF_TAILS = (
    "The share of λ = σ² at or above x in one layer, and the power law fitted from x_min on, with α of Gaussian "
    "matrices of the shape (median; 5 and 95 %)."
)

OF_ONE = (
    "One matrix (weights.show_layer, weights.show_role): singular values; the share of the variance in the largest i, "
    "and what is left without the others in Frobenius norm; eigenvalues of its Gram matrix."
)


def draw_spectra(run: Run) -> Figure:
    """Draw the singular values of each role, a line a matrix, with the Marchenko–Pastur edges of the bulk."""
    figure, shown = role_panels(run, "singular values by role, a line a layer (dark: first)")
    for panel, rows in shown:
        colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(rows)))
        for row, colour in zip(rows, colours, strict=True):
            sigma = sigma_of(run, row)
            sigma = sigma[sigma > sigma[0] * 1e-7]
            panel.plot(np.arange(1, sigma.size + 1), sigma, color=colour, linewidth=0.9)
        for what, colour, line in (("bulk", CHANCE, "--"), ("norms", NORMS, ":")):
            for edge in edges_of(run, rows, what):
                if edge > 0:
                    panel.axhline(edge, color=colour, linewidth=0.9, linestyle=line)
        panel.set_yscale("log")
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("index $i$", fontsize="medium")
    label_values(figure, r"singular value $\sigma_i$ (dashed: edges of the bulk; dotted: of chance with its norms)")
    return figure


def draw_tails(run: Run, layer: int) -> Figure:
    """Draw the share of λ at or above x on log–log axes, with the fitted power law from x_min on."""
    figure, shown = role_panels(run, f"tails of λ = σ², layer {layer}", layer)
    for panel, rows in shown:
        row = rows[0]
        lam = np.sort(sigma_of(run, row) ** 2)
        lam = lam[lam > lam[-1] * 1e-12]
        share = 1 - np.arange(lam.size) / lam.size
        panel.loglog(lam, share, ".", color=POINTS, markersize=3)
        alpha, begin = (float(run.metrics[name].iloc[row]) for name in ("alpha", "x_min"))
        if np.isfinite(alpha):
            tail = np.geomspace(begin, lam[-1], 50)
            panel.loglog(tail, share[np.searchsorted(lam, begin)] * (tail / begin) ** (1 - alpha), color=CHANCE)
            panel.axvline(begin, color="0.6", linewidth=0.8, linestyle="--")
            words = rf"$\alpha = {alpha:.2f}$"
            if "alpha_null" in run.metrics:
                low, middle, high = run.metrics[list(BESIDE_ALPHA)].iloc[row]
                words += f"\nchance {middle:.1f} ({low:.1f} to {high:.1f})"
            if "power_p" in run.metrics:
                words += f"\npower law p = {run.metrics['power_p'].iloc[row]:.2g}"
            panel.annotate(words, (0.05, 0.08), xycoords="axes fraction", fontsize="small")
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(r"$\lambda$ (dashed: $x_{\min}$)", fontsize="medium")
    label_values(figure, "share of values at or above (orange: power law)")
    return figure


def draw_one(run: Run, layer: int) -> Figure:
    """Draw one matrix as the c_attn walk-through does: σ, cumulative variance, eigenvalues of its Gram matrix."""
    roles = [role for role in roles_of(run) if rows_of(run, role, layer)]
    if not roles:
        return panels(1, title_of(run, "no matrix of this layer has a spectrum"))[0]
    asked = lookup(run.provenance, "config.weights.show_role")
    role = next(role for role in (asked, "qkv", roles[0]) if role in roles)
    row = rows_of(run, role, layer)[0]
    sigma = sigma_of(run, row)
    figure, axes = panels(3, title_of(run, str(run.dataset["name"].values[row])))
    index, lam = np.arange(1, sigma.size + 1), sigma**2
    drawn: Mapping[str, Any] = {
        r"singular value $\sigma_i$": sigma,
        r"cumulative variance $\Sigma_{j \leq i} \lambda_j / \Sigma \lambda$": np.cumsum(lam) / lam.sum(),
        r"eigenvalue $\lambda_i$ of $W W^T$": lam,
    }
    for panel, (label, values) in zip(axes, drawn.items(), strict=True):
        positive = values > values[0] * 1e-12
        panel.plot(index[positive], values[positive], color=POINTS, linewidth=1.2)
        panel.set_ylabel(label)
        panel.grid(color="0.92", linewidth=0.6)
    for panel in (axes[0], axes[2]):
        panel.set_yscale("log")
    axes[1].axhline(0.9, color="0.6", linewidth=0.8, linestyle="--")
    error = np.sqrt(np.append(np.cumsum(lam[::-1])[::-1][1:], 0) / lam.sum())
    axes[1].plot(index, error, color="#E69F00", linewidth=1.2, label=r"$\Vert W - W_i \Vert_F / \Vert W \Vert_F$")
    axes[1].legend(fontsize="small", frameon=False)
    figure.supxlabel("index $i$", fontsize="medium")
    return figure
