r"""Differences between runs: how large, how sure, and how large a difference within one run already is.

A difference is that of means over units (samples, heads). Its interval and its p-value are Student's, of the
differences of pairs where both runs have the same units, else Welch's: the percentiles of a bootstrap over units
covered less at every number of units up to 400, of lognormal values 0.914 of 30 pairs in place of 0.961 and 0.939 of
400 in place of 0.949 (4,000 draws). Beside it stands the noise floor of a layer. Of pairs it is what the mean
difference comes to when the sign of each pair's is drawn at random, exceeded by 5 % of draws: which run is which
would then not matter. Of others it is what the means of two random halves of one run differ by, exceeded by 5 % of
splits. A half has half the units, so that this floor is √2 times as wide as the noise of two whole runs.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.errors import JacspecError

LEVEL = 0.95
SURE = 0.05
"""The q-value below which a difference counts as more than noise, where it is beyond the noise floor too."""

FEWEST = 6
"""Units below which nothing is said of how sure a difference is: of 5 pairs all signs agree in 1 of 16 cases."""


class Differences(NamedTuple):
    """Of each metric, mean(right) − mean(left), its interval of 95 %, and a two-sided p-value; NaN where none is."""

    difference: Float[np.ndarray, " metric"]
    low: Float[np.ndarray, " metric"]
    high: Float[np.ndarray, " metric"]
    p_value: Float[np.ndarray, " metric"]


def compare_means(
    left: Float[np.ndarray, "unit metric"], right: Float[np.ndarray, "other metric"], *, paired: bool
) -> Differences:
    r"""Compare the means of two runs over their units; missing values (NaN) are left out.

    Student's t of the differences of pairs, unpaired Welch's with $s^4 / (s_1^4/f_1 + s_2^4/f_2)$ degrees of freedom.
    Where n units all differ by the same there is no spread to judge by: p is that of n equal signs, $2^{1-n}$.

    **Arguments:** `paired`, whether row i of both is the same unit.

    **Raises:** `ValueError` where paired runs differ in their number of units.
    """
    from scipy.special import stdtr, stdtrit

    if paired:
        if left.shape != right.shape:
            raise ValueError(f"paired values differ in shape: {left.shape} and {right.shape}")
        change = right - left
        observed = _means(change)
        units = np.isfinite(change).sum(axis=0)
        spread, freedom = _standard_error(change)
    else:
        observed = _means(right) - _means(left)
        units = np.minimum(*(np.isfinite(values).sum(axis=0) for values in (left, right)))
        (first, its), (second, others) = map(_standard_error, (left, right))
        spread = np.hypot(first, second)
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = np.where(spread > 0, spread**4 / (first**4 / its + second**4 / others), its + others)
    with np.errstate(invalid="ignore", divide="ignore"):
        p_value = 2 * stdtr(freedom, -np.abs(observed) / spread)
    p_value = np.where(spread > 0, p_value, np.where(observed == 0, 1.0, 0.5 ** (units - 1.0)))
    reach = stdtrit(freedom, (1 + LEVEL) / 2) * spread
    found = (np.where(units >= FEWEST, each, np.nan) for each in (observed - reach, observed + reach, p_value))
    return Differences(observed, *found)


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


def _weighted_means(
    values: Float[np.ndarray, "unit metric"], weights: Float[np.ndarray, "draw unit"]
) -> Float[np.ndarray, "draw metric"]:
    """Average the rows by each row of weights; NaN where no value has weight."""
    there = np.isfinite(values)
    # Far from zero the sums would lose digits.
    centre = np.where(there.any(axis=0), np.where(there, values, 0).sum(axis=0) / np.maximum(there.sum(axis=0), 1), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return centre + (weights @ np.where(there, values - centre, 0)) / (weights @ there.astype(np.float64))


@functools.lru_cache(maxsize=8)
def _halves(units: int, draws: int, seed: int) -> Float[np.ndarray, "draw unit"]:
    """Draw halves of the units: 1 inside, 0 outside."""
    order = np.random.default_rng(seed).random((draws, units)).argsort(axis=1)
    return (order < units // 2).astype(np.float64)


def check_draws(draws: int, key: str) -> None:
    """Refuse a noise floor that says nothing."""
    if draws < 100:
        raise JacspecError(f"{key}={draws} is too few for a noise floor. Type {key}=N with N of 100 or more.")
