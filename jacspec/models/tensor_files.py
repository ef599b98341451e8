"""Tensors by name from the weight files of a folder: safetensors, or `pytorch_model.bin` where torch is installed.

Nothing is read before it is asked for, and nothing but a tensor is ever unpickled.
"""

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open

from jacspec.errors import JacspecError, blaming, shortened
from jacspec.models.hf_config import read_json

WEIGHTS = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"
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
    """The weight files of a checkpoint and an index of their tensors by name."""

    files: tuple[Path, ...]
    index: Mapping[str, StoredTensor]

    def read(self, name: str, *, finite: bool = True) -> Shaped[np.ndarray, "..."]:
        """Read one tensor; raises `JacspecError` where it is damaged or, with `finite`, holds values that are not."""
        stored = self.index[name]
        if callable(held := getattr(stored, "values", None)):  # a tensor that lies in memory
            values = held()
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
    files = _find_files(folder, any_name=any_name)
    index: dict[str, StoredTensor] = {}
    for file in files:
        for stored in _unpickled_tensors(file) if file.suffix == ".bin" else _safe_tensors(file):
            if stored.name in index:
                raise JacspecError(f"{file}: the tensor {stored.name} is there twice.")
            index[stored.name] = stored
    return TensorFiles(files, index)


def _find_files(folder: Path, *, any_name: bool) -> tuple[Path, ...]:
    for single in (WEIGHTS, PICKLED):
        if (folder / single).is_file() or (folder / (single + INDEX)).is_file():
            return _files(folder, single)
    others = tuple(sorted(folder.glob("*.safetensors"))) if any_name else ()
    if not others:
        raise JacspecError(f"No weights: {folder / WEIGHTS} is missing.")
    return others


def _files(folder: Path, single: str) -> tuple[Path, ...]:
    listing = folder / (single + INDEX)
    if not listing.is_file():
        return (folder / single,)
    weight_map = read_json(listing).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise JacspecError(f"{listing} has no weight_map from tensors to files.")
    names = {*weight_map.values()}
    if any(Path(name).name != name or Path(name).suffix != Path(single).suffix for name in names):
        raise JacspecError(f"{listing} names other files than *{Path(single).suffix} in its own folder.")
    files = tuple(folder / name for name in sorted(names))
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise JacspecError(f"Weights are missing: {listing} names {shortened(missing) or 'none'}.")
    return files


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
