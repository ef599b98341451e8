"""What a stranger's file may hold, and what each reader may do with it: give the right value or one clear error."""

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jacspec.config import DataConfig, Split
from jacspec.errors import JacspecError
from jacspec.models.hf_config import read_config, read_json
from jacspec.models.tensor_files import open_tensors
from jacspec.models.tokenizer import load_tokenizer
from jacspec.text.corpus import encode, load_corpus
from jacspec.text.labelled import Columns, read_labelled

Arrays = Mapping[str, tuple[tuple[int, ...], bytes]]
"""Tensors by name: shape and bytes."""

BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U8": 8, "BOOL": 8}
MOST_HEADER = 100_000_000


def safetensors(header: object, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    """Write a safetensors file with any header, of which it says that it has `claimed` bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def tensor(shape: object, start: object, stop: object, dtype: object = "F32") -> dict[str, object]:
    """Write an entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def read_by_specification(raw: bytes) -> Arrays:
    """Read safetensors as their format is specified, in plain Python; raises `ValueError` where that forbids it."""
    if len(raw) < 8 or (length := struct.unpack("<Q", raw[:8])[0]) > min(len(raw) - 8, MOST_HEADER):
        raise ValueError("the header ends beyond the file")
    header, data = json.loads(raw[8 : 8 + length].decode()), raw[8 + length :]
    header.pop("__metadata__", None)
    found: dict[str, tuple[tuple[int, ...], bytes]] = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        shape = tuple(entry["shape"])
        size = BITS[entry["dtype"]] // 8
        for side in shape:
            size *= side
        if start != end or stop - start != size or stop > len(data) or any(side < 0 for side in shape):
            raise ValueError(f"{name} overlaps, leaves a hole, or has not the bytes of its shape")
        found[name], end = (shape, data[start:stop]), stop
    if end != len(data):
        raise ValueError("bytes are left over")
    return found


def read_unchecked(raw: bytes) -> Arrays:
    """Read safetensors as one would who trusts the header: what the tests must catch."""
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    header.pop("__metadata__", None)
    return {name: (tuple(each["shape"]), data[slice(*each["data_offsets"])]) for name, each in header.items()}


def read_ours(folder: Path) -> Callable[[bytes], Arrays]:
    """Make a reader that is jacspec's own, of files in `folder`."""

    def read(raw: bytes) -> Arrays:
        (folder / "model.safetensors").write_bytes(raw)
        files = open_tensors(folder)
        with jax.enable_x64(True):  # else JAX narrows what has 64 bits
            arrays = {name: np.asarray(files.read(name, finite=False)) for name in files.index}
        return {name: (array.shape, array.tobytes()) for name, array in arrays.items()}

    return read


def is_right(read: Callable[[bytes], Arrays], raw: bytes) -> bool:
    """Say whether a reader refuses a file, or reads of it what the specification says is there."""
    try:
        found = read(raw)
    except JacspecError:
        return True
    except Exception:  # what a user would see as a traceback
        return False
    try:
        return found == read_by_specification(raw)
    except Exception:  # it read what is not to be read
        return False


def read_model_config(raw: bytes, folder: Path) -> None:
    """Read a `config.json` that holds these bytes."""
    (folder / "config.json").write_bytes(raw)
    read_config(read_json(folder / "config.json"), "config.json")


def read_tokenizer(raw: bytes, folder: Path) -> None:
    """Load a tokenizer whose `tokenizer.json` holds these bytes, and use it."""
    (folder / "tokenizer.json").write_bytes(raw)
    ids = encode(load_tokenizer(folder), ["Speak, speak.", "", "é " * 30], max_tokens=16)
    assert max(map(len, ids)) <= 16


def read_index(raw: bytes, folder: Path) -> None:
    """Open a sharded checkpoint whose index holds these bytes."""
    (folder / "model.safetensors.index.json").write_bytes(raw)
    files = open_tensors(folder)
    assert all(file.resolve().parent == folder.resolve() for file in files.files)


def read_corpus(raw: bytes, folder: Path) -> None:
    """Read a text, in sentences and in lines."""
    (folder / "own.txt").write_bytes(raw)
    for split in Split:
        texts = load_corpus(DataConfig("text", path=str(folder / "own.txt"), split=split)).texts
        assert all(text.strip() for text in texts)


def read_examples(raw: bytes, folder: Path) -> None:
    """Read labelled text, as both kinds of file."""
    for ending in ("jsonl", "csv"):
        (folder / f"own.{ending}").write_bytes(raw)
        try:
            columns = Columns("text", None, "label")
            found = read_labelled(str(folder / f"own.{ending}"), columns, held_out_path=None, holdout=0.5, seed=0)
        except JacspecError:
            continue
        assert all(isinstance(example.text, str) for example in found.train + found.held_out)


READERS: Mapping[str, Callable[[bytes, Path], Any]] = {
    "config": read_model_config,
    "tokenizer": read_tokenizer,
    "index": read_index,
    "corpus": read_corpus,
    "labelled": read_examples,
}
"""By name: each may raise `JacspecError` and nothing else."""


def refuses_or_reads(reader: str, raw: bytes, folder: Path) -> bool:
    """Hold a reader to that; returns whether it read."""
    try:
        READERS[reader](raw, folder)
    except JacspecError:
        return False
    return True
