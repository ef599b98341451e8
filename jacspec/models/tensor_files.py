"""Tensors by name from the weight files of a folder: safetensors, or `pytorch_model.bin` where torch is installed.

Nothing is read before it is asked for, and nothing but a tensor is ever unpickled.
"""

import dataclasses
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open

from jacspec.errors import JacspecError, blaming, shortened
from jacspec.models.foreign import ADAPTER, describe_foreign
from jacspec.models.hf_config import read_json

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
COMPARED_AT_ONCE = 2**24
"""Bytes."""

FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that hold weights, as safetensors names them."""

NUMPY_TYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
"""NumPy's types by safetensors' names; others, as those of quantised weights, are not read as numbers here."""


class StoredTensor(NamedTuple):
    """Where a tensor lies, under which name, its shape and type; nothing of its content."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class TensorFiles:
    """The weight files of a checkpoint, an index of their tensors by name, and what the user should know of them.

    `types` counts the tensors of each type where a file has its own, as of few bits.
    """

    files: tuple[Path, ...]
    index: Mapping[str, StoredTensor]
    notes: tuple[str, ...] = ()
    types: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def read(self, name: str, *, finite: bool = True) -> Shaped[np.ndarray, "..."]:
        """Read one tensor, as `read_tensor`."""
        return read_tensor(self.index[name], finite=finite)


def read_tensor(stored: StoredTensor, *, finite: bool = True) -> Shaped[np.ndarray, "..."]:
    """Read one tensor; raises `JacspecError` where it is damaged or, with `finite`, holds values that are not."""
    if callable(made := getattr(stored, "values", None)):  # a tensor that lies in memory, or is made when it is read
        values = made()
    elif stored.file.suffix == ".bin":
        tensor = _unpickle(stored.file)[stored.name]
        # NumPy has no bfloat16 that torch could give.
        values = (tensor.float() if stored.dtype == "BF16" else tensor).numpy()
    else:
        broken = f"{stored.file}: the tensor {stored.name} cannot be read"
        with blaming(broken), safe_open(stored.file, framework="numpy") as reader:
            values = reader.get_tensor(stored.name)
    if finite and not np.isfinite(values).all():
        raise JacspecError(f"{stored.file}: the tensor {stored.name} holds values that are not finite.")
    return values


def open_tensors(folder: Path, *, any_name: bool = False) -> TensorFiles:
    """Find the weight files of a folder and index their tensors.

    Safetensors are taken where there are any. `pytorch_model.bin` needs torch, the extra `jacspec[torch]`: it
    is opened with `weights_only=True`, which makes tensors and nothing else, and mapped into memory. With
    `any_name`, a folder without either may hold safetensors of other names.

    **Raises:** `JacspecError` where there are no weights, a file is damaged, or torch is needed and not there.
    """
    files, notes = _find_files(folder, any_name=any_name)
    index: dict[str, StoredTensor] = {}
    for file in files:
        for stored in list_tensors_of(file):
            if stored.name in index:
                raise JacspecError(f"{file}: the tensor {stored.name} is there twice.")
            index[stored.name] = stored
    return TensorFiles(files, index, tuple(notes))


def list_tensors_of(file: Path) -> list[StoredTensor]:
    """List the tensors of one weight file; raises `JacspecError` where it is damaged."""
    return _unpickled_tensors(file) if file.suffix == ".bin" else _safe_tensors(file)


def has_weights(folder: Path) -> bool:
    """Say whether a folder holds weight files by HF's names."""
    return any((folder / (single + end)).is_file() for single in (WEIGHTS, PICKLED) for end in ("", INDEX))


def _find_files(folder: Path, *, any_name: bool) -> tuple[tuple[Path, ...], list[str]]:
    """Find what HF would read, in its order, and what the user should know of what it would not."""
    if not has_weights(folder):
        if any_name and (others := tuple(sorted(folder.glob("*.safetensors")))):
            return others, []
        how = "is not a file" if (folder / WEIGHTS).exists() else "is missing"
        raise JacspecError(f"No weights: {folder / WEIGHTS} {how}.{describe_foreign(folder)}")
    notes = [f"the adapter of {ADAPTER} is not applied: give it a folder of its own"] * (folder / ADAPTER).is_file()
    for single in (WEIGHTS, PICKLED):
        file, listing = folder / single, folder / (single + INDEX)
        if file.is_file():
            unread = _describe_unread(file, listing)
            return (file,), [*notes, *([unread] if unread else [])]
        if listing.is_file():
            return _listed_files(listing), notes
    raise AssertionError(folder)


