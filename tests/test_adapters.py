"""LoRA adapters as models: the sum of base and adapter beside PEFT's own `merge_and_unload`, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from families import FAMILIES
from oracles import float64_throughout, save_random
from parity import forward_one
from safetensors.torch import load_file, save_file
from servers import NANO, assert_refused, run_here
from transformers import AutoModelForCausalLM

import jacspec
from jacspec.backend import numerics
from jacspec.config import ModelConfig
from jacspec.errors import JacspecError
from jacspec.models.adapters import AdaptedTensor, Change, apply_adapter, open_adapter
from jacspec.models.hub import locate, open_model
from jacspec.models.tensor_files import StoredTensor, open_tensors

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's, of transformers' next version and of what it corrects

Q, ALL = ["q_proj"], ["q_proj", "v_proj", "down_proj"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": ALL, "lora_alpha": 3}),
    "rslora": ("llama", {"target_modules": Q, "use_rslora": True}),
    "patterns": (
        "llama",
        {
            "target_modules": ALL,
            "rank_pattern": {"v_proj": 5, "layers.0.self_attn.q_proj": 1},
            "alpha_pattern": {"down_proj": 7, r"layers\.[1-9]\.self_attn\.q_proj": 2.5, "proj": 1},
        },
    ),
    "dora": ("llama", {"target_modules": ALL, "use_dora": True}),
    "one layer": ("llama", {"target_modules": Q, "layers_to_transform": [1]}),
    "embedding": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "dora of the embedding": ("llama", {"target_modules": ["embed_tokens"], "use_dora": True}),
    "head saved": ("llama", {"target_modules": Q, "modules_to_save": ["lm_head", "norm"]}),
    "biases": ("llama", {"target_modules": Q, "bias": "all"}),
    "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "conv1d dora": ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True, "use_dora": True}),
    "conv1d, square alone": ("gpt2", {"target_modules": ["attn.c_proj"], "fan_in_fan_out": True}),
}
BASES = {
    "llama": FAMILIES["llama"].base | {"attention_bias": True, "tie_word_embeddings": False},
    "gpt2": FAMILIES["gpt2"].base,
}


def make_adapter(folder: Path, family: str, **config: Any) -> Any:
    """Write a random base and an adapter of it, both far from zero, and return PEFT's merged model."""
    base = folder / "base"
    base.mkdir(parents=True)
    save_random(base, family, **BASES[family])
    with float64_throughout():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        given = {"r": 3, "lora_alpha": 2, "task_type": "CAUSAL_LM", **config}
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**given), autocast_adapter_dtype=False).double()
        torch.manual_seed(1)
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn_like(parameter) * 0.3
                parameter.data = parameter.data.abs() + noise.abs() if "magnitude" in name else parameter.data + noise
        wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
        return wrapped.merge_and_unload().eval()


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def deviation(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    with numerics("float64"):
        location = locate(ModelConfig("path", path=str(folder)))
        assert location.adapter is not None
        tensors = apply_adapter(open_tensors(location.weights), open_adapter(location.adapter))
        return {name: tensors.read(name) for name in tensors.index}


@pytest.mark.parametrize("case", CASES)
def test_sum_is_pefts_tensor_by_tensor_and_in_logits(case: str, tmp_path: Path) -> None:
    family, config = CASES[case]
    merged = make_adapter(tmp_path, family, **config)
    expected = {name: tensor.numpy() for name, tensor in merged.state_dict().items()}
    found = tensors_of(tmp_path / "adapter")
    assert deviation(found, {name: expected[name] for name in found}) < 1e-12
    stored = {name: tensor.numpy() for name, tensor in load_file(tmp_path / "base/model.safetensors").items()}
    assert deviation(found, stored) > 1e-2  # the base itself fails
    with numerics("float64"):
        checkpoint = open_model(ModelConfig("path", path=str(tmp_path / "adapter")), dtype="float64")
        ids = np.arange(7) % 11
        logits = forward_one(checkpoint, ids)["logits"]
    with float64_throughout(), torch.no_grad():
        hf = merged(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(logits, hf, atol=1e-10, rtol=1e-10)


class InMemory(StoredTensor):
    """A tensor that is there already."""

    array: np.ndarray

    def values(self) -> np.ndarray:
        return self.array


def in_memory(array: np.ndarray) -> InMemory:
    made = InMemory(Path("x"), "x", array.shape, "F64")
    made.array = array
    return made


@pytest.mark.parametrize(
    ("transposed", "embedding", "as_stored"),
    [(False, False, False), (True, False, False), (True, False, True), (True, True, False), (True, True, True)],
)
def test_basis_of_a_square_change_stands_on_its_right(transposed: bool, embedding: bool, as_stored: bool) -> None:
    rng = np.random.default_rng(0)
    down, up, base = (in_memory(rng.normal(size=shape)) for shape in ((2, 6), (6, 2), (6, 6)))
    adapted = AdaptedTensor.make(base, Change(down, up, None, 0.5, embedding), transposed)
    # Weights are read (out, in), tables of tokens and what is read by name as they are stored.
    matrix = adapted.update().T if transposed and not embedding and not as_stored else adapted.update()
    basis = adapted.inputs(as_stored=as_stored)
    assert basis is not None
    np.testing.assert_allclose(matrix @ basis @ basis.T, matrix, atol=1e-12)


def test_unembedding_that_was_saved_unties(tmp_path: Path) -> None:
    """Its base ties it; merged by PEFT, the model has the one that was trained."""
    base = tmp_path / "base"
    base.mkdir()
    save_random(base, "llama", **{**BASES["llama"], "tie_word_embeddings": True})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    vocab, d = BASES["llama"]["vocab_size"], BASES["llama"]["hidden_size"]
    head = torch.randn(vocab, d, dtype=torch.float64)
    lora = {f"model.layers.0.self_attn.q_proj.lora_{part}.weight": torch.zeros(1, d) for part in "A"}
    lora["model.layers.0.self_attn.q_proj.lora_B.weight"] = torch.zeros(d, 1)
    save_file(
        {f"base_model.model.{name}": each for name, each in {**lora, "lm_head.weight": head}.items()},
        adapter / "adapter_model.safetensors",
    )
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "lora_alpha": 1, "base_model_name_or_path": str(base)})
    )
    with numerics("float64"):
        checkpoint = open_model(ModelConfig("path", path=str(adapter)), dtype="float64")
        np.testing.assert_array_equal(np.asarray(checkpoint.head().unembed.weight[...]), head.numpy())
        token = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
        np.testing.assert_array_equal(np.asarray(checkpoint.embedding().token[...]), token.numpy())


