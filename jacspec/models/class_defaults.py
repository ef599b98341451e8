"""What HF's class makes of a config: defaults, old spellings of keys in today's words; kept from run to run.

transformers reads thousands of its own files when it is imported, for seconds on a slow disk; a config that was
understood once, by the same release, is not asked about again.
"""

import contextlib
import copy
import hashlib
import importlib.metadata
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jacspec.errors import blaming
from jacspec.files import cache_folder, write_cached
from jacspec.models.architectures import IGNORED_EVERYWHERE
from jacspec.models.deferred_torch import deferring_torch

KEPT = 1
"""Raised whenever `_ask` changes what it gives."""


class Completed(NamedTuple):
    """A config with its class's defaults, as JSON has them, and the class's names for keys, by the other name."""

    config: dict[str, Any]
    aliases: Mapping[str, str]


def complete(raw: Mapping[str, Any], model_type: str, tower: str, *, origin: str) -> Completed:
    """Ask HF's class for what the keys of a file leave out.

    **Arguments:** `tower`, the key of the config of the part that is read, where a model has several, else nothing;
    `origin`, the file, for errors.

    **Raises:** `JacspecError` where the class refuses the keys.
    """
    # HF checks the types of keys that change nothing here, such as a label: they do not stop a load.
    stated = {key: value for key, value in raw.items() if key not in IGNORED_EVERYWHERE}
    file = _file_of(stated, model_type, tower)
    found = _kept(file) if file else None
    if found is None:
        found = _ask(stated, model_type, tower, origin)
        with contextlib.suppress(TypeError, ValueError, RecursionError):  # values of a model in memory, not of a file
            content = json.dumps(found._asdict(), allow_nan=False)
            found = Completed(**json.loads(content))
            if file:
                with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
                    write_cached(file, content.encode())
    return found._replace(config=found.config | {key: raw[key] for key in raw.keys() - stated.keys()})


def _file_of(stated: Mapping[str, Any], model_type: str, tower: str) -> Path | None:
    try:
        release = importlib.metadata.version("transformers")
        given = json.dumps([KEPT, release, model_type, tower, stated], allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return cache_folder() / "configs" / f"{hashlib.sha256(given.encode()).hexdigest()}.json"


def _kept(file: Path) -> Completed | None:
    try:
        found = Completed(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):  # none, or damaged
        return None
    return found if isinstance(found.config, dict) and isinstance(found.aliases, dict) else None


def _ask(stated: Mapping[str, Any], model_type: str, tower: str, origin: str) -> Completed:
    with deferring_torch():
        # Heavy import, and only here.
        from transformers import CONFIG_MAPPING, logging

        logging.set_verbosity_error()  # what HF warns of, such as special tokens outside the vocabulary, is judged here
        config_class = CONFIG_MAPPING[model_type]
        with blaming(f"{origin} is not a valid {model_type} config"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old names of keys
            made = config_class(**copy.deepcopy(dict(stated)))  # which it may change
            text = getattr(made, tower) if tower else made
            if "rope_parameters" in type(text).__dataclass_fields__:
                text.standardize_rope_params()  # as HF's modelling code does once more, when all keys are attributes
            return Completed(made.to_dict(), dict(config_class.attribute_map))
