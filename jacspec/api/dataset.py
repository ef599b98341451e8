"""The arrays of a run as a Dataset that explains itself: titles, units, words, and axes that can be selected."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jacspec.report.labels import (
    corpus_name,
    lookup,
    metric_title,
    metric_words,
    model_name,
    words_of,
)
from jacspec.runs.files import SPECTRA
from jacspec.runs.folder import Run
from jacspec.studies import study_of

if TYPE_CHECKING:
    import xarray

UNITS: Mapping[str, str] = {
    "n_tokens": "tokens",
    "chunk_nats": "nats",
    "chunk_tokens": "tokens",
}
"""Units of axes and arrays that are neither metrics nor pure numbers."""

AXES: Mapping[str, str] = {
    "layer": "layer, counted from 0",
    "component": "what is differentiated",
    "sample": "sample, in the order of the text",
    "k": "index of the singular value, the largest first",
    "n_tokens": "tokens of the sample",
    "role": "role of the matrix",
    "head": "attention head, counted from 0",
    "name": "name of the matrix",
    "singular_values": "singular values",
    "error_bound": "what a singular value may be off by",
    "converged": "1 where the engine reached its tolerance",
    "steps": "steps that the engine took",
    "vector_bound": "the larger of ‖Jv − σu‖ and ‖Jᵀu − σv‖ of a mode, at most",
    "group": "modes of one number are one subspace, -1: it is not known",
}
"""Words for axes and arrays that are not metrics."""


def describe_dataset(run: Run) -> "xarray.Dataset":
    """Read the arrays of a run and describe them.

    Heads are on the axes `role, layer, head`, experiments on their key columns (NaN where there was none); other
    matrices keep the one axis `matrix`, with `role`, `layer` and `name` as levels of its index.

    **Returns:** a Dataset with attributes `title`, `study`, `model`, `revision`, `corpus`, `engine`, `seed`,
    `precision`, `created` and `versions`; of each variable `long_name`, `symbol`, `units` and, of metrics,
    `definition` and `source`.
    """
    dataset = _select_by(_rows(run), _keys(run))
    dataset.attrs = _attributes(run)
    for name, variable in (*dataset.data_vars.items(), *dataset.coords.items()):
        variable.attrs = _describe(run, str(name))
    return dataset


def _rows(run: Run) -> "xarray.Dataset":
    """Read the arrays of a run, of experiments with the columns of their table."""
    import xarray

    keys = run.provenance.get("key_columns")
    dataset = run.dataset if (run.folder / SPECTRA).is_file() else xarray.Dataset()
    if not keys:
        return dataset
    table = run.metrics
    values = {name: ("cell", table[name].to_numpy()) for name in (*keys, *run.metric_names)}
    return dataset.assign({name: values[name] for name in run.metric_names}).assign_coords(
        {"cell": range(len(table)), **{name: values[name] for name in keys}}
    )


def _keys(run: Run) -> list[str]:
    rows = study_of(run.provenance).rows
    return list((rows.keys if rows else ()) or run.provenance.get("key_columns") or ())


def _select_by(dataset: "xarray.Dataset", keys: list[str]) -> "xarray.Dataset":
    """Turn the axis of rows into an index of keys, and into axes of their own where those make a grid."""
    rows = next((axis for axis in ("matrix", "cell") if axis in dataset.dims), None)
    if rows is None or not keys:
        return dataset
    indexed = dataset.drop_vars(rows).set_index({rows: keys})  # type: ignore[dict-item]
    if "name" in keys or not indexed.indexes[rows].is_unique:
        return indexed
    return indexed.unstack(rows).transpose(*keys, ...)


def _attributes(run: Run) -> dict[str, Any]:
    said = run.provenance
    found = {
        "title": f"jacspec.{said['task']}: {model_name(run)}",
        "study": said["task"],
        "model": model_name(run),
        "revision": lookup(said, "identity.checkpoint.revision"),
        "corpus": corpus_name(run) if "corpus" in said else None,
        "engine": said.get("engine"),
        "seed": said.get("seed"),
        "precision": lookup(said, "precision.dtype"),
        "created": said.get("created"),
        "versions": ", ".join(f"{name} {number}" for name, number in (lookup(said, "identity.versions") or {}).items()),
    }
    # What netCDF cannot hold is left out, so that a Dataset can be written as it is.
    return {key: value for key, value in found.items() if value not in (None, "")}


def _describe(run: Run, name: str) -> dict[str, str]:
    words = words_of(run, name)
    if words is None:
        return {"long_name": AXES.get(name, metric_words(name)), "units": UNITS.get(name, "1")} | _symbol(name)
    said = {"long_name": metric_title(run, name), "symbol": words.symbol, "units": words.unit}
    return said | {"definition": words.definition, "source": words.source}


def _symbol(name: str) -> dict[str, str]:
    return {"symbol": r"$\sigma_k$"} if name == "singular_values" else {}
