"""Vectors beside chance, spacings, and what tails admit: closed cases, other packages, draws whose answer is known."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

from jacspec.axes import Row
from jacspec.spectra.further_metrics import tail_metrics, vector_metrics
from jacspec.spectra.porter_thomas import distance_from_normal, porter_thomas_p, rare_participation, vector_chance
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.spacings import fit_brody, measure_spacings, number_variance, spacing_ratios, unfold
from jacspec.spectra.svd import singular_values
from jacspec.spectra.tails import (
    alpha_up_to_largest,
    bootstrap_tail,
    compare_laws,
    hill,
    product_of_one,
    square_windows,
)
from jacspec.spectra.weight_metrics import shuffled_spectra
from jacspec.studies.weights.columns import EXTRAS
from jacspec.studies.weights.verdicts import complete_rows


def _haar(rng: np.random.Generator, count: int, n: int) -> np.ndarray:
    drawn = rng.normal(size=(count, n))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_distances_are_those_of_scipy() -> None:
    vectors = _haar(np.random.default_rng(0), 5, 40)
    expected = [stats.kstest(row, "norm", args=(0, 40**-0.5)).statistic for row in vectors]
    np.testing.assert_allclose(distance_from_normal(vectors), expected, rtol=1e-12)


@pytest.mark.parametrize("n", [24, 96, 400])
def test_p_values_of_singular_vectors_are_uniform_and_kolmogorovs_are_not(n: int) -> None:
    """Left vectors of Gaussian matrices; a binomial interval of 99.9 % at each level."""
    rng = np.random.default_rng(n)
    matrices = rng.normal(size=(-(-2000 // n), n, n))
    vectors = np.linalg.svd(matrices)[0].swapaxes(1, 2).reshape(-1, n)
    distance = distance_from_normal(vectors)
    p_value, some = porter_thomas_p(distance, n), slice(0, 400)
    for level in (0.01, 0.05, 0.5):
        bound = 3.3 * (level * (1 - level) / len(vectors)) ** 0.5
        assert abs(np.mean(p_value <= level) - level) < bound, level
    known = stats.kstwo.sf(distance[some], n)
    rejected = 0.44  # of 0.5, by Kolmogorov's p-value
    assert np.mean(known <= 0.5) == pytest.approx(rejected, abs=0.08)
    order = np.argsort(known)
    assert (np.diff(p_value[some][order]) >= 0).all()
    ratio = p_value[some][order] / known[order]
    assert (ratio < 1.001).all()
    assert ratio[known[order] < 0.3].max() < 0.9


def test_tail_of_the_law_has_its_limit() -> None:
    """2 √(2/3) exp(−2 n D²) for rare distances."""
    n = 10**6
    distance = np.array([2.5, 3.0]) / n**0.5
    expected = 2 * (2 / 3) ** 0.5 * np.exp(-2 * n * distance**2)
    np.testing.assert_allclose(porter_thomas_p(distance, n), expected, rtol=0.03)


def test_participation_of_closed_cases() -> None:
    n = 64
    even, single = np.full((1, n), n**-0.5), np.eye(1, n)
    assert vector_chance(even).participation == pytest.approx((n + 2) / (3 * n))
    assert vector_chance(single).participation == pytest.approx((n + 2) / 3)
    assert vector_chance(single).p_value < 1e-6
    drawn = _haar(np.random.default_rng(1), 4000, n)
    seen = vector_chance(drawn).participation
    assert seen.mean() == pytest.approx(1, abs=4 * seen.std() / 4000**0.5)
    assert np.mean(seen > rare_participation(n)) == pytest.approx(0.01, abs=0.006)


def test_planted_vectors_are_found_where_they_are() -> None:
    """A spike on five rows is the largest; its left vector alone is localised."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(120, 200))
    matrix[:5] += 8 * rng.choice([-1.0, 1.0], (5, 1)) * rng.normal(size=200)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    other, _, side = np.linalg.svd(rng.normal(size=(120, 200)), full_matrices=False)
    found, arrays = vector_metrics(left.T, right, (other.T, side))
    assert arrays["left_p"][0] < 1e-6
    assert arrays["right_p"][0] > 1e-3
    assert arrays["left_participation"][0] > 5
    assert found["vectors_beyond"] == 1
    assert found["localised_large"] >= 1 / 24 > 0
    assert found["vectors_p01_bulk"] < 0.05
    assert found["vectors_p01_norms"] < 0.05
    assert found.keys() == EXTRAS["vectors"].keys()


