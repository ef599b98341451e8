"""Files that are put in place whole and durably, and how a run folder's files are named."""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUN_FILE, PARTS, SPECTRA = "run.json", "layers", "spectra.nc"
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
    _sync_folder(file.parent)


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


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
