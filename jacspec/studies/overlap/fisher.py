r"""Fisher spectrum of a weight matrix, and how sensitive the loss is to each of its singular values.

With $g_i$ the gradient of sample i's loss with respect to W (m, n), $F = \frac1N \sum_i g_i g_i^\top$ on its entries
has the eigenvalues of the Gram matrix $K_{ij} = \langle g_i, g_j \rangle / N$, N at most that are not zero. With
$W = \sum_k \sigma_k u_k v_k^\top$ the derivative with respect to $\sigma_k$ is $c_{ik} = u_k^\top g_i v_k$, so that
$F_k = \frac1N \sum_i c_{ik}^2$ is F along $u_k v_k^\top$. Along random directions u, v it is tr F / (m n) on average,
whatever the gradients; $S_k = m n F_k / \mathrm{tr} F$ is 1 there.

Gradients come as factors, $g_i = \sum_{t \in i} \delta_t x_t^\top$ (`gradients.py`):
$\langle g_i, g_j \rangle = \sum_{t \in i, s \in j} (\delta_t \cdot \delta_s)(x_t \cdot x_s)$.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jacspec.axes import Row
from jacspec.errors import JacspecError
from jacspec.interrupts import raise_interrupt
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.cores import lapack_threads
from jacspec.spectra.svd import leading_pairs
from jacspec.studies.overlap.activations import tenth
from jacspec.studies.overlap.fisher_columns import OF_FISHER
from jacspec.studies.overlap.gradients import Factors, Scored, linear_at, score_samples, stream_gradients

FEWEST = 8
"""Samples below which neither a spectrum nor an error over samples says anything."""

RANDOM_PAIRS, CHANCE_DRAWS, SPECTRUM_DRAWS, CHANCE_SEED = 400, 199, 19, 0
"""Random pairs u, v whose sensitivity is measured too; draws of gradients in independent directions, and of their
eigenvalues."""

ROWS = 512
"""Tokens whose products with all others are held at once."""


class FisherProfile(NamedTuple):
    """What is said of one matrix: S_k by singular value, F's eigenvalues over its trace, the columns `OF_FISHER`.

    `chance` are the eigenvalues of gradients in independent directions; `reason` is why some of all that is missing,
    empty where nothing is.
    """

    sensitivity: Float[np.ndarray, " k"]
    eigenvalues: Float[np.ndarray, " sample"]
    chance: Float[np.ndarray, " sample"]
    values: Mapping[str, float]
    reason: str = ""

    def join(
        self, metrics: Mapping[str, float], profiles: Mapping[str, np.ndarray], reason: str
    ) -> tuple[dict[str, float], dict[str, np.ndarray], str]:
        """Add what is said here to the columns, the arrays by index and the reason of a matrix."""
        arrays = {
            "sensitivity": self.sensitivity,
            "fisher_eigenvalues": self.eigenvalues,
            "fisher_chance": self.chance,
        }
        said = "; ".join(part for part in (reason, self.reason) if part)
        return {**metrics, **self.values}, {**profiles, **arrays}, said


FisherOfBlock = Mapping[str, FisherProfile]
"""By place, as `attn.q`."""


FisherOfBlocks = Callable[[Collection[int]], Mapping[int, FisherOfBlock]]
"""What measures F at blocks of some numbers."""


def prepare_fisher(
    checkpoint: Checkpoint,
    tokens: Sequence[Sequence[int]],
    *,
    count: int,
    drawn_labels: bool,
    seed: int,
    memory_gib: float,
) -> FisherOfBlocks | None:
    """Choose `count` samples to measure F from; None where they are 0.

    **Raises:** `JacspecError` for a number that says nothing, and as `score_samples`.
    """
    if not count:
        return None
    if count < FEWEST:
        raise JacspecError(f"overlap.fisher={count} is too few. Type overlap.fisher=64, or 0 for none.")
    scored = score_samples(checkpoint, tokens, count=count, seed=seed)
    return functools.partial(
        fisher_of_blocks, checkpoint, scored=scored, drawn_labels=drawn_labels, memory_gib=memory_gib
    )


def fisher_of_blocks(
    checkpoint: Checkpoint, wanted: Collection[int], *, scored: Scored, drawn_labels: bool, memory_gib: float
) -> dict[int, FisherOfBlock]:
    """Measure F of every matrix of the blocks `wanted`, by block and place; as `stream_gradients`, which see."""
    found: dict[int, FisherOfBlock] = {}
    for own in stream_gradients(checkpoint, scored, wanted, drawn_labels=drawn_labels, memory_gib=memory_gib):
        raise_interrupt()
        found[own.number] = {
            place: measure_fisher(linear_at(own.block, place).weight[...], factors, own.owner, scored.counts)
            for place, factors in own.factors.items()
        }
    return found


def without_fisher(row: Row) -> Row:
    """Add empty columns and arrays to the row of a head, of whose products no gradient is taken."""
    sigma = row.arrays["singular_values"]
    none, missing = np.full(1, np.nan), dict.fromkeys(OF_FISHER, float("nan"))
    nothing = FisherProfile(np.full_like(sigma, np.nan), none, none, missing)
    values, arrays, reason = nothing.join(row.values, row.arrays, row.reason)
    return row._replace(values=values, arrays=arrays, reason=reason)


def measure_fisher(
    weight: Float[Array | np.ndarray, "m n"],
    factors: Factors,
    owner: Int[np.ndarray, " token"],
    counts: Int[np.ndarray, " sample"],
) -> FisherProfile:
    """Measure F of a matrix.

    **Arguments:** `owner`, the number of each token's sample; `counts`, the tokens that each sample's loss is the mean
    of.

    **Returns:** NaN where all gradients are zero; of a matrix of zeros, whose singular vectors are arbitrary, along
    these.

    Cost: 2 T² (m + n) FLOPs of T tokens, 2 T (m + n)(k + 400), and an SVD.
    """
    samples, (m, n) = len(counts), weight.shape
    gram = gradient_gram(factors, owner, samples)
    squares = np.diagonal(gram)
    left, sigma, right = (np.asarray(part[0]) for part in leading_pairs(jnp.asarray(weight)[None], min(m, n)))
    along = gradients_along(factors, owner, samples, left, right)
    random = gradients_along(factors, owner, samples, *random_pairs(m, n, factors.inputs.dtype.name))
    spectrum, chance, values = _measure_spectrum(gram, m * n)
    if not squares.sum() > 0 or not sigma[0] > 0:
        reason = "" if squares.sum() > 0 else "all gradients are zero"
        return FisherProfile(np.full(len(sigma), np.nan), spectrum, chance, values, reason)
    scale = m * n / squares.sum()
    values["sensitivity_spread"] = float((scale * np.square(random).sum(axis=0)).std() / np.sqrt(tenth(len(sigma))))
    parts = {}
    for end, part in tenths(len(sigma)).items():
        parts[end] = np.square(along[:, part]).mean(axis=1)
        values[f"sensitivity_{end}"] = float(scale * parts[end].sum())
        values[f"sensitivity_{end}_error"] = jackknife(m * n * parts[end], squares)
        values[f"crossed_{end}"] = float(scale) * _crossed(factors, owner, samples, left[:, part], right[:, part])
        values[f"removal_{end}"] = float(0.5 * (counts * np.square(along[:, part] @ sigma[part])).mean())
    values["sensitivity_ratio"] = float(parts["bottom"].sum() / parts["middle"].sum())
    values["sensitivity_ratio_error"] = jackknife(parts["bottom"], parts["middle"], logarithm=True)
    reason = "" if tenth(len(sigma)) > 1 else "a tenth of one singular value: none to cross it with"
    return FisherProfile(scale * np.square(along).sum(axis=0), spectrum, chance, values, reason)


def _measure_spectrum(
    gram: Float[np.ndarray, "sample sample"], entries: int
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"], dict[str, float]]:
    """Compute F's eigenvalues over its trace, those of independent directions, and the columns; others are NaN."""
    samples, total = len(gram), float(np.trace(gram))
    values = dict.fromkeys(OF_FISHER, float("nan"))
    values |= {"fisher_samples": float(samples), "fisher_trace": total / samples}
    if not total > 0:
        return np.full(samples, np.nan), np.full(samples, np.nan), values
    spectrum, level = _eigenvalues(gram / total), independent_level(np.diagonal(gram) / total, entries)
    values |= {
        "fisher_top": float(spectrum[0]),
        "fisher_top_chance": float(level.eigenvalues[0]),
        "fisher_participation": _participation(gram / total),
        "fisher_participation_chance": level.participation,
        "fisher_participation_low": level.participation_low,
        "fisher_mean": float(gram.sum() / samples / total),
    }
    return spectrum, level.eigenvalues, values


