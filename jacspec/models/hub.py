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
from jacspec.errors import JacspecError, printable, shortened, suggest
from jacspec.models.adapters import ADAPTER_FILES, base_of, is_adapter
from jacspec.models.arrays import is_array_file, open_array_file
from jacspec.models.checkpoint import Checkpoint, open_adapted, open_checkpoint, random_checkpoint, read_model_config
from jacspec.models.foreign import ADAPTER, describe_file
from jacspec.models.gguf_files import find_gguf, is_gguf
from jacspec.models.hub_cache import damaged_files, remove_files
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

REVISION = "@"
"""What stands between a model's name and its revision, as in `nano@step256`."""

REACH_SECONDS = 5.0
WAYS_ON = (
    "Three ways on without a network: model.path=FOLDER (a folder in Hugging Face layout), model.init=random "
    "(the architecture of a ready-made model with random weights), or plain `jacspec` (the embedded model)."
)


class Location(NamedTuple):
    """Where a checkpoint lies: its config and tokenizer in `folder`, its tensors in `weights`.

    Both are the file of a GGUF model. An `adapter` is the folder of a change to these tensors.
    """

    name: str
    revision: str | None
    folder: Path
    weights: Path
    adapter: Path | None = None

    def open(self, *, dtype: str, name: str | None = None) -> Checkpoint:
        """Open it by its family's rules, under another `name` where one is given; as `open_checkpoint`."""
        return open_checkpoint(
            self.folder,
            weights_folder=self.weights,
            adapter=self.adapter,
            name=name or self.name,
            revision=self.revision,
            dtype=dtype,
        )

    def tensors(self) -> TensorFiles:
        """Open its tensors by name alone."""
        return open_adapted(self.weights, self.adapter, any_name=True)


def named_model(name: str | Path) -> ModelConfig:
    """Say which model a name means: a folder, a file (GGUF, arrays), a ready-made choice, or a hub id `ORG/NAME`."""
    if (given := Path(name).expanduser()).is_dir() or is_gguf(given) or is_array_file(given):
        return ModelConfig(name="path", path=str(name))
    ready_made = config_folder() / "model" / f"{name}.yaml"
    if "/" not in str(name) and ready_made.is_file():
        register()
        return cast(ModelConfig, OmegaConf.to_object(OmegaConf.merge(ModelConfig, OmegaConf.load(ready_made))))
    return ModelConfig(name="hub", id=str(name))


def split_revision(name: str) -> tuple[str, str | None]:
    """Part a name from the revision behind its `@`; a folder may have the sign in its own name."""
    if Path(name).expanduser().exists() or REVISION not in name:
        return name, None
    given, _, revision = name.rpartition(REVISION)
    return given, revision or None


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
    return locate(model).open(dtype=dtype)


def model_label(model: ModelConfig) -> str:
    """Name a model by what is read: the folder where one was given, else the hub's id or the ready-made choice."""
    if model.path is None:
        return model.id if model.name == "hub" and model.id else model.name
    folder = Path(model.path).expanduser()
    return model.name if folder == ASSETS / model.name else folder.resolve().name


def locate(model: ModelConfig, *, beside: tuple[str, ...] = TOKENIZER_FILES, base: str | None = None) -> Location:
    """Find the files of a model that has weights, fetching them from the hub where they lie there.

    An adapter lies on its base: that of `model.base`, else `base`, else the one that it names itself.

    **Arguments:** `beside`, patterns of the files that are fetched beside config and weights.

    **Raises:** `JacspecError` where the model is unknown, gated or out of reach.
    """
    found = _locate(model, beside)
    if not is_adapter(found.weights):
        if model.base is not None:
            raise JacspecError(f"model.base={model.base} is for adapters, and {found.name} has weights of its own.")
        return found
    below = _locate(_base_model(model.base or base, found.weights), beside)
    if is_adapter(below.weights):
        raise JacspecError(
            f"{below.name}, the base of {found.name}, is an adapter itself. Merge it into its base first."
        )
    return below._replace(name=found.name, revision=found.revision, adapter=found.weights)


def base_name(model: ModelConfig) -> str | None:
    """Name the base of a model that is an adapter, with its revision; None for a model with weights of its own."""
    found = _locate(model, TOKENIZER_FILES)
    if not is_adapter(found.weights):
        return None
    if model.base is not None:
        return model.base
    name, revision = base_of(found.weights)
    return name if revision is None else f"{name}{REVISION}{revision}"


def _locate(model: ModelConfig, beside: tuple[str, ...]) -> Location:
    if model.path is not None:
        folder = _existing_folder(model.path)
        return Location(model_label(model), model.revision, folder, _revision_folder(folder, model.revision))
    folder = _download(model, (*beside, *WEIGHT_FILES, ADAPTER))
    # The hub's cache names a snapshot's folder by its commit.
    found = Location(str(model.id), folder.name, folder, folder)
    if is_adapter(folder):
        _download(model, (ADAPTER, *ADAPTER_FILES))
    elif not any(folder.glob("model*.safetensors")):
        require_torch(f"{model.id} has no safetensors weights at this revision")
        _download(model, (*beside, *PICKLED_FILES))
    return found


