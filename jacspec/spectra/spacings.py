r"""Spacings of neighbouring singular values: whether they repel one another, as those of random matrices do.

Singular values of a matrix of independent entries repel as the eigenvalues of the Gaussian orthogonal ensemble (GOE)
do; values that know nothing of one another (Poisson) do not. Two ways to say it:

- the ratio $\tilde r = \min(s_i, s_{i+1}) / \max(s_i, s_{i+1})$ of neighbouring spacings, whose mean is 0.5307 of the
  GOE and $2 \ln 2 - 1$ = 0.3863 of Poisson (Oganesyan & Huse 2007; Atas et al. 2013): nothing has to be unfolded;
- spacings unfolded to a density of 1: Brody's β, 0 of Poisson and about 0.95 of the GOE, and the variance of how many
  values an interval of length L holds, L of Poisson, $\frac{2}{\pi^2} (\ln 2 \pi L + 1.577 - \frac{\pi^2}{8})$ of
  the GOE.

A spectrum is unfolded as Thamm, Staats & Rosenow 2022 do it: each value is spread to a Gaussian as wide as half the
distance between its `WINDOW`-th neighbours, and the sum of these is the smooth density, the spectrum being mirrored at
its ends. As many values at each end are left out.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, ndtr

GOE_RATIO = 0.5307
"""The mean ratio of random matrices."""

WINDOW = 15
"""Neighbours to each side that the width of the smoothing comes from."""

FEWEST = 64
"""Values that spacings need."""

FEWEST_RATIOS = 16
"""Ratios that a region's mean needs: its standard error is a quarter over their root."""

INTERVAL = 2.0
"""L of the number variance; beyond a few spacings the unfolding, `WINDOW` wide, takes fluctuations away."""

AT_ONCE = 2**22
"""Entries of the table of smoothed steps that are in memory at once."""


class Spacings(NamedTuple):
    """What the spacings of a spectrum say, with standard errors; NaN where there are fewer than `FEWEST` values."""

    brody: float
    brody_error: float
    ratio: float
    ratio_error: float
    number_variance: float


def measure_spacings(values: Float[np.ndarray, " k"]) -> Spacings:
    """Measure the spacings of positive values in any order, ties among them counting as a spacing of zero."""
    values = np.sort(values.astype(np.float64))
    if values.size < FEWEST or values[0] == values[-1]:
        return Spacings(*[float("nan")] * 5)
    ratios = spacing_ratios(values)
    inner = unfold(values)[WINDOW:-WINDOW]
    brody, error = fit_brody(np.diff(inner))
    return Spacings(
        brody, error, float(ratios.mean()), float(ratios.std() / ratios.size**0.5), number_variance(inner, INTERVAL)
    )


def inner_spacings(values: Float[np.ndarray, " k"]) -> Float[np.ndarray, " spacing"]:
    """Return the unfolded spacings of positive values, over their mean; none of fewer than `FEWEST`."""
    if values.size < FEWEST or values.max() == values.min():
        return np.empty(0)
    gaps = np.diff(unfold(np.sort(values.astype(np.float64)))[WINDOW:-WINDOW])
    return gaps / max(gaps.mean(), 1e-300)


def spacing_ratios(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " ratio"]:
    """Compute the ratios of neighbouring spacings of sorted values; of two spacings of zero the ratio is zero."""
    gaps = np.abs(np.diff(values))
    larger = np.maximum(gaps[1:], gaps[:-1])
    return np.minimum(gaps[1:], gaps[:-1]) / np.where(larger > 0, larger, 1)


def unfold(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Map ascending values to places of a density of 1: how many values the smooth density has below each."""
    # Beyond both ends the spectrum is mirrored: the smooth density would fall off there.
    more = min(3 * WINDOW, values.size - 1)
    around = np.r_[2 * values[0] - values[more:0:-1], values, 2 * values[-1] - values[-2 : -more - 2 : -1]]
    index = np.arange(around.size)
    low, high = np.maximum(index - WINDOW, 0), np.minimum(index + WINDOW, around.size - 1)
    width = (around[high] - around[low]) * WINDOW / (high - low)
    width = np.maximum(width, 1e-12 * (values[-1] - values[0]))
    parts = np.array_split(values, -(-values.size * around.size // AT_ONCE))
    return np.concatenate([ndtr((part[:, None] - around) / width).sum(axis=1) for part in parts])


def fit_brody(spacings: Float[np.ndarray, " n"]) -> tuple[float, float]:
    r"""Fit $p(s) = (\beta + 1) b s^\beta e^{-b s^{\beta + 1}}$ by maximum likelihood, the mean spacing being 1.

    $b = \Gamma(\frac{\beta + 2}{\beta + 1})^{\beta + 1}$ (Brody 1973).

    **Returns:** β and its standard error, from the curvature.
    """
    mean = spacings.mean()
    s = np.maximum(spacings / (mean if mean > 0 else 1.0), 1e-9)
    logs = np.log(s)

    def loss(beta: float) -> float:
        power = beta + 1
        log_b = power * gammaln((beta + 2) / power)
        return float(-(np.log(power) + log_b + beta * logs.mean() - np.exp(log_b + power * logs).mean()))

    beta = float(minimize_scalar(loss, bounds=(-0.9, 4.0), method="bounded", options={"xatol": 1e-8}).x)
    step = 1e-3
    curvature = (loss(beta + step) - 2 * loss(beta) + loss(beta - step)) / step**2
    return beta, float((s.size * curvature) ** -0.5) if curvature > 0 else float("nan")


def number_variance(unfolded: Float[np.ndarray, " n"], length: float) -> float:
    """Compute the variance of how many of ascending values intervals of a length hold, at overlapping places."""
    starts = np.arange(unfolded[0], unfolded[-1] - length, length / 8)
    if starts.size < 8:
        return float("nan")
    counts = np.searchsorted(unfolded, starts + length) - np.searchsorted(unfolded, starts)
    return float(counts.var())
