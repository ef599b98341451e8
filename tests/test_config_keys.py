"""What HF's code reads of a config, derived from its source, beside what jacspec honours, ignores and refuses."""

import json
from typing import Any

import pytest
from families import CASES, config_of
from hf_source import keys_read
from oracles import raw_config
from transformers import CONFIG_MAPPING

from jacspec import JacspecError
from jacspec.models.architectures import IGNORED_EVERYWHERE, ReadKeys
from jacspec.models.families import ARCHITECTURES
from jacspec.models.hf_config import HONOURED_EVERYWHERE, REFUSED, read_config

BESIDE_THE_MODEL = {
    "cache_utils.py": {"layer_types"},
    "configuration_utils.py": {"embed_dim", "head_dim", "num_heads", "rope_parameters", "rope_theta"},
    "masking_utils.py": {"attention_chunk_size"},
    "modeling_utils.py": {"layer_types", "sliding_window"},
}
"""Keys that these files of HF read for every family and that reach no activation: which caches a generation may use,
whether three sizes fit together where a config has all of them, rotary keys of a class that has no rotations, and the
masks of a generation that is chunked."""


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_key_that_hf_reads_is_accounted_for(family: str) -> None:
    """It fails where a new transformers reads a key that is neither honoured, ignored with a reason, nor refused."""
    row = ARCHITECTURES[family]
    accounted = IGNORED_EVERYWHERE.keys() | row.ignored.keys() | REFUSED.keys() | HONOURED_EVERYWHERE
    for name, (of, case) in CASES.items():
        if of == family:
            config = CONFIG_MAPPING[family](**raw_config(family, config_of(of, case))).to_dict()
            reading = ReadKeys(config[row.tower] | {"tie_word_embeddings": True} if row.tower else config)
            row.spec(reading)
            accounted = accounted | reading.read
            assert name
    for key, files in keys_read(family).items():
        beside = all(key in BESIDE_THE_MODEL.get(file, ()) for file in files)
        assert key in accounted or beside, f"{family} reads {key} in {', '.join(sorted(files))}"


def test_derivation_sees_what_the_forward_pass_reads() -> None:
    """Of places of every kind: a modelling file, common code, a parent class, a translated spelling, an alias."""
    assert "models/gemma2/modeling_gemma2.py" in keys_read("gemma2")["attn_logit_softcapping"]
    assert "masking_utils.py" in keys_read("llama")["is_causal"]
    assert "models/gpt_neox/configuration_gpt_neox.py" in keys_read("gpt_neox")["rotary_pct"]
    assert "modeling_rope_utils.py" in keys_read("phi3")["original_max_position_embeddings"]
    assert {"n_embd", "n_layer"} <= keys_read("gpt2").keys()
    assert not {"n_special", "hidden_size", "to_dict", "base_model_tp_plan"} & keys_read("gpt2").keys()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_a_key_that_nobody_reads_is_carried_on_and_named(family: str) -> None:
    """Whatever its value, while what HF writes itself, as a difference or in full, names nothing."""
    own = next(config_of(of, case) for of, case in CASES.values() if of == family)
    raw = raw_config(family, own)
    made = CONFIG_MAPPING[family](**raw)
    for written in (json.loads(made.to_json_string()), made.to_dict()):
        assert read_config(written, "config.json").unread == ()
    odd = {"n_special": 0, "transformers.js_config": {"a": [1]}, "unk_token_id": None, "adapters": {}}
    found = read_config({**raw, **odd}, "config.json")
    assert found.unread == tuple(sorted(odd))
    assert found.spec == read_config(raw, "config.json").spec


def test_meaningful_names_that_the_family_does_not_read_are_named_too() -> None:
    """HF's Llama has no windows, HF's Gemma 1 no softcap, and code of one's own is never run: as HF computes it."""
    odd = {"sliding_window": 5, "attn_logit_softcapping": 50.0, "auto_map": {"AutoModel": "odd.Odd"}}
    for family in ("llama", "gemma"):
        found = read_config({"model_type": family, **odd}, "config.json")
        assert found.unread == tuple(sorted(odd))
        assert found.spec == read_config({"model_type": family}, "config.json").spec


def test_keys_that_change_nothing_are_not_judged_by_their_type() -> None:
    """HF's class refuses a null where it wants a number, also of a key that reaches no activation."""
    odd = {"classifier_dropout": None, "attention_dropout": "none", "dtype": "int3", "problem_type": "other"}
    assert read_config({"model_type": "gpt_neox", **odd}, "config.json").spec.blocks


OLD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "GPT-NeoX saved by 4.45": (
        {"model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 2e4, "partial_rotary_factor": 0.5},
        {"model_type": "gpt_neox", "rope_parameters": {"rope_theta": 2e4, "partial_rotary_factor": 0.5}},
    ),
    "theta beside": (
        {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": None},
        {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ),
    "type for rope_type": (
        {"model_type": "llama", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}},
    ),
    "theta in both": (
        {"model_type": "qwen2", "rope_theta": 1e6, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        {"model_type": "qwen2", "rope_parameters": {"rope_theta": 1e6}},
    ),
    "two bases": (
        {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 9e3, "sliding_window_pattern": 2},
        {
            "model_type": "gemma3_text",
            "layer_types": ["sliding_attention", "full_attention"] * 13,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 9e3},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        },
    ),
    "context of the first training beside": (
        {
            "model_type": "llama",
            "original_max_position_embeddings": 512,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
        },
        {
            "model_type": "llama",
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        },
    ),
    "a GPT-2 by HF's common names": ({"model_type": "gpt2", "hidden_size": 96}, {"model_type": "gpt2", "n_embd": 96}),
    "no model_type": (
        {"architectures": ["BertForMaskedLM"], "hidden_size": 96},
        {"model_type": "bert", "hidden_size": 96},
    ),
    "no model_type, T5 of 2019": ({"architectures": ["T5WithLMHeadModel"]}, {"model_type": "t5"}),
    "no model_type, the longer name": ({"architectures": ["XLMRobertaModel"]}, {"model_type": "xlm-roberta"}),
}


@pytest.mark.parametrize("name", OLD)
def test_old_spellings_are_read_as_hf_reads_them(name: str) -> None:
    old, new = (read_config(raw, "config.json") for raw in OLD[name])
    assert old.spec == new.spec
    assert old.unread == ()


STRANGERS = {
    "mpnet": ("relative position biases", "bert"),
    "nemotron": ("norms", "llama"),
    "persimmon": ("norms of queries and keys", "gpt_neox"),
    "openai-gpt": ("after the addition", "gpt2"),
    "blenderbot": ("no row here", "t5"),
    "roformer": ("no row here", "bert"),
}


@pytest.mark.parametrize("model_type", STRANGERS)
def test_strangers_are_told_their_nearest_relative_by_structure(model_type: str) -> None:
    reason, nearest = STRANGERS[model_type]
    raw = CONFIG_MAPPING[model_type]().to_dict()
    with pytest.raises(JacspecError, match=f"{model_type!r}, which .*{reason}.*Nearest supported: {nearest}\\.$"):
        read_config(raw, "config.json")


def test_config_without_any_name_asks_for_one() -> None:
    with pytest.raises(JacspecError, match="no model_type, and no architectures that tell it"):
        read_config({"hidden_size": 768}, "config.json")
