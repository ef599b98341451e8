"""Figures of a run over weight matrices: metrics by layer, spectra by role, the bulk beside chance, tails."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from jacspec.report.complex_plane import BINS, OWN, PANEL_INCHES, draw_plane, draw_sizes, spread_layers
from jacspec.report.figures import uses_log_axis
from jacspec.report.labels import lookup, metric_label, model_name
from jacspec.report.plotting import CHANCE, panels, roles_of, styles_of
from jacspec.runs import Run
from jacspec.spectra.eigenvalues import null_ring
from jacspec.spectra.spacings import inner_spacings
from jacspec.studies.study import Plot
from jacspec.studies.weights.depth import FUSED, check_depth
from jacspec.studies.weights.verdicts import THIRDS

FIRST = ("spectral_radius", "decay_ratio", "alpha", "norms_above", "norms_largest_p", "norms_smallest_p")
"""The metrics that are drawn unasked: norm, ratio, tail, and what is beyond chance."""

PANELS_A_FIGURE = 12

TAILED = (2, 6)
"""Between these Martin & Mahoney find α of well-trained layers."""

SMALLEST_P = 1e-16
"""Below a rounding of 1, p-values are no longer told apart."""

BESIDE_ALPHA = ("alpha_null_low", "alpha_null", "alpha_null_high")

BESIDE_OTHERS = ("_null", "_null_low", "_null_high", "_error", "_q")
"""What names of columns end in that have no panel of their own."""

PLANES = ("eigenvalues", "rotated_eigenvalues")

SMOOTHED = 15
"""Neighbouring vectors that are averaged, as Thamm, Staats & Rosenow 2022 do."""

ONE_VARIANCE, NORMS = "black", "#009E73"


CAPTIONS = {
    "metrics": "Each metric against the layer, a line a role. Of α, shaded, where well-trained layers are said to lie "
    "(2 to 6); of exponents, dotted, the median of Gaussian matrices of the same shape, which have no tail; of "
    "p-values, dotted, 1 %.",
    "spectra": "Singular values of each role, a line a layer; dashed, the edges of the Marchenko–Pastur bulk where one "
    "is identified; dotted, where independent entries with the matrix's own row and column norms end (medians).",
    "bulk": "Singular values over s√N of all layers. Black, dashed: the Marchenko–Pastur law of entries of one "
    "variance, that of all; orange: of the bulk, where one is identified. Dotted: where independent entries with the "
    "matrix's own row and column norms end (medians); ticks mark the values beyond.",
    "bulk_of_layer": "The same for one layer (weights.show_layer).",
    "tails": "The share of λ = σ² at or above x in one layer, and the power law fitted from x_min on, with α of "
    "Gaussian matrices of the shape (median; 5 and 95 %).",
    "vectors": "p-values of singular vectors beside random ones (Kolmogorov–Smirnov of their entries), the mean over "
    "layers and 15 neighbours; by chance 0.5 everywhere (grey: 95 % of such means). Above that, entries are nearer to "
    "a normal law than random ones, as behind a LayerNorm, where they sum to zero.",
    "participation": "Inverse participation ratio Σv⁴ of singular vectors over that of chance, the mean over layers "
    "and 15 neighbours; by chance 1 everywhere.",
    "spacings": "Spacings of neighbouring singular values of all layers, unfolded to a mean of 1: values that repel "
    "one another as those of random matrices do follow the black curve (Wigner's surmise), values that know nothing of "
    "one another the dotted one.",
    "eigenvalues": "Eigenvalues of the square matrices of one role (weights.show_role) in units of σ₁, in layers "
    "spread over the depth. Dashed: the null ring of their singular values, in which the eigenvalues of a large matrix "
    "lie if the singular vectors on both sides are random. Below: the density of their sizes, and that of the same "
    "singular values randomly rotated, one draw.",
    "thirds": "Tail exponents α by layer, a mark a matrix. Boxes: the ranges that the document on merging gives for "
    "early, middle and late layers. Black bars: means of thirds of the layers, each role less its own mean. Dotted, a "
    "line a role: the median of Gaussian matrices of the shape, which have no tail.",
    "one_matrix": "One matrix (weights.show_layer, weights.show_role): singular values; the share of the variance in "
    "the largest i, and what is left without the others in Frobenius norm; eigenvalues of its Gram matrix.",
}


def matrix_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=weights` run: the metrics, spectra, chance, tails, one matrix.

    `metrics` has `FIRST`; the others, a dozen a figure, are drawn on request.
    """
    there = [name for name in run.metric_names if run.metrics[name].notna().any() and not name.endswith(BESIDE_OTHERS)]
    first = [name for name in FIRST if name in there]
    rest = [name for name in there if name not in first]
    pages = [rest[start : start + PANELS_A_FIGURE] for start in range(0, len(rest), PANELS_A_FIGURE)]
    named = {"metrics": first, **{f"metrics_{number}": names for number, names in enumerate(pages, 2)}}
    draw = {name: functools.partial(_draw_metrics, run, names) for name, names in named.items() if names}
    figures = {
        name: Plot(drawn, CAPTIONS["metrics"], explored=True, on_request=name != "metrics")
        for name, drawn in draw.items()
    }
    layer = shown_layer(run)
    if "left_p" in run.dataset:
        figures |= {
            "vectors": Plot(lambda: _draw_vectors(run, "p", 0.5), CAPTIONS["vectors"]),
            "participation": Plot(lambda: _draw_vectors(run, "participation", 1.0), CAPTIONS["participation"]),
        }
    if "brody" in run.metrics:
        figures["spacings"] = Plot(lambda: _draw_spacings(run), CAPTIONS["spacings"])
    if "eigenvalues" in run.dataset and (squares := _squares(run)):
        figures["eigenvalues"] = Plot(lambda: _draw_eigenvalues(run, squares), CAPTIONS["eigenvalues"])
    if "alpha" in run.metrics and check_depth(run.metrics) is not None:
        figures["thirds"] = Plot(lambda: _draw_thirds(run), CAPTIONS["thirds"], on_request=True)
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
            heights = rows[name].clip(lower=SMALLEST_P) if _is_p(name) else rows[name]
            # Several matrices of one role in a layer, as in checkpoints that are read by name: points.
            alone = rows["layer"].is_unique
            kind: Any = {"linestyle": line} if alone else {"linestyle": "none"}
            panel.plot(
                rows["layer"], heights, color=colour, marker="o", markersize=2.5, linewidth=1, label=role, **kind
            )
            if f"{name}_null" in table and alone:
                panel.plot(rows["layer"], rows[f"{name}_null"], color=colour, linewidth=0.9, linestyle=":")
        _scale_metric(panel, name, table[name].to_numpy(float))
        panel.set_ylabel(metric_label(run, name), fontsize="small")
        panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("layer", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _scale_metric(panel: Axes, name: str, values: Float[np.ndarray, " row"]) -> None:
    """Choose the scale of a metric, and draw what it is read beside: p-values end at `SMALLEST_P` and 1."""
    finite = values[np.isfinite(values)]
    if _is_p(name):
        panel.set_yscale("log")
        panel.set_ylim(SMALLEST_P / 3, 3)
        panel.axhline(0.01, color="0.4", linewidth=0.9, linestyle=":")
    elif (finite > 0).all() and uses_log_axis(values):
        panel.set_yscale("log")
    if name == "alpha":
        panel.axhspan(*TAILED, color="0.93", zorder=0)


def _is_p(name: str) -> bool:
    return name.endswith("_p")


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
        for what, colour, line in (("bulk", CHANCE, "--"), ("norms", NORMS, ":")):
            for edge in _edges(run, rows, what):
                if edge > 0:
                    panel.axhline(edge, color=colour, linewidth=0.9, linestyle=line)
        panel.set_yscale("log")
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("index $i$", fontsize="medium")
    figure.supylabel(
        r"singular value $\sigma_i$ (dashed: edges of the bulk; dotted: of chance with its norms)", fontsize="medium"
    )
    return figure


def _edges(
    run: Run, rows: Sequence[int], what: str, over: Float[np.ndarray, " row"] | float = 1.0
) -> tuple[float, float]:
    """Return the medians of two columns of edges over some rows; NaN where none has one, or an older run no column."""
    found = []
    for name in (f"{what}_low", f"{what}_high"):
        values = run.metrics[name].to_numpy(float)[rows] / over if name in run.metrics else np.array([np.nan])
        finite = values[np.isfinite(values)]
        found.append(float(np.median(finite)) if finite.size else float("nan"))
    return found[0], found[1]


def _draw_bulk(run: Run, layer: int | None) -> Figure:
    """Draw histograms of σ over s√N with the laws of chance, and mark what lies beyond."""
    roles = [role for role in roles_of(run) if _rows(run, role, layer)]
    where = "all layers" if layer is None else f"layer {layer}"
    figure, axes = panels(max(len(roles), 1), _title(run, f"singular values beside Marchenko–Pastur, {where}"))
    for panel, role in zip(axes, roles, strict=False):
        _add_histogram(panel, run, _rows(run, role, layer))
        panel.set_title(role, fontsize="medium", parse_math=False)
    figure.supxlabel(
        r"$\sigma / (s \sqrt{N})$; dotted, and ticks: beyond chance with its row and column norms", fontsize="medium"
    )
    figure.supylabel("density (black: law of one variance; orange: of the bulk)", fontsize="medium")
    return figure


def _add_histogram(panel: Axes, run: Run, rows: Sequence[int]) -> None:
    table = run.metrics
    least = table[["rows", "cols"]].min(axis=1).to_numpy(float)
    most = table[["rows", "cols"]].max(axis=1).to_numpy(float)
    scales = table["mp_high"].to_numpy(float) / (1 + np.sqrt(least / most))
    rows = [row for row in rows if scales[row] > 0]
    if not rows:
        panel.annotate("nothing to show", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    # Runs from before these columns have the bulk's edges alone.
    what = "norms" if "norms_high" in table else "bulk"
    scaled, outliers = [], []
    for row in rows:
        low, high = _edges(run, [row], what)
        sigma = _sigma(run, row)
        scaled.append(sigma / scales[row])
        outliers.append(sigma[(sigma > high) | (sigma < low)] / scales[row])
    values, beyond = np.concatenate(scaled), np.concatenate(outliers)
    edge = float(np.median(1 + np.sqrt(least[rows] / most[rows])))
    shown = max(1.6 * edge, float(np.quantile(values, 0.97)))
    panel.hist(np.minimum(values, shown), bins=60, density=True, color="#56B4E9", edgecolor="none")
    for name, colour, line in (("mp", ONE_VARIANCE, "--"), ("bulk", CHANCE, "-")):
        low, high = _edges(run, rows, name, scales[rows])
        if high > 0:
            grid = np.linspace(max(low, 1e-3), high, 400)
            panel.plot(grid, _law(grid, low, high), color=colour, linestyle=line, linewidth=1.2)
    for end in _edges(run, rows, "norms", scales[rows]):
        if np.isfinite(end):
            panel.axvline(end, color=NORMS, linewidth=1, linestyle=":")
    if beyond.size:  # marks that are not clipped and none would be laid out at the figure's corner
        panel.plot(np.minimum(beyond, shown), np.zeros_like(beyond), "|", color="black", markersize=8, clip_on=False)
    words = [f"{len(beyond)} of {len(values)} beyond"]
    words += [f"largest {values.max():.3g}"] if values.max() > shown else []
    panel.annotate(
        "\n".join(words),
        (0.97, 0.97),
        xycoords="axes fraction",
        ha="right",
        va="top",
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1},  # lines of edges run behind it
    )


def _law(sigma: Float[np.ndarray, " point"], low: float, high: float) -> Float[np.ndarray, " point"]:
    """Compute the density of Marchenko and Pastur from its edges alone, s(√N ∓ √M)."""
    inside = np.clip((high**2 - sigma**2) * (sigma**2 - low**2), 0, None)
    return np.sqrt(inside) / (np.pi * sigma * ((high - low) / 2) ** 2)


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
            words = rf"$\alpha = {alpha:.2f}$"
            if "alpha_null" in run.metrics:
                low, middle, high = run.metrics[list(BESIDE_ALPHA)].iloc[row]
                words += f"\nchance {middle:.1f} ({low:.1f} to {high:.1f})"
            if "power_p" in run.metrics:
                words += f"\npower law p = {run.metrics['power_p'].iloc[row]:.2g}"
            panel.annotate(words, (0.05, 0.08), xycoords="axes fraction", fontsize="small")
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel(r"$\lambda$ (dashed: $x_{\min}$)", fontsize="medium")
    figure.supylabel("share of values at or above (orange: power law)", fontsize="medium")
    return figure


def _draw_vectors(run: Run, what: str, chance: float) -> Figure:
    """Draw a quantity a vector, left and right, against its place, averaged over layers and `SMOOTHED` neighbours."""
    roles = [role for role in roles_of(run) if _rows(run, role)]
    title = "singular vectors beside random ones" if what == "p" else "participation of singular vectors"
    figure, axes = panels(max(len(roles), 1), _title(run, title))
    for panel, role in zip(axes, roles, strict=False):
        rows = _rows(run, role)
        for side, colour in (("left", "#0072B2"), ("right", "#E69F00")):
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
        panel.set_title(role, fontsize="medium", parse_math=False)
        panel.grid(color="0.92", linewidth=0.6)
    figure.supxlabel("index $i$ of the singular value (1: the largest)", fontsize="medium")
    figure.supylabel("mean p-value" if what == "p" else r"$\Sigma v^4$ over that of chance", fontsize="medium")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize="small")
    return figure


