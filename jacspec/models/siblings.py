"""Checkpoints of one architecture, opened together; what differs between them is refused, all of it at once."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jacspec.config import config_folder
from jacspec.errors import JacspecError, suggest
from jacspec.models.architectures import IGNORED_EVERYWHERE
from jacspec.models.checkpoint import Checkpoint, load_tokenizer, open_checkpoint, sha256
from jacspec.models.hf_config import read_json
from jacspec.models.hub import SIDE_FILES, Location, locate, named_model
from jacspec.models.tensor_files import FLOATS, NUMPY_TYPES, TensorFiles, open_tensors

SHOWN = 20
REVISION = "@"
"""What stands between a model's name and its revision, as in `nano@step256`."""


class Sibling(NamedTuple):
    """One of several checkpoints: its tensors by its family's names, or where the family is not known by their own.

    `label` names it among the others, `config` holds the HF keys that matter; `checkpoint` is None and `unknown` says
    why where tensors are known by name alone.
    """

    label: str
    location: Location
    tensors: TensorFiles
    config: Mapping[str, Any]
    files: Mapping[str, str]
    checkpoint: Checkpoint | None
    unknown: str = ""


def open_siblings(names: Sequence[str], *, dtype: str) -> list[Sibling]:
    """Open checkpoints of one architecture; the first is what the others are held against.

    **Arguments:** `names`, each a folder in HF layout, a ready-made choice or a hub id, and `@REVISION` where another
    than the default is meant; `dtype`, what their modules are cast to.

    **Raises:** `JacspecError` where one cannot be opened, and with every difference in config, tensors or vocabulary.
    """
    opened = [_open(name, label, dtype) for name, label in zip(names, _labels(names), strict=True)]
    if strange := next((each for each in opened if each.checkpoint is None), None):
        # One family's names for some and the files' own for others could not be compared.
        opened = [_by_name(each.label, each.location, strange.unknown) for each in opened]
    differences = [line for other in opened[1:] for line in _differences(opened[0], other)]
    if differences:
        shown = "\n  ".join(differences[:SHOWN])
        more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise JacspecError(
            f"These are not checkpoints of one architecture:\n  {shown}{more}\nGive such as were trained from the same "
            "model."
        )
    return opened


def _labels(names: Sequence[str]) -> list[str]:
    """Shorten folders to their last part, and number what is there twice."""
    short = [name.rstrip(os.sep).rpartition(os.sep)[2] if Path(_split(name)[0]).is_dir() else name for name in names]
    seen: dict[str, int] = {}
    labels = []
    for label in short:
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def _split(name: str) -> tuple[str, str | None]:
    """Part a name from its revision; a folder may have the sign in its own name."""
    if Path(name).expanduser().is_dir() or REVISION not in name:
        return name, None
    given, _, revision = name.rpartition(REVISION)
    return given, revision or None


def _open(name: str, label: str, dtype: str) -> Sibling:
    given, revision = _split(name)
    model = named_model(given)
    model.revision = revision
    if model.name == "hub" and given.count("/") != 1:
        known = [file.stem for file in (config_folder() / "model").glob("*.yaml") if file.stem not in ("hub", "path")]
        raise JacspecError(
            f"{name} is no folder, no ready-made model and no hub id ORG/NAME (with @REVISION behind it where another "
            "than the default is meant). " + suggest(given, known)
        )
    try:
        location = locate(model, beside=SIDE_FILES)
    except JacspecError as error:
        raise JacspecError(f"{name}: {error}") from None
    try:
        found = open_checkpoint(
            location.folder, weights_folder=location.weights, name=label, revision=location.revision, dtype=dtype
        )
    except JacspecError as error:
        return _by_name(label, location, str(error))
    assert found.tensors is not None
    ignored = IGNORED_EVERYWHERE.keys() | found.architecture.ignored.keys() | {*found.unread_keys}
    config = {key: value for key, value in found.config.items() if key not in ignored}
    config["model_type"] = found.architecture.model_type
    return Sibling(label, location, found.tensors, config, found.files, found)


def _by_name(label: str, location: Location, unknown: str) -> Sibling:
    """Open a checkpoint by the names of its tensors; raises what kept it from being opened by its family's rules."""
    file = location.folder / "config.json"
    try:
        tensors = open_tensors(location.weights, any_name=True)
        config = read_json(file)
    except JacspecError:
        raise JacspecError(unknown) from None
    kept = {key: value for key, value in config.items() if key == "model_type" or key not in IGNORED_EVERYWHERE}
    files = {each.name: sha256(each) for each in (file, *tensors.files)}
    return Sibling(label, location, tensors, kept, files, None, unknown)


def _differences(first: Sibling, other: Sibling) -> Iterator[str]:
    """Name what keeps two checkpoints from being merged, a line each."""
    for key in sorted(first.config.keys() | other.config.keys(), key=lambda key: (key != "model_type", key)):
        here, there = (each.config.get(key, "nothing") for each in (first, other))
        if here != there:
            yield f"config: {key} is {there!r} in {other.label}, {here!r} in {first.label}"
    for name in sorted(first.tensors.index.keys() | other.tensors.index.keys()):
        stored = [each.tensors.index.get(name) for each in (first, other)]
        if stored[0] is None or stored[1] is None:
            lacks, has = (first, other) if stored[0] is None else (other, first)
            yield f"missing: {name} is not in {lacks.label}, but in {has.label}"
            continue
        shapes = [list(each.shape) for each in stored if each]
        if shapes[0] != shapes[1]:
            yield f"misshaped: {name} is {shapes[1]} in {other.label}, {shapes[0]} in {first.label}"
        elif strange := [each.dtype for each in stored if each and each.dtype not in NUMPY_TYPES]:
            yield f"quantised: {name} is {strange[0]}, which is not merged"
        elif any(each.dtype not in FLOATS for each in stored if each) and not np.array_equal(
            first.tensors.read(name), other.tensors.read(name)
        ):
            yield f"different: {name} holds no weights ({stored[0].dtype}), and other values in {other.label}"
    yield from _vocabulary_differences(first, other)


def _vocabulary_differences(first: Sibling, other: Sibling) -> Iterator[str]:
    """Say which tokens have other ids: rows of two embeddings would be merged that stand for different tokens."""
    folders = [each.location.folder for each in (first, other)]
    files = [folder / "tokenizer.json" for folder in folders]
    if all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return
    try:
        here, there = (load_tokenizer(folder).get_vocab() for folder in folders)
    except JacspecError:
        return  # a folder without a tokenizer says nothing of tokens
    changed = sorted(token for token in here.keys() | there.keys() if here.get(token) != there.get(token))
    if changed:
        named = ", ".join(f"{token!r} {here.get(token)} and {there.get(token)}" for token in changed[:3])
        yield f"vocabulary: {len(changed)} tokens have other ids in {first.label} and {other.label}: {named}"
