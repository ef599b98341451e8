"""Decoders with LayerNorm: GPT-2, GPT-BigCode, GPT-J, GPT-Neo, GPT-NeoX (Pythia), OPT."""

import functools

from jacspec.models.architectures import (
    FREQUENCIES,
    MASK,
    ROTARY_KEYS,
    SUMMARY,
    TRAINING,
    Architecture,
    Config,
    fused,
    fused_by_head,
    linear,
    read_rotary,
    require,
    same,
    transposed,
)
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import MLPSpec, NormSpec, Spread
from jacspec.models.positions import RotarySpec


def _gpt2_spec(config: Config, *, bigcode: bool = False) -> ModelSpec:
    d_model, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    d_head = d_model // heads
    std = config["initializer_range"]
    # HF's scheme, from the GPT-2 paper: residual projections are scaled by 1/sqrt(2 · layers).
    out_std = std / (2 * layers) ** 0.5
    norm = NormSpec("layernorm", config["layer_norm_epsilon"])
    require(config, "add_cross_attention", False, "a GPT-2 without an encoder")
    d_ff, activation = config["n_inner"] or 4 * d_model, config["activation_function"]
    scaled = config["scale_attn_weights"]
    by_layer = False if bigcode else config["scale_attn_by_inverse_layer_idx"]
    kv_heads = 1 if bigcode and config["multi_query"] else heads

    def block(layer: int) -> BlockSpec:
        scale = (d_head**-0.5 if scaled else 1.0) / (layer + 1 if by_layer else 1)
        return BlockSpec(
            d_model=d_model,
            attention=AttentionSpec(heads, kv_heads, d_head, scale, qkv_bias=True, out_bias=True),
            mlp=MLPSpec(d_ff, activation, gated=False, bias=True),
            norm=norm,
            std=Spread(q=std, k=std, v=std, o=out_std, up=std, down=out_std),
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=config["n_positions"],
        blocks=tuple(block(layer) for layer in range(layers)),
        embedding=EmbeddingSpec(d_model, std, positions=config["n_positions"]),
        head=HeadSpec(d_model, std, norm),
        tied=config["tie_word_embeddings"],
    )


GPT2 = Architecture(
    model_type="gpt2",
    spec=_gpt2_spec,
    ignored={
        "attn_pdrop": TRAINING,
        "embd_pdrop": TRAINING,
        "n_ctx": "an old name of n_positions that HF no longer reads",
        "reorder_and_upcast_attn": "jacspec computes attention in float32 or float64 throughout",
        "resid_pdrop": TRAINING,
        **SUMMARY,
    },
    embedding=(same("wte.weight", "token"), same("wpe.weight", "position")),
    blocks={
        "": (
            *linear("h.{layer}.ln_1", "attn_norms.norm"),
            fused("h.{layer}.attn.c_attn.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight", transpose=True),
            fused("h.{layer}.attn.c_attn.bias", "attn.q.bias", "attn.k.bias", "attn.v.bias"),
            transposed("h.{layer}.attn.c_proj.weight", "attn.o.weight"),
            same("h.{layer}.attn.c_proj.bias", "attn.o.bias"),
            *linear("h.{layer}.ln_2", "mlp_norms.norm"),
            transposed("h.{layer}.mlp.c_fc.weight", "mlp.up.weight"),
            same("h.{layer}.mlp.c_fc.bias", "mlp.up.bias"),
            transposed("h.{layer}.mlp.c_proj.weight", "mlp.down.weight"),
            same("h.{layer}.mlp.c_proj.bias", "mlp.down.bias"),
        )
    },
    head=(*linear("ln_f", "norm"), same("lm_head.weight", "unembed.weight")),
    tied={"lm_head.weight": "wte.weight"},
    prefixes=("transformer.",),
    unused={"h.{layer}.attn.bias": MASK, "h.{layer}.attn.masked_bias": "the value that masks"},
)


