"""The data of runs over experiments: every row, what it is drawn against, and what tells lines apart."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jacspec.report.explorer.budget import METRIC_VALUES, Budget, finite_values, partly
from jacspec.report.explorer.matrices import line_styles
from jacspec.report.labels import COMPARED
from jacspec.report.plotting import ORDERS, WHOLE
from jacspec.runs import Run

ALONG = {
    "scale": "output scale α (small: rich, large: lazy)",
    "layer": "layer",
    "step": "step",
    "group": "group of singular values removed (1: the largest)",
}
"""Keys that rows are drawn against, the first that a run has, and their titles."""
OUTSIDE = " (−1: outside the layers)"
LINES, OVER, NONE = ("role", "target", "order"), "seed", "none"


def along_key(run: Run) -> str | None:
    """Return the key that rows are drawn against; None where a run has none."""
    return next((key for key in ALONG if key in run.provenance.get("key_columns", ())), None)


def experiment_styles(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Give each line its words, colour and kind; orders of removal have those of the static figures."""
    names = [name for name in dict.fromkeys(line for run in runs for line in _lines(run)) if name != NONE]
    styles = line_styles(names)
    for name in set(names) & set(ORDERS):
        words, colour, *_ = ORDERS[name]
        styles[name] |= {"words": words.replace("$f_0$", "f₀"), "colour": colour}
    return styles | {NONE: {"words": WHOLE[0], "colour": "#404040", "dash": "solid"}}


def experiment_data(run: Run, budget: Budget) -> tuple[dict[str, Any], list[str]]:
    """Collect what a page shows of a run over experiments, a row an experiment."""
    names = run.metric_names[: max(METRIC_VALUES // max(len(run.metrics), 1), 1)]
    along = str(along_key(run))
    words = ALONG[along] + OUTSIDE * bool(along == "layer" and (run.metrics["layer"] < 0).any())
    data: dict[str, Any] = {"rows": list(_rows(run, along, names)), "along": words, "metrics": list(names)}
    data |= {"log": along == "scale", "chance": run.provenance.get("chance")}
    return data, partly("values", len(names), len(run.metric_names), "columns")


def _lines(run: Run) -> list[str]:
    key = next((key for key in LINES if key in run.metrics), None)
    return [str(line) for line in run.metrics[key]] if key else [""] * len(run.metrics)


def _rows(run: Run, along: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows; one from which nothing was removed belongs to all picks, and has no place among groups."""
    table = run.metrics
    keys = [key for key in run.provenance["key_columns"] if key not in (along, OVER, *LINES)]
    places = list(zip(range(len(table)), _lines(run), table.to_dict("records"), strict=True))
    if "compared" in keys:
        places.sort(key=lambda each: list(COMPARED).index(each[-1]["compared"]))
    values = {name: finite_values(table[name].to_numpy(np.float64)) for name in names}
    errors = {name: values[error] for name in names if (error := _error_of(name)) in values}
    for place, line, row in places:
        yield {
            "line": line,
            "x": None if along == "group" and line == NONE else float(row[along]),
            "pick": None if line == NONE else " · ".join(_pick(key, row[key]) for key in keys),
            "values": {name: column[place] for name, column in values.items()},
            "errors": {name: column[place] for name, column in errors.items()},
        }


def _pick(key: str, value: Any) -> str:
    """Say what a row is of by one of its keys; names of models say that themselves."""
    return COMPARED.get(value, str(value)) if key in ("compared", "first", "second") else f"{key} {value}"


def _error_of(name: str) -> str:
    """Name the column that holds the standard error of another, as `task=removal` calls it."""
    return "delta_error" if name.startswith("delta_") else "perplexity_error" if "perplexity" in name else ""
