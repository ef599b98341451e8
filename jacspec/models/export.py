"""Write a model in Hugging Face layout: the tensor tables read backwards."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jacspec.errors import blaming
from jacspec.models.architectures import Architecture
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import leaf_names, module_rules
from jacspec.models.tensor_files import WEIGHTS


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json`."""
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def write_weights(
    folder: Path, architecture: Architecture, spec: ModelSpec, modules: Mapping[tuple[str, int], Any], *, dtype: str
) -> None:
    """Write `model.safetensors` from modules keyed by (part, number), each tensor cast to `dtype`.

    A tied unembedding is written once, as the embedding.
    """
    write_tensors(folder, dict(hf_tensors(architecture, spec, modules)), dtype=dtype)


def write_tensors(folder: Path, tensors: Mapping[str, Any], *, dtype: str) -> None:
    """Write tensors by HF's names as `model.safetensors`, each cast to `dtype`."""
    arrays = {name: np.ascontiguousarray(tensor, dtype=np.dtype(dtype)) for name, tensor in tensors.items()}
    file = folder / WEIGHTS
    file.touch()
    mode = file.stat().st_mode
    with blaming(f"{file} cannot be written"):  # a full disk is a SafetensorError
        save_file(arrays, file, metadata={"format": "pt"})
    file.chmod(mode)  # the library's own makes it its owner's alone


def write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write the files of an HF tokenizer, without templates of chats, whose names would be names of files."""
    tokenizer.chat_template = None
    with blaming(f"The tokenizer cannot be written to {folder}"):  # a full disk is a bare Exception of Rust
        tokenizer.save_pretrained(folder)


def hf_tensors(
    architecture: Architecture, spec: ModelSpec, modules: Mapping[tuple[str, int], Any]
) -> Iterator[tuple[str, jax.Array]]:
    """Turn modules keyed by (part, number) into tensors by HF's names, as `save_pretrained` would name them."""
    tied: dict[str, jax.Array] = {}
    written: set[str] = set()
    for (part, number), module in modules.items():
        leaves = dict(zip(leaf_names(module), jax.tree.leaves(module), strict=True))
        for name, rule, target in module_rules(architecture, spec, part, number, module):
            tensor = rule.save([leaves[leaf] for leaf in rule.leaves], target)
            if spec.tied and name in architecture.tied:
                tied[architecture.tied[name]] = tensor
                continue
            prefix = "" if name.startswith(architecture.language_model) else architecture.prefixes[0]
            written.add(name)
            yield prefix + name, tensor
    # A tied tensor is written under the name it is tied to, if no other rule did.
    yield from ((name, tensor) for name, tensor in tied.items() if name not in written)