def _goe(rng: np.random.Generator, n: int) -> np.ndarray:
    half = rng.normal(size=(n, n))
    return np.linalg.eigvalsh(half + half.T)[n // 8 : -n // 8] + 4 * n**0.5


SPECTRA: dict[str, tuple[Any, float, tuple[float, float], tuple[float, float]]] = {
    "GOE": (lambda rng: _goe(rng, 500), 0.5307, (0.8, 1.1), (0.45, 0.7)),
    "Gaussian matrix": (
        lambda rng: np.linalg.svd(rng.normal(size=(400, 500)), compute_uv=False),
        0.5307,
        (0.8, 1.1),
        (0.45, 0.7),
    ),
    "Poisson": (lambda rng: rng.uniform(1, 2, 400), 0.3863, (-0.1, 0.12), (1.4, 2.1)),
}


@pytest.mark.parametrize(("draw", "ratio", "brody", "variance"), SPECTRA.values(), ids=SPECTRA)
def test_spacings_of_random_matrices_and_of_none(
    draw: Any, ratio: float, brody: tuple[float, float], variance: tuple[float, float]
) -> None:
    rng = np.random.default_rng(3)
    seen = [measure_spacings(draw(rng)) for _ in range(8)]
    means = np.array([each.ratio for each in seen])
    assert means.mean() == pytest.approx(ratio, abs=0.012)
    assert means.std() < 3 * seen[0].ratio_error
    assert brody[0] < np.mean([each.brody for each in seen]) < brody[1]
    assert variance[0] < np.mean([each.number_variance for each in seen]) < variance[1]


def test_spacings_by_hand() -> None:
    assert spacing_ratios(np.array([0.0, 1, 3, 3, 4])) == pytest.approx([0.5, 0, 0])
    # Equal distances: a window of 2 holds 2, whatever the place; unfolding keeps them equal.
    even = unfold(np.linspace(1, 2, 200))[15:-15]
    assert np.diff(even) == pytest.approx(1, abs=1e-3)
    assert number_variance(np.arange(100.0) + 0.01, 2.0) == pytest.approx(0, abs=0.02)
    assert np.isnan(measure_spacings(np.arange(1.0, 60))).all()
    assert np.isnan(measure_spacings(np.full(100, 3.0))).all()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_brody_is_the_maximum_and_finds_its_own_draws(beta: float) -> None:
    """Brody's law is Weibull's of shape β + 1: SciPy fits it, with the scale that makes the mean 1."""
    rng = np.random.default_rng(4)
    drawn = rng.weibull(beta + 1, 4000)
    found, error = fit_brody(drawn)
    assert abs(found - beta) < 4 * error
    assert error == pytest.approx(0.8 * (beta + 1) / 4000**0.5, rel=0.5)
    grid = np.linspace(found - 0.2, found + 0.2, 81)
    unit = drawn / drawn.mean()
    likelihood = [stats.weibull_min.logpdf(unit, b + 1, scale=1 / stats.weibull_min.mean(b + 1)).sum() for b in grid]
    assert grid[int(np.argmax(likelihood))] == pytest.approx(found, abs=0.006)


@pytest.fixture(scope="module")
def powerlaw() -> ModuleType:
    return pytest.importorskip("powerlaw")


DRAWN = {
    "Pareto": lambda rng: 1 + rng.pareto(1.8, 300),
    "lognormal": lambda rng: np.exp(rng.normal(size=300)) + 1,
    "exponential": lambda rng: 1 + rng.exponential(2.0, 300),
}


@pytest.mark.filterwarnings("ignore")  # the package warns of its own internals
@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_ratios_are_those_of_powerlaw(draw: Any, powerlaw: ModuleType) -> None:
    """Its maxima are found by other means: at least as likely ones here, and equal where it has found them."""
    values = draw(np.random.default_rng(5))
    theirs = powerlaw.Fit(values, xmin=1.0, verbose=False)
    found = compare_laws(values, 1.0)
    for law, name in (("exponential", "exponential"), ("lognormal", "lognormal")):
        ratio, p_value = theirs.distribution_compare("power_law", name, normalized_ratio=True)
        assert found[law].ratio == pytest.approx(ratio, abs=0.05), law
        assert found[law].p_value == pytest.approx(p_value, abs=0.03), law
    ratio, p_value = theirs.distribution_compare("power_law", "truncated_power_law", nested=True)
    # Of exponential values it stops at α = 1, short of the maximum.
    assert found["truncated"].ratio == pytest.approx(ratio, abs=0.05) or found["truncated"].ratio < ratio < -50
    assert 2 * found["truncated"].p_value == pytest.approx(p_value, abs=0.1)


def test_alpha_up_to_the_largest_is_the_maximum() -> None:
    """By SciPy's Pareto law that is cut off."""
    rng = np.random.default_rng(6)
    values = (1 - rng.uniform(size=400) * (1 - 8.0**-1.5)) ** (-1 / 1.5)
    found = alpha_up_to_largest(values, 1.0)
    grid = np.linspace(1.5, 3.5, 401)
    likelihood = [stats.truncpareto.logpdf(values, alpha - 1, values.max()).sum() for alpha in grid]
    assert found == pytest.approx(grid[int(np.argmax(likelihood))], abs=0.006)
    assert 1 + 1 / np.log(values).mean() > found + 0.2  # what it is without an end
    # Nothing but the end: uniform logarithms have α = 1, growing densities less.
    assert alpha_up_to_largest(np.exp(np.linspace(0, 3, 500)), 1.0) == pytest.approx(1, abs=0.02)
    assert alpha_up_to_largest(np.linspace(1, 9, 500), 1.0) == pytest.approx(0, abs=0.05)


def test_hill_by_hand() -> None:
    values = 2.0 ** np.arange(100)
    assert hill(values, 0.1) == pytest.approx(1 + 10 / (np.arange(1, 11).sum() * np.log(2)))
    assert np.isnan(hill(np.arange(1.0, 20), 0.1))


@pytest.mark.filterwarnings("ignore")
def test_product_of_one_is_that_of_weightwatcher() -> None:
    tool = pytest.importorskip("weightwatcher.RMT_Util")
    rng = np.random.default_rng(7)
    for values in (rng.pareto(1.5, 60) + 0.01, np.linalg.svd(rng.normal(size=(50, 80)), compute_uv=False) ** 2):
        ordered = np.sort(values)
        scaled, _ = tool.rescale_eigenvalues(ordered)
        number, place = tool.detX_constraint(scaled, rescale=False)
        assert product_of_one(values) == (number, pytest.approx(ordered[place]))


def test_power_laws_are_kept_and_others_ruled_out() -> None:
    rng = np.random.default_rng(8)

    def judge(values: np.ndarray) -> tuple[float, float, float]:
        fit = fit_tails(values[None])
        return bootstrap_tail(values, fit.alpha[0], fit.x_min[0], fit.ks_distance[0], draws=99, rng=rng)

    kept = [judge(np.r_[1 + rng.pareto(1.5, 80), rng.uniform(0.2, 1, 40)]) for _ in range(12)]
    assert np.mean([p <= 0.1 for p, _, _ in kept]) <= 0.34
    assert np.mean([p <= 0.5 for p, _, _ in kept]) >= 0.16
    assert np.mean([low <= 2.5 <= high for _, low, high in kept]) >= 0.75
    # Each cluster has half the values of the last, at twice its place: α is near 2, and nothing is smooth.
    clusters = np.concatenate([2.0**place * rng.uniform(1, 1.02, 128 >> place) for place in range(6)])
    assert judge(clusters)[0] <= 0.02


def test_windows_cover_the_matrix_with_squares() -> None:
    matrix = np.arange(4 * 10.0).reshape(4, 10)
    windows = square_windows(matrix)
    assert [window[0, 0] for window in windows] == [0, 3, 6]
    assert {window.shape for window in windows} == {(4, 4)}
    np.testing.assert_array_equal(square_windows(matrix.T)[2], matrix[:, 6:])
    assert len(square_windows(matrix[:, :4])) == 1


def _tails(matrix: np.ndarray) -> dict[str, float]:
    sigma = np.linalg.svd(matrix, compute_uv=False)
    fit = fit_tails(sigma[None] ** 2)
    given = {name: float(getattr(fit, name)[0]) for name in ("alpha", "x_min", "ks_distance")}
    windows = np.asarray(singular_values(square_windows(matrix.astype(np.float32))))
    shuffled = shuffled_spectra([(0, 0)], [(matrix - matrix.mean()).astype(np.float32)])[0]
    shape = matrix.shape[0], matrix.shape[1]
    return tail_metrics(sigma, shape, windows, shuffled, given, draws=99, seed=(0, 0))[0]


def test_large_entries_are_traps_and_a_planted_tail_has_its_weight() -> None:
    rng = np.random.default_rng(9)
    matrix = rng.normal(size=(60, 150))
    plain = _tails(matrix)
    assert plain.keys() == EXTRAS["tails"].keys()
    assert plain["num_traps"] == 0
    assert plain["tail_weight"] == 0
    assert np.isnan(plain["tail_alpha"])
    matrix[3, 7] = 40
    assert _tails(matrix)["num_traps"] == 1
    # A direction shared by entries of usual size is none: shuffled, it is gone.
    shared = rng.normal(size=(60, 150)) + np.outer(np.ones(60), np.ones(150))
    assert _tails(shared)["num_traps"] == 0
    assert _tails(shared)["tail_weight"] == pytest.approx(1 / 60)
    edge = 60**0.5 + 150**0.5
    matrix = rng.normal(size=(60, 150))
    matrix[np.arange(12), np.arange(12)] += 1.5 * edge * (1 + rng.pareto(4.0, 12))
    found = _tails(matrix)
    assert found["tail_weight"] == pytest.approx(12 / 60)
    assert found["tail_alpha"] == pytest.approx(
        1 + 12 / np.log(np.linalg.svd(matrix, compute_uv=False)[:12] ** 2 / edge**2).sum(), rel=0.2
    )


def test_what_all_matrices_together_say() -> None:
    """q-values against SciPy, verdicts and flags by hand."""
    p_values = [1e-9, 0.02, 0.5, np.nan]
    alphas = [(1.5, 3.0, 9.0), (3.2, 4.0, 9.0), (4.5, 4.0, 9.0), (np.nan, 4.0, 9.0)]
    rows = [
        Row(
            number,
            (number, "q", None, "w", 9, 9),
            {
                "alpha": alpha, "alpha_null_low": low, "alpha_null_high": high, "outliers_above": 1.0, "mp_high": 1.0,
                **{f"{name}_{side}_p".lstrip("_"): p for name in ("", "norms") for side in ("largest", "smallest")},
                **({"power_p": 0.05} if number == 1 else {}),
            },
        )
        for number, (p, (alpha, low, high)) in enumerate(zip(p_values, alphas, strict=True))
    ]  # fmt: skip
    found = complete_rows(rows, 9)
    q = [row.values["norms_largest_q"] for row in found]
    assert q == pytest.approx([*stats.false_discovery_control(p_values[:3]), np.nan], nan_ok=True)
    assert [row.words["verdict"] for row in found] == [
        "below 2, heavier than by chance",
        "2 to 4, heavier than by chance",
        "4 to 6, as by chance",
        "",
    ]
    assert [row.words["depth_verdict"] for row in found] == [
        "early: outside 2.5 to 3.5",
        "early: within 2.5 to 3.5",
        "",
        "",
    ]
    assert found[0].words["flags"] == "strongest beyond its norms; weakest beyond its norms"
    assert "no power law" in found[1].words["flags"]
    assert found[2].words["flags"] == "tail as by chance"
    assert complete_rows(rows, None)[0].words["depth_verdict"] == ""
