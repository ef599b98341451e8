"""A whole model with a classification head as one pytree: made from a checkpoint, written in HF's layout, read again.

The heads are those of HF's `*ForSequenceClassification`, so what is written here loads there. A decoder reads its last
token, the only one that saw the whole sample, through one linear map without bias; an encoder reads its first ([CLS]
or <s>), through a dense map, an activation and a linear map: the one rule of BERT, RoBERTa and DistilBERT under their
own names. Nothing is dropped out.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.models.block import Block, Embedding, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.export import hf_tensors, write_config, write_tensors, write_tokenizer
from jacspec.models.layers import ACTIVATIONS, Linear, make_norm
from jacspec.models.modules import leaf_names, module_rules


class SequenceHead(NamedTuple):
    """A family's head: HF's class, the tensors by the leaves that they fill, the activation of an encoder's.

    A decoder's is one linear map without bias; an encoder's (`activation` given) a dense map, the activation and a
    linear map, both maps with bias.
    """

    hf_class: str
    tensors: Mapping[str, str]
    activation: str | None = None


def _decoder(hf_class: str) -> SequenceHead:
    return SequenceHead(hf_class, {"score.weight": "score.weight"})


def _encoder(hf_class: str, dense: str, score: str, activation: str) -> SequenceHead:
    names = {"dense": dense, "score": score}
    tensors = {f"{leaf}.{kind}": f"{name}.{kind}" for leaf, name in names.items() for kind in ("weight", "bias")}
    return SequenceHead(hf_class, tensors, activation)


def _roberta(hf_class: str) -> SequenceHead:
    return _encoder(hf_class, "classifier.dense", "classifier.out_proj", "tanh")


SEQUENCE_HEADS: Mapping[str, SequenceHead] = {
    "bloom": _decoder("BloomForSequenceClassification"),
    "bert": _encoder("BertForSequenceClassification", "pooler.dense", "classifier", "tanh"),
    "camembert": _roberta("CamembertForSequenceClassification"),
    "distilbert": _encoder("DistilBertForSequenceClassification", "pre_classifier", "classifier", "relu"),
    "electra": _encoder("ElectraForSequenceClassification", "classifier.dense", "classifier.out_proj", "gelu"),
    "falcon": _decoder("FalconForSequenceClassification"),
    "gemma": _decoder("GemmaForSequenceClassification"),
    "gemma2": _decoder("Gemma2ForSequenceClassification"),
    "gemma3_text": _decoder("Gemma3TextForSequenceClassification"),
    "gpt2": _decoder("GPT2ForSequenceClassification"),
    "glm": _decoder("GlmForSequenceClassification"),
    "glm4": _decoder("Glm4ForSequenceClassification"),
    "gpt_bigcode": _decoder("GPTBigCodeForSequenceClassification"),
    "gpt_neo": _decoder("GPTNeoForSequenceClassification"),
    "gpt_neox": _decoder("GPTNeoXForSequenceClassification"),
    "gpt_oss": _decoder("GptOssForSequenceClassification"),
    "gptj": _decoder("GPTJForSequenceClassification"),
    "helium": _decoder("HeliumForSequenceClassification"),
    "llama": _decoder("LlamaForSequenceClassification"),
    "ministral": _decoder("MinistralForSequenceClassification"),
    "mistral": _decoder("MistralForSequenceClassification"),
    "mixtral": _decoder("MixtralForSequenceClassification"),
    "olmo": _decoder("OlmoForSequenceClassification"),
    "olmo2": _decoder("Olmo2ForSequenceClassification"),
    "olmo3": _decoder("Olmo3ForSequenceClassification"),
    "opt": _decoder("OPTForSequenceClassification"),
    "phi": _decoder("PhiForSequenceClassification"),
    "phi3": _decoder("Phi3ForSequenceClassification"),
    "qwen2": _decoder("Qwen2ForSequenceClassification"),
    "qwen3": _decoder("Qwen3ForSequenceClassification"),
    "qwen3_moe": _decoder("Qwen3MoeForSequenceClassification"),
    "roberta": _roberta("RobertaForSequenceClassification"),
    "smollm3": _decoder("SmolLM3ForSequenceClassification"),
    "stablelm": _decoder("StableLmForSequenceClassification"),
    "starcoder2": _decoder("Starcoder2ForSequenceClassification"),
    "xlm-roberta": _roberta("XLMRobertaForSequenceClassification"),
}
"""Heads by HF `model_type`, tensors named without the family's prefix. HF has none for Cohere, Granite and
OLMoE; T5 and its kin have none here, nor have ModernBERT, whose head has a norm, a Gemma 3 with its vision tower and
ALBERT, whose layers share weights."""

WITH_PREFIX = ("pooler.",)
"""How names begin that HF keeps inside the bare model, behind the family's prefix."""


