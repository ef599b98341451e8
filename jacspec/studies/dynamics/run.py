"""`task=dynamics`: the revisions of one training run, every value against the step, and what appears first."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.runs import SPECTRA
from jacspec.runs.several import LabelledRun, mismatches
from jacspec.spectra.bootstrap import check_draws
from jacspec.studies.dynamics import DynamicsOptions
from jacspec.studies.dynamics.tables import (
    ONSET_COLUMNS,
    ONSETS_FILE,
    STEP_COLUMNS,
    onset_rows,
    order_by_step,
    step_dataset,
    step_rows,
)
from jacspec.studies.inputs import Inputs
from jacspec.studies.over_runs import Collection, run_collected


def run_dynamics(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write every value of all revisions by training step, and the onsets of their changes, into `folder`."""
    run_collected(config, folder, console, inputs, _collect)


def _collect(config: Config, runs: Sequence[LabelledRun], names: Sequence[str]) -> Collection:
    options = config.own(DynamicsOptions)
    check_draws(options.draws, "dynamics.draws")
    if not 0 <= options.least_change < 1:
        raise JacspecError(f"dynamics.least_change={options.least_change} is no share. Accepted: 0 up to 1, as 0.1.")
    by_step = order_by_step(runs, options.final_step)
    onsets = onset_rows(by_step, names, least_change=options.least_change, draws=options.draws, seed=config.seed)
    return Collection(
        str(next(iter(by_step.values())).run.provenance["identity"]["checkpoint"]["name"]),
        {"metrics.csv": (STEP_COLUMNS, step_rows(by_step, names)), ONSETS_FILE: (ONSET_COLUMNS, onsets)},
        {SPECTRA: bytes(step_dataset(by_step).to_netcdf(engine="scipy"))},
        {"steps": list(by_step), "warning": " ".join(mismatches(list(by_step.values())))},
    )
