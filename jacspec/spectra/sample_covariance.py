r"""Chance with correlated columns: W = Z A^{1/2} (M × n), Z of independent entries of mean 0 and variance 1.

A is the population covariance of the rows of W, of eigenvalues a_j with eigenvectors p_j; λ = σ²/M are the eigenvalues
of the sample covariance WᵀW/M, γ = n/M. With v the Stieltjes transform of the companion WWᵀ/M (Silverstein 1995),

$$z = -\frac1v + \frac1M \sum_j \frac{a_j}{1 + a_j v},$$

M Im v/π is the density of λ, and the number of λ up to a point is a closed form in v: the derivative of
$-z v - \ln v + \frac1M \sum_j \ln(1 + a_j v)$ along the solution is −v, so that it is the logarithmic potential but for a
constant. The right singular vector of λ has with p_j the mean squared overlap
$\frac{a_j}{M \lambda |1 + a_j v|^2}$ (Ledoit & Péché 2011), which adds up to 1 over j. With all a_j equal this is the
law of Marchenko and Pastur.

One a apart from the others, which are 1, stands outside the bulk from $|a - 1| > \sqrt\gamma$ on, at
$\lambda = a (1 + \frac{\gamma}{a - 1})$ and with a squared overlap of $\frac{1 - \gamma/(a-1)^2}{1 + \gamma/(a-1)}$
(Baik & Silverstein 2006; Paul 2007). Below the bulk that needs a < 1 − √γ, so n < M: of a matrix with at least as many
columns as rows, no direction of little variance makes a small singular value, as it goes to the null space.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

POINTS = 600
"""Points of λ, in equal steps of its logarithm, that a law is solved at; between them it is interpolated."""

STEPS, NEAREST, ITERATIONS = 24, 1e-7, 200
"""Steps from far above the spectrum down to the axis, how near to it the last is, relative to λ, and how often is
iterated where Newton's method fails."""

HARD_EDGE = 0.02
"""The first point of a law that reaches to zero, in units of a/k²: of k values the smallest is about 1/k²."""


class Spike(NamedTuple):
    """Where one direction of population variance a stands, the others' being 1: λ and its vector's squared overlap.

    Within the bulk λ is the edge on its side, the overlap 0.
    """

    lam: Float[np.ndarray, " spike"]
    overlap: Float[np.ndarray, " spike"]


def locate_spikes(population: Float[np.ndarray, " spike"], ratio: float) -> Spike:
    """Locate spikes of a bulk of variance 1, each of them alone.

    **Arguments:** `population`, a of each; `ratio`, γ = n/M, columns over rows.

    **Raises:** `ValueError` where a ratio or a variance is not positive.
    """
    a = np.asarray(population, np.float64)
    if not ratio > 0 or not (a >= 0).all():
        raise ValueError(f"ratio={ratio} and variances of at least {a.min()}: both have to be positive.")
    away = a - 1
    outside = np.abs(away) > ratio**0.5
    safe = np.where(outside, away, np.where(away < 0, -1, 1) * ratio**0.5)
    lam = np.where(outside, a, 1 + safe) * (1 + ratio / safe)
    with np.errstate(divide="ignore", invalid="ignore"):
        overlap = (1 - ratio / safe**2) / (1 + ratio / safe)
    # With more columns than rows what would be below the bulk is zero, in the null space.
    return Spike(lam, np.where(outside & (safe > -1), overlap, 0.0))


