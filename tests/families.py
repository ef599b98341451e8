"""The table of cases on which every family is compared with HF's PyTorch: tiny random configurations."""

from typing import Any, NamedTuple

from oracles import Layout


class Family(NamedTuple):
    """A family's HF layout, the smallest configuration, and what each case changes in it."""

    layout: Layout
    base: dict[str, Any]
    cases: dict[str, dict[str, Any]]


def _decoder(stack: str, attn: tuple[str, ...], mlp: tuple[str, ...]) -> Layout:
    return Layout({"": stack}, {"attn": attn, "mlp": mlp})


GPT2 = {"vocab_size": 37, "n_positions": 24, "n_embd": 24, "n_head": 4, "n_layer": 2}
LLAMA = {
    "vocab_size": 37,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
"""Grouped, untied; HF's own head_dim of other families would be too large."""
HEAD = {"head_dim": 6}
MULTI_QUERY = {
    "hidden_size": 20,
    "head_dim": 10,
    "num_key_value_heads": 1,
    "intermediate_size": 13,
    "vocab_size": 11,
    "tie_word_embeddings": True,
}
"""Awkward sizes too: heads wider than d_model / heads, a prime d_ff."""
FULL = {"num_key_value_heads": 4, "tie_word_embeddings": True}
ALTERNATING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
BERT = {
    "vocab_size": 37,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
}
AWKWARD_BERT = {"hidden_size": 35, "num_attention_heads": 5, "intermediate_size": 13, "vocab_size": 11}
OPT = {
    "vocab_size": 37,
    "hidden_size": 24,
    "word_embed_proj_dim": 24,
    "num_hidden_layers": 2,
    "ffn_dim": 40,
    "num_attention_heads": 4,
    "max_position_embeddings": 24,
}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 100.0, **more}}


LLAMA3 = _rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = _rope("yarn", factor=4.0, original_max_position_embeddings=16)
YARN_MORE = _rope(
    "yarn",
    factor=8.0,
    original_max_position_embeddings=16,
    beta_fast=4.0,
    beta_slow=2.0,
    mscale=0.7,
    mscale_all_dim=0.5,
    truncate=False,
)

