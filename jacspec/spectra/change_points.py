r"""Change points of a profile: the best cut into segments of equal values, beside profiles that have none.

Any profile can be cut in pieces, and a smooth one is explained by them nearly as well as one with steps. So what the
best cut explains is placed among two kinds of profiles without steps: the same values in random order (no dependence on
depth at all), and red noise, $x_t = \varphi x_{t-1} + e_t$ with the profile's own autocorrelation, which drifts
(Rudnick & Davis 2003, Deep-Sea Research I 50, 691: shifts found in a drifting series are no evidence of regimes).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DRAWS, RESAMPLINGS = 999, 400


class Cut(NamedTuple):
    """Where the segments of profiles begin, the first left out, and the share of the variance that they explain."""

    starts: Int[np.ndarray, "profile cut"]
    explained: Float[np.ndarray, " profile"]


class Phases(NamedTuple):
    """The best cut of a mean profile: starts with their interval of 95 % over samples, and its levels of chance."""

    starts: list[int]
    low: list[int]
    high: list[int]
    explained: float
    p_order: float
    p_red_noise: float


def best_cut(profiles: Float[np.ndarray, "profile place"], segments: int) -> Cut:
    """Cut each profile where the squares about its segments' means are least, by dynamic programming.

    A segment may be a single place. Of a constant profile nothing is explained.
    """
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    total = np.square(centred).sum(axis=1)
    within = _squares_within(centred)
    cost, choices = within[:, 0], []
    for _ in range(segments - 1):
        joined = cost[:, :, None] + within
        choices.append(joined.argmin(axis=1))
        cost = joined.min(axis=1)
    end = np.full(len(profiles), profiles.shape[1])
    starts = np.zeros((len(profiles), segments - 1), np.int64)
    for place in reversed(range(segments - 1)):
        end = np.take_along_axis(choices[place], end[:, None], axis=1)[:, 0]
        starts[:, place] = end
    with np.errstate(invalid="ignore", divide="ignore"):
        return Cut(starts, np.where(total > 0, 1 - cost[:, -1] / total, 0.0))


def find_phases(values: Float[np.ndarray, "place sample"], segments: int, *, seed: int) -> Phases:
    """Cut the mean profile over samples, and place what the cut explains among profiles without steps.

    **Arguments:** `values`, a row a layer, more rows than `segments`; `seed`, of orders, noise and resamplings.
    """
    rng = np.random.default_rng(seed)
    places, samples = values.shape
    profile = values.mean(axis=1)
    found = best_cut(profile[None], segments)
    orders = rng.permuted(np.broadcast_to(profile, (DRAWS, places)), axis=1)
    drifting = red_noise(rng, lag_one(profile), (DRAWS, places))
    drawn = rng.integers(samples, size=(RESAMPLINGS, samples))
    counts = np.stack([np.bincount(row, minlength=samples) for row in drawn])
    low, high = np.quantile(
        best_cut(counts @ values.T / samples, segments).starts, [0.025, 0.975], axis=0, method="nearest"
    )
    p_values = [_share_reaching(best_cut(null, segments).explained, found.explained[0]) for null in (orders, drifting)]
    return Phases(found.starts[0].tolist(), low.tolist(), high.tolist(), float(found.explained[0]), *p_values)


def lag_one(profile: Float[np.ndarray, " place"]) -> float:
    """Estimate the autocorrelation from one place to the next, from 0 to 1, its bias in short profiles mended.

    The bias is −(1 + 3φ)/n to first order (Marriott & Pope 1954; Kendall 1954).
    """
    centred, n = profile - profile.mean(), len(profile)
    square = float(centred @ centred)
    raw = float(centred[1:] @ centred[:-1]) / square if square > 0 else 0.0
    return min(max((n * raw + 1) / (n - 3), 0.0), 1.0)


def red_noise(rng: np.random.Generator, phi: float, shape: tuple[int, int]) -> Float[np.ndarray, "profile place"]:
    """Draw Gaussian profiles with this autocorrelation from one place to the next; a random walk where it is 1."""
    noise = rng.standard_normal(shape)
    noise[:, 0] /= (1 - phi**2) ** 0.5 if phi < 1 else 1.0
    for place in range(1, shape[1]):
        noise[:, place] += phi * noise[:, place - 1]
    return noise


def _share_reaching(null: Float[np.ndarray, " draw"], value: float) -> float:
    """Return the p-value of a value among draws, ties counted against it."""
    return float((1 + (null >= value - 1e-9).sum()) / (1 + len(null)))


def _squares_within(centred: Float[np.ndarray, "profile place"]) -> Float[np.ndarray, "profile start end"]:
    """Sum the squares about the mean of every stretch from a start to before an end; infinite where that is empty."""
    sums, squares = (np.pad(np.cumsum(each, axis=1), ((0, 0), (1, 0))) for each in (centred, np.square(centred)))
    length = np.arange(sums.shape[1])[None, :] - np.arange(sums.shape[1])[:, None]
    of_sums, of_squares = (each[:, None, :] - each[:, :, None] for each in (sums, squares))
    found = of_squares - np.square(of_sums) / np.maximum(length, 1)
    return np.where(length > 0, np.maximum(found, 0.0), np.inf)
