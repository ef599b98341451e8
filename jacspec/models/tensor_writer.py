"""Write a checkpoint's safetensors with one tensor in memory, in HF's layout: one file, or shards and their index.

The library's own writer takes all tensors of a file at once. The format (https://huggingface.co/docs/safetensors):
eight bytes with the length of a JSON header, the header, then the tensors' bytes, larger types first so that each
begins at a multiple of its size.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from jacspec.models.tensor_files import INDEX, NUMPY_TYPES, WEIGHTS, StoredTensor, TensorFiles

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
