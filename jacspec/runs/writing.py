"""What all runs that can be gone on with share: how they begin, are recorded, go on, and end."""

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError
from jacspec.runs.files import PARTS, RUN_FILE, TEMPORARY, write_json
from jacspec.runs.folder import differing_keys, read_run_file


@dataclasses.dataclass
class Writer:
    """A run being written."""

    folder: Path
    provenance: dict[str, Any]

    def record(self, **provenance: Any) -> None:
        """Add what was learnt to `run.json`."""
        self.provenance |= provenance
        write_json(self.folder / RUN_FILE, self.provenance)

    def finish(self) -> None:
        """Declare the run finished, everything else being there, and remove the files that served resuming."""
        self.record(status="finished")
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)


def make_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make the folder of a new run, and return what `run.json` is to hold; raises where a run is there.

    `run.json` itself is to be written last, because a folder with it is a run: a kill before that leaves nothing to
    go on with.
    """
    if (folder / RUN_FILE).exists():
        raise JacspecError(f"{folder} already holds a run. Type resume={folder} to go on with it.")
    (folder / PARTS).mkdir(parents=True, exist_ok=True)
    return {"status": "unfinished", **provenance}


def reopen_folder(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Check that an unfinished run is of the same configuration, files and versions, and sweep what a kill left.

    **Returns:** what its `run.json` holds.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = read_same_run(folder, provenance)
    for stray in folder.rglob(f"{TEMPORARY}*"):
        stray.unlink()
    return stored


def read_same_run(folder: Path, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Read the `run.json` of a run of the same configuration, files and versions.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = read_run_file(folder)
    if "identity" not in stored:
        raise JacspecError(f"The run in {folder} is of task={stored.get('task')}, which cannot be gone on with.")
    differing = differing_keys(stored.get("identity", {}), provenance["identity"])
    if differing:
        raise JacspecError(f"{folder} is a run of another configuration: {'; '.join(differing)}.")
    return stored
