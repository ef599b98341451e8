"""Cuts of profiles beside all cuts tried one by one; planted steps are found, drifts are not called steps."""

import itertools

import numpy as np
import pytest
from scipy import stats

from jacspec.spectra import change_points
from jacspec.spectra.change_points import best_cut, find_phases, lag_one, red_noise


def try_all(profile: np.ndarray, segments: int) -> tuple[tuple[int, ...], float]:
    """Try every cut; return the one that leaves the least, and the share that it explains."""

    def left(starts: tuple[int, ...]) -> float:
        return sum(float(np.var(part) * len(part)) for part in np.split(profile, starts))

    best = min(itertools.combinations(range(1, len(profile)), segments - 1), key=left)
    return best, 1 - left(best) / left(())


@pytest.mark.parametrize("segments", [2, 3, 4])
def test_best_cut_is_the_best_of_all(segments: int) -> None:
    profiles = np.random.default_rng(segments).normal(5, 1, (6, 9))
    found = best_cut(profiles, segments)
    for row, starts, explained in zip(profiles, found.starts, found.explained, strict=True):
        best, share = try_all(row, segments)
        assert tuple(starts) == best
        np.testing.assert_allclose(explained, share, rtol=1e-9)


def test_constant_profile_has_nothing_to_explain() -> None:
    assert best_cut(np.full((1, 8), 2.0), 3).explained[0] == 0


def test_planted_steps_are_found_with_their_interval() -> None:
    rng = np.random.default_rng(0)
    profile = np.repeat([1.0, 0.0, 0.6], [4, 14, 6])
    found = find_phases(profile[:, None] + rng.normal(0, 0.2, (24, 50)), 3, seed=0)
    assert found.starts == [4, 18]
    assert found.low == found.high == [4, 18]
    assert max(found.p_order, found.p_red_noise) <= 0.01
    vague = find_phases(profile[:, None] + rng.normal(0, 3, (24, 50)), 3, seed=0)
    assert vague.low != vague.high


def test_a_slope_is_no_phases_though_any_order_is_beaten() -> None:
    slope = np.linspace(0, 1, 24)[:, None] + np.random.default_rng(1).normal(0, 0.02, (24, 10))
    found = find_phases(slope, 3, seed=0)
    assert found.explained > 0.8
    assert found.p_order < 0.01
    assert found.p_red_noise > 0.05


@pytest.mark.parametrize("phi", [0.0, 0.8])
def test_drifts_are_called_phases_no_more_often_than_at_the_level(phi: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_points, "DRAWS", 99)
    monkeypatch.setattr(change_points, "RESAMPLINGS", 2)
    drawn = red_noise(np.random.default_rng(2), phi, (120, 12))
    called = sum(find_phases(row[:, None], 3, seed=place).p_red_noise <= 0.05 for place, row in enumerate(drawn))
    assert called <= stats.binom.ppf(0.999, len(drawn), 0.05)


@pytest.mark.parametrize("phi", [0.5, 0.9])
def test_autocorrelation_is_mended(phi: float) -> None:
    """The plain estimate of short profiles is too small: the mended is nearer on average."""
    drawn = red_noise(np.random.default_rng(3), phi, (4000, 30))
    assert abs(np.corrcoef(drawn[:, 10], drawn[:, 11])[0, 1] - phi) < 0.05
    np.testing.assert_allclose(drawn.var(axis=0), 1 / (1 - phi**2), rtol=0.15)
    mended = np.mean([lag_one(row) for row in drawn])
    assert abs(mended - phi) < 0.07
