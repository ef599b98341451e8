"""Spectra and overlaps of matrices of several runs in one figure: models, steps and blocks side by side.

The layouts of "Small Singular Values Matter": its Figures 1 and 2 (histograms), 3, 4, 9 and 10 (overlaps).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jacspec.report.beyond import overlaps_beyond, say_overlaps_beyond, say_spectra_beyond
from jacspec.report.labels import component_words, model_name
from jacspec.report.overlaps import EDGES, LEVELS, WORDS, Spectra, add_spectra, frame_overlap, label_overlap
from jacspec.report.plotting import MEAN, add_grid, panels, styles_of
from jacspec.runs import Run
from jacspec.runs.files import SPECTRA
from jacspec.runs.several import LabelledRun
from jacspec.studies import study_of
from jacspec.studies.compare import RUNS_FILE
from jacspec.studies.study import Plot

if TYPE_CHECKING:
    import xarray

PROFILED = {"weights": ("singular_values",), "overlap": ("singular_values", "overlap")}
"""Of runs of which study what profiles by index are kept."""
LEVELS_KEPT = ("rows", "cols", *EDGES, "norms_high", *LEVELS)
MOST_LAYERS, MOST_ROLES, MOST_SAID, BINS, BEYOND = 3, 3, 4, 60, 1.6
"""Layers a run beyond which all are drawn together; roles that share a panel of histograms; runs of which sentences are
said; most bars, and how far the axis goes in units of the law's upper edge."""
CAPTIONS = {
    "bulks": "Singular values over s√N, s the standard deviation of the elements and N the longer side: a panel a run "
    "and layer (all layers together where there are many), the roles laid over one another; dashed, Marchenko and "
    "Pastur's law of one variance. What lies beyond the axis is counted in its last bar.",
    "overlaps": "O_k = max_j |v_k · f_j| by index: a row a role, a column a run and layer (all layers together where "
    "there are many, a line each, black their mean); grey, what random directions have (mean and 99 %; dotted, 99 % of "
    f"those with the column norms). {WORDS}",
}


class Column(NamedTuple):
    """What stands in one column of a figure: the matrices of a run, of one layer or of all."""

    title: str
    rows: "xarray.Dataset"


def matrix_profiles(runs: Sequence[LabelledRun]) -> dict[str, bytes]:
    """Put profiles of the matrices of all runs below one another, as a file; nothing of runs that have none.

    Rows are matrices (dim `row`), in the runs' order, with `run`, `role` and `layer`, and what is drawn as levels.
    """
    import xarray

    names = PROFILED.get(study_of(runs[0].run.provenance).name, ())
    if not names:
        return {}
    parts = [each.run.dataset[[*names]] for each in runs]
    longest = max(part.sizes["k"] for part in parts)
    found: dict[str, Any] = {
        name: (
            ("row", "k"),
            np.concatenate(
                [np.pad(own, ((0, 0), (0, longest - own.shape[1])), constant_values=np.nan)
                 for own in (part[name].values.astype(np.float32) for part in parts)]
            ),
        )
        for name in names
    }  # fmt: skip
    tables = [each.run.metrics for each in runs]
    for name in LEVELS_KEPT:
        if all(name in table for table in tables):
            found[name] = ("row", np.concatenate([table[name].to_numpy(np.float64) for table in tables]))
    coordinates = {
        "run": ("row", np.repeat(np.arange(len(runs)), [len(table) for table in tables])),
        "role": ("row", np.concatenate([part["role"].values.astype(str) for part in parts])),
        "layer": ("row", np.concatenate([part["layer"].values for part in parts])),
    }
    return {SPECTRA: bytes(xarray.Dataset(found, coordinates).to_netcdf(engine="scipy"))}


def side_by_side(run: Run) -> dict[str, Plot]:
    """Name the figures of runs side by side, of what the compared runs have; drawn on request."""
    if not (run.folder / SPECTRA).is_file():
        return {}
    drawn = {"overlaps": draw_overlaps} if "overlap" in run.dataset else {"bulks": draw_bulks}
    return {name: Plot(functools.partial(draw, run), CAPTIONS[name], on_request=True) for name, draw in drawn.items()}


