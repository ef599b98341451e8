"""Two-NN on manifolds whose dimension is known, and its intervals."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist

from jacspec.spectra.intrinsic_dimension import nearest_two, two_nn

RNG = np.random.default_rng(0)
COUNT = 800


def embedded(points: np.ndarray, n: int = 12, seed: int = 0) -> np.ndarray:
    """Put points into more dimensions, turned at random and far from the origin."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0][: points.shape[1]]
    return points @ basis + 100.0


def _planted() -> dict[str, tuple[np.ndarray, float]]:
    turn, height = 3 * np.pi * (0.5 + np.sqrt(RNG.random(COUNT))), RNG.random(COUNT)
    ball = RNG.normal(size=(COUNT, 3))
    angle, other = 2 * np.pi * RNG.random((2, COUNT))
    return {
        "curve": (np.stack([np.cos(angle), np.sin(angle), np.cos(3 * angle)], axis=1), 1),
        "sphere": (ball / np.linalg.norm(ball, axis=1)[:, None], 2),
        "roll": (np.stack([turn * np.cos(turn), turn * np.sin(turn), 20 * height], axis=1), 2),
        "torus": (np.stack([np.cos(angle), np.sin(angle), np.cos(other), np.sin(other)], axis=1), 2),
        "cloud": (RNG.normal(size=(COUNT, 4)), 4),
    }


PLANTED = _planted()


@pytest.mark.parametrize("name", PLANTED)
def test_dimension_is_that_planted(name: str) -> None:
    points, dimension = PLANTED[name]
    found = two_nn(embedded(points))
    assert found.value == pytest.approx(dimension, rel=0.12)
    assert found.low < dimension < found.high
    assert found.points == COUNT
    flat = two_nn(RNG.multivariate_normal(np.zeros(points.shape[1]), np.cov(points.T), COUNT))
    assert (found.high < flat.low) == (name != "cloud"), "curved, and a covariance does not show it"


def test_distances_are_scipys() -> None:
    points = embedded(RNG.normal(size=(700, 5)))
    expected = np.sort(cdist(points, points), axis=1)
    first, second = nearest_two(points)
    np.testing.assert_allclose(first, expected[:, 1], rtol=1e-9)
    np.testing.assert_allclose(second, expected[:, 2], rtol=1e-9)


def test_scale_shift_rotation_and_copies_change_nothing() -> None:
    points = RNG.normal(size=(300, 3))
    found = two_nn(points)
    assert two_nn(1e-3 * embedded(points)).value == pytest.approx(found.value, rel=1e-6)
    assert two_nn(np.concatenate([points, points[:50]])) == found
    assert np.isnan(two_nn(points[:20]).value)
    assert np.isnan(two_nn(np.zeros((300, 3))).value)


def test_intervals_hold_what_they_say() -> None:
    """Independent ratios would be too sure: their intervals miss the dimension of a torus more often than 5 %."""
    missed, naive, repeats = 0, 0, 150
    for _ in range(repeats):
        angles = 2 * np.pi * RNG.random((2, 200))
        found = two_nn(np.concatenate([np.cos(angles), np.sin(angles)]).T)
        missed += not found.low < 2 < found.high
        naive += abs(np.log(found.value / 2)) > 1.96 / 200**0.5
    assert missed <= stats.binom.ppf(0.999, repeats, 0.05)
    assert naive > 1.5 * missed
