"""The linear model of learned noise: against drawn matrices, layers really trained, and embedded weights in NumPy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from oracles import load_trained
from scipy.integrate import quad
from servers import NANO, run_here
from test_overlap import _inputs
from test_study_findings import put
from transformers import AutoModelForCausalLM

from jacspec import load_model, open_run
from jacspec.backend import numerics
from jacspec.spectra.learned_noise import fit_exponent, learned_direction, noise_after_learning
from jacspec.spectra.sample_covariance import locate_spikes, sample_law
from jacspec.studies.overlap import run as task
from jacspec.studies.overlap.activations import Moments
from jacspec.studies.overlap.linear_model import DataDirections, data_directions, hold_against_model
from jacspec.studies.overlap.model_findings import model_findings
from jacspec.text.corpus import make_batches

Draw = Callable[[], np.ndarray]


def _powers(n: int, exponent: float) -> np.ndarray:
    population = np.arange(1, n + 1.0) ** exponent
    return population / population.mean()


POPULATIONS = {
    "equal": lambda n: np.ones(n),
    "least squares": lambda n: _powers(n, 1.0),
    "amplified": lambda n: _powers(n, -0.6),
    "two spikes": lambda n: np.r_[0.05, 6.0, np.ones(n - 2)],
}


def _drawn(population: np.ndarray, rows: int, draws: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Mean λ of drawn matrices, descending, and the mean square of their right singular vectors along each axis."""
    rng = np.random.default_rng(rows)
    found = [np.linalg.svd(rng.standard_normal((rows, population.size)) * np.sqrt(population), full_matrices=False)
             for _ in range(draws)]  # fmt: skip
    return np.mean([sigma**2 / rows for _, sigma, _ in found], axis=0), np.mean([v**2 for *_, v in found], axis=0)