def _draw_spacings(run: Run) -> Figure:
    """Draw histograms of unfolded spacings with Wigner's surmise and the law of Poisson."""
    roles = [role for role in roles_of(run) if _rows(run, role)]
    figure, axes = panels(max(len(roles), 1), _title(run, "spacings of neighbouring singular values, unfolded"))
    grid = np.linspace(0, 4, 200)
    for panel, role in zip(axes, roles, strict=False):
        rows = _rows(run, role)
        spectra = [_sigma(run, row) for row in rows]
        found = [inner_spacings(sigma[sigma > sigma[0] * 1e-6]) for sigma in spectra]
        panel.hist(
            np.minimum(np.concatenate(found), 4), bins=np.linspace(0, 4, 41).tolist(), density=True, color="#56B4E9"
        )
        panel.plot(grid, np.pi / 2 * grid * np.exp(-np.pi * grid**2 / 4), color="black", linewidth=1.2)
        panel.plot(grid, np.exp(-grid), color="black", linewidth=1, linestyle=":")
        beta, ratio = (run.metrics[name].to_numpy(float)[rows] for name in ("brody", "spacing_ratio"))
        words = rf"$\beta = {np.nanmean(beta):.2f}$" + "\n" + rf"$\langle\tilde{{r}}\rangle = {np.nanmean(ratio):.3f}$"
        panel.annotate(words, (0.97, 0.95), xycoords="axes fraction", ha="right", va="top", fontsize="small")
        panel.set_title(role, fontsize="medium", parse_math=False)
    figure.supxlabel("spacing (mean 1)", fontsize="medium")
    figure.supylabel("density (black: random matrices; dotted: Poisson)", fontsize="medium")
    return figure


