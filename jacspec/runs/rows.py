"""A run of rows, matrices or experiments: written batch by batch, so that a kill loses at most the batch in work."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Inexact

from jacspec.axes import Key, Row
from jacspec.errors import JacspecError
from jacspec.runs.files import (
    PARTS,
    REASON,
    SPECTRA,
    part_files,
    read_arrays,
    write_arrays,
    write_atomically,
    write_csv,
)
from jacspec.runs.tables import SUMMARY_COLUMNS, split_complex, summarise
from jacspec.runs.writing import Writer, make_folder, reopen_folder

if TYPE_CHECKING:
    import xarray

MatrixKey = tuple[int | None, str, int | None, str]
"""Layer, role, head and name of a matrix; None where it belongs to no layer or head."""


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """How the rows of a run lie in its files.

    `metrics.csv` has the key columns `keys` and the columns of values `columns`. `summary.csv` has the key columns
    `grouped` (none: there is no such file); `groups(key)` names the groups that a row counts towards. In `spectra.nc`
    rows are the axis `axis`, with the key columns `labels` beside it; arrays share the axis `index`, counted from 1,
    and values stand beside them; without an `index` each array has an axis of its own, and values are left out.
    What only all rows together say, as q-values, `complete` adds to them before tables are written; `words` are its
    columns of text.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    grouped: tuple[str, ...]
    groups: Callable[[Key], Iterable[Key]]
    axis: str
    labels: tuple[str, ...]
    index: str | None
    complete: Callable[[Sequence[Row]], Sequence[Row]] = lambda rows: rows
    words: tuple[str, ...] = ()


WHOLE_MODEL = "all"
"""What stands for the role of all matrices together in `summary.csv`; it comes last."""


def matrix_layout(columns: tuple[str, ...]) -> RowLayout:
    """Lay out rows that are matrices, as `matrix_row` makes them."""
    keys, labels = ("layer", "role", "head", "name", "rows", "cols"), ("role", "name", "layer", "head", "rows", "cols")
    return RowLayout(keys, columns, SUMMARY_COLUMNS[:2], _roles, "matrix", labels, "k")


def experiment_layout(keys: tuple[str, ...], columns: tuple[str, ...], over: str | None = None) -> RowLayout:
    """Lay out rows that are experiments; `summary.csv` sums up over the key `over` (as over seeds), where there is one.

    Their axis in `spectra.nc` is called `cell`.
    """
    kept = [place for place, name in enumerate(keys) if name != over]
    grouped = tuple(keys[place] for place in kept) if over is not None else ()
    return RowLayout(keys, columns, grouped, lambda key: [tuple(key[place] for place in kept)], "cell", keys, None)


def matrix_row(
    number: int,
    key: MatrixKey,
    shape: tuple[int, int],
    sigma: Float[np.ndarray, " k"],
    metrics: Mapping[str, float],
    reason: str = "",
    profiles: Mapping[str, Inexact[np.ndarray, " k"]] = {},
) -> Row:
    """Make the row of a matrix; `profiles` are quantities a singular value, by name."""
    return Row(number, (*key, *shape), metrics, {"singular_values": sigma, **profiles}, reason)


@dataclasses.dataclass
class RowWriter(Writer):
    """A run of rows being written; `done` maps the numbers of those that are done to them."""

    layout: RowLayout
    done: dict[int, Row]

    def add(self, rows: Sequence[Row]) -> None:
        """Write a batch of finished rows durably; those that are done already stay as they are."""
        new = [row for row in rows if row.number not in self.done]
        if new:
            write_arrays(self.folder / PARTS / f"{new[0].number:06d}.npz", _pack(new, self.layout.columns))
            self.done |= {row.number: row for row in new}

    def write_tables(self) -> None:
        """Write `metrics.csv`, `summary.csv` and `spectra.nc` from the rows that are done."""
        layout, rows = self.layout, self.layout.complete([self.done[number] for number in sorted(self.done)])
        lines = (
            (*row.key, *(row.values[name] for name in layout.columns), *map(row.words.get, layout.words), row.reason)
            for row in rows
        )
        write_csv(self.folder / "metrics.csv", (*layout.keys, *layout.columns, *layout.words, REASON), lines)
        if rows and layout.grouped:
            header = (*layout.grouped, *SUMMARY_COLUMNS[SUMMARY_COLUMNS.index("metric") :])
            write_csv(self.folder / "summary.csv", header, _summary_rows(rows, layout))
        if any(row.arrays for row in rows):
            dataset = split_complex(_to_dataset(rows, layout))
            write_atomically(self.folder / SPECTRA, bytes(dataset.to_netcdf(engine="scipy")))


