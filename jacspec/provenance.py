"""What a result depends on beside its configuration: versions, device, commit, time."""

import datetime
import importlib.metadata
import platform
import subprocess
from typing import Any

import jax

from jacspec.config import PACKAGE

LIBRARIES = ("jacspec", "jax", "jaxlib", "flax", "numpy", "scipy", "transformers", "tokenizers", "nltk")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def describe_device() -> dict[str, Any]:
    """Say what computed the numbers."""
    device = jax.local_devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "machine": platform.machine()}


def git_commit() -> str | None:
    """Return the commit of the checkout that the code runs from, `+` where files were changed, `None` outside one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


def now() -> str:
    """Return the present time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
