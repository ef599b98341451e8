"""From the model choice of a configuration to an open checkpoint: embedded, a folder, or the Hugging Face hub."""

import http.client
import os
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple, cast

from omegaconf import OmegaConf

from jacspec.config import ASSETS, Init, ModelConfig, config_folder, register
from jacspec.errors import JacspecError, suggest
from jacspec.models.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from jacspec.models.foreign import ADAPTER, describe_file, refuse_adapter
from jacspec.models.hf_config import read_json
from jacspec.models.tensor_files import TensorFiles, open_tensors, require_torch

TOKENIZER_FILES = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
)
WEIGHT_FILES = ("model*.safetensors", "model.safetensors.index.json")
PICKLED_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
SIDE_FILES = (*TOKENIZER_FILES, "chat_template*", "generation_config.json")
"""What a folder in HF layout holds beside its config and weights, and a copy of it should."""

REACH_SECONDS = 5.0
WAYS_ON = (
    "Three ways on without a network: model.path=FOLDER (a folder in Hugging Face layout), model.init=random "
    "(the architecture of a ready-made model with random weights), or plain `jacspec` (the embedded model)."
)


class Location(NamedTuple):
    """Where a checkpoint lies: its config and tokenizer in `folder`, its tensors in `weights`."""

    name: str
    revision: str | None
    folder: Path
    weights: Path


def named_model(name: str | Path) -> ModelConfig:
    """Say which model a name means: a folder in HF layout, a ready-made choice, or else a hub id `ORG/NAME`."""
    if Path(name).expanduser().is_dir():
        return ModelConfig(name="path", path=str(name))
    ready_made = config_folder() / "model" / f"{name}.yaml"
    if "/" not in str(name) and ready_made.is_file():
        register()
        return cast(ModelConfig, OmegaConf.to_object(OmegaConf.merge(ModelConfig, OmegaConf.load(ready_made))))
    return ModelConfig(name="hub", id=str(name))


def known_model(name: str | Path) -> ModelConfig:
    """Do what `named_model` does, and refuse at once a name that can be none of the three.

    **Raises:** `JacspecError` naming the nearest ready-made choice.
    """
    model = named_model(name)
    if model.name == "hub" and str(name).count("/") != 1:
        known = [file.stem for file in (config_folder() / "model").glob("*.yaml") if file.stem not in ("hub", "path")]
        raise JacspecError(
            f"{str(name)!r} is not a folder, a ready-made model or a hub id ORG/NAME. " + suggest(str(name), known)
        )
    return model


def open_model(model: ModelConfig, *, seed: int = 0, dtype: str = "float32") -> Checkpoint:
    """Open the model that a configuration names.

    `path` is read where it is given, else `id` is fetched from the hub into its cache. `init=random` needs only
    a config: that of the folder, the ready-made choice, or the hub, in this order.

    **Raises:** `JacspecError` where the model is unknown, gated, out of reach or not supported.
    """
    if model.init is Init.random:
        return _open_random(model, seed, dtype)
    found = locate(model)
    return open_checkpoint(
        found.folder, weights_folder=found.weights, name=found.name, revision=found.revision, dtype=dtype
    )


def model_label(model: ModelConfig) -> str:
    """Name a model by what is read: the folder where one was given, else the hub's id or the ready-made choice."""
    if model.path is None:
        return model.id if model.name == "hub" and model.id else model.name
    folder = Path(model.path).expanduser()
    return model.name if folder == ASSETS / model.name else folder.resolve().name


def locate(model: ModelConfig, *, beside: tuple[str, ...] = TOKENIZER_FILES) -> Location:
    """Find the files of a model that has weights, fetching them from the hub where they lie there.

    **Arguments:** `beside`, patterns of the files that are fetched beside config and weights.

    **Raises:** `JacspecError` where the model is unknown, gated or out of reach.
    """
    if model.path is not None:
        folder = _existing_folder(model.path)
        return Location(model_label(model), model.revision, folder, _revision_folder(folder, model.revision))
    folder = _download(model, (*beside, *WEIGHT_FILES, ADAPTER))
    if not any(folder.glob("model*.safetensors")):
        refuse_adapter(folder)
        require_torch(f"{model.id} has no safetensors weights at this revision")
        folder = _download(model, (*beside, *PICKLED_FILES))
    # The hub's cache names a snapshot's folder by its commit.
    return Location(str(model.id), folder.name, folder, folder)


