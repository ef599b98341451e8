"""The HF tokenizer of a folder: loaded without running what comes with it, and refused where it would fill memory."""

from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError, blaming
from jacspec.models.deferred_torch import deferring_torch
from jacspec.models.hf_config import read_json

MAX_GROWTH = 1000
"""Of a text under the replacements of a tokenizer; those of published ones put one character for one."""


def load_tokenizer(folder: Path) -> Any:
    """Load the HF tokenizer of a folder, never running code that comes with it."""
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json", "vocab.json")):
        raise JacspecError(f"{folder} has no tokenizer: put its tokenizer.json and tokenizer_config.json there.")
    _check_growth(folder / "tokenizer.json")
    with deferring_torch(), blaming(f"The tokenizer in {folder} cannot be loaded"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _check_growth(file: Path) -> None:
    """Refuse replacements that multiply a text: forty that put two letters for one would fill any memory."""
    if not file.is_file():
        return
    content, growth = read_json(file), 1
    waiting: list[Any] = [content.get("normalizer"), content.get("pre_tokenizer")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            put = part.get("content")  # of a `Replace`
            growth *= max(len(put), 1) if isinstance(put, str) else 1
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    if growth > MAX_GROWTH:
        raise JacspecError(
            f"{file} makes a text up to {growth:.1g} times longer before it is cut into tokens. "
            f"Accepted: {MAX_GROWTH} times."
        )
