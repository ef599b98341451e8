"""Families that are refused: why, and the supported one whose blocks are built most like theirs."""

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from jacspec.errors import suggest

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_intermediate_size")

_NO_ATTENTION = "there is no attention to differentiate"
_OTHER_TOWERS = "it holds towers for images or sound"

NEAREST: Mapping[str, tuple[str, str]] = {
    "baichuan": ("its fused attention has no row here", "llama"),
    "bart": ("an encoder-decoder with learned positions", "t5"),
    "big_bird": ("its attention is sparse", "bert"),
    "chatglm": ("its fused attention has no row here", "llama"),
    "codegen": ("its fused attention has no row here", "gptj"),
    "ctrl": ("its sinusoidal positions have no row here", "gpt2"),
    "dbrx": ("a mixture of experts behind LayerNorms", "mixtral"),
    "deberta": ("its disentangled attention has no counterpart here", "bert"),
    "deberta-v2": ("its disentangled attention has no counterpart here", "bert"),
    "deepseek": ("a mixture of experts", "llama"),
    "deepseek_v2": ("a mixture of experts with latent attention", "llama"),
    "deepseek_v3": ("a mixture of experts with latent attention", "llama"),
    "ernie": ("its task embeddings have no row here", "bert"),
    "exaone4": ("its norms and windows have no row here", "olmo2"),
    "falcon_h1": (f"half a state-space model: in that half {_NO_ATTENTION}", "llama"),
    "flaubert": ("its language embeddings have no row here", "bert"),
    "gemma3n": ("its side streams have no counterpart here", "gemma3_text"),
    "gemma4": (_OTHER_TOWERS, "gemma3"),
    "gpt_neox_japanese": ("its biases have no row here", "gpt_neox"),
    "idefics3": (_OTHER_TOWERS, "llama"),
    "internlm": ("its biases have no row here", "llama"),
    "internlm2": ("its fused attention has no row here", "llama"),
    "jamba": (f"half a state-space model: in that half {_NO_ATTENTION}", "llama"),
    "llama4": ("a mixture of experts with towers for images", "llama"),
    "llava": (_OTHER_TOWERS, "llama"),
    "longformer": ("its attention is sparse", "roberta"),
    "mamba": (f"a state-space model: {_NO_ATTENTION}", "llama"),
    "mamba2": (f"a state-space model: {_NO_ATTENTION}", "llama"),
    "marian": ("an encoder-decoder with sinusoidal positions", "t5"),
    "mbart": ("an encoder-decoder with learned positions", "t5"),
    "minicpm": ("its scaled embeddings and branches have no row here", "llama"),
    "ministral3": (_OTHER_TOWERS, "mistral"),
    "mistral3": (_OTHER_TOWERS, "mistral"),
    "mllama": (_OTHER_TOWERS, "llama"),
    "mobilebert": ("its bottlenecks have no counterpart here", "bert"),
    "mpnet": ("an encoder with relative position biases", "bert"),
    "mpt": ("its fused attention has no row here", "bloom"),
    "nemotron": ("its norms have no row here", "llama"),
    "nomic_bert": ("a rotary encoder whose norms stand after the addition", "bert"),
    "openai-gpt": ("its norms stand after the addition", "gpt2"),
    "pegasus": ("an encoder-decoder with sinusoidal positions", "t5"),
    "persimmon": ("its norms of queries and keys have no row here", "gpt_neox"),
    "phimoe": ("its router has no counterpart here", "mixtral"),
    "qwen": ("its fused attention has no row here", "qwen2"),
    "qwen2_5_vl": (_OTHER_TOWERS, "qwen2"),
    "qwen2_moe": ("a mixture of experts beside one that is shared", "qwen3_moe"),
    "qwen2_vl": (_OTHER_TOWERS, "qwen2"),
    "qwen3_next": (f"half of it linear attention: in that half {_NO_ATTENTION}", "qwen3"),
    "qwen3_vl": (_OTHER_TOWERS, "qwen3"),
    "recurrent_gemma": (f"partly recurrent: in those layers {_NO_ATTENTION}", "gemma2"),
    "rwkv": (f"a recurrent model: {_NO_ATTENTION}", "gpt_neox"),
    "rwkv5": (f"a recurrent model: {_NO_ATTENTION}", "gpt_neox"),
    "switch_transformers": ("a mixture of experts", "t5"),
    "xglm": ("its sinusoidal positions have no row here", "opt"),
    "xlm": ("its language embeddings have no row here", "bert"),
    "xlm-roberta-xl": ("its norms stand before the branches", "xlm-roberta"),
    "xlnet": ("its two-stream relative attention has no counterpart here", "bert"),
}
"""Well-known families that are refused: why, and the supported one that is built most like them."""


def nearest_relative(model_type: str, raw: Mapping[str, Any], supported: Collection[str]) -> str:
    """Say why a family is not supported, and which supported one is built most like it.

    Built, not spelled: a name is corrected only where HF knows no such family and it is a letter or two off.

    **Arguments:** `model_type`, HF's name of the family; `raw`, its config; `supported`, the families that are.
    """
    known = model_type in NEAREST or _is_known(model_type)
    if not known and difflib.get_close_matches(model_type, supported, n=1, cutoff=0.85):
        return suggest(model_type, supported)
    reason, nearest = NEAREST.get(model_type) or ("it has no row here", _by_structure(raw, supported))
    if experts := [key for key in EXPERTS if raw.get(key)]:
        reason = f"a mixture of experts ({', '.join(experts)})"
    elif raw.get("auto_map") and not known:
        reason = "it comes with code of its own (auto_map), which is never run"
    return f"{reason}. Nearest supported: {nearest}."


def _is_known(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return model_type in CONFIG_MAPPING_NAMES


def _by_structure(raw: Mapping[str, Any], supported: Collection[str]) -> str:
    """Tell from the keys of a config which supported family is built most like it."""
    tower = raw.get("text_config")
    if isinstance(tower, Mapping):
        named = tower.get("model_type")
        return str(named) if named in supported else _by_structure(tower, supported)
    keys = " ".join(raw)
    classes = str(raw.get("architectures"))
    if raw.get("is_encoder_decoder") or "decoder_layers" in keys:
        return "t5"
    if "rms" in keys:
        return "mixtral" if any(raw.get(key) for key in EXPERTS) else "llama"
    if "ForMaskedLM" in classes or "type_vocab_size" in raw:
        return "bert"
    return "gpt_neox" if "rope" in keys or "rotary" in keys else "gpt2"
