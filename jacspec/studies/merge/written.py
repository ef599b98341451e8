"""A merged checkpoint being written: a folder in HF layout that is whole once it has `config.json`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jacspec.errors import JacspecError, shortened
from jacspec.models.export import Shard, shard_bytes, shard_index
from jacspec.models.hf_config import read_json
from jacspec.models.hub import SIDE_FILES
from jacspec.models.tensor_files import StoredTensor
from jacspec.runs.files import TEMPORARY, write_atomically, write_json
from jacspec.runs.folder import differing_keys

MERGE_FILE, CONFIG = "merge.json", "config.json"


def check_folder(folder: Path, description: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a folder that holds anything but, where a run is resumed, the same merge."""
    if not folder.exists():
        return
    found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else [folder.name]
    if all(name.startswith(TEMPORARY) for name in found):  # a kill before `merge.json` leaves no more
        return
    if not resume or not (folder / MERGE_FILE).is_file():
        raise JacspecError(
            f"{folder} is there already, and nothing in it is written over. In the way: {shortened(found, 8)}. "
            "Type merge.save=OTHER, or resume=RUN to resume the run that was writing it."
        )
    differing = differing_keys(read_json(folder / MERGE_FILE).get("merge", {}), description)
    if differing:
        raise JacspecError(f"{folder} holds another merge: {'; '.join(differing)}.")


def write_merged(
    folder: Path,
    description: Mapping[str, Any],
    shards: Sequence[Shard],
    read: Callable[[StoredTensor], Shaped[np.ndarray, "..."]],
    *,
    beside: Path,
) -> None:
    """Write a checkpoint file by file, or resume one: files that are there are whole and kept.

    `merge.json` comes first and says `unfinished`, `config.json` comes last: without it nothing loads the folder.

    **Arguments:** `description`, what is merged and how; `read`, which gives the tensors; `beside`, the folder that
    config, tokenizer and generation settings are copied from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stray in folder.glob(f"{TEMPORARY}*"):
        stray.unlink()
    if (folder / CONFIG).is_file():
        return
    write_json(folder / MERGE_FILE, {"status": "unfinished", "merge": description})
    for shard in shards:
        if not (folder / shard.name).is_file():
            write_atomically(folder / shard.name, shard_bytes(shard, read))
    if (index := shard_index(shards)) is not None:
        write_json(folder / index[0], index[1])
    for pattern in SIDE_FILES:
        for file in beside.glob(pattern):
            if file.is_file():
                write_atomically(folder / file.name, file.read_bytes())
    write_json(folder / MERGE_FILE, {"status": "finished", "merge": description})
    write_atomically(folder / CONFIG, (beside / CONFIG).read_bytes())