class SampleLaw(NamedTuple):
    """The law of λ = σ²/M on a grid: how many positive λ are at or below each point, and v there.

    `population` are the a_j, `rows` is M.
    """

    population: Float[np.ndarray, " n"]
    rows: int
    lam: Float[np.ndarray, " point"]
    below: Float[np.ndarray, " point"]
    companion: Complex[np.ndarray, " point"]

    @property
    def values(self) -> int:
        """How many λ are not zero."""
        return min(self.rows, len(self.population))

    def count(self, lam: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
        """Give the expected number of positive λ at or below each value."""
        inside = np.interp(np.log(np.maximum(lam, self.lam[0])), np.log(self.lam), self.below)
        return np.where(lam >= self.lam[0], inside, 0.0)

    def quantiles(self) -> Float[np.ndarray, " k"]:
        """Give the λ up to which k − ½, k − 1½, …, ½ values are: one a singular value, descending."""
        wanted = np.arange(self.values) + 0.5
        rising = np.maximum.accumulate(self.below)
        kept = np.r_[True, np.diff(rising) > 0]
        return np.exp(np.interp(wanted, rising[kept], np.log(self.lam[kept])))[::-1]

    def overlaps(self, lam: Float[np.ndarray, " value"]) -> Float[np.ndarray, "value n"]:
        """Give the mean squared overlap of the right singular vector at each λ with each p_j; rows add up to 1."""
        place = np.interp(np.log(lam), np.log(self.lam), np.arange(self.lam.size))
        low = np.minimum(place.astype(int), self.lam.size - 2)
        part = place - low
        v = (1 - part) * self.companion[low] + part * self.companion[low + 1]
        shares = self.population / np.abs(1 + v[:, None] * self.population) ** 2
        return shares / shares.sum(axis=1, keepdims=True)


def sample_law(population: Float[np.ndarray, " n"], rows: int) -> SampleLaw:
    """Solve the law of W = Z A^{1/2} with `rows` rows for the eigenvalues of A; about 100 · `POINTS` · n complex divisions.

    **Raises:** `ValueError` where a population eigenvalue is not positive.
    """
    a = np.asarray(population, np.float64)
    if not (a.size and a.min() > 0):
        raise ValueError("Population eigenvalues have to be positive.")
    root = (a.size / rows) ** 0.5
    least = max((1 - root) ** 2, HARD_EDGE / min(rows, a.size) ** 2)
    lam = np.geomspace(0.9 * least * a.min(), 1.05 * (1 + root) ** 2 * a.max(), POINTS)
    v = _solve(a, rows, lam)
    angles = lam * v.imag + np.angle(v) - np.angle(1 + v[:, None] * a).sum(axis=1) / rows
    below = np.clip(rows * angles / np.pi - max(rows - a.size, 0), 0, min(rows, a.size))
    return SampleLaw(a, rows, lam, below, v)


def _solve(
    a: Float[np.ndarray, " n"], rows: int, lam: Float[np.ndarray, " point"]
) -> Complex[np.ndarray, " point"]:
    """Solve for v at λ + i0: from far above the spectrum, where v = −1/z, down to the axis by Newton's method in ln v.

    Where that leaves the half-plane, v ← −1/(z − Σ a/(1 + a v)/M) is iterated, which stays in it.
    """
    far = 10 * (1 + (a.size / rows) ** 0.5) ** 2 * a.max() / lam
    v = -1 / (lam * (1 + 1j * far))
    for share in np.linspace(1, 0, STEPS):
        z = lam * (1 + 1j * NEAREST * (far / NEAREST) ** share)
        found = v
        for _ in range(8):
            terms = 1 / (1 + found[:, None] * a)
            gap = z * found + 1 - (1 - terms).sum(axis=1) / rows
            step = -gap / (z * found - (terms * (1 - terms)).sum(axis=1) / rows)
            found = found * np.exp(np.clip(step.real, -1, 1) + 1j * np.clip(step.imag, -1, 1))
            if (np.abs(step) <= 1e-10).all():
                break
        lost = ~((found.imag > 0) & (np.abs(step) <= 1e-6))
        if lost.any():
            found[lost] = _iterate(a, rows, z[lost], v[lost])
        v = found
    return v


def _iterate(
    a: Float[np.ndarray, " n"], rows: int, z: Complex[np.ndarray, " point"], v: Complex[np.ndarray, " point"]
) -> Complex[np.ndarray, " point"]:
    for _ in range(ITERATIONS):
        v = (v - 1 / (z - (a / (1 + v[:, None] * a)).sum(axis=1) / rows)) / 2
    return v
