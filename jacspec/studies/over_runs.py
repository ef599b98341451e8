"""What the tasks share that look at finished runs alone: run folders in, one of their tables and figures out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.progress import Stopwatch
from jacspec.runs import RUN_FILE, write_atomically, write_csv
from jacspec.runs.folder import blaming_folders
from jacspec.runs.several import LabelledRun, common_metrics, open_runs
from jacspec.runs.writing import Writer, make_folder, releasing_folders
from jacspec.studies import find_study, study_of
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_run, now
from jacspec.studies.run import finish_run


class Collection(NamedTuple):
    """What a task says of runs: how the page calls them, tables by file name, files by name, facts of `run.json`."""

    name: str
    tables: Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]


@releasing_folders()
def run_collected(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    collect: Callable[[Config, Sequence[LabelledRun], Sequence[str]], Collection],
) -> None:
    """Open the runs that `config.runs` (or `config.run`) names and write what `collect` says of them into `folder`."""
    if config.resume is not None:
        raise JacspecError(f"task={config.task} takes seconds and cannot be resumed. Leave resume={config.resume} out.")
    watch = Stopwatch()
    with watch("read runs"):
        runs, left_out = open_runs(_folders(config))
        names = common_metrics([each.run for each in runs])
        if not names:
            raise JacspecError("The runs have no metric in common. Give runs of the same metrics.names.")
    with watch("compare"), blaming_folders(*(each.run for each in runs)):
        found = collect(config, runs, names)
    identity = {
        "checkpoint": {"name": found.name},
        "runs": {each.label: hashlib.sha256((each.run.folder / RUN_FILE).read_bytes()).hexdigest() for each in runs},
    }
    described = describe_run(config, reads=find_study(config.task).reads, identity=identity)
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
