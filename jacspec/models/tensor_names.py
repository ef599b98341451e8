"""From the names of tensors in a file to those of a family's tables: what training wrapped around them taken off."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from jacspec.errors import JacspecError
from jacspec.models.architectures import Architecture
from jacspec.models.tensor_files import StoredTensor, TensorFiles

WRAPPERS: dict[str, str] = {
    "_forward_module.": "Lightning",
    "_orig_mod.": "torch.compile",
    "base_model.": "PEFT",
    "language_model.": "a model with further towers",
    "llm.": "a model with further towers",
    "model.": "a training loop",
    "module.": "DataParallel or DeepSpeed",
    "net.": "a training loop",
    "pretrained_model.": "TRL",
    "transformer.": "a training loop",
}
"""What names may begin with, alone or one behind the other, and what puts it there."""

ANYWHERE: dict[str, str] = {
    "_checkpoint_wrapped_module.": "activation checkpointing",
    "_fsdp_wrapped_module.": "FSDP",
    "_orig_mod.": "torch.compile",
}
"""Parts that belong to no name, wherever they stand: single blocks may be compiled or wrapped too."""


def name_by_tables(architecture: Architecture, tensors: TensorFiles, known: Collection[str]) -> TensorFiles:
    """Index tensors by the names of the family's tables: wrappers, optional prefixes and old endings taken away.

    Of all runs of `WRAPPERS` that names begin with, the one is taken off that makes most names `known`, the shortest
    of equals: none from names that are as HF writes them.

    **Raises:** `JacspecError` where two tensors come to the same name.
    """
    plain = {stored: _without(stored, ANYWHERE) for stored in tensors.index}

    def table_name(stored: str, wrapper: str) -> str:
        name = plain[stored].removeprefix(wrapper)
        name = name.removeprefix(next((prefix for prefix in architecture.prefixes if name.startswith(prefix)), ""))
        for old, new in architecture.renamed.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        return name

    def fitting(wrapper: str) -> int:
        return sum(table_name(stored, wrapper) in known for stored in plain)

    wrapper = max(sorted(_leading_wrappers(plain.values()), key=len), key=fitting)
    index: dict[str, StoredTensor] = {}
    for stored, tensor in tensors.index.items():
        if (name := table_name(stored, wrapper)) in index:
            raise JacspecError(f"{tensor.file}: the tensor {name} is there twice.")
        index[name] = tensor
    return dataclasses.replace(tensors, index=index, notes=(*tensors.notes, *_say_wrapper(plain, wrapper)))


def outside_stack(architecture: Architecture, name: str) -> bool:
    """Say whether a tensor, by its name in the tables, lies outside all layers, embeddings and norms: in a head."""
    blocks = itertools.chain.from_iterable(architecture.blocks.values())
    own = (*architecture.embedding, *blocks, *architecture.encoder_norm, *architecture.head)
    places = {rule.name.partition(".")[0] for rule in own if not rule.name.startswith(architecture.language_model)}
    return name.partition(".")[0] not in places


def _without(name: str, parts: Iterable[str]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


def _leading_wrappers(names: Iterable[str]) -> set[str]:
    """Collect the runs of wrappers that names begin with, the empty one too."""
    found = {""}
    for name in names:
        run = ""
        while wrapper := next((each for each in WRAPPERS if name.startswith(each, len(run))), None):
            run += wrapper
            found.add(run)
    return found


def _say_wrapper(plain: Mapping[str, str], wrapper: str) -> Iterator[str]:
    """Say what was taken off the names and who puts it there; nothing where nothing was."""
    inside = [part for part in ANYWHERE if any(part in stored for stored in plain)]
    leading = [part for part in WRAPPERS if part in wrapper]
    makers = dict.fromkeys((ANYWHERE | WRAPPERS)[part] for part in (*inside, *leading))
    count = sum(name != stored or bool(wrapper and name.startswith(wrapper)) for stored, name in plain.items())
    if makers:
        parts = ", ".join((*inside, wrapper) if wrapper else inside)
        yield f"taken off the names of {count} of {len(plain)} tensors: {parts} (from {' and '.join(makers)})"