GPT_BIGCODE = GPT2._replace(
    model_type="gpt_bigcode",
    spec=functools.partial(_gpt2_spec, bigcode=True),
    ignored={
        **GPT2.ignored,
        "num_key_value_heads": "multi_query says it",
        "attention_softmax_in_fp32": "jacspec computes attention in float32 or float64 throughout",
        "scale_attention_softmax_in_fp32": "jacspec computes attention in float32 or float64 throughout",
    },
    blocks={
        "": (
            *linear("h.{layer}.ln_1", "attn_norms.norm"),
            *(
                fused_by_head(f"h.{{layer}}.attn.c_attn.{kind}", f"attn.q.{kind}", f"attn.k.{kind}", f"attn.v.{kind}")
                for kind in ("weight", "bias")
            ),
            *linear("h.{layer}.attn.c_proj", "attn.o"),
            *linear("h.{layer}.ln_2", "mlp_norms.norm"),
            *linear("h.{layer}.mlp.c_fc", "mlp.up"),
            *linear("h.{layer}.mlp.c_proj", "mlp.down"),
        )
    },
)


def _neo_spec(config: Config) -> ModelSpec:
    d_model, heads, std = config["hidden_size"], config["num_heads"], config["initializer_range"]
    norm = NormSpec("layernorm", config["layer_norm_epsilon"])
    d_ff, window = config["intermediate_size"] or 4 * d_model, config["window_size"]

    def block(kind: str) -> BlockSpec:
        own = window if kind == "local" else None
        return BlockSpec(
            d_model=d_model,
            attention=AttentionSpec(heads, heads, d_model // heads, 1.0, qkv_bias=False, out_bias=True, window=own),
            mlp=MLPSpec(d_ff, config["activation_function"], gated=False, bias=True),
            norm=norm,
            std=Spread(std, std, std, std, std, std),
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        blocks=tuple(map(block, config["attention_layers"])),
        embedding=EmbeddingSpec(d_model, std, positions=config["max_position_embeddings"]),
        head=HeadSpec(d_model, std, norm),
        tied=config["tie_word_embeddings"],
    )


GPT_NEO = GPT2._replace(
    model_type="gpt_neo",
    spec=_neo_spec,
    ignored={
        **SUMMARY,
        "_is_quantized": "a mark that HF sets where it has quantised a model",
        "attention_types": "attention_layers says it layer by layer",
        "embed_dropout": TRAINING,
        "num_layers": "attention_layers has as many",
        "resid_dropout": TRAINING,
    },
    blocks={
        "": (
            *linear("h.{layer}.ln_1", "attn_norms.norm"),
            *linear("h.{layer}.attn.attention.q_proj", "attn.q"),
            *linear("h.{layer}.attn.attention.k_proj", "attn.k"),
            *linear("h.{layer}.attn.attention.v_proj", "attn.v"),
            *linear("h.{layer}.attn.attention.out_proj", "attn.o"),
            *linear("h.{layer}.ln_2", "mlp_norms.norm"),
            *linear("h.{layer}.mlp.c_fc", "mlp.up"),
            *linear("h.{layer}.mlp.c_proj", "mlp.down"),
        )
    },
    unused={
        "h.{layer}.attn.attention.bias": MASK,
        "h.{layer}.attn.attention.masked_bias": "the value that masks",
    },
)


def _gptj_spec(config: Config) -> ModelSpec:
    d_model, heads = config["n_embd"], config["n_head"]
    d_head, rotary_dim = d_model // heads, config["rotary_dim"]
    std = config["initializer_range"]
    norm = NormSpec("layernorm", config["layer_norm_epsilon"])
    block = BlockSpec(
        d_model=d_model,
        attention=AttentionSpec(
            heads,
            heads,
            d_head,
            d_head**-0.5,
            qkv_bias=False,
            out_bias=False,
            rotary=RotarySpec(rotary_dim, 10000.0, interleaved=True),
        ),
        mlp=MLPSpec(config["n_inner"] or 4 * d_model, config["activation_function"], gated=False, bias=True),
        norm=norm,
        std=Spread(std, std, std, std, std, std),
        parallel=True,
    )
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=config["n_positions"],
        blocks=(block,) * config["n_layer"],
        embedding=EmbeddingSpec(d_model, std),
        head=HeadSpec(d_model, std, norm, bias=True),
        tied=config["tie_word_embeddings"],
    )


