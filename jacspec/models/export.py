"""Write a model in Hugging Face layout: the tensor tables read backwards."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from jacspec.models.architectures import Architecture
from jacspec.models.checkpoint import WEIGHTS, leaf_names, module_rules


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.json`."""
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2) + "\n", encoding="utf-8")


def write_weights(
    folder: Path, architecture: Architecture, tied: bool, modules: Mapping[tuple[str, int], Any], *, dtype: str
) -> None:
    """Write `model.safetensors` from modules keyed by (part, layer), each tensor cast to `dtype`.

    A tied unembedding is written once, as the embedding.
    """
    tensors = dict(_tensors(architecture, tied, modules, np.dtype(dtype)))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _tensors(
    architecture: Architecture, tied: bool, modules: Mapping[tuple[str, int], Any], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    for (part, layer), module in modules.items():
        leaves = dict(zip(leaf_names(module), jax.tree.leaves(module), strict=True))
        for rule in module_rules(architecture, part, tied):
            name = rule.name.format(layer=layer)
            if tied and name in architecture.tied.values() and part == "head":
                continue
            stored = name if name in architecture.tied else architecture.prefix + name
            yield stored, np.ascontiguousarray(rule.save(*(leaves[leaf] for leaf in rule.leaves)), dtype=dtype)
