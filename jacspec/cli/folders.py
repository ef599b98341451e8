"""Where a command writes, settled before Hydra makes a folder: what was there and is not a run's stays as it was."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from jacspec.cli.refusal import refusing
from jacspec.cli.sweep import check_sweep, is_sweep
from jacspec.config import Config
from jacspec.studies import find_study

CLOCK = "${now"
"""What stands in the name of a folder that Hydra names by the clock."""


class Folders(Callback):
    """What Hydra calls before it makes the folder of a run or a sweep; `conf/config.yaml` names it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the folder that was given, if it is fit, or that of the run to resume or redraw, or make a new one."""
        named = config.resume or (config.run if config.task == "report" else None)
        _given.clear()
        with refusing():
            if not _named_by_clock(config.hydra.run):
                _check_given(config)
            elif named and (Path(named) / "run.json").is_file():
                _set(config, "run.dir", named)
            else:
                _set(config, "run.dir", str(make_new(Path(config.hydra.run.dir))))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the folder that was given for a sweep, if it is fit, or of the sweep to resume, or make a new one."""
        _given.clear()
        with refusing():
            wanted = config.hydra.sweep.dir
            if not _named_by_clock(config.hydra.sweep):
                check_sweep(Path(wanted))
                return
            resumed = config.resume if config.resume and is_sweep(config.resume) else None
            if (made := resumed or str(make_new(Path(wanted)))) != wanted:
                _set(config, "sweep.dir", made)
                # Hydra composes each job's configuration anew from these.
                quoted = made.replace("'", r"\'")
                _set(config, "overrides.hydra", [*config.hydra.overrides.hydra, f"hydra.sweep.dir='{quoted}'"])


_given: set[Path] = set()
"""The folder of this command where it was there before."""


def makes_folder(config: DictConfig | Config) -> bool:
    """Say whether a command writes a new run, rather than into one that is there, or none."""
    return config.resume is None and find_study(config.task).folder


def make_new(folder: Path) -> Path:
    """Make a folder that nobody else has made: its making decides, so commands of one second get one each.

    **Returns:** the folder, with `_2`, `_3`, … behind its name where that was taken.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
        folder = folder.with_name(f"{folder.name.removesuffix(f'_{number - 1}')}_{number}")
    return folder


def remove_empty(folder: Path) -> None:
    """Remove the folder that Hydra made for a run if nothing was written into it."""
    if folder.resolve() not in _given:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_given(config: DictConfig) -> None:
    from jacspec.runs.writing import check_vacant

    folder = Path(config.hydra.run.dir)
    if makes_folder(config):
        check_vacant(folder)
    if folder.is_dir():
        _given.add(folder.resolve())
        if any(folder.iterdir()):  # where Hydra's own files are asked for, they would be written before ours
            _set(config, "output_subdir", None)
            _set(config, "job_logging", {"root": None})


def _named_by_clock(place: DictConfig) -> bool:
    written = OmegaConf.to_container(place, resolve=False)
    assert isinstance(written, dict)
    return CLOCK in str(written["dir"])


def _set(config: DictConfig, key: str, value: Any) -> None:
    with read_write(config.hydra):
        OmegaConf.update(config, f"hydra.{key}", value, merge=False, force_add=True)
