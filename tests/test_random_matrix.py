"""Chance and tails: Marchenko–Pastur, Tracy–Widom, p-values that are calibrated, power laws."""

import numpy as np
import pytest
from scipy.integrate import quad

from jacspec.spectra import random_matrix
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import (
    bulk_distance,
    fit_bulk,
    largest_p_value,
    marchenko_pastur_cdf,
    marchenko_pastur_density,
    marchenko_pastur_edges,
    smallest_p_value,
    tracy_widom_sf,
)
from jacspec.spectra.weight_metrics import compute_weight_metrics, gaussian_spectrum
from jacspec.studies.weights import WEIGHT_METRICS

SHAPES = [(60, 60), (50, 100), (300, 40), (64, 768), (768, 3072)]


@pytest.mark.parametrize("shape", SHAPES)
def test_law_of_the_bulk(shape: tuple[int, int]) -> None:
    """The share is the integral of the density, all of it lies between the edges, E λ = N s² whatever the shape."""
    low, high = marchenko_pastur_edges(shape, 2.0)

    def density(x: float) -> float:
        return float(marchenko_pastur_density(np.array([x]), shape, 2.0)[0])

    for x in np.linspace(low, high, 5)[1:]:
        share = float(marchenko_pastur_cdf(np.array([x]), shape, 2.0)[0])
        assert share == pytest.approx(quad(density, low, x, limit=200)[0], abs=1e-7)
    second = quad(lambda x: x * x * density(x), low, high, limit=200)[0]
    assert second == pytest.approx(2.0 * max(shape), rel=1e-7)
    assert marchenko_pastur_cdf(np.array([low * 0.5, high * 1.5]), shape, 2.0) == pytest.approx([0, 1], abs=1e-9)


def test_square_law_is_continuous_at_zero() -> None:
    """At equal sides σ has the density of a quarter circle, 2 / (π s √N) at zero."""
    density = marchenko_pastur_density(np.array([0.0, 1e-6]), (9, 9), 4.0)
    assert density == pytest.approx([1 / (3 * np.pi)] * 2, rel=1e-9)


def test_edges_by_hand() -> None:
    assert marchenko_pastur_edges((64, 768), 1.0) == pytest.approx((768**0.5 - 8, 768**0.5 + 8))
    assert marchenko_pastur_edges((768, 64), 4.0) == pytest.approx((2 * (768**0.5 - 8), 2 * (768**0.5 + 8)))


def test_oracle_sees_sides_mistaken() -> None:
    """A law with the variance of the other side would miss E λ = N s² by the ratio of the sides."""
    low, high = marchenko_pastur_edges((64, 768), 1.0)
    wrong = quad(
        lambda x: x * x * float(marchenko_pastur_density(np.array([x]), (64, 768), 1.0)[0]) * 64 / 768, low, high
    )[0]
    assert wrong != pytest.approx(768, rel=0.5)


def test_tracy_widom_has_its_published_moments() -> None:
    """Mean and variance as Bornemann 2010 gives them, and the quantiles of Johnstone's tables."""
    above = quad(tracy_widom_sf, 0, 12, limit=200, epsabs=1e-10)[0]
    below = quad(lambda x: 1 - tracy_widom_sf(x), -10, 0, limit=200, epsabs=1e-10)[0]
    mean = above - below
    second = 2 * (
        quad(lambda x: x * tracy_widom_sf(x), 0, 12, limit=200, epsabs=1e-10)[0]
        - quad(lambda x: x * (1 - tracy_widom_sf(x)), -10, 0, limit=200, epsabs=1e-10)[0]
    )
    assert mean == pytest.approx(-1.2065335745820, abs=1e-6)
    assert second - mean**2 == pytest.approx(1.607781034581, abs=1e-6)
    assert [tracy_widom_sf(x) for x in (0.4501, 0.9793, 2.0234)] == pytest.approx([0.10, 0.05, 0.01], abs=2e-5)
    assert 0 < tracy_widom_sf(20.0) < tracy_widom_sf(10.0) < 1e-9
    assert tracy_widom_sf(float("inf")) == 0
    assert np.isnan(tracy_widom_sf(float("nan")))


def test_chances_of_tracy_widom_have_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.array([-8.0, -4, -1, 0, 2, 8, 20, 60, 100])
    found = [tracy_widom_sf(x) for x in places]
    monkeypatch.setattr(random_matrix, "NODES", 96)
    more = [tracy_widom_sf(x) for x in places]
    assert found == pytest.approx(more, rel=1e-9, abs=0)
    monkeypatch.setattr(random_matrix, "NODES", 24)
    assert [tracy_widom_sf(x) for x in places] != pytest.approx(more, rel=1e-9, abs=0)


