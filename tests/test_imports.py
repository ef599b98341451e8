"""What jacspec imports, in processes of their own: not PyTorch, and in a way that leaves it and transformers whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LLAMA = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    "max_position_embeddings": 8,
    "torch_dtype": "float16",
}
OPEN = f"""
import sys, jacspec
from jacspec.models.hf_config import read_config
model = jacspec.load_model("nano")
assert model.tokenizer(["Speak, speak."])["input_ids"][0]
read_config({LLAMA!r} | {{"rope_parameters": {{"rope_type": "default", "rope_theta": 1e4}}}}, "a config")
"""
AFTERWARDS = f"""
assert "torch" not in sys.modules
import torch, transformers
from transformers.activations import ACT2FN
from transformers.utils import type_validators

# A Llama with rotary embeddings that grow uses what transformers imported while PyTorch was held back.
config = transformers.AutoConfig.for_model(**{LLAMA!r})
assert config.dtype is torch.float16
llama = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
assert torch.isfinite(llama(torch.arange(16)[None]).logits).all()
assert set(type_validators.ACT2FN) == set(ACT2FN) and "gelu" in type_validators.ACT2FN
assert model.tokenizer("Speak.", return_tensors="pt").input_ids.dtype is torch.int64
"""
WITHOUT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_opening_a_model_imports_no_pytorch_and_leaves_it_to_the_user(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = run(OPEN + AFTERWARDS, tmp_path)
    assert not done.returncode, done.stderr


@pytest.mark.thorough
def test_where_pytorch_is_not_installed_nothing_is_said_of_it(tmp_path: Path) -> None:
    done = run(WITHOUT + OPEN, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    # The same import outside jacspec says it: the complaint is there to be left out.
    assert "PyTorch was not found" in run(WITHOUT + "import transformers", tmp_path).stderr


KNOWN = """
import sys, jacspec
model = jacspec.load_model("nano")
ids = model.encoder(["Speak, speak."], truncation=True, max_length=9)["input_ids"]
print("transformers" in sys.modules, ids == model.tokenizer(["Speak, speak."], max_length=9)["input_ids"])
"""


def test_a_model_that_was_opened_before_is_opened_without_transformers(tmp_path: Path) -> None:
    first, second = (run(KNOWN, tmp_path) for _ in range(2))
    assert (first.stdout, second.stdout) == ("True True\n", "False True\n"), second.stderr
