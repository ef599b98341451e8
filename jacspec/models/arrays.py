"""Bare arrays as tensors: one in memory, several by name, a `.npy` file or a `.safetensors` file of any name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from jacspec.errors import JacspecError, JacspecTypeError, blaming
from jacspec.models.tensor_files import NUMPY_TYPES, StoredTensor, TensorFiles, list_tensors_of

NPY, SAFETENSORS = ".npy", ".safetensors"
MEMORY = "arrays in memory"
"""What `run.json` has in the place of a file's name."""
MATRIX = "matrix"
"""What a single array is called."""
STORED = {dtype: stored for stored, dtype in NUMPY_TYPES.items()}


class HeldArray(StoredTensor):
    """A tensor that lies in memory."""

    array: Any

    def values(self) -> Shaped[np.ndarray, "..."]:
        """Return the array itself."""
        return np.asarray(self.array)


class Arrays(NamedTuple):
    """Arrays given in Python, as tensors, and a hash of their names and contents."""

    tensors: TensorFiles
    files: Mapping[str, str]


def is_array_file(path: Path) -> bool:
    """Say whether a path is a file of arrays, by its name."""
    return path.suffix in (NPY, SAFETENSORS) and path.is_file()


def open_array_file(path: Path) -> TensorFiles:
    """Open a file of arrays: the one of a `.npy` file is called as the file is.

    **Raises:** `JacspecError` where the file is damaged or holds Python objects.
    """
    if path.suffix == SAFETENSORS:
        return TensorFiles((path,), {stored.name: stored for stored in list_tensors_of(path)})
    with blaming(f"{path} cannot be read as a NumPy array"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    return TensorFiles((path,), {path.stem: _hold(path, path.stem, array)})


def hold_arrays(given: Any) -> Arrays:
    """Take an array of NumPy, JAX or PyTorch as the tensor `matrix`, or a mapping of names to arrays.

    **Raises:** `JacspecTypeError` for what is no array.
    """
    named = dict(given) if isinstance(given, Mapping) else {MATRIX: given}
    index = {str(name): _hold(Path(MEMORY), str(name), _as_array(each, str(name))) for name, each in named.items()}
    digest = hashlib.sha256()
    for name, held in sorted(index.items()):
        digest.update(f"{name} {held.dtype} {held.shape}".encode())
        digest.update(np.ascontiguousarray(held.values()).tobytes())
    return Arrays(TensorFiles((), index), {MEMORY: digest.hexdigest()})


def are_arrays(given: Any) -> bool:
    """Say whether something given as a model is an array or a mapping of names to arrays."""
    held = next(iter(given.values()), None) if isinstance(given, Mapping) else given
    return hasattr(held, "shape") and hasattr(held, "dtype")


def _as_array(given: Any, name: str) -> Shaped[np.ndarray, "..."]:
    """Make NumPy's array of one, torch's bfloat16 by way of float32, which holds its values."""
    if callable(detach := getattr(given, "detach", None)):
        given = detach().cpu()
        given = given.float() if str(given.dtype) == "torch.bfloat16" else given
    if not (hasattr(given, "shape") and hasattr(given, "dtype")):
        raise JacspecTypeError(f"{name} is a {type(given).__name__}. Give arrays of NumPy, JAX or PyTorch.")
    return np.asarray(given)


def _hold(file: Path, name: str, array: Shaped[np.ndarray, "..."]) -> HeldArray:
    if array.dtype not in STORED:
        raise JacspecError(f"{name} is an array of {array.dtype}. Accepted: {', '.join(map(str, STORED))}.")
    held = HeldArray(file, name, tuple(array.shape), STORED[array.dtype])
    held.array = array
    return held
