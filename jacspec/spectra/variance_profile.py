r"""Chance with the rows and columns of a matrix: independent entries of mean 0 whose variances are a known profile.

The variance of entry (i, j) is $\sum_b p_{bi} q_{bj}$: $r_i c_j$ of a matrix that is one block, and of a tensor that is
fused of several, each of them with its own row and column norms. With λ outside the spectrum the Dyson equations of
the profile (Zhang 2006; Couillet & Hachem 2014) are as many as blocks: $u_b = A_b(v) = \sum_i \frac{p_{bi}}{\lambda -
p_i \cdot v}$ with $v_b = \sum_j \frac{q_{bj}}{1 - q_j \cdot u}$. Above the spectrum the least solution of u > 0 is
meant, below it (the shorter side being i) that of u < 0 which begins at λ = 0. Either ends at the edge E, where the
largest eigenvalue ρ of the derivative of A is 1: there with its right and left vectors w and l, $\lambda - E \approx
\frac{s^2}{2} \frac{l \cdot A''[w, w]}{l \cdot a}$ along $u + s w$, $a_b = \sum_i p_{bi} / (\lambda - p_i \cdot v)^2$.
The density of λ near E is $\frac1\pi \gamma^{-3/2} \sqrt{|E - \lambda|}$, $\gamma^{-3/2} = |m'| \sqrt{2 / |\lambda''|}$
with $m = \sum_i 1 / (\lambda - p_i \cdot v)$, and (λ − E)/γ follows Tracy and Widom. With all variances equal both
edges and scales are those of Marchenko–Pastur and Johnstone.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.spectra.random_matrix import Edge, largest_edge, smallest_edge

NEAR = 1e-4
"""How near to 1 the eigenvalue ρ comes before its square root law gives the edge."""

FARTHEST = 1e12
"""How far −q·u rises where there is a solution at λ = 0; it grows without end where the spectrum reaches to zero."""


class Profile(NamedTuple):
    """The variances of the entries, Σ_b p_bi q_bj: `rows` p of the shorter side, `columns` q of the longer one."""

    rows: Float[np.ndarray, "block m"]
    columns: Float[np.ndarray, "block n"]

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""
        return self.rows.shape[1], self.columns.shape[1]

    @property
    def spread(self) -> float:
        """The relative variance that the mean square of Gaussian entries has: 2 Σ s⁴ / (Σ s²)²."""
        squares = np.sum((self.rows @ self.rows.T) * (self.columns @ self.columns.T))
        return 2 * float(squares) / float(self.rows.sum(axis=1) @ self.columns.sum(axis=1)) ** 2


def profile_of(matrix: Float[np.ndarray, "m n"], blocks: Sequence[int] = ()) -> Profile | None:
    r"""Take the profile of a matrix from the mean squares of its rows and columns; None where fewer than two have any.

    Those of n equal Gaussian entries spread too, by 2/n relative. As much is taken off the observed spread of their
    logarithms, so that entries of one variance have, within sampling, the profile of one variance. Rows and columns
    of zeros are left out. Of a fused tensor each of its `blocks`, so many rows each, has norms of its own.
    """
    ends = np.cumsum([0, *(blocks or (len(matrix),))])
    rows, columns = np.zeros((len(ends) - 1, len(matrix))), np.zeros((len(ends) - 1, matrix.shape[1]))
    for place, (first, last) in enumerate(itertools.pairwise(ends)):
        rows[place, first:last], columns[place] = _norms_of(matrix[first:last])
    if not np.isfinite(columns).all():
        return None
    some = rows.any(axis=1)
    sides = [side[some][:, side.any(axis=0)] for side in (rows, columns)]
    if min(side.shape[1] for side in sides) < 2:
        return None
    return Profile(*sorted(sides, key=lambda side: side.shape[1]))


def _norms_of(block: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " n"]]:
    """Take r and c of a block, c of mean 1 where it is not zero; c not finite where a norm is not."""
    with np.errstate(over="ignore", invalid="ignore"):
        rows, columns = (np.einsum(f"ij,ij->{side}", block, block, dtype=np.float64) for side in "ij")
    total, kept = rows.sum(), (rows > 0, columns > 0)
    if not (np.isfinite(total) and total > 0):
        return rows, columns * total
    own = [side[some] / total * some.sum() for side, some in zip((rows, columns), kept, strict=True)]
    equal = [2 * np.square(other).mean() / other.size for other in own[::-1]]
    rows[kept[0]], columns[kept[1]] = (_without_sampling(*each) for each in zip(own, equal, strict=True))
    return rows * (total / (own[0].size * own[1].size)), columns


def _without_sampling(side: Float[np.ndarray, " n"], spread: float) -> Float[np.ndarray, " n"]:
    """Draw the logarithms of values of mean 1 together until their variance is less by `spread`.

    One value apart is in the variance of the values, not of their logarithms; one near zero the other way round.
    """
    logs = np.log(side)
    observed = max(side.var(ddof=1), logs.var(ddof=1)) if side.size > 1 else 0.0
    found = np.exp((logs - logs.mean()) * max(1 - spread / observed, 0.0) ** 0.5 if observed > 0 else 0 * logs)
    return found / found.mean()


def profile_edges(profile: Profile) -> tuple[Edge | None, Edge]:
    """Find both edges of λ with their Tracy–Widom scales; no lower one where the shape is too near to square.

    The corrections of Ma 2012 for finite sizes are those of the shape, so that with equal variances these are the edges
    of `random_matrix`.
    """
    high = _corrected(profile, largest_edge(profile.shape), 1)
    assert high is not None  # far enough out there always is a solution
    return _corrected(profile, smallest_edge(profile.shape), -1), high


def _corrected(profile: Profile, plain: Edge | None, sign: int) -> Edge | None:
    """Find an edge, and carry over what finite sizes change of that of one variance."""
    unit = profile.rows.max()
    found = plain and _find_edge(Profile(profile.rows / unit, profile.columns), sign)
    if plain is None or found is None:
        return None
    least, most = (size**0.5 for size in sorted(profile.shape))
    centre = (most + sign * least) ** 2 / unit
    scale = (most + sign * least) * abs(1 / most + sign / least) ** (1 / 3) / unit
    return Edge(float(found.centre * plain.centre / centre), float(found.scale * plain.scale / scale))


class _Solution(NamedTuple):
    """A solution of the Dyson equations: λ, u, v, the derivative of A and its largest eigenvalue."""

    lam: float
    u: Float[np.ndarray, " block"]
    v: Float[np.ndarray, " block"]
    slope: Float[np.ndarray, "block block"]
    rho: float

    @property
    def left(self) -> float:
        """What is about in proportion to the distance from the edge."""
        return (1 - self.rho) ** 2 / self.rho


def _find_edge(profile: Profile, sign: int) -> Edge | None:
    """Find the upper edge (`sign` 1) or the lower one (−1): λ up to which, from outside, there is a solution.

    (1 − ρ)²/ρ is about linear in λ and zero at the edge: the next λ is where the line through the last two has a tenth
    left, halved towards the last solution where there is none. None where the spectrum reaches to zero.
    """
    p, q = profile
    by_row, by_column = p.T @ q.sum(axis=1), q.T @ p.sum(axis=1)
    # Above, both lie beyond the spectrum whatever the profile; below, the first does.
    beyond = 2 * (by_row.max() + by_column.max())
    first, second = (1.2 * beyond, beyond) if sign > 0 else (0.0, 0.05 * by_row.min())
    inside = 0.0 if sign > 0 else by_row.min()
    before = _solve(profile, first, None, sign)
    if before is None:
        return None
    outside, lam = before, second
    for _ in range(200):
        found = _solve(profile, lam, outside, sign)
        if found is None:
            inside = lam
        else:
            before, outside = outside, found
            if outside.rho > 1 - NEAR:
                break
        lam = (outside.lam + inside) / 2
        if found is not None:
            pace = (outside.lam - before.lam) / (before.left - outside.left)
            guess = outside.lam + 0.9 * pace * outside.left
            lam = guess if abs(guess - outside.lam) < abs(inside - outside.lam) else lam
    return _edge_at(profile, outside)


def _solve(profile: Profile, lam: float, near: _Solution | None, sign: int) -> _Solution | None:
    """Solve for u by Newton from a solution farther outside; None where it leaves what a solution can be."""
    p, q = profile
    u = np.zeros(len(p)) if near is None else near.u
    if near is None and sign < 0:
        for _ in range(2000):  # at λ = 0 a fixed point, from zero on, until Newton is near enough
            before, u = u, -(p / ((q / (1 - u @ q)).sum(axis=1) @ p)).sum(axis=1)
            if np.abs(u - before).max() < 1e-3 * np.abs(u).max() or (u @ q).min() < -FARTHEST:
                break
    for _ in range(50):
        free = 1 - u @ q
        v = (q / free).sum(axis=1)
        gap = lam - v @ p
        if not (free > 0).all() or not (gap * sign > 0).all():
            return None
        slope = ((p / gap**2) @ p.T) @ ((q / free**2) @ q.T)
        rho = float(np.abs(np.linalg.eigvals(slope)).max())
        if not rho < 1:
            return None
        step = np.linalg.solve(np.eye(len(p)) - slope, u - (p / gap).sum(axis=1))
        if np.abs(step).max() <= 1e-9 * np.abs(u).max():
            return _Solution(lam, u, v, slope, rho)
        u = u - step
    return None


def _edge_at(profile: Profile, found: _Solution) -> Edge:
    """Give the edge at a solution whose ρ is 1 but for `NEAR`."""
    p, q = profile
    right, left = (_leading_vector(each) for each in (found.slope, found.slope.T))
    free, gap = 1 - found.u @ q, found.lam - found.v @ p
    along = right @ q
    first, second = (q * along / free**2).sum(axis=1) @ p, (2 * q * along**2 / free**3).sum(axis=1) @ p
    bent = left @ (p * (2 * first**2 / gap**3 + second / gap**2)).sum(axis=1)
    curvature = abs(bent / (left @ (p / gap**2).sum(axis=1)))
    steep = float((first / gap**2).sum() * (2 / curvature) ** 0.5)
    return Edge(found.lam, steep ** (-2 / 3))


def _leading_vector(matrix: Float[np.ndarray, "block block"]) -> Float[np.ndarray, " block"]:
    values, vectors = np.linalg.eig(matrix)
    return np.abs(np.real(vectors[:, np.argmax(np.abs(values))]))
