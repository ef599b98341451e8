"""Decoders with ALiBi, or that may have it: BLOOM and Falcon."""

from jacspec.errors import JacspecError
from jacspec.models.architectures import (
    COMPUTING,
    ONE_NORM,
    PARALLEL,
    ROTARY_KEYS,
    Architecture,
    Config,
    Rules,
    fused_by_head,
    linear,
    read_rotary,
    require,
    same,
)
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import MLPSpec, NormSpec, Spread
from jacspec.models.positions import AlibiSpec

OLD_WIDTH = {"n_embed": "an old spelling, which HF moves to hidden_size"}


def _bloom_spec(config: Config) -> ModelSpec:
    require(config, "apply_residual_connection_post_layernorm", False, "a BLOOM that adds to the stream itself")
    d_model, heads, std = config["hidden_size"], config["n_head"], config["initializer_range"]
    d_head, norm = d_model // heads, NormSpec("layernorm", config["layer_norm_epsilon"])
    attention = AttentionSpec(heads, heads, d_head, d_head**-0.5, qkv_bias=True, out_bias=True, alibi=AlibiSpec())
    block = BlockSpec(
        d_model,
        attention,
        MLPSpec(4 * d_model, "bloom_gelu", gated=False, bias=True),
        norm,
        Spread(std, std, std, std, std, std),
    )
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=None,
        blocks=(block,) * config["n_layer"],
        embedding=EmbeddingSpec(d_model, std, norm=norm),
        head=HeadSpec(d_model, std, norm),
        tied=config["tie_word_embeddings"],
    )


def _falcon_spec(config: Config) -> ModelSpec:
    d_model, heads, std = config["hidden_size"], config["num_attention_heads"], config["initializer_range"]
    new, parallel, bias = config["new_decoder_architecture"], bool(config["parallel_attn"]), bool(config["bias"])
    norms = config["num_ln_in_parallel_attn"] or (2 if new else 1)
    if (new and not parallel) or (norms == 2 and parallel and not new):
        raise JacspecError(
            f"new_decoder_architecture={new} with parallel_attn={parallel} and {norms} norms has no forward pass in "
            "HF's code. Nearest supported: both true, or a Falcon of the old architecture with one norm."
        )
    given, multi_query = config["num_kv_heads"], config["multi_query"]
    kv_heads = given if new or not multi_query else 1
    if not new and kv_heads not in (1, heads):
        raise JacspecError(f"num_kv_heads={kv_heads} of {heads} is not supported. Nearest supported: {heads}.")
    d_head, norm = d_model // heads, NormSpec("layernorm", config["layer_norm_epsilon"])
    longest = config["max_position_embeddings"]
    attention = AttentionSpec(
        heads,
        kv_heads,
        d_head,
        d_head**-0.5,
        qkv_bias=bias,
        out_bias=bias,
        rotary=None if config["alibi"] else read_rotary(config["rope_parameters"], d_head, longest),
        # HF scales scores and biases together.
        alibi=AlibiSpec(scale=d_head**-0.5, rounded=True) if config["alibi"] else None,
    )
    block = BlockSpec(
        d_model,
        attention,
        MLPSpec(config["ffn_hidden_size"], config["activation"], gated=False, bias=bias),
        norm,
        Spread(std, std, std, std, std, std),
        parallel=parallel,
        one_norm=parallel and norms == 1,
    )
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=None if config["alibi"] else longest,
        blocks=(block,) * config["num_hidden_layers"],
        embedding=EmbeddingSpec(d_model, std),
        head=HeadSpec(d_model, std, norm),
        tied=config["tie_word_embeddings"],
    )


TWO_NORMS = (
    *linear("h.{layer}.input_layernorm", "attn_norms.norm"),
    *linear("h.{layer}.post_attention_layernorm", "mlp_norms.norm"),
)
BRANCHES = (
    *(
        fused_by_head(f"h.{{layer}}.self_attention.query_key_value.{kind}", *(f"attn.{name}.{kind}" for name in "qkv"))
        for kind in ("weight", "bias")
    ),
    *linear("h.{layer}.self_attention.dense", "attn.o"),
    *linear("h.{layer}.mlp.dense_h_to_4h", "mlp.up"),
    *linear("h.{layer}.mlp.dense_4h_to_h", "mlp.down"),
)
FALCON_NORMS: Rules = (
    *(rule._replace(unless=PARALLEL) for rule in TWO_NORMS),
    *(
        same(f"h.{{layer}}.input_layernorm.{kind}", f"attn_norms.norm.{kind}", f"mlp_norms.norm.{kind}")._replace(
            given=ONE_NORM
        )
        for kind in ("weight", "bias")
    ),
    *(
        rule._replace(given=PARALLEL, unless=ONE_NORM)
        for leaf in ("attn", "mlp")
        for rule in linear(f"h.{{layer}}.ln_{leaf}", f"{leaf}_norms.norm")
    ),
)

BLOOM = Architecture(
    model_type="bloom",
    spec=_bloom_spec,
    ignored={**OLD_WIDTH, "slow_but_exact": COMPUTING},
    embedding=(same("word_embeddings.weight", "token"), *linear("word_embeddings_layernorm", "norm")),
    blocks={"": (*TWO_NORMS, *BRANCHES)},
    head=(*linear("ln_f", "norm"), same("lm_head.weight", "unembed.weight")),
    tied={"lm_head.weight": "word_embeddings.weight"},
    prefixes=("transformer.",),
)
FALCON = BLOOM._replace(
    model_type="falcon",
    spec=_falcon_spec,
    ignored={**OLD_WIDTH, **ROTARY_KEYS, "_is_quantized": "quantised weights are refused by quantization_config"},
    embedding=(same("word_embeddings.weight", "token"),),
    blocks={"": (*FALCON_NORMS, *BRANCHES)},
)