def tenths(count: int) -> dict[str, slice]:
    """Say which of `count` singular values in descending order are the largest, the middle and the smallest tenth."""
    size = tenth(count)
    middle = (count - size) // 2
    return {"top": slice(0, size), "middle": slice(middle, middle + size), "bottom": slice(count - size, count)}


def gradient_gram(
    factors: Factors, owner: Int[np.ndarray, " token"], samples: int
) -> Float[np.ndarray, "sample sample"]:
    """Compute all products ⟨g_i, g_j⟩ of the gradients of samples, in float64 from sums in the factors' own type."""
    belongs = _belongs(factors, owner, samples)
    missing = -len(owner) % ROWS
    inputs, slopes, own = (np.pad(part, [(0, missing), (0, 0)]) for part in (*factors, belongs))
    gram = np.asarray(_gram(inputs, slopes, own), np.float64)
    return (gram + gram.T) / 2


def _belongs(factors: Factors, owner: Int[np.ndarray, " token"], samples: int) -> Float[np.ndarray, "token sample"]:
    found: np.ndarray = (owner[:, None] == np.arange(samples)).astype(factors.inputs.dtype)
    return found


@jax.jit
def _gram(
    inputs: Float[Array | np.ndarray, "token n"],
    slopes: Float[Array | np.ndarray, "token m"],
    belongs: Float[Array | np.ndarray, "token sample"],
) -> Float[Array, "sample sample"]:
    inputs, slopes, belongs = (jnp.asarray(part) for part in (inputs, slopes, belongs))

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        x, delta, own = part
        return total + own.T @ (((delta @ slopes.T) * (x @ inputs.T)) @ belongs), None

    parts = tuple(part.reshape(-1, ROWS, part.shape[1]) for part in (inputs, slopes, belongs))
    return jax.lax.scan(add, jnp.zeros((belongs.shape[1],) * 2, inputs.dtype), parts)[0]


