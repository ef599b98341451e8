"""`task=removal`: singular values taken from HF's own weights by NumPy, nothing and everything removed, runs."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import CASES, config_of
from matplotlib.container import ErrorbarContainer
from oracles import float64_throughout, save_random
from rich.console import Console
from servers import files_below, run_here
from small_runs import make_small_model
from test_perplexity import FIRST_CASES, MEMORY, draw_tokens, hf_masked_nats, hf_perplexity, nats_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from jacspec import load_model
from jacspec.backend import numerics
from jacspec.jacobians.streaming import carry
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.modules import leaf_names
from jacspec.report.console import print_experiments
from jacspec.runs import open_run
from jacspec.scoring.perplexity import prepare_passage
from jacspec.scoring.windows import Passage, causal_passage, masked_passage
from jacspec.spectra.subspaces import Factors, RankRange, equal_ranges, factorise, group_of, remove_group
from jacspec.studies.removal import figures
from jacspec.studies.removal.groups import (
    RemovalTarget,
    choose_targets,
    count_removed,
    decompose_target,
    fewest_values,
    mean_spectrum,
    without_group,
)


def _truncated(matrix: np.ndarray, start: int, stop: int) -> np.ndarray:
    """NumPy's SVD without values `start` to `stop − 1`, put together again from those that are left."""
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    kept = np.ones(len(sigma), bool)
    kept[start:stop] = False
    return (left[:, kept] * sigma[kept]) @ right[kept]


