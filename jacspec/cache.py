"""Where jacspec keeps what it fetched or compiled."""

from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return jacspec's own folder in the user's cache."""
    return Path(platformdirs.user_cache_dir("jacspec"))
