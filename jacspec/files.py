"""Files: read from others within limits, hashed while nobody waits, put into the user's cache; what is installed."""

import functools
import hashlib
import importlib.metadata
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import platformdirs

from jacspec.errors import JacspecError

MAX_JSON_BYTES = 2**26
"""Of a JSON file: the largest index of a sharded checkpoint has a few MiB."""


def installed_version(name: str) -> str:
    """Say which version of a distribution is installed; a checkout that is imported by its path has none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


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


def cache_folder() -> Path:
    """Return jacspec's own folder in the user's cache."""
    return Path(platformdirs.user_cache_dir("jacspec"))


def write_cached(file: Path, content: bytes) -> None:
    """Put a file of the cache in place whole: another process finds the old one or the new one.

    **Raises:** `OSError` where the cache cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        half.write_bytes(content)
        os.replace(half, file)
    except BaseException:
        half.unlink(missing_ok=True)
        raise


class Hashes(Mapping[str, str]):
    """The sha256 of files by their names; threads compute them from now on, and who asks early waits."""

    def __init__(self, files: Sequence[Path]):
        self._found: dict[str, Future[str]] = {file.name: Future() for file in files}
        threads = min(len(files), os.cpu_count() or 1)
        for first in range(threads):
            # Of no one who has to wait for it at the end of the process.
            threading.Thread(target=self._fill, args=(files[first::threads],), daemon=True).start()

    def _fill(self, files: Sequence[Path]) -> None:
        for file in files:
            try:
                self._found[file.name].set_result(sha256(file))
            except Exception as error:  # whatever it was, who asks is told
                self._found[file.name].set_exception(error)

    def __getitem__(self, name: str) -> str:
        return self._found[name].result()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def sha256(file: Path) -> str:
    """Hash a file without holding it in memory; one that has not changed since is not read again."""
    state = file.stat()
    return _sha256(file.resolve(), state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
