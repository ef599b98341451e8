r"""Singular vectors of weights beside the activations that enter them.

After "Small Singular Values Matter", eq. 6 and Fig. 3 to 5.
Let $W = \sum_k \sigma_k u_k v_k^\top$, and $C = \sum_j \lambda_j f_j f_j^\top$ the covariance of what enters W over the
tokens of a corpus, means removed. The overlap of a singular vector is $O_k = \max_j |v_k \cdot f_j|$ (absolute, as a
singular vector has no sign) over the principal directions of C. It depends on how ties of λ are broken; the relative
variance $n\, v_k^\top C v_k / \mathrm{tr}\, C$, 1 for a direction like any other, does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jacspec.backend import numerics
from jacspec.jacobians.streaming import Stream
from jacspec.models.block import Block
from jacspec.samples import Memory, Packing, PaddedBatch
from jacspec.spectra.bulk import FEWEST, fit_bulk
from jacspec.spectra.cores import lapack_threads
from jacspec.spectra.intrinsic_dimension import two_nn
from jacspec.spectra.random_matrix import beyond_edge, marchenko_pastur_edges
from jacspec.spectra.svd import Way, choose_way, right_vectors
from jacspec.spectra.variance_profile import profile_edges, profile_of
from jacspec.studies.overlap import OF_POINTS

ENOUGH = 10
"""Tokens a dimension, below which a sample covariance's directions are to be taken with care."""

NULL_DRAWS, NULL_SEED = 4000, 0
"""Random directions that the null level of the overlap is drawn from."""


NORMS_DRAWS = 1000
"""The same of directions with the column norms of a matrix, which have to be multiplied out."""


class Moments(NamedTuple):
    """What is known of vectors so far, in float64: how many, their mean, Σ (x − mean)(x − mean)ᵀ."""

    total: Float[Array | np.ndarray, ""]
    mean: Float[Array | np.ndarray, " n"]
    scatter: Float[Array | np.ndarray, "n n"]


class Profile(NamedTuple):
    """What is said of each singular value of a matrix, in descending order: σ, O, relative variance."""

    sigma: Float[np.ndarray, " k"]
    overlap: Float[np.ndarray, " k"]
    variance: Float[np.ndarray, " k"]


def input_moments(
    block: Block, streams: Sequence[Stream], batches: Sequence[PaddedBatch], *, half: bool = False
) -> dict[str, Moments]:
    """Accumulate the moments of what enters the matrices of a block over all tokens that count, by place.

    Batch by batch in float64 (Chan, Golub & LeVeque 1983): n² numbers a distinct input, d_ff² the largest. Matrices
    that read the same (q, k, v; up, gate; cross k, v) share their moments.

    **Arguments:** `half`, whether only samples with even numbers count.
    """
    found: dict[str, Moments] = {}
    for place, values, read, samples in _entering(block, streams, batches):
        with numerics("float64"):
            before = found.get(place, _nothing(values.shape[-1]))
            counted = read.holding(len(samples))
            found[place] = _accumulate(before, values, counted & _of_even(read, samples) if half else counted)
    return found


