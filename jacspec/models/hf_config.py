"""What an HF config says, checked key by key: every one is read, ignored with a reason, or at its default."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError, blaming, suggest
from jacspec.models.architectures import IGNORED_EVERYWHERE, Architecture, ReadKeys
from jacspec.models.block import BlockSpec, ModelSpec
from jacspec.models.deferred_torch import deferring_torch
from jacspec.models.families import ARCHITECTURES, NEAREST
from jacspec.models.layers import ACTIVATIONS
from jacspec.reading import MAX_JSON_BYTES, parse_json, read_file

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")
MOST_LISTED = 25_000
LARGEST = 2**31 - 1
_MISSING = object()


def read_config(raw: Mapping[str, Any], origin: str) -> tuple[Architecture, dict[str, Any], ModelSpec]:
    """Find the family of an HF config and check that every key is read, ignored or at its default.

    **Returns:** the family, the whole config with class defaults, the `ModelSpec`.

    **Raises:** `JacspecError` for what is not supported, with the reason and the nearest thing that is.
    """
    architecture = _find_family(raw, origin)
    model_type = architecture.model_type
    invalid = f"{origin} is not a valid {model_type} config"
    _check_counts(raw, origin)
    with deferring_torch():
        # Heavy import, and only here: HF's class knows the defaults.
        from transformers import CONFIG_MAPPING, logging

        logging.set_verbosity_error()  # what HF warns of, such as special tokens outside the vocabulary, is judged here
        config_class = CONFIG_MAPPING[model_type]
        with blaming(invalid), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old names of keys
            config = config_class(**raw).to_dict()
        defaults = config_class().to_dict()
    reading = ReadKeys(config)
    with blaming(invalid):
        spec = _read_spec(architecture, reading, origin)
    known = IGNORED_EVERYWHERE.keys() | architecture.ignored.keys() | reading.read
    unknown = [
        f"{key}={value!r}" for key, value in config.items() if key not in known and value != defaults.get(key, _MISSING)
    ]
    if unknown:
        raise JacspecError(
            f"{origin} sets what jacspec cannot honour for {model_type}: {', '.join(sorted(unknown))}. "
            "Nothing was computed; remove the key if it changes nothing."
        )
    return architecture, config, spec


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `JacspecError` where there is none."""
    if not file.exists():
        raise JacspecError(f"{file} is missing: give a folder in Hugging Face layout.")
    content = parse_json(read_file(file, most=MAX_JSON_BYTES), str(file))
    if not isinstance(content, dict):
        raise JacspecError(f"{file} holds a {type(content).__name__}, not a JSON object.")
    return content


def _check_counts(raw: Mapping[str, Any], origin: str) -> None:
    """Refuse numbers of layers and labels for which HF's class or a spec would make lists that fill the memory."""
    for key, value in raw.items():
        if isinstance(value, int) and value > MOST_LISTED and ("layer" in str(key) or key == "num_labels"):
            raise JacspecError(f"{origin} has {key}={value}. Accepted: {MOST_LISTED} at most.")


def _read_spec(architecture: Architecture, config: ReadKeys, origin: str) -> ModelSpec:
    """Make the spec of a config and refuse one that describes no model."""
    try:
        spec = architecture.spec(config)
    except JacspecError as error:
        raise JacspecError(f"{origin}: {error}") from None
    if not spec.blocks or min(spec.vocab, spec.positions or 1) < 1:
        raise JacspecError(f"{origin} describes a model without layers, vocabulary or positions.")
    for block in dict.fromkeys(spec.blocks):
        _check_block(block, origin, free_heads=bool(config.read & {"head_dim", "d_kv"}))
        sizes = (block.d_model, block.attention.heads * block.attention.d_head, block.mlp.d_ff)
        if max(*sizes, spec.vocab, spec.positions or 1) > LARGEST:
            raise JacspecError(f"{origin} has a size above {LARGEST}, beyond what arrays are indexed with.")
    return spec


def _find_family(raw: Mapping[str, Any], origin: str) -> Architecture:
    """Look up the family, refusing what no family's forward pass here could honour."""
    model_type = str(raw.get("model_type"))
    if raw.get("quantization_config"):
        raise JacspecError(
            f"{origin} has a quantization_config: quantised weights are not supported. "
            "Nearest supported: the checkpoint it was made from, in float32, float16 or bfloat16."
        )
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    if model_type in NEAREST:
        reason, nearest = NEAREST[model_type]
        why = f"{reason}. Nearest supported: {nearest}."
    elif experts := [key for key in EXPERTS if raw.get(key)]:
        why = f"a mixture of experts ({', '.join(experts)}). " + suggest(model_type, ARCHITECTURES)
    elif raw.get("auto_map"):
        why = "it comes with code of its own (auto_map), which is never run. " + suggest(model_type, ARCHITECTURES)
    else:
        why = suggest(model_type, ARCHITECTURES)
    raise JacspecError(f"{origin} has model_type {model_type!r}, which jacspec does not support: {why}")


def _check_block(block: BlockSpec, origin: str, *, free_heads: bool) -> None:
    """Refuse sizes that do not fit together and names that are not known."""
    spec, mlp = block.attention, block.mlp
    if min(block.d_model, spec.heads, spec.kv_heads, spec.d_head, mlp.d_ff) < 1:
        raise JacspecError(f"{origin} has a size below 1 ({block.d_model} dimensions, {spec.heads} heads).")
    if not free_heads and spec.d_head * spec.heads != block.d_model:
        raise JacspecError(f"{origin}: {block.d_model} dimensions do not divide into {spec.heads} heads.")
    if spec.heads % spec.kv_heads:
        raise JacspecError(f"{origin}: {spec.heads} heads do not divide into {spec.kv_heads} key and value heads.")
    if spec.rotary is not None and (spec.rotary.dim % 2 or not 0 < spec.rotary.dim <= spec.d_head):
        raise JacspecError(f"{origin}: rotary embeddings cannot turn {spec.rotary.dim} of {spec.d_head} coordinates.")
    if spec.window is not None and spec.window < 1:
        raise JacspecError(f"{origin}: a sliding window of {spec.window} tokens shows nothing.")
    if mlp.activation not in ACTIVATIONS:
        raise JacspecError(
            f"{origin} asks for the activation {mlp.activation!r}. " + suggest(str(mlp.activation), ACTIVATIONS)
        )