def _listed_files(listing: Path) -> tuple[Path, ...]:
    """List the files that an index names; raises `JacspecError` where one is missing."""
    folder, suffix = listing.parent, Path(listing.name.removesuffix(INDEX)).suffix
    weight_map = read_json(listing).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise JacspecError(f"{listing} has no weight_map from tensors to files.")
    names = {*weight_map.values()}
    if any(Path(name).name != name or Path(name).suffix != suffix for name in names):
        raise JacspecError(f"{listing} names other files than *{suffix} in its own folder.")
    files = tuple(folder / name for name in sorted(names))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise JacspecError(f"Weights are missing: {listing} names {shortened(missing) or 'none'}.")
    return files


def _describe_unread(file: Path, listing: Path) -> str | None:
    """Say what lies beside the one file that HF reads where an index names others, and in what it differs.

    Both are read to their end, as the file is for its hash anyway.
    """
    if not listing.is_file():
        return None
    begun = f"read {file.name} alone, as Hugging Face does, not what {listing.name} names"
    try:
        shards = _listed_files(listing)
        if shards == (file,):
            return None
        if file.suffix == ".bin":
            return begun
        differing = _differing(_safe_tensors(file), [each for shard in shards for each in _safe_tensors(shard)])
    except JacspecError as error:
        return f"{begun}: {error}"
    differ = f"differ: {shortened(differing)}" if differing else "differ"
    return f"{begun}; of the tensors there {len(differing) or 'none'} {differ}"


def _differing(here: Sequence[StoredTensor], there: Sequence[StoredTensor]) -> list[str]:
    """Name the tensors that are not in both, or with another shape, type or content."""
    ours, theirs = ({stored.name: stored for stored in each} for each in (here, there))
    differ = ours.keys() ^ theirs.keys()
    return sorted(differ | {name for name in ours.keys() & theirs.keys() if not _equal(ours[name], theirs[name])})


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    left, right = (_raw_bytes(each) for each in (one, other))
    starts = range(0, left.size, COMPARED_AT_ONCE)
    return all(
        np.array_equal(left[start : start + COMPARED_AT_ONCE], right[start : start + COMPARED_AT_ONCE])
        for start in starts
    )


def _raw_bytes(stored: StoredTensor) -> np.ndarray:
    """Map the bytes of a tensor of a safetensors file whose header has been checked, of whatever type."""
    with stored.file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        start, end = json.loads(stream.read(size))[stored.name]["data_offsets"]
    if start == end:
        return np.zeros(0, np.uint8)
    return np.memmap(stored.file, np.uint8, mode="r", offset=8 + size + start, shape=(end - start,))


def _safe_tensors(file: Path) -> list[StoredTensor]:
    broken = f"{file} is damaged or not a safetensors file; download it again"
    with blaming(broken), safe_open(file, framework="flax") as reader:
        slices = {name: reader.get_slice(name) for name in reader.keys()}  # noqa: SIM118 (not a mapping)
        return [StoredTensor(file, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()]


def _unpickled_tensors(file: Path) -> list[StoredTensor]:
    names = {f"torch.{dtype}": name for name, dtype in NUMPY_TYPES.items()}
    return [
        StoredTensor(file, name, tuple(tensor.shape), names.get(str(tensor.dtype), str(tensor.dtype)))
        for name, tensor in _unpickle(file).items()
    ]


def _unpickle(file: Path) -> dict[str, Any]:
    """Map the tensors of a file that torch pickled."""
    torch = require_torch(f"{file} is a pickle")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what they hold is judged below
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise JacspecError(f"{file} is damaged or holds more than tensors, and was not opened: {reason}") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise JacspecError(f"{file} does not hold tensors by name.")
    return tensors


def require_torch(why: str) -> Any:
    """Import torch, which alone opens pickled weights safely; raises `JacspecError` naming the extra."""
    try:
        import torch
    except ImportError:
        raise JacspecError(
            f"{why}, and only torch can open it safely: pip install 'jacspec[torch]'. Or convert it to {WEIGHTS}."
        ) from None
    return torch


def _is_zip(file: Path) -> bool:
    """Say whether torch wrote its newer format, the only one that can be mapped into memory."""
    with file.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
