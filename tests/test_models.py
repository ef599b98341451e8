"""Checkpoints: what is read from which files, and what random models are made of."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES, GPT2
from oracles import deviation, save_random
from parity import forward_one
from transformers.activations import ACT2FN
from transformers.models.bloom.modeling_bloom import BloomGelu

from jacspec import JacspecError, load_model
from jacspec.backend import numerics
from jacspec.models.checkpoint import open_checkpoint, random_checkpoint
from jacspec.models.layers import ACTIVATIONS
from jacspec.models.tensor_files import open_tensors


def test_trained_fixture_equals_its_makers_activations_and_sorts(shared: Path) -> None:
    recorded = np.load(shared / "models/gpt-nano-sort/activations.npz")
    checkpoint = load_model(shared / "models/gpt-nano-sort")
    for row, tokens in enumerate(recorded["idx"].astype(int)):
        found = forward_one(checkpoint, tokens)
        for layer in range(3):
            assert deviation(found[f"block{layer}"], recorded[f"block{layer}"][row]) < 1e-5
    digits = np.zeros(12, np.int32)
    digits[:6] = [2, 0, 1, 1, 0, 2]
    for place in range(6, 12):
        # What stands behind a token does not reach it.
        digits[place] = forward_one(checkpoint, digits)["logits"][place - 1].argmax()
    np.testing.assert_array_equal(digits[6:], sorted(digits[:6]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes_are_those_of_hf(name: str) -> None:
    x = np.linspace(-9, 9, 64)  # no kink lies on the grid
    with numerics("float64"):
        ours, slopes = (np.asarray(part) for part in jax.jvp(ACTIVATIONS[name], (jnp.asarray(x),), (jnp.ones(64),)))
    given = torch.tensor(x, requires_grad=True)
    theirs = (BloomGelu() if name == "bloom_gelu" else ACT2FN[name])(given)
    (theirs_slopes,) = torch.autograd.grad(theirs.sum(), given)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(slopes, theirs_slopes.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_dtypes_are_read_exactly(tmp_path: Path, stored: torch.dtype) -> None:
    model = save_random(tmp_path, "gpt2", **GPT2).to(stored)
    model.save_pretrained(tmp_path)
    found = load_model(tmp_path).block(0).mlp.up.weight[...]
    np.testing.assert_array_equal(np.asarray(found), model.transformer.h[0].mlp.c_fc.weight.float().detach().numpy().T)


def test_sharded_checkpoint_equals_the_single_file(tmp_path: Path) -> None:
    model = save_random(tmp_path / "one", "gpt2", **GPT2)
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    tokens = np.arange(7)
    one, many = (forward_one(open_checkpoint(tmp_path / name), tokens)["logits"] for name in ("one", "many"))
    np.testing.assert_array_equal(one, many)


def test_bare_names_without_the_prefix_are_read(tmp_path: Path) -> None:
    model = save_random(tmp_path / "lm", "gpt2", **GPT2)
    model.transformer.save_pretrained(tmp_path / "bare")
    whole, bare = (forward_one(open_checkpoint(tmp_path / name), np.arange(7))["logits"] for name in ("lm", "bare"))
    np.testing.assert_array_equal(whole, bare)


def test_random_initialisation_is_seeded(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", **GPT2}
    first, again, other = (
        random_checkpoint(config, tokenizer_folder=tmp_path, seed=seed, name="x").block(1) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.attn.q.weight[...], again.attn.q.weight[...])
    assert np.any(np.asarray(first.attn.q.weight[...]) != np.asarray(other.attn.q.weight[...]))


def test_tied_random_model_unembeds_with_its_embedding() -> None:
    model = load_model("nano", init="random")
    np.testing.assert_array_equal(model.head().unembed.weight[...], model.embedding().token[...])


def test_random_weights_are_the_same_at_every_precision() -> None:
    single = np.asarray(load_model("nano", init="random").block(0).mlp.up.weight[...])
    with numerics("float64"):
        double = np.asarray(load_model("nano", init="random", precision="float64").block(0).mlp.up.weight[...])
    assert double.dtype == np.float64
    np.testing.assert_array_equal(single, double)


def test_layers_of_a_random_model_differ() -> None:
    model = load_model("nano", init="random", seed=1)
    assert np.any(np.asarray(model.block(0).attn.q.weight[...]) != np.asarray(model.block(1).attn.q.weight[...]))


def test_a_ready_made_architecture_needs_no_download() -> None:
    model = load_model("gpt2", init="random")
    assert (len(model.spec.blocks), model.spec.d_model, model.spec.vocab) == (12, 768, 50257)
    assert model.block(11).mlp.up.weight.shape == (3072, 768)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(JacspecError, match="precision='half'"):
        load_model("nano", precision="half")
    with pytest.raises(JacspecError, match="init='zero'"):
        load_model("nano", init="zero")
    with pytest.raises(JacspecError, match="step1024, step16"):
        load_model("nano", revision="step3")


def test_bare_encoder_has_activations_and_no_logits(tmp_path: Path) -> None:
    model = save_random(tmp_path / "lm", "bert", **FAMILIES["bert"].base)
    model.bert.save_pretrained(tmp_path / "bare")
    checkpoint = open_checkpoint(tmp_path / "bare")
    np.testing.assert_array_equal(
        checkpoint.block(1).mlp.up.weight[...], open_checkpoint(tmp_path / "lm").block(1).mlp.up.weight[...]
    )
    with pytest.raises(JacspecError, match="without its language-model head"):
        checkpoint.head()


def test_old_names_of_norms_are_read(tmp_path: Path) -> None:
    """bert-base-uncased calls its norms' weights gamma and beta, and brings a pooler and a second head."""
    from safetensors.numpy import load_file, save_file

    save_random(tmp_path / "new", "bert", **FAMILIES["bert"].base)
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    assert old.keys() != tensors.keys()
    old |= {"bert.pooler.dense.weight": np.zeros((24, 24)), "cls.seq_relationship.bias": np.zeros(2)}
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    tokens = np.arange(2, 9)
    new, found = (forward_one(open_checkpoint(tmp_path / name), tokens)["logits"] for name in ("new", "old"))
    np.testing.assert_array_equal(new, found)


