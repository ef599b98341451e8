"""`task=overlap`: covariances, overlaps and runs against HF's activations and weights in NumPy float64."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES
from oracles import float64_throughout, load_trained, save_random
from servers import NANO, run_here
from transformers import AutoModelForCausalLM

from jacspec import load_model, open_run
from jacspec.axes import Key, Row
from jacspec.backend import numerics
from jacspec.studies.overlap import run as task
from jacspec.studies.overlap.activations import (
    Moments,
    _accumulate,
    compute_profile,
    null_overlap,
    own_norms,
    principal_directions,
)
from jacspec.text.corpus import make_batches

MODULES: dict[str, dict[str, str]] = {
    "llama": {
        **{name: f"model.layers.{{}}.self_attn.{name}_proj" for name in "qkvo"},
        **{name: f"model.layers.{{}}.mlp.{name}_proj" for name in ("up", "gate", "down")},
    },
    "bert": {
        **{
            role: f"bert.encoder.layer.{{}}.attention.self.{name}"
            for role, name in zip("qkv", ("query", "key", "value"), strict=True)
        },
        "o": "bert.encoder.layer.{}.attention.output.dense",
        "up": "bert.encoder.layer.{}.intermediate.dense",
        "down": "bert.encoder.layer.{}.output.dense",
    },
    "t5": {
        **{f"encoder.{name}": f"encoder.block.{{}}.layer.0.SelfAttention.{name}" for name in "qkvo"},
        **{f"decoder.{name}": f"decoder.block.{{}}.layer.0.SelfAttention.{name}" for name in "qkvo"},
        **{f"decoder.cross.{name}": f"decoder.block.{{}}.layer.1.EncDecAttention.{name}" for name in "qkvo"},
        "encoder.up": "encoder.block.{}.layer.1.DenseReluDense.wi",
        "decoder.down": "decoder.block.{}.layer.2.DenseReluDense.wo",
    },
    "gpt_neox": {
        "o": "gpt_neox.layers.{}.attention.dense",
        "up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
        "down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    },
}


def _inputs(model: torch.nn.Module, names: Sequence[str], tokens: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Run HF's model on each sample by itself; by module, all vectors that entered it."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in names}
    handles = []
    for name in names:

        def hook(module: Any, args: Any, name: str = name) -> None:
            seen[name].append(args[0].detach().numpy().reshape(-1, args[0].shape[-1]))

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    with torch.no_grad(), float64_throughout():
        for sample in tokens:
            ids = torch.as_tensor(sample)[None]
            more = {}
            if model.config.is_encoder_decoder:
                more = {"decoder_input_ids": torch.cat([torch.tensor([[0]]), ids[:, :-1]], dim=1)}
            model(input_ids=ids, use_cache=False, **more)
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(parts) for name, parts in seen.items()}


def _expected(weight: np.ndarray, x: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """O_k and the relative variance from vectors and a weight (out, in), written out; of the first `count` rows."""
    covariance = np.cov(x, rowvar=False)
    values, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, values > values.max() * len(values) * np.finfo(np.float32).eps]
    rows = np.linalg.svd(weight, full_matrices=False)[2][:count]
    overlap = np.array([max(abs(row @ vector) for vector in vectors.T) for row in rows])
    relative = np.array([row @ covariance @ row for row in rows]) * len(covariance) / np.trace(covariance)
    return overlap, relative


def assert_regimes(weight: np.ndarray, overlap: np.ndarray, row: Row) -> None:
    """Marchenko and Pastur's edges at the variance of the entries, and the means of O_k beyond and between them."""
    sides = np.sqrt(sorted(weight.shape))
    low, high = weight.std() * (sides[1] - sides[0]), weight.std() * (sides[1] + sides[0])
    assert row.values["mp_low"] == pytest.approx(low, rel=1e-6, abs=1e-12)
    assert row.values["mp_high"] == pytest.approx(high, rel=1e-6)
    sigma = np.linalg.svd(weight, compute_uv=False)
    own = overlap[: len(sigma)]
    for name, kept in (("above", sigma > high), ("within", (sigma >= low) & (sigma <= high)), ("below", sigma < low)):
        expected = own[kept].mean() if kept.any() else np.nan
        assert row.values[f"overlap_mp_{name}"] == pytest.approx(expected, abs=1e-6, nan_ok=True)


