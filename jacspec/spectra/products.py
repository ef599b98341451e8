r"""Chance for products of two factors: singular values of $A^\top B$, A and B being d_head × d_model.

Only d_head × d_head matrices are decomposed: with $A^\top = Q_A R_A$ and $B^\top = Q_B R_B$ the singular values are
those of $R_A R_B^\top$. Three nulls, each by draws:

- `plain`: A and B have independent Gaussian entries of one variance each. R is then triangular, with independent
  entries, χ on the diagonal (Bartlett 1933).
- `norms`: independent Gaussian entries whose variances are $r_i c_j$, with the row and column norms of the head's own
  A and B (`variance_profile`). Row i of A meets row i of B, so that rows stay in their order; columns are
  exchangeable, and those next to one another in size share their mean variance (`_steps`), which makes $A A^\top$ a
  sum of few Wishart matrices that all heads share.
- `turned`: $R_A O R_B^\top$ with O drawn from all rotations: each factor keeps its whole covariance, and how the two
  lie to one another is chance. This null has nothing to estimate: its p-values are exact.

Under the first two σ is in units of its median, so that a scale is not needed and values above the bulk do not move
it. A p-value is the share of draws at least as extreme. Where fewer than `COUNTED` draws are, the draws' ln σ are taken
to follow Tracy and Widom's law with their own mean and standard deviation: docs/chance.md has how well that holds.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.spectra.cores import map_on_cores
from jacspec.spectra.random_matrix import (
    TRACY_WIDOM_99,
    TRACY_WIDOM_MEAN,
    TRACY_WIDOM_VARIANCE,
    tracy_widom_sf,
)
from jacspec.spectra.variance_profile import profile_of

COUNTED = 10
"""Draws at least as extreme from which on their share is the p-value."""

LEAST_P = 1e-6
"""The least p-value that is told: the law was compared with draws down to 1e-3."""

FEWEST_DRAWS = 19
"""Draws below which there are no p-values."""

ALONE, GROWTH = 16, 1.2
"""The largest column norms, each by itself, and by how much the groups of the others grow."""


class Norms(NamedTuple):
    """Variances $r_i c_j$ of the entries of a batch of factors."""

    rows: Float[np.ndarray, "factor d_head"]
    columns: Float[np.ndarray, "factor d_model"]


def norms_of(factors: Sequence[Float[np.ndarray, "d_head d_model"]]) -> Norms:
    """Take the profile of each factor, zero in its empty rows and columns; NaN where fewer than two have any norm."""
    shape = factors[0].shape
    rows, columns = (np.zeros((len(factors), size)) for size in shape)
    for row, column, factor in zip(rows, columns, factors, strict=True):
        squares = np.square(factor, dtype=np.float64)
        kept = squares.sum(axis=1) > 0, squares.sum(axis=0) > 0
        profile = profile_of(factor)
        if profile is None:
            row[:], column[:] = np.nan, np.nan
            continue
        # `profile_of` puts the shorter side first; where it is the columns, empty ones were left out.
        sides = profile if kept[0].sum() <= kept[1].sum() else profile[::-1]
        row[kept[0]], column[kept[1]] = (side[0] for side in sides)
    return Norms(rows, columns)


class Ends(NamedTuple):
    """ln σ of the largest and the smallest singular value, over the median's where that is the unit."""

    top: Float[np.ndarray, "*batch"]
    bottom: Float[np.ndarray, "*batch"]


