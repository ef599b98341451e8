"""A run over weight matrices: written batch by batch, so that a kill loses at most the batch in work."""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jacspec.axes import MatrixResult
from jacspec.errors import JacspecError
from jacspec.runs.files import PARTS, REASON, SPECTRA, part_files, write_atomically, write_csv
from jacspec.runs.tables import SUMMARY_COLUMNS, summarise
from jacspec.runs.writing import RowWriter, make_folder, reopen_folder

if TYPE_CHECKING:
    import xarray

IDENTITY_COLUMNS = ("layer", "role", "head", "name", "rows", "cols")


@dataclasses.dataclass
class MatrixWriter(RowWriter[MatrixResult]):
    """A run over weight matrices being written; `columns` are those of values."""

    columns: tuple[str, ...]

    def add(self, results: Sequence[MatrixResult]) -> None:
        """Write the results of one batch durably."""
        new = [result for result in results if result.number not in self.done]
        if new:
            write_atomically(self.folder / PARTS / f"{new[0].number:06d}.npz", _pack(new, self.columns))
            self.done |= {result.number: result for result in new}

    def write_tables(self) -> None:
        """Write `metrics.csv`, `summary.csv` and `spectra.nc` from the matrices that are done."""
        results = [self.done[number] for number in sorted(self.done)]
        write_csv(
            self.folder / "metrics.csv",
            (*IDENTITY_COLUMNS, *self.columns, REASON),
            (
                (*_identity(result), *(result.metrics[name] for name in self.columns), result.reason)
                for result in results
            ),
        )
        if results:
            write_csv(self.folder / "summary.csv", SUMMARY_COLUMNS, _summary_rows(results, self.columns))
            write_atomically(self.folder / SPECTRA, bytes(_to_dataset(results, self.columns).to_netcdf(engine="scipy")))


def start_matrices(folder: Path, provenance: Mapping[str, Any], *, columns: tuple[str, ...]) -> MatrixWriter:
    """Begin a run over matrices in a new folder; as `layers.start_run`."""
    writer = MatrixWriter(folder, make_folder(folder, provenance), {}, columns)
    writer.write_tables()
    return writer


def resume_matrices(folder: Path, provenance: Mapping[str, Any], *, columns: tuple[str, ...]) -> MatrixWriter:
    """Go on with an unfinished run over matrices; as `layers.resume_run`."""
    stored = reopen_folder(folder, provenance)
    done: dict[int, MatrixResult] = {}
    for file in part_files(folder / PARTS):
        done |= {result.number: result for result in _unpack(file, columns)}
    return MatrixWriter(folder, stored, done, columns)


def _identity(result: MatrixResult) -> tuple[Any, ...]:
    layer, head = ("" if place is None else place for place in (result.layer, result.head))
    return (layer, result.role, head, result.name, *result.shape)


def _summary_rows(results: Sequence[MatrixResult], columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Summarise each role: over all its matrices (no layer named), then layer by layer where a layer has several."""
    groups: dict[tuple[str, int | None], list[MatrixResult]] = {}
    for result in results:
        groups.setdefault((result.role, None), []).append(result)
        if result.layer is not None and result.head is not None:
            groups.setdefault((result.role, result.layer), []).append(result)
    return [
        ("" if layer is None else layer, role, name, *summarise(np.array([each.metrics[name] for each in members])))
        for (role, layer), members in groups.items()
        for name in columns
    ]


def _to_dataset(results: Sequence[MatrixResult], columns: Sequence[str]) -> "xarray.Dataset":
    """Label results: `singular_values` and profiles (matrix, k), NaN beyond a matrix's own, and metrics (matrix)."""
    import xarray

    longest = max(result.sigma.size for result in results)

    def padded(rows: Sequence[np.ndarray]) -> tuple[tuple[str, str], np.ndarray]:
        table = np.full((len(rows), longest), np.nan, np.result_type(*rows))
        for row, values in zip(table, rows, strict=True):
            row[: values.size] = values
        return ("matrix", "k"), table

    variables: dict[str, Any] = {"singular_values": padded([result.sigma for result in results])}
    variables |= {name: padded([result.profiles[name] for result in results]) for name in results[0].profiles}
    variables |= {name: ("matrix", np.array([result.metrics[name] for result in results])) for name in columns}
    coordinates: dict[str, Any] = {"k": np.arange(1, longest + 1), "matrix": [result.number for result in results]}
    for name in ("role", "name"):
        coordinates[name] = ("matrix", [getattr(result, name) for result in results])
    for name in ("layer", "head"):
        places = (getattr(result, name) for result in results)
        coordinates[name] = ("matrix", [-1 if place is None else place for place in places])
    for axis, name in enumerate(("rows", "cols")):
        coordinates[name] = ("matrix", [result.shape[axis] for result in results])
    return xarray.Dataset(variables, coordinates)


def _pack(results: Sequence[MatrixResult], columns: Sequence[str]) -> bytes:
    arrays: dict[str, np.ndarray] = {
        "number": np.array([result.number for result in results]),
        "layer": _places(result.layer for result in results),
        "head": _places(result.head for result in results),
        "shape": np.array([result.shape for result in results]),
        **{name: np.array([getattr(result, name) for result in results]) for name in ("role", "name", "reason")},
        "metrics": np.array([[result.metrics[name] for name in columns] for result in results]),
        **{f"sigma/{result.number}": result.sigma for result in results},
        **{f"profile/{result.number}/{name}": values for result in results for name, values in result.profiles.items()},
    }
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _places(places: Iterable[int | None]) -> np.ndarray:
    return np.array([-1 if place is None else place for place in places])


def _unpack(file: Path, columns: Sequence[str]) -> list[MatrixResult]:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
        rows = zip(
            *(arrays[name].tolist() for name in ("number", "layer", "role", "head", "name", "shape", "reason")),
            arrays["metrics"].tolist(),
            strict=True,
        )
        return [
            MatrixResult(
                number,
                None if layer < 0 else layer,
                role,
                None if head < 0 else head,
                name,
                (shape[0], shape[1]),
                arrays[f"sigma/{number}"],
                dict(zip(columns, metrics, strict=True)),
                reason,
                {
                    key.removeprefix(f"profile/{number}/"): values
                    for key, values in arrays.items()
                    if key.startswith(f"profile/{number}/")
                },
            )
            for number, layer, role, head, name, shape, reason, metrics in rows
        ]
    except Exception as error:  # zipfile raises many types for a damaged file
        raise JacspecError(f"{file} is damaged ({error}). Delete it: resuming computes it again.") from error
