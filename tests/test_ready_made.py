"""The ready-made model choices: sizes against published numbers, configurations as they are on the hub, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from families import FAMILIES
from oracles import auto_class, raw_config
from safetensors.numpy import load_file
from transformers import CONFIG_MAPPING

from jacspec import JacspecError, load_model
from jacspec.config import config_folder
from jacspec.models.checkpoint import random_checkpoint
from jacspec.models.export import hf_tensors
from jacspec.models.families import ARCHITECTURES
from jacspec.models.families.relatives import NEAREST
from jacspec.models.hf_config import read_config
from jacspec.models.modules import module_parts, module_template

PARAMETERS = {
    "mixtral-8x7b": 46_702_792_704,
    "gpt-oss-20b": 20_914_757_184,
    "aya-23-8b": 8_028_033_024,
    "qwen3-30b-a3b": 30_532_122_624,
    "olmoe-1b-7b": 6_919_161_856,
    "bloom-560m": 559_214_592,
    # Of 7,217,189,760 in the file, whose unembedding HF ties to the embedding.
    "falcon-7b": 7_217_189_760 - 65_024 * 4544,
    "modernbert-base": 149_655_232,
    "command-r7b": 8_028_033_024,
    "distilgpt2": 81_912_576,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "pythia-2.8b": 2_775_208_960,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "pythia-70m-deduped": 70_426_624,
    "pythia-160m-deduped": 162_322_944,
    "pythia-410m-deduped": 405_334_016,
    "pythia-1b-deduped": 1_011_781_632,
    "pythia-1.4b-deduped": 1_414_647_808,
    "pythia-2.8b-deduped": 2_775_208_960,
    "pythia-6.9b-deduped": 6_857_302_016,
    "pythia-12b-deduped": 11_846_072_320,
    "bert-base": 109_514_298,
    "bert-base-cased": 108_340_804,
    "bert-large": 335_174_458,
    "roberta-base": 124_697_433,
    "roberta-large": 355_412_057,
    "distilbert": 66_985_530,
    "xlm-roberta-base": 278_295_186,
    "camembert-base": 110_655_493,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    # HF 5 ties what the files of T5 1.1 hold apart; a file's own unembedding is read all the same.
    "t5-v1.1-small": 76_961_152 - 32_128 * 512,
    "t5-v1.1-base": 247_577_856 - 32_128 * 768,
    "t5-v1.1-large": 783_150_080 - 32_128 * 1024,
    "mt5-small": 300_176_768 - 250_112 * 512,
    "llama-2-7b": 6_738_415_616,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "gemma-2b": 2_506_172_416,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    # Of 4,300,079,472 in the file, without SigLIP's 416,866,032 and the projector's 2,950,272.
    "gemma-3-4b": 3_880_263_168,
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "phi-3-mini": 3_821_079_552,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "gpt-j-6b": 6_050_882_784,
    "olmo-1b": 1_176_764_416,
    "olmo-7b-0424": 6_888_095_744,
    "olmo-3-7b": 7_298_011_136,
    "smollm3-3b": 3_075_098_624,
    "granite-3.1-2b": 2_533_531_648,
    "ministral-8b": 8_019_808_256,
    "helium-1-preview-2b": 2_172_643_840,
    "glm-4-9b": 9_399_951_360,
    "glm-4-9b-0414": 9_400_279_040,
    "starcoder2-3b": 3_030_371_328,
    "stablelm-3b-4e1t": 2_795_443_200,
    "stablelm-2-1.6b": 1_644_515_328,
    "phi-1": 1_418_270_720,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi-4-mini": 3_836_021_760,
    "starcoderbase-1b": 1_137_207_296,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-1.3b": 1_315_575_808,
    # Those of its generator, as HF's class counts them.
    "electra-small": 13_546_682,
    "electra-base": 109_514_298,
    "albert-base-v2": 11_221_680,
    # Without its own unembedding, as T5 1.1.
    "umt5-small": 175_333_376,
}
"""Published numbers of parameters, a tied unembedding counted once, language-model heads included."""


def test_every_ready_made_choice_is_in_the_table() -> None:
    names = {file.stem for file in (config_folder() / "model").glob("*.yaml")}
    assert names == PARAMETERS.keys() | {"nano", "path", "hub"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_ready_made_choice_has_the_published_number_of_parameters(name: str) -> None:
    model = load_model(name, init="random")
    modules = {part: module_template(model.spec, *part) for part in module_parts(model.spec)}
    tensors = jax.eval_shape(lambda parts: dict(hf_tensors(model.architecture, model.spec, parts)), modules)
    assert sum(leaf.size for leaf in tensors.values()) == PARAMETERS[name]


PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "bert-base": {
        "architectures": ["BertForMaskedLM"],
        "attention_probs_dropout_prob": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 768,
        "initializer_range": 0.02,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "type_vocab_size": 2,
        "use_cache": True,
        "vocab_size": 30522,
    },
    "t5-small": {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 512,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_heads": 8,
        "num_layers": 6,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}},
        "vocab_size": 32128,
    },
    "pythia-70m": {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 512,
        "initializer_range": 0.02,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.0.dev0",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "qwen2.5-0.5b": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "hidden_act": "silu",
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.1",
        "use_cache": True,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "gemma-2-2b": {
        "architectures": ["Gemma2ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 2304,
        "initializer_range": 0.02,
        "intermediate_size": 9216,
        "max_position_embeddings": 8192,
        "model_type": "gemma2",
        "num_attention_heads": 8,
        "num_hidden_layers": 26,
        "num_key_value_heads": 4,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "torch_dtype": "float32",
        "transformers_version": "4.42.4",
        "use_cache": True,
        "vocab_size": 256000,
    },
    "phi-3-mini": {
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config",
            "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
        },
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "model_type": "phi3",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    },
    "opt-350m": {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": False,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 4096,
        "hidden_size": 1024,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": 512,
    },
    "distilbert": {
        "activation": "gelu",
        "architectures": ["DistilBertForMaskedLM"],
        "attention_dropout": 0.1,
        "dim": 768,
        "dropout": 0.1,
        "hidden_dim": 3072,
        "initializer_range": 0.02,
        "max_position_embeddings": 512,
        "model_type": "distilbert",
        "n_heads": 12,
        "n_layers": 6,
        "pad_token_id": 0,
        "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "sinusoidal_pos_embds": False,
        "tie_weights_": True,
        "vocab_size": 30522,
    },
    "gpt-j-6b": {
        "activation_function": "gelu_new",
        "architectures": ["GPTJForCausalLM"],
        "attn_pdrop": 0.0,
        "bos_token_id": 50256,
        "embd_pdrop": 0.0,
        "eos_token_id": 50256,
        "gradient_checkpointing": False,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gptj",
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "resid_pdrop": 0.0,
        "rotary": True,
        "rotary_dim": 64,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True}},
        "tie_word_embeddings": False,
        "tokenizer_class": "GPT2Tokenizer",
        "transformers_version": "4.18.0.dev0",
        "use_cache": True,
        "vocab_size": 50400,
    },
}
"""Configurations with the keys that the hub's files have, old names and leftovers included."""

