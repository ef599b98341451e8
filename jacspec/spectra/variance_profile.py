r"""Chance with the rows and columns of a matrix: independent entries of mean 0 whose variances are $r_i c_j$.

With λ beyond the spectrum the Dyson equations of that variance profile are two, in $u$ and $v$ (Zhang 2006; Couillet &
Hachem 2014): $\lambda u = A(v) = \sum_i \frac{r_i}{1 - r_i v}$ and $\lambda v = B(u) = \sum_j \frac{c_j}{1 - c_j u}$.
So $u B(u) = v A(v)$, which gives u for each v, and $\lambda = A(v)/u$ along that curve has its least value at the upper
edge (0 < v < 1/max r) and its largest at the lower one (v > 1/min r, u < 0, with r on the shorter side). Near an edge E
the density of λ is $\frac1\pi \gamma^{-3/2} \sqrt{|E - \lambda|}$, $\gamma^{-3/2} = \frac{|A'_v|}{E}
\sqrt{2 / |\lambda''|}$ with $A'_v = \sum_i r_i / (1 - r_i v)^2$, and (λ − E)/γ follows Tracy and Widom.
With all variances equal both edges and scales are those of Marchenko–Pastur and Johnstone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq

from jacspec.spectra.random_matrix import Edge, largest_edge, smallest_edge

NEAR = 1e-9
"""How near to an end of its range v is looked for, relative."""


class Profile(NamedTuple):
    """The variances of the entries, $r_i c_j$: `rows` of the shorter side, `columns` of the longer one, none zero."""

    rows: Float[np.ndarray, " m"]
    columns: Float[np.ndarray, " n"]

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns there are."""
        return self.rows.size, self.columns.size


def profile_of(matrix: Float[np.ndarray, "m n"]) -> Profile | None:
    r"""Take the profile of a matrix from the mean squares of its rows and columns; None where fewer than two have any.

    Those of n equal Gaussian entries spread too, by 2/n relative. As much of the observed spread is taken off, so that
    a matrix with entries of one variance has, within sampling, the profile of one variance. Rows of a fused tensor each
    have their own norm, so that blocks of different variances are in the profile.
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.einsum("ij,ij->i", short, short, dtype=np.float64)
        columns = np.einsum("ij,ij->j", short, short, dtype=np.float64)
    rows, columns = sorted((side[side > 0] for side in (rows, columns)), key=len)
    total = rows.sum()
    if min(rows.size, columns.size) < 2 or not np.isfinite(total):
        return None
    rows, columns = rows / total * rows.size, columns / total * columns.size
    equal = [2 * np.square(other).mean() / other.size for other in (columns, rows)]
    rows, columns = (_without_sampling(side, spread) for side, spread in zip((rows, columns), equal, strict=True))
    return Profile(rows * (total / (rows.size * columns.size)), columns)


def _without_sampling(side: Float[np.ndarray, " n"], spread: float) -> Float[np.ndarray, " n"]:
    """Draw values of mean 1 together until their variance is less by `spread`."""
    observed = side.var(ddof=1)
    return 1 + (side - 1) * (max(1 - spread / observed, 0.0) ** 0.5 if observed > 0 else 0.0)


def profile_edges(profile: Profile) -> tuple[Edge | None, Edge]:
    """Find both edges of λ with their Tracy–Widom scales; no lower one where the shape is too near to square.

    The corrections of Ma 2012 for finite sizes are those of the shape, so that with equal variances these are the edges
    of `random_matrix`.
    """
    shape = profile.shape
    high = _corrected(_upper(*profile), largest_edge(shape), shape, 1)
    low = smallest_edge(shape)
    return low and _corrected(_lower(*profile), low, shape, -1), high


def _corrected(found: Edge, plain: Edge, shape: tuple[int, int], sign: int) -> Edge:
    """Carry over what finite sizes change of one variance."""
    least, most = (size**0.5 for size in sorted(shape))
    centre = (most + sign * least) ** 2
    scale = (most + sign * least) * abs(1 / most + sign / least) ** (1 / 3)
    return Edge(found.centre * plain.centre / centre, found.scale * plain.scale / scale)


def _upper(rows: Float[np.ndarray, " m"], columns: Float[np.ndarray, " n"]) -> Edge:
    widest = columns.max()
    scaled = columns / widest

    def beside(v: float) -> float:
        """Find u for v. The function is convex, and its largest term alone bounds u from above: Newton falls."""
        wanted = float((rows * v / (1 - rows * v)).sum())
        y = wanted / (1 + wanted)
        for _ in range(100):
            share = scaled / (1 - scaled * y)
            step = (y * share.sum() - wanted) / (share / (1 - scaled * y)).sum()
            y -= step
            if abs(step) < 1e-15 * y:
                break
        return y / widest

    end = 1 / rows.max()
    return _edge(rows, columns, beside, NEAR * end, (1 - NEAR) * end)


def _lower(rows: Float[np.ndarray, " m"], columns: Float[np.ndarray, " n"]) -> Edge:
    narrow, mean = rows.min(), columns.mean()

    def size(v: float) -> float:
        return float((rows * v / (rows * v - 1)).sum())

    def beside(v: float) -> float:
        """Find u for v. The function of −u is concave, and equal variances bound it from below: Newton rises."""
        wanted = size(v)
        w = wanted / (mean * (columns.size - wanted))
        for _ in range(100):
            share = columns / (1 + columns * w)
            step = (wanted - w * share.sum()) / (share / (1 + columns * w)).sum()
            w += step
            if abs(step) < 1e-15 * w:
                break
        return -w

    # In 1/v, whose range has two ends: what v has to exceed, and infinity.
    first = brentq(lambda x: size(1 / x) - columns.size, 1e-12 * narrow, (1 - 1e-12) * narrow, xtol=1e-300)
    return _edge(rows, columns, beside, 1 / ((1 - 1e-6) * first), 1 / (1e-6 * first))


def _edge(
    rows: Float[np.ndarray, " m"],
    columns: Float[np.ndarray, " n"],
    beside: Callable[[float], float],
    first: float,
    last: float,
) -> Edge:
    """Find where λ is stationary along the curve, between two values of v."""

    def slope(v: float) -> float:
        """Compute the derivative of ln λ."""
        u = beside(v)
        share, other = 1 / (1 - rows * v), 1 / (1 - columns * u)
        change = (rows * share**2).sum() / (u * (columns * other**2).sum())
        return float((rows**2 * share**2).sum() / (rows * share).sum() - change)

    v = brentq(slope, first, last, xtol=1e-300, rtol=1e-12)
    edge = float((rows / (1 - rows * v)).sum() / beside(v))
    step = 1e-4 * min(abs(v), abs(v - 1 / rows.max()), abs(v - 1 / rows.min()))
    curvature = edge * abs(slope(v + step) - slope(v - step)) / (2 * step)
    steep = float((rows / (1 - rows * v) ** 2).sum()) / edge * (2 / curvature) ** 0.5
    return Edge(edge, steep ** (-2 / 3))
