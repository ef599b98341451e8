"""The one runner: open a run folder or resume one, stream results into it, write its tables, draw it, print it.

`run_rows` does all of that for runs of matrices and of experiments; `over_samples.run_layers` and
`run_over_runs`, for tasks that look at finished runs alone, open theirs in their own way and end as all do, by
`finish_run`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jacspec.backend import use_compilation_cache
from jacspec.config import Config, Tables
from jacspec.errors import JacspecError
from jacspec.progress import Stopwatch, row_progress
from jacspec.report import write_report
from jacspec.report.console import print_brief, print_files, print_report
from jacspec.runs import RUN_FILE, Run, open_run, write_atomically, write_csv
from jacspec.runs.folder import blaming_folders
from jacspec.runs.rows import resume_rows, start_rows
from jacspec.runs.several import LabelledRun, common_metrics, open_runs
from jacspec.runs.tracking import track, write_parquet
from jacspec.runs.writing import Writer, make_folder, releasing_folders
from jacspec.studies import find_study, study_of
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
    described = describe_run(config, study=study, identity=work.identity)
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
    _show_as_asked(config, writer)
    run = Run(writer.folder)
    if inputs.page:
        (print_brief if inputs.brief else print_report)(run, console)
        with watch("draw"):
            write_report(run, console, **vars(config.report))
    if config.tables is Tables.parquet:
        write_parquet(run)
    writer.finish(seconds=watch.seconds)
    if config.log is not None:
        track(run, config.log.value)
    if inputs.page:
        print_files(run, console, brief=inputs.brief)


def _show_as_asked(config: Config, writer: Writer) -> None:
    """Let a run that is resumed say what its figures show now."""
    study = find_study(config.task)
    if study.draws and study.options is not None:
        asked: Any = config.own(study.options)
        own = {**writer.provenance["config"][study.name], **{name: getattr(asked, name) for name in study.draws}}
        writer.record(config={**writer.provenance["config"], study.name: own})


class Findings(NamedTuple):
    """What a task says of runs: how the page calls them, tables by file name, files by name, facts of `run.json`."""

    name: str
    tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]


@releasing_folders()
def run_over_runs(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    compute: Callable[[Config, Sequence[LabelledRun], Sequence[str]], Findings],
) -> None:
    """Open the runs that `config.runs` (or `config.run`) names and write what `compute` says of them into `folder`."""
    if config.resume is not None:
        raise JacspecError(f"task={config.task} takes seconds and cannot be resumed. Leave resume={config.resume} out.")
    watch = Stopwatch()
    with watch("read runs"):
        runs, left_out = open_runs(_folders(config))
        names = common_metrics([each.run for each in runs])
        if not names:
            raise JacspecError("The runs have no metric in common. Give runs of the same metrics.names.")
    with watch("compare"), blaming_folders(*(each.run for each in runs)):
        found = compute(config, runs, names)
    identity = {
        "checkpoint": {"name": found.name},
        "runs": {each.label: hashlib.sha256((each.run.folder / RUN_FILE).read_bytes()).hexdigest() for each in runs},
    }
    described = describe_run(config, study=find_study(config.task), identity=identity)
    facts = {
        "of": study_of(runs[0].run.provenance).name,
        "runs": [str(each.run.folder.resolve()) for each in runs],
        "labels": [each.label for each in runs],
        "runs_left_out": left_out,
        "metrics": list(names),
    }
    writer = Writer(folder, make_folder(folder, described | facts | dict(found.facts)))
    for name, (header, rows) in found.tables.items():
        write_csv(folder / name, header, rows)
    for name, content in found.files.items():
        write_atomically(folder / name, content)
    writer.record(seconds=watch.seconds, finished=now())
    finish_run(config, writer, console, inputs, watch)


def _folders(config: Config) -> list[str]:
    """List the folders that were given: `runs` as a list or as one folder, else `run`."""
    given = [config.runs] if isinstance(config.runs, str) else list(config.runs or ())
    if wrong := [each for each in given if not isinstance(each, str)]:
        raise JacspecError(
            f"runs has {wrong[0]!r}, which is not a folder. Type runs=[FOLDER,FOLDER] or runs=MULTIRUN_FOLDER."
        )
    given += [config.run] if config.run else []
    if not given:
        raise JacspecError(f"task={config.task} needs finished runs: runs=[FOLDER,FOLDER] or runs=MULTIRUN_FOLDER.")
    return given


def run_report(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write figures and `report.html` of the run in `config.run` anew, and print its summary."""
    if config.run is None:
        raise JacspecError("task=report needs a finished run: run=FOLDER.")
    run = open_run(Path(config.run))
    with blaming_folders(run):
        print_report(run, console)
        write_report(run, console, **vars(config.report))
    print_files(run, console)
