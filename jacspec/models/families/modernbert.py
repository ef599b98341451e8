"""A bidirectional encoder with rotary positions, windows in two layers of three, gated MLPs: ModernBERT."""

import functools

from jacspec.models.architectures import (
    COMPUTING,
    LABELS,
    ROTARY_KEYS,
    TRAINING,
    Architecture,
    Config,
    fused,
    linear,
    read_rotary,
    same,
)
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.families.llama import SLIDING, layer_windows
from jacspec.models.layers import MLPSpec, NormSpec, Spread, Truncated


def _spec(config: Config) -> ModelSpec:
    d_model, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    d_head, longest, bias = d_model // heads, config["max_position_embeddings"], config["attention_bias"]
    norm = NormSpec("layernorm", config["norm_eps"], bias=config["norm_bias"])
    _, types = layer_windows(config, layers)
    cutoff = config["initializer_cutoff_factor"]
    std = functools.partial(Truncated, cutoff=3.0 if cutoff is None else float(cutoff))
    inside, out = std(config["initializer_range"]), std(config["initializer_range"] / (2 * layers) ** 0.5)
    turned = config.get("head_dim") or d_head  # as HF's rotations go by, though its attention has no such key
    rotary = {kind: read_rotary(config["rope_parameters"][kind], turned, longest) for kind in sorted({*types})}

    def block(layer: int) -> BlockSpec:
        return BlockSpec(
            d_model=d_model,
            attention=AttentionSpec(
                heads,
                heads,
                d_head,
                d_head**-0.5,
                qkv_bias=bias,
                out_bias=bias,
                causal=False,
                # Half of the window to each side, and the token itself.
                window=config["local_attention"] // 2 + 1 if types[layer] == SLIDING else None,
                rotary=rotary[types[layer]],
            ),
            mlp=MLPSpec(config["intermediate_size"], config["hidden_activation"], gated=True, bias=config["mlp_bias"]),
            norm=norm,
            std=Spread(inside, inside, inside, out, inside, out),
            attn_norm=layer > 0,
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=longest,
        blocks=tuple(block(layer) for layer in range(layers)),
        embedding=EmbeddingSpec(d_model, inside, norm=norm),
        head=HeadSpec(
            d_model,
            out,
            norm,
            transform=config["classifier_activation"],
            transform_norm=norm,
            transform_bias=config["classifier_bias"],
            bias=config["decoder_bias"],
        ),
        tied=config["tie_word_embeddings"],
    )


MODERNBERT = Architecture(
    model_type="modernbert",
    spec=_spec,
    ignored={
        "classifier_pooling": LABELS,
        "cls_token_id": "the tokenizer adds special tokens",
        "deterministic_flash_attn": COMPUTING,
        "embedding_dropout": TRAINING,
        "global_attn_every_n_layers": "layer_types says which layers slide",
        **ROTARY_KEYS,
        **dict.fromkeys(("global_rope_theta", "local_rope_theta"), ROTARY_KEYS["rope_theta"]),
        "mlp_dropout": TRAINING,
        "reference_compile": COMPUTING,
        "sliding_window": "HF's other name of half of local_attention",
        "sparse_pred_ignore_index": TRAINING,
        "sparse_prediction": TRAINING,
    },
    embedding=(same("embeddings.tok_embeddings.weight", "token"), *linear("embeddings.norm", "norm")),
    blocks={
        "": (
            *linear("layers.{layer}.attn_norm", "attn_norms.norm"),
            *(
                fused(f"layers.{{layer}}.attn.Wqkv.{kind}", *(f"attn.{name}.{kind}" for name in "qkv"))
                for kind in ("weight", "bias")
            ),
            *linear("layers.{layer}.attn.Wo", "attn.o"),
            *linear("layers.{layer}.mlp_norm", "mlp_norms.norm"),
            *(
                fused(f"layers.{{layer}}.mlp.Wi.{kind}", f"mlp.gate.{kind}", f"mlp.up.{kind}")
                for kind in ("weight", "bias")
            ),
            *linear("layers.{layer}.mlp.Wo", "mlp.down"),
        )
    },
    head=(
        *linear("final_norm", "norm"),
        *linear("head.dense", "transform"),
        *linear("head.norm", "transform_norm"),
        *linear("decoder", "unembed"),
    ),
    tied={"decoder.weight": "embeddings.tok_embeddings.weight"},
    language_model=("head.", "decoder."),
)
