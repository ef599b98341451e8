"""`task=heads`: products of heads against explicit matrices in float64, moments, baselines, runs."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from families import FAMILIES
from flax import nnx
from omegaconf import OmegaConf
from servers import assert_refused, run_here
from small_runs import make_small_model

from jacspec import load_model, open_run
from jacspec.backend import numerics
from jacspec.config import config_folder
from jacspec.models.block import Block
from jacspec.models.checkpoint import random_checkpoint
from jacspec.spectra.products import (
    Norms,
    ends_of,
    norms_of,
    norms_products,
    plain_products,
    product_density,
    product_edges,
    product_npr,
    stand,
    turned_products,
)
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.head_factors import modes_of
from jacspec.studies.heads.measure import (
    Chance,
    HeadProducts,
    describe_heads,
    factor_moments,
    head_metrics,
    head_products,
    measure_products,
)

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
            # Those that are not zero; the others of d_model are.
            values = np.linalg.eigvals(matrix)
            values = values[np.argsort(-np.abs(values))][: block.attn.spec.d_head]
            own = found[name].eigenvalues[head]
            np.testing.assert_allclose(np.sort(own.real), np.sort(values.real), atol=1e-7 * expected[0])
            assert own.real.sum() == pytest.approx(np.trace(matrix), abs=1e-7 * expected[0])
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
    sigma = plain_products(768, 64, draws=24, seed=0)
    lam = sigma**2
    relative = lam / lam.mean(axis=1, keepdims=True)
    low, high = product_edges(768, 64)
    assert relative.min(axis=1).mean() == pytest.approx(low, rel=0.05)
    assert relative.max(axis=1).mean() == pytest.approx(high, rel=0.05)
    npr = head_metrics(sigma)["npr_lambda"]
    assert npr.mean() == pytest.approx(0.8552, abs=4 * npr.std() / 24**0.5 + 2e-4)
    density = product_density(points := np.linspace(low, high, 20001), 768, 64)
    moments = [np.trapezoid(density * points**power, points) for power in range(3)]
    assert moments == pytest.approx([1, 1, 1 + 2 / 12], abs=1e-4)
    below = [np.trapezoid(density * (points <= level), points) for level in (0.6, 1.0, 1.5)]
    assert below == pytest.approx([(relative <= level).mean() for level in (0.6, 1.0, 1.5)], abs=0.01)
    assert (product_density(np.array([low * 0.99, high * 1.01]), 768, 64) == 0).all()
    # Elements have variance 1.
    assert lam.sum(axis=1).mean() == pytest.approx(768**2, rel=0.01)
    assert product_npr(768, 768) == pytest.approx(1 / 3, rel=0.01)


SIZES = 8, 40
"""d_head and d_model of drawn heads."""


def _spread(rng: np.random.Generator, size: int, amount: float = 0.7) -> np.ndarray:
    variances = rng.lognormal(sigma=amount, size=size)
    return variances / variances.mean()


def _explicit_ends(draw: Callable[[], np.ndarray], *, by_median: bool, draws: int = 400) -> np.ndarray:
    """ln of the largest and the smallest σ of whole products, over the median where that is the unit."""
    sigma = np.array([np.linalg.svd(draw(), compute_uv=False)[: SIZES[0]] for _ in range(draws)])
    unit = np.median(sigma, axis=1) if by_median else 1.0
    return np.log(np.stack([sigma[:, 0] / unit, sigma[:, -1] / unit]))


def test_nulls_are_those_of_whole_products() -> None:
    """Drawn by their definition, d_model × d_model; with the norms of another head both ends would be elsewhere."""
    rng = np.random.default_rng(0)
    rows, columns = (np.stack([_spread(rng, size) for _ in range(2)]) for size in SIZES)
    left, right = (rng.normal(size=SIZES) * np.sqrt(row)[:, None] for row in rows)

    def norms() -> np.ndarray:
        first, second = (
            rng.normal(size=SIZES) * np.sqrt(np.outer(row, c)) for row, c in zip(rows, columns, strict=True)
        )
        return first.T @ second

    def turned() -> np.ndarray:
        return left.T @ scipy.stats.ortho_group.rvs(SIZES[0], random_state=rng) @ right

    def plain() -> np.ndarray:
        return rng.normal(size=SIZES).T @ rng.normal(size=SIZES)

    chance: dict[str, Any] = {"draws": 400, "seed": 1}
    batch = [Norms(row[None], c[None]) for row, c in zip(rows, columns, strict=True)]
    cores = [np.linalg.qr(part.T)[1][None] for part in (left, right)]
    cases: dict[str, tuple[Any, Any, bool]] = {
        "plain": (plain, ends_of(plain_products(SIZES[1], SIZES[0], **chance), by_median=True), True),
        "norms": (norms, norms_products(*batch, **chance, spectra=partial(ends_of, by_median=True)), True),
        "turned": (turned, turned_products(*cores, **chance, spectra=partial(ends_of, by_median=False)), False),
    }
    drawn = {name: np.stack([np.ravel(end) for end in ends]) for name, (_, ends, _) in cases.items()}
    for name, (draw, _, by_median) in cases.items():
        expected = _explicit_ends(draw, by_median=by_median)
        p_values = [scipy.stats.ks_2samp(*pair).pvalue for pair in zip(drawn[name], expected, strict=True)]
        assert min(p_values) > 1e-3, (name, p_values)
        others = [scipy.stats.ks_2samp(drawn[other][0], expected[0]).pvalue for other in drawn if other != name]
        assert max(others) < 1e-6


def _draw_heads(rng: np.random.Generator, heads: int, spread: float = 0.0) -> list[np.ndarray]:
    """Factors of heads whose entries are independent, rows and columns of norms of their own."""
    scales = (
        np.stack([np.outer(*(_spread(rng, size, spread) for size in SIZES)) for _ in range(heads)]) for _ in range(2)
    )
    return [np.sqrt(scale) * rng.normal(size=scale.shape) for scale in scales]


def _products(left: np.ndarray, right: np.ndarray) -> HeadProducts:
    with numerics("float64"):
        return measure_products(jnp.asarray(left)[:, None], jnp.asarray(right))


def test_p_values_of_chance_are_uniform_and_a_planted_head_is_found() -> None:
    rng = np.random.default_rng(2)
    left, right = _draw_heads(rng, 120)
    # Both factors of one head have one direction of its space in common.
    direction = rng.normal(size=SIZES[0])
    direction /= np.linalg.norm(direction)
    for part in (left, right):
        part[7] += 3 * np.outer(direction, rng.normal(size=SIZES[1]))
    rows = describe_heads(_products(left, right), Chance(199, 0))
    for null in ("plain", "norms", "turned"):
        for end in ("largest", "smallest"):
            found = np.array([row[f"{null}_{end}_p"] for row in rows])
            assert scipy.stats.kstest(np.delete(found, 7), "uniform").pvalue > 1e-3, (null, end)
        top = np.array([row[f"{null}_largest_p"] for row in rows])
        assert top.argmin() == 7
        # A rotation of its own two factors has a bound to what it can do.
        assert (top[7] < 0.01) if null == "turned" else (adjust_for_many(top)[7] < 1e-3)
        assert rows[7][f"{null}_above"] == 1
        assert sum(row[f"{null}_above"] for row in rows) <= 4
    # Were the draws another's, as those of a quarter as many columns, chance would not look like it.
    wrong = ends_of(plain_products(SIZES[1] // 4, SIZES[0], draws=199, seed=0), by_median=True)
    sigma = _products(left, right).sigma
    found = np.array([stand(row, wrong, by_median=True).largest_p for row in sigma])
    assert scipy.stats.kstest(found, "uniform").pvalue < 1e-6


def test_norms_alone_are_no_head_that_stands_out() -> None:
    """Rows and columns of different norms: beyond Gaussian factors of one variance, not beyond their own norms."""
    left, right = _draw_heads(np.random.default_rng(3), 60, spread=1.0)
    rows = describe_heads(_products(left, right), Chance(199, 0))
    share = {null: np.mean([row[f"{null}_largest_p"] <= 0.05 for row in rows]) for null in ("plain", "norms")}
    assert share["plain"] > 0.5
    assert share["norms"] < 0.12


def test_norms_of_factors_with_empty_rows_and_columns() -> None:
    factor = np.random.default_rng(4).normal(size=SIZES)
    factor[2], factor[:, [0, 39]] = 0, 0
    rows, columns = (part[0] for part in norms_of([factor]))
    assert (np.flatnonzero(rows == 0).tolist(), np.flatnonzero(columns == 0).tolist()) == ([2], [0, 39])
    assert np.outer(rows, columns).sum() == pytest.approx((factor**2).sum())
    assert np.isnan(norms_of([np.zeros(SIZES)]).rows).all()


def test_elements_of_factors_are_scipys() -> None:
    elements = np.random.default_rng(5).standard_t(5, size=(16, 600))
    std, kurtosis, divergence = factor_moments(elements)
    assert std == pytest.approx(elements.std())
    assert kurtosis == pytest.approx(scipy.stats.kurtosis(elements.ravel()))
    inner = scipy.stats.norm(elements.mean(), elements.std()).ppf(np.linspace(0, 1, 33))
    share = np.histogram(elements, inner)[0]
    assert divergence == pytest.approx(scipy.stats.entropy(share, np.ones(32)))
    normal = np.mean([factor_moments(np.random.default_rng(i).normal(size=(16, 100)))[2] for i in range(200)])
    assert normal == pytest.approx(29 / 3200, rel=0.1)
    assert divergence > 3 * 29 / (2 * elements.size)


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 8), ("float16", 11), ("float32", 24)])
def test_rounding_moves_the_smallest_as_it_is_said(dtype: str, bits: int) -> None:
    """Weights rounded to the type; then as many times moved by what rounding can do."""
    rng = np.random.default_rng(6)
    left, right = (np.asarray(jnp.asarray(part, dtype), np.float64) for part in rng.normal(size=(2, *SIZES)))
    sigma = np.linalg.svd(left.T @ right, compute_uv=False)[SIZES[0] - 1]
    moved = []
    for _ in range(300):
        parts = [part + np.ldexp(rng.uniform(-0.5, 0.5, SIZES), np.frexp(part)[1] - bits) for part in (left, right)]
        moved.append(np.linalg.svd(parts[0].T @ parts[1], compute_uv=False)[SIZES[0] - 1] - sigma)
    assert modes_of((left, right)).rounding == pytest.approx(np.std(moved), rel=0.15)


def test_copying_is_seen_in_the_eigenvalues() -> None:
    """W_O W_V of what is written where it was read, of the opposite, and of anything."""
    rng = np.random.default_rng(7)
    value = rng.normal(size=(3, *SIZES))
    output = np.stack([value[0], -value[1], rng.normal(size=SIZES)])
    rows = describe_heads(_products(output, value), Chance(2, 0))
    assert [row["positive_share"] for row in rows[:2]] == [1, 0]
    assert [row["copying_score"] for row in rows[:2]] == pytest.approx([1, -1])
    assert abs(rows[2]["copying_score"]) < 0.6
    assert np.isnan(rows[0]["plain_largest_p"])  # of two draws


def test_run_over_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table, and from the folder alone the figures."""
    make_small_model(tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
        small = ("model=path", "model.path=model", "heads.draws=19", "heads.shown=[L0H0,L1H1]")
        done = run_here("task=heads", *small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert len(run.metrics) == 2 * 2 * 2
    assert list(run.metrics)[:6] == ["layer", "role", "head", "name", "rows", "cols"]
    block = load_model(tmp_path / "model").block(1)
    row = run.metrics.set_index(["role", "layer", "head"]).loc[("ov", 1, 1)]
    expected = np.linalg.norm(_explicit(block)["ov"][1], 2) ** 2
    assert row["lambda_0"] == pytest.approx(expected, rel=1e-4)
    for column in ("turned_largest", "norms_smallest"):
        adjusted = scipy.stats.false_discovery_control(run.metrics[f"{column}_p"])
        np.testing.assert_allclose(run.metrics[f"{column}_q"], adjusted, rtol=1e-9)
    done = run_here("task=report", "run=out", cwd=tmp_path)
    assert done.code == 0, done.err
    drawn = {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")}
    of_qk = {f"{name}_qk" for name in ("standing", "factors", "lambda", "density", "by_head", "elements", "grid")}
    assert drawn == of_qk | {name.replace("_qk", "_ov") for name in of_qk - {"grid_qk"}} | {"entropy_npr"}
    for option in ("heads.draws=1", "heads.shown=[L7]", "heads.shown=[L99H0,L0H0]", "heads.shown=[L1H2]"):
        refused = run_here("task=heads", *small[:2], option, "hydra.run.dir=no", cwd=tmp_path)
        assert refused.code == 1
        assert "Type heads." in refused.err
        assert not (tmp_path / "no").exists()  # before anything is measured
    assert "its heads are L0H0 to L1H1" in refused.err
    figures = run.figures
    named = [OmegaConf.load(file) for file in (config_folder() / "source").glob("w_qk_*.yaml")]
    named = [each.report.figures[0] for each in named if each.defaults[0]["override /task"] == "heads"]
    assert len(named) == 11
    assert set(named) <= set(figures)
    lam = [run.metrics.set_index(["role", "layer", "head"]).loc[("qk", 1, 1)], _explicit(block)["qk"][1]]
    lam[1] = np.linalg.svd(lam[1], compute_uv=False)[: run.dataset.sizes["k"]] ** 2
    for name in ("baseline_qk", "densities_qk", "kappa_qk", "lambda_0_qk"):
        assert figures[name]().axes
    dashes = np.asarray(figures["lambda_0_qk"]().axes[0].collections[0].get_offsets())
    ratio = run.provenance["baseline"]["lambda_0 over mean"]["mean"]
    spread = np.std(_explicit(block)["qk"][1]) * lam[0]["cols"]
    assert dashes[-1, 1] == pytest.approx(ratio * spread**2 / len(lam[1]), rel=1e-4)
    lines = figures["two_heads_qk"]().axes[0].lines
    assert [line.get_label() for line in lines[::2]] == ["L0 H0", "L1 H1"]
    np.testing.assert_allclose(np.asarray(lines[2].get_ydata()), lam[1], rtol=1e-3)
    # Figure 12 puts the heads of several models below one another.
    shutil.copytree(tmp_path / "out", tmp_path / "other")
    done = run_here("source=w_qk_figure_12", "runs=[out,other]", "hydra.run.dir=both", cwd=tmp_path)
    assert done.code == 0, done.err
    pooled = open_run(tmp_path / "both")
    shares = [pooled.tables["heads"].loc[lambda table, number=number: table["run"] == number] for number in (0, 1)]
    for share in shares:
        np.testing.assert_array_equal(share["lambda_0"], run.metrics["lambda_0"])
    assert (tmp_path / "both" / "figures" / "elements_qk.png").is_file()


def test_both_stacks_of_an_encoder_decoder_model_are_drawn(tmp_path: Path) -> None:
    sizes = {"num_layers": 1, "d_model": 32, "d_ff": 40, "d_kv": 8, "num_heads": 2, "vocab_size": 1100}
    small = [f"model.config.{key}={value}" for key, value in sizes.items()]
    names = ("lambda_encoder.qk", "grid_decoder.qk", "by_head_decoder.ov", "entropy_npr")
    small += ["+model.config.num_decoder_layers=1", "heads.draws=2", f"report.figures=[{','.join(names)}]"]
    done = run_here("task=heads", "model=t5-small", "model.init=random", *small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert set(open_run(tmp_path / "out").metrics["role"]) == {
        f"{s}.{k}" for s in ("encoder", "decoder") for k in ("qk", "ov")
    }
    assert {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")} == {*names}


def test_heads_wider_than_the_model_are_refused(tmp_path: Path) -> None:
    wide = ("model=t5-small", "model.init=random", "model.config.d_model=32", "model.config.num_layers=1")
    done = run_here("task=heads", *wide, "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, "wider (64) than the model (32)", "task=weights")
