"""What all runs that can be gone on with share: how they begin, are recorded, go on, and end.

One process at a time writes a folder: it holds the kernel's lock on `layers/.lock` (`flock`, on Windows `LockFile`)
from `make_folder` or `reopen_folder` until it has finished, failed or died, `kill -9` included; nothing is to be
cleared away after it. On a file system without such locks filelock warns and marks the file with the process's number
instead, a mark that it clears once that process is gone; where even the attempt fails (NFS without its lock daemon)
nothing keeps two runs apart.
"""

import contextlib
import dataclasses
import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jacspec.errors import JacspecError
from jacspec.runs.files import PARTS, RUN_FILE, sweep, write_json
from jacspec.runs.folder import differing_keys, read_run_file

LOCK = ".lock"
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
        """Declare the run finished, everything else being there, and remove the files that served resuming.

        `provenance` is what was learnt last; of a run that was finished before and is drawn anew it is left out.
        """
        if self.provenance["status"] != "finished":
            self.provenance |= provenance
        self.record(status="finished")
        # Who claims the folder in between reads that it is finished.
        release_folder(self.folder)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)


def make_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder of a new run, and return what `run.json` is to hold; raises where a run is there.

    `run.json` itself is to be written last, because a folder with it is a run: a kill before that leaves nothing to
    go on with.
    """
    _refuse_run(folder)
    claim_folder(folder)
    _refuse_run(folder)  # another process may have begun and ended one meanwhile
    return {"status": "unfinished", **provenance}


def reopen_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Check that an unfinished run is of the same configuration, files and versions, and sweep what a kill left.

    **Returns:** what its `run.json` holds.

    **Raises:** `JacspecError` with the keys that differ, or where another process is writing it.
    """
    stored = read_same_run(folder, provenance)
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
        raise JacspecError(f"The run in {folder} is of task={stored.get('task')}, which cannot be gone on with.")
    differing = differing_keys(stored["identity"], provenance["identity"])
    if differing:
        raise JacspecError(f"{folder} is a run of another configuration: {'; '.join(differing)}.")
    return stored


def claim_folder(folder: Path) -> None:
    """Become the one process that writes a folder, or stay it; raises `JacspecError` where another one is."""
    place = folder.resolve()
    if place in _claims:
        return
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / PARTS / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise JacspecError(
            f"Another process is writing the run in {folder}. Wait until it has ended, then type resume={folder}, "
            "or hydra.run.dir=FOLDER for a run of its own."
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


def _refuse_run(folder: Path) -> None:
    if (folder / RUN_FILE).exists():
        raise JacspecError(
            f"{folder} already holds a run. Type resume={folder} to go on with it, or hydra.run.dir=FOLDER for another."
        )
