r"""What a tail admits: whether it is a power law at all, what would do as well, and other exponents of it.

`power_law.fit_tails` gives α and x_min whatever the values are. Here stand the further steps of Clauset, Shalizi &
Newman 2009: the bootstrap of the fit, likelihood ratios beside other laws (Vuong 1989), an interval of α with the
search for x_min in it. All take values as independent, which singular values of one matrix are not: they repel, so that
their distance from a law is smaller than that of independent ones.

Fits are in $y = \ln(x / x_{\min}) \ge 0$, where the power law is $a e^{-a y}$ with $a = \alpha - 1$.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq, minimize
from scipy.special import chdtrc, erfc, erfcx, log_ndtr

from jacspec.spectra.power_law import fit_tails

NODES, WEIGHTS = np.polynomial.legendre.leggauss(96)

COVERED = 0.95
"""Of the interval of α."""

HILL_SHARE = 0.1
"""Share of the values that Hill's estimator takes."""

FEWEST_BEYOND = 5
"""Values beyond an edge that an exponent needs."""


def bootstrap_tail(
    values: Float[np.ndarray, " n"],
    alpha: float,
    x_min: float,
    distance: float,
    *,
    draws: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Draw the fit anew: the p-value of the power law, and the interval of α.

    For p, values from x_min on are drawn of the law, those below from the values below (Clauset et al., 4.1), and the
    search runs again: p is the share of draws with at least the observed distance. For the interval values are drawn
    with replacement: percentiles of the α that the search finds.

    **Returns:** p, no less than 1/(`draws` + 1), and both ends of the interval.
    """
    n = values.size
    body = values[values < x_min]
    tail = rng.binomial(n, 1 - body.size / n, draws)
    drawn = np.full((draws, n), np.nan)
    for row, size in zip(drawn, tail, strict=True):
        row[:size] = x_min * rng.uniform(size=size) ** (-1 / (alpha - 1))
        row[size:] = rng.choice(body, n - size) if body.size else np.nan
    p_value = (1 + np.sum(fit_tails(drawn).ks_distance >= distance)) / (1 + draws)
    again = fit_tails(rng.choice(values, (draws, n))).alpha
    low, high = np.nanquantile(again, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(p_value), float(low), float(high)


class Ratio(NamedTuple):
    """A log-likelihood ratio, positive where the power law is likelier, over its standard deviation, and its p-value.

    Of the truncated power law, which has the plain one in it, the ratio is the sum of logarithms itself.
    """

    ratio: float
    p_value: float


def compare_laws(values: Float[np.ndarray, " n"], x_min: float) -> dict[str, Ratio]:
    """Compare the power law with a lognormal, an exponential and a truncated power law, all from x_min on."""
    y = np.log(values[values >= x_min] / x_min)
    if y.size < 2 or not y.max() > 0:
        return dict.fromkeys(("lognormal", "exponential", "truncated"), Ratio(float("nan"), float("nan")))
    exponent = 1 / y.mean()
    power = np.log(exponent) - exponent * y
    truncated = max(float((_truncated(y, exponent) - power).sum()), 0.0)
    return {
        "lognormal": _vuong(power, _lognormal(y)),
        "exponential": _vuong(power, _exponential(y)),
        # The end of the range is at the power law: half of χ² with one degree of freedom (Chernoff 1954).
        "truncated": Ratio(-truncated, float(chdtrc(1, 2 * truncated) / 2)),
    }


def _vuong(power: Float[np.ndarray, " n"], other: Float[np.ndarray, " n"]) -> Ratio:
    change = power - other
    spread = change.std()
    # Where one law has become the other nothing is left to tell them apart by.
    if not spread > 1e-6:
        return Ratio(0.0, 1.0)
    ratio = float(change.sum() / (spread * change.size**0.5))
    return Ratio(ratio, float(erfc(abs(ratio) / 2**0.5)))


def _exponential(y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    beyond = np.expm1(y)
    rate = 1 / beyond.mean()
    return np.log(rate) + y - rate * beyond


def _lognormal(y: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    r"""Fit a normal law cut off at zero, $e^{b y - c y^2} / Z$: concave in both; at c = 0 it is the power law."""
    unit = y.mean()
    z = y / unit
    moments = z.mean(), np.square(z).mean()

    def log_sum(b: float, c: float) -> float:
        root = c**0.5
        if b > 0:
            return float(0.5 * np.log(np.pi / c) + b * b / (4 * c) + log_ndtr(b / (2 * c) ** 0.5))
        return float(np.log(erfcx(-b / (2 * root)) * np.pi**0.5 / (2 * root)))

    def loss(found: np.ndarray) -> float:
        return log_sum(*found) - found[0] * moments[0] + found[1] * moments[1]

    b, c = minimize(loss, (-0.5, 0.1), bounds=((-1e3, 1e3), (1e-10, 1e3)), method="L-BFGS-B").x
    return b * z - c * z**2 - log_sum(b, c) - np.log(unit)


def _truncated(y: Float[np.ndarray, " n"], exponent: float) -> Float[np.ndarray, " n"]:
    r"""Fit $x^{-\alpha} e^{-\kappa x}$, in y $e^{-a y - \kappa (e^y - 1)} / Z$: concave in both, κ ≥ 0."""
    beyond = np.expm1(y)
    unit = beyond.mean()
    moments = y.mean(), 1.0

    def log_sum(a: float, kappa: float) -> float:
        end = np.log1p((40 + 30 * max(-a, 0.0)) * unit / kappa) if kappa > 0 else np.inf
        end = min(end, 40 / a) if a > 0 else end
        places = end * (NODES + 1) / 2
        exponents = -a * places - kappa * np.expm1(places) / unit
        top = exponents.max()
        return float(top + np.log(WEIGHTS @ np.exp(exponents - top) * end / 2))

    def loss(found: np.ndarray) -> float:
        return log_sum(*found) + found[0] * moments[0] + found[1] * moments[1]

    start = (exponent, 1e-3)
    a, kappa = minimize(loss, start, bounds=((-5.0, 1e3), (1e-9, 1e3)), method="L-BFGS-B").x
    return -a * y - kappa * beyond / unit - log_sum(a, kappa)


def hill(values: Float[np.ndarray, " n"], share: float = HILL_SHARE) -> float:
    r"""Estimate α from a share of the values: $1 + k / \sum_{i \le k} \ln(x_i / x_{k + 1})$ (Hill 1975)."""
    ordered = np.sort(values[values > 0])[::-1]
    count = int(share * ordered.size)
    if count < FEWEST_BEYOND:
        return float("nan")
    total = np.log(ordered[:count] / ordered[count]).sum()
    return float(1 + count / total) if total > 0 else float("nan")


def alpha_up_to_largest(values: Float[np.ndarray, " n"], x_min: float) -> float:
    r"""Fit α where the law ends at the largest value: $\frac1a - \frac{Y}{e^{a Y} - 1} = \bar y$, Y the largest y.

    Aban, Meerschaert & Panorska 2006. α may be below 1: the law is of a finite range.
    """
    y = np.log(values[values >= x_min] / x_min)
    if y.size < FEWEST_BEYOND or not y.max() > 0:
        return float("nan")
    share = float(y.mean() / y.max())

    def excess(a: float) -> float:
        """Compute the mean of y over Y less what is seen; a in units of 1/Y."""
        if abs(a) < 1e-4:
            return 0.5 - a / 12 - share
        return 1 / a - 1 / np.expm1(a) - share if a < 500 else 1 / a - share

    ends = -500.0, 1e6
    if excess(ends[0]) * excess(ends[1]) > 0:
        return float("nan")
    return 1 + float(brentq(excess, *ends)) / float(y.max())


def product_of_one(eigenvalues: Float[np.ndarray, " k"]) -> tuple[int, float]:
    """Count from the largest λ on until their product, at a mean λ of 1, falls below 1 (detX of WeightWatcher).

    **Returns:** how many, the one that takes the product below 1 included, and the least of them.
    """
    ordered = np.sort(eigenvalues)[::-1]
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log(ordered / ordered.mean()))
    below = np.flatnonzero(logs[:-1] < 0)
    place = int(below[0]) if below.size else ordered.size - 2
    return (place + 1 if below.size else ordered.size), float(ordered[place])


def square_windows(matrix: Float[np.ndarray, "m n"]) -> list[Float[np.ndarray, "short short"]]:
    """Cut a matrix into squares of its shorter side, evenly placed along the longer one, as few as cover it."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    m, n = short.shape
    count = -(-n // m)
    starts = [round(place * (n - m) / max(count - 1, 1)) for place in range(count)]
    return [short[:, start : start + m] for start in starts]
