r"""How far one model is trusted beside another by their strongest singular values, as ModelCypher has it.

With $r = \sigma_1(A) / \sigma_1(B)$ of source A and target B, the confidence is $c = \min(r, 1/r)$. It says whether
both matrices act equally strongly, not whether they act on the same directions: independent matrices of one variance
have $c \approx 1$. A merge that gives B the share $\alpha$ gives it $\alpha' = \alpha + (1 - \alpha)(1 - c)\,s$ with
the strength s. A target with $\kappa > 100$ is called ill-conditioned, a pair with $c < 0.5$ a mismatch (Ethyros-AI
2025, ModelCypher, `core/domain/geometry/spectral_analysis.py`; its κ is over the ten largest values by default).

Random square matrices of n rows have a κ of about 5 n (Edelman 1988), so that κ > 100 by itself is what chance gives.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Shaped

from jacspec.spectra.svd import singular_values
from jacspec.spectra.weight_metrics import gaussian_eigenvalues
from jacspec.studies.merge import ILL_CONDITIONED, MISMATCH

LEADING, CEILING = 10, 1e6
"""How many values ModelCypher's κ is over by default, and the κ above which it no longer tells them apart."""
QUANTILE = 0.95


def confidence_of(ratio: float) -> float:
    """Compute min(r, 1/r): 1 where both are equally strong, 0 where one of them is nothing, NaN where both are."""
    return min(ratio, 1 / ratio) if ratio else 0.0


def trusted_share(share: float, confidence: float, strength: float) -> float:
    """Compute α + (1 − α)(1 − c) s, the share of the target; α itself, to the last bit, where c is 1 or s is 0."""
    penalty = (1 - confidence) * strength
    return share + (1 - share) * penalty if penalty else share


def condition_of(sigma: Float[np.ndarray, " k"]) -> float:
    """Compute σ₁ over the last of some singular values, at most `CEILING`; NaN of a zero matrix."""
    if not sigma[0] > 0:
        return math.nan
    return float(sigma[0] / max(sigma[-1], sigma[0] / CEILING))


def condition_of_chance(shape: tuple[int, int], seed: int) -> float:
    """Draw the κ that 5 % of Gaussian matrices of a shape are above."""
    eigenvalues = gaussian_eigenvalues((max(shape), min(shape)), seed)
    conditions = np.sqrt(eigenvalues[:, -1] / np.maximum(eigenvalues[:, 0], eigenvalues[:, -1] / CEILING**2))
    return float(np.quantile(conditions, QUANTILE))


def confidence_of_tensors(first: Shaped[np.ndarray, "..."], second: Shaped[np.ndarray, "..."], precision: str) -> float:
    """Compute the confidence of two tensors: by σ₁ of matrices, by the norm of all others."""
    pair = [tensor.astype(precision) for tensor in (first, second)]
    if first.ndim == 2:
        sizes = np.asarray(singular_values(pair))[:, 0].tolist()
    else:
        sizes = [float(np.linalg.norm(tensor)) for tensor in pair]
    return confidence_of(sizes[0] / sizes[1] if sizes[1] else 0.0)


def cautions(values: Mapping[str, float], most_variance: float | None) -> str:
    """Say what a pair is flagged for, by its columns; empty where nothing is.

    **Arguments:** `most_variance`, of the effective ranks, above which they are called different; None: never.
    """
    found = []
    if (condition := values["condition_second"]) > ILL_CONDITIONED:
        chance = condition <= values["condition_chance"]
        found.append("ill-conditioned, as by chance" if chance else "ill-conditioned")
    if values["confidence"] < MISMATCH:
        found.append("mismatch")
    if most_variance is not None and values["rank_variance"] > most_variance:
        found.append("ranks differ")
    return "; ".join(found)
