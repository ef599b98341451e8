"""Decoders with RMSNorm, rotary positions and gated MLPs: Llama and its kin."""

import dataclasses
import functools

from jacspec.errors import JacspecError
from jacspec.models.architectures import (
    FREQUENCIES,
    PARALLEL,
    ROTARY_KEYS,
    TRAINING,
    VISION,
    Architecture,
    Config,
    Rules,
    fused,
    linear,
    read_rotary,
    require,
    same,
    with_blocks,
)
from jacspec.models.attention import AttentionSpec
from jacspec.models.block import BlockSpec, EmbeddingSpec, HeadSpec, ModelSpec
from jacspec.models.layers import MLPSpec, NormSpec, Spread

SLIDING = "sliding_attention"
LAYER_TYPES = ("full_attention", SLIDING)


def _spec(
    config: Config,
    *,
    place: str = "pre",
    qkv_bias: bool | None = None,
    qk_norm: str | None = None,
    gemma: int = 0,
    softcap: float | None = None,
    windows: bool = True,
    partial: bool = False,
    interleaved: bool = False,
    norm: NormSpec | None = None,
) -> ModelSpec:
    """Read what all of these families have in common.

    **Arguments:** `qkv_bias`, where the family fixes it, else `attention_bias` of the config is for all four
    projections; `gemma`, the generation of a Gemma, for unit-offset norms and scaled embeddings, and from the second
    on capped logits and the scale of queries; `softcap`, of the attention scores; `windows`, whether the family has
    sliding windows at all; `partial`, whether it may turn a fraction of a head; `interleaved`, whether it turns
    neighbours; `norm`, where it is not an RMSNorm.
    """
    d_model, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
    kv_heads = config["num_key_value_heads"] or heads
    d_head = config.get("head_dim") or d_model // heads
    std = config["initializer_range"]
    out_bias = bool(config.get("attention_bias", False)) if qkv_bias is None else False
    norm = norm or NormSpec("rmsnorm", config["rms_norm_eps"], unit_offset=gemma > 0)
    activation = config["hidden_activation"] if gemma > 1 else config["hidden_act"]
    window, types = layer_windows(config, layers) if windows else (None, ("full_attention",) * layers)
    rope, longest = config["rope_parameters"], config["max_position_embeddings"]
    read = functools.partial(read_rotary, d_head=d_head, longest=longest, partial=partial, interleaved=interleaved)
    rotary = {kind: read(rope.get(kind, rope)) for kind in sorted({*types})}

    def block(layer: int) -> BlockSpec:
        return BlockSpec(
            d_model=d_model,
            attention=AttentionSpec(
                heads,
                kv_heads,
                d_head,
                (config["query_pre_attn_scalar"] if gemma > 1 else d_head) ** -0.5,
                qkv_bias=out_bias if qkv_bias is None else qkv_bias,
                out_bias=out_bias,
                window=window if types[layer] == SLIDING else None,
                softcap=softcap,
                # Gemma 3 and OLMo 3 give rotary parameters by the type of layer.
                rotary=rotary[types[layer]],
                qk_norm=qk_norm,
            ),
            mlp=MLPSpec(config["intermediate_size"], activation, gated=True, bias=bool(config.get("mlp_bias", False))),
            norm=norm,
            std=Spread(std, std, std, std, std, std),
            place=place,
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=longest,
        blocks=tuple(block(layer) for layer in range(layers)),
        embedding=EmbeddingSpec(d_model, std, scale=d_model**0.5 if gemma else 1.0),
        head=HeadSpec(d_model, std, norm, softcap=config["final_logit_softcapping"] if gemma > 1 else None),
        tied=config["tie_word_embeddings"],
    )


