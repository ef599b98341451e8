"""The supported families, as data: how config keys map to a `ModelSpec`, and which tensor fills which leaf.

A family is one `Architecture` row. Everything a checkpoint says must be accounted for: a config key is handled,
ignored with a reason, or at its class default; a tensor is in the table or among the buffers with a reason.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from jacspec.models.block import BlockSpec, ModelSpec

Tensor = Shaped[np.ndarray, "..."]


class TensorRule(NamedTuple):
    """One HF tensor and the module leaves it fills; `{layer}` in `name` stands for the block's number.

    `load` turns the tensor into the leaves, in order; `save` turns the leaves back into the tensor.
    """

    name: str
    leaves: tuple[str, ...]
    load: Callable[[Tensor], tuple[Tensor, ...]]
    save: Callable[..., Any]


class Architecture(NamedTuple):
    """A family: its HF `model_type`, its config keys and its tensors.

    `spec` reads the whole config (class defaults filled in). `handled` are the keys that it reads, `ignored`
    maps further keys to the reason why they change nothing here. `embedding`, `block` and `head` are the tensor
    tables of the three modules; `tied` maps the head's tensors to those that a tied model uses instead.
    `prefix` is what some checkpoints put before names; `buffers` maps tensor names that hold no weights to the
    reason.
    """

    model_type: str
    spec: Callable[[Mapping[str, Any]], ModelSpec]
    handled: frozenset[str]
    ignored: Mapping[str, str]
    embedding: tuple[TensorRule, ...]
    block: tuple[TensorRule, ...]
    head: tuple[TensorRule, ...]
    tied: Mapping[str, str]
    prefix: str
    buffers: Mapping[str, str]

    def head_rules(self, tied: bool) -> tuple[TensorRule, ...]:
        """Return the table of the head, read from the embedding's tensors where the model is `tied`."""
        return tuple(rule._replace(name=self.tied.get(rule.name, rule.name)) if tied else rule for rule in self.head)


def same(name: str, leaf: str) -> TensorRule:
    """Make a rule for a tensor that is stored as the leaf is."""
    return TensorRule(name, (leaf,), lambda tensor: (tensor,), lambda leaf: leaf)


def transposed(name: str, leaf: str) -> TensorRule:
    """Make a rule for a weight stored `(in, out)`, as HF's Conv1D does."""
    return TensorRule(name, (leaf,), lambda tensor: (tensor.T,), lambda leaf: leaf.T)


