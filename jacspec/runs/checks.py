"""Whether a run folder holds what its run wrote: hashes of its tables, and the shape of what is read of them.

A folder may have been cut, edited or written by a stranger. What is wrong is said with the file's name; a run of an
older version, which recorded no hashes, is checked for its shape alone.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError, printable
from jacspec.files import sha256
from jacspec.runs.tables import SUMMARY_COLUMNS
from jacspec.studies import study_of

if TYPE_CHECKING:
    import pandas

LARGEST = 1e150
"""Beyond any number that a run writes: its square would be infinite."""
MOST_LAYERS = 99_999
SHAPE: Mapping[str, Any] = {
    "status": str,
    "task": str,
    "of": str,
    "metrics": [str],
    "components": [str],
    "key_columns": [str],
    "labels": [str],
    "runs": [str],
    "runs_left_out": {"": str},
    "left_out": {"": int},
    "seconds": {"": float},
    "not_converged": [str],
    "token_kinds": {"": [str]},
    "chance": float,
    "steps": [float],
    "shares": [[float]],
    "files": {"": {"sha256": str, "rows": int}},
    "config": {"model": dict, "data": dict, "weights": dict},
    "corpus": {"drawn": [int], "candidates": int},
    "baseline": {"metrics": {"": {"mean": float, "sd": float}}, "edges": [float], "median sigma": [float]},
    "identity": {
        "config": {"model": dict, "data": dict, "lazy": {"groups": int}},
        "checkpoint": {"files": {"": str}, "notes": [str]},
        "corpus": {"notes": [str]},
        "versions": {"": str},
    },
}
"""What is read of `run.json`, by type, where it is there: "" stands for any key, a list for any number of its kind."""

PLACES: Mapping[str, tuple[str, ...]] = {
    "samples": ("layer", "component", "sample", "n_tokens"),
    "matrices": ("layer", "role", "head", "name", "rows", "cols"),
}
WHOLE = ("layer", "sample", "n_tokens", "rows", "cols", "head", "n")
"""Columns of whole numbers from 0, or nothing."""
SUMMARY = SUMMARY_COLUMNS[SUMMARY_COLUMNS.index("metric") :]


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Note the hash of every table and file of arrays in a run folder, and how many rows a table has."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(each for pattern in ("*.csv", "*.nc", "*.npz") for each in folder.glob(pattern)):
        found[file.name] = {"sha256": sha256(file)}
        if file.suffix == ".csv":
            lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
            found[file.name]["rows"] = sum(1 for _ in csv.reader(lines)) - 1
    return found


def check_file(file: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a table that is not what the run wrote, by the hash that `run.json` has of it, where it has one."""
    if not file.is_file():
        raise JacspecError(f"{file} is not there: the run has been copied in part, or is of a study without it.")
    recorded = files.get(file.name)
    if recorded is not None and sha256(file) != recorded["sha256"]:
        rows = f"; it had {recorded['rows']} rows" if "rows" in recorded else ""
        raise JacspecError(
            f"{file} is not what the run wrote: its SHA-256 is not the one in run.json{rows}. It was cut, edited or "
            "damaged. Copy the whole folder again, or compute the run again."
        )


def check_provenance(content: Any, file: Path) -> None:
    """Refuse a `run.json` that jacspec did not write, or in which something has another type than jacspec writes."""
    if not isinstance(content, dict) or "status" not in content:
        raise JacspecError(f"{file} was not written by jacspec.")
    if wrong := _misfit(content, SHAPE):
        raise JacspecError(f"{file} is damaged: {wrong}.")


def check_table(table: "pandas.DataFrame", file: Path, provenance: Mapping[str, Any]) -> None:
    """Refuse a table whose columns, numbers or places are not those of its run."""
    kind = rows.kind if (rows := study_of(provenance).rows) else ""
    wanted, numbers = _columns(file.name, kind, provenance)
    if missing := [name for name in wanted if name not in table]:
        raise JacspecError(f"{file} is damaged: it has no column {', '.join(missing)}.")
    if wanted and not len(table):
        raise JacspecError(f"{file} is damaged: it has no rows.")
    # Columns of no rows have no type.
    for name in table.columns.intersection([*numbers, *WHOLE]) if len(table) else ():
        column = table[name]
        if column.dtype.kind not in "if" or (column.abs() > LARGEST).any():
            raise JacspecError(f"{file} is damaged: its column {printable(name)} holds what is no number of a run.")
        least = -1 if kind == "experiments" and name == "layer" else 0  # -1: outside all layers
        if name in WHOLE and ((column < least) | (column % 1 != 0) & column.notna() | (column > 2**53)).any():
            raise JacspecError(f"{file} is damaged: its column {name} holds what is no number from 0.")
    if "layer" in table and len(table) and (table["layer"] > MOST_LAYERS).any():
        raise JacspecError(f"{file} is damaged: it names a layer beyond {MOST_LAYERS}.")


def _columns(name: str, kind: str, provenance: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[str]]:
    """List the columns that a table must have, and those of numbers."""
    metrics = provenance.get("metrics", [])
    if name == "metrics.csv" and kind in ("experiments", *PLACES):
        keys = provenance.get("key_columns", []) if kind == "experiments" else PLACES[kind]
        return [*keys, *metrics], metrics
    if name == "summary.csv":
        return SUMMARY, SUMMARY[1:]
    if name == "samples.csv":
        return ("sample", "n_tokens", "text"), ()
    return (), ()


def _misfit(value: Any, shape: Any, path: str = "") -> str:
    """Say where a value has another type than `shape` says; empty where it fits."""
    if value is None:
        return "" if path not in ("status", "metrics") else f"{path} is empty"
    if isinstance(shape, type):
        if shape in (int, float):
            fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
            fits = fits and (shape is float or value == math.floor(value))
        else:
            fits = isinstance(value, shape)
        return "" if fits else f"{printable(path)} is {printable(repr(value)[:80])}"
    if not isinstance(value, type(shape)):
        return f"{printable(path)} is {printable(repr(value)[:80])}"
    if isinstance(shape, list):
        inner = ((item, shape[0], f"{path}[{number}]") for number, item in enumerate(value))
    else:
        kinds = ((key, shape.get(key, shape.get(""))) for key in value)
        inner = ((value[key], kind, f"{path}.{key}".lstrip(".")) for key, kind in kinds if kind is not None)
    return next((wrong for each in inner if (wrong := _misfit(*each))), "")
