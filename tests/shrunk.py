"""Real configurations made small: sizes are reduced, every other key and value stays."""

from collections.abc import Mapping
from typing import Any

LAYERS, HEADS, WIDTH, VOCAB = 2, 4, 32, 64
GEMMA3_LAYERS = 7
"""So many that one of them sees everything: every sixth does."""

SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "dim", "d_model"), WIDTH),
    **dict.fromkeys(("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", "d_ff"), 40),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    "d_kv": 8,
    "moe_intermediate_size": 16,
    "num_experts": 8,
    "num_local_experts": 4,
    "rotary_dim": 4,
    "sliding_window": 5,
    "vocab_size": VOCAB,
}


def shrink(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce the sizes of a config, keeping how heads are shared, how wide they are beside the stream, and kinds."""
    small = {key: SIZES.get(key, value) if value is not None else None for key, value in raw.items()}
    heads, width = raw.get("num_attention_heads"), raw.get("hidden_size")
    if shared := raw.get("num_key_value_heads"):
        small["num_key_value_heads"] = HEADS if shared == heads else 1 if shared == 1 else 2
    if raw.get("head_dim"):
        small["head_dim"] = 8 if raw["head_dim"] * heads == width else 10
    if raw.get("word_embed_proj_dim"):
        small["word_embed_proj_dim"] = WIDTH if raw["word_embed_proj_dim"] == width else 16
    if (raw.get("pad_token_id") or 0) >= VOCAB:
        small["pad_token_id"] = 1
    if raw.get("model_type") == "gemma3_text":
        small["num_hidden_layers"] = GEMMA3_LAYERS
    if types := raw.get("layer_types"):
        small["layer_types"] = types[: small["num_hidden_layers"]]
    if isinstance(scaling := raw.get("rope_scaling"), Mapping):
        turned = int(small.get("head_dim") or 8) // 2
        small["rope_scaling"] = {
            key: value[:turned] if isinstance(value, list) else value for key, value in scaling.items()
        }
    if isinstance(tower := raw.get("text_config"), Mapping):
        small["text_config"] = shrink({"num_attention_heads": 8, "num_key_value_heads": 4, **tower})
    return small
