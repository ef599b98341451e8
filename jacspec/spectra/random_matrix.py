r"""Chance: the singular values of an M × N matrix (M ≤ N, q = M/N) with independent entries of mean 0, variance s².

λ = σ². As M and N grow, λ/(N s²) follows the law of Marchenko and Pastur between $(1 \mp \sqrt q)^2$, and the largest
and smallest λ, centred and scaled, the law of Tracy and Widom (β = 1).
"""

import functools

import numpy as np
from jaxtyping import Float
from scipy.special import airy

SQUARE = 1.15
"""N/M below which the smallest λ of a matrix that is not square is too near the hard edge for Tracy–Widom."""

TRACY_WIDOM_MEAN, TRACY_WIDOM_VARIANCE = -1.2065335745820, 1.607781034581
"""Of the law with β = 1 (Bornemann 2010); the tests compute them anew."""

NODES, REACH = 40, 24.0
"""Of the Gauss–Legendre rule for the Fredholm determinant, and how far it goes: Ai is below 1e-30 beyond.

From 40 nodes on chances down to 1e-292 are the same to a relative 1e-10; 32 are good to 1e-12 above 1e-27 only.
"""

_gauss_legendre = functools.lru_cache(np.polynomial.legendre.leggauss)
"""Nodes and weights of the rule of n points on [-1, 1], read only."""


def marchenko_pastur_edges(shape: tuple[int, int], variance: float) -> tuple[float, float]:
    r"""Return the edges of the law of σ: $s (\sqrt N \mp \sqrt M)$."""
    least, most = sorted(shape)
    scale = max(variance, 0.0) ** 0.5
    return scale * (most**0.5 - least**0.5), scale * (most**0.5 + least**0.5)


def marchenko_pastur_density(
    sigma: Float[np.ndarray, " point"], shape: tuple[int, int], variance: float
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
    sigma: Float[np.ndarray, " point"], shape: tuple[int, int], variance: float
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


@functools.lru_cache(maxsize=64)
def _quantiles(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the law at variance 1: σ on a grid, and the share at or below."""
    grid = np.linspace(*marchenko_pastur_edges(shape, 1.0), 2001)
    return grid, marchenko_pastur_cdf(grid, shape, 1.0)


def fit_bulk(sigma: Float[np.ndarray, " k"], shape: tuple[int, int]) -> float:
    """Estimate the variance of the bulk, outliers left out; NaN where no σ is positive.

    The scale that fits the quantiles between 10 % and 90 % by least squares; what lies more than 2 % beyond the edges
    of that scale is dropped, and the rest fitted again, until nothing changes or a fifth would be gone: then there is
    no bulk of this shape, and its distance says so.
    """
    values = np.sort(sigma[sigma > 0])
    if values.size < 3:
        return float("nan")
    grid, share = _quantiles((min(shape), max(shape)))
    scale, kept = float("nan"), values
    for _ in range(50):
        place = np.linspace(0.1, 0.9, 81)
        model = np.interp(place, share, grid)
        found = np.quantile(kept, place)
        scale = float(found @ model / (model @ model))
        remaining = values[(values > 0.98 * scale * grid[0]) & (values < 1.02 * scale * grid[-1])]
        if remaining.size < max(3, 0.8 * values.size) or remaining.size == kept.size:
            break
        kept = remaining
    return scale**2


def bulk_distance(sigma: Float[np.ndarray, " k"], shape: tuple[int, int], variance: float) -> float:
    """Compute the Kolmogorov–Smirnov distance of the σ between the edges from the law; NaN where none is."""
    if not variance > 0:
        return float("nan")
    low, high = marchenko_pastur_edges(shape, variance)
    inside = np.sort(sigma[(sigma >= low) & (sigma <= high)])
    if not inside.size:
        return float("nan")
    grid, share = _quantiles((min(shape), max(shape)))
    model = np.interp(inside / variance**0.5, grid, share)
    steps = np.arange(inside.size + 1) / inside.size
    return float(np.maximum(np.abs(model - steps[:-1]), np.abs(model - steps[1:])).max())


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


def largest_p_value(sigma_max: float, shape: tuple[int, int], variance: float) -> float:
    """Compute the chance of a largest singular value of at least `sigma_max`, `variance` being that of the entries.

    λ/s² is centred at (√(N−½) + √(M−½))² and scaled as Johnstone 2001, with Ma's 2012 halves, which make it accurate
    to second order. The estimate of s² moves with λ_1: for Gaussian entries their ratio is independent of it, so that
    the ratio has the variance of λ_1 less that of s², 2/(MN) relative (Nadler 2011), and the law is narrowed to that.
    """
    if not variance > 0:
        return float("nan")
    least, most = (np.sqrt(size - 0.5) for size in sorted(shape))
    centre = (most + least) ** 2
    scale = (most + least) * (1 / most + 1 / least) ** (1 / 3)
    shared = (centre / scale) ** 2 * 2 / (shape[0] * shape[1]) / TRACY_WIDOM_VARIANCE
    if shared >= 1:
        return float("nan")
    place = (sigma_max**2 / variance - centre) / scale
    return tracy_widom_sf(TRACY_WIDOM_MEAN + (place - TRACY_WIDOM_MEAN) / (1 - shared) ** 0.5)


def smallest_p_value(sigma_min: float, shape: tuple[int, int], variance: float) -> float:
    """Compute the chance of a smallest singular value of at most `sigma_min`.

    On the logarithmic scale of Ma 2012. A square matrix has a hard edge: 1 − exp(−x/2 − √x) at x = N λ/s² (Edelman
    1988). Between, where N/M is below `SQUARE`, neither holds: NaN.
    """
    m, n = sorted(shape)
    if not variance > 0:
        return float("nan")
    if m == n:
        x = n * sigma_min**2 / variance
        return float(-np.expm1(-x / 2 - x**0.5))
    if n < SQUARE * m:
        return float("nan")
    if not sigma_min > 0:
        return 0.0
    least, most = np.sqrt(m - 0.5), np.sqrt(n - 0.5)
    centre = (most - least) ** 2
    scale = (most - least) * (1 / least - 1 / most) ** (1 / 3) / centre
    middle = np.log(centre) + scale**2 / 8
    return tracy_widom_sf((middle - np.log(sigma_min**2 / variance)) / scale)
