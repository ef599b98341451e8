"""Every task that resumes, killed without warning at random moments, resumed, and compared with a run left alone.

The commands are processes of their own, forked from one that has imported everything and started nothing. A moment is
uniform between the making of the run's folder and the end of a run that nothing disturbed; before it nothing is left
behind. Tries to go on are killed too.
"""

import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from servers import NANO, environment, files_below
from small_runs import SMALL, arguments
from transformers import CONFIG_MAPPING, AutoTokenizer

from jacspec.cli.command import main
from jacspec.studies import find_study
from jacspec.studies.study import load

VOLATILE = ("created", "finished", "seconds", "git_commit", "merged")
"""What `run.json` says of when, how long, and where a merged checkpoint lies."""


class Whole(NamedTuple):
    """A run that nothing disturbed: its folder, the seconds until it made that, and those from then to its end."""

    folder: Path
    startup: float
    seconds: float


class Kill(NamedTuple):
    """One kill: of which task, when, how often before, what of the run was there, and what differs in the end."""

    task: str
    share: float
    before: int
    run_file: bool
    parts: int
    differing: list[str]


def import_everything() -> None:
    """Import what tasks and reports import when they need it, so that no run does."""
    for name in SMALL:
        study = find_study(name)
        load(study.run)
        load(study.figures)
    importlib.import_module("jacspec.report.page")
    for library in ("xarray", "pandas", "scipy.io", "nltk.tokenize.punkt", "matplotlib.backends.backend_pdf"):
        importlib.import_module(library)
    assert AutoTokenizer.from_pretrained(NANO)
    assert CONFIG_MAPPING["gpt2"]()


def run_whole(task: str, model: Path, cwd: Path) -> Whole:
    """Run a task undisturbed, twice: what the first compiles, those that are killed find."""
    for name in ("first", "whole"):
        times = [time.monotonic()]
        run = start([*arguments(task, model), f"hydra.run.dir={name}"], cwd)
        wait_for(cwd / name, run)
        times.append(time.monotonic())
        run.join()
        times.append(time.monotonic())
        assert run.exitcode == 0, said(cwd)
    assert differing_files(cwd / "first", cwd / "whole") == []
    return Whole(cwd / "whole", times[1] - times[0], times[2] - times[1])


def kill_and_go_on(task: str, model: Path, whole: Whole, cwd: Path, *, times: int) -> list[Kill]:
    """Kill a run and the tries to resume it, `times` in all, at random moments; then let one end and compare."""
    rng, folder = random.Random(), cwd / "killed"  # other moments whenever it is run
    found: list[Kill] = []
    while len(found) < times:
        share = rng.random()
        began = folder.exists()
        run = start([*arguments(task, model), place(folder)], cwd)
        if began:
            time.sleep(whole.startup)
        else:
            wait_for(folder, run)
        time.sleep(share * whole.seconds)
        run.kill()
        run.join()
        if run.exitcode != -signal.SIGKILL:  # it was faster than the undisturbed one: that was no kill, begin anew
            assert run.exitcode == 0, said(cwd)
            shutil.rmtree(folder)
            found.clear()
            continue
        parts = len(list((folder / "layers").glob("*.npz")))
        found.append(Kill(task, round(share, 3), len(found), (folder / "run.json").exists(), parts, []))
    run = start([*arguments(task, model), place(folder)], cwd)
    run.join()
    differing = differing_files(whole.folder, folder) if run.exitcode == 0 else [said(cwd)]
    return [kill._replace(differing=differing) for kill in found]


def place(folder: Path) -> str:
    """Go on with what is a run, and begin anew where a kill came before there was one."""
    return f"resume={folder.name}" if (folder / "run.json").exists() else f"hydra.run.dir={folder.name}"


def start(command: Sequence[str], cwd: Path) -> Any:
    """Start the command line in a process of its own; what it says on stderr goes to a file."""
    return fork(_run, command, cwd)


def fork(function: Callable[..., None], *given: Any) -> Any:
    """Start a function in a process of its own."""
    run = multiprocessing.get_context("fork").Process(target=function, args=given)
    run.start()
    return run


def said(cwd: Path) -> str:
    """Read what the last command said on stderr."""
    return (cwd / "stderr").read_text()


def wait_for(folder: Path, run: Any) -> None:
    """Wait until a run has its folder, or has ended."""
    while not folder.exists() and run.is_alive():
        time.sleep(0.005)


def _run(command: Sequence[str], cwd: Path) -> None:
    for stream, file in ((1, os.devnull), (2, cwd / "stderr")):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.chdir(cwd)
    changed = environment()
    os.environ.clear()
    os.environ.update(changed)
    sys.argv = ["jacspec", *command]
    main()


def differing_files(left: Path, right: Path) -> list[str]:
    """Name what is in one run only or not the same in both, byte for byte; in `run.json` all but `VOLATILE`."""
    names = files_below(left) | files_below(right)
    return sorted(name for name in names if _content(left, name) != _content(right, name))


def _content(folder: Path, name: str) -> Any:
    file = folder / name
    if not file.is_file():
        return None
    if name == "run.json":
        return {key: value for key, value in json.loads(file.read_text()).items() if key not in VOLATILE}
    if name == "report.html":
        return len(file.read_bytes()) > 10_000  # it shows the times
    return file.read_bytes()
