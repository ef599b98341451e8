"""The supported families, one `Architecture` row each, relatives in one file."""

from collections.abc import Mapping

from jacspec.models.architectures import Architecture
from jacspec.models.families.bert import BERT, CAMEMBERT, DISTILBERT, ROBERTA, XLM_ROBERTA
from jacspec.models.families.experts import MIXTRAL, OLMOE, QWEN3_MOE
from jacspec.models.families.gpt import GPT2, GPT_NEOX, GPTJ, OPT
from jacspec.models.families.llama import GEMMA, GEMMA2, GEMMA3, GEMMA3_TEXT, LLAMA, MISTRAL, OLMO2, PHI3, QWEN2, QWEN3
from jacspec.models.families.t5 import MT5, T5

ARCHITECTURES: Mapping[str, Architecture] = {
    row.model_type: row
    for row in (
        GPT2,
        BERT,
        T5,
        MT5,
        GPT_NEOX,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GEMMA3_TEXT,
        GEMMA3,
        OLMO2,
        PHI3,
        OPT,
        ROBERTA,
        XLM_ROBERTA,
        CAMEMBERT,
        DISTILBERT,
        GPTJ,
        MIXTRAL,
        QWEN3_MOE,
        OLMOE,
    )
}
"""Supported families by HF `model_type`."""
