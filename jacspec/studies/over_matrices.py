"""What the tasks share that look at weights alone: a checkpoint in, a run folder of one row a matrix out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jacspec.backend import use_compilation_cache
from jacspec.config import Config
from jacspec.glossary import MatrixResult
from jacspec.progress import Stopwatch, count_progress
from jacspec.report import write_report
from jacspec.report.console import print_files, print_matrices
from jacspec.runs import Run
from jacspec.runs.matrices import MatrixWriter, resume_matrices, start_matrices
from jacspec.runs.writing import releasing_folders
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_run, now, say_notes


class MatrixWork(NamedTuple):
    """What a task computes: columns, what it depends on (`identity`: checkpoint, corpus), facts of `run.json`, results.

    `stream(done)` yields batches and skips what is in `done`; `left_out` counts, by reason, what gave no matrix, once
    the stream has ended.
    """

    columns: tuple[str, ...]
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    stream: Callable[[Mapping[int, MatrixResult]], Iterator[Sequence[MatrixResult]]]
    left_out: Mapping[str, int]


@releasing_folders()
def run_matrices(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    prepare: Callable[[], MatrixWork],
) -> None:
    """Compute what `prepare` asks for into `folder`, or go on with what `config.resume` holds."""
    watch = Stopwatch()
    use_compilation_cache()
    with watch("open model"):
        work = prepare()
    say_notes(work.identity, console)
    described = describe_run(config, reads=find_study(config.task).reads, identity=work.identity)
    writer = _open_folder(config, folder, described | {"metrics": list(work.columns), **work.facts}, work.columns)
    if writer.provenance["status"] != "finished":
        with watch("spectra"), count_progress(console, "matrices") as advance:
            advance(len(writer.done))
            for batch in work.stream(dict(writer.done)):
                writer.add_batch(batch)
                advance(len(batch))
        with watch("tables"):
            writer.write_tables()
        writer.record(seconds=watch.seconds, finished=now(), left_out=dict(work.left_out))
    run = Run(writer.folder)
    if inputs.page:
        print_matrices(run, console)
        with watch("draw"):
            write_report(run, console, **vars(config.report))
    writer.finish(seconds=watch.seconds)
    if inputs.page:
        print_files(run, console)


def _open_folder(config: Config, folder: Path, provenance: Mapping[str, Any], columns: tuple[str, ...]) -> MatrixWriter:
    if config.resume is not None:
        return resume_matrices(Path(config.resume), provenance, columns=columns)
    return start_matrices(folder, provenance, columns=columns)
