r"""PEFT's LoRA adapters: a change to a model, put onto the base's tensors one by one as they are read.

$W' = W + s B A$ with $s = \alpha / r$ (Hu et al. 2021), $\alpha / \sqrt{r}$ in rsLoRA (Kalajdzievski 2023). DoRA (Liu
et al. 2024) then gives each row of $W'$, an output, the norm $m$ that it learnt. Nothing is written, and torch is
needed for adapters alone that are pickled.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.errors import JacspecError, printable, shortened
from jacspec.models.foreign import ADAPTER
from jacspec.models.hf_config import read_json
from jacspec.models.tensor_files import (
    FLOATS,
    StoredTensor,
    TensorFiles,
    has_weights,
    list_tensors_of,
    read_tensor,
)

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
HONOURED = frozenset(
    {
        *("alpha_pattern", "base_model_name_or_path", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "peft_type"),
        *("revision", "use_dora", "use_rslora"),
    }
)
IMPLIED = frozenset(
    {
        *("bias", "exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save", "r", "rank_pattern"),
        "target_modules",
    }
)
"""Keys that the tensors of the file answer: which modules, of which rank, what was saved beside."""

IGNORED = frozenset(
    {
        *("auto_mapping", "corda_config", "eva_config", "inference_mode", "layer_replication_map", "loftq_config"),
        *("lora_dropout", "lora_ga_config", "megatron_core", "peft_version", "qalora_group_size", "runtime_config"),
        "task_type",
    }
)
"""Keys of training, of how it began, and labels: the numbers of the file stay what they are."""

PLAIN_BEGINNINGS = ("gaussian", "eva", "orthogonal", "mica")
"""Words of `init_lora_weights` for beginnings that leave the base as it is; others take something out of it."""

PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(\.default)?(\.weight)?")
MOST_QUANTIFIERS = 3


class Change(NamedTuple):
    """What an adapter does to one weight: the stored A (r, in) and B (out, r), DoRA's magnitudes (out), and s."""

    down: StoredTensor
    up: StoredTensor
    magnitude: StoredTensor | None
    scale: float
    embedding: bool


class Adapter(NamedTuple):
    """An adapter's files, what it changes by the module's name, and what it replaces by the tensor's."""

    folder: Path
    files: tuple[Path, ...]
    changes: Mapping[str, Change]
    replaced: Mapping[str, StoredTensor]
    transposed: bool


class AdaptedTensor(StoredTensor):
    """A tensor of the base with its change; `transposed` where it is stored (in, out)."""

    base: StoredTensor
    change: Change
    transposed: bool

    @classmethod
    def make(cls, base: StoredTensor, change: Change, transposed: bool) -> "AdaptedTensor":
        """Describe the sum as the base's tensor is described."""
        made = cls(*base)
        made.base, made.change, made.transposed = base, change, transposed
        return made

    def values(self) -> Float[np.ndarray, "rows cols"]:
        """Read the base's tensor and put the change onto it, in float64: the difference is the change again."""
        weight = _read(self.base, finite=False) + self._product()
        if self.change.magnitude is not None:
            norms = np.linalg.norm(weight, axis=0 if self.transposed else 1, keepdims=True)
            weight = weight * (_read(self.change.magnitude).reshape(norms.shape) / norms)
        return weight

    def update(self) -> Float[np.ndarray, "rows cols"]:
        """Compute what is added to the base's tensor."""
        if self.change.magnitude is None:
            return self._product()
        return self.values() - _read(self.base, finite=False)

    def inputs(self, *, as_stored: bool = False) -> Float[np.ndarray, "in r"] | None:
        """Return an orthonormal basis of what the change reads; None where it is more than s B A.

        **Arguments:** `as_stored`, of the tensor as it is stored, not as a matrix (out, in): what stands on its right.
        Tables of tokens are as they are stored in any case.
        """
        if self.change.magnitude is not None:
            return None
        turned = self.transposed and (as_stored or self.change.embedding)
        return np.linalg.qr(_read(self.change.up) if turned else _read(self.change.down).T)[0]

    def _product(self) -> Float[np.ndarray, "rows cols"]:
        product = self.change.scale * (_read(self.change.up) @ _read(self.change.down))
        return product.T if self.transposed else product


class Update(StoredTensor):
    """What an adapter adds to a tensor of its base, as a tensor of its own."""

    adapted: AdaptedTensor

    def values(self) -> Float[np.ndarray, "rows cols"]:
        """Compute it, in float64."""
        return self.adapted.update()