@pytest.mark.parametrize("shape", [(30, 12), (12, 12), (5, 20), (1, 7)])
def test_gaussian_null_is_drawn_as_a_whole_matrix_is(shape: tuple[int, int]) -> None:
    """Mean and spread of every σ over 1500 draws, beside NumPy's SVD of matrices with all their entries."""
    draws = 1500
    rng = np.random.default_rng(5)
    found = np.stack([gaussian_spectrum(shape, seed) for seed in range(draws)])
    assert (np.diff(found, axis=1) <= 0).all()
    assert (found >= 0).all()

    def apart(whole: tuple[int, int]) -> float:
        """Return the largest difference of moments in standard errors."""
        dense = np.linalg.svd(rng.normal(size=(draws, *whole)), compute_uv=False)
        moments = [np.concatenate([each, each**2], axis=1) for each in (found, dense)]
        errors = np.sqrt(sum(each.var(axis=0) for each in moments) / draws)
        return float(np.abs((moments[0].mean(axis=0) - moments[1].mean(axis=0)) / errors).max())

    assert apart(shape) < 4.5
    assert apart((min(shape), max(shape) + 1)) > 4.5


@pytest.mark.parametrize("shape", [(64, 64), (70, 84), (48, 300), (120, 60)])
def test_false_positives_are_as_many_as_stated(shape: tuple[int, int]) -> None:
    """Gaussian matrices, variance estimated from the entries: at 1 % and 5 %, within the binomial 99.9 % interval.

    Without the narrowing for the estimate, 3 % instead of 5 % were seen at 64 × 64.
    """
    rng = np.random.default_rng(sum(shape))
    draws = 1200
    sigma = np.empty((draws, 2))
    for row in sigma:
        matrix = rng.normal(scale=3.0, size=shape).astype(np.float32)
        row[:] = np.linalg.svd(matrix, compute_uv=False)[[0, -1]] / matrix.std()
    for column, p_value in enumerate((largest_p_value, smallest_p_value)):
        # One curve of p-values serves all draws: they depend on σ over the spread of the entries alone.
        grid = np.linspace(sigma[:, column].min(), sigma[:, column].max(), 200)
        curve = np.array([p_value(float(x), shape, 1.0) for x in grid])
        rising = np.interp(sigma[:, column], grid, curve)
        for level in (0.01, 0.05):
            bound = 3.3 * np.sqrt(level * (1 - level) / draws)
            assert abs(float(np.mean(rising < level)) - level) < bound
        # The oracle can fail: values of another variance are not calibrated.
        wrong = [p_value(float(x) * (1.05, 0.7)[column], shape, 1.0) for x in grid]
        assert float(np.mean(np.interp(sigma[:, column], grid, wrong) < 0.05)) > 0.05 + bound


def test_where_no_law_is_known_there_is_no_value() -> None:
    assert np.isnan(smallest_p_value(1.0, (60, 66), 1.0))
    assert np.isnan(largest_p_value(1.0, (60, 66), 0.0))
    assert smallest_p_value(0.0, (60, 90), 1.0) == 0
    assert smallest_p_value(0.0, (60, 60), 1.0) == 0