_FILE = json.loads((Path(__file__).parent / "published_configs.json").read_text(encoding="utf-8"))
PUBLISHED |= {name: {**_FILE["shared"].get(base, {}), **own} for name, (base, own) in _FILE["models"].items()}

UNREAD = {
    "bloom-560m": (
        "attention_softmax_in_fp32",
        "bias_dropout_fusion",
        "masked_softmax_fusion",
        "n_inner",
        "offset_alibi",
        "skip_bias_add",
        "skip_bias_add_qkv",
        "unk_token_id",
    ),
    "command-r7b": (
        "layer_switch",
        "order_of_interleaved_layers",
        "position_embedding_type",
        "rotary_pct",
        "use_embedding_sharing",
        "use_gated_activation",
        "use_parallel_block",
        "use_parallel_embedding",
    ),
    "distilgpt2": ("_num_labels",),
    "gpt-oss-20b": ("experts_per_token", "initial_context_length"),
    "falcon-7b": ("apply_residual_connection_post_layernorm",),
    "modernbert-base": ("layer_norm_eps", "position_embedding_type"),
    "gpt2-medium": ("n_special", "predict_special_tokens"),
    "gemma-2-9b": ("sliding_window_size",),
    "starcoder2-3b": (
        "activation_function",
        "attention_softmax_in_fp32",
        "layer_norm_epsilon",
        "mlp_type",
        "norm_type",
        "scale_attention_softmax_in_fp32",
        "scale_attn_weights",
    ),
    "phi-4-mini": ("full_attn_mod", "interpolate_factor", "lm_head_bias"),
    "starcoderbase-1b": (
        "inference_runner",
        "max_batch_size",
        "max_sequence_length",
        "pad_key_length",
        "pre_allocate_kv_cache",
        "validate_runner_input",
    ),
    "albert-base-v2": ("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"),
    "umt5-small": ("scalable_attention",),
    **dict.fromkeys(
        ("bert-base", "bert-base-cased", "bert-large", "xlm-roberta-base", "electra-small", "electra-base"),
        ("position_embedding_type",),
    ),
}
"""Keys of these files that no line of HF's code for the family reads; of the others', all are accounted for."""


def test_every_ready_made_choice_is_tested_with_its_own_file() -> None:
    assert PUBLISHED.keys() == PARAMETERS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_configuration_as_published_gives_the_ready_made_model(
    name: str, record_config: Callable[[str, str], None]
) -> None:
    found = read_config(PUBLISHED[name], "config.json")
    assert found.spec == load_model(name, init="random").spec
    assert found.unread == UNREAD.get(name, ())
    record_config(found.architecture.model_type, name)


