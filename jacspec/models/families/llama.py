"""Decoders with RMSNorm, rotary positions and gated MLPs: Llama and its kin."""

import functools

from jacspec.errors import JacspecError
from jacspec.models.architectures import (
    FREQUENCIES,
    TRAINING,
    Architecture,
    Config,
    Rules,
    fused,
    linear,
    read_rotary,
    same,
)
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import AttentionSpec, MLPSpec, NormSpec, Spread

SLIDING = "sliding_attention"
LAYER_TYPES = ("full_attention", SLIDING)


def _spec(
    config: Config,
    *,
    place: str = "pre",
    qkv_bias: bool | None = None,
    qk_norm: str | None = None,
    gemma: bool = False,
    softcap: float | None = None,
    windows: bool = True,
) -> ModelSpec:
    """Read what all of these families have in common.

    **Arguments:** `qkv_bias`, where the family fixes it, else `attention_bias` of the config is for all four
    projections; `gemma`, for unit-offset norms, scaled embeddings, capped logits and the scale of queries;
    `softcap`, of the attention scores; `windows`, whether the family has sliding windows at all.
    """
    d_model, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    kv_heads = config["num_key_value_heads"] or heads
    d_head = config.get("head_dim") or d_model // heads
    std, eps = config["initializer_range"], config["rms_norm_eps"]
    out_bias = bool(config.get("attention_bias", False)) if qkv_bias is None else False
    norm = NormSpec("rmsnorm", eps, unit_offset=gemma)
    activation = config["hidden_activation"] if gemma else config["hidden_act"]
    window, types = _windows(config, layers) if windows else (None, ("full_attention",) * layers)
    rope = config["rope_parameters"]

    def block(layer: int) -> BlockSpec:
        # Gemma 3 gives rotary parameters by the type of layer.
        own_rope = rope.get(types[layer], rope)
        return BlockSpec(
            d_model=d_model,
            attention=AttentionSpec(
                heads,
                kv_heads,
                d_head,
                (config["query_pre_attn_scalar"] if gemma else d_head) ** -0.5,
                qkv_bias=out_bias if qkv_bias is None else qkv_bias,
                out_bias=out_bias,
                window=window if types[layer] == SLIDING else None,
                softcap=softcap,
                rotary=read_rotary(own_rope, d_head),
                qk_norm=qk_norm,
            ),
            mlp=MLPSpec(config["intermediate_size"], activation, gated=True, bias=bool(config.get("mlp_bias", False))),
            norm=norm,
            std=Spread(std, std, std, std, std, std),
            place=place,
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        blocks=tuple(block(layer) for layer in range(layers)),
        embedding=EmbeddingSpec(d_model, std, scale=d_model**0.5 if gemma else 1.0),
        head=HeadSpec(d_model, std, norm, softcap=config.get("final_logit_softcapping") if gemma else None),
        tied=config["tie_word_embeddings"],
    )


def _windows(config: Config, layers: int) -> tuple[int | None, tuple[str, ...]]:
    """Read the sliding window and the type of every layer; without types, a window holds for all layers."""
    window, types = config.get("sliding_window"), config.get("layer_types")
    if types is None:
        types = [SLIDING if window is not None else "full_attention"] * layers
    if unknown := sorted(set(types) - set(LAYER_TYPES)):
        raise JacspecError(f"layer_types has {unknown}. Nearest supported: {', '.join(LAYER_TYPES)}.")
    if len(types) != layers:
        raise JacspecError(f"layer_types names {len(types)} layers of {layers}.")
    return window, tuple(types)


def _gemma_spec(config: Config, qk_norm: str | None) -> ModelSpec:
    if config.get("use_bidirectional_attention"):
        raise JacspecError("use_bidirectional_attention is not supported. Nearest supported: causal Gemma.")
    # HF's Gemma 3 has a key for the softcap of its scores and does not act on it: only None passes there.
    softcap = config["attn_logit_softcapping"] if qk_norm is None else None
    return _spec(config, place="sandwich", gemma=True, qk_norm=qk_norm, softcap=softcap)


def _norms(pre: str | None, post: str | None, branch: str) -> Rules:
    named = (("norm", pre), ("output_norm", post))
    return tuple(
        same(f"layers.{{layer}}.{name}.weight", f"{branch}_norms.{leaf}.weight") for leaf, name in named if name
    )


