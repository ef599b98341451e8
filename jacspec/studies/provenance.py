"""What a result depends on beside its configuration: versions, device, commit, time."""

import datetime
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
from omegaconf import OmegaConf
from rich.console import Console

from jacspec.config import PACKAGE, Config
from jacspec.files import installed_version
from jacspec.models.checkpoint import Checkpoint
from jacspec.studies.study import Study
from jacspec.text.corpus import Corpus, Sample

LIBRARIES = ("jacspec", "jax", "jaxlib", "flax", "numpy", "scipy", "transformers", "tokenizers", "nltk")

UNREAD = "not read by this family"
"""In `run.json`, the keys of a checkpoint's config that no line of HF's code for its family reads."""


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version()} | {name: installed_version(name) for name in LIBRARIES}


def describe_device() -> dict[str, Any]:
    """Say what computed the numbers."""
    device = jax.local_devices()[0]
    return {"platform": device.platform, "kind": device.device_kind, "machine": platform.machine()}


def describe_run(config: Config, *, study: Study, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what `run.json` of every task holds; its `identity` must be the same for a run to be resumed.

    **Arguments:** `study`, which says what keys of the configuration its numbers depend on; `identity`, what they
    depend on besides: checkpoint, corpus.
    """
    whole = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(whole, dict)
    comparable = {key: value for key, value in whole.items() if key == "task" or key in study.reads}
    # Where files and texts lie does not matter: their hashes are compared.
    for group in comparable.keys() & {"model", "data"}:
        comparable[group] = {
            key: value for key, value in comparable[group].items() if key not in ("path", "base", "text")
        }
    if study.draws and study.name in comparable:
        comparable[study.name] = {key: own for key, own in comparable[study.name].items() if key not in study.draws}
    return {
        "task": config.task,
        "created": now(),
        "config": whole,
        "identity": {"config": comparable, **identity, "device": describe_device(), "versions": versions()},
        "precision": {"dtype": config.precision.value, "matmul": "highest"},
        "seed": config.seed,
        "git_commit": git_commit(),
    }


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """Say which checkpoint was read: name, revision, hashes of its files, and where there is any, what was noted."""
    noted = {
        "stored as": dict(checkpoint.tensors.types) if checkpoint.tensors else {},
        "notes": list(checkpoint.notes),
        "unread": list(checkpoint.unread),
        UNREAD: list(checkpoint.unread_keys),
    }
    return {
        "name": checkpoint.name,
        "revision": checkpoint.revision,
        "files": dict(checkpoint.files),
        **{key: value for key, value in noted.items() if value},
    }


def describe_corpus(corpus: Corpus, sample: Sample) -> dict[str, Any]:
    """Say which text was read: its hash, what split it, and where there is any, what was noted."""
    notes = [*corpus.notes, *sample.notes]
    noted = {"notes": notes} if notes else {}
    return {"sha256": corpus.sha256, "splitter": corpus.splitter, **noted}


def say_notes(identity: Mapping[str, Any], console: Console) -> None:
    """Print the `notes` on what a run depends on, its checkpoint and its text, a quiet line each."""
    for described in identity.values():
        for note in described.get("notes", ()) if isinstance(described, Mapping) else ():
            console.print(note, style="dim", soft_wrap=True, highlight=False, markup=False)


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
