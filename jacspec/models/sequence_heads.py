"""The classification heads of HF's `*ForSequenceClassification`: which class, which tensors. Data, as families are."""

from collections.abc import Mapping
from typing import NamedTuple


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
    "bert": _encoder("BertForSequenceClassification", "pooler.dense", "classifier", "tanh"),
    "camembert": _roberta("CamembertForSequenceClassification"),
    "distilbert": _encoder("DistilBertForSequenceClassification", "pre_classifier", "classifier", "relu"),
    "gemma": _decoder("GemmaForSequenceClassification"),
    "gemma2": _decoder("Gemma2ForSequenceClassification"),
    "gemma3_text": _decoder("Gemma3TextForSequenceClassification"),
    "gpt2": _decoder("GPT2ForSequenceClassification"),
    "gpt_neox": _decoder("GPTNeoXForSequenceClassification"),
    "gptj": _decoder("GPTJForSequenceClassification"),
    "llama": _decoder("LlamaForSequenceClassification"),
    "mistral": _decoder("MistralForSequenceClassification"),
    "olmo2": _decoder("Olmo2ForSequenceClassification"),
    "opt": _decoder("OPTForSequenceClassification"),
    "phi3": _decoder("Phi3ForSequenceClassification"),
    "qwen2": _decoder("Qwen2ForSequenceClassification"),
    "qwen3": _decoder("Qwen3ForSequenceClassification"),
    "roberta": _roberta("RobertaForSequenceClassification"),
    "xlm-roberta": _roberta("XLMRobertaForSequenceClassification"),
}
"""Heads by HF `model_type`, tensors named without the family's prefix; T5 and mT5 have none here, nor has a Gemma 3
with its vision tower."""

WITH_PREFIX = ("pooler.",)
"""How names begin that HF keeps inside the bare model, behind the family's prefix."""
