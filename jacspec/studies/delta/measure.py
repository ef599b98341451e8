r"""A matrix and what was added to it: spectra of both and of the sum, and the singular vectors that are new.

$W' = W + \Delta W$. Of $\Delta W$ with independent entries of standard deviation $s$, $\sigma_i' - \sigma_i \approx
u_i^\top \Delta W v_i$ has the standard deviation $s$ (Stewart 1990), and $\sigma_1(\Delta W) \approx s (\sqrt{N} +
\sqrt{M})$. Intruder dimensions are Shuttleworth et al.'s (2024): $u_j'$ with $\max_i |u_j' \cdot u_i| < \varepsilon$.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jacspec.spectra.subspaces import decompose, match_leading
from jacspec.spectra.svd import singular_values
from jacspec.studies.delta import ARRAYS, DELTA


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
    matches = match_leading(before, after, top_k)
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
        **matches.columns(threshold),
    }
    arrays = (before.sigma, after.sigma, sigma, *matches)
    values = {name: found[name] for name in DELTA}
    return values, dict(zip(ARRAYS, (np.asarray(each, np.float64) for each in arrays), strict=True))


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
