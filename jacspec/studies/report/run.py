"""`task=report`: redraw the report of a finished run from its folder alone."""

from pathlib import Path

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.report import write_report
from jacspec.report.console import print_files, print_report
from jacspec.runs import open_run
from jacspec.runs.folder import blaming_folders
from jacspec.studies.inputs import Inputs


def run_report(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write figures and `report.html` of the run in `config.run` anew, and print its summary."""
    if config.run is None:
        raise JacspecError("task=report needs a finished run: run=FOLDER.")
    run = open_run(Path(config.run))
    with blaming_folders(run):
        print_report(run, console)
        write_report(run, console, **vars(config.report))
    print_files(run, console)