def _of_even(read: Packing, samples: Int[np.ndarray, " sample"]) -> Bool[np.ndarray, "pack place"]:
    """Say of each token, and of what is padding, whether its sample has an even number."""
    packs, slots, tokens = read.places.shape
    which = (np.arange(packs)[:, None] * slots + np.asarray(read.rows) // tokens).clip(0, len(samples) - 1)
    even: np.ndarray = samples[which] % 2 == 0
    return even


def _entering(
    block: Block, streams: Sequence[Stream], batches: Sequence[PaddedBatch]
) -> Iterator[tuple[str, Float[Array, "pack source width"], Packing, Int[np.ndarray, " sample"]]]:
    """Yield what enters the matrices of a block, batch by batch: the place, the vectors, where samples lie in them."""
    for stream, padded in zip(streams, batches, strict=True):
        packing = stream.batch.packing
        inputs = _inputs(block, stream.hidden, packing, stream.memory)
        for place, values in inputs.items():
            read = stream.memory.length if place == "cross.k" and stream.memory is not None else packing
            assert isinstance(read, Packing)
            yield place, values, read, np.asarray(padded.samples)


def input_dimensions(
    block: Block, streams: Sequence[Stream], batches: Sequence[PaddedBatch], moments: Mapping[str, Moments], most: int
) -> dict[str, dict[str, float]]:
    """Estimate the columns `OF_POINTS` of what enters each place, from `most` tokens drawn without replacement.

    Which are drawn depends on the number of a sample and the position in it, not on batches. Beside them stand as many
    Gaussian points with the mean and the covariance of all tokens.

    **Arguments:** `moments`, from `input_moments`.
    """
    kept: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place, values, read, samples in _entering(block, streams, batches):
        lots, own = _lots(read, samples), np.asarray(values)[read.holding(len(samples))]
        if place in kept:
            lots, own = np.append(kept[place][0], lots), np.concatenate([kept[place][1], own])
        first = np.argsort(lots)[:most]
        kept[place] = lots[first], own[first]
    found = {}
    for place, own_moments in moments.items():
        with lapack_threads():
            points = two_nn(kept[place][1])
            drawn = two_nn(_gaussian_points(own_moments, points.points))
        numbers = (points.value, points.low, points.high, float(points.points), drawn.value, drawn.low, drawn.high)
        found[place] = dict(zip(OF_POINTS, numbers, strict=True))
    return found


def _lots(read: Packing, samples: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " token"]:
    """Draw a number for each token that counts, its sample's own at its position."""
    rows, (packs, slots, tokens) = np.asarray(read.rows), read.places.shape
    counted = read.holding(len(samples))
    which = (np.arange(packs)[:, None] * slots + rows // tokens)[counted]
    drawn = np.stack([np.random.default_rng([NULL_SEED, int(sample)]).random(tokens) for sample in samples])
    found: np.ndarray = drawn[which, (rows % tokens)[counted]]
    return found


def _gaussian_points(moments: Moments, count: int) -> Float[np.ndarray, "point n"]:
    eigenvalues, vectors, _ = principal_directions(moments)
    rng = np.random.default_rng([NULL_SEED, count, len(vectors)])
    return rng.standard_normal((count, eigenvalues.size)) * np.sqrt(eigenvalues) @ vectors.T


SAME_INPUT = {"attn.k": "attn.q", "attn.v": "attn.q", "cross.v": "cross.k", "mlp.gate": "mlp.up"}
"""Places that read what another reads, whose moments serve them."""


@jax.jit
def _inputs(
    block: Block, h: Float[Array, "pack place d_model"], packing: Packing, memory: Memory | None
) -> dict[str, Float[Array, "pack source width"]]:
    whole = jax.vmap(block.matrix_inputs)(h, packing, memory)
    return {place: values for place, values in whole.items() if place not in SAME_INPUT}


def _nothing(n: int) -> Moments:
    return Moments(np.zeros(()), np.zeros(n), np.zeros((n, n)))


@jax.jit
def _accumulate(so_far: Moments, values: Float[Array, "pack place n"], counted: Bool[Array, "pack place"]) -> Moments:
    x = values.reshape(-1, values.shape[-1]).astype(jnp.float64)
    weight = counted.reshape(-1, 1).astype(jnp.float64)
    count = jnp.sum(weight)
    mean = jnp.sum(x * weight, axis=0) / jnp.maximum(count, 1)
    away = (x - mean[None]) * weight
    shift, total = mean - so_far.mean, so_far.total + count
    share = so_far.total * count / jnp.maximum(total, 1)
    scatter = so_far.scatter + away.T @ away + share * jnp.outer(shift, shift)
    return Moments(total, so_far.mean + shift * count / jnp.maximum(total, 1), scatter)


def principal_directions(
    moments: Moments,
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "n r"], Float[np.ndarray, "n n"]]:
    """Return the eigenvalues of a covariance above rounding, descending, their directions as columns, and itself."""
    covariance = np.asarray(moments.scatter) / max(float(moments.total) - 1, 1)
    with lapack_threads():
        values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], 0) * len(values) * np.finfo(np.float32).eps
    return values[kept], vectors[:, kept], covariance


