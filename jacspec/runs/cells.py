"""A run over cells, experiments that do not depend on each other: a kill loses at most the cell in work."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jacspec.axes import CellResult
from jacspec.errors import JacspecError
from jacspec.runs.files import PARTS, REASON, SPECTRA, part_files, write_atomically, write_csv
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise
from jacspec.runs.writing import RowWriter, make_folder, reopen_folder

if TYPE_CHECKING:
    import xarray


@dataclasses.dataclass
class CellWriter(RowWriter[CellResult]):
    """A run over cells being written.

    `keys` are the key columns of `metrics.csv`, `columns` those of values; `summary.csv` sums up over the key `over`
    (as over seeds), where there is one.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    over: str | None

    def add(self, results: Sequence[CellResult]) -> None:
        """Write finished cells durably, a file each."""
        for result in results:
            if result.number not in self.done:
                write_atomically(self.folder / PARTS / f"{result.number:06d}.npz", _pack(result, self.columns))
                self.done[result.number] = result

    def write_tables(self) -> None:
        """Write `metrics.csv`, `summary.csv` and `spectra.nc` from the cells that are done."""
        results = [self.done[number] for number in sorted(self.done)]
        rows = ((*result.key, *(result.values[name] for name in self.columns), result.reason) for result in results)
        write_csv(self.folder / "metrics.csv", (*self.keys, *self.columns, REASON), rows)
        if results and self.over is not None:
            kept = tuple(key for key in self.keys if key != self.over)
            header = (*kept, *SUMMARY_COLUMNS[SUMMARY_COLUMNS.index("metric") :])
            write_csv(self.folder / "summary.csv", header, _summary_rows(results, self.keys, self.columns, self.over))
        if any(result.arrays for result in results):
            dataset = _to_dataset(results, self.keys)
            write_atomically(self.folder / SPECTRA, bytes(dataset.to_netcdf(engine="scipy")))


def start_cells(
    folder: Path, provenance: Mapping[str, Any], *, keys: tuple[str, ...], columns: tuple[str, ...], over: str | None
) -> CellWriter:
    """Begin a run over cells in a new folder; as `layers.start_run`."""
    writer = CellWriter(folder, make_folder(folder, provenance), {}, keys, columns, over)
    writer.write_tables()
    return writer


def resume_cells(
    folder: Path, provenance: Mapping[str, Any], *, keys: tuple[str, ...], columns: tuple[str, ...], over: str | None
) -> CellWriter:
    """Go on with an unfinished run over cells; as `layers.resume_run`."""
    stored = reopen_folder(folder, provenance)
    results = [_unpack(file, keys, columns) for file in part_files(folder / PARTS)]
    return CellWriter(folder, stored, {result.number: result for result in results}, keys, columns, over)


def _summary_rows(
    results: Sequence[CellResult], keys: Sequence[str], columns: Sequence[str], over: str
) -> list[tuple[Any, ...]]:
    place = list(keys).index(over)
    groups: dict[tuple[Any, ...], list[CellResult]] = {}
    for result in results:
        groups.setdefault((*result.key[:place], *result.key[place + 1 :]), []).append(result)
    return [
        (*key, name, *summarise(np.array([result.values[name] for result in group], np.float64)))
        for key, group in groups.items()
        for name in columns
    ]


def _to_dataset(results: Sequence[CellResult], keys: Sequence[str]) -> "xarray.Dataset":
    """Label the arrays: each (cell, its own index), NaN beyond the end of a shorter one."""
    import xarray

    variables: dict[str, Any] = {}
    for name in results[0].arrays:
        rows = [result.arrays[name] for result in results]
        padded = np.full((len(rows), max(map(len, rows))), np.nan)
        for row, values in zip(padded, rows, strict=True):
            row[: len(values)] = values
        variables[name] = (("cell", f"{name}_index"), padded)
    coordinates: dict[str, Any] = {"cell": [result.number for result in results]}
    for place, key in enumerate(keys):
        coordinates[key] = ("cell", [result.key[place] for result in results])
    return xarray.Dataset(variables, coordinates)


def _pack(result: CellResult, columns: Sequence[str]) -> bytes:
    arrays: dict[str, np.ndarray] = {
        "number": np.array(result.number),
        "values": np.array([result.values[name] for name in columns], np.float64),
        REASON: np.array(result.reason),
        **{f"key/{place}": np.array(part) for place, part in enumerate(result.key)},
        **{f"array/{name}": values for name, values in result.arrays.items()},
    }
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _unpack(file: Path, keys: Sequence[str], columns: Sequence[str]) -> CellResult:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
        return CellResult(
            int(arrays["number"]),
            tuple(arrays[f"key/{place}"].item() for place in range(len(keys))),
            dict(zip(columns, arrays["values"].tolist(), strict=True)),
            {name.removeprefix("array/"): values for name, values in arrays.items() if name.startswith("array/")},
            arrays[REASON].item(),
        )
    except Exception as error:  # zipfile raises many types for a damaged file
        raise JacspecError(f"{file} is damaged ({error}). Delete it: resuming computes it again.") from error
