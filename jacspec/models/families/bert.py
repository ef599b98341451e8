"""Bidirectional encoders with norms after the addition: BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT."""

import functools
from dataclasses import replace

from jacspec.errors import JacspecError
from jacspec.models.architectures import LABELS, SUMMARY, TRAINING, Architecture, Config, Rules, linear, require, same
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import MLPSpec, NormSpec, Spread


def _encoder(
    *,
    d_model: int,
    heads: int,
    d_ff: int,
    layers: int,
    activation: str,
    eps: float,
    std: float,
    vocab: int,
    rows: int,
    tied: bool,
    offset: int = 0,
    token_types: int = 0,
    transform: str,
    width: int | None = None,
) -> ModelSpec:
    """Read what all of these families have in common; `width` of the embedding, where a projection ends that."""
    d_head = d_model // heads
    norm = NormSpec("layernorm", eps)
    block = BlockSpec(
        d_model=d_model,
        attention=AttentionSpec(heads, heads, d_head, d_head**-0.5, qkv_bias=True, out_bias=True, causal=False),
        mlp=MLPSpec(d_ff, activation, gated=False, bias=True),
        norm=norm,
        std=Spread(std, std, std, std, std, std),
        place="post",
    )
    return ModelSpec(
        vocab=vocab,
        positions=rows - offset,
        blocks=(block,) * layers,
        embedding=EmbeddingSpec(
            width or d_model,
            std,
            positions=rows,
            offset=offset,
            token_types=token_types,
            norm=norm,
            project_last=width is not None,
        ),
        head=HeadSpec(width or d_model, std, norm=None, transform=transform, transform_norm=norm, bias=True),
        tied=tied,
    )


def _bert_spec(
    config: Config, *, roberta: bool = False, transform: str | None = None, width: int | None = None
) -> ModelSpec:
    require(config, "is_decoder", False, "a bidirectional encoder")
    require(config, "add_cross_attention", False, "a bidirectional encoder")
    if roberta and config["pad_token_id"] is None:
        raise JacspecError("pad_token_id=None: RoBERTa counts positions from the padding token's id.")
    return _encoder(
        d_model=config["hidden_size"],
        heads=config["num_attention_heads"],
        d_ff=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        activation=config["hidden_act"],
        eps=config["layer_norm_eps"],
        std=config["initializer_range"],
        vocab=config["vocab_size"],
        rows=config["max_position_embeddings"],
        tied=config["tie_word_embeddings"],
        # RoBERTa numbers positions from one above the padding token's id.
        offset=config["pad_token_id"] + 1 if roberta else 0,
        token_types=config["type_vocab_size"],
        transform=transform or config["hidden_act"],
        width=width,
    )


def _electra_spec(config: Config) -> ModelSpec:
    width = config["embedding_size"]
    return _bert_spec(config, transform="gelu", width=width if width != config["hidden_size"] else None)


def _albert_spec(config: Config) -> ModelSpec:
    require(config, "num_hidden_groups", 1, "one group of layers")
    require(config, "inner_group_num", 1, "one layer in a group")
    return replace(_bert_spec(config, width=config["embedding_size"]), shared=True)


def _distilbert_spec(config: Config) -> ModelSpec:
    return _encoder(
        d_model=config["dim"],
        heads=config["n_heads"],
        d_ff=config["hidden_dim"],
        layers=config["n_layers"],
        activation=config["activation"],
        eps=1e-12,  # fixed in HF's code
        std=config["initializer_range"],
        vocab=config["vocab_size"],
        rows=config["max_position_embeddings"],
        tied=config["tie_word_embeddings"],
        transform=config["activation"],
    )


EMBEDDING = (
    same("embeddings.word_embeddings.weight", "token"),
    same("embeddings.position_embeddings.weight", "position"),
    same("embeddings.token_type_embeddings.weight", "token_type"),
    *linear("embeddings.LayerNorm", "norm"),
)
BLOCK = (
    *linear("encoder.layer.{layer}.attention.self.query", "attn.q"),
    *linear("encoder.layer.{layer}.attention.self.key", "attn.k"),
    *linear("encoder.layer.{layer}.attention.self.value", "attn.v"),
    *linear("encoder.layer.{layer}.attention.output.dense", "attn.o"),
    *linear("encoder.layer.{layer}.attention.output.LayerNorm", "attn_norms.sum_norm"),
    *linear("encoder.layer.{layer}.intermediate.dense", "mlp.up"),
    *linear("encoder.layer.{layer}.output.dense", "mlp.down"),
    *linear("encoder.layer.{layer}.output.LayerNorm", "mlp_norms.sum_norm"),
)
IGNORED = {
    "attention_probs_dropout_prob": TRAINING,
    "embedding_size": "where it is there, HF does not check that heads divide the width",
    "hidden_dropout_prob": TRAINING,
}
UNUSED = {
    "embeddings.position_ids": "the numbers 0, 1, 2, …",
    "embeddings.token_type_ids": "zeros",
    "cls.predictions.bias": "the same as cls.predictions.decoder.bias, or never added",
    "lm_head.bias": "the same as lm_head.decoder.bias, or never added",
}
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