def gradients_along(
    factors: Factors,
    owner: Int[np.ndarray, " token"],
    samples: int,
    left: Float[np.ndarray, "m k"],
    right: Float[np.ndarray, "n k"],
) -> Float[np.ndarray, "sample k"]:
    """Compute uᵀ g_i v of every sample and pair of columns."""
    found = _along(*factors, _belongs(factors, owner, samples), *_cast(factors, left, right))
    return np.asarray(found, np.float64)


def _cast(factors: Factors, *arrays: np.ndarray) -> list[np.ndarray]:
    return [np.asarray(array, factors.inputs.dtype) for array in arrays]


@jax.jit
def _along(
    inputs: Float[Array | np.ndarray, "token n"],
    slopes: Float[Array | np.ndarray, "token m"],
    belongs: Float[Array | np.ndarray, "token sample"],
    left: Float[Array | np.ndarray, "m k"],
    right: Float[Array | np.ndarray, "n k"],
) -> Float[Array, "sample k"]:
    return jnp.asarray(belongs).T @ ((jnp.asarray(slopes) @ left) * (jnp.asarray(inputs) @ right))


def _crossed(
    factors: Factors,
    owner: Int[np.ndarray, " token"],
    samples: int,
    left: Float[np.ndarray, "m k"],
    right: Float[np.ndarray, "n k"],
) -> float:
    """Sum (u_kᵀ g_i v_l)² over samples, the mean over pairs k ≠ l; NaN where there is one vector alone."""
    count = left.shape[1]
    if count < 2:
        return float("nan")
    total = 0.0
    read, back = factors.inputs @ _cast(factors, right)[0], factors.slopes @ _cast(factors, left)[0]
    for sample in range(samples):
        own = owner == sample
        squares = np.square(back[own].T @ read[own])
        total += float(squares.sum() - np.trace(squares))
    return total / (count * (count - 1))


