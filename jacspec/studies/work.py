"""What a study computes, as it hands it to the runner: the work by samples, and that by rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jacspec.axes import LayerResult, Row
from jacspec.backend import Program
from jacspec.runs.layers import Stored
from jacspec.runs.rows import RowLayout
from jacspec.samples import PaddedBatch
from jacspec.spectra.significance import adjust_for_many

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""A header and rows."""


class Work(NamedTuple):
    """What a study computes for a model and its samples.

    `numbers` are the blocks that give a result, `columns` the names of the values a sample, `facts` what `run.json`
    says besides, `batches` the samples, `stream(batches, done=, advance=)` the results as `engine.stream_layers`
    yields them, `audited` whether they come from an engine that is, `programs` what is compiled ahead.
    `tables(results, read)` gives further tables by file name, `read(number)` what is stored of a block;
    `learnt` is what `run.json` says once these are there.
    """

    numbers: Sequence[int]
    columns: tuple[str, ...]
    facts: Mapping[str, Any]
    batches: Sequence[PaddedBatch]
    stream: Callable[..., Iterator[LayerResult]]
    audited: bool
    programs: Sequence[Program] = ()
    tables: Callable[[Sequence[LayerResult], Callable[[int], Stored]], Mapping[str, Table]] = lambda results, read: {}
    learnt: Mapping[str, Any] = {}


class RowWork(NamedTuple):
    """What a study computes row by row, of matrices or experiments.

    `layout` says how the rows lie in the run's files, `identity` is what the numbers depend on beside the configuration
    (checkpoint, corpus), `facts` what `run.json` says besides. `stream(done)` yields batches of rows and skips what is
    in `done`; `unit` is what rows are called, `total` how many there are (None: nobody knows before the end). `learnt`
    is what `run.json` says once the stream has ended.
    """

    layout: RowLayout
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    stream: Callable[[Mapping[int, Row]], Iterator[Sequence[Row]]]
    unit: str = "experiments"
    total: int | None = None
    learnt: Mapping[str, Any] = {}


def adjust_rows(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """Fill in columns of q-values over all rows; each has its p-value's name but for the last letter."""
    found = {name: adjust_for_many(np.array([row.values[f"{name[:-1]}p"] for row in rows])).tolist() for name in names}
    return [
        row._replace(values={**row.values, **{name: q[place] for name, q in found.items()}})
        for place, row in enumerate(rows)
    ]
