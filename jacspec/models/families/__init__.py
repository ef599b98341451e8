"""The supported families, one `Architecture` row each, relatives in one file."""

from collections.abc import Mapping

from jacspec.models.architectures import Architecture
from jacspec.models.families.alibi import BLOOM, FALCON
from jacspec.models.families.bert import ALBERT, BERT, CAMEMBERT, DISTILBERT, ELECTRA, ROBERTA, XLM_ROBERTA
from jacspec.models.families.experts import GPT_OSS, MIXTRAL, OLMOE, QWEN3_MOE
from jacspec.models.families.gpt import GPT2, GPT_BIGCODE, GPT_NEO, GPT_NEOX, GPTJ, OPT
from jacspec.models.families.llama import (
    COHERE,
    COHERE2,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GEMMA3_TEXT,
    GLM,
    GLM4,
    GRANITE,
    HELIUM,
    LLAMA,
    MINISTRAL,
    MISTRAL,
    OLMO,
    OLMO2,
    OLMO3,
    PHI,
    PHI3,
    QWEN2,
    QWEN3,
    SMOLLM3,
    STABLELM,
    STARCODER2,
)
from jacspec.models.families.modernbert import MODERNBERT
from jacspec.models.families.t5 import MT5, T5, UMT5

ARCHITECTURES: Mapping[str, Architecture] = {
    row.model_type: row
    for row in (
        GPT2,
        BERT,
        T5,
        MT5,
        UMT5,
        GPT_NEOX,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA,
        GEMMA2,
        GEMMA3_TEXT,
        GEMMA3,
        OLMO,
        OLMO2,
        OLMO3,
        SMOLLM3,
        GRANITE,
        MINISTRAL,
        HELIUM,
        GLM,
        GLM4,
        STARCODER2,
        STABLELM,
        PHI,
        PHI3,
        GPT_BIGCODE,
        GPT_NEO,
        OPT,
        ROBERTA,
        XLM_ROBERTA,
        CAMEMBERT,
        DISTILBERT,
        ELECTRA,
        ALBERT,
        GPTJ,
        MIXTRAL,
        QWEN3_MOE,
        OLMOE,
        GPT_OSS,
        COHERE,
        COHERE2,
        BLOOM,
        FALCON,
        MODERNBERT,
    )
}
"""Supported families by HF `model_type`."""
