r"""Differences between runs: how large, how sure, and how large a difference within one run already is.

A difference is that of means over units (samples, heads). With fewer than 30 units its interval and its p-value are
Student's; with more they come from a bootstrap over units
(Efron & Tibshirani 1993), drawn together for both runs where they are of the same units (paired), else apart. Beside
it stands the noise floor of a layer. Of pairs it is what the mean difference comes to when the sign of each pair's is
drawn at random, exceeded by 5 % of draws: which run is which would then not matter. Of others it is what the means of
two random halves of one run differ by, exceeded by 5 % of splits. A half has half the units, so that this floor is √2
times as wide as the noise of two whole runs.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jacspec.errors import JacspecError

LEVEL = 0.95
SURE = 0.05
"""The q-value below which a difference counts as more than noise, where it is beyond the noise floor too."""

FEWEST = 6
"""Units below which nothing is said of how sure a difference is: of 5 pairs all signs agree in 1 of 16 cases."""

SMALL = 30
"""Units below which Student's t takes the bootstrap's place: its intervals of 95 % covered 0.89 to 0.92 of normal
values of 8 to 20 units in pairs, and p ≤ 1 % came in 3 to 5 %."""


class Differences(NamedTuple):
    """Of each metric, mean(right) − mean(left), its interval of 95 %, and a two-sided p-value; NaN where none is."""

    difference: Float[np.ndarray, " metric"]
    low: Float[np.ndarray, " metric"]
    high: Float[np.ndarray, " metric"]
    p_value: Float[np.ndarray, " metric"]


def compare_means(
    left: Float[np.ndarray, "unit metric"],
    right: Float[np.ndarray, "other metric"],
    *,
    paired: bool,
    draws: int,
    seed: int,
) -> Differences:
    """Compare the means of two runs over their units; missing values (NaN) are left out.

    The interval is the bootstrap's percentiles, the p-value twice the smaller share of draws on one side of zero,
    counting one draw more (Davison & Hinkley 1997, 4.2.3), so that none is below 2/(draws + 1). Below `SMALL` units
    both are Student's, unpaired Welch's.

    **Arguments:** `paired`, whether row i of both is the same unit; `draws`, of the bootstrap.

    **Raises:** `ValueError` where paired runs differ in their number of units.
    """
    if paired:
        if left.shape != right.shape:
            raise ValueError(f"paired values differ in shape: {left.shape} and {right.shape}")
        change = right - left
        resampled = _resampled_means(change, draws, seed)
        observed = _means(change)
        units = np.isfinite(change).sum(axis=0)
        spread, freedom = _standard_error(change)
    else:
        # Seeds apart: the same weights would tie units that have nothing to do with each other.
        resampled = _resampled_means(right, draws, 2 * seed + 1) - _resampled_means(left, draws, 2 * seed)
        observed = _means(right) - _means(left)
        units = np.minimum(*(np.isfinite(values).sum(axis=0) for values in (left, right)))
        (first, its), (second, others) = map(_standard_error, (left, right))
        spread = np.hypot(first, second)
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = spread**4 / (first**4 / its + second**4 / others)
    known = units >= FEWEST
    tail = (1 - LEVEL) / 2
    low, high = np.full((2, observed.size), np.nan)
    p_value = np.full(observed.size, np.nan)
    if known.any():
        drawn = resampled[:, known]
        quantile = np.nanquantile if np.isnan(drawn).any() else np.quantile  # the first takes four times as long
        low[known], high[known] = quantile(drawn, [tail, 1 - tail], axis=0)
        sides = np.minimum((resampled <= 0).sum(axis=0), (resampled >= 0).sum(axis=0))
        p_value[known] = np.minimum(2 * (sides + 1) / (draws + 1), 1)[known]
        # Where all units differ by the same there is no spread to judge by: the bootstrap says so.
        few = known & (units < SMALL) & (spread > 0)
        if few.any():
            from scipy.special import stdtr, stdtrit

            reach = stdtrit(freedom[few], 1 - tail) * spread[few]
            low[few], high[few] = observed[few] - reach, observed[few] + reach
            p_value[few] = 2 * stdtr(freedom[few], -np.abs(observed[few]) / spread[few])
    return Differences(observed, low, high, p_value)


def noise_floor(
    left: Float[np.ndarray, "unit metric"],
    right: Float[np.ndarray, "other metric"],
    *,
    paired: bool,
    draws: int,
    seed: int,
) -> Float[np.ndarray, " metric"]:
    """Compute the noise floor of each metric, by signs of pairs or else the larger of both runs' split halves."""
    if paired:
        return sign_floor(right - left, draws=draws, seed=seed)
    return np.fmax(*(split_half_floor(values, draws=draws, seed=seed) for values in (left, right)))


