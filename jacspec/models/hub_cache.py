"""Files of the Hugging Face hub's cache: each is named after the hash of its content, which tells a damaged one.

A file in `snapshots/COMMIT/` is a link into `blobs/`, to the SHA-256 of what lies in Git LFS, else to git's own hash.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jacspec.files import sha256


def damaged_files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Find files of a snapshot that are not what they are named after; of other names nothing is known."""
    found = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_symlink()})
    files = [file for file in found if file.is_file()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        whole = pool.map(_is_whole, files)
        return [file for file, is_whole in zip(files, whole, strict=True) if not is_whole]


def remove_files(files: Iterable[Path]) -> None:
    """Remove files of a snapshot, and what they are links to, so that they are fetched again."""
    for file in files:
        file.resolve().unlink()
        file.unlink()


def _is_whole(file: Path) -> bool:
    name = Path(file.readlink()).name
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return sha256(file) == name
    if re.fullmatch(r"[0-9a-f]{40}", name):
        content = file.read_bytes()
        # Of git's object, or as some mirrors of the hub have it of the file itself.
        return name in (
            hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
            hashlib.sha1(content).hexdigest(),
        )
    return True
