"""The supported families, one `Architecture` row each, relatives in one file."""

from collections.abc import Mapping

from jacspec.models.architectures import Architecture
from jacspec.models.families.bert import BERT, DISTILBERT, ROBERTA
from jacspec.models.families.gpt import GPT2, GPT_NEOX, GPTJ, OPT
from jacspec.models.families.llama import GEMMA2, GEMMA3, LLAMA, MISTRAL, OLMO2, PHI3, QWEN2, QWEN3
from jacspec.models.families.t5 import T5

ARCHITECTURES: Mapping[str, Architecture] = {
    row.model_type: row
    for row in (
        GPT2,
        BERT,
        T5,
        GPT_NEOX,
        LLAMA,
        MISTRAL,
        QWEN2,
        QWEN3,
        GEMMA2,
        GEMMA3,
        OLMO2,
        PHI3,
        OPT,
        ROBERTA,
        DISTILBERT,
        GPTJ,
    )
}
"""Supported families by HF `model_type`."""

NEAREST: Mapping[str, tuple[str, str]] = {
    "cohere": ("its norms have no counterpart here", "llama"),
    "deepseek_v2": ("a mixture of experts with latent attention", "llama"),
    "deepseek_v3": ("a mixture of experts with latent attention", "llama"),
    "falcon": ("its fused attention has no counterpart here", "gpt_neox"),
    "gemma": ("the first Gemma has no row here", "gemma2"),
    "gemma3": ("it holds a vision tower", "gemma3_text"),
    "gpt_neo": ("its unscaled local attention has no row here", "gpt2"),
    "gpt_oss": ("a mixture of experts with attention sinks", "llama"),
    "mamba": ("a state-space model: there is no attention to differentiate", "llama"),
    "mamba2": ("a state-space model: there is no attention to differentiate", "llama"),
    "mixtral": ("a mixture of experts", "mistral"),
    "mt5": ("T5's multilingual sibling has no row of its own", "t5"),
    "olmo": ("its norms without weights have no counterpart here", "olmo2"),
    "olmoe": ("a mixture of experts", "olmo2"),
    "phi": ("the first Phi has no row here", "phi3"),
    "phimoe": ("a mixture of experts", "phi3"),
    "qwen2_moe": ("a mixture of experts", "qwen2"),
    "qwen3_moe": ("a mixture of experts", "qwen3"),
    "rwkv": ("a recurrent model: there is no attention to differentiate", "gpt_neox"),
    "switch_transformers": ("a mixture of experts", "t5"),
}
"""Well-known families that are refused: why, and the nearest supported one."""
