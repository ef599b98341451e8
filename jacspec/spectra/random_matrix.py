r"""Chance: the singular values of an M × N matrix (M ≤ N, q = M/N) with independent entries of mean 0, variance s².

λ = σ². As M and N grow, λ/(N s²) follows the law of Marchenko and Pastur between $(1 \mp \sqrt q)^2$, and the largest
and smallest λ, centred and scaled, the law of Tracy and Widom (β = 1).
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import airy

Sides = tuple[int | float, int | float]
"""Both sides of a matrix; not whole numbers where spikes have taken their part of a bulk."""

SQUARE = 1.15
"""N/M below which the smallest λ of a matrix that is not square is too near the hard edge for Tracy–Widom."""

TRACY_WIDOM_MEAN, TRACY_WIDOM_VARIANCE = -1.2065335745820, 1.607781034581
"""Of the law with β = 1 (Bornemann 2010); the tests compute them anew."""

TRACY_WIDOM_99 = 2.0234493
"""What 1 % of such variables exceed."""

FEWEST_ROWS, DRAWS = 16, 9999
"""Rows below which Tracy–Widom is too rough (10 % instead of 1 % at 4 × 8), and draws that stand in for it there."""

NODES, REACH = 40, 24.0
"""Of the Gauss–Legendre rule for the Fredholm determinant, and how far it goes: Ai is below 1e-30 beyond.

From 40 nodes on chances down to 1e-292 are the same to a relative 1e-10; 32 are good to 1e-12 above 1e-27 only.
"""

_gauss_legendre = functools.lru_cache(np.polynomial.legendre.leggauss)
"""Nodes and weights of the rule of n points on [-1, 1], read only."""


def marchenko_pastur_edges(shape: Sides, variance: float) -> tuple[float, float]:
    r"""Return the edges of the law of σ: $s (\sqrt N \mp \sqrt M)$."""
    least, most = sorted(shape)
    scale = max(variance, 0.0) ** 0.5
    return scale * (most**0.5 - least**0.5), scale * (most**0.5 + least**0.5)


def marchenko_pastur_density(
    sigma: Float[np.ndarray, " point"], shape: Sides, variance: float
) -> Float[np.ndarray, " point"]:
    r"""Compute the density of σ: $\frac{\sqrt{(b-x)(x-a)}}{2 \pi q x} \frac{dx}{d\sigma}$, $x = \sigma^2 / (N s^2)$."""
    least, most = sorted(shape)
    q, unit = least / most, most * variance
    x = np.square(sigma) / unit
    inside = np.clip(((1 + q**0.5) ** 2 - x) * (x - (1 - q**0.5) ** 2), 0, None)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.sqrt(inside) / (np.pi * q * x) * sigma / unit
    # At q = 1 the density of σ is finite at zero: a quarter circle.
    return np.where(x > 0, density, 2 / (np.pi * unit**0.5) if q == 1 else 0.0)


def marchenko_pastur_cdf(
    sigma: Float[np.ndarray, " point"], shape: Sides, variance: float
) -> Float[np.ndarray, " point"]:
    r"""Compute the share of σ at or below each point.

    With $x = 1 + q + 2 \sqrt q \cos\theta$ the density in θ is $-\frac{2 \sin^2\theta}{\pi x}$, and its integral
    $1 + \frac{1}{2 \pi q} (2 \sqrt q \sin\theta - (1 + q) \theta + 2 (1 - q) \arctan(\frac{1 - \sqrt q}{1 + \sqrt q}
    \tan\frac\theta2))$, right to about eps/q.
    """
    least, most = sorted(shape)
    q = least / most
    root = q**0.5
    x = np.square(np.maximum(sigma, 0)) / (most * variance)
    theta = np.arccos(np.clip((x - 1 - q) / (2 * root), -1, 1))
    angle = np.arctan2((1 - root) * np.sin(theta / 2), (1 + root) * np.cos(theta / 2))
    return 1 + (2 * root * np.sin(theta) - (1 + q) * theta + 2 * (1 - q) * angle) / (2 * np.pi * q)


def tracy_widom_sf(x: float) -> float:
    r"""Compute the chance that a Tracy–Widom variable (β = 1) exceeds x.

    $F_1(x) = \det(1 - V)$ with $V(u, v) = \frac12 \mathrm{Ai}(\frac{u + v}{2} + x)$ on the half-line (Ferrari & Spohn
    2005), by Gauss–Legendre (Bornemann 2010). The product over the eigenvalues keeps small chances accurate.
    """
    if not np.isfinite(x):
        return float("nan") if np.isnan(x) else float(x < 0)
    if x < -12:
        return 1.0
    if x > 104:
        return 0.0  # exp(-2/3 x^1.5) is below the smallest double
    nodes, weights = _gauss_legendre(NODES)
    # Ai falls as exp(-2/3 x^1.5): little lies beyond.
    half = (REACH + 2 * max(-x, 0.0)) / 2
    nodes, roots = half * (nodes + 1), np.sqrt(half * weights)
    # The lower triangle, all that eigvalsh reads: Ai is what takes the time.
    rows, columns = np.tril_indices(NODES)
    kernel = np.zeros((NODES, NODES))
    kernel[rows, columns] = 0.5 * airy((nodes[rows] + nodes[columns]) / 2 + x)[0] * roots[rows] * roots[columns]
    eigenvalues = np.minimum(np.linalg.eigvalsh(kernel), 1 - 1e-16)
    return float(max(-np.expm1(np.log1p(-eigenvalues).sum()), 0.0))


class Edge(NamedTuple):
    """Where an extreme λ lies at variance 1, and the scale of Tracy–Widom there; both in units of λ."""

    centre: float
    scale: float


def largest_edge(shape: Sides) -> Edge:
    """Return where the largest λ lies: (√(N−½) + √(M−½))², scaled as Johnstone 2001, with Ma's 2012 halves."""
    least, most = (np.sqrt(size - 0.5) for size in sorted(shape))
    return Edge(float((most + least) ** 2), float((most + least) * (1 / most + 1 / least) ** (1 / 3)))


