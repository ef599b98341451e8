"""Runs to explore, and what each view of their page must show, from the files of the runs alone."""

import csv
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import xarray
from scipy import stats
from test_report import make_run

from jacspec.axes import Row
from jacspec.runs import Run, open_run
from jacspec.runs.rows import matrix_layout, matrix_row, start_rows

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = '</script><img src=x onerror="window.hacked=1"><!-- & <b>%{x}'
COMPONENTS = ("attn", HOSTILE)


# Runs


def sample_runs(folder: Path) -> list[tuple[str, Run]]:
    """Make two runs of different depth and metrics, one with a decade of outliers, both with names that attack."""
    first = make_run(folder / "first", layers=3, samples=25, components=COMPONENTS, text=f"{HOSTILE}\u2028")
    second = make_run(folder / "second", layers=2, samples=9, metrics=("decay_ratio", "stable_rank"), missing=True)
    return [(f"first {HOSTILE}", first), ("second", second)]


def matrix_runs(folder: Path) -> list[tuple[str, Run]]:
    """Make two runs over matrices: several roles, one matrix outside the layers, one without values."""
    runs = []
    for seed, label in enumerate(("trained", "random")):
        rng = np.random.default_rng(seed)
        places = [(layer, role) for layer in range(3) for role in ("q", HOSTILE)] + [(None, "embedding")]
        results = [
            measured(rng, number, layer, role, f"{role} of {layer}", (12, 30) if role == "q" else (20, 20))
            for number, (layer, role) in enumerate(places)
        ]
        columns = tuple(results[0].values)
        blank = results[1]._replace(values=dict.fromkeys(columns, math.nan), reason="all zero")
        runs.append((label, write_matrices(folder / label, "weights", [results[0], blank, *results[2:]], columns)))
    return runs


def measured(
    rng: np.random.Generator, number: int, layer: int | None, role: str, name: str, shape: tuple[int, int]
) -> Row:
    scale = 10.0 ** rng.uniform(-2, 2)
    sigma = np.linalg.svd(rng.normal(size=shape) * scale, compute_uv=False).astype(np.float32)
    sigma[0] *= 3
    edges = [scale * abs(max(shape) ** 0.5 + sign * min(shape) ** 0.5) for sign in (-1, 1)]
    metrics = {"spectral_radius": float(sigma[0]), "bulk_low": edges[0], "bulk_high": edges[1]}
    metrics |= {"mp_low": 1.1 * edges[0], "mp_high": 1.1 * edges[1]}
    # Of a square matrix there is no lower one.
    lower = 0.9 * edges[0] if edges[0] > 0 else math.nan
    metrics |= {"count_low": lower, "count_high": 1.05 * edges[1], "norms_low": lower, "norms_high": 1.3 * edges[1]}
    return matrix_row(number, (layer, role, None, name), shape, sigma, metrics)


def head_runs(folder: Path) -> list[tuple[str, Run]]:
    runs = []
    for seed, label in enumerate(("trained", "random")):
        rng = np.random.default_rng(seed)
        places = itertools.product(range(2 + seed), ("qk", "ov"), range(3))
        results = []
        for number, (layer, role, head) in enumerate(places):
            sigma = -np.sort(-rng.lognormal(0, 2, 5).astype(np.float32))
            values = {"lambda_0": float(sigma[0] ** 2), "kappa_sigma": math.nan if number == 1 else float(layer - head)}
            key = (layer, role, head, f"block {layer} head {head} {role}")
            results.append(matrix_row(number, key, (8, 8), sigma, values))
        baseline = {"baseline": {"median sigma": [1.6, 1.2, 0.9, 0.5, 0.2]}}
        runs.append((label, write_matrices(folder / label, "heads", results, tuple(results[0].values), baseline)))
    return runs


def write_matrices(
    folder: Path,
    task: str,
    results: Sequence[Row],
    columns: tuple[str, ...],
    known: dict[str, Any] | None = None,
) -> Run:
    writer = start_rows(folder, {"task": task, "metrics": list(columns), **(known or {})}, matrix_layout(columns))
    writer.add(results)
    writer.write_tables()
    writer.finish()
    return open_run(folder)


MAKERS = {"samples": sample_runs, "matrices": matrix_runs, "heads": head_runs}


# Reading the page


class Shown(NamedTuple):
    """What the page shows: the choices of its controls, what Plotly drew, the sentence, the table, the scale."""

    choice: dict[str, Any]
    traces: list[dict[str, Any]]
    boxes: list[list[dict[str, Any]]]
    says: str
    table: list[list[str]]
    scale: str