def layer_windows(config: Config, layers: int) -> tuple[int | None, tuple[str, ...]]:
    """Read the sliding window and the type of every layer; without types, a window holds for all layers."""
    window, types = config.get("sliding_window"), config.get("layer_types")
    if types is None:
        types = [SLIDING if window is not None else "full_attention"] * layers
    if unknown := sorted(set(types) - set(LAYER_TYPES)):
        raise JacspecError(f"layer_types has {unknown}. Nearest supported: {', '.join(LAYER_TYPES)}.")
    if len(types) != layers:
        raise JacspecError(f"layer_types names {len(types)} layers of {layers}.")
    return window, tuple(types)


def _gemma_spec(config: Config, generation: int) -> ModelSpec:
    if config.get("use_bidirectional_attention"):
        raise JacspecError("use_bidirectional_attention is not supported. Nearest supported: causal Gemma.")
    if generation == 1:
        return _spec(config, gemma=1, windows=False)
    if generation == 2:
        return _spec(config, place="sandwich", gemma=2, softcap=config["attn_logit_softcapping"])
    # HF's Gemma 3 has a key for the softcap of its scores and does not act on it.
    require(config, "attn_logit_softcapping", None, "a Gemma 3 without it, or gemma2")
    return _spec(config, place="sandwich", gemma=3, qk_norm="head")


def _gemma3_tower_spec(config: Config) -> ModelSpec:
    spec = _gemma_spec(config, 3)
    # HF caps the logits of a Gemma 3 that is text alone, not those of one with a vision tower.
    return dataclasses.replace(spec, head=dataclasses.replace(spec.head, softcap=None))


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
    ignored=ROTARY_KEYS,
    embedding=(same("embed_tokens.weight", "token"),),
    blocks={"": (*PRE, *ATTENTION, *MLP)},
    head=(same("norm.weight", "norm.weight"), same("lm_head.weight", "unembed.weight")),
    tied={"lm_head.weight": "embed_tokens.weight"},
    unused={"layers.{layer}.self_attn.rotary_emb.inv_freq": FREQUENCIES},
)

