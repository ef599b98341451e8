r"""A matrix and what was added to it: spectra of both and of the sum, and the singular vectors that are new.

$W' = W + \Delta W$. Of $\Delta W$ with independent entries of standard deviation $s$, $\sigma_i' - \sigma_i \approx
u_i^\top \Delta W v_i$ has the standard deviation $s$ (Stewart 1990), and $\sigma_1(\Delta W) \approx s (\sqrt{N} +
\sqrt{M})$. Intruder dimensions are Shuttleworth et al.'s (2024): $u_j'$ with $\max_i |u_j' \cdot u_i| < \varepsilon$.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jacspec.spectra.svd import leading_pairs, singular_values
from jacspec.studies.delta import ARRAYS, DELTA


class Decomposed(NamedTuple):
    """A thin SVD, singular vectors as columns, the largest value first."""

    left: Float[np.ndarray, "m k"]
    sigma: Float[np.ndarray, " k"]
    right: Float[np.ndarray, "n k"]

    @property
    def rank(self) -> int:
        """How many values are above rounding; the vectors of the others are arbitrary."""
        longest = max(len(self.left), len(self.right))
        return int((self.sigma > self.sigma[0] * longest * np.finfo(self.sigma.dtype).eps).sum())


def decompose(matrices: Sequence[Float[np.ndarray, "m n"]]) -> list[Decomposed]:
    """Compute the thin SVDs of matrices of one shape, in their own type; about 4 m n² + 8 n³ FLOPs each, m ≥ n."""
    found = leading_pairs(jnp.asarray(np.stack(matrices)), min(matrices[0].shape))
    return [Decomposed(*parts) for parts in zip(*map(np.asarray, found), strict=True)]


def measure(
    base: Float[np.ndarray, "m n"],
    model: Float[np.ndarray, "m n"],
    change: Float[np.ndarray, "m n"],
    inputs: Float[np.ndarray, "n r"] | None,
    *,
    top_k: int,
    threshold: float,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Compute every row of `DELTA` and the arrays behind them; NaN where a matrix is zero.

    **Arguments:** `change`, their difference; `inputs`, an orthonormal basis of what it reads, where its rank is known
    to be less; `threshold`, the ε below which a largest |cos| makes an intruder.
    """
    before, after = decompose([base, model])
    # (ΔW Q) Qᵀ has the singular values of ΔW Q.
    sigma = np.asarray(singular_values([change if inputs is None else change @ inputs])[0], np.float64)
    norm_base, norm_delta = (float(np.linalg.norm(each)) for each in (before.sigma, sigma))
    shifts = after.sigma.astype(np.float64) - before.sigma
    noise = norm_delta / math.sqrt(base.size)
    edge = noise * sum(map(math.sqrt, base.shape))
    matches = {
        "left": best_matches(before.left, before.rank, after.left, min(top_k, after.rank)),
        "right": best_matches(before.right, before.rank, after.right, min(top_k, after.rank)),
    }
    found = {
        "relative": _ratio(norm_delta, norm_base),
        "norm_base": norm_base,
        "norm_delta": norm_delta,
        "spectral_delta": float(sigma[0]),
        "stable_rank_delta": _ratio(norm_delta**2, float(sigma[0]) ** 2),
        "effective_rank_delta": _effective_rank(sigma),
        "noise": noise,
        "noise_edge": edge,
        "structure": _ratio(float(sigma[0]), edge),
        "below_noise": float((before.sigma < edge).sum()),
        "largest_shift": float(np.abs(shifts).max()),
        "median_shift": float(np.median(np.abs(shifts))),
        "smallest_shift": float(shifts[-1]),
    }
    for side, match in matches.items():
        found[f"intruders_{side}"] = float((match < threshold).sum()) if match.size else math.nan
        found[f"least_match_{side}"] = float(match.min()) if match.size else math.nan
    arrays = (before.sigma, after.sigma, sigma, *matches.values())
    values = {name: found[name] for name in DELTA}
    return values, dict(zip(ARRAYS, (np.asarray(each, np.float64) for each in arrays), strict=True))


def best_matches(
    before: Float[np.ndarray, "m k"], rank: int, after: Float[np.ndarray, "m k"], top_k: int
) -> Float[np.ndarray, " top"]:
    """Find of each of the first `top_k` columns of `after` the largest |cos| with one of the first `rank` of `before`.

    Vectors of the base beyond its rank are arbitrary and are nobody's counterpart.
    """
    if not rank:
        return np.zeros(0)
    return np.abs(before[:, :rank].T @ after[:, :top_k]).max(axis=0)


def missing_reason(values: Mapping[str, float]) -> str:
    """Say why values of `measure` are missing; empty where none is."""
    zeros = [what for what, name in (("base", "norm_base"), ("change", "norm_delta")) if not values[name] > 0]
    return f"zero matrix ({' and '.join(zeros)}): no ratios, no directions" if zeros else ""


def _effective_rank(sigma: Float[np.ndarray, " k"]) -> float:
    if not sigma[0] > 0:
        return math.nan
    p = sigma[sigma > 0] / sigma.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