READ = """() => {
  const plot = document.getElementById("explorer-plot");
  const chosen = (element) => element.querySelector("select")?.value
    ?? [...element.querySelectorAll("input:checked")].map((box) => box.value);
  return [
    Object.fromEntries([...document.querySelectorAll("#explorer-controls > *")].map((e) => [e.dataset.key, chosen(e)])),
    plot.data,
    plot.calcdata.map((trace) => trace.map(({ pos, med, q1, q3, lf, uf, pts, pts2 }) => ({
      pos, med, q1, q3, lf, uf,
      all: pts?.map((point) => point.v), drawn: pts2?.map((point) => point.v), text: pts?.map((point) => point.tx),
    }))),
    document.getElementById("explorer-says").textContent,
    [...document.querySelectorAll("#explorer-values tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
    plot._fullLayout.yaxis.type,
  ];
}"""


def read(page: "Page") -> Shown:
    return Shown(*page.evaluate(READ))


def rows_of(run: Run) -> list[dict[str, str]]:
    with (run.folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def spectra_of(run: Run) -> xarray.DataArray:
    return xarray.load_dataset(run.folder / "spectra.nc", engine="scipy")["singular_values"]


def finite(values: Sequence[str]) -> np.ndarray:
    found = np.array([float(value) for value in values])
    return found[np.isfinite(found)]


def same(shown: Sequence[Any] | np.ndarray, expected: Any, rtol: float = 0) -> None:
    """Compare numbers in place; `None` stands for what is missing."""
    found = np.array([math.nan if value is None else value for value in shown], np.float64)
    np.testing.assert_allclose(found, np.asarray(expected, np.float64), rtol=rtol)


def in_range(layer: str, choice: dict[str, Any]) -> bool:
    low, high = sorted((int(choice["from"]), int(choice["to"])))
    return not layer or low <= int(layer) <= high


# What each view must show, from the files of the runs alone


def check_boxes(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    run = runs[int(choice["run"])][1]
    kept = [row for row in rows_of(run) if row["component"] in choice["components"] and in_range(row["layer"], choice)]
    every: list[float] = []
    for component, boxes in zip(choice["components"], shown.boxes, strict=True):
        samples: dict[int, np.ndarray] = {}
        for layer in dict.fromkeys(row["layer"] for row in kept):
            own = [row for row in kept if (row["layer"], row["component"]) == (layer, component)]
            values = finite([row[choice["metric"]] for row in own])
            samples |= {int(layer): values} if values.size else {}
            every += values.tolist()
        assert [box["pos"] for box in boxes if "pos" in box] == list(samples)
        for box, values in zip(boxes, samples.values(), strict=False):
            q1, median, q3 = np.percentile(values, [25, 50, 75])
            inside = values[(values >= q1 - 1.5 * (q3 - q1)) & (values <= q3 + 1.5 * (q3 - q1))]
            same([box["q1"], box["med"], box["q3"]], [q1, median, q3], rtol=1e-14)
            same([box["lf"], box["uf"]], [min(inside.min(), q1), max(inside.max(), q3)], rtol=1e-14)
            same(sorted(box["all"]), np.sort(values))
            beyond = np.setdiff1d(values, inside)
            same(
                sorted(box["drawn"] or []),
                np.sort({"all": values, "outliers": beyond}.get(choice["points"], beyond[:0])),
            )
            same([float(text.split(": ")[-1]) for text in box["text"] or []], box["all"])
            cells = [[float(cell) for cell in line[2:7]] for line in shown.table[1:]]
            numbers = [values.size, values.mean(), median, q1, q3]
            assert any(np.allclose(line, numbers, rtol=1e-14) for line in cells)
    check_scale(shown, every)


def check_scale(shown: Shown, values: Sequence[float]) -> None:
    wide = bool(values) and min(values) > 0 and max(values) > (10 if max(values) > 1 else 100) * min(values)
    assert shown.scale == {"auto": "log" if wide else "linear", "log": "log", "linear": "linear"}[shown.choice["scale"]]


def visible(sigma: np.ndarray) -> np.ndarray:
    return np.where(sigma > sigma[0] * sigma.size * np.finfo(np.float32).eps, sigma, math.nan)


def check_medians(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    sigma = spectra_of(runs[int(choice["run"])][1]).sel(component=choice["component"])
    layers = [layer for layer in sigma["layer"].values.tolist() if in_range(str(layer), choice)]
    assert [trace["name"] for trace in shown.traces] == [f"layer {layer}" for layer in layers]
    for trace, layer in zip(shown.traces, layers, strict=True):
        same(trace["y"], visible(np.median(sigma.sel(layer=layer).values, axis=0)), rtol=1e-7)
        same(trace["x"], range(1, sigma.sizes["k"] + 1))


def check_sample(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    run = runs[int(choice["run"])][1]
    sigma = spectra_of(run).sel(layer=int(choice["layer"]), sample=int(choice["sample"]))
    for trace, component in zip(shown.traces, choice["components"], strict=True):
        expected = visible(sigma.sel(component=component).values)
        assert np.array(trace["y"], np.float32).tobytes() == expected.astype(np.float32).tobytes()
    with (run.folder / "samples.csv").open(encoding="utf-8", newline="") as stream:
        text = {row["sample"]: row["text"] for row in csv.DictReader(stream)}[choice["sample"]]
    assert f"sample {choice['sample']} " in shown.says
    assert shown.says.endswith(f"“{text}”")


def check_runs(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice, part = shown.choice, shown.choice["part"]
    expected = []
    for label, run in (runs[int(place)] for place in choice["runs"]):
        rows = [row for row in rows_of(run) if row.get("component", row.get("role")) == part and row["layer"]]
        if not rows or choice["metric"] not in rows[0]:
            continue
        layers = sorted({int(row["layer"]) for row in rows})
        known = {
            layer: finite([row[choice["metric"]] for row in rows if int(row["layer"]) == layer]) for layer in layers
        }
        middle: Callable[[np.ndarray], Any] = np.median if choice["middle"] == "median" else np.mean
        points = [(layer / (max(layers) or 1), middle(values)) for layer, values in known.items() if values.size]
        expected += [(label, points)] if points else []
    assert len(shown.traces) == len(expected)
    for trace, (_, points) in zip(shown.traces, expected, strict=True):
        same(trace["x"], [depth for depth, _ in points], rtol=1e-14)
        same(trace["y"], [value for _, value in points], rtol=1e-14)
    assert [line[0] for line in shown.table[1:]] == [label for label, points in expected for _ in points]
    check_scale(shown, [value for _, points in expected for _, value in points])


def check_layers(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    rows = [row for row in rows_of(runs[int(choice["run"])][1]) if in_range(row["layer"], choice)]
    for trace, role in zip(shown.traces, choice["roles"], strict=True):
        own = [row for row in rows if row["role"] == role and row[choice["metric"]] not in ("", "nan")]
        same(trace["x"], [int(row["layer"] or -1) for row in own])
        same(trace["y"], [float(row[choice["metric"]]) for row in own])
    kept = [row for row in rows if row["role"] in choice["roles"]]
    assert [line[2] for line in shown.table[1:]] == [row["name"] for row in kept]
    reasons = [row["reason"] for row in kept if row["reason"]]
    assert [line[3] for line in shown.table[1:] if line[3] in reasons] == reasons


def check_matrix(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    run = runs[int(choice["run"])][1]
    row, sigma = rows_of(run)[int(choice["matrix"])], spectra_of(run).values[int(choice["matrix"])]
    sigma = sigma[np.isfinite(sigma)]
    assert row["role"] == choice["role"]
    histogram, *laws, outliers = shown.traces
    assert np.array(histogram["x"], np.float32).tobytes() == sigma.tobytes()
    assert len(laws) == (2 if row["bulk_high"] != "nan" else 0)
    for name, law in zip(("bulk", "mp"), laws, strict=False):
        check_law(law, float(row[f"{name}_low"]), float(row[f"{name}_high"]))
    beyond, beyond_norms = (
        sigma[(sigma < float(row[f"{name}_low"])) | (sigma > float(row[f"{name}_high"]))] for name in ("count", "norms")
    )
    same(outliers["x"], beyond, rtol=1e-7)
    if laws:
        assert f" {len(beyond)} beyond the edges" in shown.says
        assert f"; {len(beyond_norms)} beyond what independent entries" in shown.says
    else:
        assert "no Marchenko–Pastur bulk identified" in shown.says
    assert shown.scale == ("log" if choice["scale"] == "log" else "linear")


def check_law(law: dict[str, Any], low: float, high: float) -> None:
    """The law by its eigenvalues: λ has density √((b − λ)(λ − a)) / (2π s² M λ), dλ = 2σ dσ; its mass is one."""
    sigma, density = np.array(law["x"]), np.array(law["y"])
    same([sigma[0], sigma[-1]], [low, high], rtol=1e-6)
    inner = slice(1, -1)  # at the edges it is a difference of equal numbers
    lam, (a, b) = sigma[inner] ** 2, (low**2, high**2)
    small = (high - low) / 2  # s √M, the edges being s (√N ∓ √M)
    expected = np.sqrt((b - lam) * (lam - a)) / (2 * np.pi * small**2 * lam) * 2 * sigma[inner]
    same(density[inner], expected, rtol=1e-9)
    assert np.trapezoid(density, sigma) == pytest.approx(1, abs=1e-3)


def check_map(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    rows = [row for row in rows_of(runs[int(choice["run"])][1]) if row["role"] == choice["role"]]
    (trace,) = shown.traces
    shown_values = {}
    for layer, z, values, texts in zip(trace["y"], trace["z"], trace["customdata"], trace["text"], strict=True):
        for head, colour, value, text in zip(trace["x"], z, values, texts, strict=True):
            shown_values[layer, head] = math.nan if value is None else value
            log = trace["colorbar"]["title"]["text"].startswith("log")
            coloured = value if not log or value is None else math.log10(value) if value > 0 else None
            same([colour], [math.nan if coloured is None else coloured], rtol=1e-12)
            assert text == f"layer {layer}, head {head}: {'missing' if value is None else text.split(': ')[1]}"
            assert value is None or float(text.split(": ")[1]) == value
    expected = {(int(row["layer"]), int(row["head"])): float(row[choice["metric"]]) for row in rows}
    assert list(shown_values) == list(expected)
    same(list(shown_values.values()), list(expected.values()))
    values = [value for value in expected.values() if math.isfinite(value)]
    wide = min(values) > 0 and max(values) > (10 if max(values) > 1 else 100) * min(values)
    assert log is {"auto": wide, "log": True, "linear": False}[choice["scale"]]
    hidden = sum(value <= 0 for value in values) if log else 0
    assert (f" {hidden} values of 0 or below are not on the" in shown.says) is (hidden > 0)


def check_head(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    run = runs[int(choice["run"])][1]
    found = [choice[name] for name in ("role", "layer", "head")]
    place = [[row["role"], row["layer"], row["head"]] for row in rows_of(run)].index(found)
    sigma = spectra_of(run).values[place]
    head, chance = shown.traces
    assert np.array(head["y"], np.float32).tobytes() == sigma.tobytes()
    same(chance["y"], np.array([1.6, 1.2, 0.9, 0.5, 0.2]) * np.sqrt(np.mean(sigma.astype(float) ** 2)), rtol=1e-6)


def check_scatter(shown: Shown, runs: Sequence[tuple[str, Run]]) -> None:
    choice = shown.choice
    tables = [rows_of(run) for _, run in runs]
    names = [choice["across"], choice["metric"]]

    def values(row: dict[str, str]) -> list[float]:
        return [float(row.get(name) or "nan") for name in names]

    known = [
        [row for row in table if part_of(row) in choice["parts"] and np.isfinite(values(row)).all()] for table in tables
    ]
    rows = known[int(choice["run"])]
    parts = [part for part in choice["parts"] if any(part_of(row) == part for row in rows)]
    assert len(shown.traces) == len(parts)
    for trace, part in zip(shown.traces, parts, strict=True):
        own = [row for row in rows if part_of(row) == part]
        found = sorted(zip(trace["x"], trace["y"], trace["marker"]["color"], strict=True))
        layers = [float(row["layer"]) if row["layer"] else trace["marker"]["cmin"] for row in own]
        same(np.array(found), sorted((*values(row), layer) for row, layer in zip(own, layers, strict=True)))
    columns = np.array([values(row) for row in rows]).T
    if len(rows) and (np.ptp(columns, axis=1) > 0).all():
        assert f"{len(rows)} points, rank correlation {stats.spearmanr(*columns).statistic:.3f}." in shown.says
    check_scale(shown, [values(row)[1] for table in known for row in table])


def part_of(row: dict[str, str]) -> str:
    return row.get("component") or row["role"]


CHECKS: dict[str, Callable[[Shown, Sequence[tuple[str, Run]]], None]] = {
    "boxes": check_boxes,
    "medians": check_medians,
    "sample": check_sample,
    "runs": check_runs,
    "layers": check_layers,
    "matrix": check_matrix,
    "map": check_map,
    "head": check_head,
    "scatter": check_scatter,
}


def check(page: "Page", runs: Sequence[tuple[str, Run]]) -> Shown:
    shown = read(page)
    CHECKS[shown.choice["view"]](shown, runs)
    # Who sees no colours tells by marks and dashes.
    marks = [(trace.get("marker", {}).get("symbol"), trace.get("line", {}).get("dash")) for trace in shown.traces]
    assert len(set(marks)) == len(marks)
    return shown
