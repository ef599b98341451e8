"""`task=compare`: several runs of one task beside each other, and how sure their differences are."""

import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.runs.several import TIDY_COLUMNS, LabelledRun, mismatches, tidy_rows
from jacspec.spectra.bootstrap import check_draws
from jacspec.studies.compare import CompareOptions
from jacspec.studies.compare.differences import (
    DIFFERENCE_COLUMNS,
    DIFFERENCES_FILE,
    RUN_COLUMNS,
    RUNS_FILE,
    difference_rows,
    run_rows,
)
from jacspec.studies.inputs import Inputs
from jacspec.studies.over_runs import Collection, run_collected


def run_compare(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write the tidy table of all runs and their differences from one of them into `folder`."""
    run_collected(config, folder, console, inputs, _collect)


def _collect(config: Config, runs: Sequence[LabelledRun], names: Sequence[str]) -> Collection:
    options = config.own(CompareOptions)
    check_draws(options.draws, "compare.draws")
    if not 0 <= options.against < len(runs):
        listed = "; ".join(f"{number}: {each.label}" for number, each in enumerate(runs))
        raise JacspecError(f"compare.against={options.against} is not a run. Accepted: {listed}.")
    if len(runs) < 2:
        raise JacspecError(f"{runs[0].run.folder} alone compares with nothing. Give two runs or more.")
    differences = functools.partial(difference_rows, runs, names, options.against)
    return Collection(
        f"{len(runs)} runs of task={runs[0].run.provenance['task']}",
        {
            RUNS_FILE: (RUN_COLUMNS, run_rows(runs, options.against)),
            "metrics.csv": (TIDY_COLUMNS, tidy_rows(runs, names)),
            DIFFERENCES_FILE: (DIFFERENCE_COLUMNS, differences(draws=options.draws, seed=config.seed)),
        },
        {},
        {"warning": " ".join(mismatches(runs))},
    )
