"""Write checkpoints in Hugging Face layout: the tensor tables read backwards, or tensor by tensor.

The library's own writer takes all tensors of a file at once. Shards are written with one tensor in memory, in the
format (https://huggingface.co/docs/safetensors): eight bytes with the length of a JSON header, the header, then the
tensors' bytes, larger types first so that each begins at a multiple of its size.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped
from safetensors.numpy import save_file

from jacspec.errors import blaming
from jacspec.models.architectures import Architecture, piece_names
from jacspec.models.block import ModelSpec
from jacspec.models.modules import leaf_names, module_parts, module_rules, module_template
from jacspec.models.tensor_files import INDEX, NUMPY_TYPES, WEIGHTS, StoredTensor, TensorFiles


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
            pieces = tensor if "*" in name else [tensor]
            yield from ((prefix + each, piece) for each, piece in zip(piece_names(name, target), pieces, strict=True))
    # A tied tensor is written under the name it is tied to, if no other rule did.
    yield from ((name, tensor) for name, tensor in tied.items() if name not in written)


def count_parameters(architecture: Architecture, spec: ModelSpec) -> int:
    """Count the parameters that a checkpoint holds, tied ones once; nothing is read."""
    modules = {part: module_template(spec, *part) for part in module_parts(spec)}
    tensors = jax.eval_shape(lambda parts: dict(hf_tensors(architecture, spec, parts)), modules)
    return sum(leaf.size for leaf in jax.tree.leaves(tensors))


MOST_BYTES = 5 * 10**9
"""The largest file that one unsharded checkpoint becomes; what HF's `save_pretrained` took until version 5."""


class Shard(NamedTuple):
    """A file to write: its name, and its tensors under the names that they have in the file, in their order there."""

    name: str
    tensors: tuple[StoredTensor, ...]


def plan_shards(tensors: TensorFiles, *, most_bytes: int = MOST_BYTES) -> list[Shard]:
    """Divide tensors into files: as they lie now, or where they lie in one file into files of at most `most_bytes`."""
    groups: list[list[StoredTensor]] = []
    if len(tensors.files) > 1:
        groups = [[each for each in tensors.index.values() if each.file == file] for file in tensors.files]
    else:
        full = math.inf
        for each in tensors.index.values():
            if full + _size(each) > most_bytes:
                groups.append([])
                full = 0
            groups[-1].append(each)
            full += _size(each)
    ordered = [tuple(sorted(group, key=lambda each: -NUMPY_TYPES[each.dtype].itemsize)) for group in groups if group]
    if len(ordered) == 1:
        return [Shard(WEIGHTS, ordered[0])]
    stem, ending = WEIGHTS.split(".")
    return [
        Shard(f"{stem}-{number:05d}-of-{len(ordered):05d}.{ending}", group) for number, group in enumerate(ordered, 1)
    ]


def shard_bytes(shard: Shard, read: Callable[[StoredTensor], Shaped[np.ndarray, "..."]]) -> Iterator[bytes]:
    """Yield the bytes of a file, each tensor read when its turn comes and let go then."""
    yield _header(shard)
    for stored in shard.tensors:
        values = read(stored)
        wanted = NUMPY_TYPES[stored.dtype]
        assert values.shape == stored.shape, stored
        assert values.dtype == wanted, stored
        yield np.ascontiguousarray(values).astype(wanted.newbyteorder("<"), copy=False).tobytes()


def shard_index(shards: Sequence[Shard]) -> tuple[str, dict[str, Any]] | None:
    """Return the name and content of the index that says in which file each tensor is; None for a single file."""
    if len(shards) == 1:
        return None
    where = {each.name: shard.name for shard in shards for each in shard.tensors}
    total = sum(_size(each) for shard in shards for each in shard.tensors)
    return WEIGHTS + INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}


def _header(shard: Shard) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in shard.tensors:
        begin, end = end, end + _size(each)
        header[each.name] = {"dtype": each.dtype, "shape": list(each.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _size(stored: StoredTensor) -> int:
    return math.prod(stored.shape) * NUMPY_TYPES[stored.dtype].itemsize