def has_adapter(tensors: TensorFiles) -> bool:
    """Say whether an adapter changes any of these tensors."""
    return any(isinstance(stored, AdaptedTensor) for stored in tensors.index.values())


def take_apart(tensors: TensorFiles) -> tuple[Mapping[str, AdaptedTensor], TensorFiles, TensorFiles]:
    """List the tensors that an adapter changed; index all with these as the base has them, and as what was added."""
    changed = {name: stored for name, stored in tensors.index.items() if isinstance(stored, AdaptedTensor)}
    updates: dict[str, StoredTensor] = {}
    for name, stored in changed.items():
        updates[name] = own = Update(*stored)
        own.adapted = stored
    before = {name: stored.base for name, stored in changed.items()}
    base, update = (dataclasses.replace(tensors, index={**tensors.index, **view}) for view in (before, updates))
    return changed, base, update


def _read(stored: StoredTensor, *, finite: bool = True) -> Float[np.ndarray, "..."]:
    return read_tensor(stored, finite=finite).astype(np.float64)


def is_adapter(folder: Path) -> bool:
    """Say whether a folder is one of PEFT's and no model."""
    return (folder / ADAPTER).is_file() and not has_weights(folder)


def base_of(folder: Path) -> tuple[str, str | None]:
    """Read an adapter's own word on its base, a name or a folder, and on that base's revision.

    **Raises:** `JacspecError` where it says none.
    """
    config = read_json(folder / ADAPTER)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise JacspecError(f"{folder} is an adapter that does not name its base. Type model.base=FOLDER or ORG/NAME.")
    return name, revision if isinstance(revision, str) else None


def open_adapter(folder: Path) -> Adapter:
    """Open an adapter: check its config and the shapes of its tensors, read none yet.

    **Raises:** `JacspecError` for whatever would change numbers and is not known, by name.
    """
    config = read_json(folder / ADAPTER)
    where = folder / ADAPTER
    _check(config, where)
    file = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise JacspecError(f"{folder} has no {' or '.join(ADAPTER_FILES)}, which {ADAPTER} is about.")
    parts: dict[str, dict[str, StoredTensor]] = {}
    replaced: dict[str, StoredTensor] = {}
    for stored in list_tensors_of(file):
        name = stored.name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if stored.dtype not in FLOATS:
            raise JacspecError(f"{file}: {stored.name} is {stored.dtype}, not a floating point tensor.")
        if found := PART.fullmatch(name):
            parts.setdefault(found["module"], {})[found["part"].removeprefix("embedding_")] = stored
        elif "lora_" in name or "token_adapter" in name:
            raise JacspecError(f"{file}: {printable(stored.name)} is a part of adapters that is not supported.")
        else:
            replaced[name] = stored
    changes = {module: _read_change(config, module, own, where) for module, own in parts.items()}
    return Adapter(folder, (where, file), changes, replaced, bool(config.get("fan_in_fan_out")))


def _check(config: Mapping[str, Any], where: Path) -> None:
    """Refuse kinds of adapters and keys that change numbers in a way that is not known here."""
    kind, begun = config.get("peft_type"), config.get("init_lora_weights")
    if str(kind).upper() != "LORA":
        raise JacspecError(f"{where} is of peft_type {printable(kind)!r}. Accepted: LORA, DoRA and rsLoRA with it.")
    if isinstance(begun, str) and begun not in PLAIN_BEGINNINGS:
        raise JacspecError(
            f"{where} has init_lora_weights={printable(begun)!r}, which changed the base before training. Convert it "
            "to plain LoRA: PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…)."
        )
    strange = sorted(key for key, value in config.items() if value and key not in HONOURED | IMPLIED | IGNORED)
    if strange:
        raise JacspecError(
            f"{where} has {printable(shortened(strange))}, which may change the weights and is not supported. "
            "Merge it: PEFT's merge_and_unload() and save_pretrained('NEW'), then model.path=NEW."
        )