def test_pickled_adapter_and_another_base(tmp_path: Path) -> None:
    make_adapter(tmp_path, "llama", target_modules=Q)
    adapter, whole = tmp_path / "adapter", tensors_of(tmp_path / "adapter")
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    assert deviation(tensors_of(adapter), whole) == 0
    edit_config(adapter, base_model_name_or_path="ORG/GONE")
    (tmp_path / "base").rename(tmp_path / "moved")
    found = jacspec.load_model(adapter, base=str(tmp_path / "moved"))
    assert set(found.files) == {"config.json", "model.safetensors", "adapter_config.json", "adapter_model.bin"}
    assert found.name == "adapter"
    shapes = jacspec.load_model(adapter, base=str(tmp_path / "moved"), init="random")
    assert (shapes.spec, shapes.name) == (found.spec, "adapter (random)")
    assert found.notes[0] == "adapter adapter: 2 weights changed"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    "layers twice": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "a bias of B": ({"lora_bias": True}, "lora_bias"),
    "tokens alone": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "what comes next": ({"use_tomorrow": True}, "use_tomorrow"),
    "a base that was changed": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
    "magnitudes that are not there": ({"use_dora": True}, "use_dora=true"),
    "no alpha": ({"lora_alpha": "much"}, "lora_alpha"),
    "an expression without end": ({"alpha_pattern": {"(a+)+b": 2}}, "alpha_pattern"),
    "an adapter as the base": ({"base_model_name_or_path": "."}, "is an adapter itself"),
    "no base": ({"base_model_name_or_path": None}, "does not name its base"),
    "a base that is not here": ({"base_model_name_or_path": "/gone/gone"}, "model.base="),
    "another base": ({"base_model_name_or_path": str(NANO)}, "changes tensors that its base has not"),
}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_adapter(folder, "llama", target_modules=Q)
    return folder / "adapter"


@pytest.mark.parametrize("why", REFUSED)
def test_what_would_change_numbers_is_refused_by_name(
    why: str, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, said = REFUSED[why]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes((adapter / name).read_bytes())
    edit_config(tmp_path, **changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JacspecError, match=said.replace("(", r"\(")):
        open_model(ModelConfig("path", path=str(tmp_path)))


@pytest.mark.parametrize("part", ["lora_A.bias", "lora_B.weight", "lora_token_adapter", "q.weight"])
def test_tensors_that_are_not_known_are_refused(part: str, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    tensors = load_file(adapter / "adapter_model.safetensors")
    extra = {f"base_model.model.model.layers.0.self_attn.o_proj.{part}": torch.zeros(2, 2)}
    save_file({**tensors, **extra}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(JacspecError, match="o_proj"):
        open_model(ModelConfig("path", path=str(tmp_path)))


def test_base_is_for_adapters(tmp_path: Path) -> None:
    done = run_here("task=weights", "model.base=gpt2", "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, "model.base=gpt2 is for adapters")