@pytest.mark.parametrize("shape", [(100, 100), (100, 300), (64, 768)])
def test_bulk_is_fitted_without_its_outliers(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(scale=0.7, size=shape)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    assert fit_bulk(sigma, shape) == pytest.approx(0.49, rel=0.03)
    assert bulk_distance(sigma, shape, fit_bulk(sigma, shape)) < 0.05
    spiked = matrix + sum(
        12 * sigma[0] * np.outer(np.linalg.qr(rng.normal(size=(shape[0], 1)))[0], np.eye(shape[1])[i]) for i in range(4)
    )
    sigma = np.linalg.svd(spiked, compute_uv=False)
    assert fit_bulk(sigma, shape) == pytest.approx(0.49, rel=0.06)
    assert spiked.var() > 2 * 0.49
    assert np.isnan(fit_bulk(np.zeros(5), (5, 5)))
    assert np.isnan(bulk_distance(np.ones(3), (3, 3), float("nan")))


def _search_by_hand(values: np.ndarray) -> tuple[float, float, float]:
    """The search of Clauset et al. as its paper tells it, one candidate after the other."""
    best = (np.inf, np.nan, np.nan)
    values = np.sort(values)
    for start in values[:-1]:
        tail = values[values >= start]
        alpha = 1 + len(tail) / np.log(tail / start).sum()
        model = 1 - (tail / start) ** (1 - alpha)
        distance = np.abs(model - np.arange(len(tail)) / len(tail)).max()
        best = min(best, (distance, alpha, start))
    return best


def test_tails_equal_a_plain_search() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.pareto(1.5, 200) + 1, np.linalg.svd(rng.normal(size=(200, 300)), compute_uv=False) ** 2]
    found = fit_tails(np.stack(rows))
    for row, values in enumerate(rows):
        distance, alpha, start = _search_by_hand(values)
        assert found.alpha[row] == pytest.approx(alpha, rel=1e-10)
        assert found.ks_distance[row] == pytest.approx(distance, abs=1e-12)
        assert found.x_min[row] == pytest.approx(start, rel=1e-12)
        size = (values >= start).sum()
        assert found.tail_fraction[row] == pytest.approx(size / 200)
        assert found.alpha_sigma[row] == pytest.approx((alpha - 1) / size**0.5)


def test_exponent_of_a_pareto_sample_is_found() -> None:
    values = np.random.default_rng(2).pareto(1.5, (8, 2000)) + 1
    found = fit_tails(values)
    assert (np.abs(found.alpha - 2.5) < 4 * found.alpha_sigma).all()
    assert np.abs(found.alpha - 2.0).min() > 0.2  # the oracle can fail


def test_missing_values_are_left_out_and_too_few_are_no_tail() -> None:
    values = np.random.default_rng(3).pareto(2.0, 100) + 1
    padded = np.r_[values, np.nan, 0.0, -1.0]
    whole, padded_fit = fit_tails(values[None]), fit_tails(padded[None])
    assert padded_fit.alpha[0] == pytest.approx(whole.alpha[0], rel=1e-12)
    for row in (np.full(100, np.nan), np.ones(100), np.r_[np.arange(1.0, 6), np.full(95, np.nan)]):
        found = fit_tails(row[None])
        assert not found.valid[0]
        assert np.isnan(found.alpha[0])


@pytest.mark.filterwarnings("ignore")  # the package warns of its own internals
def test_tails_equal_the_package_powerlaw() -> None:
    """Where α is within the package's own range, which ends at 3: beyond it takes another x_min."""
    powerlaw = pytest.importorskip("powerlaw")
    rng = np.random.default_rng(4)
    for values in (rng.pareto(1.5, 300) + 1, rng.pareto(0.8, 400) + 1, rng.pareto(1.2, 150) * 1e-4):
        theirs = powerlaw.Fit(values, verbose=False)
        ours = fit_tails(values[None])
        assert ours.x_min[0] == pytest.approx(theirs.xmin, rel=1e-9)
        assert ours.alpha[0] == pytest.approx(theirs.alpha, rel=1e-3)
        assert ours.ks_distance[0] == pytest.approx(theirs.D, abs=1e-6)


def test_weight_metrics_have_the_names_of_their_values() -> None:
    """Each value beside its own oracle, whatever the order of the table that explains them."""
    shape = (12, 20)
    sigma = np.linalg.svd(np.random.default_rng(3).normal(size=(1, *shape)), compute_uv=False)
    found = {name: values[0] for name, values in compute_weight_metrics(sigma, shape, np.ones(1), None).items()}
    assert found.keys() == WEIGHT_METRICS.keys()
    assert (found["mp_low"], found["mp_high"]) == pytest.approx((20**0.5 - 12**0.5, 20**0.5 + 12**0.5))
    assert found["bulk_high"] / found["bulk_low"] == pytest.approx(found["mp_high"] / found["mp_low"])
    assert found["bulk_share"] == pytest.approx((found["bulk_low"] / found["mp_low"]) ** 2)
    assert found["bulk_distance"] == pytest.approx(bulk_distance(sigma[0], shape, found["bulk_share"]))
    assert found["outliers_above"] == np.sum(sigma > found["bulk_high"])
    assert found["outliers_below"] == np.sum(sigma < found["bulk_low"])
    assert found["largest_p"] == pytest.approx(largest_p_value(float(sigma[0, 0]), shape, 1.0))
    assert found["smallest_p"] == pytest.approx(smallest_p_value(float(sigma[0, -1]), shape, 1.0))
