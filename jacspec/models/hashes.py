"""Hashes of a model's files, computed while nobody waits for them."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path


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
    """Hash a file without holding it in memory."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
