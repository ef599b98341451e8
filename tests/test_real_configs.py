"""Configurations of real public checkpoints, shrunk, with their keys untouched, beside HF's PyTorch in float64."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIRMED, SHARED, TOLERANCE
from families import layout_of
from oracles import deviation, save_random, watch
from parity import forward_one
from shrunk import VOCAB, shrink

from jacspec import JacspecError, load_model
from jacspec.backend import numerics
from jacspec.models.checkpoint import open_checkpoint
from jacspec.models.families import ARCHITECTURES
from jacspec.models.hf_config import read_config

FILE = SHARED / "cases" / "configs.json"
CONFIGS: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
SUPPORTED = {name: raw for name, raw in CONFIGS.items() if raw["model_type"] in ARCHITECTURES}

NEAREST = {
    "baichuan": "llama",
    "chatglm": "llama",
    "deepseek": "llama",
    "internlm": "llama",
    "internlm2": "llama",
    "llava": "llama",
    "minicpm": "llama",
    "ministral3": "mistral",
    "qwen2_moe": "qwen3_moe",
    "rwkv5": "gpt_neox",
}
"""Relatives by structure of the families that are refused."""


def test_the_shared_configurations_are_of_both_kinds(shared: Path) -> None:
    assert shared.is_dir()
    assert len(SUPPORTED) > 40
    assert {raw["model_type"] for raw in CONFIGS.values()} - ARCHITECTURES.keys() == NEAREST.keys()


@pytest.mark.few(12)
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated")
@pytest.mark.parametrize("name", SUPPORTED)
def test_real_configuration_equals_hf(name: str, tmp_path: Path, record_config: Callable[[str, str], None]) -> None:
    """Every activation of every layer and the logits; the file is the real one, sizes apart."""
    raw, family = shrink(SUPPORTED[name]), SUPPORTED[name]["model_type"]
    model = save_random(tmp_path, family, **{key: value for key, value in raw.items() if key != "model_type"})
    (tmp_path / "config.json").write_text(json.dumps(raw))
    tokens = np.random.default_rng(0).integers(2, VOCAB, 17)
    expected = watch(model, layout_of(family, raw), tokens)
    with numerics("float64"):
        found = forward_one(open_checkpoint(tmp_path, dtype="float64"), tokens)
    assert "logits" in found
    for array, value in expected.arrays.items():
        assert deviation(found[array], value) <= TOLERANCE["float64"], array
    whole = read_config(SUPPORTED[name], "config.json")
    assert whole.unread == read_config(raw, "config.json").unread
    record_config(family, name.partition(":")[2] + " *")


READY_MADE = {
    "bert-large": "kqi:bert_large_uncased",
    "gemma-2-2b": "mlc:gemma2_2b",
    "gemma-2-9b": "kqi:gemma_2_9b",
    "gemma-2b": "mlc:gemma_2b",
    "gemma-3-1b": "mlc:gemma3_1b_it",
    "gpt-j-6b": "mlc:gpt_j",
    "gpt2": "kqi:gpt2",
    "gpt2-medium": "mlc:gpt2_medium",
    "llama-2-7b": "kqi:Llama_2_7b_hf",
    "llama-3.2-1b": "mlc:llama3_2_1b",
    "llama-3.2-3b": "mlc:llama3_2_3b",
    "mistral-7b": "mlc:mistral_7b",
    "mixtral-8x7b": "mlc:Mixtral-8x7B-v0.1",
    "olmo-2-7b": "mlc:olmo2_7b",
    "phi-1.5": "kqi:phi_1_5",
    "qwen2.5-3b": "mlc:qwen2.5_3b",
    "qwen3-1.7b": "mlc:qwen3_1.7b",
    "stablelm-2-1.6b": "mlc:stablelm-2-zephyr-1_6b",
}
"""Ready-made choices of which a real file is there, of the same sizes."""


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_choice_is_what_the_real_file_gives(
    name: str, shared: Path, record_config: Callable[[str, str], None]
) -> None:
    found = read_config(CONFIGS[READY_MADE[name]], "config.json")
    assert found.spec == load_model(name, init="random").spec
    record_config(found.architecture.model_type, f"{name} {CONFIRMED}")


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - SUPPORTED.keys()))
def test_unsupported_family_is_refused_with_its_structural_relative(name: str) -> None:
    model_type = CONFIGS[name]["model_type"]
    with pytest.raises(JacspecError, match=f"{model_type!r}, which .*Nearest supported: {NEAREST[model_type]}\\.$"):
        read_config(CONFIGS[name], "config.json")
