"""Checkpoints of one architecture, opened together.

What changes the meaning of their weights has to agree and is refused where it does not, all of it at once. Of a family
that is known these are the keys that change the `ModelSpec`; what else differs is noted.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jacspec.config import config_folder
from jacspec.errors import JacspecError, suggest
from jacspec.files import Hashes
from jacspec.models.architectures import IGNORED_EVERYWHERE
from jacspec.models.checkpoint import Checkpoint, load_tokenizer
from jacspec.models.hf_config import read_json
from jacspec.models.hub import SIDE_FILES, Location, locate, named_model, split_revision
from jacspec.models.matrices import (
    LAYER_NUMBER,
    Choice,
    LeftOut,
    Listed,
    Matrix,
    list_model,
    list_tensors,
    stream_model,
    stream_tensors,
)
from jacspec.models.tensor_files import FLOATS, NUMPY_TYPES, TensorFiles

SHOWN = 20
SIZES = ("vocab", "positions", "std", "decoder_start")
"""Fields of specs that change no weight's meaning: sizes of tables, how weights were drawn at first, a token's id."""

ROTATION = ("theta", "rope_theta", "rotary_emb_base")
"""Fields of specs, and keys, for the base of rotary embeddings: merged with a warning."""

NOTED = ("vocab_size", "max_position_embeddings", "n_positions", "n_ctx", "initializer_range")
NOTED_PARTS = ("unsloth_", "_token_id")
"""Of a family that is not known: keys, and parts of keys, that change no weight's meaning."""

OUTSIDE = -1
"""The layer of a matrix outside the blocks."""


class Sibling(NamedTuple):
    """One of several checkpoints: its tensors by its family's names, or where the family is not known by their own.

    `label` names it among the others, `config` holds the HF keys; `checkpoint` is None and `unknown` says why where
    tensors are known by name alone. `notes` and `warnings` say in what it differs from the first, and may.
    """

    label: str
    location: Location
    tensors: TensorFiles
    config: Mapping[str, Any]
    files: Mapping[str, str]
    checkpoint: Checkpoint | None
    unknown: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class CheckpointDifferences(NamedTuple):
    """In what two checkpoints differ, a line each: what keeps them apart, what may matter, what changes nothing."""

    refused: list[str]
    warned: list[str]
    noted: list[str]


def open_siblings(
    names: Sequence[str | Checkpoint], *, dtype: str, share_rows: bool = True, base: str | None = None
) -> list[Sibling]:
    """Open checkpoints of one architecture; the first is what the others are compared with.

    **Arguments:** `names`, each a folder in HF layout, a GGUF file, a ready-made choice or a hub id, and `@REVISION`
    behind it where another than the default is meant, or what is open already; `dtype`, what their modules are cast
    to; `share_rows`, whether rows of tables of tokens are put side by side, so that a row has to stand for the same
    token in all; `base`, of adapters among them, where it is not the one that each names.

    **Raises:** `JacspecError` where one cannot be opened, and with every difference in config, tensors or vocabulary
    that changes what weights mean.
    """
    opened = [_open(name, label, dtype, base) for name, label in zip(names, _labels(names), strict=True)]
    if strange := next((each for each in opened if each.checkpoint is None), None):
        # One family's names for some and the files' own for others could not be compared.
        opened = [_by_name(each.label, each.location, strange.unknown) for each in opened]
    found = [find_differences(opened[0], other, share_rows=share_rows) for other in opened[1:]]
    if differences := [line for each in found for line in each.refused]:
        shown = "\n  ".join(differences[:SHOWN])
        more = f"\n  and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise JacspecError(
            f"These are not checkpoints of one architecture:\n  {shown}{more}\nGive such as were trained from the same "
            "model."
        )
    others = zip(opened[1:], found, strict=True)
    return opened[:1] + [each._replace(notes=tuple(own.noted), warnings=tuple(own.warned)) for each, own in others]


def _labels(names: Sequence[str | Checkpoint]) -> list[str]:
    """Shorten paths to their last part, and number what is there twice."""
    short = [name.name if isinstance(name, Checkpoint) else _short(name) for name in names]
    seen: dict[str, int] = {}
    labels = []
    for label in short:
        seen[label] = seen.get(label, 0) + 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def _short(name: str) -> str:
    there = Path(split_revision(name)[0]).expanduser().exists()
    return name.rstrip(os.sep).rpartition(os.sep)[2] if there else name


