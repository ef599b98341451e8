r"""Singular vectors beside chance: whether entries are Gaussian, and how many of them carry a vector.

Those of a matrix of independent Gaussian entries have every direction alike (Haar): the entries of one with n are, but
for their sum of squares, independent N(0, 1/n), the law of Porter and Thomas. Thamm, Staats & Rosenow 2022 test it
vector by vector (Kolmogorov–Smirnov).

A vector has length 1, so that the variance of its entries is no guess but fitted: the distance D from N(0, 1/n) is
smaller than Kolmogorov's law has it, at every n, and his p-values are too large, by 7 % at 0.8 and 15 % at 0.1.
`porter_thomas_p` maps them to those of unit vectors. For small p the map is known: $\sqrt n D$ is the largest value of
a Gaussian process of variance $t(1 - t) - z^2 \varphi(z)^2 / 2$ at $t = \Phi(z)$; at its peak this falls off as
$\frac14 - \frac32 h^2$ where Kolmogorov's falls as $\frac14 - h^2$, so that p is $\sqrt{2/3}$ of his (Durbin 1973;
Piterbarg 1996).
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import kolmogorov, ndtr

RARE = 0.01
"""p-value below which a vector counts."""

DRAWS, ENTRIES = 20000, 2**24
"""Random unit vectors that say which participation is rare, and how many entries all of them may have."""


class VectorChance(NamedTuple):
    """Of each vector: the p-value of its entries, and its inverse participation ratio over that of chance."""

    p_value: Float[np.ndarray, " count"]
    participation: Float[np.ndarray, " count"]


def vector_chance(vectors: Float[np.ndarray, "count n"]) -> VectorChance:
    r"""Compare unit vectors, a row each, with vectors of random direction.

    The inverse participation ratio $\sum_i v_i^4$, 1/n of a vector that is spread evenly and 1 of a single entry, is
    $3 / (n + 2)$ in the mean by chance, and given over that.
    """
    n = vectors.shape[1]
    vectors = vectors.astype(np.float64)
    return VectorChance(porter_thomas_p(distance_from_normal(vectors), n), np.sum(vectors**4, axis=1) * (n + 2) / 3)


def distance_from_normal(vectors: Float[np.ndarray, "count n"]) -> Float[np.ndarray, " count"]:
    """Compute the Kolmogorov–Smirnov distance of each row's entries from N(0, 1/n)."""
    n = vectors.shape[1]
    share = ndtr(np.sort(vectors, axis=1) * n**0.5)
    steps = np.arange(n + 1) / n
    return np.maximum(share - steps[:-1], steps[1:] - share).max(axis=1)


def porter_thomas_p(distance: Float[np.ndarray, " count"], n: int) -> Float[np.ndarray, " count"]:
    """Compute the chance that a random unit vector of n entries has at least such a distance."""
    z = distance * n**0.5
    # Finite n as Vrbik 2018 has it, right to 5e-4 from 24 values on; SciPy's exact p takes up to seconds.
    known = kolmogorov(z + 1 / (6 * n**0.5) + (z - 1) / (4 * n))
    return known * np.interp(-np.log10(np.maximum(known, 1e-300)), KOLMOGOROV, RATIO)


KOLMOGOROV = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3)
"""−log10 of Kolmogorov's p-value."""

RATIO = (1, 0.986, 0.976, 0.954, 0.929, 0.898, 0.882, 0.872, 0.862, 0.857, 0.854, 0.851, 0.844, 0.825, (2 / 3) ** 0.5)
"""What p of unit vectors is of it: 560,000 vectors of 200 and 1500 entries; of 32 at most 1.5 % more."""


@functools.lru_cache(maxsize=16)
def rare_participation(n: int) -> float:
    """Return what the participation of one random unit vector in a hundred exceeds, over its mean by chance."""
    rng = np.random.default_rng([DRAWS, n])
    draws = max(min(DRAWS, ENTRIES // n), 2000)
    found = []
    for some in np.array_split(np.arange(draws), -(-draws * n // 2**20)):
        squares = np.square(rng.normal(size=(some.size, n)))
        found.append(np.square(squares).sum(axis=1) / np.square(squares.sum(axis=1)))
    return float(np.quantile(np.concatenate(found), 1 - RARE)) * (n + 2) / 3


def region_slices(count: int) -> dict[str, slice]:
    """Divide places in descending order of σ: the largest tenth, the smallest, each one at least, what is between."""
    tenth = max(round(count / 10), 1)
    return {"large": slice(0, tenth), "bulk": slice(tenth, count - tenth), "small": slice(count - tenth, count)}