def _measure(
    folder: Path, tokens: Sequence[Sequence[int]], size: int, *, heads: bool = False, points: int = 0
) -> list[Row]:
    with numerics("float64"):
        model = load_model(folder, precision="float64")
        batches = make_batches(tokens, size=size)
        blocks = task._stream(model, batches, "shifted", {}, heads=heads, points=points)
        return [result for block in blocks for result in block]


def _tokens(vocab: int = 37) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, vocab, length).tolist() for length in rng.integers(4, 16, 17)]


@pytest.mark.parametrize("family", MODULES)
def test_overlaps_equal_those_of_hf_activations(family: str, tmp_path: Path) -> None:
    base, (case, *_) = FAMILIES[family].base, FAMILIES[family].cases.values()
    hf = save_random(tmp_path, family, spread=0.1, **base | case)
    found = _measure(tmp_path, _tokens(), 4)
    names: dict[Key, str] = {
        (layer, role): name.format(layer)
        for role, name in MODULES[family].items()
        for layer in {row.key[0] for row in found}
    }
    entering = _inputs(hf, list(names.values()), _tokens())
    compared = 0
    for row in found:
        name = names.get(row.key[:2])
        if name is None:
            continue
        weight = hf.get_submodule(name).weight.detach().numpy()
        overlap, relative = _expected(weight, entering[name])
        np.testing.assert_allclose(row.arrays["relative_variance"], relative, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(row.arrays["overlap"], overlap, atol=1e-6)
        assert row.values["tokens"] == len(entering[name])
        assert_regimes(weight, overlap, row)
        compared += 1
    assert compared == len(names)
    # The oracle sees one token more, and a weight that is transposed.
    name, x = next(iter(entering.items()))
    first = next(row for row in found if names.get(row.key[:2]) == name)
    weight = hf.get_submodule(name).weight.detach().numpy()
    padded = _expected(weight, np.concatenate([x, x[-1:]]))[1]
    assert np.abs(padded - first.arrays["relative_variance"]).max() > 1e-4
    if weight.shape[0] == weight.shape[1]:
        assert np.abs(_expected(weight.T, x)[0] - first.arrays["overlap"]).max() > 1e-2


def test_dimensions_are_those_of_hf_activations(tmp_path: Path) -> None:
    """Distances one by one, of all tokens and of those drawn; a neighbour further away would be seen."""
    hf = save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    found = {row.key[:2]: row.values for row in _measure(tmp_path, _tokens(), 4, points=10**6)}
    names: dict[Key, str] = {(1, role): MODULES["llama"][role].format(1) for role in ("q", "o", "down")}
    for key, whole in zip(names, _inputs(hf, list(names.values()), _tokens()).values(), strict=True):
        x = np.unique(np.round(whole, 12), axis=0)  # samples that begin alike have points in common
        distances = [sorted(np.linalg.norm(np.delete(x, row, axis=0) - own, axis=1)) for row, own in enumerate(x)]
        for neighbour, equal in ((1, True), (2, False)):
            total = sum(np.log(own[neighbour] / own[0]) for own in distances)
            assert (found[key]["input_dimension"] == pytest.approx((len(x) - 1) / total, rel=1e-6)) == equal
        assert found[key]["input_points"] == len(x)
    assert found[0, "q"]["input_points"] <= 37, "of a first layer with rotations each word is there once"
    assert found[1, "q"]["input_dimension"] == found[1, "v"]["input_dimension"]
    few = {row.key[:2]: row.values for row in _measure(tmp_path, _tokens(), 4, points=60)}
    again = {row.key[:2]: row.values for row in _measure(tmp_path, _tokens(), 7, points=60)}
    assert few[1, "q"]["input_points"] == 60
    assert few[1, "q"]["input_dimension"] == pytest.approx(again[1, "q"]["input_dimension"], rel=1e-6)
    assert np.isnan(found[0, "q"]["input_dimension"])


def test_heads_read_what_hf_gives_their_products(tmp_path: Path) -> None:
    """Products formed whole from HF's weights, as numpy has them; of two heads that share keys, and of one rounded."""
    hf = save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    found = [row for row in _measure(tmp_path, _tokens(), 4, heads=True) if row.key[2] is not None]
    config = hf.config
    heads, width, group = (
        config.num_attention_heads, config.head_dim, config.num_attention_heads // config.num_key_value_heads
    )  # fmt: skip
    assert group > 1
    assert len(found) == 3 * heads * config.num_hidden_layers
    names = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(config.num_hidden_layers)]
    entering = _inputs(hf, names, _tokens())
    for row in found:
        layer, role, head = (cast(Any, part) for part in row.key[:3])
        own = hf.get_submodule(f"model.layers.{layer}.self_attn")
        q, k, v, o = (getattr(own, f"{name}_proj").weight.detach().numpy() for name in "qkvo")
        mine, shared = (slice(number * width, (number + 1) * width) for number in (head, head // group))
        qk, ov = q[mine].T @ k[shared], o[:, mine] @ v[shared]
        product = {"qk.query": qk.T, "qk.key": qk, "ov.value": ov}[role]
        overlap, relative = _expected(product, entering[names[layer]], width)
        np.testing.assert_allclose(row.arrays["relative_variance"], relative, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(row.arrays["overlap"], overlap, atol=1e-5)
        assert row.values["variance_last"] == pytest.approx(relative[-1], rel=1e-5)
        assert 0 < row.values["rounding_share"] < 1e-3
        if role == "qk.key":
            assert np.abs(_expected(product.T, entering[names[layer]], width)[1] - relative).max() > 1e-2


def test_company_in_a_batch_changes_nothing(tmp_path: Path) -> None:
    save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    for one, other in zip(_measure(tmp_path, _tokens(), 3), _measure(tmp_path, _tokens(), 17), strict=True):
        np.testing.assert_allclose(one.arrays["relative_variance"], other.arrays["relative_variance"], rtol=1e-9)


def test_moments_are_those_of_all_vectors_at_once() -> None:
    """Far from zero, where sums of squares would lose all digits."""
    x = np.random.default_rng(0).normal(size=(5, 40, 7)) + 1e6
    moments = Moments(jnp.zeros(()), jnp.zeros(7), jnp.zeros((7, 7)))
    with numerics("float64"):
        moments = Moments(*(jnp.asarray(part, jnp.float64) for part in moments))
        for part in x:
            counted = np.arange(40)[None] < 33
            moments = _accumulate(moments, jnp.asarray(part[None]), jnp.asarray(counted))
    whole = x[:, :33].reshape(-1, 7)
    np.testing.assert_allclose(np.asarray(moments.scatter) / (len(whole) - 1), np.cov(whole, rowvar=False), rtol=1e-7)
    assert float(moments.total) == len(whole)


def test_aligned_and_orthogonal_by_hand() -> None:
    """A weight that reads along the axes, of an input that varies along them, and along one of them most."""
    moments = Moments(jnp.asarray(101.0), jnp.zeros(4), jnp.asarray(100 * np.diag([8.0, 4.0, 3.0, 1.0])))
    values, vectors, covariance = principal_directions(moments)
    np.testing.assert_allclose(values, [8, 4, 3, 1])
    profile = compute_profile(jnp.asarray(np.diag([1.0, 2.0, 3.0, 5.0])), vectors, covariance)
    np.testing.assert_allclose(profile.sigma, [5, 3, 2, 1])
    np.testing.assert_allclose(profile.overlap, 1)
    np.testing.assert_allclose(profile.variance, [0.25, 0.75, 1, 2])
    half = np.array([[1.0, 1.0, 0, 0]]) / np.sqrt(2)
    found = compute_profile(jnp.asarray(half), vectors, covariance)
    np.testing.assert_allclose(found.overlap, np.sqrt(0.5))
    np.testing.assert_allclose(found.variance, 1.5)


def test_null_level_is_that_of_the_paper() -> None:
    """d 768: mean 0.122, 99 % 0.155; and that of other draws."""
    mean, quantile = null_overlap(768, 768)
    assert mean == pytest.approx(0.122, abs=1e-3)
    assert quantile == pytest.approx(0.155, abs=3e-3)
    drawn = np.random.default_rng(5).standard_normal((3000, 50))
    largest = np.abs(drawn[:, :20]).max(axis=1) / np.linalg.norm(drawn, axis=1)
    mean, quantile = null_overlap(50, 20)
    assert mean == pytest.approx(largest.mean(), abs=5 * largest.std() / 3000**0.5)
    assert quantile == pytest.approx(np.quantile(largest, 0.99), abs=0.02)


def test_levels_of_own_norms_are_those_of_entries_that_are_independent_otherwise() -> None:
    """Columns with norms that follow the input: their level is above that of any direction, and their edges hold."""
    rng = np.random.default_rng(6)
    column = rng.lognormal(sigma=1, size=40)
    moments = Moments(jnp.asarray(101.0), jnp.zeros(40), jnp.asarray(100 * np.diag(column)))
    _, vectors, covariance = principal_directions(moments)
    found = own_norms(rng.normal(size=(400, 40)) * np.sqrt(column), vectors, covariance)
    rows = rng.normal(size=(4000, 40)) * np.sqrt(column)
    squares = (rows**2).sum(axis=1)
    overlap = np.abs(rows @ vectors).max(axis=1) / np.sqrt(squares)
    assert found.overlap == pytest.approx(overlap.mean(), rel=0.03)
    assert found.overlap_99 == pytest.approx(np.quantile(overlap, 0.99), rel=0.03)
    captured = np.einsum("kn,kn->", rows @ covariance, rows) / squares.sum() * 40 / np.trace(covariance)
    assert found.variance == pytest.approx(captured, rel=0.1)
    assert null_overlap(40, 40)[0] < 0.85 * found.overlap
    drawn = [np.linalg.svd(rng.normal(size=(400, 40)) * np.sqrt(column), compute_uv=False) for _ in range(60)]
    assert np.mean([sigma[0] > found.high or sigma[-1] < found.low for sigma in drawn]) < 0.1
    assert np.mean([sigma[0] > 400**0.5 + 40**0.5 for sigma in drawn]) == 1  # the edge of one variance


SMALL = ("task=overlap", "data.samples=60", "precision=float64")


@pytest.mark.thorough
def test_run_on_a_trained_model(tmp_path: Path) -> None:
    """The embedded model by the command, against HF on the texts of `samples`, drawn as the run did."""
    done = run_here(*SMALL, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "fewer than 10 times the 384 dimensions" in done.out
    run = open_run(tmp_path / "out")
    assert len(run.metrics) == 36
    assert {"overlap", "variance"} <= {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "fewer than 10 times" in page
    model = load_model("nano")
    from jacspec.config import ASSETS, DataConfig
    from jacspec.text.corpus import draw_sample, load_corpus

    data = DataConfig("verse", path=str(ASSETS / "verse.txt"), samples=60)
    tokens = draw_sample(load_corpus(data), model.tokenizer, data, seed=0).tokens
    hf = load_trained(NANO, AutoModelForCausalLM)
    entering = _inputs(hf, ["transformer.h.3.mlp.c_proj", "transformer.h.3.attn.c_attn"], tokens)
    d_model = model.spec.d_model
    for role, name, part in (("down", "mlp.c_proj", slice(None)), ("k", "attn.c_attn", slice(d_model, 2 * d_model))):
        module = hf.get_submodule(f"transformer.h.3.{name}")
        overlap, relative = _expected(module.weight.detach().numpy().T[part], entering[f"transformer.h.3.{name}"])
        row = np.flatnonzero((run.dataset["role"].values == role) & (run.dataset["layer"].values == 3)).item()
        k = len(overlap)
        np.testing.assert_allclose(run.dataset["relative_variance"].values[row, :k], relative, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(run.dataset["overlap"].values[row, :k], overlap, atol=1e-4)
        table = run.metrics.set_index(["role", "layer"]).loc[(role, 3)]
        assert table["overlap_top"] == pytest.approx(overlap[: k // 10].mean(), abs=1e-4)
        assert table["variance_bottom"] == pytest.approx(relative[-(k // 10) :].mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ("data.min_tokens=101", "None of the"),
        ("data.path=nowhere.txt", "is not a file"),
        ("overlap.heads=some", "overlap.heads"),
        ("overlap.points=20", "Type overlap.points=2000"),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here("task=overlap", wrong, "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err
