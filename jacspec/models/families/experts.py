"""Decoders whose MLPs are mixtures of experts: Mixtral, Qwen3-MoE, OLMoE, gpt-oss."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from jacspec.models.architectures import (
    ROTARY_KEYS,
    TRAINING,
    Config,
    Rules,
    Target,
    Tensor,
    TensorRule,
    linear,
    same,
    with_blocks,
)
from jacspec.models.block import ModelSpec
from jacspec.models.experts import ClampedGate, ExpertsSpec
from jacspec.models.families.llama import ATTENTION, LLAMA, MISTRAL, MLP, PRE, QWEN3, WINDOW_TYPES


def _with_experts(spec: ModelSpec, experts: Callable[[int], ExpertsSpec | None]) -> ModelSpec:
    """Put experts in the place of the MLPs of those layers that have some."""
    blocks = (dataclasses.replace(block, mlp=experts(layer) or block.mlp) for layer, block in enumerate(spec.blocks))
    return dataclasses.replace(spec, blocks=tuple(blocks))


def _experts(config: Config, *, d_ff: int, normalised: bool) -> ExpertsSpec:
    # Qwen3-MoE's and OLMoE's class know the number by either name.
    experts = config["num_local_experts"] if "num_local_experts" in config else config["num_experts"]
    return ExpertsSpec(
        d_ff,
        config["hidden_act"],
        gated=True,
        bias=False,
        experts=experts,
        top_k=config["num_experts_per_tok"],
        normalised=normalised,
    )


def _mixtral_spec(config: Config) -> ModelSpec:
    experts = _experts(config, d_ff=config["intermediate_size"], normalised=True)
    return _with_experts(MISTRAL.spec(config), lambda layer: experts)


def _qwen3_spec(config: Config) -> ModelSpec:
    experts = _experts(config, d_ff=config["moe_intermediate_size"], normalised=config["norm_topk_prob"])
    step, dense = config["decoder_sparse_step"], config["mlp_only_layers"] or ()

    def of(layer: int) -> ExpertsSpec | None:
        return experts if layer not in dense and experts.experts and (layer + 1) % step == 0 else None

    return _with_experts(QWEN3.spec(config), of)


def _olmoe_spec(config: Config) -> ModelSpec:
    experts = _experts(config, d_ff=config["intermediate_size"], normalised=config["norm_topk_prob"])
    spec = _with_experts(LLAMA.spec(config), lambda layer: experts)
    return with_blocks(spec, attention={"qk_norm": "full", "clip": config["clip_qkv"]})


def _gpt_oss_spec(config: Config) -> ModelSpec:
    experts = ExpertsSpec(
        config["intermediate_size"],
        "silu",  # with an alpha of its own, in `clamped`
        gated=True,
        bias=True,
        experts=config["num_local_experts"],
        top_k=config["num_experts_per_tok"],
        normalised=True,
        router_bias=True,
        clamped=ClampedGate(float(config["swiglu_alpha"]), float(config["swiglu_limit"])),
    )
    spec = _with_experts(QWEN3.spec(config), lambda layer: experts)
    return with_blocks(spec, attention={"qk_norm": None, "sinks": True})


def _tables(place: str, gate: str, up: str, down: str) -> Rules:
    named = (("gate", gate), ("up", up), ("down", down))
    return (
        same(f"layers.{{layer}}.{place}.gate.weight", "mlp.router.weight"),
        *(
            same(f"layers.{{layer}}.{place}.experts.*.{name}.weight", f"mlp.{leaf}.weight")._replace(
                given="mlp.router.weight"
            )
            for leaf, name in named
        ),
    )


def _halves(name: str, kind: str) -> TensorRule:
    """Make the rule of gpt-oss's fused tensors: units in turn from gate and up, `(expert, in, out)`."""

    def turned(part: Any) -> Any:
        return part.swapaxes(1, 2) if kind == "weight" else part

    def load(tensor: Tensor, target: Target) -> Sequence[Tensor]:
        return [turned(tensor[..., start::2]) for start in (0, 1)]

    def save(parts: Sequence[Any], target: Target) -> Any:
        pair = jnp.stack([turned(part) for part in parts], axis=-1)
        return pair.reshape(*pair.shape[:-2], -1)

    return TensorRule(f"layers.{{layer}}.mlp.experts.{name}", (f"mlp.gate.{kind}", f"mlp.up.{kind}"), load, save)


def _turned(name: str, leaf: str) -> TensorRule:
    return TensorRule(
        name, (leaf,), lambda tensor, _: (tensor.swapaxes(1, 2),), lambda parts, _: parts[0].swapaxes(1, 2)
    )


DENSE = tuple(rule._replace(unless="mlp.router.weight") for rule in MLP)
EXPERTS = _tables("mlp", "gate_proj", "up_proj", "down_proj")
ROUTING = {
    **ROTARY_KEYS,
    "output_router_logits": "selects HF outputs",
    "router_aux_loss_coef": TRAINING,
}

MIXTRAL = LLAMA._replace(
    model_type="mixtral",
    spec=_mixtral_spec,
    ignored={**ROUTING, "router_jitter_noise": TRAINING},
    blocks={"": (*PRE, *ATTENTION, *_tables("block_sparse_moe", "w1", "w3", "w2"))},
)
QWEN3_MOE = LLAMA._replace(
    model_type="qwen3_moe",
    spec=_qwen3_spec,
    ignored={**WINDOW_TYPES, **ROUTING},
    blocks={"": (*PRE, *ATTENTION, *DENSE, *EXPERTS)},
)
OLMOE = LLAMA._replace(
    model_type="olmoe",
    spec=_olmoe_spec,
    ignored={**ROUTING, "sliding_window": "reaches no mask of HF's OLMoE, which sees all that came before"},
    blocks={"": (*PRE, *ATTENTION, *EXPERTS)},
)
GPT_OSS = LLAMA._replace(
    model_type="gpt_oss",
    spec=_gpt_oss_spec,
    ignored={**ROUTING, "hidden_act": "a label: the experts' activation is fixed in HF's code"},
    blocks={
        "": (
            *PRE,
            *ATTENTION,
            same("layers.{layer}.self_attn.sinks", "attn.sinks"),
            *linear("layers.{layer}.mlp.router", "mlp.router"),
            _halves("gate_up_proj", "weight"),
            _halves("gate_up_proj_bias", "bias"),
            _turned("layers.{layer}.mlp.experts.down_proj", "mlp.down.weight"),
            same("layers.{layer}.mlp.experts.down_proj_bias", "mlp.down.bias"),
        )
    },
)
