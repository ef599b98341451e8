r"""Weight matrices beside the linear model of learned noise: energies along directions of the data, and what they give.

Directions p of the data and their variances come from different samples: p from those with even numbers, ℓ = pᵀSp from
the others: the largest eigenvalues of a sample are too large along its own directions. S is the second moment about
zero, as least squares has it, about the mean where the matrix has a bias. With energies |W p|² like ℓ^(−β),
`sample_covariance` has the law of σ for the population ℓ^(−β), and the overlaps of its singular vectors with every p.
That law and Marchenko–Pastur's both have the matrix's own median σ.

A power law gives every strong direction less than the average, or every one more, and a matrix can do both: signal
along some combinations of them, hardly anything along others. Columns count with their lengths alone in a bulk that is
random, so do a block's singular values: W P, P the tenth of the strongest directions, is taken as given, and all else
as random with energies like ℓ^(−β) and the mean that they have (the law of given columns in `sample_covariance`).
That is the model *given* the strong directions; of independent entries it is chance, whatever tenth is taken.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jacspec.backend import numerics
from jacspec.spectra.bulk import quantiles
from jacspec.spectra.learned_noise import FEWEST, fit_exponent
from jacspec.spectra.random_matrix import counting_edges, marchenko_pastur_cdf
from jacspec.spectra.sample_covariance import SampleLaw, sample_law
from jacspec.spectra.svd import right_vectors
from jacspec.spectra.weight_metrics import gaussian_spectrum
from jacspec.studies.overlap import OF_MODEL
from jacspec.studies.overlap.activations import Moments, tenth

CHANCE_DRAWS, CHANCE = 40, 0.95
"""Gaussian matrices whose distance from Marchenko–Pastur is the level of chance, and the share of them below it."""

FEWEST_VALUES = 20
"""Singular values below which a tenth of them is too few."""

LEAST = 1e-6
"""What the strength of a direction is at least, over the mean of the others: a population has no zeros."""

MIDDLE = (0.4, 0.5)
"""The tenth that the smallest is compared with, as in the table of docs/sources/small_singular_values.md."""


class DataDirections(NamedTuple):
    """Directions of the data as columns, and the variance of other samples along each, descending.

    `strong` is the second moment of those other samples within the tenth of the strongest directions (`strongest`).
    `known` of them are of samples, not of their null space; `tokens` are those of the half that has fewer.
    """

    vectors: Float[np.ndarray, "n n"]
    variances: Float[np.ndarray, " n"]
    strong: Float[np.ndarray, "s s"]
    known: int
    tokens: int


def data_directions(whole: Moments, half: Moments, *, centred: bool) -> DataDirections:
    """Take directions from half of the samples, and the variances along them from the others.

    **Arguments:** `half`, of samples that `whole` has too; `centred`, whether about the mean.
    """
    # In NumPy: outside `numerics`, JAX would compute in float32.
    whole, half = (Moments(*map(np.asarray, each)) for each in (whole, half))
    others = _take_away(whole, half)
    first, other = (
        each.scatter / max(float(each.total), 1) + (0 if centred else np.outer(each.mean, each.mean))
        for each in (half, others)
    )
    vectors = np.linalg.eigh(first)[1]
    variances = np.einsum("ij,ij->j", vectors, other @ vectors)
    # Activations in float32 are right to its rounding, relative to the largest.
    floor = variances.max() * len(variances) * np.finfo(np.float32).eps ** 2
    tokens = int(min(half.total, others.total))
    # The first columns are the null space where tokens are few.
    usable = (variances > floor) & (np.arange(len(variances)) >= len(variances) - int(half.total) + centred)
    order = np.lexsort((-variances, ~usable))
    vectors = vectors[:, order]
    first_tenth = vectors[:, : tenth(len(vectors))]
    strong = first_tenth.T @ other @ first_tenth
    return DataDirections(vectors, variances[order], strong, int(usable.sum()), tokens)


def _take_away(whole: Moments, half: Moments) -> Moments:
    """Return the moments of what is in `whole` and not in `half`."""
    total = np.asarray(whole.total - half.total)
    mean = (whole.total * whole.mean - half.total * half.mean) / np.maximum(total, 1)
    shift = np.asarray(half.mean - mean)
    scatter = whole.scatter - half.scatter - half.total * total / np.maximum(whole.total, 1) * np.outer(shift, shift)
    return Moments(total, np.asarray(mean), np.asarray(scatter))


class AgainstModel(NamedTuple):
    """The columns `OF_MODEL` of a matrix, its profiles by index, and why columns are missing."""

    metrics: dict[str, float]
    profiles: dict[str, Float[np.ndarray, " k"]]
    reason: str


def hold_against_model(weight: Float[Array | np.ndarray, "m n"], data: DataDirections) -> AgainstModel:
    """Compare the spectrum of a matrix, and where its singular vectors lie, with what the model gives for its energies.

    **Arguments:** `weight` (out, in); `data`, of what enters it.
    """
    w = np.asarray(weight, np.float64)
    shape, k = (w.shape[0], w.shape[1]), min(w.shape)
    energies = np.square(w @ data.vectors).sum(axis=0)
    metrics = dict.fromkeys(OF_MODEL, float("nan"))
    profiles = {name: np.full(k, np.nan) for name in PROFILES}
    if not energies.max() > 0:
        return AgainstModel(metrics, profiles, "all zero: no energies")
    known = slice(0, data.known)
    found = fit_exponent(data.variances[known], energies[known])
    strong = tenth(w.shape[1])
    metrics |= {
        "model_tokens": float(data.tokens),
        "energy_exponent": found.value,
        "energy_exponent_low": found.low,
        "energy_exponent_high": found.high,
        "energy_strong": float(energies[:strong].mean() / energies.mean()) if data.known >= strong else float("nan"),
    }
    if found.directions < FEWEST:
        return AgainstModel(metrics, profiles, f"model: {found.directions} directions are fewer than {FEWEST}")
    if data.tokens < w.shape[1] or k < FEWEST_VALUES:
        few = f"half of the tokens, {data.tokens}, are fewer than its {w.shape[1]} dimensions"
        return AgainstModel(metrics, profiles, f"model: {few if k >= FEWEST_VALUES else 'too few singular values'}")
    with numerics("float64"):
        sigma, rows = (np.asarray(part[0]) for part in right_vectors(jnp.asarray(w)[None]))
    overlaps = np.square(rows @ data.vectors)
    population = _bounded(data) ** -found.value
    law = sample_law(population / population.mean(), w.shape[0])
    metrics |= _spectrum(sigma, shape, law) | _small_end(sigma, overlaps, data.variances, law, strong, shape)
    metrics |= _given_strong(w, sigma, energies, found.value, data)
    middle = float(np.median(sigma))
    predicted = law.quantiles()
    profiles |= {
        "energy": _grouped(energies / energies.mean(), k),
        "input_variance": _grouped(data.variances / data.variances.mean(), k),
        "model_singular_values": _to_median(np.sqrt(predicted), middle),
        "chance_singular_values": _to_median(_chance_quantiles(shape), middle),
        "strong_share": overlaps[:, :strong].sum(axis=1),
        "model_strong_share": law.overlaps(predicted)[:, :strong].sum(axis=1),
    }
    edge = "" if np.isfinite(metrics["below_found"]) else "model: no lower edge, nearly as many rows as columns"
    return AgainstModel(metrics, profiles, edge)


PROFILES = (
    "energy",
    "input_variance",
    "model_singular_values",
    "chance_singular_values",
    "strong_share",
    "model_strong_share",
)
"""Arrays of `spectra.nc` beside those of every run; energies and variances are means of n/k neighbours."""


def _bounded(data: DataDirections) -> Float[np.ndarray, " n"]:
    """Raise variances to what all but a hundredth have: a power of what hardly varies would be anything."""
    return np.maximum(data.variances, np.quantile(data.variances[: data.known], 0.01))


def _spectrum(sigma: Float[np.ndarray, " k"], shape: tuple[int, int], law: SampleLaw) -> dict[str, float]:
    """Compare σ with both laws, each of the same median, and count values below the lower edge of Marchenko–Pastur."""
    middle = float(np.median(sigma))
    variance = (middle / float(np.median(_chance_quantiles(shape)))) ** 2
    unit = middle**2 / float(np.median(law.quantiles()))
    low = counting_edges(shape, variance)[0]
    known = np.isfinite(low)
    return {
        "distance_chance": _chance_distance(shape),
        "distance_plain": _distance(marchenko_pastur_cdf(sigma[::-1], shape, variance)),
        "distance_model": _distance(law.count_below(sigma[::-1] ** 2 / unit) / sigma.size),
        "below_found": float((sigma < low).sum()) if known else float("nan"),
        "below_model": float(law.count_below(np.array([low**2 / unit]))[0]) if known else float("nan"),
    }


def _small_end(
    sigma: Float[np.ndarray, " k"],
    overlaps: Float[np.ndarray, "k n"],
    variances: Float[np.ndarray, " n"],
    law: SampleLaw,
    strong: int,
    shape: tuple[int, int],
) -> dict[str, float]:
    """Compare where the tenth of the smallest σ reads, and what it gives the output, with the model and with chance."""
    last = slice(-tenth(sigma.size), None)
    predicted = law.quantiles()
    expected = law.overlaps(predicted)
    return {
        "small_strong": float(overlaps[last, :strong].sum(axis=1).mean()),
        "small_strong_model": float(expected[last, :strong].sum(axis=1).mean()),
        "small_strong_chance": strong / len(variances),
        "small_output": _over_middle(sigma**2 * (overlaps @ variances)),
        "small_output_model": _over_middle(predicted * (expected @ variances)),
        "small_output_chance": _over_middle(_chance_quantiles(shape) ** 2),
    }


def _given_strong(
    weight: Float[np.ndarray, "m n"],
    sigma: Float[np.ndarray, " k"],
    energies: Float[np.ndarray, " n"],
    exponent: float,
    data: DataDirections,
) -> dict[str, float]:
    """Predict the small end from the matrix on the strongest directions, and a power law of the others' variances."""
    s = len(data.strong)
    _, found, rows = np.linalg.svd(weight @ data.vectors[:, :s])
    rest = _bounded(data)[s:] ** -exponent
    rest *= energies[s:].mean() / rest.mean()
    fixed = np.maximum(found**2, LEAST * rest.mean())
    law = sample_law(rest / rest.mean(), len(weight), fixed / rest.mean())
    variances = np.concatenate([np.einsum("ij,jk,ik->i", rows, data.strong, rows), data.variances[s:]])
    predicted = law.quantiles()
    unit = float(np.median(sigma)) ** 2 / float(np.median(predicted))
    shape = (weight.shape[0], weight.shape[1])
    low = counting_edges(shape, (float(np.median(sigma)) / float(np.median(_chance_quantiles(shape)))) ** 2)[0]
    return {
        "below_given": float(law.count_below(np.array([low**2 / unit]))[0]) if np.isfinite(low) else float("nan"),
        "small_output_given": _over_middle(predicted * (law.overlaps(predicted) @ variances)),
    }


