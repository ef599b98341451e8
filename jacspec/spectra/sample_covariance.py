r"""Chance with correlated columns: W = Z A^{1/2} (M × n), Z of independent entries of mean 0 and variance 1.

A is the population covariance of the rows of W, of eigenvalues a_j with eigenvectors p_j; λ = σ²/M are the eigenvalues
of the sample covariance WᵀW/M, γ = n/M. With v the Stieltjes transform of the companion WWᵀ/M (Silverstein 1995),

$$z = -\frac1v + \frac1M \sum_j \frac{a_j}{1 + a_j v},$$

M Im v/π is the density of λ, and the number of λ up to a point is a closed form in v: the derivative of
$-z v - \ln v + \frac1M \sum_j \ln(1 + a_j v)$ along the solution is −v, so that it is the logarithmic potential but for
a constant. The right singular vector of λ has with p_j the mean squared overlap
$\frac{a_j}{M \lambda |1 + a_j v|^2}$ (Ledoit & Péché 2011), which adds up to 1 over j. With all a_j equal this is the
law of Marchenko and Pastur.

Some columns may be given instead, W = [F, Z A^{1/2}]: FᵀF/M has the eigenvalues τ_i, the rest is independent of F.
With $w = z - \frac1M \sum_j \frac{a_j}{1 + a_j v}$ then v is the Stieltjes transform of FFᵀ/M at w (Silverstein & Bai
1995; w = −1/v without F), the potential is $\int \ln(w - x) - (z - w) v + \frac1M \sum_j \ln(1 + a_j v)$, and the
overlap with the direction of τ_i is $\frac{\tau_i}{M \lambda} \frac{\mathrm{Im} (\tau_i - w)^{-1}}{\mathrm{Im} v}$.

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


NOTHING = np.zeros(0)


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

    `population` are the a_j, `rows` is M, `fixed` the τ_i of columns that are given.
    """

    population: Float[np.ndarray, " n"]
    rows: int
    fixed: Float[np.ndarray, " f"]
    lam: Float[np.ndarray, " point"]
    below: Float[np.ndarray, " point"]
    companion: Complex[np.ndarray, " point"]

    @property
    def values(self) -> int:
        """How many λ are not zero."""
        return min(self.rows, len(self.population) + len(self.fixed))

    def count_below(self, lam: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
        """Give the expected number of positive λ at or below each value."""
        inside = np.interp(np.log(np.maximum(lam, self.lam[0])), np.log(self.lam), self.below)
        return np.where(lam >= self.lam[0], inside, 0.0)

    def quantiles(self) -> Float[np.ndarray, " k"]:
        """Give the λ up to which k − ½, k − 1½, …, ½ values are: one a singular value, descending."""
        wanted = np.arange(self.values) + 0.5
        rising = np.maximum.accumulate(self.below)
        kept = np.r_[True, np.diff(rising) > 0]
        return np.exp(np.interp(wanted, rising[kept], np.log(self.lam[kept])))[::-1]

    def overlaps(self, lam: Float[np.ndarray, " value"]) -> Float[np.ndarray, "value column"]:
        """Give the mean squared overlap of the right singular vector at each λ with each direction, adding up to 1.

        Those of given columns come first, then those of the population.
        """
        place = np.interp(np.log(lam), np.log(self.lam), np.arange(self.lam.size))
        low = np.minimum(place.astype(int), self.lam.size - 2)
        part = place - low
        v = (1 - part) * self.companion[low] + part * self.companion[low + 1]
        w = lam - (self.population / (1 + v[:, None] * self.population)).sum(axis=1) / self.rows
        given = (
            self.fixed * (1 / (self.fixed - w[:, None])).imag / np.maximum(v.imag, np.finfo(np.float64).tiny)[:, None]
        )
        shares = np.concatenate([given, self.population / np.abs(1 + v[:, None] * self.population) ** 2], axis=1)
        return shares / shares.sum(axis=1, keepdims=True)


def sample_law(population: Float[np.ndarray, " n"], rows: int, fixed: Float[np.ndarray, " f"] = NOTHING) -> SampleLaw:
    """Solve the law of W = [F, Z A^{1/2}] with `rows` rows; about 100 · `POINTS` · n complex divisions.

    **Arguments:** `population`, the eigenvalues of A; `fixed`, those of FᵀF/M, fewer than `rows`.

    **Raises:** `ValueError` where one of them is not positive.
    """
    a, given = np.asarray(population, np.float64), np.asarray(fixed, np.float64)
    both = np.concatenate([given, a])
    if not (a.size and both.min() > 0 and given.size < rows):
        raise ValueError("Population eigenvalues have to be positive.")
    root = (both.size / rows) ** 0.5
    least = max((1 - root) ** 2, HARD_EDGE / min(rows, both.size) ** 2)
    lam = np.geomspace(0.9 * least * both.min(), 1.05 * (1 + root) ** 2 * both.max(), POINTS)
    v = _solve(a, given, rows, lam)
    terms = 1 + v[:, None] * a
    w = lam - (a / terms).sum(axis=1) / rows
    potential = (rows - given.size) * np.angle(w) + np.angle(w[:, None] - given).sum(axis=1)
    potential += np.angle(terms).sum(axis=1) - rows * ((lam - w) * v).imag
    above = potential / np.pi
    most = min(rows, both.size)
    return SampleLaw(a, rows, given, lam, np.clip(most - above, 0, most), v)


def _solve(
    a: Float[np.ndarray, " n"], fixed: Float[np.ndarray, " f"], rows: int, lam: Float[np.ndarray, " point"]
) -> Complex[np.ndarray, " point"]:
    """Solve for v at λ + i0: from far above the spectrum, where v = −1/z, down to the axis by Newton's method in ln v.

    Where that leaves the half-plane, v is put in place of what it has to be equal to, which stays in it.
    """
    both = np.concatenate([fixed, a])
    far = 10 * (1 + (both.size / rows) ** 0.5) ** 2 * both.max() / lam
    v = -1 / (lam * (1 + 1j * far))

    def transform(z: Complex[np.ndarray, " p"], v: Complex[np.ndarray, " p"]) -> tuple[np.ndarray, np.ndarray]:
        """Return what v has to be equal to, and its derivative by ln v."""
        terms = a / (1 + v[:, None] * a)
        w = z - terms.sum(axis=1) / rows
        poles = 1 / (fixed - w[:, None])
        empty = 1 - fixed.size / rows
        slope = empty / w**2 + np.square(poles).sum(axis=1) / rows
        return poles.sum(axis=1) / rows - empty / w, slope * np.square(terms).sum(axis=1) / rows * v

    for share in np.linspace(1, 0, STEPS):
        z = lam * (1 + 1j * NEAREST * (far / NEAREST) ** share)
        found = v
        for _ in range(8):
            wanted, slope = transform(z, found)
            # In ln(v/wanted), whose derivative by ln v is 1 − slope/wanted.
            step = -np.log(found / wanted) / (1 - slope / wanted)
            found = found * np.exp(np.clip(step.real, -1, 1) + 1j * np.clip(step.imag, -1, 1))
            if (np.abs(step) <= 1e-10).all():
                break
        lost = ~((found.imag > 0) & (np.abs(step) <= 1e-6))
        if lost.any():
            again = v[lost]
            for _ in range(ITERATIONS):
                again = (again + transform(z[lost], again)[0]) / 2
            found[lost] = again
        v = found
    return v
