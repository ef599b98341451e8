"""A run over samples: written layer by layer so that a kill loses at most the layer in work, and resumed.

| file in `layers/`       | holds                                                          |
|-------------------------|----------------------------------------------------------------|
| `0003.npz`              | block 3, all samples                                           |
| `0003.process1of4.npz`  | block 3, the shard of process 1 of four (0 to 3)               |

Whoever resumes, alone or as another number of processes, resumes from all of them.
"""

import dataclasses
import functools
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jacspec.axes import LayerResult
from jacspec.runs.files import (
    PARTS,
    REASON,
    SPECTRA,
    csv_text,
    part_files,
    read_arrays,
    write_arrays,
    write_atomically,
    write_csv,
)
from jacspec.runs.tables import SUMMARY_COLUMNS, split_complex, summary_rows, to_dataset
from jacspec.runs.workers import Workers
from jacspec.runs.writing import Writer, make_folder, reopen_folder


@dataclasses.dataclass
class RunWriter(Writer):
    """A Jacobian run being written. `done` maps the blocks that an earlier try finished to their results."""

    metric_names: tuple[str, ...]
    samples: Sequence[tuple[int, int, str]]
    done: dict[int, LayerResult]

    @property
    def n_tokens(self) -> list[int]:
        """Count the tokens of each sample."""
        return [n for _, n, _ in self.samples]

    def add_layer(self, result: LayerResult) -> None:
        """Write one finished layer durably, then its rows of `metrics.csv`."""
        if result.number in self.done:
            return
        write_layer(self.folder / PARTS, result)
        self.done[result.number] = result._replace(stored={})
        with (self.folder / "metrics.csv").open("a", encoding="utf-8", newline="") as stream:
            stream.write(csv_text(_metric_rows(result, self.metric_names, self.n_tokens)))
            stream.flush()
            os.fsync(stream.fileno())

    def write_tables(self) -> None:
        """Write `samples.csv`, and `metrics.csv`, `summary.csv` and `spectra.nc` from the layers that are done."""
        write_csv(self.folder / "samples.csv", ("sample", "n_tokens", "text"), self.samples)
        results = [self.done[number] for number in sorted(self.done)]
        write_csv(
            self.folder / "metrics.csv",
            ("layer", "component", "sample", "n_tokens", *self.metric_names, REASON),
            (row for result in results for row in _metric_rows(result, self.metric_names, self.n_tokens)),
        )
        if results:
            write_csv(self.folder / "summary.csv", SUMMARY_COLUMNS, summary_rows(results, self.metric_names))
            dataset = to_dataset(results, self.metric_names, self.n_tokens, modes=self.provenance.get("modes"))
            write_atomically(self.folder / SPECTRA, bytes(split_complex(dataset).to_netcdf(engine="scipy")))


def start_run(
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    metric_names: tuple[str, ...],
    samples: Sequence[tuple[int, int, str]],
) -> RunWriter:
    """Begin a run in a new folder.

    **Arguments:** `provenance`, what `run.json` is to hold; its entry `identity` decides later whether a run can
    be resumed. `samples`, rows of `samples.csv`: number, tokens, text.
    """
    writer = RunWriter(folder, make_folder(folder, provenance), metric_names, samples, {})
    writer.write_tables()
    return writer


def resume_run(
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    metric_names: tuple[str, ...],
    samples: Sequence[tuple[int, int, str]],
) -> RunWriter:
    """Resume an unfinished run of the same configuration, files and versions; arguments as `start_run`.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = reopen_folder(folder, provenance)
    done = collect_layers(read_shards(folder / PARTS, metric_names), range(len(samples)))
    writer = RunWriter(folder, stored, metric_names, samples, done)
    if stored["status"] != "finished":
        writer.write_tables()
    return writer


def _metric_rows(result: LayerResult, names: Sequence[str], n_tokens: Sequence[int]) -> list[tuple[Any, ...]]:
    return [
        (result.layer, component, sample, tokens, *(metrics[name][sample] for name in names), reason)
        for component, metrics in result.metrics.items()
        for sample, (tokens, reason) in enumerate(
            zip(n_tokens, _reasons(result, component, len(n_tokens)), strict=True)
        )
    ]


def _reasons(result: LayerResult, component: str, samples: int) -> Sequence[str]:
    return [str(reason) for reason in result.reasons.get(component, [""] * samples)]


SAMPLES, AUDIT = "samples", "audit_deviation"
"""The rows of a shard, and the one array of a layer that has not a row a sample."""


class LayerShard(NamedTuple):
    """What is known of one block: the rows of `result` are those of `samples`."""

    samples: Int[np.ndarray, " sample"]
    result: LayerResult


def write_layer(folder: Path, result: LayerResult) -> None:
    """Write a whole layer durably."""
    _write(folder / f"{result.number:04d}.npz", result, {})


def write_shard(folder: Path, shard: LayerShard, workers: Workers) -> None:
    """Write this process's shard of a layer durably."""
    file = folder / f"{shard.result.number:04d}.process{workers.index}of{workers.count}.npz"
    _write(file, shard.result, {SAMPLES: shard.samples})


