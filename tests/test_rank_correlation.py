"""Rank correlations of few models against SciPy and a partial correlation written from its definition, and by draws."""

import functools
import itertools

import numpy as np
import pytest
import scipy.stats

from jacspec.spectra.rank_correlation import best_by_chance, correlate, residual_scores

correlated = functools.partial(correlate, draws=999, seed=0)


def scores(values: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.stats.norm.ppf(scipy.stats.rankdata(values) / (len(values) + 1)))


def few(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    return size + rng.normal(size=n), size + rng.normal(size=n), size


@pytest.mark.parametrize("tied", [False, True])
def test_correlation_of_scores_equals_scipys(tied: bool) -> None:
    x, y, _ = few(7)
    if tied:
        x[2], y[5] = x[4], y[1]
    found = correlated(x, y)
    expected = scipy.stats.pearsonr(scores(x), scores(y))
    interval = expected.confidence_interval(0.95)
    assert found.value == pytest.approx(expected.statistic, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)

    def size(one: np.ndarray) -> float:
        return abs(float(scipy.stats.pearsonr(one, scores(y)).statistic))

    exact = scipy.stats.permutation_test(
        (scores(x),), size, permutation_type="pairings", alternative="greater", n_resamples=np.inf
    )
    assert found.p_value == pytest.approx(exact.pvalue, rel=1e-9)
    assert found.value != pytest.approx(scipy.stats.pearsonr(x, y).statistic, rel=1e-3), "of values, not of ranks"


def partial_by_numpy(
    x: np.ndarray, y: np.ndarray, size: np.ndarray, *, refit: bool = True, ranked: bool = True
) -> tuple[float, float]:
    """Freedman and Lane's test over all orders, by least squares: permute the residuals of y, and fit them again."""
    left, right, given = (scores(each) if ranked else each for each in (x, y, size))

    def rest(values: np.ndarray) -> np.ndarray:
        design = np.column_stack([np.ones(len(values)), given])
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    fitted = rest(left)
    seen = float(np.corrcoef(fitted, rest(right))[0, 1])
    drawn = [rest(right)[list(order)] for order in itertools.permutations(range(len(y)))]
    found = np.array([np.corrcoef(fitted, rest(each) if refit else each)[0, 1] for each in drawn])
    return seen, float((np.abs(found) >= abs(seen) - 1e-9).mean())


def test_partial_correlation_equals_its_definition() -> None:
    x, y, size = few(6)
    found = correlated(x, y, size)
    assert (found.value, found.p_value) == pytest.approx(partial_by_numpy(x, y, size), rel=1e-9)
    # On residuals r is that of the three pairwise correlations (Yule 1907).
    xy, xz, yz = (np.corrcoef(scores(a), scores(b))[0, 1] for a, b in ((x, y), (x, size), (y, size)))
    assert found.value == pytest.approx((xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5, rel=1e-9)
    reach = scipy.stats.norm.ppf(0.975) / np.sqrt(6 - 4)
    assert found.low == pytest.approx(np.tanh(np.arctanh(found.value) - reach), rel=1e-9)
    assert found.p_value != pytest.approx(partial_by_numpy(x, y, size, refit=False)[1], rel=1e-3)
    assert found.value != pytest.approx(partial_by_numpy(x, y, size, ranked=False)[0], rel=1e-3)
    design = np.column_stack([np.ones(6), scores(size)])
    expected = scores(x) - design @ np.linalg.lstsq(design, scores(x), rcond=None)[0]
    np.testing.assert_allclose(residual_scores(x, size), expected, atol=1e-12)


def test_only_the_order_counts() -> None:
    x, y, size = few(9)
    found = correlated(x, y, size)
    assert correlated(np.exp(x), y**3, 1e6 * np.exp(size)) == found
    assert correlated(-x, y, size).value == pytest.approx(-found.value, rel=1e-9)


def test_few_models_tell_nothing() -> None:
    x, y, size = few(4)
    assert correlated(x[:3], y[:3]).reason == "3 models, fewer than 4"
    four = correlated(x, y)
    assert np.isfinite(four.value)
    assert four.least_p == pytest.approx(2 / 24)
    assert np.isnan([four.p_value, four.low, four.high]).all()
    assert four.reason == "of 4 models no order has a p below 0.083"
    x, y, size = few(5)
    assert correlated(x, y).least_p == pytest.approx(2 / 120)
    assert correlated(x, y, size).reason == "5 models, fewer than 6"
    perfect = correlated(x, x)
    assert (perfect.p_value, perfect.reason) == (pytest.approx(2 / 120), "perfect order: no interval")
    assert correlated(np.ones(7), few(7)[1]).reason == "all models have the same value"
    assert correlated(few(7)[2], few(7)[1], few(7)[2] ** 3).reason.startswith("its order, or that of quality")


@pytest.mark.parametrize("n", [7, 12])
def test_p_values_are_uniform_and_a_confounder_does_not_pass(n: int) -> None:
    """What follows size alone goes with quality, and given size does not; what is beyond size does, with power."""
    rng = np.random.default_rng(n)
    rejected = dict.fromkeys(("null", "confounded", "confounded, given size", "beyond size"), 0)
    repeats = 300
    for _ in range(repeats):
        size, own, other, beyond = rng.normal(size=(4, n))
        rejected["null"] += correlated(own, other).p_value <= 0.05
        follows, quality = 2 * size + own, 2 * size + other
        rejected["confounded"] += correlated(follows, quality).p_value <= 0.05
        rejected["confounded, given size"] += correlated(follows, quality, size).p_value <= 0.05
        linked = correlated(size + 2 * beyond + 0.3 * own, size + 2 * beyond + 0.3 * other, size)
        rejected["beyond size"] += linked.p_value <= 0.05
    share = {name: count / repeats for name, count in rejected.items()}
    assert 0.02 <= share["null"] <= 0.08
    assert share["confounded"] > 0.4
    assert share["confounded, given size"] <= 0.1
    assert share["beyond size"] > 0.6


def test_best_of_many_by_chance() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 20, 2, 8))
    values -= values.mean(axis=-1, keepdims=True)
    values /= np.linalg.norm(values, axis=-1, keepdims=True)
    drawn = np.abs((values[:, :, 0] * values[:, :, 1]).sum(axis=-1)).max(axis=-1)
    assert best_by_chance(8, 20) == pytest.approx(np.median(drawn), abs=0.02)
    assert best_by_chance(8, 1) < 0.5 < best_by_chance(8, 20)
