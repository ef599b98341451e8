"""The data of runs over weight matrices and heads: every value of every row, and spectra as far as there is room."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from jacspec.report.explorer.budget import Budget, finite_values, partly, short_decimals, spread
from jacspec.report.labels import lookup
from jacspec.report.plotting import styles_of
from jacspec.runs import Run

DASHES = {"-": "solid", "--": "dash", ":": "dot"}


def role_styles(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Give each role its colour and kind of line, as in the static figures."""
    return line_styles(list(dict.fromkeys(role for run in runs for role in run.metrics["role"])))


def line_styles(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Give names colours, and where those run out kinds of lines."""
    styles = styles_of(names)
    return {name: {"words": name, "colour": colour, "dash": DASHES[line]} for name, (colour, line) in styles.items()}


def matrix_data(run: Run, budget: Budget) -> tuple[dict[str, Any], list[str]]:
    """Collect what a page shows of a run over matrices or heads; as `samples.sample_data`, with a row a matrix."""
    layers = _layers(run)
    shown = _choose(run, layers, budget.spectra)
    data = {"rows": list(_rows(run, layers, shown)), "baseline": lookup(run.provenance, "baseline.median sigma")}
    return data, partly("spectra", len(shown), len(set(layers)), "layers")


def _layers(run: Run) -> list[int | None]:
    """List the layer of each row, `None` for what is outside them."""
    return [None if np.isnan(layer) else int(layer) for layer in run.metrics["layer"].to_numpy(np.float64)]


def _choose(run: Run, rows: Sequence[int | None], room: int) -> list[int | None]:
    """Choose whose spectra are shown: layers evenly spaced, each with all its roles."""
    layers = list(dict.fromkeys(rows))
    sizes = np.isfinite(run.dataset["singular_values"].values).sum(axis=1)
    largest = max(int(sizes[[row == layer for row in rows]].sum()) for layer in layers)
    return [layers[place] for place in spread(len(layers), room // max(largest, 1))]


def _rows(run: Run, layers: Sequence[int | None], shown: Collection[int | None]) -> Iterator[dict[str, Any]]:
    table, sigma = run.metrics, run.dataset["singular_values"].values
    columns = {name: finite_values(table[name].to_numpy(np.float64)) for name in run.metric_names}
    kept = table[["role", "head", "name", "rows", "cols", "reason"]].astype(object).to_dict("records")
    for place, (layer, row) in enumerate(zip(layers, kept, strict=True)):
        own = sigma[place][np.isfinite(sigma[place])]
        yield {
            **{key: value if value == value else None for key, value in row.items()},  # NaN is unequal to itself
            "layer": layer,
            "values": {name: column[place] for name, column in columns.items()},
            "sigma": short_decimals(own) if layer in shown else None,
        }