def _base_model(asked: str | None, adapter: Path) -> ModelConfig:
    """Say which model an adapter's base is: the one asked for, else the one that the adapter names."""
    if asked is not None:
        given, revision = split_revision(asked)
        base = known_model(given)
        base.revision = revision or base.revision
        return base
    name, revision = base_of(adapter)
    base = named_model(name)
    if base.path is None:
        base.revision = revision or base.revision
        if base.name == "hub" and name.count("/") != 1:
            raise JacspecError(
                f"The base of the adapter {adapter.name}, {printable(name)}, is not here. Type "
                "model.base=FOLDER or ORG/NAME."
            )
    return base


def open_any_tensors(model: ModelConfig) -> tuple[str, TensorFiles]:
    """Open the tensors of a checkpoint of any kind, by name alone; its config is not read.

    **Returns:** its name, and its tensors.

    **Raises:** `JacspecError` where there are none, or they are out of reach or damaged.
    """
    if model.path is not None:
        if is_array_file(file := Path(model.path).expanduser()):
            return file.name, open_array_file(file)
        found = locate(model)
        return found.name, found.tensors()
    return str(model.id), open_tensors(_download(model, ("*.safetensors", "*.safetensors.index.json")), any_name=True)


def _open_random(model: ModelConfig, seed: int, dtype: str) -> Checkpoint:
    label = model_label(model)
    folder = _folder_of_config(model)
    if folder is not None and is_adapter(folder) and not (folder / "config.json").is_file():
        model = _base_model(model.base, folder)  # which has the same shapes
        folder = _folder_of_config(model)
    # A ready-made architecture brings no tokenizer: the embedded byte-level one reads any text, and its ids fit any
    # vocabulary of at least its size.
    config = dict(model.config) if folder is None else read_model_config(folder)
    folder = folder or ASSETS / "nano"
    return random_checkpoint(config, tokenizer_folder=folder, seed=seed, name=f"{label} (random)", dtype=dtype)


def _folder_of_config(model: ModelConfig) -> Path | None:
    """Find the folder or file that says a model's shapes; None where the choice itself does."""
    if model.path is not None:
        return _existing_folder(model.path)
    return None if model.config else _download(model, (*TOKENIZER_FILES, ADAPTER))


def _existing_folder(path: str) -> Path:
    """Find the folder of a model, or the GGUF file that is one: itself, or the only one in a folder without weights."""
    folder = Path(path).expanduser()
    if is_gguf(folder):
        return folder
    if not folder.is_dir():
        what = describe_file(folder) if folder.is_file() else ""
        raise JacspecError(f"model.path={path} is not a folder. Give one with config.json and model.safetensors.{what}")
    return find_gguf(folder) or folder


def _revision_folder(folder: Path, revision: str | None) -> Path:
    """Find the weights of a saved training step: `FOLDER/revisions/REVISION`."""
    if revision is None or folder.is_file():
        return folder
    known = sorted(entry.name for entry in (folder / "revisions").glob("*/") if entry.is_dir())
    if revision not in known:
        raise JacspecError(
            f"{folder} has no revision {revision!r}. Accepted: {', '.join(known) or 'none; leave model.revision out'}."
        )
    return folder / "revisions" / revision


def _download(model: ModelConfig, patterns: tuple[str, ...]) -> Path:
    """Fetch the named files of a hub checkpoint, or find them in the hub's cache, and return their folder.

    Files of the cache that were damaged are fetched again once, or named where the hub cannot be reached.
    """
    if not model.id:
        raise JacspecError(f"model={model.name} needs a place: model.path=FOLDER, or model=hub model.id=ORG/NAME.")
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    allow = ["config.json", *patterns]
    where = f"{model.id}" + (f" at revision {model.revision}" if model.revision else "")
    try:
        fetch = _fetched if (online := _reachable(constants.ENDPOINT)) else _cached
        folder = fetch(model, allow)
        if online and (damaged := damaged_files(folder, allow)):
            names = shortened(file.name for file in damaged)
            print(f"jacspec: {names} of {where} was damaged in the hub's cache and is fetched again.", file=sys.stderr)
            remove_files(damaged)
            return fetch(model, allow)
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
    if not online and (damaged := damaged_files(folder, allow)):
        raise JacspecError(
            f"Of {where} in the hub's cache is damaged: {shortened(str(file.resolve()) for file in damaged)}. "
            "Delete that: it is fetched again when the hub can be reached."
        )
    return folder


def _fetched(model: ModelConfig, allow: list[str], *, local: bool = False) -> Path:
    import huggingface_hub

    return Path(
        huggingface_hub.snapshot_download(
            model.id, revision=model.revision, allow_patterns=allow, local_files_only=local
        )
    )


def _cached(model: ModelConfig, allow: list[str]) -> Path:
    from huggingface_hub import errors

    folder = _fetched(model, allow, local=True)
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER)):
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