PRE = _decoder("model.layers", ("input_layernorm", "self_attn"), ("post_attention_layernorm", "mlp"))
ONE_NORM = _decoder("model.layers", ("input_layernorm", "self_attn"), ("input_layernorm", "mlp"))
SANDWICH = _decoder(
    "model.layers",
    ("input_layernorm", "self_attn", "post_attention_layernorm"),
    ("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
)
OUTPUT = _decoder("model.layers", ("self_attn", "post_attention_layernorm"), ("mlp", "post_feedforward_layernorm"))
ROBERTA = Family(
    _decoder("roberta.encoder.layer", ("attention.self", "attention.output.dense"), ("intermediate", "output.dense")),
    {**BERT, "pad_token_id": 1},
    {"tied": {}, "untied": {"tie_word_embeddings": False, "pad_token_id": 0}, "awkward": AWKWARD_BERT},
)
T5 = Layout(
    {"encoder": "encoder.block", "decoder": "decoder.block"},
    {
        "encoder.attn": ("layer.0.layer_norm", "layer.0.SelfAttention"),
        "encoder.mlp": ("layer.1.layer_norm", "layer.1.DenseReluDense"),
        "decoder.attn": ("layer.0.layer_norm", "layer.0.SelfAttention"),
        "decoder.cross": ("layer.1.layer_norm", "layer.1.EncDecAttention"),
        "decoder.mlp": ("layer.2.layer_norm", "layer.2.DenseReluDense"),
    },
)
T5_SIZES = {
    "vocab_size": 37,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
GEMMA = {**LLAMA, **HEAD, "query_pre_attn_scalar": 7, "pad_token_id": None}

FAMILIES: dict[str, Family] = {
    "gpt2": Family(
        _decoder("transformer.h", ("ln_1", "attn"), ("ln_2", "mlp")),
        GPT2,
        {
            "tied": {},
            "untied": {"tie_word_embeddings": False},
            "one head": {"n_head": 1, "layer_norm_epsilon": 1e-2, "activation_function": "gelu"},
            "awkward": {"n_embd": 35, "n_head": 5, "n_inner": 13, "vocab_size": 11, "activation_function": "silu"},
            "relu unscaled": {"activation_function": "relu", "scale_attn_weights": False},
            "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
        },
    ),
    "gpt_bigcode": Family(
        _decoder("transformer.h", ("ln_1", "attn"), ("ln_2", "mlp")),
        GPT2,
        {
            "multi-query": {"n_inner": 13},
            "full": {"multi_query": False, "tie_word_embeddings": False, "scale_attn_weights": False},
        },
    ),
    "gpt_neo": Family(
        _decoder("transformer.h", ("ln_1", "attn"), ("ln_2", "mlp")),
        {
            "vocab_size": 37,
            "max_position_embeddings": 24,
            "hidden_size": 24,
            "num_heads": 4,
            "num_layers": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 5,
        },
        {
            "local": {},
            "untied": {
                "tie_word_embeddings": False,
                "attention_types": [[["local"], 2]],
                "window_size": 1,
                "intermediate_size": 13,
                "num_heads": 3,
            },
        },
    ),
    "gptj": Family(
        _decoder("transformer.h", ("ln_1", "attn"), ("ln_1", "mlp")),
        {**GPT2, "rotary_dim": 4},
        {
            "untied": {},
            "tied": {"tie_word_embeddings": True, "rotary_dim": 6},
            "awkward": {"n_embd": 30, "n_head": 5, "n_inner": 13, "rotary_dim": 2},
        },
    ),
    "gpt_neox": Family(
        _decoder("gpt_neox.layers", ("input_layernorm", "attention"), ("post_attention_layernorm", "mlp")),
        {key: LLAMA[key] for key in LLAMA if key != "num_key_value_heads"},
        {
            "parallel": {
                "hidden_size": 32,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            },
            "sequential tied": {"use_parallel_residual": False, "tie_word_embeddings": True, "hidden_size": 32},
            "awkward": {
                "hidden_size": 40,
                "num_attention_heads": 5,
                "intermediate_size": 13,
                "attention_bias": False,
                "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
            },
        },
    ),
    "opt": Family(
        _decoder(
            "model.decoder.layers",
            ("self_attn_layer_norm", "self_attn"),
            ("final_layer_norm", "fc1", "activation_fn", "fc2"),
        ),
        OPT,
        {
            "tied": {},
            "untied": {"tie_word_embeddings": False, "activation_function": "gelu"},
            "projected after": {"word_embed_proj_dim": 16, "do_layer_norm_before": False},
            "no bias": {"enable_bias": False, "_remove_final_layer_norm": True, "num_attention_heads": 3},
        },
    ),
    "llama": Family(
        PRE,
        LLAMA,
        {
            "grouped": {"attention_bias": True, "mlp_bias": True},
            "multi-query": MULTI_QUERY,
            "linear": _rope("linear", factor=3.0),
            "dynamic": _rope("dynamic", factor=3.0),
            "llama3": LLAMA3,
            "yarn": YARN,
            "yarn, every number": YARN_MORE,
        },
    ),
    "mistral": Family(
        PRE,
        LLAMA,
        {
            "grouped window": {"sliding_window": 5},
            "full": {**FULL, "sliding_window": None},
            "multi-query": {**MULTI_QUERY, "sliding_window": 1},
        },
    ),
    "qwen2": Family(
        PRE,
        LLAMA,
        {
            "grouped": {},
            "full windows": {**FULL, **ALTERNATING, "use_sliding_window": True},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13},
        },
    ),
    "qwen3": Family(
        PRE,
        {**LLAMA, **HEAD},
        {
            "grouped": {},
            "full windows": {**FULL, **ALTERNATING, "use_sliding_window": True, "attention_bias": True},
            "multi-query": MULTI_QUERY,
        },
    ),
    "gemma": Family(
        PRE,
        {**LLAMA, **HEAD, "pad_token_id": None},
        {
            "grouped": {"tie_word_embeddings": False},
            "full": {**FULL, "attention_bias": True},
            "multi-query": MULTI_QUERY,
        },
    ),
    "gemma2": Family(
        SANDWICH,
        GEMMA,
        {
            "grouped windows": {"sliding_window": 5, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
            "full": {**FULL, "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True},
            "multi-query": {**MULTI_QUERY, "tie_word_embeddings": False, "hidden_activation": "silu"},
        },
    ),
    "gemma3": Family(
        SANDWICH._replace(stacks={"": "model.language_model.layers"}),
        GEMMA,
        {"windows": {**ALTERNATING, "tie_word_embeddings": True}, "capped": {"final_logit_softcapping": 2.0}},
    ),
    "gemma3_text": Family(
        SANDWICH,
        GEMMA,
        {
            "grouped windows": {
                **ALTERNATING,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
                },
            },
            "full": {**FULL, "attention_bias": True},
            "multi-query": {**MULTI_QUERY, "tie_word_embeddings": False, "final_logit_softcapping": 2.0},
        },
    ),
    "olmo2": Family(
        OUTPUT,
        {**LLAMA, "pad_token_id": None},
        {
            "grouped": {},
            "full": {**FULL, "attention_bias": True},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13},
        },
    ),
    "olmo": Family(
        PRE,
        {**LLAMA, "pad_token_id": None},
        {
            "grouped clipped": {"clip_qkv": 1.0},
            "full": {**FULL, "attention_bias": True},
            "multi-query clipped": {
                "num_key_value_heads": 1,
                "hidden_size": 40,
                "intermediate_size": 13,
                "vocab_size": 11,
                "clip_qkv": 0.5,
            },
        },
    ),
    "olmo3": Family(
        OUTPUT,
        {**LLAMA, "pad_token_id": None},
        {
            "grouped windows": {
                **ALTERNATING,
                "rope_parameters": {
                    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                    "full_attention": YARN["rope_parameters"],
                },
            },
            "full": {**FULL, "attention_bias": True, "num_hidden_layers": 1},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, "vocab_size": 11},
        },
    ),
    "smollm3": Family(
        PRE,
        {**LLAMA, "pad_token_id": None},
        {
            "not rotated": {"no_rope_layers": [0, 1], "tie_word_embeddings": False},
            "windows": {
                **FULL,
                "no_rope_layer_interval": 2,
                "use_sliding_window": True,
                "sliding_window": 5,
                "attention_bias": True,
                "mlp_bias": True,
            },
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, "vocab_size": 11},
        },
    ),
    "granite": Family(
        PRE,
        {
            **LLAMA,
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.11,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
        {
            "grouped": {},
            "full": {**FULL, "attention_bias": True, "mlp_bias": True},
            "multi-query": {
                "num_key_value_heads": 1,
                "hidden_size": 40,
                "intermediate_size": 13,
                "residual_multiplier": 1.5,
            },
        },
    ),
    "ministral": Family(
        PRE,
        {**LLAMA, **HEAD},
        {"grouped windows": ALTERNATING, "multi-query": {**MULTI_QUERY, "sliding_window": 3}},
    ),
    "helium": Family(
        PRE,
        {**LLAMA, **HEAD, "pad_token_id": None},
        {"grouped": {}, "full": {**FULL, "hidden_size": 40, "head_dim": 10, "mlp_bias": True, "attention_bias": True}},
    ),
    "glm": Family(
        PRE,
        {**LLAMA, "head_dim": 8, "pad_token_id": None},
        {"grouped": {}, "multi-query": {**MULTI_QUERY, "head_dim": 12, "attention_bias": False}},
    ),
    "glm4": Family(
        _decoder(
            "model.layers",
            ("input_layernorm", "self_attn", "post_self_attn_layernorm"),
            ("post_attention_layernorm", "mlp", "post_mlp_layernorm"),
        ),
        {**LLAMA, "head_dim": 8, "pad_token_id": None},
        {"grouped": {}, "multi-query": {**MULTI_QUERY, "head_dim": 12, "attention_bias": False}},
    ),
    "starcoder2": Family(
        PRE,
        LLAMA,
        {
            "grouped window": {"sliding_window": 5},
            "full": {"num_key_value_heads": 4, "tie_word_embeddings": False, "use_bias": False},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, "vocab_size": 11},
        },
    ),
    "stablelm": Family(
        PRE,
        {**LLAMA, "hidden_size": 32},
        {
            "grouped": {"use_qkv_bias": True},
            "parallel, normed": {
                "use_parallel_residual": True,
                "qk_layernorm": True,
                "tie_word_embeddings": True,
            },
            "full": {**FULL, "use_parallel_residual": True},
            "multi-query": {
                "num_key_value_heads": 1,
                "hidden_size": 48,
                "intermediate_size": 13,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            },
        },
    ),
    "phi": Family(
        _decoder("model.layers", ("input_layernorm", "self_attn"), ("input_layernorm", "mlp")),
        {**LLAMA, "hidden_size": 32},
        {
            "full": FULL | {"tie_word_embeddings": False},
            "grouped, normed": {"qk_layernorm": True, "tie_word_embeddings": True},
            "multi-query": {"num_key_value_heads": 1, "intermediate_size": 13, "vocab_size": 11},
        },
    ),
    "phi3": Family(
        PRE,
        {**LLAMA, "pad_token_id": None},
        {
            "grouped window": {"sliding_window": 5},
            "longrope": {
                **FULL,
                "hidden_size": 32,
                "max_position_embeddings": 256,
                "original_max_position_embeddings": 32,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "short_factor": [1.0, 1.1, 1.2, 1.5],
                    "long_factor": [1.0, 2.0, 4.0, 8.0],
                },
            },
            "longrope beyond": {
                "hidden_size": 32,
                "num_key_value_heads": 1,
                "max_position_embeddings": 256,
                "original_max_position_embeddings": 8,
                "partial_rotary_factor": 0.75,
                "rope_scaling": {
                    "type": "longrope",
                    "short_factor": [1.0, 1.1, 1.2],
                    "long_factor": [1.0, 2.0, 4.0],
                },
            },
            "full partial": {
                **FULL,
                "hidden_size": 32,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
            },
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13},
        },
    ),
    "mixtral": Family(
        PRE,
        {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2},
        {
            "grouped": {},
            "full window, one chosen": {**FULL, "num_experts_per_tok": 1, "sliding_window": 5},
            "multi-query, all chosen": {**MULTI_QUERY, "num_local_experts": 3, "num_experts_per_tok": 3},
        },
    ),
    "qwen3_moe": Family(
        PRE,
        {**LLAMA, **HEAD, "moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2},
        {
            "grouped": {},
            "normalised, one layer dense": {
                **FULL,
                "norm_topk_prob": True,
                "mlp_only_layers": [0],
                "sliding_window": 5,
                "use_sliding_window": True,
                "attention_bias": True,
            },
            "multi-query, every other layer": {**MULTI_QUERY, "decoder_sparse_step": 2, "num_hidden_layers": 3},
        },
    ),
    "gpt_oss": Family(
        PRE,
        {**LLAMA, **HEAD, **_rope("default"), "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5},
        {
            "grouped": {"swiglu_limit": 1.0},
            "full, one chosen": {
                **FULL,
                **YARN,
                "attention_bias": False,
                "num_experts_per_tok": 1,
                "swiglu_limit": 0.5,
            },
            "multi-query": {**MULTI_QUERY, "swiglu_alpha": 1.0, "num_local_experts": 3},
        },
    ),
    "cohere": Family(
        ONE_NORM,
        LLAMA,
        {
            "grouped": {"tie_word_embeddings": False, "attention_bias": True},
            "full, norms of each head": {**FULL, "use_qk_norm": True, "logit_scale": 0.3},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, "use_qk_norm": True},
        },
    ),
    "cohere2": Family(
        ONE_NORM,
        LLAMA,
        {
            "grouped": ALTERNATING,
            "full": {**FULL, "attention_bias": True, "sliding_window": 4, "num_hidden_layers": 5},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, **ALTERNATING},
        },
    ),
    "bloom": Family(
        _decoder("transformer.h", ("input_layernorm", "self_attention"), ("post_attention_layernorm", "mlp"))._replace(
            residual=True
        ),
        {"vocab_size": 37, "hidden_size": 24, "n_head": 4, "n_layer": 2},
        {
            "tied": {},
            "untied, six heads": {"tie_word_embeddings": False, "n_head": 6, "layer_norm_epsilon": 1e-2},
            "awkward": {"hidden_size": 35, "n_head": 5, "vocab_size": 11},
        },
    ),
    "falcon": Family(
        ONE_NORM._replace(
            stacks={"": "transformer.h"},
            chains={"attn": ("input_layernorm", "self_attention"), "mlp": ("input_layernorm", "mlp")},
        ),
        {
            "vocab_size": 37,
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "max_position_embeddings": 64,
            "ffn_hidden_size": 40,
        },
        {
            "multi-query": {},
            "new, two norms": {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
            "new, one norm": {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
            "ALiBi, sequential": {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
            "ALiBi, six heads": {"alibi": True, "num_attention_heads": 6, "tie_word_embeddings": False},
        },
    ),
    "modernbert": Family(
        _decoder("model.layers", ("attn_norm", "attn"), ("mlp_norm", "mlp")),
        {**{key: BERT[key] for key in BERT}, "pad_token_id": 1, "num_hidden_layers": 3, "local_attention": 6},
        {
            "tied": {},
            "untied, biases": {
                "tie_word_embeddings": False,
                "norm_bias": True,
                "attention_bias": True,
                "mlp_bias": True,
                "classifier_bias": True,
                "decoder_bias": False,
                "norm_eps": 1e-2,
            },
            "odd window": {
                "hidden_size": 40,
                "num_attention_heads": 5,
                "intermediate_size": 13,
                "vocab_size": 11,
                "local_attention": 7,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
                "hidden_activation": "silu",
                "classifier_activation": "relu",
            },
        },
    ),
    "olmoe": Family(
        PRE,
        {**LLAMA, "pad_token_id": None, "num_experts": 4, "num_experts_per_tok": 2},
        {
            "grouped": {},
            "full, normalised": {**FULL, "norm_topk_prob": True, "attention_bias": True},
            "multi-query": {"num_key_value_heads": 1, "hidden_size": 40, "intermediate_size": 13, "num_experts": 5},
        },
    ),
    "bert": Family(
        _decoder("bert.encoder.layer", ("attention.self", "attention.output.dense"), ("intermediate", "output.dense")),
        BERT,
        {
            "tied": {},
            "untied relu": {"tie_word_embeddings": False, "hidden_act": "relu"},
            "awkward": {**AWKWARD_BERT, "type_vocab_size": 3, "layer_norm_eps": 1e-3},
        },
    ),
    "electra": Family(
        _decoder(
            "electra.encoder.layer", ("attention.self", "attention.output.dense"), ("intermediate", "output.dense")
        ),
        {**BERT, "embedding_size": 10},
        {
            "tied": {},
            "untied relu": {"tie_word_embeddings": False, "hidden_act": "relu"},
            "awkward": {**AWKWARD_BERT, "embedding_size": 35, "type_vocab_size": 3, "layer_norm_eps": 1e-3},
        },
    ),
    "albert": Family(
        Layout(
            {"": "albert.encoder.albert_layer_groups.0.albert_layers"},
            {"attn": ("attention",), "mlp": ("ffn", "activation", "ffn_output")},
            summed="attn",
        ),
        {**BERT, "embedding_size": 10},
        {
            "tied": {},
            "untied": {"tie_word_embeddings": False, "num_hidden_layers": 3},
            "awkward": {**AWKWARD_BERT, "embedding_size": 35, "type_vocab_size": 3, "hidden_act": "relu"},
        },
    ),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA._replace(cases={"tied": {}, "awkward": AWKWARD_BERT}),
    "camembert": ROBERTA._replace(cases={"tied": {}, "awkward": {**AWKWARD_BERT, "type_vocab_size": 1}}),
    "distilbert": Family(
        _decoder("distilbert.transformer.layer", ("attention",), ("ffn",)),
        {
            "vocab_size": 37,
            "max_position_embeddings": 24,
            "n_layers": 2,
            "n_heads": 4,
            "dim": 24,
            "hidden_dim": 40,
        },
        {
            "tied": {},
            "untied relu": {"tie_word_embeddings": False, "activation": "relu"},
            "awkward": {"dim": 35, "n_heads": 5, "hidden_dim": 13, "vocab_size": 11, "sinusoidal_pos_embds": True},
        },
    ),
    "mt5": Family(
        T5,
        T5_SIZES,
        {"gated": {}, "awkward": {"d_model": 25, "d_kv": 7, "d_ff": 13, "num_heads": 3, "feed_forward_proj": "relu"}},
    ),
    "umt5": Family(
        T5,
        T5_SIZES,
        {
            "gated": {},
            "unscaled": {"tie_word_embeddings": False, "feed_forward_proj": "relu", "num_decoder_layers": 1},
        },
    ),
    "t5": Family(
        T5,
        T5_SIZES,
        {
            "1.0": {},
            "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
            "awkward": {
                "d_model": 25,
                "d_kv": 7,
                "d_ff": 13,
                "num_heads": 3,
                "num_decoder_layers": 1,
                "relative_attention_num_buckets": 8,
                "relative_attention_max_distance": 9,
            },
        },
    ),
}

HEADS = {"full": 4, "grouped": 2, "multi-query": 1}
for _name, _heads in HEADS.items():
    # The others' own cases have each number of heads, and both a tied and an untied unembedding.
    for _tied in (True, False):
        _case = f"{_name} heads, {'tied' if _tied else 'untied'}"
        FAMILIES["llama"].cases[_case] = {"num_key_value_heads": _heads, "tie_word_embeddings": _tied}

CASES = {f"{name}: {case}": (name, case) for name, family in FAMILIES.items() for case in family.cases}


def layout_of(name: str, config: dict[str, Any]) -> Layout:
    """Return where the HF modules are; OPT's norms leave the branches where they stand after the addition.

    A StableLM with parallel branches has one norm for both, a Falcon one or two.
    """
    layout = FAMILIES[name].layout._replace(scale=config.get("residual_multiplier", 1.0))
    if name == "stablelm" and config.get("use_parallel_residual"):
        return layout._replace(chains={**layout.chains, "mlp": ("input_layernorm", "mlp")})
    if name == "falcon":
        two = config.get("new_decoder_architecture") and config.get("num_ln_in_parallel_attn") != 1
        after = "input_layernorm" if config.get("parallel_attn", True) else "post_attention_layernorm"
        norms = ("ln_attn", "ln_mlp") if two else ("input_layernorm", after)
        return layout._replace(
            chains={"attn": (norms[0], "self_attention"), "mlp": (norms[1], "mlp")},
        )
    if config.get("do_layer_norm_before", True):
        return layout
    return layout._replace(chains={key: chain[1:] for key, chain in layout.chains.items()})


def config_of(name: str, case: str) -> dict[str, Any]:
    """Return the whole configuration of a case, without its model_type."""
    family = FAMILIES[name]
    return {**family.base, **family.cases[case]}