WINDOW_TYPES = {
    **ROTARY_KEYS,
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
OLMO3 = OLMO2._replace(
    model_type="olmo3", spec=functools.partial(_spec, place="output", qk_norm="full"), ignored=WINDOW_TYPES
)


def _olmo_spec(config: Config) -> ModelSpec:
    norm = NormSpec("layernorm", 1e-5, weight=False, bias=False)  # of HF's code; the config has no key for it
    return with_blocks(_spec(config, windows=False, norm=norm), attention={"clip": config["clip_qkv"]})


OLMO = _row(model_type="olmo", spec=_olmo_spec)


def _smollm3_spec(config: Config) -> ModelSpec:
    spec, turned = _spec(config), config["no_rope_layers"]
    if len(turned) < len(spec.blocks):
        raise JacspecError(f"no_rope_layers has {len(turned)} layers of {len(spec.blocks)}.")
    still = with_blocks(spec, attention={"rotary": None}).blocks
    return dataclasses.replace(
        spec, blocks=tuple(map(lambda turn, *kinds: kinds[not turn], turned, spec.blocks, still))
    )


def _granite_spec(config: Config) -> ModelSpec:
    spec = with_blocks(
        _spec(config, windows=False),
        attention={"scale": float(config["attention_multiplier"])},
        scale=float(config["residual_multiplier"]),
    )
    return dataclasses.replace(
        spec,
        embedding=dataclasses.replace(spec.embedding, scale=float(config["embedding_multiplier"])),
        head=dataclasses.replace(spec.head, scale=1 / config["logits_scaling"]),
    )


SMOLLM3 = _row(
    model_type="smollm3",
    spec=_smollm3_spec,
    ignored={**WINDOW_TYPES, "no_rope_layer_interval": "no_rope_layers says which layers are not rotated"},
)
GRANITE = _row(model_type="granite", spec=_granite_spec)
MINISTRAL = MISTRAL._replace(model_type="ministral")
HELIUM = _row(
    model_type="helium",
    spec=lambda config: _spec(config, qkv_bias=config["attention_bias"], windows=False, interleaved=True),
)


def _glm_spec(config: Config, place: str) -> ModelSpec:
    bias = config["attention_bias"]
    return _spec(config, place=place, qkv_bias=bias, windows=False, partial=True, interleaved=True)


GLM_PARTS = (
    *ATTENTION,
    fused("layers.{layer}.mlp.gate_up_proj.weight", "mlp.gate.weight", "mlp.up.weight"),
    *linear("layers.{layer}.mlp.down_proj", "mlp.down"),
)
GLM = _row(model_type="glm", spec=functools.partial(_glm_spec, place="pre"), blocks={"": (*PRE, *GLM_PARTS)})
GLM4 = _row(
    model_type="glm4",
    spec=functools.partial(_glm_spec, place="sandwich"),
    blocks={
        "": (
            *_norms("input_layernorm", "post_self_attn_layernorm", "attn"),
            *_norms("post_attention_layernorm", "post_mlp_layernorm", "mlp"),
            *GLM_PARTS,
        )
    },
)
HEAD = (*linear("norm", "norm"), same("lm_head.weight", "unembed.weight"))


def _starcoder2_spec(config: Config) -> ModelSpec:
    bias = config["use_bias"]
    return with_blocks(
        _spec(config, norm=NormSpec("layernorm", config["norm_epsilon"])),
        attention={"qkv_bias": bias, "out_bias": bias},
        mlp={"gated": False, "bias": bias},
    )


def _stablelm_spec(config: Config) -> ModelSpec:
    norm, qk_norm = NormSpec("layernorm", config["layer_norm_eps"]), "each" if config["qk_layernorm"] else None
    bias = config["use_qkv_bias"]
    spec = _spec(config, qkv_bias=bias, qk_norm=qk_norm, windows=False, partial=True, norm=norm)
    return with_blocks(spec, parallel=config["use_parallel_residual"])


def _phi_spec(config: Config) -> ModelSpec:
    norm = NormSpec("layernorm", config["layer_norm_eps"])
    qk_norm = "head" if config["qk_layernorm"] else None
    spec = with_blocks(
        _spec(config, qkv_bias=True, qk_norm=qk_norm, windows=False, partial=True, norm=norm),
        attention={"out_bias": True},
        mlp={"gated": False, "bias": True},
        parallel=True,
    )
    return dataclasses.replace(spec, head=dataclasses.replace(spec.head, bias=True))


# One norm serves both branches.
ONE_NORM = tuple(
    same(f"layers.{{layer}}.input_layernorm.{kind}", f"attn_norms.norm.{kind}", f"mlp_norms.norm.{kind}")
    for kind in ("weight", "bias")
)
TWO_NORMS = (
    *linear("layers.{layer}.input_layernorm", "attn_norms.norm"),
    *linear("layers.{layer}.post_attention_layernorm", "mlp_norms.norm"),
)
STARCODER2 = _row(
    model_type="starcoder2",
    spec=_starcoder2_spec,
    blocks={
        "": (
            *TWO_NORMS,
            *ATTENTION,
            *linear("layers.{layer}.mlp.c_fc", "mlp.up"),
            *linear("layers.{layer}.mlp.c_proj", "mlp.down"),
        )
    },
    head=HEAD,
    ignored={**ROTARY_KEYS, "embedding_dropout": TRAINING, "residual_dropout": TRAINING},
)
STABLELM = _row(
    model_type="stablelm",
    spec=_stablelm_spec,
    blocks={
        "": (
            *(rule._replace(given=PARALLEL) for rule in ONE_NORM),
            *(rule._replace(unless=PARALLEL) for rule in TWO_NORMS),
            *ATTENTION[:-2],
            same("layers.{layer}.self_attn.q_layernorm.norms.*.weight", "attn.q_norm.weight"),
            same("layers.{layer}.self_attn.k_layernorm.norms.*.weight", "attn.k_norm.weight"),
            *MLP,
        )
    },
    head=HEAD,
)
PHI = _row(
    model_type="phi",
    spec=_phi_spec,
    blocks={
        "": (
            *ONE_NORM,
            *ATTENTION[:6],
            *linear("layers.{layer}.self_attn.dense", "attn.o"),
            *linear("layers.{layer}.self_attn.q_layernorm", "attn.q_norm"),
            *linear("layers.{layer}.self_attn.k_layernorm", "attn.k_norm"),
            *linear("layers.{layer}.mlp.fc1", "mlp.up"),
            *linear("layers.{layer}.mlp.fc2", "mlp.down"),
        )
    },
    head=(*linear("final_layernorm", "norm"), *linear("lm_head", "unembed")),
    ignored={**ROTARY_KEYS, "embd_pdrop": TRAINING, "resid_pdrop": TRAINING},
)
IMAGES = (
    "boi_token_index",
    "eoi_token_index",
    "image_size",
    "image_token_id",
    "image_token_index",
    "layer_norm_eps",
    "mm_tokens_per_image",
    "patch_size",
    "text_config",
    "vision_config",
)
GEMMA = _row(model_type="gemma", spec=functools.partial(_gemma_spec, generation=1))
GEMMA2 = _row(
    model_type="gemma2",
    spec=functools.partial(_gemma_spec, generation=2),
    blocks={"": (*SANDWICH, *ATTENTION, *MLP)},
    ignored={**ROTARY_KEYS, "hidden_act": "an old name of hidden_activation that HF no longer reads"},
)
GEMMA3_TEXT = _row(
    model_type="gemma3_text",
    spec=functools.partial(_gemma_spec, generation=3),
    blocks={"": (*SANDWICH, *ATTENTION, *MLP)},
    ignored={
        **ROTARY_KEYS,
        "rope_local_base_freq": ROTARY_KEYS["rope_theta"],
        "_sliding_window_pattern": "layer_types says which layers slide",
        "sliding_window_pattern": "layer_types says which layers slide",
        **dict.fromkeys(IMAGES, VISION),
    },
)
GEMMA3 = GEMMA3_TEXT._replace(
    model_type="gemma3",
    spec=_gemma3_tower_spec,
    tower="text_config",
    prefixes=("language_model.model.", "model.language_model.", "language_model."),
)
PHI3 = _row(
    model_type="phi3",
    spec=functools.partial(_spec, qkv_bias=False, partial=True),
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
        **ROTARY_KEYS,
        "attention_bias": "HF's Phi-3 has no biases whatever this says",
        "auto_map": "names code from before HF had the family; it is not run",
        "embd_pdrop": TRAINING,
        "resid_pdrop": TRAINING,
    },
)


def _cohere_spec(config: Config, generation: int) -> ModelSpec:
    norm = NormSpec("layernorm", config["layer_norm_eps"], bias=False)
    qk_norm = "each" if generation == 1 and config["use_qk_norm"] else None
    spec = _spec(config, qk_norm=qk_norm, windows=generation == 2, interleaved=True, norm=norm)
    spec = with_blocks(spec, parallel=True)
    blocks = [
        block
        if generation == 1 or block.attention.window is not None
        else dataclasses.replace(block, attention=dataclasses.replace(block.attention, rotary=None))
        for block in spec.blocks
    ]
    head = dataclasses.replace(spec.head, scale=float(config["logit_scale"]))
    return dataclasses.replace(spec, blocks=tuple(blocks), head=head)


COHERE = _row(
    model_type="cohere",
    spec=functools.partial(_cohere_spec, generation=1),
    blocks={"": (*ONE_NORM, *ATTENTION, *MLP)},
)
COHERE2 = COHERE._replace(
    model_type="cohere2",
    spec=functools.partial(_cohere_spec, generation=2),
    ignored={**ROTARY_KEYS, "sliding_window_pattern": "layer_types says which layers slide"},
)
