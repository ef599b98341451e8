"""GGUF files, llama.cpp's: config and tokenizer in their metadata, tensors often of few bits, read as float32.

The package `gguf` (the extra `jacspec[gguf]`) reads and dequantises them and has the table of names; transformers makes
an HF config and a tokenizer of the metadata. What llama.cpp's converter changed in the values is undone here.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import math
import mmap
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jacspec.errors import JacspecError, blaming, shortened, suggest
from jacspec.models.architectures import Architecture
from jacspec.models.block import ModelSpec
from jacspec.models.deferred_torch import deferring_torch
from jacspec.models.tensor_files import StoredTensor, TensorFiles, has_weights

GGUF = ".gguf"
LABELS = ("_model_name_or_path", "_name_or_path", "transformers_version", "unk_token_id")
"""Keys that transformers puts into a config made from metadata, and that say nothing of the forward pass."""

SCALED = ("rope_freqs", "rope_factors", "rope.scaling.")
"""Names of tensors and keys that transformers leaves out of the config, and that change the forward pass."""

VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, LIST = 8, 9
"""How GGUF numbers the types of its values, and the bytes of those that have a size."""

MOST_VALUES, MOST_TENSORS = 2**22, 2**17
"""Values in the metadata, where tokens, scores, types and merges of a published file are a million, and tensors."""

Weights = Float[np.ndarray, "..."]
Undo = Callable[[str, Weights, Callable[[str], int]], Weights]


def _as_it_is(name: str, weights: Weights, number: Callable[[str], int]) -> Weights:
    return weights


def _join_halves(name: str, weights: Weights, number: Callable[[str], int]) -> Weights:
    """Put rows of queries and keys back where rotary embeddings turn half with half, not neighbours."""
    heads = {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}
    key = heads.get(name.split(".")[-2] if "." in name else "")
    if key is None:
        return weights
    pairs = weights.reshape(number(key), -1, 2, *weights.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weights.shape)


def _transpose(name: str, weights: Weights, number: Callable[[str], int]) -> Weights:
    turned = name.startswith("blk.") and weights.ndim == 2
    return weights.T if turned else weights


def _subtract_one(name: str, weights: Weights, number: Callable[[str], int]) -> Weights:
    return weights - 1 if name.endswith("norm.weight") else weights


READ: Mapping[str, Undo] = {
    "gemma2": _subtract_one,
    "gemma3": _subtract_one,
    "gpt2": _transpose,
    "llama": _join_halves,
    "phi3": _as_it_is,
    "qwen2": _as_it_is,
    "qwen3": _as_it_is,
}
"""The architectures, as GGUF calls them, that were compared with transformers' reading; what is undone in each."""


def _undo(change: Undo, name: str, number: Callable[[str], int], weights: Weights) -> Weights:
    return change(name, weights, number)


class GGUFTensor(StoredTensor):
    """A tensor of a GGUF file: read, dequantised to float32 and put as HF has it when asked for."""

    own: Any
    undo: Callable[[Weights], Weights]

    def values(self) -> Weights:
        """Dequantise."""
        with blaming(f"{self.file}: the tensor {self.name} cannot be read"):
            return self.undo(_package().quants.dequantize(self.own.data, self.own.tensor_type))


def is_gguf(path: Path) -> bool:
    """Say whether a path is a GGUF file, by its name."""
    return path.suffix == GGUF and path.is_file()


def find_gguf(folder: Path) -> Path | None:
    """Find the only GGUF file of a folder without other weights; raises `JacspecError` where there are several."""
    found = sorted(folder.glob(f"*{GGUF}"))
    if not found or has_weights(folder):
        return None
    if len(found) > 1:
        raise JacspecError(f"{folder} holds {len(found)} GGUF files. Name one: model.path={found[0]}.")
    return found[0]


def open_gguf(file: Path) -> TensorFiles:
    """Index the tensors of a GGUF file by its own names.

    **Raises:** `JacspecError` where it is damaged, of an architecture that was not tried, or `gguf` is not installed.
    """
    reader = _reader(file)
    kind = _architecture(reader, file)
    names = (*(own.name for own in reader.tensors), *(key.removeprefix(f"{kind}.") for key in reader.fields))
    if scaled := sorted(name for name in names if name.startswith(SCALED)):
        raise JacspecError(
            f"{file} scales rotary embeddings ({shortened(scaled)}), which HF's config of it does not say."
        )

    def number(key: str) -> int:
        with blaming(f"{file} has no {kind}.{key}"):
            return int(reader.fields[f"{kind}.{key}"].contents())

    index: dict[str, StoredTensor] = {}
    for own in reader.tensors:
        undo = functools.partial(_undo, READ[kind], own.name, number)
        shape = tuple(int(size) for size in reversed(own.shape))
        turned = READ[kind] is _transpose and own.name.startswith("blk.") and len(shape) == 2
        index[own.name] = stored = GGUFTensor(file, own.name, shape[::-1] if turned else shape, "F32")
        stored.own, stored.undo = own, undo
    types = Counter(own.tensor_type.name for own in reader.tensors)
    said = ", ".join(f"{count} {name}" for name, count in types.most_common())
    return TensorFiles((file,), index, (f"tensors by the type they are stored in, read as float32: {said}",), types)