def ends_of(sigma: Float[np.ndarray, "*batch k"], *, by_median: bool) -> Ends:
    """Take both ends of spectra in descending order; −∞ where the smallest is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.log(np.median(sigma, axis=-1)) if by_median else 0.0
        return Ends(np.log(sigma[..., 0]) - unit, np.log(sigma[..., -1]) - unit)


@functools.lru_cache(maxsize=8)
def plain_products(d_model: int, d_head: int, *, draws: int, seed: int) -> Float[np.ndarray, "draw d_head"]:
    """Draw singular values of products of two Gaussian factors, whose elements have variance 1.

    The variance of an element of the product of factors with unit variance is d_head.
    """

    def draw(number: int) -> np.ndarray:
        rng = np.random.default_rng([seed, number, d_head, d_model])
        left, right = np.tril(rng.standard_normal((2, d_head, d_head)), -1)
        for part in (left, right):
            np.fill_diagonal(part, np.sqrt(rng.chisquare(d_model - np.arange(d_head))))
        return np.linalg.svd(left.T @ right, compute_uv=False)

    return np.stack(map_on_cores(draw, range(draws))) / d_head**0.5


def norms_products(left: Norms, right: Norms, *, draws: int, seed: int, spectra: Callable[[np.ndarray], Ends]) -> Ends:
    """Draw products of Gaussian factors with these norms; several heads may share a right factor, one after another.

    **Returns:** what `spectra` takes from them, (draw head).
    """
    d_model = left.columns.shape[1]
    steps = _steps(d_model)
    sides = [(np.sqrt(np.nan_to_num(side.rows)), _by_step(side.columns, steps)) for side in (left, right)]
    group = len(left.rows) // len(right.rows)

    def draw(number: int) -> Ends:
        rng = np.random.default_rng([seed, number, d_model])
        grams = []
        for rows, columns in sides:
            entries = rng.standard_normal((d_model, rows.shape[1]), np.float32)
            parts = np.stack([part.T @ part for part in np.split(entries, steps[1:])]).astype(np.float64)
            grams.append(np.tensordot(columns, parts, 1) * rows[:, :, None] * rows[:, None, :])
        root = _root(grams[0])
        return spectra(_from_gram(np.swapaxes(root, 1, 2) @ np.repeat(grams[1], group, axis=0) @ root))

    return Ends(*(np.stack(part) for part in zip(*map_on_cores(draw, range(draws)), strict=True)))


def turned_products(
    left: Float[np.ndarray, "head k k"],
    right: Float[np.ndarray, "head k k"],
    *,
    draws: int,
    seed: int,
    spectra: Callable[[np.ndarray], Ends],
) -> Ends:
    """Draw products $R_A O R_B^T$ of triangular factors with rotations O, one a draw for all heads."""
    size = left.shape[-1]

    def draw(number: int) -> Ends:
        q, r = np.linalg.qr(np.random.default_rng([seed, number, size]).standard_normal((size, size)))
        core = left @ (q * np.sign(np.diagonal(r))) @ np.swapaxes(right, 1, 2)
        return spectra(_from_gram(core @ np.swapaxes(core, 1, 2)))

    return Ends(*(np.stack(part) for part in zip(*map_on_cores(draw, range(draws)), strict=True)))


def _from_gram(grams: Float[np.ndarray, "head k k"]) -> Float[np.ndarray, "head k"]:
    """Take singular values from Gram matrices, right to 1e-8 of the largest: two thirds of the time of an SVD."""
    squares = np.linalg.eigvalsh(grams)[:, ::-1]
    return np.sqrt(np.maximum(squares, 1e-16 * squares[:, :1]))


def _root(gram: Float[np.ndarray, "factor k k"]) -> Float[np.ndarray, "factor k k"]:
    """Take lower triangular roots; empty rows are left to rounding."""
    size = gram.shape[-1]
    largest = np.trace(gram, axis1=1, axis2=2)[:, None, None]
    return np.linalg.cholesky(gram + np.maximum(1e-14 * largest, 1e-300) * np.eye(size))


def _steps(count: int) -> list[int]:
    """Say where groups of columns begin: the largest alone, the others in groups that grow."""
    found, width = [0], 1.0
    while found[-1] + int(width) < count:
        found.append(found[-1] + int(width))
        width *= GROWTH if len(found) > ALONE else 1.0
    return found


def _by_step(columns: Float[np.ndarray, "factor d_model"], steps: Sequence[int]) -> Float[np.ndarray, "factor step"]:
    ordered = np.sort(np.nan_to_num(columns), axis=1)[:, ::-1]
    return np.add.reduceat(ordered, steps, axis=1) / np.diff([*steps, columns.shape[1]])


class Standing(NamedTuple):
    """Where a spectrum stands beside a null.

    Chances of so large a σ_1 and of so small a smallest σ; how many σ are beyond what one draw in 100 passes on each
    side; σ_1 over the mean of the draws' (geometric).
    """

    largest_p: float
    smallest_p: float
    above: float
    below: float
    excess: float


def stand(sigma: Float[np.ndarray, " k"], drawn: Ends, *, by_median: bool) -> Standing:
    """Compare the singular values of one product, none zero, in descending order, with the ends of its null's draws."""
    with np.errstate(divide="ignore"):
        logs = np.log(sigma) - (np.log(np.median(sigma)) if by_median else 0.0)
    high, low = _level(drawn.top), -_level(-drawn.bottom)
    return Standing(
        p_value(float(logs[0]), drawn.top),
        p_value(-float(logs[-1]), -drawn.bottom),
        float((logs > high).sum()),
        float((logs < low).sum()),
        float(np.exp(logs[0] - drawn.top.mean())),
    )


