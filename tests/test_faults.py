"""Accidents to a run's folder: a second process in it, kill -9 in a write, a read-only disk, a clock that jumps.

Kills of whole runs: `test_resume.py`, and at length `tests/faults/campaign.py`. Full disks: `test_bad_input.py`.
"""

import contextlib
import errno
import itertools
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from servers import CONTRACT, TINY, Finished, environment, files_below, run_here, statuses

from jacspec.runs import files as run_files
from jacspec.runs.files import LOCK, TEMPORARY, put_in_place, sweep
from jacspec.runs.writing import claim_folder, release_folder

SMALL = (*TINY, "components=[mlp]")
TABLES = ("metrics.csv", "summary.csv", "samples.csv", "spectra.nc")

# Two processes


HOLD = """
import pathlib, sys
from jacspec.runs.writing import claim_folder
claim_folder(pathlib.Path("out"))
print("claimed", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(cwd: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes the run in `out`; killed in the end, if not before."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        try:
            yield process
        finally:
            process.kill()


def interrupted_run(cwd: Path) -> dict[str, bytes]:
    """Make a run that was interrupted after its layers; returns its files."""
    with mock.patch("jacspec.studies.run.write_report", side_effect=KeyboardInterrupt):
        assert run_here(*SMALL, "hydra.run.dir=out", cwd=cwd).code == 130
    return contents(cwd)


def undrawn() -> Any:
    """Draw no figures: that takes longer than all else."""
    return mock.patch("jacspec.studies.run.write_report")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder) if not name.endswith(LOCK)}


def assert_in_use(done: Finished) -> None:
    assert done.code == 1
    assert done.err.startswith("jacspec: Another process is writing the run in ")


def test_run_that_another_process_writes_is_refused_until_it_dies(tmp_path: Path) -> None:
    before = interrupted_run(tmp_path)
    with holder(tmp_path) as process:  # which shows too that the interrupted run let go of it
        assert_in_use(run_here(*SMALL, "resume=out", cwd=tmp_path))
        assert contents(tmp_path) == before
        process.kill()
        process.wait()
        with undrawn():
            done = run_here(*SMALL, "resume=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert files_below(tmp_path / "out") == CONTRACT & {"run.json", *TABLES}


def test_folder_in_which_another_process_begins_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with holder(tmp_path):
        assert_in_use(run_here(*SMALL, "hydra.run.dir=out", cwd=tmp_path))
    assert files_below(tmp_path) == {f"out/layers/{LOCK}"}


def test_lock_that_is_not_taken_is_caught(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with holder(tmp_path), undrawn(), mock.patch("jacspec.runs.writing.FileLock"), pytest.raises(AssertionError):
        assert_in_use(run_here(*SMALL, "hydra.run.dir=out", cwd=tmp_path))


@pytest.mark.parametrize(("number", "goes_on"), [(errno.ENOLCK, True), (errno.ENOTSUP, True), (errno.EROFS, False)])
def test_file_system_without_locks(number: int, goes_on: bool, tmp_path: Path) -> None:
    expected = contextlib.nullcontext() if goes_on else pytest.raises(OSError, match=os.strerror(number))
    refusal = OSError(number, os.strerror(number))
    with mock.patch("jacspec.runs.writing.FileLock.acquire", side_effect=refusal), expected:
        claim_folder(tmp_path)
    release_folder(tmp_path)


# Kill -9 inside a write

WRITE = """
import itertools, pathlib, sys
from jacspec.runs.files import write_atomically
write = write_atomically if sys.argv[1] == "ours" else pathlib.Path.write_bytes
for letter in itertools.cycle((b"a", b"b")):
    write(pathlib.Path("table"), letter * 20_000_000)
    print("written", flush=True)