@pytest.mark.few(5)
@pytest.mark.parametrize("shape", [(300, 120), (120, 120), (120, 300)], ids=str)
@pytest.mark.parametrize("name", POPULATIONS)
def test_law_is_that_of_drawn_matrices(name: str, shape: tuple[int, int]) -> None:
    """Shares of values, values and overlaps; with the exponent's sign or the ratio turned round they are others."""
    rows, n = shape
    population = POPULATIONS[name](n)
    lam, squares = _drawn(population, rows)
    k, first = lam.size, slice(None, n // 10)
    share = (k - 0.5 - np.arange(k)) / k

    def misfit(population: np.ndarray, rows: int) -> float:
        return float(np.abs(sample_law(population, rows).count_below(lam) / k - share).max())

    law = sample_law(population, rows)
    assert misfit(population, rows) < 0.02
    # Of a square matrix the smallest values spread by as much as they are.
    kept = slice(None, k - (20 if rows == n else 1))
    np.testing.assert_allclose(law.quantiles()[kept], lam[kept], rtol=0.12)
    overlaps = law.overlaps(law.quantiles())
    np.testing.assert_allclose(overlaps.sum(axis=1), 1, rtol=1e-9)
    for part in (slice(None, k // 10), slice(k // 3, 2 * k // 3), slice(-(k // 10), None)):
        expected = squares[part, first].sum(axis=1).mean()
        assert overlaps[part, first].sum(axis=1).mean() == pytest.approx(expected, rel=0.12, abs=0.004)
    assert law.count_below(np.array([0.0, 1e9])) == pytest.approx([0, k])
    if name in ("least squares", "amplified"):
        assert misfit(1 / population / (1 / population).mean(), rows) > 0.04
    if rows != n:
        assert misfit(population, n * n // rows) > 0.1


@pytest.mark.parametrize("shape", [(300, 90), (100, 300)], ids=str)
def test_law_with_columns_given(shape: tuple[int, int]) -> None:
    """Beside columns that stay as they are, others are drawn anew: shares, values, where the smallest vectors lie."""
    rows, n = shape
    rng = np.random.default_rng(rows)
    u, _, turn = np.linalg.svd(rng.standard_normal((rows, 10)), full_matrices=False)
    fixed, population = np.r_[np.full(5, 0.05), np.full(5, 2.0)], np.linspace(0.5, 2, n)
    lam, squares = [], []
    for _ in range(20):
        drawn = rng.standard_normal((rows, n)) * np.sqrt(population)
        _, sigma, v = np.linalg.svd(np.c_[u * np.sqrt(rows * fixed) @ turn, drawn], full_matrices=False)
        lam.append(sigma**2 / rows)
        squares.append(np.c_[(v[:, :10] @ turn.T) ** 2, v[:, 10:] ** 2])
    values, squares = np.mean(lam, axis=0), np.mean(squares, axis=0)
    law = sample_law(population, rows, fixed)
    k = values.size
    assert np.abs(law.count_below(values) / k - (k - 0.5 - np.arange(k)) / k).max() < 0.02
    np.testing.assert_allclose(law.quantiles(), values, rtol=0.12)
    overlaps = law.overlaps(law.quantiles())
    for columns in (slice(0, 5), slice(5, 10)):
        for part in (slice(0, 5), slice(k // 2, k // 2 + 10), slice(-5, None)):
            expected = squares[part, columns].sum(axis=1).mean()
            assert overlaps[part, columns].sum(axis=1).mean() == pytest.approx(expected, rel=0.12, abs=0.015)
    # With others given they are elsewhere.
    other = sample_law(population, rows, fixed * 0 + 1).overlaps(values[-5:])[:, :5].sum(axis=1).mean()
    assert abs(np.log(other / squares[-5:, :5].sum(axis=1).mean())) > 0.5


@pytest.mark.parametrize("shape", [(400, 100), (100, 400)], ids=str)
def test_equal_variances_are_marchenko_pastur(shape: tuple[int, int]) -> None:
    rows, n = shape
    ratio = n / rows
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2

    def density(x: float) -> float:
        return ((high - x) * (x - low)) ** 0.5 / (2 * np.pi * ratio * x) * n

    law = sample_law(np.ones(n), rows)
    for x in np.linspace(low, high, 7)[1:-1]:
        assert law.count_below(np.array([x]))[0] == pytest.approx(quad(density, low, x)[0], abs=0.02)


def test_spikes_stand_where_drawn_ones_do() -> None:
    """Both sides of a bulk, within it on its edge, and none below it where columns are as many as rows."""
    n, rows = 150, 600
    for a in (0.02, 0.2, 2.5, 8.0):
        lam, squares = _drawn(np.r_[a, np.ones(n - 1)], rows)
        place = -1 if a < 1 else 0
        found = locate_spikes(np.array([a]), n / rows)
        assert found.lam[0] == pytest.approx(lam[place], rel=0.04)
        assert found.overlap[0] == pytest.approx(squares[place, 0], abs=0.05)
        turned = locate_spikes(np.array([a]), rows / n)
        assert abs(turned.lam[0] / lam[place] - 1) > 0.2
    inside = locate_spikes(np.array([0.6, 1.4]), n / rows)
    np.testing.assert_allclose(inside.lam, [0.25, 2.25])
    assert not inside.overlap.any()
    lam, squares = _drawn(np.r_[0.02, np.ones(rows - 1)], n)
    wide = locate_spikes(np.array([0.02]), rows / n)
    assert wide.overlap[0] == 0
    assert squares[-1, 0] < 0.02
    assert lam[-1] == pytest.approx(wide.lam[0], rel=0.1)
    with pytest.raises(ValueError, match="positive"):
        locate_spikes(np.array([-1.0]), 0.5)
    with pytest.raises(ValueError, match="positive"):
        sample_law(np.array([0.0, 1.0]), 5)


def _least_squares(
    ell: float, theta2: float, rng: np.random.Generator, rows: int = 400, n: int = 100, samples: int = 4000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Learn y = Bx + ε by least squares, B along one direction of variance ℓ; returns W, B and Σ."""
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    variances = np.r_[ell, np.ones(n - 1)]
    u = rng.standard_normal(rows)
    b = np.outer(u / np.linalg.norm(u) * (theta2 * rows) ** 0.5, turn[:, 0])
    x = rng.standard_normal((samples, n)) * np.sqrt(variances) @ turn.T
    y = x @ b.T + rng.standard_normal((samples, rows)) * samples**0.5
    return np.linalg.lstsq(x, y, rcond=None)[0].T, b, turn * variances @ turn.T


def _end_of(w: np.ndarray, b: np.ndarray, sigma: np.ndarray) -> tuple[list[float], list[float]]:
    """λ, c², output and change of the error without it, of the smallest value; then of the middle of all, means."""
    u, s, v = np.linalg.svd(w, full_matrices=False)
    strongest = np.linalg.eigh(sigma)[1][:, -1]

    def error(weight: np.ndarray) -> float:
        return float(np.trace((weight - b) @ sigma @ (weight - b).T))

    rows = []
    for index in range(s.size):
        without = w - s[index] * np.outer(u[:, index], v[index])
        rows.append([s[index] ** 2, (v[index] @ strongest) ** 2 * len(w), s[index] ** 2 * v[index] @ sigma @ v[index],
                     error(without) - error(w)])  # fmt: skip
    table = np.array(rows) / len(w)
    return table[-1].tolist(), table[20:-20].mean(axis=0).tolist()


@pytest.mark.parametrize(("ell", "theta2"), [(30.0, 0.15), (10.0, 0.0)])
def test_small_outlier_of_a_layer_really_learnt(ell: float, theta2: float) -> None:
    """With signal its smallest value matters more than any other, without it nothing is lost; both as predicted."""
    rng = np.random.default_rng(1)
    found, middle = np.mean([_end_of(*_least_squares(ell, theta2, rng)) for _ in range(4)], axis=0)
    strength = np.array([ell]), np.array([theta2])
    predicted = learned_direction(*strength, 1 / strength[0], 0.25)
    assert predicted.population[0] == pytest.approx(1 / ell + theta2)
    np.testing.assert_allclose(found, np.array(predicted[1:]).ravel(), rtol=0.15, atol=0.05)
    assert found[0] < 0.25 < middle[0]
    assert middle[3] < 0
    assert (found[3] > -4 * middle[3] / 3) == (theta2 > 0)
    # With the exponent's sign the other way round, it would be the largest value.
    turned = learned_direction(*strength, strength[0], 0.25)
    assert abs(turned.lam[0] / found[0] - 1) > 1


def test_layer_of_equal_variances_has_no_small_outlier() -> None:
    rng = np.random.default_rng(2)
    w, _, _ = _least_squares(1.0, 0.0, rng)
    assert learned_direction(np.ones(1), np.zeros(1), np.ones(1), 0.25).overlap[0] == 0
    assert np.linalg.svd(w, compute_uv=False)[-1] ** 2 / len(w) > 0.25 * 0.9
    _, vectors = np.linalg.eigh(np.cov(rng.standard_normal((4000, 100)), rowvar=False))
    variances = np.exp(rng.normal(0, 1, 100))
    found = fit_exponent(variances, np.square(w @ vectors).sum(axis=0))
    assert found.low < 0 < found.high
    assert found.high - found.low < 0.2


def test_noise_is_what_gradient_descent_leaves() -> None:
    """Energies along directions of the data after so many steps; between start and end β is between 0 and 1."""
    rng = np.random.default_rng(3)
    rows, n, samples, rate, steps = 500, 60, 3000, 0.01, 150
    variances = np.geomspace(8, 0.05, n)
    x = rng.standard_normal((samples, n))
    x = np.linalg.qr(x)[0] * (samples * variances) ** 0.5  # the second moment of the samples is diagonal
    y = rng.standard_normal((samples, rows)) * 20
    w = rng.standard_normal((rows, n)) * 0.5
    for _ in range(steps):
        w = w - rate * (w @ (x.T @ x) - y.T @ x) / samples
    predicted = noise_after_learning(variances, rate * steps, start=0.25, noise=400.0, samples=samples)
    found = np.square(w).mean(axis=0)
    np.testing.assert_allclose(found, predicted, rtol=0.35)
    assert np.log(found / predicted).mean() == pytest.approx(0, abs=0.03)
    late = noise_after_learning(variances, np.inf, start=0.25, noise=400.0, samples=samples)
    np.testing.assert_allclose(late * variances, 400 / samples)
    assert np.abs(np.log(found / late)).max() > 1
    assert 0 < fit_exponent(variances, found).value < 1
    assert fit_exponent(variances, late).value == pytest.approx(1)
    with pytest.raises(ValueError, match="not negative"):
        noise_after_learning(variances, -1.0, start=1.0, noise=1.0, samples=2)


def test_interval_of_an_exponent_holds_it() -> None:
    """In 95 % of draws; of fewer than 40 directions there is none."""
    rng = np.random.default_rng(4)
    held = []
    for _ in range(200):
        variances = np.exp(rng.normal(0, 1.5, 200))
        found = fit_exponent(variances, variances**-0.4 * rng.chisquare(100, 200))
        held.append(found.low < 0.4 < found.high)
    assert 0.88 < np.mean(held) <= 0.99
    dead = np.r_[variances, 1e-12, 1e-11]
    energies = variances**-0.4
    assert fit_exponent(dead, np.r_[energies, 1.0, 1.0]).value == pytest.approx(0.4, abs=0.02)
    few = fit_exponent(variances[:30], variances[:30])
    assert np.isnan(few.value)
    assert few.directions == 30


def _moments(x: np.ndarray) -> Moments:
    mean = x.mean(axis=0)
    return Moments(np.array(float(len(x))), mean, (x - mean).T @ (x - mean))


@pytest.mark.parametrize("centred", [False, True])
def test_directions_and_variances_come_from_different_samples(centred: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((160, 20)) * np.geomspace(3, 0.3, 20) + 2
    first, other = x[:70], x[70:]
    data = data_directions(_moments(x), _moments(first), centred=centred)
    assert (data.known, data.tokens) == (20, 70)
    away = first - first.mean(axis=0) if centred else first
    expected = np.linalg.svd(away)[2]
    np.testing.assert_allclose(np.sort(np.abs(expected @ data.vectors).max(axis=0)), 1, atol=1e-9)
    along = other @ data.vectors
    np.testing.assert_allclose(data.variances, along.var(axis=0) if centred else np.square(along).mean(axis=0))
    assert (np.diff(data.variances) <= 0).all()
    within = np.cov(along[:, :2], rowvar=False, bias=True) if centred else along[:, :2].T @ along[:, :2] / len(other)
    np.testing.assert_allclose(data.strong, within)
    few = data_directions(_moments(x), _moments(first[:8]), centred=centred)
    assert few.known == (7 if centred else 8)


def _planted(exponent: float, rows: int, n: int, rng: np.random.Generator) -> tuple[np.ndarray, DataDirections]:
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    variances = np.geomspace(30, 0.03, n)
    w = rng.standard_normal((rows, n)) * variances ** (-exponent / 2) @ vectors.T
    return w, DataDirections(vectors, variances, np.diag(variances[: n // 10]), n, 10 * n)


@pytest.mark.parametrize("exponent", [0.0, 0.5, -0.5])
@pytest.mark.parametrize("shape", [(240, 80), (80, 240)], ids=str)
def test_planted_exponent_is_found_and_explains(exponent: float, shape: tuple[int, int]) -> None:
    """β, the law at the level of chance, values below the edge and the small end; none under independent entries."""
    rng = np.random.default_rng(6)
    with numerics("float64"):
        found = [hold_against_model(*_planted(exponent, *shape, rng)) for _ in range(3)]
    metrics = [each.metrics for each in found]
    mean = {name: float(np.mean([own[name] for own in metrics])) for name in metrics[0]}
    assert mean["energy_exponent"] == pytest.approx(exponent, abs=0.03)
    assert mean["distance_model"] < 1.5 * mean["distance_chance"]
    assert mean["small_strong"] == pytest.approx(mean["small_strong_model"], rel=0.25, abs=0.01)
    assert mean["small_output"] == pytest.approx(mean["small_output_model"], rel=0.25)
    assert mean["small_output_given"] == pytest.approx(mean["small_output"], rel=0.35)
    assert mean["small_strong_chance"] == pytest.approx(0.1)
    assert mean["below_found"] == pytest.approx(mean["below_model"], abs=1.5)
    if exponent:
        assert mean["distance_plain"] > 2 * mean["distance_chance"]
        assert (mean["energy_strong"] < 1) == (exponent > 0)
        assert abs(np.log(mean["small_output"] / mean["small_output_chance"])) > 0.3
        if shape[0] > shape[1]:
            assert (mean["small_strong"] > 0.2) == (exponent > 0)
            assert mean["below_found"] > 2
    else:
        assert mean["below_found"] < 0.5
        assert mean["small_strong"] == pytest.approx(0.1, abs=0.04)
        assert mean["distance_plain"] < mean["distance_chance"]


def test_suppressed_combinations_of_strong_directions_explain_the_small_end() -> None:
    """Some combinations of strong directions are signal, others hardly pass: energies say nothing, the block does."""
    rng = np.random.default_rng(9)
    n, rows, s = 100, 300, 10
    variances = np.r_[np.full(s, 50.0), np.full(n - s, 1.0)] * np.geomspace(1.1, 0.9, n)
    data = DataDirections(np.eye(n), variances, np.diag(variances[:s]), n, 10 * n)

    def measure(strengths: np.ndarray) -> dict[str, float]:
        turn = np.linalg.qr(rng.standard_normal((s, s)))[0]
        w = rng.standard_normal((rows, n))
        w[:, :s] = w[:, :s] * np.sqrt(strengths) @ turn.T
        with numerics("float64"):
            return hold_against_model(w, data).metrics

    planted, chance = (
        {name: float(np.mean([each[name] for each in runs])) for name in runs[0]}
        for runs in (
            [measure(strengths) for _ in range(6)]
            for strengths in (np.r_[np.full(5, 0.05), np.full(5, 1.95)], np.ones(s))
        )
    )
    assert planted["small_output"] > 1.5 * planted["small_output_chance"]
    assert planted["small_output_given"] == pytest.approx(planted["small_output"], rel=0.1)
    assert abs(planted["small_output_model"] / planted["small_output"] - 1) > 0.2
    assert planted["below_given"] == pytest.approx(planted["below_found"], abs=1)
    assert planted["below_found"] >= 4
    assert chance["below_given"] < 0.5
    assert chance["small_output_given"] == pytest.approx(chance["small_output"], rel=0.1)
    assert chance["small_output"] == pytest.approx(chance["small_output_chance"], rel=0.15)


def test_what_is_missing_is_said() -> None:
    rng = np.random.default_rng(7)
    w, data = _planted(0.5, 120, 60, rng)
    assert "half of the tokens, 50" in hold_against_model(w, data._replace(tokens=50)).reason
    assert "fewer than 40" in hold_against_model(w, data._replace(known=20)).reason
    assert hold_against_model(0 * w, data).reason == "all zero: no energies"
    assert "no lower edge" in hold_against_model(w[:62], data).reason


@pytest.mark.parametrize("planted", [True, False])
def test_what_the_model_gives_is_said(planted: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(10)
    rows = []
    for layer in range(6):
        for role in ("q", "up"):
            high = planted and role == "up"
            exponent = 0.5 * high + rng.normal(0, 0.01)
            rows.append(
                {"layer": layer, "role": role, "energy_exponent": exponent, "energy_exponent_low": exponent - 0.1,
                 "energy_exponent_high": exponent + 0.1, "distance_plain": 0.2 if high else 0.01,
                 "distance_model": 0.01, "distance_chance": 0.02, "below_found": 4.0 * high if role == "up" else np.nan,
                 "below_model": 3.0 * high, "below_given": 3.5 * high, "small_output": 2.5 * high + 0.2,
                 "small_output_model": 2.2 * high + 0.2, "small_output_given": 2.4 * high + 0.2,
                 "small_output_chance": 0.2}
            )  # fmt: skip
    found = " ".join(model_findings(put(tmp_path, "overlap", rows)))
    if planted:
        for words in (
            "β of, by role: q ", "up +0.5", "in 6 of 12 matrices it is above 0", "in 0 below 0",
            "Marchenko–Pastur's in 6 of 12 matrices (median distance 0.010 and 0.105), and within 0.020",
            "lie up 24 (model 18, given the strong directions 21)",
            "up 2.7 (2.7 to 2.7) (model 2.4, given the strong directions 2.6, chance 0.2)",
        ):  # fmt: skip
            assert words in found, (words, found)
    else:
        assert "in 0 of 12 matrices it is above 0" in found
        assert "Marchenko–Pastur's in 0 of 12" in found
        assert "lie up 0 (model 0" in found
    assert not list(model_findings(put(tmp_path, "overlap", [{"layer": 0, "role": "q"}])))


def test_of_an_embedded_layer_as_numpy_has_it() -> None:
    """The trained model's own inputs, of HF, in halves: exponents, where small values read, what they give."""
    rng = np.random.default_rng(8)
    tokens = [rng.integers(3, 200, 24).tolist() for _ in range(24)]
    with numerics("float64"):
        model = load_model("nano", precision="float64")
        chosen = frozenset({3})
        blocks = task._stream(model, make_batches(tokens, size=8), "shifted", {}, chosen=chosen, linear_model=True)
        found = {row.key[1]: row for block in blocks for row in block}
    names = {"q": "attn.c_attn", "up": "mlp.c_fc"}
    hf = load_trained(NANO, AutoModelForCausalLM)
    entering = _inputs(hf, [f"transformer.h.3.{name}" for name in names.values()], tokens)
    for (role, name), x in zip(names.items(), entering.values(), strict=True):
        weight = hf.get_submodule(f"transformer.h.3.{name}").weight.detach().numpy().T[: 96 if role == "q" else None]
        even = np.repeat(np.arange(24) % 2 == 0, 24)
        vectors = np.linalg.svd(x[even] - x[even].mean(axis=0), full_matrices=False)[2].T
        variances = (x[~even] @ vectors).var(axis=0)
        order = np.argsort(-variances)[:-1]  # what LayerNorm gives has no variance along one direction
        vectors, variances = vectors[:, order], variances[order]
        energies = np.square(weight @ vectors).sum(axis=0)
        _, sigma, right = np.linalg.svd(weight, full_matrices=False)
        shares, output = np.square(right @ vectors), sigma**2 * (np.square(right @ vectors) @ variances)
        total = np.square(weight).sum() / 96
        values = found[role].values
        rising, half = np.log(np.c_[variances, energies])[::-1], 48
        steps = (rising[half:] - rising[: len(rising) - half]).T
        exponent = -np.median(steps[1] / steps[0])
        assert values["energy_exponent"] == pytest.approx(exponent, abs=1e-4)
        assert values["energy_strong"] == pytest.approx(energies[:9].mean() / total, rel=1e-4)
        assert values["small_strong"] == pytest.approx(shares[-9:, :9].sum(axis=1).mean(), rel=1e-3)
        assert values["small_output"] == pytest.approx(output[-9:].mean() / output[38:48].mean(), rel=1e-3)
        # With directions and variances of the same samples it is another.
        own = (x[even] @ vectors).var(axis=0)
        assert abs(fit_exponent(own, energies).value - exponent) > 1e-3
    down = found["down"]
    assert np.isnan(down.values["distance_model"])
    assert "half of the tokens, 288, are fewer than its 384 dimensions" in down.reason


@pytest.mark.thorough
def test_run_draws_and_says_it(tmp_path: Path) -> None:
    """Columns, three figures and a sentence on the page; heads have none of it."""
    words = ("task=overlap", "data.samples=60", "layers=[1,3]", "overlap.linear_model=true", "overlap.heads=true")
    done = run_here(*words, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    whole = run.metrics[run.metrics["head"].isna()]
    assert whole["energy_exponent"].notna().all()
    assert whole.loc[whole["role"] != "down", "distance_model"].notna().all()
    assert run.metrics.loc[run.metrics["head"].notna(), "energy_exponent"].isna().all()
    drawn = {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")}
    assert {"energies", "model_spectra", "strong_directions"} <= drawn
    assert "power −β" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