class Readout(nnx.Module):
    """The residual stream after the last block in, one score a label out: final norm, then the family's head."""

    def __init__(self, spec: ModelSpec, labels: int, activation: str | None, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        own, d_model = spec.head, spec.d_model

        def linear(n_in: int, n_out: int, *, bias: bool) -> Linear:
            return Linear(n_in, n_out, std=own.std, bias=bias, dtype=dtype, rngs=rngs)

        # Named as in `Head`, so that the families' tables fill them.
        self.norm = None if own.norm is None else make_norm(own.norm, d_model, dtype)
        width = d_model if own.transform is not None else own.width
        self.project = linear(d_model, width, bias=False) if width != d_model else None
        self.dense = None if activation is None else linear(width, width, bias=True)
        self.score = linear(width, labels, bias=activation is not None)
        self.activation = activation

    def __call__(self, h: Float[Array, "token d_model"], length: Int[Array, ""]) -> Float[Array, " label"]:
        """Score the labels of one sample, of which `length` tokens count."""
        x = h[length - 1] if self.activation is None else h[0]
        x = x if self.norm is None else self.norm(x)
        x = x if self.project is None else self.project(x)
        if self.dense is not None:
            assert self.activation is not None
            x = ACTIVATIONS[self.activation](self.dense(x))
        return self.score(x)


class Classifier(NamedTuple):
    """A model that scores labels, as one pytree."""

    embedding: Embedding
    blocks: tuple[Block, ...]
    readout: Readout

    def __call__(self, tokens: Int[Array, " token"], length: Int[Array, ""]) -> Float[Array, " label"]:
        """Compute the logits of one sample, padded at the end to more than its `length` tokens."""
        h = self.embedding(tokens)
        for block in self.blocks:
            h = block(h, length)
        return self.readout(h, length)


def make_classifier(checkpoint: Checkpoint, *, labels: int, seed: int) -> Classifier:
    """Put a new classification head on a pretrained model.

    **Arguments:** `labels`, how many; `seed`, of the head's weights, which are drawn as the family's others are. BERT's
    pooler is read where the checkpoint has it, as HF reads it; no other part of an earlier head is.

    **Raises:** `JacspecError` for an encoder-decoder model.
    """
    head = _sequence_head(checkpoint)
    rngs = nnx.Rngs(params=jax.random.key(seed))
    readout = Readout(checkpoint.spec, labels, head.activation, dtype=jnp.dtype("float32"), rngs=rngs)
    pooler = {leaf: name for leaf, name in head.tensors.items() if name.startswith(WITH_PREFIX)}
    return _assemble(checkpoint, readout, _stored(checkpoint, pooler))


def read_classifier(checkpoint: Checkpoint) -> Classifier:
    """Read a model with its classification head; raises `JacspecError` where the checkpoint has none."""
    head = _sequence_head(checkpoint)
    stored = _stored(checkpoint, head.tensors)
    if missing := sorted(head.tensors[leaf] for leaf in head.tensors.keys() - stored.keys()):
        raise JacspecError(f"{checkpoint.name} has no classification head: {', '.join(missing)} not in its files.")
    labels = stored["score.weight"].shape[0]
    rngs = nnx.Rngs(params=jax.random.key(0))
    readout = Readout(checkpoint.spec, labels, head.activation, dtype=jnp.dtype("float32"), rngs=rngs)
    return _assemble(checkpoint, readout, stored)


def write_classifier(
    folder: Path, checkpoint: Checkpoint, classifier: Classifier, *, labels: tuple[str, ...], pad: int
) -> None:
    """Write a classifier made from `checkpoint` in HF layout: config, weights at the classifier's precision, tokenizer.

    **Arguments:** `labels`, their names; `pad`, the id of the padding token, which HF's decoders look for to find the
    last token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    architecture, spec = checkpoint.architecture, checkpoint.spec
    head = SEQUENCE_HEADS[architecture.model_type]
    modules: dict[tuple[str, int], Any] = {("embedding", 0): classifier.embedding, ("head", 0): classifier.readout}
    modules |= {("block", number): block for number, block in enumerate(classifier.blocks)}
    tensors = dict(hf_tensors(architecture, spec, modules))
    leaves = _leaves(classifier.readout)
    for leaf, name in head.tensors.items():
        tensors[(architecture.prefixes[0] if name.startswith(WITH_PREFIX) else "") + name] = leaves[leaf]
    write_tensors(folder, tensors, dtype=str(checkpoint.dtype))
    write_tokenizer(folder, checkpoint.tokenizer)
    numbered = {str(number): label for number, label in enumerate(labels)}
    changed = {
        "architectures": [head.hf_class],
        "dtype": str(checkpoint.dtype),
        "id2label": numbered,
        "label2id": {label: int(number) for number, label in numbered.items()},
        "pad_token_id": pad,
    }
    write_config(folder, {**checkpoint.config, **changed})


def _sequence_head(checkpoint: Checkpoint) -> SequenceHead:
    model_type = checkpoint.architecture.model_type
    if model_type not in SEQUENCE_HEADS:
        raise JacspecError(
            f"{checkpoint.name} is a {model_type}: encoder-decoders, models of several towers, models whose layers "
            "share weights and some others have no classification head here. "
            f"Accepted: {', '.join(sorted(SEQUENCE_HEADS))}. Type model=nano, gpt2 or bert-base."
        )
    return SEQUENCE_HEADS[model_type]


def _stored(checkpoint: Checkpoint, tensors: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Read those of a head's tensors that the checkpoint's files have, by leaf."""
    files = checkpoint.tensors
    if files is None:
        return {}
    return {leaf: files.read(name) for leaf, name in tensors.items() if name in files.index}


def _assemble(checkpoint: Checkpoint, readout: Readout, stored: Mapping[str, np.ndarray]) -> Classifier:
    leaves: dict[str, Any] = _leaves(readout)
    rules = module_rules(checkpoint.architecture, checkpoint.spec, "head", 0, readout)
    found = dict(stored)
    for _, filled in checkpoint.leaves("head", 0, {name for name, _, _ in rules}):
        found |= filled
    if wrong := [leaf for leaf, values in found.items() if values.shape != leaves[leaf].shape]:
        raise JacspecError(f"{checkpoint.name}: the shape of {', '.join(wrong)} does not fit the classification head.")
    filled_in = [jnp.asarray(found.get(name, value), checkpoint.dtype) for name, value in leaves.items()]
    whole = jax.tree.unflatten(jax.tree.structure(readout), filled_in)
    return Classifier(checkpoint.embedding(), tuple(checkpoint.blocks()), whole)


def _leaves(readout: Readout) -> dict[str, Any]:
    return dict(zip(leaf_names(readout), jax.tree.leaves(readout), strict=True))