@functools.lru_cache(maxsize=4)
def random_pairs(m: int, n: int, dtype: str) -> tuple[Float[np.ndarray, "m pair"], Float[np.ndarray, "n pair"]]:
    """Draw `RANDOM_PAIRS` pairs of independent unit vectors, as columns."""
    rng = np.random.default_rng([CHANCE_SEED, m, n])
    left, right = (rng.standard_normal((size, RANDOM_PAIRS)) for size in (m, n))
    left, right = (each / np.linalg.norm(each, axis=0) for each in (left, right))
    return left.astype(dtype), right.astype(dtype)


def jackknife(
    above: Float[np.ndarray, " sample"], below: Float[np.ndarray, " sample"], *, logarithm: bool = False
) -> float:
    """Estimate the standard error of Σ above / Σ below, or of its logarithm, leaving out one sample at a time."""
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (above.sum() - above) / (below.sum() - below)
        left = np.log(left) if logarithm else left
    return float(np.sqrt((len(left) - 1) * np.square(left - left.mean()).mean()))


def _eigenvalues(gram: Float[np.ndarray, "sample sample"]) -> Float[np.ndarray, " sample"]:
    """Return eigenvalues in descending order, none below zero by rounding."""
    with lapack_threads():
        return np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0)


def _participation(gram: Float[np.ndarray, "sample sample"]) -> float:
    """Compute (Σλ)²/Σλ² of a symmetric matrix of trace 1: over its squared entries."""
    return float(1 / np.square(gram).sum())


class IndependentLevel(NamedTuple):
    """What gradients in independent directions have: mean eigenvalues, mean participation ratio, one in 100 below."""

    eigenvalues: Float[np.ndarray, " sample"]
    participation: float
    participation_low: float


def independent_level(shares: Float[np.ndarray, " sample"], entries: int) -> IndependentLevel:
    r"""Draw the Fisher spectrum, of trace 1, of gradients in independent directions.

    Of N unit vectors in as many dimensions as W has `entries`, with the samples' own `shares` of the trace. Their
    products are those of the rows of Bartlett's triangle (the Cholesky factor of a Wishart matrix), which needs N²
    numbers, not N · entries.
    """
    rng, samples = np.random.default_rng([CHANCE_SEED, len(shares), entries]), len(shares)
    rank = min(samples, entries)
    eigenvalues, participation = np.zeros(samples), np.empty(CHANCE_DRAWS)
    for draw in range(CHANCE_DRAWS):
        rows = np.tril(rng.standard_normal((samples, samples)), -1)[:, :rank]
        rows[np.arange(rank), np.arange(rank)] = np.sqrt(rng.chisquare(entries - np.arange(rank)))
        rows *= (np.sqrt(shares) / np.linalg.norm(rows, axis=1))[:, None]
        gram = rows @ rows.T
        participation[draw] = _participation(gram)
        if draw < SPECTRUM_DRAWS:
            eigenvalues += _eigenvalues(gram) / SPECTRUM_DRAWS
    return IndependentLevel(eigenvalues, float(participation.mean()), float(np.quantile(participation, 0.01)))