def smallest_edge(shape: Sides) -> Edge | None:
    """Return where the smallest λ lies, as Ma 2012; None where N/M is below `SQUARE`."""
    m, n = sorted(shape)
    if n < SQUARE * m:
        return None
    least, most = np.sqrt(m - 0.5), np.sqrt(n - 0.5)
    return Edge(float((most - least) ** 2), float((most - least) * (1 / least - 1 / most) ** (1 / 3)))


def beyond_edge(edge: Edge | None, sign: int, variance: float = 1.0) -> float:
    """Return the σ beyond an edge, the upper one (`sign` 1) or the lower one (−1), in one of a hundred draws."""
    if edge is None or not variance > 0:
        return float("nan")
    if sign > 0:
        return float((variance * (edge.centre + TRACY_WIDOM_99 * edge.scale)) ** 0.5)
    scale = edge.scale / edge.centre
    return float((variance * edge.centre * np.exp(scale**2 / 8 - TRACY_WIDOM_99 * scale)) ** 0.5)


def counting_edges(shape: Sides, variance: float) -> tuple[float, float]:
    """Return the σ that the smallest and the largest value each pass in one of a hundred draws; NaN without an edge."""
    return beyond_edge(smallest_edge(shape), -1, variance), beyond_edge(largest_edge(shape), 1, variance)


def chance_above(lam: float, edge: Edge, spread: float) -> float:
    """Compute the chance of a largest λ of at least `lam`, given for a variance of 1.

    The estimate of the variance, whose own relative variance is `spread`, moves with λ_1: for Gaussian entries of one
    variance their ratio is independent of it, so that the ratio has the variance of λ_1 less that of the estimate
    (Nadler 2011), and the law is narrowed to that.
    """
    shared = (edge.centre / edge.scale) ** 2 * spread / TRACY_WIDOM_VARIANCE
    if shared >= 1:
        return float("nan")
    place = (lam - edge.centre) / edge.scale
    return tracy_widom_sf(TRACY_WIDOM_MEAN + (place - TRACY_WIDOM_MEAN) / (1 - shared) ** 0.5)


def chance_below(lam: float, edge: Edge) -> float:
    """Compute the chance of a smallest λ of at most `lam`, given for a variance of 1, on Ma's logarithmic scale."""
    if not lam > 0:
        return 0.0
    scale = edge.scale / edge.centre
    return tracy_widom_sf((np.log(edge.centre) + scale**2 / 8 - np.log(lam)) / scale)


def largest_p_value(sigma_max: float, shape: Sides, variance: float) -> float:
    """Compute the chance of a largest singular value of at least `sigma_max`, `variance` being that of the entries.

    Below `FEWEST_ROWS` on the shorter side by `DRAWS` draws, so that it is no less than 1/(`DRAWS` + 1); NaN of a row.
    """
    if not variance > 0 or min(shape) < 2:
        return float("nan")
    if min(shape) < FEWEST_ROWS:
        drawn = _largest_of_draws((int(min(shape)), int(max(shape))))
        above = drawn.size - np.searchsorted(drawn, sigma_max**2 / variance)
        return float((1 + above) / (1 + drawn.size))
    return chance_above(sigma_max**2 / variance, largest_edge(shape), 2 / (shape[0] * shape[1]))


@functools.lru_cache(maxsize=64)
def _largest_of_draws(shape: tuple[int, int]) -> Float[np.ndarray, " draw"]:
    r"""Draw λ_1 over the variance of the entries about their mean, in ascending order.

    Singular values by the bidiagonal form of Gaussian matrices (see `gaussian_spectrum`); the sum of all entries is
    $\sqrt{MN} \sum_i \sigma_i u_i v_i$ with u and v parts of unit vectors of random direction.
    """
    m, n = shape
    rng = np.random.default_rng([DRAWS, m, n])
    bidiagonal = np.zeros((DRAWS, m, m))
    index = np.arange(m)
    bidiagonal[:, index, index] = np.sqrt(rng.chisquare(n - index, (DRAWS, m)))
    bidiagonal[:, index[:-1], index[1:]] = np.sqrt(rng.chisquare(m - 1 - index[:-1], (DRAWS, m - 1)))
    lam = np.linalg.svd(bidiagonal, compute_uv=False) ** 2
    u, v = rng.normal(size=(2, DRAWS, m))
    others = rng.chisquare(n - m, DRAWS) if n > m else np.zeros(DRAWS)
    lengths = np.square(u).sum(axis=1) * (np.square(v).sum(axis=1) + others)
    square_of_mean = np.square((np.sqrt(lam) * u * v).sum(axis=1)) / lengths / (m * n)
    return np.sort(lam[:, 0] / (lam.sum(axis=1) / (m * n) - square_of_mean))


def smallest_p_value(sigma_min: float, shape: Sides, variance: float) -> float:
    """Compute the chance of a smallest singular value of at most `sigma_min`, `variance` being that of the bulk.

    A square matrix has a hard edge: 1 − exp(−x/2 − √x) at x = N λ/s² (Edelman 1988). Where N/M is below `SQUARE`,
    neither that nor Tracy–Widom holds: NaN.
    """
    m, n = sorted(shape)
    if not variance > 0:
        return float("nan")
    if m == n:
        x = n * sigma_min**2 / variance
        return float(-np.expm1(-x / 2 - x**0.5))
    edge = smallest_edge(shape)
    return chance_below(sigma_min**2 / variance, edge) if edge else float("nan")
