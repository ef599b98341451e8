"""A model without some of its singular values, written as a folder in Hugging Face layout."""

from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.export import write_config, write_tokenizer, write_weights
from jacspec.runs.files import TEMPORARY, put_in_place


def check_place(place: str | None, *, models: int, resume: bool) -> None:
    """Refuse to save several models as one, and to write over a folder that is there."""
    if place is None:
        return
    if models != 1:
        raise JacspecError(
            f"removal.save={place} has room for one model, and {models} are measured. "
            "Type removal.by=all 'removal.ranges=[[0.5,1]]' to remove the smaller half of all matrices."
        )
    if Path(place).expanduser().exists() and not resume:
        raise JacspecError(f"{place} is there already, and nothing is written over. Type removal.save=OTHER.")


def save_model(place: str, checkpoint: Checkpoint) -> None:
    """Write config, weights at the run's precision and tokenizer; a folder that an interrupted run wrote is kept.

    The whole model is in memory on the way. Tensors that no layer needs (poolers) are left out.
    """
    folder = Path(place).expanduser()
    if folder.exists():
        return
    modules: dict[tuple[str, int], Any] = {("embedding", 0): checkpoint.embedding()}
    modules |= {("block", number): block for number, block in enumerate(checkpoint.blocks())}
    if checkpoint.has_head:
        modules["head", 0] = checkpoint.head()
    half = folder.with_name(TEMPORARY + folder.name)
    half.mkdir(parents=True, exist_ok=True)
    write_weights(half, checkpoint.architecture, checkpoint.spec, modules, dtype=str(checkpoint.dtype))
    write_tokenizer(half, checkpoint.tokenizer)
    write_config(half, {**checkpoint.config, "dtype": str(checkpoint.dtype)})
    put_in_place(half, folder)