def _open(name: str | Checkpoint, label: str, dtype: str, base: str | None) -> Sibling:
    if isinstance(name, Checkpoint):
        if name.tensors is None:
            raise JacspecError(f"{label} has no files to compare. Give a model with weights of its own.")
        location = Location(label, name.revision, name.tokenizer_folder, name.tokenizer_folder)
        return _of_family(label, location, name)
    given, revision = split_revision(name)
    model = named_model(given)
    model.revision = revision
    if model.name == "hub" and given.count("/") != 1:
        known = [file.stem for file in (config_folder() / "model").glob("*.yaml") if file.stem not in ("hub", "path")]
        raise JacspecError(
            f"{name} is not a folder, a ready-made model or a hub id ORG/NAME (with @REVISION behind it where another "
            "than the default is meant). " + suggest(given, known)
        )
    try:
        location = locate(model, beside=SIDE_FILES, base=base)
    except JacspecError as error:
        raise JacspecError(f"{name}: {error}") from None
    try:
        found = location.open(dtype=dtype, name=label)
    except JacspecError as error:
        return _by_name(label, location, str(error))
    return _of_family(label, location, found)


def _of_family(label: str, location: Location, found: Checkpoint) -> Sibling:
    assert found.tensors is not None
    config = {**found.config, "model_type": found.architecture.model_type}
    return Sibling(label, location, found.tensors, config, found.files, found)


def _by_name(label: str, location: Location, unknown: str) -> Sibling:
    """Open a checkpoint by the names of its tensors; raises what kept it from being opened by its family's rules."""
    file = location.folder / "config.json"
    try:
        tensors = location.tensors()
        config = read_json(file)
    except JacspecError:
        raise JacspecError(unknown) from None
    return Sibling(label, location, tensors, config, Hashes((file, *tensors.files)), None, unknown)


def find_differences(first: Sibling, other: Sibling, *, share_rows: bool) -> CheckpointDifferences:
    """Sort what differs between two checkpoints by whether they can be merged for all that."""
    found = CheckpointDifferences([], [], [])
    for key, kind in _judge_keys(first, other).items():
        here, there = (each.config.get(key, "nothing") for each in (first, other))
        getattr(found, kind).append(f"config: {key} is {there!r} in {other.label}, {here!r} in {first.label}")
    found.refused.extend(_tensor_differences(first, other))
    found.noted.extend(
        f"resized: {name} is {list(other.tensors.index[name].shape)} in {other.label}, "
        f"{list(first.tensors.index[name].shape)} in {first.label}"
        for name in resized(first, other)
    )
    conflicts, additions = _vocabulary_differences(first, other)
    (found.refused if share_rows else found.noted).extend(conflicts)
    found.noted.extend(additions)
    return found


def _judge_keys(first: Sibling, other: Sibling) -> dict[str, str]:
    """Name the keys that differ, `model_type` first, each with its list of `CheckpointDifferences`."""
    keys = sorted(first.config.keys() | other.config.keys(), key=lambda key: (key != "model_type", key))
    differing = [key for key in keys if first.config.get(key) != other.config.get(key)]
    judged = {key: _judge_key(key, first, other) for key in differing}
    if "refused" not in judged.values() and not _same_meaning(first, other.config, SIZES + ROTATION):
        # What changes nothing key by key may do so together: none of the keys is safe.
        return {key: "noted" if _ignored(key, first) else "refused" for key in judged}
    return judged


def _judge_key(key: str, first: Sibling, other: Sibling) -> str:
    if key == "model_type":
        return "refused"
    if _ignored(key, first):
        return "noted"
    if first.checkpoint is None:
        noted = key in NOTED or any(part in key for part in NOTED_PARTS)
        return "noted" if noted else "warned" if key in ROTATION else "refused"
    changed = {**first.config, key: other.config.get(key)}
    if _same_meaning(first, changed, SIZES):
        return "noted"
    return "warned" if _same_meaning(first, changed, SIZES + ROTATION) else "refused"


def _ignored(key: str, sibling: Sibling) -> bool:
    known = {} if sibling.checkpoint is None else sibling.checkpoint.architecture.ignored
    return key in IGNORED_EVERYWHERE or key in known


def _same_meaning(sibling: Sibling, config: Mapping[str, Any], left_out: Sequence[str]) -> bool:
    """Decide whether another config would make the same model of a checkpoint, but for the fields of specs left out."""
    if sibling.checkpoint is None:
        return True
    try:
        changed = sibling.checkpoint.architecture.spec(config)
    except Exception:  # a key alone may fit no model, as another width with the same heads
        return False
    specs = (dataclasses.asdict(spec) for spec in (sibling.checkpoint.spec, changed))
    here, there = (_without(spec, left_out) for spec in specs)
    return bool(here == there)


def _without(tree: Any, left_out: Sequence[str]) -> Any:
    if isinstance(tree, dict):
        return {name: _without(value, left_out) for name, value in tree.items() if name not in left_out}
    return [_without(each, left_out) for each in tree] if isinstance(tree, list | tuple) else tree


def resized(first: Sibling, other: Sibling) -> list[str]:
    """List the tables (of tokens, of learned positions) of which two checkpoints have another number of rows."""
    there = {name: each.shape for name, each in other.tensors.index.items()}
    return [
        name
        for name, each in first.tensors.index.items()
        if (shape := there.get(name))
        and shape[:1] != each.shape[:1]
        and shape[1:] == each.shape[1:]
        and all(size in _table_sizes(own) for own, size in ((first, each.shape[0]), (other, shape[0])))
    ]


