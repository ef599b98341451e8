"""What all runs share: where they may write, how they begin, are recorded, are resumed, and end.

A run writes into a folder that is new, empty, or its own: `run.json`, written before all else, makes it that.

One process at a time writes a folder: it holds the kernel's lock on `layers/.lock` (`flock`, on Windows `LockFile`)
from `make_folder` or `reopen_folder` until it has finished, failed or died, `kill -9` included; nothing is to be
cleared away after it. On a file system without such locks filelock warns and marks the file with the process's number
instead, a mark that it clears once that process is gone; where even the attempt fails (NFS without its lock daemon)
nothing keeps two runs apart.
"""

import contextlib
import dataclasses
import errno
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jacspec.errors import JacspecError, as_typed, shortened
from jacspec.runs.checks import describe_files
from jacspec.runs.files import (
    FOLDERS,
    LOCK,
    PAGE,
    PARTS,
    RUN_FILE,
    TEMPORARY,
    make_subfolder,
    refuse_link,
    remove_parts,
    sweep,
    write_json,
)
from jacspec.runs.folder import differing_keys, read_run_file

HYDRAS = (".hydra", "jacspec.log")
"""What Hydra writes into a new run's folder before the run does, where it is told to."""

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

_claims: dict[Path, FileLock] = {}
"""The folders that this process writes."""


@dataclasses.dataclass
class Writer:
    """A run being written."""

    folder: Path
    provenance: dict[str, Any]

    def record(self, **provenance: Any) -> None:
        """Add what was learnt to `run.json`."""
        self.provenance |= provenance
        write_json(self.folder / RUN_FILE, self.provenance)

    def finish(self, **provenance: Any) -> None:
        """Declare the run finished, everything else being there, and remove its files that served resuming.

        `provenance` is what was learnt last; of a run that was finished before and is drawn anew it is left out.
        """
        if self.provenance["status"] != "finished":
            self.provenance |= {**provenance, "files": describe_files(self.folder)}
        self.record(status="finished")
        # Who claims the folder in between reads that it is finished.
        release_folder(self.folder)
        remove_parts(self.folder / PARTS)


def make_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder of a new run, mark it as the run's by its `run.json`, and return what that holds.

    **Raises:** `JacspecError` where `check_vacant` does, or another process is writing the folder.
    """
    check_vacant(folder)
    claim_folder(folder)
    check_vacant(folder)  # another process may have begun and ended a run meanwhile
    whole = {"status": "unfinished", **provenance}
    write_json(folder / RUN_FILE, whole)
    return whole


def check_vacant(folder: Path) -> None:
    """Refuse a folder that a new run may not write into; one that is not there, or empty, is vacant.

    So is one in which a run was killed before its `run.json`: `layers/` with an empty lock is all that it leaves.

    **Raises:** `JacspecError` that names the run, or the files, that are in the way.
    """
    if not folder.is_dir():
        return
    if _holds_run(folder):
        raise JacspecError(
            f"{folder} already holds a run. Type {as_typed('resume', folder)} to resume it, or hydra.run.dir=OTHER."
        )
    if found := foreign_files(folder):
        raise JacspecError(
            f"{folder} holds files that are not a run's, and a run writes into a new or empty folder only. "
            f"In the way: {shortened(found, 8)}. Type hydra.run.dir=OTHER."
        )


def foreign_files(folder: Path) -> list[str]:
    """Name what a folder without a run holds, one file for each folder in it."""
    entries = (entry for entry in sorted(folder.iterdir()) if entry.name not in HYDRAS and not _left_by_kill(entry))
    return [str(_first_file(entry).relative_to(folder)) for entry in entries]


def reopen_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Check that an unfinished run is of the same configuration, files and versions, and sweep what a kill left.

    **Returns:** what its `run.json` holds.

    Files in the folder that are not the run's stay as they are.

    **Raises:** `JacspecError` with the keys that differ, for a symbolic link where the run is to write, or where
    another process is writing it.
    """
    stored = read_same_run(folder, provenance)
    for name in (RUN_FILE, *FOLDERS, PAGE):
        refuse_link(folder / name)
    if stored["status"] == "finished":
        return stored
    claim_folder(folder)
    sweep(folder)
    return read_run_file(folder)  # it may have been finished meanwhile


def read_same_run(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Read the `run.json` of a run of the same configuration, files and versions.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = read_run_file(folder)
    if "identity" not in stored:
        raise JacspecError(f"The run in {folder} is of task={stored.get('task')}, which cannot be resumed.")
    differing = differing_keys(stored["identity"], provenance["identity"])
    if differing:
        raise JacspecError(f"{folder} is a run of another configuration: {'; '.join(differing)}.")
    return stored


def claim_folder(folder: Path) -> None:
    """Become the one process that writes a folder, or stay it; raises `JacspecError` where another one is."""
    place = folder.resolve()
    if place in _claims:
        return
    file = make_subfolder(folder, PARTS) / LOCK
    refuse_link(file)
    file.touch()
    # Left to itself, filelock may give the file a mode that shuts out a group which shares the folder.
    lock = FileLock(file, timeout=0, thread_local=False, mode=stat.S_IMODE(file.stat().st_mode))
    try:
        lock.acquire()
    except Timeout:
        raise JacspecError(
            f"Another process is writing the run in {folder}. Wait until it has ended, then type "
            f"{as_typed('resume', folder)}, or hydra.run.dir=FOLDER for a run of its own."
        ) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    _claims[place] = lock


def release_folder(folder: Path) -> None:
    """Let another process write a folder that this one claimed, if it did."""
    if lock := _claims.pop(folder.resolve(), None):
        lock.release()


@contextlib.contextmanager
def releasing_folders() -> Iterator[None]:
    """Let go of every folder that is claimed inside, however that ends: a sweep goes on after a failure."""
    before = {*_claims}
    try:
        yield
    finally:
        for folder in {*_claims} - before:
            release_folder(folder)


def _holds_run(folder: Path) -> bool:
    with contextlib.suppress(JacspecError):
        return bool(read_run_file(folder))
    return False


def _left_by_kill(entry: Path) -> bool:
    """Say whether a kill between the making of a folder and its `run.json` leaves this."""
    if entry.is_symlink():
        return False
    if entry.name == PARTS and entry.is_dir():
        return all(file.name == LOCK and not file.is_symlink() and not file.stat().st_size for file in entry.iterdir())
    return entry.name.startswith(f"{TEMPORARY}{RUN_FILE}.")


def _first_file(entry: Path) -> Path:
    """Go down to the first file of a folder, or to the link, the empty or the closed folder that is met before."""
    while entry.is_dir() and not entry.is_symlink():
        inside: list[Path] = []
        with contextlib.suppress(PermissionError):
            inside = sorted(entry.iterdir(), key=lambda each: (each.name == LOCK, each.name))
        if not inside:
            break
        entry = inside[0]
    return entry