def start_rows(folder: Path, provenance: Mapping[str, Any], layout: RowLayout) -> RowWriter:
    """Begin a run of rows in a new folder; as `layers.start_run`."""
    writer = RowWriter(folder, make_folder(folder, provenance), layout, {})
    writer.write_tables()
    return writer


def resume_rows(folder: Path, provenance: Mapping[str, Any], layout: RowLayout) -> RowWriter:
    """Resume an unfinished run of rows; as `layers.resume_run`."""
    stored = reopen_folder(folder, provenance)
    done: dict[int, Row] = {}
    for file in part_files(folder / PARTS):
        done |= {row.number: row for row in read_arrays(file, lambda arrays: _unpack(arrays, layout.columns))}
    return RowWriter(folder, stored, layout, done)


def _roles(key: Key) -> Iterator[Key]:
    """Count a matrix to its role over all layers (none named), and where a layer has several to that in its layer."""
    layer, role, head, *_ = key
    yield None, role
    if layer is not None and head is not None:
        yield layer, role


def _summary_rows(rows: Sequence[Row], layout: RowLayout) -> list[tuple[Any, ...]]:
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        for key in layout.groups(row.key):
            groups.setdefault(key, []).append(row)
    if (last := (None, WHOLE_MODEL)) in groups:
        groups[last] = groups.pop(last)
    return [
        (*key, name, *summarise(np.array([row.values[name] for row in group], np.float64)))
        for key, group in groups.items()
        for name in layout.columns
    ]


def _to_dataset(rows: Sequence[Row], layout: RowLayout) -> "xarray.Dataset":
    """Label arrays (row, index), NaN beyond a shorter one's end, and values (row); -1 stands for no layer or head."""
    import xarray

    variables: dict[str, Any] = {}
    coordinates: dict[str, Any] = {}
    longest = max(len(values) for row in rows for values in row.arrays.values()) if layout.index else 0
    for name in rows[0].arrays:
        table = _pad([row.arrays[name] for row in rows], longest)
        variables[name] = ((layout.axis, layout.index or f"{name}_index"), table)
        if layout.index:
            coordinates[layout.index] = np.arange(1, table.shape[1] + 1)
    if layout.index:
        variables |= {name: (layout.axis, np.array([row.values[name] for row in rows])) for name in layout.columns}
    coordinates[layout.axis] = [row.number for row in rows]
    for name in layout.labels:
        parts = (row.key[layout.keys.index(name)] for row in rows)
        coordinates[name] = (layout.axis, [-1 if part is None else part for part in parts])
    return xarray.Dataset(variables, coordinates)


def _pad(rows: Sequence[Inexact[np.ndarray, "..."]], least: int) -> Inexact[np.ndarray, "row longest"]:
    table = np.full((len(rows), max(least, *map(len, rows))), np.nan, np.result_type(*rows))
    for line, values in zip(table, rows, strict=True):
        line[: len(values)] = values
    return table


def _pack(rows: Sequence[Row], columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Name the arrays of a batch; numbers, keys and reasons are JSON, which keeps text, numbers and None apart."""
    return {
        "rows": np.array(json.dumps([(row.number, row.key, row.reason) for row in rows])),
        "values": np.array([[row.values[name] for name in columns] for row in rows], np.float64),
        **{f"{row.number}/{name}": values for row in rows for name, values in row.arrays.items()},
    }


def _unpack(arrays: Mapping[str, np.ndarray], columns: Sequence[str]) -> list[Row]:
    if "rows" not in arrays:
        raise JacspecError(
            "The run was begun by an older jacspec, whose unfinished runs of matrices and experiments this one does "
            "not read. Start it anew: type hydra.run.dir=OTHER instead of resume."
        )
    found: dict[str, dict[str, np.ndarray]] = {}
    for place, values in arrays.items():
        number, _, name = place.partition("/")
        found.setdefault(number, {})[name] = values
    return [
        Row(number, tuple(key), dict(zip(columns, values, strict=True)), found.get(str(number), {}), reason)
        for (number, key, reason), values in zip(
            json.loads(arrays["rows"].item()), arrays["values"].tolist(), strict=True
        )
    ]
