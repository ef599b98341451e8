"""A Hugging Face PyTorch model in memory as a checkpoint: its tensors are read where they lie, nothing is written.

torch is never imported here: whoever gives a PyTorch model has imported it.
"""

import dataclasses
import functools
import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jacspec.errors import JacspecError, JacspecTypeError
from jacspec.models.checkpoint import Checkpoint, check_checkpoint
from jacspec.models.tensor_files import NUMPY_TYPES, StoredTensor, TensorFiles

MEMORY = "PyTorch model in memory"
"""What `run.json` has in the place of a file's name."""


class HeldTensor(StoredTensor):
    """A tensor that lies in memory; `version` counts its changes in place."""

    tensor: Any
    version: int | None

    @classmethod
    def hold(cls, name: str, tensor: Any) -> "HeldTensor":
        """Describe a tensor as one of a file is described, and keep hold of it."""
        types = {f"torch.{dtype}": stored for stored, dtype in NUMPY_TYPES.items()}
        held = cls(Path(MEMORY), name, tuple(tensor.shape), types.get(str(tensor.dtype), str(tensor.dtype)))
        held.tensor, held.version = tensor, _version(tensor)
        return held

    def values(self) -> Shaped[np.ndarray, "..."]:
        """Return the values as they are in memory; raises `JacspecError` where they changed since they were opened."""
        if _version(self.tensor) != self.version:
            raise JacspecError(f"The PyTorch model was changed after it was opened ({self.name}). Open it again.")
        tensor = self.tensor.detach().cpu()
        if self.dtype == "BF16":  # NumPy's own types lack it
            return tensor.contiguous().view(sys.modules["torch"].int16).numpy().view(NUMPY_TYPES["BF16"])
        return tensor.numpy()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TorchCheckpoint(Checkpoint):
    """A checkpoint whose tokenizer was handed over."""

    given: Any = None

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer that was given; raises `JacspecError` where none was."""
        if self.given is None:
            raise JacspecError(
                f"{self.name} was given without a tokenizer. Give tokenizer=, or texts as lists of token ids."
            )
        return self.given

    @functools.cached_property
    def encoder(self) -> Any:
        """The tokenizer that was given."""
        return self.tokenizer


def open_torch_model(model: Any, *, tokenizer: Any = None, dtype: str = "float32") -> Checkpoint:
    """Open a Hugging Face PyTorch model that lies in memory, with the checks that a folder of its files would meet.

    Tensors are read when they are needed and copied to no file. A model that is changed in between is refused.

    **Raises:** `JacspecTypeError` for what is no such model, `JacspecError` for a family that is not supported, or
    tensors that are quantised or on no device.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        raise JacspecTypeError(
            f"model is a {type(model).__name__}. Give a name, a folder, what load_model returned, or a PyTorch model."
        )
    if not callable(getattr(getattr(model, "config", None), "to_json_string", None)):
        raise JacspecTypeError(f"{type(model).__name__} has no Hugging Face config. Give a model of transformers.")
    config = json.loads(model.config.to_json_string())
    index = _index(model)
    called = Path(str(getattr(model.config, "name_or_path", "") or type(model).__name__)).name
    read = check_checkpoint(
        config, TensorFiles((), index), origin=f"the config of {called}", place=f"the {MEMORY}", dtype=dtype
    )
    return TorchCheckpoint(
        name=f"{called} (in memory)",
        revision=None,
        files={MEMORY: _hash(config, index)},
        tokenizer_folder=Path(),
        given=tokenizer,
        **read,
    )


def _index(model: Any) -> dict[str, Any]:
    """List the tensors that `save_pretrained` would write: without those that are tied to another one."""
    state: Mapping[str, Any] = model.state_dict()
    # transformers 5 names some tensors otherwise in memory than in files; this is what `save_pretrained` calls.
    if rename := getattr(sys.modules.get("transformers.core_model_loading"), "revert_weight_conversion", None):
        state = rename(model, dict(state))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    if away := [name for name, tensor in state.items() if tensor.is_meta]:
        raise JacspecError(f"{away[0]} has no values: it is on PyTorch's device meta. Load the model first.")
    return {
        name: HeldTensor.hold(name, tensor)
        for name, tensor in state.items()
        if not (name in tied and tied[name] in state)
    }


def _version(tensor: Any) -> int | None:
    return None if tensor.is_inference() else int(tensor._version)


def _hash(config: Mapping[str, Any], index: Mapping[str, HeldTensor]) -> str:
    """Hash a config and tensors by name, in the order of their names, one copied from its device at a time."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(index):
        values = index[name].values()
        digest.update(f"{name} {index[name].dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
