"""Figures of singular vectors, and of spacings of singular values, beside those of random matrices."""

import numpy as np
from matplotlib.figure import Figure

from jacspec.report.plotting import CHANCE
from jacspec.runs import Run
from jacspec.spectra.spacings import inner_spacings
from jacspec.studies.weights.figures.shown import BARS, POINTS, label_values, role_panels, sigma_of

SMOOTHED = 15
"""Neighbouring vectors that are averaged, as Thamm, Staats & Rosenow 2022 do."""

OF_VECTORS = (
    "p-values of singular vectors beside random ones (Kolmogorov–Smirnov of their entries), the mean over layers and "
    "15 neighbours; by chance 0.5 everywhere (grey: 95 % of such means). Above that, entries are nearer to a normal "
    "law than random ones, as behind a LayerNorm, where they sum to zero."
)

OF_PARTICIPATION = (
    "Inverse participation ratio Σv⁴ of singular vectors over that of chance, the mean over layers and 15 neighbours; "
    "by chance 1 everywhere."
)

OF_SPACINGS = (
    "Spacings of neighbouring singular values of all layers, unfolded to a mean of 1: values that repel one another "
    "as those of random matrices do follow the black curve (Wigner's surmise), values that know nothing of one "
    "another the dotted one."
)


def draw_vectors(run: Run, what: str, chance: float) -> Figure:
    """Draw a quantity a vector, left and right, against its place, averaged over layers and `SMOOTHED` neighbours."""
    title = "singular vectors beside random ones" if what == "p" else "participation of singular vectors"
    figure, shown = role_panels(run, title)
    for panel, rows in shown:
        for side, colour in (("left", POINTS), ("right", "#E69F00")):
            table = run.dataset[f"{side}_{what}"].values[rows]
            sums, counts = np.nansum(table, axis=0), np.isfinite(table).sum(axis=0)
            window = np.ones(min(SMOOTHED, max(int((counts > 0).sum()), 1)))
            with np.errstate(invalid="ignore", divide="ignore"):
                mean = np.convolve(sums, window, "valid") / np.convolve(counts, window, "valid")
            panel.plot(np.arange(mean.size) + 1 + window.size // 2, mean, color=colour, linewidth=1, label=side)
        if what == "p":
            reach = 1.96 / (12 * SMOOTHED * len(rows)) ** 0.5
            panel.axhspan(chance - reach, chance + reach, color="0.85", linewidth=0)
            panel.set_ylim(0, 1)
        panel.axhline(chance, color=CHANCE, linewidth=0.9, linestyle="--")
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("index $i$ of the singular value (1: the largest)", fontsize="medium")
    label_values(figure, "mean p-value" if what == "p" else r"$\Sigma v^4$ over that of chance")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def draw_spacings(run: Run) -> Figure:
    """Draw histograms of unfolded spacings with Wigner's surmise and the law of Poisson."""
    figure, shown = role_panels(run, "spacings of neighbouring singular values, unfolded")
    grid = np.linspace(0, 4, 200)
    for panel, rows in shown:
        spectra = [sigma_of(run, row) for row in rows]
        found = [inner_spacings(sigma[sigma > sigma[0] * 1e-6]) for sigma in spectra]
        panel.hist(np.minimum(np.concatenate(found), 4), bins=np.linspace(0, 4, 41).tolist(), density=True, color=BARS)
        panel.plot(grid, np.pi / 2 * grid * np.exp(-np.pi * grid**2 / 4), color="black", linewidth=1.2)
        panel.plot(grid, np.exp(-grid), color="black", linewidth=1, linestyle=":")
        beta, ratio = (run.metrics[name].to_numpy(float)[rows] for name in ("brody", "spacing_ratio"))
        words = rf"$\beta = {np.nanmean(beta):.2f}$" + "\n" + rf"$\langle\tilde{{r}}\rangle = {np.nanmean(ratio):.3f}$"
        panel.annotate(words, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize="small")
    figure.supxlabel("spacing (mean 1)", fontsize="medium")
    label_values(figure, "density (black: random matrices; dotted: Poisson)")
    return figure
