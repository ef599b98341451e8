"""What an HF config says, key by key: what HF's code reads is honoured, ignored with a reason, or refused."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jacspec.errors import JacspecError, blaming, suggest
from jacspec.files import MAX_JSON_BYTES, parse_json, read_file
from jacspec.models.architectures import IGNORED_EVERYWHERE, Architecture, ReadKeys, require
from jacspec.models.block import BlockSpec, ModelSpec
from jacspec.models.class_defaults import complete
from jacspec.models.families import ARCHITECTURES
from jacspec.models.families.relatives import nearest_relative
from jacspec.models.layers import ACTIVATIONS

MOST_LISTED = 25_000
LARGEST = 2**31 - 1

HONOURED_EVERYWHERE = frozenset({"is_causal"})
"""Keys that are read here for every family."""

REFUSED: Mapping[str, tuple[str, str]] = {
    "per_layer_config": ("layers of other sizes are", "one configuration for all layers"),
    "quantization_config": (
        "quantised weights are",
        "the checkpoint it was made from, in float32, float16 or bfloat16",
    ),
    "transformers_weights": ("weights in a file of another name are", "model.safetensors"),
}
"""Keys that HF reads for every family and that are refused where they say anything: what, and the way on."""


class HFConfig(NamedTuple):
    """A config that was understood.

    `config` is the whole of it with class defaults. `unread` are the keys of the file that no line of HF's code for the
    family reads, whatever their value: they change nothing, and are named so that nobody takes them for honoured.
    """

    architecture: Architecture
    config: dict[str, Any]
    spec: ModelSpec
    unread: tuple[str, ...]


def read_config(raw: Mapping[str, Any], origin: str) -> HFConfig:
    """Find the family of an HF config and what its keys say of the model.

    A key that HF's code for the family reads is honoured, ignored with a reason, or refused; a key that it does not
    read is carried on and named. Old spellings are translated by HF's own class.

    **Raises:** `JacspecError` for what is not supported, with the reason and the nearest thing that is.
    """
    architecture = _find_family(raw, origin)
    model_type = architecture.model_type
    invalid = f"{origin} is not a valid {model_type} config"
    _check_counts(raw, origin)
    config, aliases = complete(raw, model_type, architecture.tower, origin=origin)
    config["model_type"] = model_type
    tower = config.get(architecture.tower, {})
    reading = ReadKeys(tower | {"tie_word_embeddings": config["tie_word_embeddings"]} if tower else config)
    with blaming(invalid):
        spec = _read_spec(architecture, reading, origin)
    unread = sorted(_unread(architecture, raw, {key: aliases.get(key, key) for key in raw}, reading.read))
    return HFConfig(architecture, config, spec, tuple(unread))


def _unread(
    architecture: Architecture, raw: Mapping[str, Any], names: Mapping[str, str], read: set[str]
) -> Iterator[str]:
    """Name the keys of a file that are not accounted for; those of a text tower by `TOWER.KEY`."""
    ignored = IGNORED_EVERYWHERE.keys() | architecture.ignored.keys()
    if tower := architecture.tower:
        yield from (f"{tower}.{key}" for key in raw.get(tower) or {} if key not in ignored | read)
        read = {tower, "tie_word_embeddings"}
    yield from (key for key, name in names.items() if key not in ignored and name not in ignored | read)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises `JacspecError` where there is none."""
    if not file.exists():
        raise JacspecError(f"{file} is missing: give a folder in Hugging Face layout.")
    content = parse_json(read_file(file, most=MAX_JSON_BYTES), str(file))
    if not isinstance(content, dict):
        raise JacspecError(f"{file} holds a {type(content).__name__}, not a JSON object.")
    return content


LAYER_COUNTS = ("n_layer", "n_layers", "num_hidden_layers", "num_layers")


def _check_counts(raw: Mapping[str, Any], origin: str) -> None:
    """Refuse numbers of layers and labels for which HF's class or a spec would make lists that fill the memory."""
    for key, value in raw.items():
        if isinstance(value, int) and value > MOST_LISTED and ("layer" in str(key) or key == "num_labels"):
            raise JacspecError(f"{origin} has {key}={value}. Accepted: {MOST_LISTED} at most.")
        if key in LAYER_COUNTS and value == 0:  # HF's class may divide by it
            raise JacspecError(f"{origin} has {key}=0 and describes a model without layers.")


def _read_spec(architecture: Architecture, config: ReadKeys, origin: str) -> ModelSpec:
    """Make the spec of a config and refuse one that describes no model."""
    try:
        spec = architecture.spec(config)
        causal = any(block.attention.causal for block in spec.blocks)
        if config.get("is_causal") is not None:
            require(config, "is_causal", causal, "a decoder that is causal, an encoder that is not")
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
    for key, (what, nearest) in REFUSED.items():
        if raw.get(key):
            raise JacspecError(f"{origin} has a {key}: {what} not supported. Nearest supported: {nearest}.")
    model_type = str(raw.get("model_type") or _model_type_of(raw.get("architectures")))
    if model_type in ARCHITECTURES:
        return ARCHITECTURES[model_type]
    if model_type == "None":
        raise JacspecError(
            f"{origin} has no model_type, and no architectures that tell it. Add one. " + suggest("", ARCHITECTURES)
        )
    why = nearest_relative(model_type, raw, ARCHITECTURES)
    raise JacspecError(f"{origin} has model_type {model_type!r}, which jacspec does not support: {why}")


def _model_type_of(architectures: Any) -> str | None:
    """Tell the family from HF's class, as in files of 2019: `BertForMaskedLM` is a `bert`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    found = {
        stem: model_type
        for model_type, config_class in CONFIG_MAPPING_NAMES.items()
        if re.match(rf"{(stem := config_class.removesuffix('Config'))}(For|With|Model|LMHead|DoubleHeads|$)", named)
    }
    return found[max(found, key=len)] if found else None


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