def _over_middle(values: Float[np.ndarray, " k"]) -> float:
    """Return the mean of the last tenth over that of the tenth in the middle."""
    low, high = (int(share * values.size) for share in MIDDLE)
    return float(values[-tenth(values.size) :].mean() / values[low : max(high, low + 1)].mean())


def _to_median(values: Float[np.ndarray, " k"], middle: float) -> Float[np.ndarray, " k"]:
    return values * (middle / np.median(values))


def _grouped(values: Float[np.ndarray, " n"], count: int) -> Float[np.ndarray, " k"]:
    """Average neighbours so that `count` values are left."""
    return np.array([part.mean() for part in np.array_split(values, count)])


def _distance(share: Float[np.ndarray, " k"]) -> float:
    """Compute the Kolmogorov–Smirnov distance from a law of values whose shares at or below are given, ascending."""
    steps = np.arange(share.size + 1) / share.size
    return float(np.maximum(np.abs(share - steps[:-1]), np.abs(share - steps[1:])).max())


@functools.lru_cache(maxsize=64)
def _chance_quantiles(shape: tuple[int, int]) -> Float[np.ndarray, " k"]:
    """Give σ of Marchenko–Pastur at variance 1, one a singular value, descending."""
    grid, share = quantiles(shape)
    k = min(shape)
    return np.interp((np.arange(k) + 0.5) / k, share, grid)[::-1]


@functools.lru_cache(maxsize=64)
def _chance_distance(shape: tuple[int, int]) -> float:
    """Draw what 5 % of matrices of independent entries exceed as distance from Marchenko–Pastur of their own median."""
    middle = float(np.median(_chance_quantiles(shape)))
    found = []
    for seed in range(CHANCE_DRAWS):
        sigma = gaussian_spectrum(shape, seed)[::-1]
        found.append(_distance(marchenko_pastur_cdf(sigma, shape, (float(np.median(sigma)) / middle) ** 2)))
    return float(np.quantile(found, CHANCE))