GPTJ = Architecture(
    model_type="gptj",
    spec=_gptj_spec,
    ignored={
        "attn_pdrop": TRAINING,
        "embd_pdrop": TRAINING,
        "resid_pdrop": TRAINING,
        "rotary": "a label: every GPT-J is rotary",
        "scale_attn_weights": "HF's GPT-J always scales",
        **SUMMARY,
    },
    embedding=(same("wte.weight", "token"),),
    blocks={
        "": (
            # One norm serves both branches.
            same("h.{layer}.ln_1.weight", "attn_norms.norm.weight", "mlp_norms.norm.weight"),
            same("h.{layer}.ln_1.bias", "attn_norms.norm.bias", "mlp_norms.norm.bias"),
            same("h.{layer}.attn.q_proj.weight", "attn.q.weight"),
            same("h.{layer}.attn.k_proj.weight", "attn.k.weight"),
            same("h.{layer}.attn.v_proj.weight", "attn.v.weight"),
            same("h.{layer}.attn.out_proj.weight", "attn.o.weight"),
            *linear("h.{layer}.mlp.fc_in", "mlp.up"),
            *linear("h.{layer}.mlp.fc_out", "mlp.down"),
        )
    },
    head=(*linear("ln_f", "norm"), *linear("lm_head", "unembed")),
    tied={"lm_head.weight": "wte.weight"},
    prefixes=("transformer.",),
    unused={
        "h.{layer}.attn.bias": MASK,
        "h.{layer}.attn.masked_bias": "the value that masks",
        "h.{layer}.attn.embed_positions": FREQUENCIES,
    },
)


def _neox_spec(config: Config) -> ModelSpec:
    d_model, heads = config["hidden_size"], config["num_attention_heads"]
    d_head = d_model // heads
    std, bias = config["initializer_range"], config["attention_bias"]
    norm = NormSpec("layernorm", config["layer_norm_eps"])
    longest = config["max_position_embeddings"]
    # HF's rotations go by a head_dim, where there is one, that its attention does not have.
    rotary = read_rotary(config["rope_parameters"], config.get("head_dim") or d_head, longest, partial=True)
    block = BlockSpec(
        d_model=d_model,
        attention=AttentionSpec(
            heads,
            heads,
            d_head,
            d_head**-0.5,
            qkv_bias=bias,
            out_bias=bias,
            rotary=rotary,
        ),
        mlp=MLPSpec(config["intermediate_size"], config["hidden_act"], gated=False, bias=True),
        norm=norm,
        std=Spread(std, std, std, std, std, std),
        parallel=config["use_parallel_residual"],
    )
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=longest,
        blocks=(block,) * config["num_hidden_layers"],
        embedding=EmbeddingSpec(d_model, std),
        head=HeadSpec(d_model, std, norm),
        tied=config["tie_word_embeddings"],
    )