def compute_profile(
    weight: Float[Array, "m n"], directions: Float[np.ndarray, "n r"], covariance: Float[np.ndarray, "n n"]
) -> Profile:
    """Compute O_k and the relative variance of every right singular vector of a matrix.

    **Arguments:** `weight` (out, in); `directions` and `covariance` of its inputs, from `principal_directions`.
    """
    # `gram` computes in float64 what it takes and gives in float32.
    kept = choose_way(weight.dtype) is Way.gram
    with numerics("float64"):
        sigma, rows = (
            np.asarray(part[0], np.float64)
            for part in right_vectors(jnp.asarray(weight, weight.dtype if kept else jnp.float64)[None])
        )
    return profile_along(sigma, rows, directions, covariance)


def profile_along(
    sigma: Float[np.ndarray, " k"],
    rows: Float[np.ndarray, "k n"],
    directions: Float[np.ndarray, "n r"],
    covariance: Float[np.ndarray, "n n"],
) -> Profile:
    """Compute O_k and the relative variance along unit vectors, the rows, of these singular values."""
    overlap = np.abs(rows @ directions).max(axis=1) if directions.size else np.full(len(rows), np.nan)
    total = float(np.trace(covariance))
    captured = np.einsum("kn,kn->k", rows @ covariance, rows)
    relative = captured * len(covariance) / total if total > 0 else np.full(len(rows), np.nan)
    if not sigma[0] > 0:  # its singular vectors are LAPACK's choice
        overlap, relative = np.full((2, len(rows)), np.nan)
    return Profile(sigma, overlap, relative)


def null_overlap(n: int, r: int) -> tuple[float, float]:
    """Return the mean and the 99 % quantile of max_j |v · f_j| for random directions v in n dimensions, r of them f_j.

    By Monte Carlo: `NULL_DRAWS` directions from the normalised Gaussian, with a seed of its own.
    """
    rng = np.random.default_rng([NULL_SEED, n, r])
    largest = np.empty(NULL_DRAWS)
    for start in range(0, NULL_DRAWS, 250):
        drawn = rng.standard_normal((min(250, NULL_DRAWS - start), n), dtype=np.float32)
        largest[start : start + len(drawn)] = np.abs(drawn[:, :r]).max(axis=1, initial=0.0) / np.linalg.norm(
            drawn, axis=1
        )
    return float(largest.mean()), float(np.quantile(largest, 0.99))


class OwnNorms(NamedTuple):
    """What a matrix with its own row and column norms, independent otherwise, would have.

    The mean and the 99 % quantile of max_j |v · f_j| and the relative variance of directions v whose entries have the
    column norms; the σ that its smallest and its largest value pass in one of a hundred draws.
    """

    overlap: float
    overlap_99: float
    variance: float
    low: float
    high: float


def own_norms(
    weight: Float[np.ndarray, "m n"], directions: Float[np.ndarray, "n r"], covariance: Float[np.ndarray, "n n"]
) -> OwnNorms:
    """Draw `NORMS_DRAWS` directions with the column norms of a matrix, and find the edges of its norms; NaN without."""
    missing = OwnNorms(*[float("nan")] * 5)
    total, profile = float(np.trace(covariance)), profile_of(weight)
    if profile is None or not directions.size or not total > 0:
        return missing
    squares = np.einsum("ij,ij->j", weight, weight, dtype=np.float64)
    share = squares / squares.sum()
    scaled = (np.sqrt(share)[:, None] * directions).astype(np.float32)
    drawn = np.random.default_rng([NULL_SEED, *weight.shape]).standard_normal((NORMS_DRAWS, len(share)), np.float32)
    largest = np.abs(drawn @ scaled).max(axis=1) / np.sqrt(np.square(drawn) @ share.astype(np.float32))
    relative = len(share) * float(share @ np.diagonal(covariance)) / total
    found = missing._replace(
        overlap=float(largest.mean()), overlap_99=float(np.quantile(largest, 0.99)), variance=relative
    )
    if min(profile.shape) < FEWEST:
        return found
    low, high = profile_edges(profile)
    return found._replace(low=beyond_edge(low, -1), high=beyond_edge(high, 1))


