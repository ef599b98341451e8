"""What a task that goes through a checkpoint layer by layer computes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jacspec.glossary import LayerResult, PaddedBatch
from jacspec.programs import Program

Table = tuple[Sequence[str], Iterable[Sequence[Any]]]
"""A header and rows."""


class Work(NamedTuple):
    """What a task computes for a model and its samples.

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
