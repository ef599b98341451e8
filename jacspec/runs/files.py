"""Files that are put in place whole and durably, and how a run folder's files are named.

A run folder may come from someone else, and may hold files that are not the run's. So nothing is written through a
symbolic link in it, and nothing is removed but what has a name that a run gives. Files and folders take the process's
umask, and the group and access list that their folder hands on.
"""

import contextlib
import csv
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jacspec.errors import JacspecError

RUN_FILE, PARTS, SPECTRA, VECTORS = "run.json", "layers", "spectra.nc", "vectors.npz"
FIGURES, PAGE, MODELS, MERGED = "figures", "report.html", "models", "merged"
FOLDERS = (PARTS, FIGURES, MODELS, MERGED)
"""What a run that can be resumed, or its report, makes inside its folder."""

LOCK = ".lock"
REASON = "reason"
"""The last column of every `metrics.csv`: why values of the row are missing, empty where none is."""

TEMPORARY = ".jacspec-"
"""How names of files begin that a kill may leave half-written; resuming removes them."""

_PART = re.compile(r"\d{4,}(\.process\d+of\d+)?\.npz")
_SIGN = re.compile(r"process\d+\.json")

Restored = TypeVar("Restored")


def write_atomically(file: Path, content: bytes | Iterable[bytes]) -> None:
    """Put a file in place whole and durably: after a crash it is the old one or the new one.

    `content` may come in parts, of which one is in memory at a time.

    **Raises:** `JacspecError` where a symbolic link has the file's name.
    """
    refuse_link(file)
    half = file.with_name(f"{TEMPORARY}{file.name}.{secrets.token_hex(4)}")
    # Not `tempfile`, whose files are their owner's alone.
    stream = half.open("xb")
    try:
        with stream:
            for part in [content] if isinstance(content, bytes) else content:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(half, file)
    except BaseException as error:
        half.unlink()
        if isinstance(error, OSError) and error.filename is None:  # a full disk is said of no file
            error.filename = str(file)
        raise
    _sync(file.parent)


def put_in_place(half: Path, folder: Path) -> None:
    """Give a folder of files its name, all of it durable: whoever finds the name finds every file whole.

    **Arguments:** `half`, a name beside it that begins with `TEMPORARY`, so that `sweep` removes what a kill leaves.
    """
    for file in half.rglob("*"):
        if file.is_file():
            _sync(file)
    _sync(half)
    os.replace(half, folder)
    _sync(folder.parent)


def sweep(folder: Path) -> None:
    """Remove what a kill left half-written, where a run writes and nowhere else."""
    for place in (folder, *(folder / name for name in FOLDERS)):
        for stray in list(place.glob(f"{TEMPORARY}*")):
            if stray.is_dir() and not stray.is_symlink():
                shutil.rmtree(stray)
            else:
                stray.unlink()


def refuse_link(place: Path) -> None:
    """Refuse a symbolic link where a run is to write: it would write wherever that leads."""
    if place.is_symlink():
        raise JacspecError(
            f"{place} is a symbolic link, and a run writes through none. Remove it, or move what it leads to there."
        )


def make_subfolder(folder: Path, name: str) -> Path:
    """Make a folder of `FOLDERS` inside a run's where there is none; raises `JacspecError` for a symbolic link."""
    refuse_link(folder / name)
    (folder / name).mkdir(parents=True, exist_ok=True)
    return folder / name


def part_files(parts: Path) -> list[Path]:
    """List the files of `layers/` that hold results, in their order."""
    return sorted(file for file in parts.glob("*.npz") if _PART.fullmatch(file.name))


def write_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a file of `layers/` atomically: named arrays, as `.npz`."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_atomically(file, stream.getvalue())


def read_arrays(file: Path, restore: Callable[[dict[str, np.ndarray]], Restored]) -> Restored:
    """Read a file of `layers/` and restore what its arrays stand for; raises `JacspecError` for a damaged one."""
    try:
        # All is read, not only what is looked for: reading is what compares checksums and names.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            return restore(dict(stored))
    except JacspecError:
        raise
    except Exception as error:  # zipfile raises many types for a damaged file
        raise JacspecError(f"{file} is damaged ({error}). Delete it: resuming computes it again.") from error


def heartbeat_files(parts: Path) -> list[Path]:
    """List the files of `layers/` in which processes say that they work."""
    return [file for file in parts.glob("*.json") if _SIGN.fullmatch(file.name)]


def remove_parts(parts: Path) -> None:
    """Remove what a run wrote into `layers/`, and the folder itself if nothing else is in it."""
    refuse_link(parts)
    for file in (*part_files(parts), *heartbeat_files(parts), *parts.glob(f"{TEMPORARY}*"), parts / LOCK):
        with contextlib.suppress(OSError):
            file.unlink()
    with contextlib.suppress(OSError):
        parts.rmdir()


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; floats keep every digit that tells them apart."""
    write_atomically(file, csv_text([header, *rows]).encode())


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Write rows as CSV, lines ending with a line feed alone."""
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _sync(place: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