def test_own_unembedding_of_a_tied_configuration_is_read(tmp_path: Path) -> None:
    """T5 1.1 holds its own unembedding, though HF 5 calls every T5 tied."""
    from safetensors.numpy import load_file, save_file

    config = {**FAMILIES["t5"].base, **FAMILIES["t5"].cases["1.1"]}
    save_random(tmp_path, "t5", **config)
    tensors = load_file(tmp_path / "model.safetensors")
    own = np.random.default_rng(0).normal(size=tensors["shared.weight"].shape)
    save_file({**tensors, "lm_head.weight": own}, tmp_path / "model.safetensors")
    with numerics("float64"):
        np.testing.assert_array_equal(open_checkpoint(tmp_path, dtype="float64").head().unembed.weight[...], own)


@pytest.mark.parametrize("layout", ["single", "sharded", "old format"])
def test_pickled_weights_equal_safetensors(layout: str, tmp_path: Path) -> None:
    """As Pythia's training steps are shipped, float16; read with `weights_only=True`."""
    model = save_random(
        tmp_path,
        "gpt_neox",
        **FAMILIES["gpt_neox"].base,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    ).half()
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model.safetensors")
    tokens = np.arange(2, 9)
    expected = forward_one(open_checkpoint(tmp_path), tokens)["logits"]
    (tmp_path / "model.safetensors").unlink()
    if layout == "sharded":
        parts = {name: f"pytorch_model-{number % 2}.bin" for number, name in enumerate(state)}
        for file in set(parts.values()):
            torch.save({name: state[name] for name in state if parts[name] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    else:
        torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "single")
    np.testing.assert_array_equal(forward_one(open_checkpoint(tmp_path), tokens)["logits"], expected)


def test_pickled_weights_without_torch_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"wte.weight": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    assert list(open_tensors(tmp_path).index) == ["wte.weight"]
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(JacspecError, match=r"pip install 'jacspec\[torch\]'"):
        open_tensors(tmp_path)


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    save_random(tmp_path, "gpt2", **GPT2)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("c_fc.weight"))
    save_file({**tensors, name: tensors[name].astype(np.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(JacspecError, match=r"c_fc.weight is I8, as in quantised checkpoints"):
        open_checkpoint(tmp_path)