def _masked_head(transform: str, norm: str, decoder: str) -> Rules:
    """Make the rules of the head that predicts masked tokens: a dense layer, a norm, and the unembedding."""
    return (*linear(transform, "transform"), *linear(norm, "transform_norm"), *linear(decoder, "unembed"))


_row = functools.partial(
    Architecture, ignored=IGNORED, embedding=EMBEDDING, blocks={"": BLOCK}, unused=UNUSED, renamed=OLD_NAMES
)

BERT = _row(
    model_type="bert",
    spec=_bert_spec,
    head=_masked_head(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"
    ),
    tied={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    language_model=("cls.predictions.",),
    prefixes=("bert.",),
)

ROBERTA = _row(
    model_type="roberta",
    spec=functools.partial(_bert_spec, roberta=True, transform="gelu"),
    head=_masked_head("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    tied={
        "lm_head.decoder.weight": "embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    prefixes=("roberta.",),
)

ELECTRA = _row(
    model_type="electra",
    spec=_electra_spec,
    ignored={**IGNORED, **SUMMARY},
    embedding=(*EMBEDDING, *linear("embeddings_project", "project")),
    head=_masked_head("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
    tied={"generator_lm_head.weight": "embeddings.word_embeddings.weight"},
    language_model=("generator_",),
    prefixes=("electra.",),
)

SHARED = "encoder.albert_layer_groups.0.albert_layers.0"
ALBERT = _row(
    model_type="albert",
    spec=_albert_spec,
    ignored={**IGNORED, "classifier_dropout_prob": LABELS},
    embedding=(*EMBEDDING, *linear("encoder.embedding_hidden_mapping_in", "project")),
    blocks={
        "": (
            *linear(f"{SHARED}.attention.query", "attn.q"),
            *linear(f"{SHARED}.attention.key", "attn.k"),
            *linear(f"{SHARED}.attention.value", "attn.v"),
            *linear(f"{SHARED}.attention.dense", "attn.o"),
            *linear(f"{SHARED}.attention.LayerNorm", "attn_norms.sum_norm"),
            *linear(f"{SHARED}.ffn", "mlp.up"),
            *linear(f"{SHARED}.ffn_output", "mlp.down"),
            *linear(f"{SHARED}.full_layer_layer_norm", "mlp_norms.sum_norm"),
        )
    },
    head=_masked_head("predictions.dense", "predictions.LayerNorm", "predictions.decoder"),
    tied={
        "predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
    language_model=("predictions.",),
    prefixes=("albert.",),
    unused={**UNUSED, "predictions.bias": "the same as predictions.decoder.bias, or never added"},
)

XLM_ROBERTA = ROBERTA._replace(model_type="xlm-roberta")
CAMEMBERT = ROBERTA._replace(model_type="camembert")

DISTILBERT = Architecture(
    model_type="distilbert",
    spec=_distilbert_spec,
    ignored={
        "qa_dropout": LABELS,
        "seq_classif_dropout": LABELS,
        "sinusoidal_pos_embds": "how the position table is first filled; a checkpoint holds the table",
        "tie_weights_": "tie_word_embeddings decides",
    },
    embedding=EMBEDDING,
    blocks={
        "": (
            *linear("transformer.layer.{layer}.attention.q_lin", "attn.q"),
            *linear("transformer.layer.{layer}.attention.k_lin", "attn.k"),
            *linear("transformer.layer.{layer}.attention.v_lin", "attn.v"),
            *linear("transformer.layer.{layer}.attention.out_lin", "attn.o"),
            *linear("transformer.layer.{layer}.sa_layer_norm", "attn_norms.sum_norm"),
            *linear("transformer.layer.{layer}.ffn.lin1", "mlp.up"),
            *linear("transformer.layer.{layer}.ffn.lin2", "mlp.down"),
            *linear("transformer.layer.{layer}.output_layer_norm", "mlp_norms.sum_norm"),
        )
    },
    head=(
        *linear("vocab_transform", "transform"),
        *linear("vocab_layer_norm", "transform_norm"),
        *linear("vocab_projector", "unembed"),
    ),
    tied={"vocab_projector.weight": "embeddings.word_embeddings.weight"},
    language_model=("vocab_",),
    prefixes=("distilbert.",),
    unused=UNUSED,
)