def sign_floor(change: Float[np.ndarray, "unit metric"], *, draws: int, seed: int) -> Float[np.ndarray, " metric"]:
    """Compute what |the mean| of differences of pairs exceeds in 5 % of draws of their signs; NaN below `FEWEST`."""
    there = np.isfinite(change)
    count = there.sum(axis=0)
    signs = 2.0 * np.random.default_rng(seed).integers(0, 2, (draws, len(change))) - 1
    means = np.abs(signs @ np.where(there, change, 0)) / np.maximum(count, 1)
    return np.where(count >= FEWEST, np.quantile(means, LEVEL, axis=0), np.nan)


def split_half_floor(
    values: Float[np.ndarray, "unit metric"], *, draws: int, seed: int
) -> Float[np.ndarray, " metric"]:
    """Compute the noise floor of each metric: |mean of one half − mean of the other|, exceeded by 5 % of random splits.

    NaN below `FEWEST` units, or where a half has no value.
    """
    if len(values) < FEWEST:
        return np.full(values.shape[1], np.nan)
    halves = _halves(len(values), draws, seed)
    means = [_weighted_means(values, weights) for weights in (halves, 1 - halves)]
    return np.quantile(np.abs(means[0] - means[1]), LEVEL, axis=0)


def adjust_for_many(p_values: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """Adjust p-values for the number of tests: the false discovery rate of Benjamini & Hochberg 1995; NaN stays.

    As `scipy.stats.false_discovery_control`; `scipy.stats` alone takes a second of processor time to import.
    """
    adjusted = np.full(p_values.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    falling = known[np.argsort(-p_values[known], kind="stable")]
    share = known.size / np.arange(known.size, 0, -1)
    adjusted[falling] = np.minimum(np.minimum.accumulate(p_values[falling] * share), 1)
    return adjusted


def _standard_error(values: Float[np.ndarray, "unit metric"]) -> tuple[np.ndarray, np.ndarray]:
    """Compute the standard error of each mean, missing values left out, and its degrees of freedom."""
    there = np.isfinite(values)
    units = np.maximum(there.sum(axis=0), 2)
    off = np.where(there, values - _means(values), 0)
    return np.sqrt((off**2).sum(axis=0) / (units - 1) / units), units - 1


def _means(values: Float[np.ndarray, "unit metric"]) -> Float[np.ndarray, " metric"]:
    return _weighted_means(values, np.ones((1, len(values))))[0]


def _resampled_means(values: Float[np.ndarray, "unit metric"], draws: int, seed: int) -> np.ndarray:
    return _weighted_means(values, _bootstrap_weights(len(values), draws, seed))


def _weighted_means(
    values: Float[np.ndarray, "unit metric"], weights: Float[np.ndarray, "draw unit"] | Int[np.ndarray, "draw unit"]
) -> Float[np.ndarray, "draw metric"]:
    """Average the rows by each row of weights; NaN where no value has weight."""
    there = np.isfinite(values)
    # Far from zero the sums would lose digits.
    centre = np.where(there.any(axis=0), np.where(there, values, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return centre + (weights @ np.where(there, values - centre, 0)) / (weights @ there.astype(np.float64))


@functools.lru_cache(maxsize=8)
def _bootstrap_weights(units: int, draws: int, seed: int) -> Int[np.ndarray, "draw unit"]:
    """Draw how often each unit is in each sample with replacement; the same for all layers of a run."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=draws)


@functools.lru_cache(maxsize=8)
def _halves(units: int, draws: int, seed: int) -> Float[np.ndarray, "draw unit"]:
    """Draw halves of the units: 1 inside, 0 outside."""
    order = np.random.default_rng(seed).random((draws, units)).argsort(axis=1)
    return (order < units // 2).astype(np.float64)


def check_draws(draws: int, key: str) -> None:
    """Refuse a bootstrap that says nothing."""
    if draws < 100:
        raise JacspecError(f"{key}={draws} is too few for intervals. Type {key}=N with N of 100 or more.")
