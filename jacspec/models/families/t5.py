"""The encoder-decoder T5, 1.0 and 1.1, and its kin: RMSNorm, relative biases, unscaled attention, no biases."""

from jacspec.models.architectures import TRAINING, Architecture, Config, Rules, require, same
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import MLPSpec, NormSpec, Spread
from jacspec.models.positions import RelativeBiasSpec


def _spec(config: Config) -> ModelSpec:
    d_model, heads, d_head, d_ff = config["d_model"], config["num_heads"], config["d_kv"], config["d_ff"]
    factor, tied = config["initializer_factor"], config["tie_word_embeddings"]
    norm = NormSpec("rmsnorm", config["layer_norm_epsilon"])
    mlp = MLPSpec(d_ff, config["dense_act_fn"], gated=config["is_gated_act"], bias=False)
    buckets, reach = config["relative_attention_num_buckets"], config["relative_attention_max_distance"]
    scaled = config.get("scale_decoder_outputs", False)  # never by mT5
    require(config, "is_decoder", False, "the encoder-decoder")
    require(config, "is_encoder_decoder", True, "the encoder-decoder")
    inward = factor * d_model**-0.5
    std = Spread(
        q=factor * (d_model * d_head) ** -0.5,
        k=inward,
        v=inward,
        o=factor * (heads * d_head) ** -0.5,
        up=inward,
        down=factor * d_ff**-0.5,
        relative=inward,
    )

    def attention(*, causal: bool, cross: bool = False) -> AttentionSpec:
        relative = None if cross else RelativeBiasSpec(buckets, reach, bidirectional=not causal)
        return AttentionSpec(
            heads, heads, d_head, 1.0, qkv_bias=False, out_bias=False, causal=causal, cross=cross, relative=relative
        )

    encoder = BlockSpec(d_model, attention(causal=False), mlp, norm, std, stack="encoder")
    decoder = BlockSpec(
        d_model,
        attention(causal=True),
        mlp,
        norm,
        std,
        cross=attention(causal=False, cross=True),
        stack="decoder",
    )
    return ModelSpec(
        vocab=config["vocab_size"],
        positions=None,
        blocks=(encoder,) * config["num_layers"] + (decoder,) * config["num_decoder_layers"],
        embedding=EmbeddingSpec(d_model, factor),
        head=HeadSpec(d_model, factor, norm, scale=d_model**-0.5 if scaled else 1.0),
        tied=tied,
        encoder_norm=norm,
        decoder_start=config.get("decoder_start_token_id", config["pad_token_id"]) or 0,
    )


def _attention(place: str, leaf: str, norms: str) -> Rules:
    return (
        *(same(f"{place}.{name}.weight", f"{leaf}.{name}.weight") for name in "qkvo"),
        same(f"{place.rpartition('.')[0]}.layer_norm.weight", f"{norms}.norm.weight"),
    )


def _block(stack: str, mlp: int, *, own_bias: bool = False) -> Rules:
    """Make the table of a block; `own_bias`, whether every layer has relative biases of its own."""
    layer = f"{stack}.block.{{layer}}.layer"
    return (
        *_attention(f"{layer}.0.SelfAttention", "attn", "attn_norms"),
        # Else block 0 holds the biases of the whole stack.
        same(
            f"{stack}.block.{'{layer}' if own_bias else 0}.layer.0.SelfAttention.relative_attention_bias.weight",
            "attn.relative_bias",
        ),
        *(_attention(f"{layer}.1.EncDecAttention", "cross", "cross_norms") if stack == "decoder" else ()),
        same(f"{layer}.{mlp}.layer_norm.weight", "mlp_norms.norm.weight"),
        same(f"{layer}.{mlp}.DenseReluDense.wi.weight", "mlp.up.weight")._replace(unless="mlp.gate.weight"),
        same(f"{layer}.{mlp}.DenseReluDense.wi_0.weight", "mlp.gate.weight"),
        same(f"{layer}.{mlp}.DenseReluDense.wi_1.weight", "mlp.up.weight")._replace(given="mlp.gate.weight"),
        same(f"{layer}.{mlp}.DenseReluDense.wo.weight", "mlp.down.weight"),
    )


T5 = Architecture(
    model_type="t5",
    spec=_spec,
    ignored={
        "dropout_rate": TRAINING,
        "feed_forward_proj": "already in dense_act_fn and is_gated_act",
        "n_positions": "the length that it was trained on; relative positions have no limit",
    },
    embedding=(same("shared.weight", "token"),),
    blocks={"encoder": _block("encoder", 1), "decoder": _block("decoder", 2)},
    encoder_norm=(same("encoder.final_layer_norm.weight", "weight"),),
    head=(same("decoder.final_layer_norm.weight", "norm.weight"), same("lm_head.weight", "unembed.weight")),
    tied={
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
        "lm_head.weight": "shared.weight",
    },
    prefixes=("",),
    unused={
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": "never read by HF's code",
    },
)

MT5 = T5._replace(model_type="mt5")
UMT5 = T5._replace(
    model_type="umt5",
    blocks={"encoder": _block("encoder", 1, own_bias=True), "decoder": _block("decoder", 2, own_bias=True)},
)
