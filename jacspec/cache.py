"""Where jacspec keeps what it fetched, compiled or found out, and how a file is put there."""

import os
import secrets
from pathlib import Path

import platformdirs


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
