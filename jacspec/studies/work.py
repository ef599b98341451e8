"""What a study computes, as it hands it to the runner: the work of samples, of matrices, of experiments."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console

from jacspec.axes import CellResult, LayerResult, MatrixResult, PaddedBatch
from jacspec.backend import Program
from jacspec.progress import cell_progress, count_progress
from jacspec.runs.cells import CellWriter, resume_cells, start_cells
from jacspec.runs.matrices import MatrixWriter, resume_matrices, start_matrices
from jacspec.runs.writing import Row, RowWriter

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""A header and rows."""

Advance = AbstractContextManager[Callable[[int], None]]
"""A bar of progress: inside, `advance(n)` moves it."""


class Work(NamedTuple):
    """What a study computes for a model and its samples.

    `numbers` are the blocks that give a result, `columns` the names of the values a sample, `facts` what `run.json`
    says besides, `batches` the samples, `stream(batches, done=, advance=)` the results as `engine.stream_layers`
    yields them, `audited` whether they come from an engine that is, `programs` what is compiled ahead.
    `tables(results)` gives further tables by file name.
    """

    numbers: Sequence[int]
    columns: tuple[str, ...]
    facts: Mapping[str, Any]
    batches: Sequence[PaddedBatch]
    stream: Callable[..., Iterator[LayerResult]]
    audited: bool
    programs: Sequence[Program] = ()
    tables: Callable[[Sequence[LayerResult]], Mapping[str, Table]] = lambda results: {}


class RowWork(Protocol[Row]):
    """What a study computes, row by row: where it is written, how it is streamed, what is said meanwhile."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of values."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the numbers depend on beside the configuration: checkpoint, corpus."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `run.json` says besides."""

    def open(self, folder: Path, provenance: Mapping[str, Any], resumed: Path | None) -> RowWriter[Row]:
        """Begin the run in `folder`, or resume the one in `resumed`."""

    def batches(self, done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        """Yield batches of results, without what is in `done`."""

    def progress(self, console: Console) -> Advance:
        """Show how many rows are done."""

    def learnt(self) -> dict[str, Any]:
        """Return what `run.json` says once all is computed."""


class MatrixWork(NamedTuple):
    """What a study computes of matrices.

    `columns` are those of values, `identity` what the numbers depend on beside the configuration (checkpoint, corpus),
    `facts` what `run.json` says besides. `stream(done)` yields batches of results and skips what is in `done`;
    `left_out` counts, by reason, what gave no matrix, once the stream has ended.
    """

    columns: tuple[str, ...]
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    stream: Callable[[Mapping[int, MatrixResult]], Iterator[Sequence[MatrixResult]]]
    left_out: Mapping[str, int]

    def open(self, folder: Path, provenance: Mapping[str, Any], resumed: Path | None) -> MatrixWriter:
        """Begin the run in `folder`, or resume the one in `resumed`."""
        if resumed is not None:
            return resume_matrices(resumed, provenance, columns=self.columns)
        return start_matrices(folder, provenance, columns=self.columns)

    def batches(self, done: Mapping[int, MatrixResult]) -> Iterator[Sequence[MatrixResult]]:
        """Yield batches as they come."""
        return self.stream(done)

    def progress(self, console: Console) -> Advance:
        """Show how many matrices are done: how many there are shows as they come."""
        return count_progress(console, "matrices")

    def learnt(self) -> dict[str, Any]:
        """Return what `run.json` says once all is computed."""
        return {"left_out": dict(self.left_out)}


class ExperimentWork(NamedTuple):
    """What a study computes of experiments.

    `keys` and `columns` are the columns of `metrics.csv`, `over` the key that `summary.csv` sums up over (None: no
    summary). `identity` is what the numbers depend on beside the configuration (checkpoint, corpus), `facts` what
    `run.json` says besides. `total` counts the experiments, `unit` is what they are called; `stream(done)` yields those
    that are not in `done`, by number.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    over: str | None
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    total: int
    stream: Callable[[Mapping[int, CellResult]], Iterator[CellResult]]
    unit: str = "experiments"

    def open(self, folder: Path, provenance: Mapping[str, Any], resumed: Path | None) -> CellWriter:
        """Begin the run in `folder`, or resume the one in `resumed`."""
        described = {"key_columns": list(self.keys), **provenance}
        shape: dict[str, Any] = {"keys": self.keys, "columns": self.columns, "over": self.over}
        if resumed is not None:
            return resume_cells(resumed, described, **shape)
        return start_cells(folder, described, **shape)

    def batches(self, done: Mapping[int, CellResult]) -> Iterator[Sequence[CellResult]]:
        """Yield the experiments one by one."""
        return ([result] for result in self.stream(done))

    def progress(self, console: Console) -> Advance:
        """Show how many experiments are done."""
        return cell_progress(console, total=self.total, unit=self.unit)

    def learnt(self) -> dict[str, Any]:
        """Return what `run.json` says once all is computed: nothing more."""
        return {}
