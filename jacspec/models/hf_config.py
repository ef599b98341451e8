"""What an HF config says, checked key by key: every one is handled, ignored with a reason, or at its default."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError, suggest
from jacspec.models.architectures import ARCHITECTURES, IGNORED_EVERYWHERE, Architecture
from jacspec.models.block import ModelSpec
from jacspec.models.layers import ACTIVATIONS

_MISSING = object()


def read_config(raw: Mapping[str, Any], origin: str) -> tuple[Architecture, dict[str, Any], ModelSpec]:
    """Find the family of an HF config and check that every key is handled, ignored or at its default.

    **Returns:** the family, the whole config with class defaults, the `ModelSpec`.
    """
    model_type = str(raw.get("model_type"))
    if model_type not in ARCHITECTURES:
        raise JacspecError(
            f"{origin} has model_type {model_type!r}, which jacspec does not support. "
            + suggest(model_type, ARCHITECTURES)
        )
    architecture = ARCHITECTURES[model_type]
    # Heavy import, and only here: HF's class knows the defaults.
    from transformers import CONFIG_MAPPING, logging

    logging.set_verbosity_error()  # what HF warns of, such as special tokens outside the vocabulary, is judged here
    config_class = CONFIG_MAPPING[model_type]
    try:
        config = config_class(**raw).to_dict()
    except Exception as error:  # HF raises many types for values it does not accept
        raise JacspecError(f"{origin} is not a valid {model_type} config: {error}") from error
    defaults = config_class().to_dict()
    ignored = IGNORED_EVERYWHERE.keys() | architecture.ignored.keys()
    unknown = [
        f"{key}={value!r}"
        for key, value in config.items()
        if key not in architecture.handled and key not in ignored and value != defaults.get(key, _MISSING)
    ]
    if unknown:
        raise JacspecError(
            f"{origin} sets what jacspec cannot honour for {model_type}: {', '.join(sorted(unknown))}. "
            "Nothing was computed; remove the key if it changes nothing."
        )
    spec = architecture.spec(config)
    _check_spec(spec, origin)
    return architecture, config, spec


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `JacspecError` where there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JacspecError(f"{file} is missing: give a folder in Hugging Face layout.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise JacspecError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise JacspecError(f"{file} holds a {type(content).__name__}, not a JSON object.")
    return content


def _check_spec(spec: ModelSpec, origin: str) -> None:
    if not spec.blocks or min(spec.vocab, spec.positions) < 1:
        raise JacspecError(f"{origin} describes a model without layers, vocabulary or positions.")
    for block in spec.blocks[:1]:
        if block.heads < 1 or block.d_head * block.heads != block.d_model:
            raise JacspecError(f"{origin}: {block.d_model} dimensions do not divide into {block.heads} heads.")
        if block.activation not in ACTIVATIONS:
            raise JacspecError(
                f"{origin} asks for the activation {block.activation!r}. " + suggest(block.activation, ACTIVATIONS)
            )
