"""Files that are put in place whole and durably, and how a run folder's files are named."""

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_FILE, PARTS, SPECTRA = "run.json", "layers", "spectra.nc"
REASON = "reason"
"""The last column of every `metrics.csv`: why values of the row are missing, empty where none is."""

TEMPORARY = ".jacspec-"
"""How names of files begin that a kill may leave half-written; resuming removes them."""


def write_atomically(file: Path, content: bytes | Iterable[bytes]) -> None:
    """Put a file in place whole and durably: after a crash it is the old one or the new one.

    `content` may come in parts, of which one is in memory at a time.
    """
    stream = tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{TEMPORARY}{file.name}.", delete=False)  # noqa: SIM115
    try:
        with stream:
            for part in [content] if isinstance(content, bytes) else content:
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        Path(stream.name).chmod(0o644)
        os.replace(stream.name, file)
    except BaseException:
        Path(stream.name).unlink()
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
    """Remove what a kill left half-written."""
    for stray in list(folder.rglob(f"{TEMPORARY}*")):
        if stray.is_dir():
            shutil.rmtree(stray)
        else:
            stray.unlink(missing_ok=True)  # it may have lain in a folder that is gone


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