def _squares(run: Run) -> list[int]:
    """List the rows of square matrices of one role: the one asked for, or the first that has any."""
    there = [row for row in range(len(run.metrics)) if np.isfinite(run.metrics["ring_share"].iloc[row])]
    roles = [str(run.metrics["role"].iloc[row]) for row in there]
    if not there:
        return []
    asked = lookup(run.provenance, "config.weights.show_role")
    role = asked if asked in roles else roles[0]
    return [row for row, own in zip(there, roles, strict=True) if own == role]


def _draw_eigenvalues(run: Run, rows: Sequence[int]) -> Figure:
    """Draw eigenvalues in the plane above the density of their sizes, with the null ring, in units of σ₁."""
    shown = [rows[place] for place in spread_layers(range(len(rows)))]
    figure = Figure(figsize=(max(1.0 + PANEL_INCHES * len(shown), 5.0), 5.4), layout="constrained")
    grid = figure.subplots(2, len(shown), squeeze=False, height_ratios=(1.2, 1))
    for row, plane, sizes in zip(shown, *grid, strict=True):
        size = _sigma(run, row).size
        own, rotated = (run.dataset[name].values[row][:size] for name in PLANES)
        sigma = run.dataset["singular_values"].values[row][:size]
        ring = [float(radius[0]) for radius in null_ring(sigma[None] / sigma[0])]
        draw_plane(plane, own, ring, dotted=True)
        draw_sizes(sizes, np.abs(own), np.abs(rotated), ring, bins=min(max(size // 8, 8), BINS), log=False)
        layer = run.metrics["layer"].iloc[row]
        plane.set_title("no layer" if np.isnan(layer) else f"layer {layer:.0f}", fontsize="medium")
        plane.set_xlabel(r"$\mathrm{Re}\,\lambda / \sigma_1$")
        sizes.set_xlabel(r"$|\lambda| / \sigma_1$")
    grid[0, 0].set_ylabel(r"$\mathrm{Im}\,\lambda / \sigma_1$")
    grid[1, 0].set_ylabel("density")
    what = f"eigenvalues of {run.metrics['role'].iloc[shown[0]]}"
    figure.suptitle(_title(run, what), fontsize="medium", parse_math=False)
    handles: list[Any] = [
        Patch(facecolor=OWN, label="eigenvalues of the matrix"),
        Line2D([], [], color=CHANCE, label="the same singular values, randomly rotated"),
        Line2D([], [], color=CHANCE, linestyle="--", label="null ring"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(shown), 3), frameon=False)
    return figure


def _draw_thirds(run: Run) -> Figure:
    """Draw α by layer with the ranges given for thirds of the depth, and what the thirds have."""
    check, table = check_depth(run.metrics), run.metrics
    assert check is not None
    rows = table[table["layer"].notna() & ~table["role"].isin(FUSED)]
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panel = figure.subplots()
    figure.suptitle(_title(run, "tail exponents in thirds of the depth"), fontsize="medium", parse_math=False)
    for role, (colour, _) in styles_of([role for role in roles_of(run) if role not in FUSED]).items():
        own = rows[rows["role"] == role].sort_values("layer")
        panel.plot(own["layer"], own["alpha"], "o", color=colour, markersize=3, label=role)
        if "alpha_null" in own:
            panel.plot(own["layer"], own["alpha_null"], ":", color=colour, linewidth=0.9)
    layers = np.sort(rows["layer"].dropna().unique())
    third = np.arange(layers.size) * len(THIRDS) // layers.size
    for place, ((name, least, most), mean) in enumerate(zip(THIRDS, check.means, strict=True)):
        own = layers[third == place]
        ends = (own[0] - 0.45, own[-1] + 0.45)
        panel.fill_between(ends, least, most, color="0.88", zorder=0, linewidth=0)
        panel.plot(ends, (mean, mean), color="black", linewidth=1.8)
        panel.annotate(name, (sum(ends) / 2, most), ha="center", va="bottom", fontsize="small", color="0.35")
    panel.set_ylim(bottom=min(1.0, float(rows["alpha"].min()) - 0.2))
    if uses_log_axis(rows["alpha"].to_numpy(float)):
        panel.set_yscale("log")
    panel.set_xlabel("layer")
    panel.set_ylabel(metric_label(run, "alpha"))
    panel.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    handles: list[Any] = [
        *panel.get_legend_handles_labels()[0],
        Line2D([], [], color="0.4", linestyle=":", label="Gaussian, median"),
        Line2D([], [], color="black", linewidth=1.8, label="mean of a third"),
        Patch(facecolor="0.88", label="range given"),
    ]
    legend = figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize="small")
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_one(run: Run, layer: int) -> Figure:
    """Draw one matrix as the c_attn walk-through does: σ, cumulative variance, eigenvalues of its Gram matrix."""
    roles = [role for role in roles_of(run) if _rows(run, role, layer)]
    if not roles:
        return panels(1, _title(run, "no matrix of this layer has a spectrum"))[0]
    asked = lookup(run.provenance, "config.weights.show_role")
    role = next(role for role in (asked, "qkv", roles[0]) if role in roles)
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
    error = np.sqrt(np.append(np.cumsum(lam[::-1])[::-1][1:], 0) / lam.sum())
    axes[1].plot(index, error, color="#E69F00", linewidth=1.2, label=r"$\Vert W - W_i \Vert_F / \Vert W \Vert_F$")
    axes[1].legend(fontsize="small", frameon=False)
    figure.supxlabel("index $i$", fontsize="medium")
    return figure