def read_shards(folder: Path, metric_names: Sequence[str]) -> dict[int, list[LayerShard]]:
    """Read what is there of every block, by its number; raises `JacspecError` for a damaged file."""
    found: dict[int, list[LayerShard]] = {}
    for file in part_files(folder):
        shard = read_arrays(file, lambda arrays: _restore_shard(arrays, metric_names))
        found.setdefault(shard.result.number, []).append(shard)
    return found


Stored = Mapping[str, Mapping[str, np.ndarray]]
"""By component and name, the arrays of a layer that are in its file alone."""


def read_stored(folder: Path, number: int, samples: int) -> Stored:
    """Read what is stored of one block, all samples in their order, from whichever files hold it."""
    files = [file for file in part_files(folder) if int(file.name.partition(".")[0]) == number]
    shards = [read_arrays(file, functools.partial(_restore_shard, metric_names=(), stored=True)) for file in files]
    holding = [shard for shard in shards if any(shard.result.stored.values())]
    whole = _collect(holding, np.arange(samples)) if holding else None
    return {} if whole is None else whole.stored


def pack_stored(numbers: Sequence[tuple[int, int]], read: Callable[[int], Stored]) -> Iterator[bytes]:
    """Make the `.npz` of what is stored of blocks, given as (number, layer), one block in memory at a time.

    Its arrays are called layer/component/name, as `3/mlp/read_vectors`.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for number, layer in numbers:
            for component, arrays in read(number).items():
                for name, values in arrays.items():
                    # A member of its own date would make files of the same numbers differ.
                    member = zipfile.ZipInfo(f"{layer}/{component}/{name}.npy")
                    with archive.open(member, "w", force_zip64=True) as stream:
                        np.lib.format.write_array(stream, values, allow_pickle=False)
            yield sink.take()
    yield sink.take()


class _Sink(io.RawIOBase):
    """Where bytes are written to be taken away again."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, part: Any) -> int:
        self._parts.append(bytes(part))
        return len(part)

    def take(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def collect_layers(held: Mapping[int, Sequence[LayerShard]], samples: Sequence[int]) -> dict[int, LayerResult]:
    """Put together, by number, the blocks of which all `samples` are held, each sample in its place among these."""
    found = {number: _collect(shards, np.asarray(samples)) for number, shards in held.items()}
    return {number: result for number, result in found.items() if result is not None}


def _collect(shards: Sequence[LayerShard], samples: Int[np.ndarray, " sample"]) -> LayerResult | None:
    known, first = np.unique(np.concatenate([shard.samples for shard in shards]), return_index=True)
    if not np.isin(samples, known).all():
        return None
    rows = first[np.searchsorted(known, samples)]
    tables = [_flatten(shard.result) for shard in shards]
    whole = {
        key: np.concatenate([table[key] for table in tables if key in table])
        for key in dict.fromkeys(key for table in tables for key in table)
    }
    in_order = {key: values if key.endswith(AUDIT) else values[rows] for key, values in whole.items()}
    return _restore(shards[0].result.number, shards[0].result.layer, in_order)


def _write(file: Path, result: LayerResult, beside: Mapping[str, np.ndarray]) -> None:
    arrays = {"number": np.array(result.number), "layer": np.array(result.layer)}
    write_arrays(file, {**arrays, **beside, **_flatten(result)})


def _restore_shard(
    arrays: Mapping[str, np.ndarray], metric_names: Sequence[str], *, stored: bool = False
) -> LayerShard:
    """Restore a shard; what is `stored` stays in the file unless it is asked for."""
    result = _restore(int(arrays["number"]), int(arrays["layer"]), arrays)
    if not stored:
        result = result._replace(stored={})
    metrics = {component: {name: values[name] for name in metric_names} for component, values in result.metrics.items()}
    rows = len(next(iter(result.singular_values.values())))
    return LayerShard(arrays.get(SAMPLES, np.arange(rows)), result._replace(metrics=metrics))


def _flatten(result: LayerResult) -> dict[str, np.ndarray]:
    """Name the arrays of a layer by component, kind and name."""
    arrays: dict[str, np.ndarray] = {}
    for component, sigma in result.singular_values.items():
        arrays[f"{component}/singular_values"] = sigma
        for kind, held in (
            ("metric", result.metrics),
            ("diagnostic", result.diagnostics),
            ("vector", result.vectors),
            ("stored", result.stored),
        ):
            arrays |= {f"{component}/{kind}/{name}": values for name, values in held.get(component, {}).items()}
        if component in result.reasons:
            arrays[f"{component}/{REASON}"] = result.reasons[component]
    return arrays


def _restore(number: int, layer: int, arrays: Mapping[str, np.ndarray]) -> LayerResult:
    """Make a layer of its arrays by name."""
    components = dict.fromkeys(key.partition("/")[0] for key in arrays if "/" in key)
    metrics, diagnostics, vectors, stored = (
        {component: _beginning(arrays, f"{component}/{kind}/") for component in components}
        for kind in ("metric", "diagnostic", "vector", "stored")
    )
    if len({frozenset(each) for each in vectors.values()}) > 1:
        raise ValueError("an array is missing")  # of a damaged file, which `read_arrays` names
    sigma = {component: arrays[f"{component}/singular_values"] for component in components}
    reasons = {component: arrays[name] for component in components if (name := f"{component}/{REASON}") in arrays}
    return LayerResult(number, layer, sigma, metrics, diagnostics, vectors, reasons, stored)


def _beginning(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