GPT_NEOX = Architecture(
    model_type="gpt_neox",
    spec=_neox_spec,
    ignored={
        **ROTARY_KEYS,
        "is_decoder": "HF's GPT-NeoX is a decoder whatever this says",
        "rope_theta": "HF's GPT-NeoX reads rotary_emb_base",
        "partial_rotary_factor": "HF's GPT-NeoX reads rotary_pct",
        "rotary_emb_base": "an old spelling, which HF moves to rope_parameters",
        "rotary_pct": "an old spelling, which HF moves to rope_parameters",
    },
    embedding=(same("embed_in.weight", "token"),),
    blocks={
        "": (
            *linear("layers.{layer}.input_layernorm", "attn_norms.norm"),
            fused_by_head(
                "layers.{layer}.attention.query_key_value.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight"
            ),
            fused_by_head("layers.{layer}.attention.query_key_value.bias", "attn.q.bias", "attn.k.bias", "attn.v.bias"),
            *linear("layers.{layer}.attention.dense", "attn.o"),
            *linear("layers.{layer}.post_attention_layernorm", "mlp_norms.norm"),
            *linear("layers.{layer}.mlp.dense_h_to_4h", "mlp.up"),
            *linear("layers.{layer}.mlp.dense_4h_to_h", "mlp.down"),
        )
    },
    head=(*linear("final_layer_norm", "norm"), same("embed_out.weight", "unembed.weight")),
    tied={"embed_out.weight": "embed_in.weight"},
    language_model=("embed_out.",),
    prefixes=("gpt_neox.",),
    unused={
        "layers.{layer}.attention.bias": MASK,
        "layers.{layer}.attention.masked_bias": "the value that masks",
        "layers.{layer}.attention.rotary_emb.inv_freq": FREQUENCIES,
    },
)


def _opt_spec(config: Config) -> ModelSpec:
    d_model, heads, width = config["hidden_size"], config["num_attention_heads"], config["word_embed_proj_dim"]
    d_head, std, bias = d_model // heads, config["init_std"], config["enable_bias"]
    require(config, "layer_norm_elementwise_affine", True, "norms with weights")
    norm = NormSpec("layernorm", 1e-5)  # torch's default; OPT's config has no key for it
    before = config["do_layer_norm_before"]
    block = BlockSpec(
        d_model=d_model,
        attention=AttentionSpec(heads, heads, d_head, d_head**-0.5, qkv_bias=bias, out_bias=bias),
        mlp=MLPSpec(config["ffn_dim"], config["activation_function"], gated=False, bias=bias),
        norm=norm,
        std=Spread(std, std, std, std, std, std),
        place="pre" if before else "post",
    )
    positions = config["max_position_embeddings"]
    final = not config["_remove_final_layer_norm"] and before
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=positions,
        blocks=(block,) * config["num_hidden_layers"],
        embedding=EmbeddingSpec(width, std, positions=positions + 2, offset=2),
        head=HeadSpec(width, std, norm if final else None),
        tied=config["tie_word_embeddings"],
    )


OPT = Architecture(
    model_type="opt",
    spec=_opt_spec,
    ignored={"layerdrop": TRAINING, "activation_dropout": TRAINING},
    embedding=(
        same("embed_tokens.weight", "token"),
        same("embed_positions.weight", "position"),
        same("project_in.weight", "project.weight"),
    ),
    blocks={
        "": (
            *linear("layers.{layer}.self_attn_layer_norm", "attn_norms.norm"),
            *linear("layers.{layer}.self_attn_layer_norm", "attn_norms.sum_norm"),
            *linear("layers.{layer}.self_attn.q_proj", "attn.q"),
            *linear("layers.{layer}.self_attn.k_proj", "attn.k"),
            *linear("layers.{layer}.self_attn.v_proj", "attn.v"),
            *linear("layers.{layer}.self_attn.out_proj", "attn.o"),
            *linear("layers.{layer}.final_layer_norm", "mlp_norms.norm"),
            *linear("layers.{layer}.final_layer_norm", "mlp_norms.sum_norm"),
            *linear("layers.{layer}.fc1", "mlp.up"),
            *linear("layers.{layer}.fc2", "mlp.down"),
        )
    },
    head=(
        *linear("final_layer_norm", "norm"),
        same("project_out.weight", "project.weight"),
        same("lm_head.weight", "unembed.weight"),
    ),
    tied={"lm_head.weight": "embed_tokens.weight"},
    prefixes=("model.decoder.", "decoder."),
)