def side_by_side_findings(run: Run) -> Iterator[str]:
    """Say of each run what lies beyond Marchenko and Pastur's law: how far by role, or with which overlap."""
    if not (run.folder / SPECTRA).is_file() or "mp_high" not in run.dataset:
        return
    labels = run.table(RUNS_FILE).set_index("run")["label"].astype(str)
    for number in list(dict.fromkeys(run.dataset["run"].values.tolist()))[:MOST_SAID]:
        own = run.dataset.isel(row=np.flatnonzero((run.dataset["run"].values == number) & _inside(run.dataset)))
        said = _of_overlaps(own) if "overlap" in own else _of_spectra(own)
        yield from (f"{labels[number]}: {sentence}" for sentence in said)


def _of_overlaps(rows: "xarray.Dataset") -> Iterator[str]:
    profiles = (rows[name].values for name in ("singular_values", "overlap"))
    found = overlaps_beyond(*profiles, *(rows[name].values for name in EDGES))
    yield from say_overlaps_beyond(found, rows["role"].values.tolist())


def _of_spectra(rows: "xarray.Dataset") -> Iterator[str]:
    import pandas

    sigma, high = rows["singular_values"].values, rows["mp_high"].values
    norms = rows["norms_high"].values if "norms_high" in rows else np.full(len(high), np.nan)
    beyond = np.where(norms > 0, (sigma > norms[:, None]).sum(axis=1), np.nan)
    keys = {name: rows[name].values for name in ("role", "layer")}
    table = pandas.DataFrame({**keys, "ratio": sigma[:, 0] / high, "beyond": beyond})
    yield from say_spectra_beyond(table[high > 0])


def draw_bulks(run: Run) -> Figure:
    """Draw histograms of σ over s√N beside Marchenko and Pastur's law, a panel a run and layer."""
    columns = list(_columns(run))
    styles = styles_of(_roles(run)[:MOST_ROLES])
    figure, axes = panels(len(columns), f"{model_name(run)}: singular values beside Marchenko–Pastur", size=(3.5, 2.7))
    scaled = [{role: _scaled(column.rows, role) for role in styles} for column in columns]
    edges = [1 + ratio**0.5 for each in scaled for _, ratio in each.values() if ratio > 0]
    shown = BEYOND * max(edges, default=1.0)
    for panel, column, found in zip(axes, columns, scaled, strict=True):
        panel.set_title(column.title, fontsize="medium", parse_math=False)
        for role, (colour, _) in styles.items():
            _add_histogram(panel, *found[role], shown, colour, component_words(role))
        add_grid(panel)
    figure.supxlabel(r"$\sigma / (s \sqrt{N})$ (the last bar: all beyond)", fontsize="medium")
    figure.supylabel("density (dashed: Marchenko–Pastur)", fontsize="medium")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def draw_overlaps(run: Run) -> Figure:
    """Draw O_k against the index: rows roles, columns runs and layers."""
    columns, roles = list(_columns(run)), _roles(run)
    figure = Figure(figsize=(1.2 + 3.2 * len(columns), 0.9 + 2.5 * len(roles)), layout="constrained")
    grid = figure.subplots(len(roles), len(columns), squeeze=False)
    for axes, role in zip(grid, roles, strict=True):
        whole = _known(run.dataset["overlap"].values[run.dataset["role"].values == role])
        for panel, column in zip(axes, columns, strict=True):
            own = column.rows.isel(row=np.flatnonzero(column.rows["role"].values == role))
            lines = _known(own["overlap"].values)
            if not lines.size:
                panel.annotate(f"no {role}", (0.5, 0.5), xycoords="axes fraction", ha="center")
                panel.set_axis_off()
                continue
            levels = {name: _mean_level(own, name) for name in LEVELS}
            spectra = _spectra(own)
            # One scale a role: side by side they are compared.
            add_spectra(frame_overlap(panel, role, whole, levels, spectra), spectra, "#0072B2")
            index = np.arange(1, lines.shape[1] + 1)
            for line in lines:
                panel.plot(index, line, color="#0072B2", linewidth=0.6, alpha=0.7)
            if len(lines) > 1:
                panel.plot(index, np.nanmean(lines, axis=0), color=MEAN, linewidth=1.2)
            panel.set_title(f"{component_words(role)}\n{column.title}", fontsize="small", parse_math=False)
            panel.grid(color="0.92", linewidth=0.6)
    figure.suptitle(f"{model_name(run)}: overlap with principal directions", fontsize="medium", parse_math=False)
    label_overlap(figure)
    return figure


