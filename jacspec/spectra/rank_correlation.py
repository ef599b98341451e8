r"""Whether two quantities of a few models go together, and whether they still do given a third, as their size.

A correlation is that of normal scores, $\Phi^{-1}(r/(n+1))$ of the ranks $r$ (van der Waerden; Boudt, Cornelissen &
Croux 2012): of ranks alone, so that ln changes nothing, and unlike Spearman's of variables whose partial correlation
is zero where both follow the third, however each is scaled, and noise of their own besides. Given a third, the scores
of both are taken less what a straight line in those of the third says. p-values are those of all permutations, or of
draws of them where there are too many; given a third, residuals are permuted and fitted anew (Freedman & Lane 1983).
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jacspec.spectra.significance import LEVEL, SURE

MOST_UNITS = 8
"""Units of which every permutation is taken, 40,320; of more a number is drawn."""

ROUNDING = 1e-9
"""Correlations that are closer are the same, and squares of residuals that are smaller are none."""

FEWEST_PLAIN, FEWEST_GIVEN = 4, 6
"""Units below which there is no correlation; given a third, below which too little is left of their ranks."""

LEAST_LEFT = 0.1
"""Share of the variance of scores that the third must leave: of less, residuals are few places in which the order is
another, often the same of both, and p is too small (docs/chance.md)."""


class Correlation(NamedTuple):
    """A rank correlation, its interval of 95 %, a two-sided p-value and the smallest that was possible; NaN if missing.

    `reason` says why something is missing.
    """

    value: float
    low: float
    high: float
    p_value: float
    least_p: float
    reason: str


def correlate(
    x: Float[np.ndarray, " unit"],
    y: Float[np.ndarray, " unit"],
    given: Float[np.ndarray, " unit"] | None = None,
    *,
    draws: int,
    seed: int,
) -> Correlation:
    r"""Correlate the normal scores of two quantities, those of a third held fixed where it is given.

    The interval is Fisher's, $\tanh(\tanh^{-1} r \pm z/\sqrt{n - 3 - g})$ with $g$ quantities given. A p-value that
    could not be below `SURE` whatever the order is missing, and with it the interval.

    **Arguments:** values without NaN; `draws`, of permutations of more than `MOST_UNITS` units.
    """
    n, fewest = len(x), FEWEST_PLAIN if given is None else FEWEST_GIVEN
    if n < fewest:
        return _missing(f"{n} models, fewer than {fewest}")
    fixed = _basis(n, given)
    scores = [normal_scores(values) for values in (x, y)]
    if min(np.ptp(each) for each in scores) < ROUNDING:
        return _missing("all models have the same value")
    left, right = (_residuals(each, fixed) for each in scores)
    if given is not None and min(_left(*pair) for pair in zip(scores, (left, right), strict=True)) < LEAST_LEFT:
        return _missing("its order, or that of quality, is almost that of the sizes")
    value = float(_unit(left) @ _unit(right))
    drawn = _unit(_residuals(right[_permutations(n, draws, seed)], fixed)) @ _unit(left)
    sizes, extra = np.abs(drawn), int(n > MOST_UNITS)  # a draw counts the order that was seen as one of its own

    def share(least: float) -> float:
        return float((extra + (sizes >= least - ROUNDING).sum()) / (extra + sizes.size))

    p_value, least_p = share(abs(value)), share(max(abs(value), float(sizes.max())))
    if least_p >= SURE:
        reason = f"of {n} models no order has a p below {least_p:.2g}"
        return Correlation(value, math.nan, math.nan, math.nan, least_p, reason)
    low, high = _interval(value, n - 3 - int(given is not None))
    return Correlation(value, low, high, p_value, least_p, "" if low < high else "perfect order: no interval")


def best_by_chance(units: int, tests: int) -> float:
    """Return what the largest of so many independent correlations that are chance exceeds in half of cases.

    By Student's t, which normal scores follow closely; of tests that go together it is less.
    """
    from scipy.special import stdtrit

    p_value = 1 - 0.5 ** (1 / tests)
    t = float(stdtrit(units - 2, 1 - p_value / 2))
    return t / math.sqrt(t**2 + units - 2)


def normal_scores(values: Float[np.ndarray, " unit"]) -> Float[np.ndarray, " unit"]:
    """Return the normal quantiles of ranks, ties sharing their mean rank."""
    from scipy.special import ndtri

    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return np.asarray(ndtri(ranks / (len(values) + 1)))


def residual_scores(
    values: Float[np.ndarray, " unit"], given: Float[np.ndarray, " unit"]
) -> Float[np.ndarray, " unit"]:
    """Return the normal scores of values less what a straight line in those of `given` says."""
    return _residuals(normal_scores(values), _basis(len(values), given))


def _basis(n: int, given: Float[np.ndarray, " unit"] | None) -> Float[np.ndarray, "unit fixed"]:
    """Return an orthonormal basis of what is held fixed: the mean, and the scores of what is given."""
    columns = [np.ones(n)] if given is None else [np.ones(n), normal_scores(given)]
    basis, triangle = np.linalg.qr(np.stack(columns, axis=1))
    return basis[:, np.abs(np.diag(triangle)) > ROUNDING]


def _residuals(
    values: Float[np.ndarray, "... unit"], fixed: Float[np.ndarray, "unit fixed"]
) -> Float[np.ndarray, "... unit"]:
    return values - (values @ fixed) @ fixed.T


def _left(scores: Float[np.ndarray, " unit"], residuals: Float[np.ndarray, " unit"]) -> float:
    """Return the share of the variance of scores that is left in residuals."""
    return float(residuals @ residuals / np.square(scores - scores.mean()).sum())


def _unit(values: Float[np.ndarray, "... unit"]) -> Float[np.ndarray, "... unit"]:
    """Scale to length 1; what has none stays zero."""
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.where(length > ROUNDING, values / np.maximum(length, ROUNDING), 0.0)


@functools.lru_cache(maxsize=4)
def _permutations(n: int, draws: int, seed: int) -> Int[np.ndarray, "order unit"]:
    if n <= MOST_UNITS:
        return np.array(list(itertools.permutations(range(n))))
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (draws, 1)), axis=1)


def _interval(value: float, freedom: int) -> tuple[float, float]:
    """Return Fisher's interval of a correlation; NaN where it is 1 or nothing is left to judge by."""
    from scipy.special import ndtri

    if freedom < 1 or abs(value) > 1 - ROUNDING:
        return math.nan, math.nan
    reach = float(ndtri((1 + LEVEL) / 2)) / math.sqrt(freedom)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def _missing(reason: str) -> Correlation:
    return Correlation(math.nan, math.nan, math.nan, math.nan, math.nan, reason)
