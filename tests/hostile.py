"""What a stranger's file may hold, and what each reader may do with it: give the right value or one clear error."""

import json
import random
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from jacspec.config import DataConfig, Split
from jacspec.errors import JacspecError
from jacspec.models import gguf_files
from jacspec.models.adapters import apply_adapter, base_of, open_adapter
from jacspec.models.checkpoint import open_checkpoint
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


SMALL_BASE = save({"q.weight": np.ones((3, 2), np.float32)})
ADAPTER_CONFIG = {"peft_type": "LORA", "lora_alpha": 1, "base_model_name_or_path": "base"}
ADAPTER_WEIGHTS = save(
    {
        f"base_model.model.q.lora_{part}.weight": np.ones(shape, np.float32)
        for part, shape in (("A", (1, 2)), ("B", (3, 1)))
    }
)


def read_adapter_config(raw: bytes, folder: Path) -> None:
    """Put an adapter whose config holds these bytes on a base."""
    _read_adapter(raw, ADAPTER_WEIGHTS, folder)


def read_adapter_weights(raw: bytes, folder: Path) -> None:
    """Put an adapter whose weights hold these bytes on a base."""
    _read_adapter(json.dumps(ADAPTER_CONFIG).encode(), raw, folder)


def _read_adapter(config: bytes, weights: bytes, folder: Path) -> None:
    for name, content in (("base", SMALL_BASE), ("adapter", weights)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / f"{'adapter_' * (name == 'adapter')}model.safetensors").write_bytes(content)
    (folder / "adapter" / "adapter_config.json").write_bytes(config)
    assert base_of(folder / "adapter")[0]
    files = apply_adapter(open_tensors(folder / "base"), open_adapter(folder / "adapter"))
    assert files.index["q.weight"].shape == files.read("q.weight").shape == (3, 2)


def read_gguf(raw: bytes, folder: Path) -> None:
    """Open a GGUF file that holds these bytes, as a model with its tokenizer, and read it to its end."""
    file = folder / "own.gguf"
    gguf_files._reader.cache_clear()
    file.unlink(missing_ok=True)  # it may be mapped into memory
    file.write_bytes(raw)
    checkpoint = open_checkpoint(file)
    assert encode(checkpoint.tokenizer, ["a cab"], max_tokens=9)
    assert checkpoint.tensors is not None
    for name, stored in checkpoint.tensors.index.items():
        assert checkpoint.tensors.read(name).shape == stored.shape


READERS: Mapping[str, Callable[[bytes, Path], Any]] = {
    "config": read_model_config,
    "tokenizer": read_tokenizer,
    "index": read_index,
    "corpus": read_corpus,
    "labelled": read_examples,
    "adapter_config": read_adapter_config,
    "adapter": read_adapter_weights,
    "gguf": read_gguf,
}
"""By name: each may raise `JacspecError` and nothing else."""


NUMBERS = [struct.pack("<Q", number) for number in (0, 1, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)]
VALUES = ["null", "-1", "1e308", "NaN", "[]", "{}", '""', "true", "9" * 400, "[[[]]]", '"../x"', '"(a+)+$"']


def mutate(raw: bytes, draw: random.Random) -> bytes:
    """Change a good file in a few places: bits, numbers of eight bytes, values of JSON, the end, pieces twice."""
    for _ in range(draw.choice([1, 1, 2, 6])):
        at, kind = draw.randrange(max(len(raw), 1)), draw.choice(["bit", "number", "value", "end", "twice"])
        if kind == "bit" and raw:
            raw = raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
        elif kind == "number":
            raw = raw[:at] + draw.choice(NUMBERS)[: draw.choice([4, 8])] + raw[at + 8 :]
        elif kind == "value":
            values = [*re.finditer(rb'(?<=[:\[,])\s*("[^"]*"|[-\w.]+)(?=\s*[\],}])', raw)] if raw[:1] == b"{" else []
            if values:
                start, stop = draw.choice(values).span()
                raw = raw[:start] + draw.choice(VALUES).encode() + raw[stop:]
        elif kind == "end":
            raw = raw[: draw.choice([at, len(raw) - 1, max(len(raw), 1)])]
        else:
            raw = raw[:at] + raw[at : at + draw.choice([1, 8, 40])] + raw[at:]
    return raw


def refuses_or_reads(reader: str, raw: bytes, folder: Path) -> bool:
    """Hold a reader to that; returns whether it read."""
    try:
        READERS[reader](raw, folder)
    except JacspecError:
        return False
    return True