def open_any_tensors(model: ModelConfig) -> tuple[str, TensorFiles]:
    """Open the tensors of a checkpoint of any kind, by name alone; its config is not read.

    **Returns:** its name, and its tensors.

    **Raises:** `JacspecError` where there are none, or they are out of reach or damaged.
    """
    if model.path is not None:
        folder = _existing_folder(model.path)
        return model_label(model), open_tensors(_revision_folder(folder, model.revision), any_name=True)
    return str(model.id), open_tensors(
        _download(model, ("*.safetensors", "*.safetensors.index.json", ADAPTER)), any_name=True
    )


def _open_random(model: ModelConfig, seed: int, dtype: str) -> Checkpoint:
    if model.path is not None:
        folder = _existing_folder(model.path)
        config = read_json(folder / "config.json")
    elif model.config:
        # A ready-made architecture brings no tokenizer: the embedded byte-level one reads any text, and its ids
        # fit any vocabulary of at least its size.
        folder, config = ASSETS / "nano", dict(model.config)
    else:
        folder = _download(model, TOKENIZER_FILES)
        config = read_json(folder / "config.json")
    return random_checkpoint(
        config, tokenizer_folder=folder, seed=seed, name=f"{model_label(model)} (random)", dtype=dtype
    )


def _existing_folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        what = describe_file(folder) if folder.is_file() else ""
        raise JacspecError(f"model.path={path} is not a folder. Give one with config.json and model.safetensors.{what}")
    return folder


def _revision_folder(folder: Path, revision: str | None) -> Path:
    """Find the weights of a saved training step: `FOLDER/revisions/REVISION`."""
    if revision is None:
        return folder
    known = sorted(entry.name for entry in (folder / "revisions").glob("*/") if entry.is_dir())
    if revision not in known:
        raise JacspecError(
            f"{folder} has no revision {revision!r}. Accepted: {', '.join(known) or 'none; leave model.revision out'}."
        )
    return folder / "revisions" / revision


def _download(model: ModelConfig, patterns: tuple[str, ...]) -> Path:
    """Fetch the named files of a hub checkpoint, or find them in the hub's cache, and return their folder."""
    if not model.id:
        raise JacspecError(f"model={model.name} needs a place: model.path=FOLDER, or model=hub model.id=ORG/NAME.")
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    allow = ["config.json", *patterns]
    where = f"{model.id}" + (f" at revision {model.revision}" if model.revision else "")
    try:
        if not _reachable(constants.ENDPOINT):
            return Path(_cached(model, allow))
        return Path(huggingface_hub.snapshot_download(model.id, revision=model.revision, allow_patterns=allow))
    except errors.GatedRepoError:
        raise JacspecError(
            f"{where} is gated: accept its terms on the hub, then `hf auth login` or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise JacspecError(f"{model.id} has no revision {model.revision!r} on the hub.") from None
    except errors.RepositoryNotFoundError:
        raise JacspecError(
            f"The hub has no model {model.id!r}, or it is private (then `hf auth login` or set HF_TOKEN). "
            "Give model.id=ORG/NAME as the hub spells it."
        ) from None
    except errors.HFValidationError as error:
        raise JacspecError(f"model.id={model.id} is not a hub id: {error}") from None
    except errors.LocalEntryNotFoundError:
        raise JacspecError(f"The model {where} is not in the cache and the hub cannot be reached. {WAYS_ON}") from None
    except Exception as error:  # HF's client raises many types where a server answers nonsense
        raise JacspecError(f"Fetching {where} from the hub failed: {error}") from error


def _cached(model: ModelConfig, allow: list[str]) -> str:
    import huggingface_hub
    from huggingface_hub import errors

    folder = huggingface_hub.snapshot_download(
        model.id, revision=model.revision, allow_patterns=allow, local_files_only=True
    )
    if not (Path(folder) / "config.json").is_file():
        raise errors.LocalEntryNotFoundError("config.json")
    return folder


def _reachable(url: str) -> bool:
    """Say whether a server answers at all within a few seconds; any HTTP status is an answer.

    In a thread of its own, because looking up a name may hang beyond every timeout. Proxies are honoured.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS + 0.5)
    return answered.is_set()