@pytest.mark.few(8)
@pytest.mark.parametrize("family", FAMILIES)
def test_random_initialisation_is_hf_scheme(family: str, tmp_path: Path) -> None:
    """Tensor by tensor: HF's names and shapes, the same constants, the same spread within five standard errors."""
    small = {"vocab_size": 400, "pad_token_id": None, "hidden_size": 64, "n_embd": 64, "dim": 64, "d_model": 64}
    small |= {"word_embed_proj_dim": 64, "head_dim": 16, "d_kv": 16, "intermediate_size": 96, "num_attention_heads": 4}
    # Of four numbers, as a router's biases for four experts, the spread is anything now and then.
    small |= {"num_local_experts": 16, "num_experts": 16}
    base = FAMILIES[family].base
    config = {**base, **{key: value for key, value in small.items() if key in base}}
    if base.get("pad_token_id") is not None:
        config["pad_token_id"] = 1
    raw = raw_config(family, config)
    torch.manual_seed(2)  # the sinks of four heads have any spread too
    hf = auto_class(family).from_config(CONFIG_MAPPING[family](**raw))
    ours = random_checkpoint(raw, tokenizer_folder=tmp_path, seed=0, name="x")
    modules = {part: ours.make(*part) for part in module_parts(ours.spec)}
    tensors = dict(hf_tensors(ours.architecture, ours.spec, modules))
    hf.save_pretrained(tmp_path)
    others = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
    expected = {
        name: value for name, value in load_file(tmp_path / "model.safetensors").items() if not name.startswith(others)
    }
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        found = np.asarray(tensors[name])
        assert found.shape == value.shape
        spread = value.std()
        if spread == 0:
            np.testing.assert_array_equal(found, value)
        else:
            assert found.std() == pytest.approx(spread, rel=5 / value.size**0.5), name


REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "mixture of experts": ({"model_type": "dbrx"}, ["a mixture of experts", "Nearest supported: mixtral"]),
    "unknown mixture": ({"model_type": "odd", "num_experts": 8}, ["a mixture of experts", "num_experts"]),
    "quantised": ({"model_type": "llama", "quantization_config": {"bits": 4}}, ["quantised weights", "bfloat16"]),
    "unknown rotary": (
        {"model_type": "llama", "rope_scaling": {"rope_type": "spiral", "factor": 2.0}},
        ["'spiral'", "default, linear, dynamic, llama3, yarn, longrope"],
    ),
    "part of a head that HF stretches": (
        {"model_type": "llama", "partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ["partial_rotary_factor=0.5", "'linear'"],
    ),
    "layers of other sizes": (
        {"model_type": "llama", "per_layer_config": {"0": {"head_dim": 8}}},
        ["one configuration"],
    ),
    "named weights": ({"model_type": "llama", "transformers_weights": "x.safetensors"}, ["model.safetensors"]),
    "bidirectional Llama": ({"model_type": "llama", "is_causal": False}, ["is_causal=False"]),
    "custom code": ({"model_type": "odd", "auto_map": {"AutoModel": "odd.Odd"}}, ["code of its own", "never run"]),
    "state space": ({"model_type": "mamba"}, ["no attention", "llama"]),
    "decoder BERT": ({"model_type": "bert", "is_decoder": True}, ["is_decoder=True", "bidirectional encoder"]),
    "bidirectional Gemma": ({"model_type": "gemma2", "use_bidirectional_attention": True}, ["causal Gemma"]),
    "heads": ({"model_type": "llama", "num_key_value_heads": 5}, ["32 heads do not divide into 5"]),
    "layer type": (
        {"model_type": "qwen2", "num_hidden_layers": 1, "layer_types": ["chunked_attention"]},
        ["chunked_attention"],
    ),
    "softcap that HF ignores": (
        {"model_type": "gemma3_text", "attn_logit_softcapping": 50.0},
        ["attn_logit_softcapping=50.0"],
    ),
    "GPT-J without rotary_dim": ({"model_type": "gptj", "rotary_dim": None}, ["rotary_dim"]),
    "typing error": ({"model_type": "lama"}, ["Did you mean 'llama'"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_variant_is_refused_with_reason_and_nearest(name: str) -> None:
    config, fragments = REFUSED[name]
    with pytest.raises(JacspecError) as caught:
        read_config(config, "config.json")
    for fragment in ["config.json", *fragments]:
        assert fragment in str(caught.value)


def test_nearest_families_are_supported() -> None:
    assert {nearest for _, nearest in NEAREST.values()} <= ARCHITECTURES.keys()
    assert not NEAREST.keys() & ARCHITECTURES.keys()
