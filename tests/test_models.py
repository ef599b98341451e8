"""Parity with HF's PyTorch GPT-2 at the embedding, every branch, every block and the logits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import TOLERANCE
from oracles import activations, deviation, save_random_gpt2
from transformers import GPT2Config, GPT2LMHeadModel

from jacspec import JacspecError, load_model
from jacspec.backend import numerics
from jacspec.models.checkpoint import Checkpoint, leaf_names, open_checkpoint, random_checkpoint

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "one head": {"n_head": 1},
    "awkward sizes": {"n_embd": 35, "n_head": 5, "n_inner": 13, "vocab_size": 11},
    "relu": {"activation_function": "relu"},
    "gelu": {"activation_function": "gelu"},
    "silu": {"activation_function": "silu"},
    "eps": {"layer_norm_epsilon": 1e-2},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
}


def forward(checkpoint: Checkpoint, tokens: np.ndarray) -> dict[str, np.ndarray]:
    """Run jacspec's modules and record what `oracles.activations` records."""
    found = {"embedding": (h := checkpoint.embedding()(jnp.asarray(tokens)))}
    for layer, block in enumerate(checkpoint.blocks()):
        found[f"attn{layer}"] = block.attn_branches(h)
        found[f"mlp{layer}"] = block.mlp_branch(h + found[f"attn{layer}"])
        last = jnp.asarray(len(tokens))
        found[f"last attn{layer}"] = block.attn_branch(h[-1], block.prefix(h, last))
        h = found[f"block{layer}"] = block(h)
    found["logits"] = checkpoint.head()(h)
    return {name: np.asarray(array) for name, array in found.items()}


def worst_deviation(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Compare every recorded activation; the last token's own branch with the sequence's last row."""
    expected = expected | {f"last {name}": value[-1] for name, value in expected.items() if name.startswith("attn")}
    assert found.keys() == expected.keys()
    return max(deviation(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("length", [1, 2, 17])
@pytest.mark.parametrize("case", CASES)
def test_activations_equal_hf(tmp_path: Path, case: str, length: int) -> None:
    model = save_random_gpt2(tmp_path, **CASES[case])
    tokens = np.random.default_rng(length).integers(0, 11, length)
    expected = activations(model, tokens)
    for precision, tolerance in TOLERANCE.items():
        with numerics(precision):
            assert worst_deviation(forward(load_model(tmp_path, precision=precision), tokens), expected) <= tolerance


def _swap(block: Any, first: str, second: str) -> Any:
    """Return a block with two of its leaves exchanged."""
    names, leaves = leaf_names(block), jax.tree.leaves(block)
    i, j = names.index(first), names.index(second)
    leaves[i], leaves[j] = leaves[j], leaves[i]
    return jax.tree.unflatten(jax.tree.structure(block), leaves)


def _change(block: Any, name: str, change: Any) -> Any:
    """Return a block with one leaf changed."""
    names, leaves = leaf_names(block), jax.tree.leaves(block)
    leaves[names.index(name)] = change(leaves[names.index(name)])
    return jax.tree.unflatten(jax.tree.structure(block), leaves)


SABOTAGE = {
    "q and k swapped": lambda block: _swap(block, "attn.q.weight", "attn.k.weight"),
    "transposed weight": lambda block: _change(block, "attn.o.weight", lambda w: w.T),
    "norm weight dropped": lambda block: _change(block, "attn_norm.weight", jnp.ones_like),
    "bias dropped": lambda block: _change(block, "mlp.up.bias", jnp.zeros_like),
}


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_oracle_catches_a_sabotaged_block(tmp_path: Path, sabotage: str) -> None:
    model = save_random_gpt2(tmp_path)
    tokens = np.arange(9)
    h = activations(model, tokens)
    with numerics("float64"):
        block = SABOTAGE[sabotage](load_model(tmp_path, precision="float64").block(1))
        assert deviation(block(jnp.asarray(h["block0"])), h["block1"]) > 1e-3


def test_trained_fixture_equals_its_makers_activations_and_sorts(shared: Path) -> None:
    recorded = np.load(shared / "models/gpt-nano-sort/activations.npz")
    checkpoint = load_model(shared / "models/gpt-nano-sort")
    for row, tokens in enumerate(recorded["idx"].astype(int)):
        found = forward(checkpoint, tokens)
        for layer in range(3):
            assert deviation(found[f"block{layer}"], recorded[f"block{layer}"][row]) < 1e-5
    digits = [2, 0, 1, 1, 0, 2]
    for _ in range(6):
        digits.append(int(forward(checkpoint, np.array(digits))["logits"][-1].argmax()))
    assert digits[6:] == sorted(digits[:6])


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_stored_dtypes_are_read_exactly(tmp_path: Path, stored: torch.dtype) -> None:
    model = save_random_gpt2(tmp_path).to(stored)
    model.save_pretrained(tmp_path)
    found = load_model(tmp_path).block(0).mlp.up.weight[...]
    np.testing.assert_array_equal(np.asarray(found), model.transformer.h[0].mlp.c_fc.weight.float().detach().numpy().T)


def test_sharded_checkpoint_equals_the_single_file(tmp_path: Path) -> None:
    model = save_random_gpt2(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    tokens = np.arange(7)
    one, many = (forward(open_checkpoint(tmp_path / name), tokens)["logits"] for name in ("one", "many"))
    np.testing.assert_array_equal(one, many)


def test_bare_names_without_the_prefix_are_read(tmp_path: Path) -> None:
    model = save_random_gpt2(tmp_path / "lm")
    model.transformer.save_pretrained(tmp_path / "bare")
    whole, bare = (forward(open_checkpoint(tmp_path / name), np.arange(7))["logits"] for name in ("lm", "bare"))
    np.testing.assert_array_equal(whole, bare)


def test_random_initialisation_has_hf_spread_and_is_seeded(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 256, "n_head": 4, "n_layer": 8, "vocab_size": 512, "n_positions": 64}
    hf = GPT2LMHeadModel(GPT2Config(**config))
    first, again, other = (
        random_checkpoint(config, tokenizer_folder=tmp_path, seed=seed, name="x").block(3) for seed in (0, 0, 1)
    )
    expected = hf.transformer.h[3]
    for ours, theirs in (
        (first.attn.q, expected.attn.c_attn),
        (first.attn.o, expected.attn.c_proj),
        (first.mlp.up, expected.mlp.c_fc),
        (first.mlp.down, expected.mlp.c_proj),
    ):
        assert np.std(ours.weight[...]) == pytest.approx(theirs.weight.std().item(), rel=0.02)
        assert ours.bias is not None
        assert not np.any(ours.bias[...])
    np.testing.assert_array_equal(first.attn.q.weight[...], again.attn.q.weight[...])
    assert np.any(np.asarray(first.attn.q.weight[...]) != np.asarray(other.attn.q.weight[...]))


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
