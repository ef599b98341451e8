r"""What is measured of a head: singular values and eigenvalues of its products, moments of elements, chance.

$W_{QK} = W_Q^\top W_K$ and $W_{OV} = W_O W_V$ are d_model × d_model of rank d_head at most and are never formed whole.
What stands between the factors or beside them is left out: rotations of rotary models, query–key norms, biases, the
scale 1/√d_head. Everything but the moments of the products is computed in float64 on the host, so that small singular
values are those of the stored weights.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float
from scipy.special import ndtri

from jacspec.backend import numerics
from jacspec.models.block import Block
from jacspec.spectra.cores import map_on_cores
from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.products import (
    Ends,
    Norms,
    Standing,
    ends_of,
    norms_of,
    norms_products,
    plain_products,
    product_edges,
    product_npr,
    stand,
    turned_products,
)
from jacspec.studies.head_factors import Pair, head_factors, modes_of
from jacspec.studies.heads import NULLS

ROW_BLOCK = 128
"""Rows of a product that are in memory at once for its moments."""

BINS = 32
"""Of equal probability, in which elements are counted beside the normal law."""

MOMENTS = ("element_mean", "element_std", "element_skewness", "element_kurtosis")
FACTOR = ("std", "kurtosis", "kl")


class HeadProducts(NamedTuple):
    """One kind of product of every query head of a block.

    `moments`: mean, standard deviation, skewness, excess kurtosis of its d_model² elements; `left` and `right`: of
    the elements of its factors standard deviation, excess kurtosis, Kullback–Leibler divergence from the normal law;
    `rounding`: what rounding of the stored weights moves the smallest singular value by; `cores`: triangular factors
    whose product has its singular values; `norms`: of the factors' rows and columns; `stored`: the type of the weights.
    """

    sigma: Float[np.ndarray, "head d_head"]
    eigenvalues: Complex[np.ndarray, "head d_head"]
    moments: Float[np.ndarray, "head 4"]
    left: Float[np.ndarray, "head 3"]
    right: Float[np.ndarray, "head 3"]
    rounding: Float[np.ndarray, " head"]
    cores: tuple[Float[np.ndarray, "head d_head d_head"], Float[np.ndarray, "head d_head d_head"]]
    norms: tuple[Norms, Norms]
    stored: np.dtype


def head_products(block: Block) -> dict[str, HeadProducts]:
    r"""Measure `qk` and `ov` of every query head of a block.

    With $W_Q^\top = Q_1 R_1$, $W_K^\top = Q_2 R_2$ the singular values of $W_Q^\top W_K$ are those of $R_1 R_2^\top$,
    and its eigenvalues that are not zero those of $W_K W_Q^\top$: O(d_model · d_head²) a head. Query heads that share a
    key or value head (GQA) share its factor. Moments of order 3 and 4 do not factor cheaply: `ROW_BLOCK` rows of a
    product are made at a time, O(d_model² · d_head) a head.
    """
    left, right = head_factors(block)
    return {name: measure_products(left[name], right[name]) for name in left}


def measure_products(
    left: Float[Array, "kv_head group d_head d_model"], right: Float[Array, "kv_head d_head d_model"]
) -> HeadProducts:
    """Measure one kind of product; see `head_products`."""
    moments = np.asarray(_moments(left, right)).reshape(-1, len(MOMENTS))
    group = left.shape[1]
    first, second = (np.asarray(part).reshape(-1, *part.shape[-2:]) for part in (left, right))
    heads = list(zip(first, np.repeat(second, group, axis=0), strict=True))
    left_roots, right_roots = (np.stack(map_on_cores(_root, part)) for part in (first, second))
    cores = left_roots, np.repeat(right_roots, group, axis=0)
    sigma = np.stack(map_on_cores(_product_values, *cores))
    eigenvalues = np.stack(map_on_cores(_eigenvalues, heads))
    rounding = np.array([modes.rounding for modes in map_on_cores(modes_of, heads)])
    beside = [np.stack(map_on_cores(factor_moments, part)) for part in (first, second)]
    norms = norms_of(list(first)), norms_of(list(second))
    right_beside = np.repeat(beside[1], group, axis=0)
    return HeadProducts(sigma, eigenvalues, moments, beside[0], right_beside, rounding, cores, norms, first.dtype)


def _root(factor: Float[np.ndarray, "d_head d_model"]) -> Float[np.ndarray, "d_head d_head"]:
    return np.asarray(np.linalg.qr(factor.astype(np.float64).T, mode="r"))


def _product_values(
    left: Float[np.ndarray, "d_head d_head"], right: Float[np.ndarray, "d_head d_head"]
) -> Float[np.ndarray, " d_head"]:
    return np.linalg.svd(left @ right.T, compute_uv=False)


def _eigenvalues(pair: Pair) -> Complex[np.ndarray, " d_head"]:
    left, right = (part.astype(np.float64) for part in pair)
    return np.linalg.eigvals(right @ left.T).astype(np.complex128)


def factor_moments(factor: Float[np.ndarray, "d_head d_model"]) -> Float[np.ndarray, " 3"]:
    """Compute the standard deviation of the elements, their excess kurtosis, and how far they are from a normal law.

    That is the Kullback–Leibler divergence, in nats, of their shares in `BINS` intervals that a normal law of their
    mean and variance has equal shares in: (BINS − 3)/(2n) on average of n normal elements. NaN where all are equal.
    """
    elements = factor.astype(np.float64).ravel()
    away = elements - elements.mean()
    std = float(np.sqrt(np.square(away).mean()))
    if not std > 0:
        return np.array([std, np.nan, np.nan])
    inner = std * ndtri(np.arange(1, BINS) / BINS)
    share = np.bincount(np.searchsorted(inner, away), minlength=BINS) / away.size
    some = share[share > 0]
    return np.array([std, np.mean((away / std) ** 4) - 3, (some * np.log(BINS * some)).sum()])


@jax.jit
def _moments(
    left: Float[Array, "kv_head group d_head d_model"], right: Float[Array, "kv_head d_head d_model"]
) -> Float[Array, "kv_head group 4"]:
    d_head, d_model = right.shape[1:]
    padding = -d_model % ROW_BLOCK

    def head(factors: tuple[Array, Array]) -> Array:
        one, other = factors
        rows = jnp.pad(one, [(0, 0), (0, padding)]).reshape(d_head, -1, ROW_BLOCK)
        mean = jnp.mean(one, axis=1) @ jnp.mean(other, axis=1)
        counts = (jnp.arange(d_model + padding) < d_model).reshape(-1, ROW_BLOCK)

        def powers(part: tuple[Array, Array]) -> Array:
            row, there = part
            away = jnp.where(there[:, None], row.T @ other - mean, 0)
            return jnp.stack([jnp.sum(away**power) for power in (2, 3, 4)]) / (d_model * d_model)

        second, third, fourth = jnp.sum(jax.lax.map(powers, (jnp.moveaxis(rows, 1, 0), counts)), axis=0)
        safe = jnp.where(second > 0, second, jnp.nan)
        return jnp.stack([mean, jnp.sqrt(second), third / safe**1.5, fourth / safe**2 - 3])

    kv_heads, group = left.shape[:2]
    repeated = jnp.broadcast_to(right[:, None], left.shape).reshape(-1, d_head, d_model)
    found = jax.lax.map(head, (left.reshape(-1, d_head, d_model), repeated))
    return found.reshape(kv_heads, group, 4)


SPECTRAL_METRICS = ("normalized_participation_ratio", "sigma_participation_ratio", "spectral_entropy", "effective_rank")
"""Rows of `METRICS` that columns of heads come from."""


def head_metrics(sigma: Float[np.ndarray, "head d_head"]) -> dict[str, Float[np.ndarray, " head"]]:
    """Compute the rows of `HEADS` that come from singular values, in float64; NaN where a head is all zero."""
    sigma = sigma.astype(np.float64)
    lam, d_head = sigma**2, sigma.shape[1]
    whole = sigma[:, 0] > 0
    with numerics("float64"):
        shared = compute_metrics(SPECTRAL_METRICS, jnp.asarray(sigma), shape=(d_head, d_head))
    table = {name: np.asarray(values) for name, values in shared.items()}
    full_rank = sigma[:, -1] > sigma[:, 0] * d_head * float(np.finfo(np.float64).eps)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = np.where(full_rank, sigma[:, 0] / sigma[:, -1], np.nan)
    found = {
        "lambda_0": lam[:, 0],
        "lambda_sum": lam.sum(axis=1),
        "lambda_square_sum": np.square(lam).sum(axis=1),
        "npr_lambda": table["normalized_participation_ratio"],
        "npr_sigma": table["sigma_participation_ratio"] / d_head,
        "spectral_entropy": table["spectral_entropy"],
        "effective_rank": table["effective_rank"],
        "kappa_sigma": kappa,
        "kappa_lambda": np.square(kappa),
    }
    return {name: np.where(whole, values, np.nan) for name, values in found.items()}


def eigenvalue_metrics(eigenvalues: Complex[np.ndarray, "head d_head"]) -> dict[str, Float[np.ndarray, " head"]]:
    """Compute the columns of the eigenvalues of the products that are not zero; NaN where all are."""
    size = np.abs(eigenvalues)
    whole = size.sum(axis=1) > 0
    with np.errstate(invalid="ignore"):
        found = {
            "eigenvalue_radius": size.max(axis=1),
            "positive_share": (eigenvalues.real > 0).mean(axis=1),
            "copying_score": eigenvalues.real.sum(axis=1) / size.sum(axis=1),
        }
    return {name: np.where(whole, values, np.nan) for name, values in found.items()}


class Chance(NamedTuple):
    """What the products of a block are compared with: as many draws of each null, from one seed."""

    draws: int
    seed: int


def describe_heads(products: HeadProducts, chance: Chance) -> list[dict[str, float]]:
    """Compute the columns of every head that its own block gives; q-values come of all."""
    tables = head_metrics(products.sigma) | eigenvalue_metrics(products.eigenvalues)
    tables |= dict(zip(MOMENTS, products.moments.astype(np.float64).T, strict=True))
    for side, values in (("left", products.left), ("right", products.right)):
        tables |= {f"{side}_{name}": column for name, column in zip(FACTOR, values.T, strict=True)}
    full_rank = np.isfinite(tables["kappa_sigma"])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (products.sigma[:, 0] / products.sigma[:, 1:2].max(axis=1, initial=0.0)) ** 2
        tables["lambda_gap"] = np.where(np.isfinite(ratio), ratio, np.nan)
        tables["rounding_share"] = np.where(full_rank, products.rounding / products.sigma[:, -1], np.nan)
    standing = _stand_all(products, chance, full_rank)
    return [
        {name: float(column[head]) for name, column in tables.items()} | standing[head]
        for head in range(len(products.sigma))
    ]


def _stand_all(products: HeadProducts, chance: Chance, full_rank: Bool[np.ndarray, " head"]) -> list[dict[str, float]]:
    """Compare every head with its three nulls; NaN where one is zero, or has no norms."""
    drawn = _draw_nulls(products, chance)
    found: list[dict[str, float]] = []
    for head, sigma in enumerate(products.sigma):
        row: dict[str, float] = {}
        for null, ends in drawn.items():
            own = Ends(*(part[:, head] if part.ndim > 1 else part for part in ends))
            there = sigma[0] > 0 and np.isfinite(own.top).all()
            at = stand(sigma, own, by_median=null != "turned") if there else Standing(*[float("nan")] * 5)
            if not full_rank[head]:
                at = at._replace(smallest_p=float("nan"), below=float("nan"))
            row |= {f"{null}_{name}": value for name, value in at._asdict().items()}
        row["gap_closed"] = float(row["plain_below"] > 0) if full_rank[head] else float("nan")
        found.append(row)
    return found


def _draw_nulls(products: HeadProducts, chance: Chance) -> dict[str, Ends]:
    """Draw the ends of each of `NULLS`, (draw) or (draw head)."""
    draws, seed = chance
    d_model, d_head = products.norms[0].columns.shape[1], products.sigma.shape[1]
    by_median, as_it_is = (functools.partial(ends_of, by_median=choice) for choice in (True, False))
    found = (
        by_median(plain_products(d_model, d_head, draws=draws, seed=seed)),
        norms_products(*products.norms, draws=draws, seed=seed, spectra=by_median),
        turned_products(*products.cores, draws=draws, seed=seed, spectra=as_it_is),
    )
    return dict(zip(NULLS, found, strict=True))


def baseline(d_model: int, d_head: int, chance: Chance) -> dict[str, Any]:
    """Sum up what Gaussian factors give: quantities that the scale of the factors does not change."""
    sigma = plain_products(d_model, d_head, draws=chance.draws, seed=chance.seed)
    drawn = head_metrics(sigma) | eigenvalue_metrics(plain_eigenvalues(d_model, d_head, chance))
    largest = sigma[:, 0] ** 2 / np.square(sigma).mean()
    return {
        "draws": chance.draws,
        "lambda_0 over mean": {"mean": float(largest.mean()), "sd": float(largest.std(ddof=1))},
        "metrics": {
            name: {"mean": float(np.nanmean(drawn[name])), "sd": float(np.nanstd(drawn[name], ddof=1))}
            for name in SCALE_FREE
        },
        "edges": list(product_edges(d_model, d_head)),
        "npr_lambda, exact": product_npr(d_model, d_head),
        "median sigma": np.median(sigma / np.sqrt(np.square(sigma).mean(axis=1, keepdims=True)), axis=0).tolist(),
    }


SCALE_FREE = (
    *("npr_lambda", "npr_sigma", "spectral_entropy", "effective_rank", "kappa_sigma", "kappa_lambda"),
    *("positive_share", "copying_score"),
)
"""Columns that the scale of the factors does not change."""


def plain_eigenvalues(d_model: int, d_head: int, chance: Chance) -> Complex[np.ndarray, "draw d_head"]:
    """Draw eigenvalues of products of two Gaussian factors."""

    def draw(number: int) -> np.ndarray:
        rng = np.random.default_rng([chance.seed, number, 1])
        return _eigenvalues((rng.standard_normal((d_head, d_model)), rng.standard_normal((d_head, d_model))))

    return np.stack(map_on_cores(draw, range(chance.draws)))
