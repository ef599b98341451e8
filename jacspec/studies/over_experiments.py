"""What the tasks share that are tables of experiments: the work of every cell in, a run folder of a row a cell out."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jacspec.backend import use_compilation_cache
from jacspec.config import Config
from jacspec.glossary import CellResult
from jacspec.progress import Stopwatch, cell_progress
from jacspec.report import write_report
from jacspec.report.console import print_cells, print_files
from jacspec.runs import Run
from jacspec.runs.cells import CellWriter, resume_cells, start_cells
from jacspec.runs.writing import releasing_folders
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_run, now, say_notes


class CellWork(NamedTuple):
    """What a task computes.

    `keys` and `columns` are the columns of `metrics.csv`, `over` the key that `summary.csv` sums up over (None: no
    summary). `identity` is what the numbers depend on beside the configuration (checkpoint, corpus), `facts` what
    `run.json` says besides. `total` counts the cells, `unit` is what they are called; `stream(done)` yields those that
    are not in `done`, by number.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    over: str | None
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    total: int
    stream: Callable[[Mapping[int, CellResult]], Iterator[CellResult]]
    unit: str = "experiments"


@releasing_folders()
def run_cells(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    prepare: Callable[[], CellWork],
) -> None:
    """Compute what `prepare` asks for into `folder`, or go on with what `config.resume` holds."""
    watch = Stopwatch()
    use_compilation_cache()
    with watch("open model and data"):
        work = prepare()
    say_notes(work.identity, console)
    described = describe_run(config, reads=find_study(config.task).reads, identity=work.identity)
    writer = _open_folder(config, folder, described | {"metrics": list(work.columns), **work.facts}, work)
    if writer.provenance["status"] != "finished":
        with watch("experiments"), cell_progress(console, total=work.total, unit=work.unit) as advance:
            advance(len(writer.done))
            for result in work.stream(dict(writer.done)):
                writer.add_cell(result)
                advance(1)
        with watch("tables"):
            writer.write_tables()
        writer.record(seconds=watch.seconds, finished=now())
    run = Run(writer.folder)
    if inputs.page:
        print_cells(run, console)
        with watch("draw"):
            write_report(run, console, **vars(config.report))
    writer.finish(seconds=watch.seconds)
    if inputs.page:
        print_files(run, console)


def _open_folder(config: Config, folder: Path, provenance: Mapping[str, Any], work: CellWork) -> CellWriter:
    described = {"key_columns": list(work.keys), **provenance}
    shape: dict[str, Any] = {"keys": work.keys, "columns": work.columns, "over": work.over}
    if config.resume is not None:
        return resume_cells(Path(config.resume), described, **shape)
    return start_cells(folder, described, **shape)
