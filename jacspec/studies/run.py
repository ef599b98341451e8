"""The one runner: open a run folder or resume one, stream results into it, write its tables, draw it, print it.

`run_rows` does all of that for runs of matrices and of experiments; `over_samples.run_layers` and
`over_runs.run_collected` open theirs in their own way and end as all do, by `finish_run`.
"""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from jacspec.backend import use_compilation_cache
from jacspec.config import Config
from jacspec.progress import Stopwatch, row_progress
from jacspec.report import write_report
from jacspec.report.console import print_files, print_report
from jacspec.runs import Run
from jacspec.runs.rows import resume_rows, start_rows
from jacspec.runs.writing import Writer, releasing_folders
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_run, now, say_notes
from jacspec.studies.work import RowWork


@releasing_folders()
def run_rows(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    prepare: Callable[[], RowWork],
) -> None:
    """Compute what `prepare` asks for into `folder`, or resume what `config.resume` holds."""
    watch = Stopwatch()
    use_compilation_cache()
    with watch("open model and data"):
        work = prepare()
    say_notes(work.identity, console)
    study, layout = find_study(config.task), work.layout
    described = describe_run(config, reads=study.reads, identity=work.identity)
    if not (study.rows and study.rows.keys):
        described = {"key_columns": list(layout.keys), **described}
    described |= {"metrics": list(layout.columns), **work.facts}
    if config.resume is None:
        writer = start_rows(folder, described, layout)
    else:
        writer = resume_rows(Path(config.resume), described, layout)
    if writer.provenance["status"] != "finished":
        with watch("spectra"), row_progress(console, work.unit, total=work.total) as advance:
            advance(len(writer.done))
            for rows in work.stream(dict(writer.done)):
                writer.add(rows)
                advance(len(rows))
        with watch("tables"):
            writer.write_tables()
        writer.record(seconds=watch.seconds, finished=now(), **work.learnt)
    finish_run(config, writer, console, inputs, watch)


def finish_run(config: Config, writer: Writer, console: Console, inputs: Inputs, watch: Stopwatch) -> None:
    """Print the summary of a run whose tables are there, draw it, and declare it finished."""
    run = Run(writer.folder)
    if inputs.page:
        print_report(run, console)
        with watch("draw"):
            write_report(run, console, **vars(config.report))
    writer.finish(seconds=watch.seconds)
    if inputs.page:
        print_files(run, console)
