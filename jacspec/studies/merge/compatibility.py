r"""How alike the weights of two checkpoints of one architecture are, matrix by matrix: spectra and leading subspaces.

What is compared are the weights themselves and, beside a common base, task vectors $\tau = W - W_{base}$ (Ilharco et
al. 2023): those of two models with each other, and each with the base's own weights.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.subspaces import Leading, leading_subspaces, principal_angles
from jacspec.spectra.weight_metrics import js_distance
from jacspec.studies.merge import ARRAYS, BASE, COMPATIBILITY, TASKS, WEIGHTS
from jacspec.studies.merge.confidence import (
    LEADING,
    condition_of,
    condition_of_chance,
    confidence_of,
    trusted_share,
)
from jacspec.studies.merge.recipes import kept_values


class Comparison(NamedTuple):
    """Two matrices to compare, by their places among the models' weights and, beyond these, their task vectors."""

    compared: str
    first: int
    second: int


class Subject(NamedTuple):
    """A matrix as it is compared: itself, its spectrum and leading subspaces, its effective rank."""

    matrix: Float[np.ndarray, "m n"]
    leading: Leading
    effective_rank: float


def list_comparisons(models: int, *, has_base: bool) -> list[Comparison]:
    """List what is compared of one matrix of `models` checkpoints, the first of which is the base where there is one.

    Weights have the numbers of their models; the task vector of model i ≥ 1 has the number `models` + i − 1.
    """
    pairs = [(first, second) for first in range(models) for second in range(first + 1, models)]
    found = [Comparison(WEIGHTS, *pair) for pair in pairs]
    if has_base:
        own = [(first + models - 1, second + models - 1) for first, second in pairs if first]
        found += [Comparison(TASKS, *pair) for pair in own]
        found += [Comparison(BASE, models + index, 0) for index in range(models - 1)]
    return found


def examine(
    weights: Sequence[np.ndarray], *, has_base: bool, top_k: int, dtype: str, memory_bytes: float
) -> list[Subject]:
    """Decompose the same matrix of all models, and their task vectors where the first model is the base.

    Differences are taken in float64, then all is computed in `dtype`.
    """
    matrices = [values.astype(dtype) for values in weights]
    if has_base:
        base = weights[0].astype(np.float64)
        matrices += [(values.astype(np.float64) - base).astype(dtype) for values in weights[1:]]
    found = list(leading_subspaces(matrices, top_k, memory_bytes=memory_bytes))
    sigma = jnp.asarray(np.stack([each.sigma for each in found]))
    metrics = compute_metrics(("effective_rank",), sigma, shape=_shape(matrices[0]))
    ranks = np.asarray(metrics["effective_rank"], np.float64)
    return [Subject(*parts) for parts in zip(matrices, found, ranks.tolist(), strict=True)]


def compare(
    first: Subject, second: Subject, *, share: float, alpha: float = 0.5, strength: float = 0.5, seed: int = 0
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute every row of `COMPATIBILITY` and the arrays behind them; NaN beside a matrix of zeros.

    **Arguments:** `share`, of the nuclear norm, that the values kept make up; `alpha`, the share of the second in a
    merge, and `strength`, how far it grows where strengths differ; `seed`, of the draws of chance.
    """
    sigmas = [each.leading.sigma.astype(np.float64) for each in (first, second)]
    norms = [float(np.linalg.norm(sigma)) for sigma in sigmas]
    ranks = (first.effective_rank, second.effective_rank)
    vectors = {side: [getattr(each.leading, side) for each in (first, second)] for side in ("left", "right")}
    angles = {side: principal_angles(*pair) for side, pair in vectors.items()}
    found = {
        "cosine": _ratio(float(np.vdot(first.matrix, second.matrix)), norms[0] * norms[1]),
        "effective_rank_distance": _ratio(abs(ranks[0] - ranks[1]), max(ranks)),
        "spectrum_distance": _ratio(float(np.linalg.norm(sigmas[0] - sigmas[1])), math.hypot(*norms)),
        "shape_distance": float(js_distance(*(sigma[None] for sigma in sigmas))[0]),
        "gap": float(np.min([_gap(each.leading) for each in (first, second)])),
    }
    for side, pair in vectors.items():
        found |= dict(_overlap(side, angles[side], *pair))
    for place, sigma, norm, rank in zip(("first", "second"), sigmas, norms, ranks, strict=True):
        found |= {f"norm_{place}": norm, f"effective_rank_{place}": rank}
        found[f"kept_{place}"] = float(kept_values(sigma, share))
        found[f"condition_{place}"] = condition_of(sigma)
        found[f"leading_condition_{place}"] = condition_of(sigma[:LEADING])
    ratio = _ratio(float(sigmas[0][0]), float(sigmas[1][0]))
    confidence = confidence_of(ratio)
    found |= {
        "norm_ratio": ratio,
        "confidence": confidence,
        "share_second": trusted_share(alpha, confidence, strength),
        "condition_chance": condition_of_chance(_shape(first.matrix), seed),
        "rank_variance": (ranks[0] - ranks[1]) ** 2 / 4,
    }
    arrays = dict(zip(ARRAYS, (*sigmas, angles["left"], angles["right"]), strict=True))
    return {name: found[name] for name in COMPATIBILITY}, arrays


def missing_reason(values: Mapping[str, float]) -> str:
    """Say why values of `compare` are missing; empty where none is."""
    zeros = [place for place in ("first", "second") if not values[f"norm_{place}"] > 0]
    return f"zero matrix ({' and '.join(zeros)}): no directions, no ratios" if zeros else ""


def _overlap(
    side: str, angles: Float[np.ndarray, " least"], first: Float[np.ndarray, "m p"], second: Float[np.ndarray, "m q"]
) -> Iterator[tuple[str, float]]:
    """Sum up the angles between two subspaces; chance is tr(P Q) of random ones, p q / m, over min(p, q)."""
    there = bool(angles.size)
    yield f"{side}_overlap", float(np.square(np.cos(np.deg2rad(angles))).mean()) if there else float("nan")
    yield f"{side}_chance", max(first.shape[1], second.shape[1]) / len(first) if there else float("nan")
    yield f"{side}_angle", float(angles[-1]) if there else float("nan")


def _shape(matrix: Float[np.ndarray, "m n"]) -> tuple[int, int]:
    return int(matrix.shape[0]), int(matrix.shape[1])


def _gap(leading: Leading) -> float:
    rank = leading.left.shape[1]
    if not rank:
        return float("nan")
    behind = leading.sigma[rank] if rank < leading.sigma.size else 0.0
    return float(1 - behind / leading.sigma[rank - 1])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")