def _table_sizes(sibling: Sibling) -> set[Any]:
    """Return how many rows the tables of a checkpoint may have, by its config."""
    if sibling.checkpoint is None:
        return {sibling.config.get(key) for key in NOTED}
    spec = sibling.checkpoint.spec
    return {spec.vocab, spec.embedding.positions}


def _tensor_differences(first: Sibling, other: Sibling) -> Iterator[str]:
    """Name tensors that cannot be merged, a line each."""
    tables = resized(first, other)
    for name in sorted(first.tensors.index.keys() | other.tensors.index.keys()):
        stored = [each.tensors.index.get(name) for each in (first, other)]
        if stored[0] is None or stored[1] is None:
            lacks, has = (first, other) if stored[0] is None else (other, first)
            yield f"missing: {name} is not in {lacks.label}, but in {has.label}"
            continue
        shapes = [list(each.shape) for each in stored if each]
        if shapes[0] != shapes[1] and name not in tables:
            yield f"misshaped: {name} is {shapes[1]} in {other.label}, {shapes[0]} in {first.label}"
        elif strange := [each.dtype for each in stored if each and each.dtype not in NUMPY_TYPES]:
            yield f"quantised: {name} is {strange[0]}, which is not merged"
        elif any(each.dtype not in FLOATS for each in stored if each) and not np.array_equal(
            first.tensors.read(name), other.tensors.read(name)
        ):
            yield f"different: {name} holds no weights ({stored[0].dtype}), and other values in {other.label}"


def _vocabulary_differences(first: Sibling, other: Sibling) -> tuple[list[str], list[str]]:
    """Say which rows of two embeddings stand for different tokens, and which tokens one of them alone has."""
    folders = [each.location.folder for each in (first, other)]
    files = [folder / "tokenizer.json" for folder in folders]
    if all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes():
        return [], []
    try:
        here, there = (load_tokenizer(folder).get_vocab() for folder in folders)
    except JacspecError:
        return [], []  # a folder without a tokenizer says nothing of tokens
    taken = [set(vocabulary.values()) for vocabulary in (here, there)]

    def conflicts(token: str) -> bool:
        ids = (here.get(token), there.get(token))
        return ids[0] != ids[1] and (None not in ids or ids[0] in taken[1] or ids[1] in taken[0])

    changed = sorted(filter(conflicts, here.keys() | there.keys()))
    named = ", ".join(f"{token!r} {here.get(token)} and {there.get(token)}" for token in changed[:3])
    refused = f"vocabulary: {len(changed)} tokens have other ids in {first.label} and {other.label}: {named}"
    added = sorted((here.keys() ^ there.keys()) - set(changed))
    noted = f"vocabulary: {len(added)} tokens are in {first.label} or {other.label} alone: " + ", ".join(
        map(repr, added[:3])
    )
    return [refused] * bool(changed), [noted] * bool(added)


def list_matrices(sibling: Sibling, choice: Choice) -> tuple[list[Listed], list[LeftOut]]:
    """List the matrices of a checkpoint and what gives none, without reading a tensor."""
    if sibling.checkpoint is None:
        found = list(list_tensors(sibling.tensors, choice))
    else:
        found = list(list_model(sibling.checkpoint, choice))
    return [each for each in found if isinstance(each, Listed)], [each for each in found if isinstance(each, LeftOut)]


def stream_same_matrices(siblings: Sequence[Sibling], choice: Choice) -> Iterator[tuple[Matrix, ...]]:
    """Yield the same matrix of every checkpoint, one tensor of each in memory and the next one of one of them.

    **Raises:** `JacspecError` where one holds values that are not finite.
    """
    return zip(*(_read(each, choice) for each in siblings), strict=True)


def _read(sibling: Sibling, choice: Choice) -> Iterator[Matrix]:
    checkpoint = sibling.checkpoint
    found = stream_tensors(sibling.tensors, choice) if checkpoint is None else stream_model(checkpoint, choice)
    for matrix in found:
        if isinstance(matrix, Matrix):
            if not np.isfinite(matrix.values).all():
                raise JacspecError(f"{sibling.label}: the tensor {matrix.name} holds values that are not finite.")
            yield matrix


def layer_number(matrix: Matrix) -> int:
    """Return the number of the layer of a matrix, `OUTSIDE` of one outside the blocks."""
    return OUTSIDE if matrix.layer is None else matrix.layer


def role_name(matrix: Matrix) -> str:
    """Name the role of a matrix; where its family is not known, its tensor's name with `*` for the layer."""
    return matrix.role if matrix.role != "other" else LAYER_NUMBER.sub("*", matrix.name, count=1)
