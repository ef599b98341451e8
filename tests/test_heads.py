"""`task=heads`: products of heads against explicit matrices in float64, moments, baselines, runs."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from families import FAMILIES
from flax import nnx
from servers import assert_refused, run_here
from small_runs import make_small_model

from jacspec import load_model, open_run
from jacspec.backend import numerics
from jacspec.models.block import Block
from jacspec.models.checkpoint import random_checkpoint
from jacspec.studies.heads.run import gaussian_baseline, head_metrics, head_products, product_edges, product_npr

HEADS = {"one for each": 4, "grouped": 2, "one for all": 1}


def _block(kv_heads: int, tmp_path: Path, precision: str) -> Block:
    config = {"model_type": "llama", **FAMILIES["llama"].base, "num_key_value_heads": kv_heads}
    model = random_checkpoint(config, tokenizer_folder=tmp_path, seed=0, name="x", dtype=precision)
    return model.block(0)


def _explicit(block: Block) -> dict[str, list[np.ndarray]]:
    """Every head's products, d_model × d_model, from its own rows of the weights."""
    own = block.attn.spec
    w = {name: np.asarray(getattr(block.attn, name).weight[...], np.float64) for name in "qkvo"}
    found: dict[str, list[np.ndarray]] = {"qk": [], "ov": []}
    for head in range(own.heads):
        read = head // (own.heads // own.kv_heads)
        rows, kv_rows = (slice(i * own.d_head, (i + 1) * own.d_head) for i in (head, read))
        found["qk"].append(w["q"][rows].T @ w["k"][kv_rows])
        found["ov"].append(w["o"][:, rows] @ w["v"][kv_rows])
    return found


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kv_heads", HEADS.values(), ids=HEADS)
def test_heads_equal_explicit_products(kv_heads: int, precision: str, tmp_path: Path) -> None:
    tolerance = {"float32": 1e-5, "float64": 1e-10}[precision]
    with numerics(precision):
        block = _block(kv_heads, tmp_path, precision)
        found = head_products(block)
    for name, matrices in _explicit(block).items():
        for head, matrix in enumerate(matrices):
            expected = np.linalg.svd(matrix, compute_uv=False)[: block.attn.spec.d_head]
            np.testing.assert_allclose(found[name].sigma[head], expected, atol=tolerance * expected[0])
            elements = matrix.ravel()
            moments = (
                elements.mean(),
                elements.std(),
                scipy.stats.skew(elements),
                scipy.stats.kurtosis(elements),
            )
            np.testing.assert_allclose(found[name].moments[head], moments, rtol=20 * tolerance, atol=20 * tolerance)
    # The oracle sees another head.
    other = np.linalg.svd(_explicit(block)["qk"][1], compute_uv=False)[0]
    assert np.abs(other - found["qk"].sigma[0, 0]) > 100 * tolerance * other


def test_queries_read_the_right_keys(tmp_path: Path) -> None:
    """The oracle sees a head that reads another group's keys."""
    with numerics("float64"):
        block = _block(2, tmp_path, "float64")
        right = head_products(block)["qk"].sigma
        rolled = jnp.roll(block.attn.k.weight[...], block.attn.spec.d_head, axis=0)
        block.attn.k.weight = nnx.Param(rolled)
        wrong = head_products(block)["qk"].sigma
    assert np.abs(wrong - right).max() > 1e-3 * right.max()


def test_nano_heads_in_full(tmp_path: Path) -> None:
    """A trained model with a width that is no multiple of the block of rows."""
    with numerics("float64"):
        block = load_model("nano", precision="float64").block(3)
        found = head_products(block)
    for name, matrices in _explicit(block).items():
        expected = [np.linalg.svd(matrix, compute_uv=False)[:16] for matrix in matrices]
        np.testing.assert_allclose(found[name].sigma, expected, atol=1e-10 * np.max(expected))
        kurtosis = [scipy.stats.kurtosis(matrix.ravel()) for matrix in matrices]
        np.testing.assert_allclose(found[name].moments[:, 3], kurtosis, rtol=1e-9)