def tenth(count: int) -> int:
    """Say how many of `count` values are a tenth, one at least."""
    return max(1, count // 10)


def summarise_profile(
    profile: Profile,
    shape: tuple[int, int] | None,
    variance_of_entries: float,
    count: float,
    eigenvalues: Float[np.ndarray, " r"],
    null: tuple[float, float],
    norms: OwnNorms,
) -> dict[str, float]:
    """Compute the columns `OVERLAP` of one matrix; NaN where there is nothing to average (see `missing_reason`).

    **Arguments:** `shape`, None of a product, which has no bulk of its own; `variance_of_entries`, of the matrix, NaN
    of a product; `count`, of tokens; `eigenvalues`, of the covariance; `null`, from `null_overlap`.
    """
    sigma, overlap, variance = profile
    decile = tenth(sigma.size)
    missing = float("nan"), float("nan")
    low, high = fit_bulk(sigma, shape).edges if shape is not None else missing
    mp_low, mp_high = marchenko_pastur_edges(shape, variance_of_entries) if shape is not None else missing
    chance, chance_99 = null
    known = bool(np.isfinite(overlap).all())

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if values.size else float("nan")

    return {
        "tokens": count,
        "covariance_rank": float(eigenvalues.size),
        "input_participation_ratio": float(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum())
        if eigenvalues.size
        else float("nan"),
        "overlap_mean": mean(overlap),
        "overlap_top": mean(overlap[:decile]),
        "overlap_bottom": mean(overlap[-decile:]),
        "overlap_above": mean(overlap[sigma > high]),
        "overlap_below": mean(overlap[sigma < low]),
        "overlap_mp_above": mean(overlap[sigma > mp_high]),
        "overlap_mp_within": mean(overlap[(sigma >= mp_low) & (sigma <= mp_high)]),
        "overlap_mp_below": mean(overlap[sigma < mp_low]),
        "overlap_null": chance,
        "overlap_null_99": chance_99,
        "beyond_null": float((overlap > chance_99).mean()) if known else float("nan"),
        "overlap_norms": norms.overlap,
        "overlap_norms_99": norms.overlap_99,
        "beyond_norms": float((overlap > norms.overlap_99).mean())
        if known and np.isfinite(norms.overlap_99)
        else float("nan"),
        "overlap_norms_above": mean(overlap[sigma > norms.high]),
        "overlap_norms_below": mean(overlap[sigma < norms.low]),
        "variance_top": mean(variance[:decile]),
        "variance_bottom": mean(variance[-decile:]),
        "variance_norms": norms.variance,
        "mp_low": mp_low,
        "mp_high": mp_high,
        "bulk_low": low,
        "bulk_high": high,
        "norms_low": norms.low,
        "norms_high": norms.high,
    }


def missing_reason(sigma: Float[np.ndarray, " k"], metrics: Mapping[str, float], *, of_product: bool = False) -> str:
    """Say why columns are missing; empty where none is."""
    if not metrics["covariance_rank"]:
        return "input without variance: no principal directions"
    if not sigma[0] > 0:
        return "all zero: no singular directions"
    if of_product:
        below = "" if np.isfinite(metrics["rounding_share"]) else "; below full rank: the last vectors are arbitrary"
        return f"a product of factors: no bulk and no edges of its own (task=heads has them){below}"
    reasons = []
    if np.isnan(metrics["bulk_high"]):
        reasons.append("no bulk of one variance is identified")
    elif sides := [side for side in ("above", "below") if np.isnan(metrics[f"overlap_{side}"])]:
        reasons.append(f"no singular value {' or '.join(sides)} the bulk")
    if sides := [side for side in ("above", "below") if np.isnan(metrics[f"overlap_mp_{side}"])]:
        reasons.append(f"none {' or '.join(sides)} Marchenko–Pastur")
    if sides := [side for side in ("above", "below") if np.isnan(metrics[f"overlap_norms_{side}"])]:
        reasons.append(f"none {' or '.join(sides)} what its norms give")
    return "; ".join(reasons)
