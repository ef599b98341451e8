"""A sweep's jobs: which of them failed, said once and kept in `sweep.csv`; and how a sweep is resumed.

Jobs may run in other processes and on other machines, and may be killed, so none hands its result back: each keeps a
record of its own in the sweep's folder, and whoever writes one writes the table of all, which a kill leaves behind.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from jacspec.cli.refusal import refusing
from jacspec.config import Config
from jacspec.errors import JacspecError, shortened
from jacspec.studies import find_study

HYDRAS_FILE = "multirun.yaml"
SWEEP_FILE, RECORDS, RUN_FILE = "sweep.csv", ".jobs", "run.json"
WORKERS = (b"submitit.", b"loky.backend.popen")
"""What the command lines of a launcher's workers on this machine hold."""

UNFINISHED = (
    "It has not ended: interrupted, killed, out of memory or time, or still running. "
    "The same sweep with resume=FOLDER of the sweep resumes it."
)


class Job(NamedTuple):
    """A row of `sweep.csv`.

    `status` is `finished`, `failed`, `unfinished` or `not started`; `folder` is empty where the job left none.
    """

    job: int
    overrides: str
    status: str
    folder: str
    message: str


class SweepRecord(Callback):
    """What Hydra calls around a sweep and its jobs; `conf/config.yaml` names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record which jobs there will be, in place of an earlier sweep's."""
        folder = Path(config.hydra.sweep.dir)
        with refusing():
            _remove_records(folder)
            for number, overrides in enumerate(_expand(config)):
                _write(folder, Job(number, " ".join(overrides), "not started", "", "The sweep ended before it."))
        _started.append(folder)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that a job began: one that is killed leaves it at that."""
        _record(config, "unfinished", UNFINISHED)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how a job ended: its function returns the message of its failure."""
        # `return_value` raises what the job raised.
        found = job_return._return_value
        message = f"{type(found).__name__}: {found}" if isinstance(found, Exception) else found or ""
        _record(config, "failed" if message else "finished", message)


_started: list[Path] = []
"""The folder of the sweep that this process started and has not yet summed up."""


def resume_job(config: Config, folder: Path) -> Config:
    """Let a job resume the run that an earlier try of its sweep left in its folder; others stay as they are.

    An earlier try is there where the sweep writes into its folder again, named by `hydra.sweep.dir` or by `resume`.
    """
    hydra_ = HydraConfig.get()
    if hydra_.mode != RunMode.MULTIRUN or not (config.resume is None or is_sweep(config.resume)):
        return config
    begun = (folder / RUN_FILE).is_file() and find_study(config.task).resumable
    return dataclasses.replace(config, resume=str(folder) if begun else None)


def close_sweep() -> bool:
    """Write `sweep.csv` of the sweep that this process started, if any, and name the jobs that did not finish.

    **Returns:** whether all jobs finished; where none began the command itself was wrong, and nothing is said.
    """
    if not _started:
        return True
    folder = _started.pop()
    jobs = read_jobs(folder)
    began = any(job.status != "not started" for job in jobs)
    if began:
        _write_table(folder)
        _sum_up_seeds(jobs)
        _say(folder, jobs)
    if not began or all(job.status in ("finished", "failed") for job in jobs):
        _remove_records(folder)
    return not began or all(job.status == "finished" for job in jobs)


def interrupt_sweep(interrupt: KeyboardInterrupt) -> None:
    """Take along what works for the sweep that this process started, if any, and note how the sweep is resumed."""
    if not _started:
        return
    _end_workers()
    folder = _started.pop()
    jobs = read_jobs(folder)
    if any(job.status != "not started" for job in jobs):
        _write_table(folder)
        finished = sum(job.status == "finished" for job in jobs)
        interrupt.add_note(f"{finished} of {len(jobs)} runs finished.")
        interrupt.add_note(f"Add resume={folder} to the same command to resume it.")


def _end_workers() -> None:
    """Kill what submitit and joblib started on this machine, which would go on alone or until they notice.

    A worker's run can be resumed wherever it was; they pass over SIGTERM, with which a cluster warns.
    """
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    ours = [os.getpid()]
    for process in ours:  # grows while it is walked
        ours += [child for child, parent in parents.items() if parent == process]
    for process in ours[1:]:
        with contextlib.suppress(OSError):
            if any(name in Path(f"/proc/{process}/cmdline").read_bytes() for name in WORKERS):
                os.kill(process, signal.SIGKILL)