def p_value(value: float, drawn: Float[np.ndarray, " draw"]) -> float:
    """Compute the chance of so large a value; see the module. NaN with fewer than `FEWEST_DRAWS`."""
    if drawn.size < FEWEST_DRAWS or not np.isfinite(drawn).all() or np.isnan(value):
        return float("nan")
    beyond = int((drawn >= value).sum())
    if beyond >= COUNTED:
        return (1 + beyond) / (1 + drawn.size)
    place = TRACY_WIDOM_MEAN + (value - drawn.mean()) / drawn.std(ddof=1) * TRACY_WIDOM_VARIANCE**0.5
    return float(min(max(tracy_widom_sf(float(place)), LEAST_P), (1 + COUNTED) / (1 + drawn.size)))


def _level(drawn: Float[np.ndarray, " draw"]) -> float:
    """Return what one draw in 100 passes, by the same law."""
    return float(drawn.mean() + drawn.std(ddof=1) * (TRACY_WIDOM_99 - TRACY_WIDOM_MEAN) / TRACY_WIDOM_VARIANCE**0.5)


def product_edges(d_model: int, d_head: int) -> tuple[float, float]:
    r"""Return the edges of λ of plain products at mean 1, as both sizes grow: free probability.

    Each Gram matrix has the S-transform $1/(1 + cz)$, $c$ = d_head/d_model, their product its square; the edges are
    $\frac{(1+z)(1+cz)^2}{z}$ where its derivative is zero, $2cz^2 + cz - 1 = 0$ (Voiculescu 1987).
    """
    c = d_head / d_model
    root = (c**2 + 8 * c) ** 0.5
    places = (-c - root) / (4 * c), (-c + root) / (4 * c)
    low, high = ((1 + z) * (1 + c * z) ** 2 / z for z in places)
    # With c = 1 the spectrum reaches to zero.
    return max(low, 0.0), high


def product_density(x: Float[np.ndarray, " point"], d_model: int, d_head: int) -> Float[np.ndarray, " point"]:
    r"""Compute the density of λ of plain products at mean 1, as both sizes grow, at points x > 0.

    With the S-transforms of `product_edges` $z(x) = x\,G(x) - 1$, G the Stieltjes transform, solves
    $(1+z)(1+cz)^2 = xz$; the density is $|\operatorname{Im} z| / (\pi x)$.
    """
    c = d_head / d_model
    companion = np.zeros((x.size, 3, 3))
    companion[:, 1, 0] = companion[:, 2, 1] = 1
    companion[:, :, 2] = -np.stack([np.ones(x.size), 1 + 2 * c - x, np.full(x.size, 2 * c + c**2)], axis=1) / c**2
    roots = np.linalg.eigvals(companion)
    return np.abs(roots.imag).max(axis=1) / (np.pi * x)


def product_npr(d_model: int, d_head: int) -> float:
    r"""Return (E Σλ)² / (d_head E Σλ²), the normalised participation ratio of λ that chance gives.

    Exact at every size, from $E[A B A] = n^2 B + n B^\top + n\,\mathrm{tr}(B)\,I$ of a Wishart matrix A of n
    degrees of freedom; 1/(1 + 2c) as both sizes grow. (The mean of the ratio itself differs by O(1/(n d_head)).)
    """
    n, p = d_model, d_head
    return n * n / ((n + 1) * (n + p + 1) + n * p + 2)