def _columns(run: Run) -> Iterator[Column]:
    """List runs and their layers, the layers of a run together where there are more than `MOST_LAYERS`."""
    dataset, labels = run.dataset, run.table(RUNS_FILE).set_index("run")["label"].astype(str)
    for number in dict.fromkeys(dataset["run"].values.tolist()):
        own = dataset.isel(row=np.flatnonzero(dataset["run"].values == number))
        layers = [layer for layer in dict.fromkeys(own["layer"].values.tolist()) if layer >= 0]
        if len(layers) > MOST_LAYERS:
            yield Column(f"{labels[number]}, {len(layers)} layers", own)
            continue
        for layer in layers:
            chosen = np.flatnonzero(own["layer"].values == layer)
            yield Column(f"{labels[number]}, layer {layer:g}", own.isel(row=chosen))


def _inside(rows: "xarray.Dataset") -> Bool[np.ndarray, " row"]:
    """Say of each matrix whether it is of a layer, and no embedding."""
    inside: np.ndarray = rows["layer"].values >= 0
    return inside


def _roles(run: Run) -> list[str]:
    return list(dict.fromkeys(run.dataset["role"].values[_inside(run.dataset)].tolist()))


def _scaled(rows: "xarray.Dataset", role: str) -> tuple[Float[np.ndarray, " value"], float]:
    """Collect σ over s√N of the matrices of a role, and the ratio of their sides, 0 where there are none."""
    own = rows.isel(row=np.flatnonzero(rows["role"].values == role))
    sides = np.sort(np.stack([own["rows"].values, own["cols"].values]), axis=0)
    ratios = sides[0] / sides[1]
    scales = own["mp_high"].values / (1 + np.sqrt(ratios))
    known = np.flatnonzero(scales > 0)
    values = own["singular_values"].values[known] / scales[known, None]
    return values[np.isfinite(values)], float(np.median(ratios[known])) if known.size else 0.0


def _add_histogram(
    panel: Axes, values: Float[np.ndarray, " value"], ratio: float, shown: float, colour: str, words: str
) -> None:
    if not values.size:
        return
    bars: dict[str, Any] = {
        "bins": min(BINS, 2 * math.isqrt(values.size)),
        "range": (0, shown),
        "density": True,
        "color": colour,
    }
    panel.hist(np.minimum(values, shown), **bars, alpha=0.35, label=words)
    panel.hist(np.minimum(values, shown), **bars, histtype="step", linewidth=1)
    # Unit variance of the elements, and the longer side as the unit: λ over N has the law of the ratio of the sides.
    sigma = np.linspace(1 - ratio**0.5 + 1e-3, 1 + ratio**0.5 - 1e-3, 300)
    panel.plot(sigma, singular_value_law(sigma, ratio), color=colour, linestyle="--", linewidth=1.3)


def singular_value_law(sigma: Float[np.ndarray, " point"], ratio: float) -> Float[np.ndarray, " point"]:
    """Compute Marchenko and Pastur's density of σ/(s√N), given the shorter side over the longer (the paper's eq. 4)."""
    high, low = 1 + ratio**0.5, 1 - ratio**0.5
    inside = np.clip((high**2 - sigma**2) * (sigma**2 - low**2), 0, None)
    return np.sqrt(inside) / (np.pi * sigma * ratio)


def _spectra(rows: "xarray.Dataset") -> Spectra:
    """Collect the singular values of matrices with their edges, none of runs from before these columns."""
    sigma = rows["singular_values"].values.astype(np.float64)
    low, high = (rows[name].values if name in rows else np.full(len(sigma), np.nan) for name in EDGES)
    return Spectra(sigma[:, np.isfinite(sigma).any(axis=0)], low, high)


def _mean_level(own: "xarray.Dataset", name: str) -> float:
    known = own[name].values[np.isfinite(own[name].values)] if name in own else np.zeros(0)
    return float(known.mean()) if known.size else float("nan")


def _known(values: Float[np.ndarray, "row k"]) -> Float[np.ndarray, "row kept"]:
    """Leave out indices that no row has, and rows without any."""
    kept = values[np.isfinite(values).any(axis=1)]
    return kept[:, np.isfinite(kept).any(axis=0)].astype(np.float64)