"""


def find_torn(writer: str, cwd: Path, rng: random.Random) -> bool:
    """Kill a process that writes one file over and over; says whether the file is neither the old nor the new one."""
    command = [sys.executable, "-c", WRITE, writer]
    with subprocess.Popen(command, cwd=cwd, env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
    content = (cwd / "table").read_bytes()
    return content not in (b"a" * 20_000_000, b"b" * 20_000_000)


def test_killed_write_leaves_a_whole_file(tmp_path: Path) -> None:
    rng = random.Random(0)
    assert not any(find_torn("ours", tmp_path, rng) for _ in range(3))
    sweep(tmp_path)
    assert files_below(tmp_path) == {"table"}


def test_write_in_place_is_caught(tmp_path: Path) -> None:
    rng = random.Random(0)
    assert any(find_torn("in place", tmp_path, rng) for _ in range(12))


@pytest.mark.parametrize("step", range(4))
def test_folder_of_a_model_is_there_whole_or_not_at_all(step: int, tmp_path: Path) -> None:
    """Killed at each durable step of putting it in place, and swept."""
    half = tmp_path / f"{TEMPORARY}seed0"
    half.mkdir()
    (half / "config.json").write_text("{}")
    (half / "model.safetensors").write_bytes(b"weights")
    real, count = run_files._sync, itertools.count()

    def sync(place: Path) -> None:
        if next(count) == step:
            raise KeyboardInterrupt
        real(place)

    with mock.patch.object(run_files, "_sync", sync), pytest.raises(KeyboardInterrupt):
        put_in_place(half, tmp_path / "seed0")
    sweep(tmp_path)
    assert files_below(tmp_path) in (set(), {"seed0/config.json", "seed0/model.safetensors"})
    assert (step == 3) == (tmp_path / "seed0").exists()


# Read-only folders


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Let nothing below a folder be written: root, whom permissions do not stop, mounts it read-only on itself."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        try:
            yield
        finally:
            folder.chmod(0o700)
        return
    for options in (["--bind", str(folder)], ["-o", "remount,ro,bind"]):
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
        if done.returncode:
            subprocess.run(["umount", str(folder)], capture_output=True, check=False)
            pytest.skip(f"root cannot mount read-only here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_read_only_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    before = interrupted_run(tmp_path)
    with read_only(tmp_path / "out"):
        done = run_here(*SMALL, "resume=out", cwd=tmp_path)
    assert done.code == 1
    assert "Read-only file system" in done.err or "Permission denied" in done.err
    assert contents(tmp_path) == before
    with undrawn():
        assert run_here(*SMALL, "resume=out", cwd=tmp_path).code == 0
    finished = contents(tmp_path)
    with read_only(tmp_path / "out"):
        for command in (("task=report", "run=out"), ("-m", "seed=0,1", "hydra.sweep.dir=out/sweep")):
            done = run_here(*command, cwd=tmp_path)
            assert done.code == 1
            assert done.err.startswith("jacspec: Cannot read or write out"), done.err
            assert done.err.count("\n") == 1
    assert contents(tmp_path) == finished


def test_error_of_the_system_without_a_file_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jacspec.cli.command.load", lambda _: fail)
    done = run_here(*SMALL, f"hydra.run.dir={tmp_path}/out", cwd=tmp_path)
    place = f"a file in {tmp_path}/out, or the output"
    assert done.err == f"jacspec: Cannot read or write {place}: No space left on device.\n"


def test_everything_read_may_be_read_only(tmp_path: Path) -> None:
    """The caches too: they cost time and nothing else."""
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path / "cache"), undrawn():
        done = run_here(*SMALL, "hydra.run.dir=out", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert done.code == 0, done.err
    assert files_below(tmp_path / "cache") == set()


# The clock


def test_clock_that_jumps_changes_no_number(tmp_path: Path) -> None:
    """By up to thirty years either way, whenever it is asked; the monotonic one does not."""
    real, rng = time.time, random.Random(0)
    with undrawn():
        with mock.patch("time.time", side_effect=lambda: real() + rng.uniform(-1e9, 1e9)):
            done = run_here(*SMALL, "hydra.run.dir=jumped", cwd=tmp_path)
        assert done.code == 0, done.err
        os.utime(tmp_path / "jumped" / "metrics.csv", (0, 0))
        assert run_here(*SMALL, "hydra.run.dir=steady", cwd=tmp_path).code == 0
    for name in TABLES:
        assert (tmp_path / "jumped" / name).read_bytes() == (tmp_path / "steady" / name).read_bytes()
    assert statuses(tmp_path) == ["finished", "finished"]
    before = contents(tmp_path)
    done = run_here(*SMALL, "hydra.run.dir=steady", cwd=tmp_path)
    assert done.code == 1
    assert "already holds a run" in done.err
    assert contents(tmp_path) == before