def test_metrics_by_hand() -> None:
    found = head_metrics(np.array([[2.0, 1.0], [0.0, 0.0], [3.0, 0.0]]))
    assert found["lambda_0"][0] == 4
    assert found["lambda_sum"][0] == 5
    assert found["lambda_square_sum"][0] == 17
    assert found["npr_lambda"][0] == pytest.approx(25 / 17 / 2)
    assert found["npr_sigma"][0] == pytest.approx(9 / 5 / 2)
    assert found["kappa_sigma"][0] == 2
    assert found["kappa_lambda"][0] == 4
    p = np.array([0.8, 0.2])
    assert found["spectral_entropy"][0] == pytest.approx(-(p * np.log(p)).sum())
    assert all(np.isnan(values[1]) for values in found.values())
    assert np.isnan(found["kappa_sigma"][2])
    assert found["npr_lambda"][2] == pytest.approx(0.5)


def test_baseline_is_that_of_the_study() -> None:
    """(768, 64): edges 0.378 and 2.037 at mean 1, NPR_λ 0.8552, κ_λ ≈ 5 between the edges."""
    assert product_edges(768, 64) == pytest.approx((0.378, 2.037), abs=5e-4)
    assert product_npr(768, 64) == pytest.approx(0.8552, abs=5e-5)
    with numerics("float32"):
        sigma = gaussian_baseline(768, 64, draws=24, seed=0).astype(np.float64)
    lam = sigma**2
    relative = lam / lam.mean(axis=1, keepdims=True)
    low, high = product_edges(768, 64)
    assert relative.min(axis=1).mean() == pytest.approx(low, rel=0.05)
    assert relative.max(axis=1).mean() == pytest.approx(high, rel=0.05)
    npr = head_metrics(sigma)["npr_lambda"]
    assert npr.mean() == pytest.approx(0.8552, abs=4 * npr.std() / 24**0.5 + 2e-4)
    # Elements have variance 1.
    assert lam.sum(axis=1).mean() == pytest.approx(768**2, rel=0.01)
    assert product_npr(768, 768) == pytest.approx(1 / 3, rel=0.01)


def test_run_over_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, and from the folder alone the figures."""
    make_small_model(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
        small = ("model=path", "model.path=model", "heads.draws=4")
        done = run_here("task=heads", *small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert len(run.metrics) == 2 * 2 * 2
    assert list(run.metrics)[:6] == ["layer", "role", "head", "name", "rows", "cols"]
    block = load_model(tmp_path / "model").block(1)
    row = run.metrics.set_index(["role", "layer", "head"]).loc[("ov", 1, 1)]
    expected = np.linalg.norm(_explicit(block)["ov"][1], 2) ** 2
    assert row["lambda_0"] == pytest.approx(expected, rel=1e-4)
    done = run_here("task=report", "run=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {"lambda_qk", "density_ov", "by_head_qk", "elements_ov", "grid_qk", "entropy_npr"} <= {
        file.stem for file in (tmp_path / "out" / "figures").glob("*.png")
    }
    refused = run_here("task=heads", "heads.draws=1", "hydra.run.dir=no", cwd=tmp_path)
    assert refused.code == 1
    assert "heads.draws=1" in refused.err


def test_both_stacks_of_an_encoder_decoder_model_are_drawn(tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "d_model": 32, "d_ff": 40, "d_kv": 8, "num_heads": 2, "vocab_size": 1100}
    small = [f"model.config.{key}={value}" for key, value in sizes.items()]
    small += ["+model.config.num_decoder_layers=1", "heads.draws=2"]
    done = run_here("task=heads", "model=t5-small", "model.init=random", *small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert set(open_run(tmp_path / "out").metrics["role"]) == {
        f"{s}.{k}" for s in ("encoder", "decoder") for k in ("qk", "ov")
    }
    drawn = {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"lambda_encoder.qk", "grid_decoder.qk", "by_head_decoder.ov", "entropy_npr"} <= drawn


def test_heads_wider_than_the_model_are_refused(tmp_path: Path) -> None:
    wide = ("model=t5-small", "model.init=random", "model.config.d_model=32", "model.config.num_layers=1")
    done = run_here("task=heads", *wide, "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, "wider (64) than the model (32)", "task=weights")