def _read_change(config: Mapping[str, Any], module: str, own: Mapping[str, StoredTensor], where: Path) -> Change:
    """Put the parts of one module together; its rank is that of its tensors."""
    down, up, magnitude = (own.get(part) for part in ("A", "B", "magnitude_vector"))
    if down is None or up is None or len(down.shape) != 2 or up.shape[1:] != down.shape[:1]:
        raise JacspecError(
            f"{where.parent}: the matrices A and B of {printable(module)} are not there, or do not fit each other "
            "(convolutions are not supported)."
        )
    if (magnitude is not None) != bool(config.get("use_dora")):
        what = "use_dora=true" if magnitude is None else "use_dora=false"
        raise JacspecError(f"{where} has {what}, and {printable(module)} does {'not ' * (magnitude is None)}say so.")
    if magnitude is not None and math.prod(magnitude.shape) != up.shape[0]:
        raise JacspecError(f"{where.parent}: {printable(module)} has {math.prod(magnitude.shape)} magnitudes.")
    alpha, rank = _alpha(config, module, where), down.shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return Change(down, up, magnitude, scale, "embedding" in own["A"].name.rpartition(".lora_")[2])


def _alpha(config: Mapping[str, Any], module: str, where: Path) -> float:
    """Find α of a module: by the first pattern that ends its name, as PEFT has it, else `lora_alpha`."""
    patterns = config.get("alpha_pattern") or {}
    found = config.get("lora_alpha")
    for pattern, alpha in patterns.items() if isinstance(patterns, dict) else ():
        # What backtracks without end is in no published adapter.
        if len(re.findall(r"[*+{]", pattern)) > MOST_QUANTIFIERS or re.search(r"\)[*+{]", pattern):
            raise JacspecError(f"{where}: alpha_pattern has the expression {printable(pattern)!r}. Give names.")
        try:
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                found = alpha
                break
        except re.error as error:
            raise JacspecError(f"{where}: alpha_pattern has {printable(pattern)!r}: {error}.") from None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise JacspecError(f"{where} has no number for lora_alpha of {printable(module)}.")
    return float(found)


def apply_adapter(base: TensorFiles, adapter: Adapter) -> TensorFiles:
    """Index a base's tensors with an adapter's changes on them.

    Names may lack outer modules on either side, as those of a base that was saved without its head.

    **Raises:** `JacspecError` naming what the base does not have, or has in another shape.
    """
    index, added, missing = dict(base.index), dict[str, StoredTensor](), list[str]()
    placed = {module: _find(f"{module}.weight", base.index) for module in adapter.changes}
    transposed = _is_transposed(adapter, {module: base.index[name].shape for module, name in placed.items() if name})
    for module, change in adapter.changes.items():
        name = placed[module]
        stored = base.index[name] if name else None
        turned = transposed or change.embedding
        shape = (change.down.shape[1], change.up.shape[0]) if turned else (change.up.shape[0], change.down.shape[1])
        if name is None or stored is None:
            missing.append(f"{module}.weight")
        elif stored.shape != shape or stored.dtype not in FLOATS:
            missing.append(f"{module}.weight {list(shape)} (there {stored.dtype} {list(stored.shape)})")
        else:
            index[name] = AdaptedTensor.make(stored, change, turned)
    for name, stored in adapter.replaced.items():
        found = _find(name, base.index)
        if found is None:
            added[name] = stored  # a head of its own
        elif isinstance(index[found], AdaptedTensor) or base.index[found].shape != stored.shape:
            missing.append(f"{name} {list(stored.shape)} (there {list(base.index[found].shape)})")
        else:
            index[found] = stored
    if missing:
        raise JacspecError(
            f"The adapter {adapter.folder} changes tensors that its base has not: {printable(shortened(missing))}. "
            "Give the model that it was trained on: model.base=FOLDER or ORG/NAME, merge.base of task=merge."
        )
    note = f"adapter {adapter.folder.name}: {len(adapter.changes)} weights changed"
    note += f", {len(adapter.replaced)} replaced" if adapter.replaced else ""
    files, notes = (*base.files, *adapter.files), (*base.notes, note)
    return dataclasses.replace(base, files=files, index=index | added, notes=notes)


def _is_transposed(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Say whether weights are stored (in, out): as shapes show that are not square, as PEFT itself corrects the key."""
    for module, shape in shapes.items():
        change = adapter.changes[module]
        own = (change.up.shape[0], change.down.shape[1])
        if not change.embedding and own[0] != own[1] and sorted(own) == sorted(shape):
            return own != shape
    return adapter.transposed


def _find(name: str, index: Mapping[str, StoredTensor]) -> str | None:
    """Find a tensor under its name, or one that lacks the first parts of it, or has more before it."""
    parts = name.split(".")
    shorter = (".".join(parts[first:]) for first in range(len(parts) - 1))
    if found := next((each for each in shorter if each in index), None):
        return found
    longer = [each for each in index if each.endswith(f".{name}")]
    return longer[0] if len(longer) == 1 else None