def read_gguf_config(file: Path) -> dict[str, Any]:
    """Make the HF config of a GGUF file's metadata, as transformers does."""
    reader = _reader(file)
    kind = _architecture(reader, file)
    with _parsed_once(file), deferring_torch(), blaming(f"{file}: transformers makes no config of its metadata"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True).to_dict()
    if kind == "gpt2" and (length := reader.fields.get("gpt2.context_length")):
        config["n_positions"] = int(length.contents())  # which transformers takes for something else
    return {key: _decimal(value) for key, value in config.items() if key not in LABELS}


def _decimal(value: Any) -> Any:
    """Write a number that was rounded to float32, as 1e-5 was, as the decimal that it was rounded from."""
    if isinstance(value, dict):
        return {key: _decimal(each) for key, each in value.items()}
    exact = isinstance(value, float) and math.isfinite(value) and float(np.float32(value)) == value
    return float(str(np.float32(value))) if exact else value


def load_gguf_tokenizer(file: Path) -> Any:
    """Make the tokenizer of a GGUF file's metadata, as transformers does."""
    with _parsed_once(file), deferring_torch(), blaming(f"{file}: transformers makes no tokenizer of its metadata"):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)


def name_gguf(architecture: Architecture, spec: ModelSpec, stored: TensorFiles, known: Collection[str]) -> TensorFiles:
    """Index a GGUF file's tensors by HF's names, those in the tables of the family, by the package's own table."""
    gguf = _package()
    kind = _architecture(_reader(stored.files[0]), stored.files[0])
    model = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    table = gguf.get_tensor_name_map(model, len(spec.blocks))
    index = dict(stored.index)
    for name in known:
        for own in _own_names(table, (*(prefix + name for prefix in architecture.prefixes), name)):
            if own in index:
                index[name] = index.pop(own)
                break
    return dataclasses.replace(stored, index=index)


def _own_names(table: Any, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        module, _, kind = name.rpartition(".")
        if (found := table.get_name(module)) is not None:
            yield f"{found}.{kind}"


def _architecture(reader: Any, file: Path) -> str:
    field = reader.fields.get("general.architecture")
    kind = "" if field is None else str(field.contents())
    if kind not in READ:
        raise JacspecError(f"{file} is of the GGUF architecture {kind!r}, which is not read. " + suggest(kind, READ))
    return kind


@functools.lru_cache(maxsize=2)
def _reader(file: Path) -> Any:
    gguf = _package()
    with blaming(f"{file} is damaged or not a GGUF file; download it again"):
        _check_lists(file)
        return gguf.GGUFReader(file)


@contextlib.contextmanager
def _parsed_once(file: Path) -> Iterator[None]:
    """Give transformers the metadata that are parsed already, where it would parse them once more each time."""
    gguf, reader = _package(), _reader(file)
    own, gguf.GGUFReader = gguf.GGUFReader, lambda *_: reader
    try:
        yield
    finally:
        gguf.GGUFReader = own


def _check_lists(file: Path) -> None:
    """Refuse more tensors, or values in the metadata, than a model has: the package makes an array of NumPy's of each.

    It stops where the package would, at a kind that nobody knows or at the end of the file.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        order = "<" if content[4:6] != b"\0\0" else ">"
        values, at = 0, 24

        def number(form: str) -> int:
            nonlocal at
            (found,) = struct.unpack_from(order + form, content, at)
            at += struct.calcsize(form)
            return int(found)

        def skip(kind: int, count: int) -> None:
            nonlocal at, values
            if (values := values + count) > MOST_VALUES:
                raise JacspecError(f"{file} has more than {MOST_VALUES} values in its metadata.")
            if kind in VALUE_BYTES:
                at += VALUE_BYTES[kind] * count
                return
            for _ in range(count):
                if kind == STRING:
                    length = number("Q")
                    at += length
                elif kind == LIST:
                    skip(number("I"), number("Q"))
                else:
                    raise ValueError(f"there is no type {kind} of values")

        tensors, entries = struct.unpack_from(order + "QQ", content, 8)
        if tensors > MOST_TENSORS:
            raise JacspecError(f"{file} says that it has {tensors} tensors. Accepted: {MOST_TENSORS} at most.")
        for _ in range(entries):
            skip(STRING, 1)
            skip(number("I"), 1)


def _package() -> Any:
    try:
        import gguf
    except ImportError:
        gguf = None
    if gguf is None or importlib.util.find_spec("torch") is None:
        raise JacspecError("GGUF files are read with the packages gguf and torch: pip install 'jacspec[gguf]'.")
    return gguf
