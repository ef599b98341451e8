"""Read files that others wrote: no more than is stated, from nothing that might never end."""

import json
from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError

MAX_JSON_BYTES = 2**26
"""Of a JSON file: the largest index of a sharded checkpoint has a few MiB."""


def read_file(file: Path, *, most: int) -> bytes:
    """Read a whole file of at most `most` bytes.

    **Raises:** `JacspecError` where it is larger, cannot be read, or is none: a pipe or a device may have no end.
    """
    if not file.is_file():
        raise JacspecError(f"{file} is not a file.")
    if (size := file.stat().st_size) > most:
        raise JacspecError(
            f"{file} has {size / 2**20:.0f} MiB. Accepted: {most // 2**20} MiB at most; give a part of it."
        )
    try:
        return file.read_bytes()
    except OSError as error:
        raise JacspecError(f"{file} cannot be read: {error.strerror}.") from error


def parse_json(raw: bytes | str, where: str) -> Any:
    """Parse JSON; raises `JacspecError` for what is none, is not UTF-8, or is nested or numbered beyond Python."""
    try:
        return json.loads(raw if isinstance(raw, str) else raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise JacspecError(f"{where} is not readable JSON: {error}.") from None
