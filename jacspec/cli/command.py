"""What the command line does: Hydra composes the configuration, the chosen task runs into Hydra's folder."""

import gc
import os
import sys
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from jacspec.cli.arguments import read_arguments
from jacspec.cli.explain import check_keys, explain
from jacspec.cli.folders import makes_folder, remove_empty
from jacspec.cli.keys import unread_keys
from jacspec.cli.refusal import Refused
from jacspec.cli.sweep import close_sweep, interrupt_sweep, resume_job
from jacspec.cli.terminal import Terminal, end_without_reader
from jacspec.config import Config, config_folder, register
from jacspec.errors import JacspecError, as_typed, printable
from jacspec.interrupts import end_interrupted, forget_interrupts, hold_interrupts, interrupted
from jacspec.report import check_report
from jacspec.report.helpers import start_helpers
from jacspec.studies import STUDIES, find_study
from jacspec.studies.study import load

TRACEBACK = "JACSPEC_TRACEBACK"
MOST_SHOWN = 4000


def run_process() -> None:
    """Run the command line in a process of its own: helpers draw, and what nobody reads any more ends it."""
    gc.disable()  # while importing, which makes no garbage to speak of
    _own_process.append(True)
    try:
        main()
    except BrokenPipeError:
        end_without_reader()
    finally:
        # Python looks through all that JAX and transformers made before it ends: a second for nothing.
        gc.freeze()


_own_process: list[bool] = []

YOUNG_OBJECTS = 5_000
"""After how many new objects Python looks for garbage; its own 700 are reached at every step that JAX traces."""


def _collect_garbage() -> None:
    """Look for garbage again after the imports, and not through what they made: a tenth of a short run's time."""
    if not gc.isenabled():  # a sweep's further jobs have garbage of their own, which must not be kept
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        gc.enable()


def main() -> None:
    """Run the command line: exit status 0, 1 after an error message, 130 after Ctrl-C, 143 after SIGTERM."""
    register()
    _failures.clear()
    forget_interrupts()
    # Hydra's own error report would come before ours; with this it lets exceptions through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = read_arguments(sys.argv[1:])
        _hydra_main()
    except KeyboardInterrupt as interrupt:
        interrupt_sweep(interrupt)
        end_interrupted(interrupt)
    except BrokenPipeError:
        raise
    except Refused as refused:
        _complain(refused.error)
    except Exception as error:
        if raised := interrupted():  # a library made another error of it
            interrupt_sweep(raised)
            end_interrupted(raised)
        close_sweep()
        _complain(error)
    finished = close_sweep()
    sys.exit(1 if _failures or not finished else 0)


_failures: list[str] = []
"""Messages of this process's failed runs; a sweep goes on after one."""


@hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
def _hydra_main(config: DictConfig) -> str | None:
    """Run one task; returns the message of a failure, which `sweep.py` records."""
    # A launcher may have started a fresh process, where `main` has not run.
    register()
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check_keys(config)
        typed = resume_job(cast(Config, OmegaConf.to_object(config)), folder)
        _check_runs(typed)
        _check_workers(typed)
        with hold_interrupts():
            # Not above: --help does not wait for JAX.
            from jacspec.runs.tracking import check_package
            from jacspec.studies.inputs import Inputs

        _check_folder(typed, folder)
        check_report(typed.report.formats, typed.report.figures)
        check_package(typed.log.value if typed.log else None)
        check_package(typed.tables.value)
        study = find_study(typed.task)
        draws = study.page is not None or "run" in study.inputs
        if _own_process and draws and typed.report.figures != "none":
            start_helpers(study.figures)
        if "model" in study.inputs and typed.distributed.coordinator is None:
            from jacspec.backend import open_devices

            open_devices()
        with hold_interrupts():
            run_study = load(study.run)
        _collect_garbage()
        console = Terminal()
        for key in unread_keys(HydraConfig.get().overrides.task, study):
            console.print(f"{key} changes nothing: task={study.name} does not read it.", style="dim", soft_wrap=True)
        run_study(typed, folder, console, Inputs(typed, brief=HydraConfig.get().mode == RunMode.MULTIRUN))
    except BrokenPipeError:
        raise
    except (KeyboardInterrupt, Exception) as error:
        # A library may have made another error of an interrupt.
        if interrupt := error if isinstance(error, KeyboardInterrupt) else interrupted():
            if HydraConfig.get().mode != RunMode.MULTIRUN and (folder / "run.json").is_file():
                interrupt.add_note(f"Add {as_typed('resume', folder)} to the same command to resume it.")
            raise interrupt from None
        # Not left to Hydra, which would print a line of its own first and end a sweep at its first failure.
        return _complain(cast(Exception, error), f"a file in {folder}, or the output")
    finally:
        remove_empty(folder)
        if HydraConfig.get().mode == RunMode.MULTIRUN and "jax" in sys.modules:
            from jacspec.backend import forget_programs

            forget_programs()
    return None


def _check_runs(config: Config) -> None:
    """Refuse finished runs given to a task that reads none: it would begin another one without a word."""
    over_runs = [name for name, study in STUDIES.items() if "runs" in study.inputs]
    over_one = [name for name, study in STUDIES.items() if "run" in study.inputs]
    for key, studies in (("runs", over_runs), ("run", [*over_one, *over_runs])):
        if getattr(config, key) and config.task not in studies:
            listed = " or ".join(f"task={name}" for name in studies)
            raise JacspecError(f"{key}={getattr(config, key)} is read by {listed}. Add one of them, or leave it out.")


def _check_folder(config: Config, folder: Path) -> None:
    """Refuse a folder of a sweep's job that a run may not write into, before anything is opened."""
    from jacspec.runs.writing import check_vacant

    if makes_folder(config):
        check_vacant(folder)


def _check_workers(config: Config) -> None:
    """Refuse what several processes cannot share: a task of one process, a sweep, a folder that each names anew."""
    from jacspec.runs.workers import check_distributed

    check_distributed(config.distributed)
    if config.distributed.coordinator is None:
        return
    if not find_study(config.task).shareable:
        shareable = ", ".join(name for name, study in STUDIES.items() if study.shareable)
        raise JacspecError(
            f"task={config.task} is computed by one process; {shareable} may be shared. "
            "Leave the distributed.* keys out."
        )
    hydra_ = HydraConfig.get()
    if hydra_.mode == RunMode.MULTIRUN:
        raise JacspecError("The runs of a sweep cannot be shared by processes. Leave -m or the distributed.* keys out.")
    if config.resume is None and not any(given.startswith("hydra.run.dir=") for given in hydra_.overrides.hydra):
        raise JacspecError("Processes that share a run need one folder. Type hydra.run.dir=FOLDER, the same for all.")


def _complain(error: Exception, place: str = "a file, or the output") -> str:
    """Print the message of an error that the user can mend; raise one that is ours, or any where asked to.

    **Arguments:** `place`, where an error of the system happened that names no file, as that of a full disk.
    """
    message = None if os.environ.get(TRACEBACK) else explain(error, place)
    if message is None:
        raise error
    _failures.append(message)
    # It may quote a file, whose names hold anything: what steers a terminal, or megabytes.
    shown = "\n".join(map(printable, message[:MOST_SHOWN].split("\n")))
    print(f"jacspec: {shown}" + " …" * (len(message) > MOST_SHOWN), file=sys.stderr)
    return message