def fused(name: str, *leaves: str, transpose: bool = False) -> TensorRule:
    """Make a rule for a tensor that holds equally large `leaves` one after the other along its output axis.

    With `transpose` the tensor is stored `(in, out)`.
    """

    def load(tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(np.split(tensor.T if transpose else tensor, len(leaves)))

    def save(*parts: Any) -> Any:
        whole = jnp.concatenate(parts)
        return whole.T if transpose else whole

    return TensorRule(name, leaves, load, save)


def _gpt2_spec(config: Mapping[str, Any]) -> ModelSpec:
    d_model, heads, layers = config["n_embd"], config["n_head"], config["n_layer"]
    d_head = d_model // heads
    std = config["initializer_range"]

    def block(layer: int) -> BlockSpec:
        scale = d_head**-0.5 if config["scale_attn_weights"] else 1.0
        return BlockSpec(
            d_model=d_model,
            heads=heads,
            kv_heads=heads,
            d_head=d_head,
            d_ff=config["n_inner"] or 4 * d_model,
            activation=config["activation_function"],
            norm_eps=config["layer_norm_epsilon"],
            attention_scale=scale / (layer + 1) if config["scale_attn_by_inverse_layer_idx"] else scale,
            std=std,
            # HF's scheme, from the GPT-2 paper: residual projections are scaled by 1/sqrt(2 · layers).
            out_std=std / (2 * layers) ** 0.5,
        )

    return ModelSpec(
        vocab=config["vocab_size"],
        positions=config["n_positions"],
        blocks=tuple(block(layer) for layer in range(layers)),
        tied=config["tie_word_embeddings"],
    )


GENERATION = "concerns text generation, not the forward pass"
TRAINING = "acts in training only"

IGNORED_EVERYWHERE: Mapping[str, str] = {
    "_name_or_path": "a label",
    "architectures": "names the HF class; the tensors decide",
    "bos_token_id": "the tokenizer adds special tokens",
    "chunk_size_feed_forward": "a way to compute, not what is computed",
    "dtype": "weights are read at the dtype they have and cast to the run's precision",
    "eos_token_id": "the tokenizer adds special tokens",
    "finetuning_task": "a label",
    "id2label": "labels of a classification head",
    "label2id": "labels of a classification head",
    "model_type": "chose this row",
    "output_attentions": "selects HF outputs",
    "output_hidden_states": "selects HF outputs",
    "pad_token_id": "padding never enters a result",
    "problem_type": "concerns a classification head",
    "return_dict": "selects HF outputs",
    "task_specific_params": GENERATION,
    "torch_dtype": "weights are read at the dtype they have and cast to the run's precision",
    "transformers_version": "a label",
    "use_cache": GENERATION,
}

GPT2 = Architecture(
    model_type="gpt2",
    spec=_gpt2_spec,
    handled=frozenset(
        {
            "activation_function",
            "initializer_range",
            "layer_norm_epsilon",
            "n_embd",
            "n_head",
            "n_inner",
            "n_layer",
            "n_positions",
            "scale_attn_by_inverse_layer_idx",
            "scale_attn_weights",
            "tie_word_embeddings",
            "vocab_size",
        }
    ),
    ignored={
        "attn_pdrop": TRAINING,
        "embd_pdrop": TRAINING,
        "gradient_checkpointing": TRAINING,
        "n_ctx": "an old name of n_positions that HF no longer reads",
        "reorder_and_upcast_attn": "jacspec computes attention in float32 or float64 throughout",
        "resid_pdrop": TRAINING,
        "summary_activation": "concerns a classification head",
        "summary_first_dropout": "concerns a classification head",
        "summary_proj_to_labels": "concerns a classification head",
        "summary_type": "concerns a classification head",
        "summary_use_proj": "concerns a classification head",
    },
    embedding=(same("wte.weight", "token"), same("wpe.weight", "position")),
    block=(
        same("h.{layer}.ln_1.weight", "attn_norm.weight"),
        same("h.{layer}.ln_1.bias", "attn_norm.bias"),
        fused("h.{layer}.attn.c_attn.weight", "attn.q.weight", "attn.k.weight", "attn.v.weight", transpose=True),
        fused("h.{layer}.attn.c_attn.bias", "attn.q.bias", "attn.k.bias", "attn.v.bias"),
        transposed("h.{layer}.attn.c_proj.weight", "attn.o.weight"),
        same("h.{layer}.attn.c_proj.bias", "attn.o.bias"),
        same("h.{layer}.ln_2.weight", "mlp_norm.weight"),
        same("h.{layer}.ln_2.bias", "mlp_norm.bias"),
        transposed("h.{layer}.mlp.c_fc.weight", "mlp.up.weight"),
        same("h.{layer}.mlp.c_fc.bias", "mlp.up.bias"),
        transposed("h.{layer}.mlp.c_proj.weight", "mlp.down.weight"),
        same("h.{layer}.mlp.c_proj.bias", "mlp.down.bias"),
    ),
    head=(
        same("ln_f.weight", "norm.weight"),
        same("ln_f.bias", "norm.bias"),
        same("lm_head.weight", "unembed.weight"),
    ),
    tied={"lm_head.weight": "wte.weight"},
    prefix="transformer.",
    buffers={
        "h.{layer}.attn.bias": "the causal mask",
        "h.{layer}.attn.masked_bias": "the value that masks",
    },
)

ARCHITECTURES: Mapping[str, Architecture] = {row.model_type: row for row in (GPT2,)}
"""Supported families by HF `model_type`."""