def _gpt2_keys(model: Any, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    for layer in model.transformer.h:
        fused = layer.attn.c_attn.weight.data  # (in, out), queries, keys and values side by side
        fused[:, 24:48] = torch.tensor(cut(fused[:, 24:48].numpy().T).T)


def _llama_keys(model: Any, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    for layer in model.model.layers:
        layer.self_attn.k_proj.weight.data = torch.tensor(cut(layer.self_attn.k_proj.weight.data.numpy()))


def _neox_values(model: Any, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    for layer in model.gpt_neox.layers:
        fused = layer.attention.query_key_value.weight.data.view(4, 3, 8, 32)  # head, which, d_head, in
        fused[:, 2] = torch.tensor(cut(fused[:, 2].reshape(32, 32).numpy()).reshape(4, 8, 32))


def _gemma_down(model: Any, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data = torch.tensor(cut(layer.mlp.down_proj.weight.data.numpy()))


def _bert_up(model: Any, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    for layer in model.bert.encoder.layer:
        layer.intermediate.dense.weight.data = torch.tensor(cut(layer.intermediate.dense.weight.data.numpy()))


SURGERY: dict[tuple[str, str], Callable[..., None]] = {
    ("gpt2", "k"): _gpt2_keys,
    ("llama", "k"): _llama_keys,
    ("gpt_neox", "v"): _neox_values,
    ("gemma2", "down"): _gemma_down,
    ("bert", "up"): _bert_up,
}
"""How a role of every layer is changed in HF's own modules, each matrix (out, in)."""


def _role(checkpoint: Checkpoint, role: str) -> RemovalTarget:
    (target,) = choose_targets(checkpoint.spec, by="role", roles=[role])
    return target


def _mean_without(checkpoint: Checkpoint, passage: Passage, role: str, share: RankRange) -> float:
    factors = decompose_target(checkpoint, _role(checkpoint, role), memory_bytes=MEMORY)
    return float(nats_of(without_group(checkpoint, factors, share), passage).mean())


@pytest.mark.parametrize(("family", "role"), SURGERY)
def test_removal_is_that_from_hfs_weights(family: str, role: str, tmp_path: Path) -> None:
    _, case = CASES[FIRST_CASES[family]]
    model = save_random(tmp_path, family, **config_of(family, case))
    tokens = draw_tokens(40)
    share, other = (0.25, 0.5), (0.5, 0.75)

    def cut(matrix: np.ndarray) -> np.ndarray:
        k = min(matrix.shape)
        return _truncated(matrix, k // 4, k // 2)

    def hf_mean() -> float:
        with float64_throughout():
            if family == "bert":
                return float(np.mean(hf_masked_nats(model, tokens, 10, 6, [7], [9])))
            return float(np.log(hf_perplexity(model, tokens, 16, 5)))

    whole = hf_mean()
    SURGERY[family, role](model, cut)
    expected = hf_mean()
    assert abs(expected - whole) > 1e-4
    if family == "bert":
        passage = masked_passage(tokens, window=12, mask=6, before=(7,), after=(9,))
    else:
        passage = causal_passage(tokens, window=16, stride=5)
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        assert _mean_without(checkpoint, passage, role, share) == pytest.approx(expected, rel=1e-9)
        # The oracle sees the group after it.
        assert _mean_without(checkpoint, passage, role, other) != pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(7, 7), (12, 7), (7, 12)])
def test_groups_of_a_matrix(shape: tuple[int, int]) -> None:
    """Tall, wide and square: what is removed is what NumPy removes, and all groups add up to the matrix."""
    matrix = np.random.default_rng(0).normal(size=shape)
    tall = matrix if shape[0] >= shape[1] else matrix.T
    _, sigma, right = np.linalg.svd(tall, full_matrices=False)
    with numerics("float64"):
        weight = jnp.asarray(matrix)
        factors = factorise(weight)
        np.testing.assert_allclose(factors.sigma, sigma, rtol=1e-12)
        parts = []
        for share in equal_ranges(3):
            group = group_of(share, 7)
            left = np.asarray(remove_group(weight, factors, share))
            np.testing.assert_allclose(left, _truncated(matrix, group.start, group.stop), atol=1e-12)
            parts.append(matrix - left)
        np.testing.assert_allclose(sum(parts), matrix, atol=1e-12)
        assert remove_group(weight, factors, (0.3, 0.3)) is weight
        assert not np.asarray(remove_group(weight, factors, (0.0, 1.0))).any()
        # Vectors that are transposed are not those of the matrix.
        turned = np.asarray(remove_group(weight, Factors(sigma, right), (0.0, 0.5)))
        assert np.abs(turned - _truncated(matrix, 0, 3)).max() > 0.1


@pytest.mark.parametrize(("groups", "k"), [(10, 96), (10, 10), (3, 7), (100, 100), (1, 5), (7, 64)])
def test_groups_partition_the_ranks(groups: int, k: int) -> None:
    """Group g holds the ranks from ⌊(g−1)k/G⌋ to before ⌊gk/G⌋."""
    slices = [group_of(share, k) for share in equal_ranges(groups)]
    assert slices == [slice(g * k // groups, (g + 1) * k // groups) for g in range(groups)]
    assert group_of((0.29, 0.58), 100) == slice(29, 58)


def test_nothing_removed_is_the_model_itself() -> None:
    """Bit for bit, and one SVD a matrix serves all groups."""
    with numerics("float32"):
        checkpoint = load_model("nano")
        passage = causal_passage(list(range(1, 100)), window=64, stride=32)
        factors = decompose_target(checkpoint, _role(checkpoint, "up"), memory_bytes=MEMORY)
        whole = nats_of(checkpoint, passage)
        nothing = without_group(checkpoint, factors, (0.4, 0.4))
        for found, kept in zip(jax.tree.leaves(nothing.block(2)), jax.tree.leaves(checkpoint.block(2)), strict=True):
            np.testing.assert_array_equal(found, kept)
        np.testing.assert_array_equal(nats_of(nothing, passage), whole)
        assert (nats_of(without_group(checkpoint, factors, (0.4, 0.41)), passage) != whole).any()
        changed = without_group(checkpoint, factors, (0.0, 0.5)).block(2)
    names = leaf_names(changed)
    pairs = zip(names, jax.tree.leaves(changed), jax.tree.leaves(checkpoint.block(2)), strict=True)
    assert [name for name, one, other in pairs if not np.array_equal(one, other)] == ["mlp.up.weight"]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_without_outputs_the_embedding_is_unembedded(family: str, tmp_path: Path) -> None:
    """All of `o` and `down` removed: the stream is the embedding and the blocks' biases, and HF's head reads it."""
    config = config_of("llama", "full heads, tied") if family == "llama" else config_of("gpt2", "tied")
    model = save_random(tmp_path, family, **config)
    tokens = draw_tokens(30)
    passage = causal_passage(tokens, window=20, stride=7)
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        factors: dict[Any, Factors] = {}
        for role in ("o", "down"):
            factors |= decompose_target(checkpoint, _role(checkpoint, role), memory_bytes=MEMORY)
        bare = without_group(checkpoint, factors, (0.0, 1.0))
        batches = prepare_passage(bare, passage, memory_bytes=MEMORY)
        stream = carry(bare, batches.windows)[0]
        embedded = jax.vmap(checkpoint.embedding())(jnp.asarray(stream.batch.tokens))
        nats = nats_of(bare, passage)
    ids = torch.tensor(tokens[:-1])
    if family == "llama":
        np.testing.assert_array_equal(stream.hidden, embedded)
        h, norm = model.model.embed_tokens(ids), model.model.norm
    else:
        place = torch.tensor([position for window in passage.windows for position in window.places.tolist()])
        body = model.transformer
        biases = sum(block.attn.c_proj.bias + block.mlp.c_proj.bias for block in body.h)
        h, norm = body.wte(ids) + body.wpe(place) + biases, body.ln_f
    with torch.no_grad(), float64_throughout():
        logs = torch.log_softmax(model.lm_head(norm(h)), -1)
        expected = -logs[torch.arange(len(ids)), torch.tensor(tokens[1:])]
    np.testing.assert_allclose(nats, expected.numpy(), rtol=1e-10)


def test_what_is_counted() -> None:
    factors = {
        (0, "q"): Factors(np.array([3.0, 2.0, 1.0, 0.0]), np.eye(4)),
        (1, "q"): Factors(np.array([2.0, 1.0]), np.eye(2)),
    }
    assert count_removed(factors, (0.0, 0.5)) == (3, pytest.approx((9 + 4 + 4) / (14 + 5)))
    assert count_removed(factors, (0.5, 0.5)) == (0, 0.0)
    count, share = count_removed({(0, "q"): Factors(np.zeros(2), np.eye(2))}, (0.0, 1.0))
    assert count == 2
    assert np.isnan(share)  # of nothing there is no share
    # The shorter spectrum is read at the same shares of its ranks.
    np.testing.assert_allclose(mean_spectrum(factors), [2.5, 1.875, 1.125, 0.5])


def test_targets_of_a_model() -> None:
    spec = load_model("nano").spec
    roles = choose_targets(spec, by="role", roles=[])
    assert [target.name for target in roles] == ["q", "k", "v", "o", "up", "down"]
    assert all(len(target.places) == 6 for target in roles)
    layers = choose_targets(spec, by="layer", roles=["q", "up"])
    assert [target.name for target in layers] == [f"layer {number}" for number in range(6)]
    assert layers[2].places == ((2, "q"), (2, "up"))
    assert fewest_values(spec, roles) == 96


SMALL = ("task=removal", "removal.tokens=200", "removal.groups=2", "removal.roles=[q,down]")


def test_run(tmp_path: Path) -> None:
    with mock.patch("jacspec.studies.removal.run.decompose_target", wraps=decompose_target) as decomposed:
        done = run_here(*SMALL, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert decomposed.call_count == 2  # one SVD a role serves all groups
    run = open_run(tmp_path / "out")
    assert list(run.metrics["target"]) == ["none", "q", "q", "down", "down"]
    assert list(run.metrics["group"]) == [0, 1, 2, 1, 2]
    assert run.provenance["scored"] == {"tokens": 199, "window": 128, "stride": 64, "chunks": 4}
    rows = run.metrics.set_index(["target", "group"])
    assert rows.loc[("none", 0), "delta_perplexity"] == rows.loc[("none", 0), "delta_error"] == 0
    assert rows.loc[("q", 1), "perplexity"] == pytest.approx(np.exp(rows.loc[("q", 1), "nll"]))
    assert (rows["removed_values"].iloc[1:] == 6 * 48).all()
    assert rows.loc["down", "removed_share"].sum() == pytest.approx(1)
    dataset = run.dataset
    sums = dataset["chunk_nats"].sum("chunk_nats_index") / dataset["chunk_tokens"].sum("chunk_tokens_index")
    np.testing.assert_allclose(sums, run.metrics["nll"], rtol=1e-12)
    assert {"figures/removal.png", "report.html"} <= files_below(tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "s.e. of change" in page
    assert "tokens 199, window 128, stride 64, chunks 4" in page
    narrow = Console(width=60, file=io.StringIO())
    print_experiments(run, narrow)
    lines = narrow.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "more columns in metrics.csv: delta_error, nll, removed_values, removed_share" in lines
    assert max(map(len, lines[:10])) <= 60
    assert not any("…" in line for line in lines)


def test_saved_model_is_hfs_own_truncated(tmp_path: Path) -> None:
    """Every matrix in the saved folder is that of HF's own weights with the smaller half of its values gone."""
    make_small_model(tmp_path / "model")
    words = ("task=removal", "model.path=model", "removal.by=all", "removal.ranges=[[0.5,1]]", "removal.save=cut")
    with mock.patch("jacspec.studies.run.write_report"):
        done = run_here(*words, "removal.tokens=60", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert list(open_run(tmp_path / "out").metrics["target"]) == ["none", "all"]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model").state_dict()
    model, notes = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not any(notes.values())
    found = model.state_dict()
    for name, tensor in whole.items():
        if tensor.ndim == 2 and ".h." in name:
            parts = 3 if "c_attn" in name else 1  # queries, keys and values lie side by side
            pairs = zip(*(np.split(each[name].numpy(), parts, axis=1) for each in (whole, found)), strict=True)
            for own, saved in pairs:
                k = min(own.shape)
                np.testing.assert_allclose(saved, _truncated(own, k // 2, k), atol=1e-6)
                assert np.abs(saved - _truncated(own, k // 2 + 1, k)).max() > 1e-3
        else:
            assert torch.equal(found[name], tensor), name
    assert len(AutoTokenizer.from_pretrained(tmp_path / "cut")) == 1024
    again = run_here(*words, "hydra.run.dir=no", cwd=tmp_path)
    assert "cut is there already" in again.err


def test_layers_ranges_and_random_encoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A masked model with random weights, layer by layer, named as pseudo-perplexity; many layers have an axis."""
    small = [f"model.config.{key}" for key in ("num_hidden_layers=2", "hidden_size=24", "num_attention_heads=4")]
    small += ["model.config.intermediate_size=40", "removal.by=layer", "removal.ranges=[[0,0],[0,1],[0.9,1]]"]
    arguments = ("task=removal", "model=bert-base", "model.init=random", "removal.masked_tokens=70")
    done = run_here(*arguments, *small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert list(run.metrics["target"]) == ["none", *["layer 0"] * 3, *["layer 1"] * 3]
    assert run.provenance["scored"] == {"tokens": 70, "window": 64, "stride": 64, "chunks": 2}
    change = run.metrics["delta_pseudo_perplexity"]
    assert change[1] == change[4] == 0
    assert change[2] != 0
    assert "perplexity" not in run.metrics
    assert "change of pseudo-perplexity" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    bars = figures.draw_by_layer(run).axes[0].containers
    drawn = [each.lines[0] for each in bars if isinstance(each, ErrorbarContainer)]
    assert [np.asarray(line.get_xdata()).tolist() for line in drawn] == [[0, 1]] * 3
    by_group = [[change[1 + group], change[4 + group]] for group in range(3)]
    assert [np.asarray(line.get_ydata()).tolist() for line in drawn] == by_group
    assert figures.removal_figures(run)["removal"].explored
    monkeypatch.setattr(figures, "COLOURS", ("black",))  # as if two layers were too many to tell apart
    assert not figures.removal_figures(run)["removal"].explored


@pytest.mark.parametrize(
    ("wrong", "fragments"),
    [
        ("removal.roles=[gate]", ["'gate'", "down, k, o, q, up, v"]),
        ("removal.groups=97", ["removal.groups=97", "1 to 96"]),
        ("removal.ranges=[[0.5,0.2]]", ["[0.5, 0.2]", "removal.ranges=[[0,0.1],[0.9,1]]"]),
        ("removal.ranges=[[all,1]]", ["['all', 1]"]),
        ("removal.window=129", ["removal.window=129", "2 to 128"]),
        ("removal.stride=128", ["removal.stride=128", "1 to 127"]),
        ("removal.tokens=1", ["removal.tokens=1 "]),
        ("engine.memory_gib=0", ["engine.memory_gib=0"]),
        ("removal.by=head", ["removal.by", "role"]),
        ("removal.save=cut", ["removal.save=cut", "60 are measured", "removal.by=all"]),
        ("model=t5-small model.init=random", ["encoder-decoder", "model=gpt2 or model=bert-base"]),
        ("model=bert-base model.init=random removal.stride=5", ["removal.stride=5", "decoders"]),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragments: list[str], tmp_path: Path) -> None:
    done = run_here("task=removal", *wrong.split(), "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert not [fragment for fragment in fragments if fragment not in done.err], done.err
    assert not (tmp_path / "no").exists()