def check_sweep(folder: Path) -> None:
    """Refuse a folder that a sweep may not write into: new, empty, or of an earlier sweep is what it may be.

    **Raises:** `JacspecError` that names what is in the way.
    """
    from jacspec.runs.files import refuse_link
    from jacspec.runs.writing import foreign_files

    if not folder.is_dir():
        return
    for name in (HYDRAS_FILE, SWEEP_FILE, RECORDS):
        refuse_link(folder / name)
    if not is_sweep(folder) and (found := foreign_files(folder)):
        raise JacspecError(
            f"{folder} holds files that are not a sweep's, and a sweep writes into a new or empty folder, or its own. "
            f"In the way: {shortened(found, 8)}. Type hydra.sweep.dir=OTHER."
        )


def read_jobs(folder: Path) -> list[Job]:
    """Read the records of a sweep's jobs, in their order."""
    records = (json.loads(file.read_text(encoding="utf-8")) for file in _record_files(folder))
    jobs = sorted(Job(**record) for record in records)
    return [job if Path(job.folder).is_dir() else job._replace(folder="") for job in jobs]


def _expand(config: DictConfig) -> list[list[str]]:
    """List the overrides of every job that Hydra's own sweeper makes of the command line."""
    if not config.hydra.sweeper._target_.endswith(BasicSweeper.__name__):
        return []
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*given, *config.hydra.overrides.task]), None)
    return jobs


def _record(config: DictConfig, status: str, message: str) -> None:
    if config.hydra.mode == RunMode.MULTIRUN:
        overrides = " ".join(map(str, config.hydra.overrides.task))
        job = Job(config.hydra.job.num, overrides, status, config.hydra.runtime.output_dir, message)
        _write(Path(config.hydra.sweep.dir), job)
        _write_table(Path(config.hydra.sweep.dir))


def _write(folder: Path, job: Job) -> None:
    # Not above, where --help would wait for what comes with it.
    from jacspec.runs.files import write_json

    (folder / RECORDS).mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORDS / f"{job.job}.json", job._asdict())


def _write_table(folder: Path) -> None:
    from jacspec.runs.files import write_csv

    write_csv(folder / SWEEP_FILE, Job._fields, read_jobs(folder))


def is_sweep(folder: str | Path) -> bool:
    """Say whether Hydra wrote into a folder that the record of a sweep was to be kept there."""
    file = Path(folder) / HYDRAS_FILE
    return file.is_file() and f"{__name__}.{SweepRecord.__name__}".encode() in file.read_bytes()


def _record_files(folder: Path) -> list[Path]:
    return [file for file in (folder / RECORDS).glob("*.json") if file.stem.isdecimal()]


def _remove_records(folder: Path) -> None:
    for file in _record_files(folder):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / RECORDS).rmdir()


def _say(folder: Path, jobs: list[Job]) -> None:
    missed = [job for job in jobs if job.status != "finished"]
    if not missed:
        print(f"sweep: all {len(jobs)} runs finished. Table: {folder / SWEEP_FILE}")
        return
    print(
        f"jacspec: {len(missed)} of {len(jobs)} runs did not finish. Table: {folder / SWEEP_FILE}",
        *(f"  job {job.job}, {job.overrides}{_where(job)}: {job.message.splitlines()[0]}" for job in missed),
        sep="\n",
        file=sys.stderr,
    )


def _where(job: Job) -> str:
    return f", {job.status} in {job.folder}" if job.folder else f", {job.status}"


def _sum_up_seeds(jobs: list[Job]) -> None:
    """Print one block for the jobs that differ by their seed alone."""
    from jacspec.cli.terminal import Terminal
    from jacspec.report.console import print_seeds
    from jacspec.runs import RUN_FILE, open_run
    from jacspec.studies import study_of

    groups: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        given = job.overrides.split(" ")
        rest = tuple(part for part in given if not part.startswith("seed="))
        wrote = bool(job.folder) and (Path(job.folder) / RUN_FILE).is_file()
        if job.status == "finished" and wrote and len(rest) < len(given):
            groups.setdefault(rest, []).append(job.folder)
    for folders in groups.values():
        if len(folders) > 1:
            runs = [open_run(Path(folder)) for folder in folders]
            rows = study_of(runs[0].provenance).rows
            if rows is not None and rows.kind != "runs":
                print_seeds(runs, Terminal())