ATTENTION = (
    *linear("layers.{layer}.self_attn.q_proj", "attn.q"),
    *linear("layers.{layer}.self_attn.k_proj", "attn.k"),
    *linear("layers.{layer}.self_attn.v_proj", "attn.v"),
    *linear("layers.{layer}.self_attn.o_proj", "attn.o"),
    same("layers.{layer}.self_attn.q_norm.weight", "attn.q_norm.weight"),
    same("layers.{layer}.self_attn.k_norm.weight", "attn.k_norm.weight"),
)
MLP = (
    *linear("layers.{layer}.mlp.gate_proj", "mlp.gate"),
    *linear("layers.{layer}.mlp.up_proj", "mlp.up"),
    *linear("layers.{layer}.mlp.down_proj", "mlp.down"),
)
PRE = (*_norms("input_layernorm", None, "attn"), *_norms("post_attention_layernorm", None, "mlp"))
OUTPUT = (*_norms(None, "post_attention_layernorm", "attn"), *_norms(None, "post_feedforward_layernorm", "mlp"))
SANDWICH = (
    *_norms("input_layernorm", "post_attention_layernorm", "attn"),
    *_norms("pre_feedforward_layernorm", "post_feedforward_layernorm", "mlp"),
)

_row = functools.partial(
    Architecture,
    embedding=(same("embed_tokens.weight", "token"),),
    blocks={"": (*PRE, *ATTENTION, *MLP)},
    head=(same("norm.weight", "norm.weight"), same("lm_head.weight", "unembed.weight")),
    tied={"lm_head.weight": "embed_tokens.weight"},
    unused={"layers.{layer}.self_attn.rotary_emb.inv_freq": FREQUENCIES},
)

WINDOW_TYPES = {
    "max_window_layers": "layer_types says which layers slide",
    "use_sliding_window": "layer_types says which layers slide",
}

LLAMA = _row(model_type="llama", spec=functools.partial(_spec, windows=False))
MISTRAL = _row(model_type="mistral", spec=functools.partial(_spec, qkv_bias=False))
QWEN2 = _row(
    model_type="qwen2",
    spec=functools.partial(_spec, qkv_bias=True),
    ignored={**WINDOW_TYPES, "use_mrope": "concerns Qwen's vision models"},
)
QWEN3 = _row(model_type="qwen3", spec=functools.partial(_spec, qk_norm="head"), ignored=WINDOW_TYPES)
OLMO2 = _row(
    model_type="olmo2",
    spec=functools.partial(_spec, place="output", qk_norm="full", windows=False),
    blocks={"": (*OUTPUT, *ATTENTION, *MLP)},
)
GEMMA2 = _row(
    model_type="gemma2",
    spec=functools.partial(_gemma_spec, qk_norm=None),
    blocks={"": (*SANDWICH, *ATTENTION, *MLP)},
    ignored={"hidden_act": "an old name of hidden_activation that HF no longer reads"},
)
GEMMA3 = _row(
    model_type="gemma3_text",
    spec=functools.partial(_gemma_spec, qk_norm="head"),
    blocks={"": (*SANDWICH, *ATTENTION, *MLP)},
    ignored={
        "_sliding_window_pattern": "layer_types says which layers slide",
        "sliding_window_pattern": "layer_types says which layers slide",
    },
)
PHI3 = _row(
    model_type="phi3",
    spec=functools.partial(_spec, qkv_bias=False),
    blocks={
        "": (
            *PRE,
            fused("layers.{layer}.self_attn.qkv_proj.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight"),
            *linear("layers.{layer}.self_attn.o_proj", "attn.o"),
            fused("layers.{layer}.mlp.gate_up_proj.weight", "mlp.gate.weight", "mlp.up.weight"),
            *linear("layers.{layer}.mlp.down_proj", "mlp.down"),
        )
    },
    ignored={
        "attention_bias": "HF's Phi-3 has no biases whatever this says",
        "auto_map": "names code from before HF had the family; it is not run",
        "embd_pdrop": TRAINING,
        "original_max_position_embeddings": "read by rotary kinds that are refused",
        "partial_rotary_factor": "already in rope_parameters",
        "resid_pdrop": TRAINING,
    },
)
