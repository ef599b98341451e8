r"""Merge the tensors of several checkpoints into one.

With weights $w_i$ over the models $\theta_i$, a base $\theta_0$ and task vectors $\tau_i = \theta_i - \theta_0$:

| method       | result                                                      | source                              |
|--------------|-------------------------------------------------------------|-------------------------------------|
| `average`    | $\sum_i w_i \theta_i$, $\sum_i w_i = 1$                     | Wortsman et al. 2022, Model soups   |
| `arithmetic` | $\theta_0 + c \sum_i w_i \tau_i$, $w_i = 1$ unless given    | Ilharco et al. 2023                 |
| `star`       | $\theta_0 + c \sum_i w_i \tilde\tau_i$, $\sum_i w_i = 1$    | Lee et al. 2025, with c = 1         |
| `slerp`      | along the arc from $\theta_1$ to $\theta_2$, by $w_2$        | Shoemake 1985                       |
| `spectral`   | $(1 - \alpha') \theta_1 + \alpha' \theta_2$              | `confidence.py`                     |
| others       | $\theta_0 + c\, \tau$, $\tau$ joined from all $\tau_i$      | `methods.py`                        |

STAR truncates each matrix of a task vector to its largest singular values, the fewest that hold the share $\eta$ of
the nuclear norm, and scales them to restore it: $\tilde\tau = s \sum_{k \le r} \sigma_k u_k v_k^\top$,
$s = \sum_k \sigma_k / \sum_{k \le r} \sigma_k$. A matrix that loses nothing is not decomposed.

Sums are float64, rounded once to the type of the result. Entries in which all models that count agree stay as they
are to the last bit, where the coefficients sum to one.
"""

import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jacspec.errors import JacspecError
from jacspec.spectra.subspaces import factorise
from jacspec.studies.merge.confidence import confidence_of_tensors, trusted_share
from jacspec.studies.merge.methods import METHODS, Settings, interpolate_on_sphere, join_updates

AVERAGE, ARITHMETIC, STAR, SLERP, SPECTRAL = "average", "arithmetic", "star", "slerp", "spectral"
COEFFICIENT = {ARITHMETIC: 0.4, **{name: method.coefficient for name, method in METHODS.items()}}
"""Coefficients where none is given and it is not 1: what STAR's authors take for task arithmetic, and of `METHODS`."""
WITHOUT_BASE = (AVERAGE, SLERP, SPECTRAL)
OF_TWO = (SLERP, SPECTRAL)

CHUNK = 2**20
"""Entries summed at once, so that their float64 copies stay small beside the tensors."""


class Recipe(NamedTuple):
    """How models are merged: the method, the share η of STAR, the coefficient c, and the weights by model.

    `settings` are those of `METHODS`, `seed` that of what they draw.
    """

    method: str
    share: float
    coefficient: float
    weights: tuple[float, ...]
    settings: Settings
    seed: int

    @property
    def base_coefficient(self) -> float:
        """The coefficient of the base in the sum; 1 − c without rounding where weights sum to one by definition."""
        if self.method == AVERAGE:
            return 0.0
        return 1 - self.coefficient * (1.0 if self.method == STAR else math.fsum(self.weights))


def make_recipe(
    method: str,
    *,
    models: int,
    has_base: bool,
    share: float,
    coefficient: float | None,
    weights: Sequence[float],
    settings: Settings,
    seed: int,
) -> Recipe:
    """Check what was asked for and fill in what was not; raises `JacspecError` for what makes no merge."""
    if method not in WITHOUT_BASE and not has_base:
        raise JacspecError(f"merge.method={method} needs a common base. Type merge.base=NAME or merge.method=average.")
    if method in OF_TWO and models != 2:
        raise JacspecError(f"merge.method={method} goes from one model to another, and merge.models names {models}.")
    if method == SPECTRAL and weights:
        raise JacspecError(f"merge.weights={list(weights)}: the share of the second model is merge.alpha. Type that.")
    if not 0 < share <= 1:
        raise JacspecError(f"merge.share={share} is no share of the nuclear norm. Accepted: above 0, to 1 (keeps all).")
    if method in WITHOUT_BASE and coefficient is not None:
        raise JacspecError(
            f"merge.coefficient={coefficient} scales task vectors, and merge.method={method} has none. Leave it out, "
            "or type merge.method=arithmetic."
        )
    if coefficient is not None and not math.isfinite(coefficient):
        raise JacspecError(f"merge.coefficient={coefficient} is not finite. Type merge.coefficient=0.4.")
    if weights and (len(weights) != models or not all(map(math.isfinite, weights))):
        raise JacspecError(
            f"merge.weights={list(weights)}: merge.models names {models}. Give one finite number for each, or [] for "
            "equal ones."
        )
    _check_settings(method, settings)
    if method == ARITHMETIC or method in METHODS:
        own = tuple(map(float, weights)) or (1.0,) * models
        if method in METHODS and not all(weight > 0 for weight in own):
            raise JacspecError(f"merge.weights={list(weights)}: of merge.method={method} each is above 0.")
    else:
        given = weights or (1.0,) * models
        if not math.fsum(given) > 0:
            raise JacspecError(f"merge.weights={list(weights)} sum to nothing, and their sum is divided by.")
        own = tuple(weight / math.fsum(given) for weight in given)
    return Recipe(
        method, share, COEFFICIENT.get(method, 1.0) if coefficient is None else coefficient, own, settings, seed
    )


def _check_settings(method: str, settings: Settings) -> None:
    density, epsilon, common = settings.density, settings.epsilon, settings.common
    if not 0 < density <= 1:
        raise JacspecError(f"merge.density={density} is no share of entries. Accepted: above 0, to 1 (keeps all).")
    if method.startswith("della") and not (epsilon >= 0 and epsilon / 2 < min(density, 1 - density)):
        raise JacspecError(
            f"merge.epsilon={epsilon}: entries are kept with chances from merge.density − epsilon / 2 to "
            f"merge.density + epsilon / 2, here {density - epsilon / 2:g} to {density + epsilon / 2:g}, which have to "
            "be between 0 and 1."
        )
    if not 0 <= common <= 1:
        raise JacspecError(f"merge.common={common} is no share of directions. Accepted: 0 to 1.")


def merge_tensors(
    recipe: Recipe,
    base: Shaped[np.ndarray, "..."] | None,
    models: Sequence[Shaped[np.ndarray, "..."]],
    *,
    dtype: np.dtype,
    is_matrix: bool,
    precision: str,
    name: str = "",
) -> Shaped[np.ndarray, "..."]:
    """Merge one tensor of all models.

    **Arguments:** `base`, the same tensor of the base, which those `WITHOUT_BASE` do not use; `dtype`, of the result;
    `is_matrix`, whether this is a matrix whose task vectors STAR and its like decompose; `precision`, of their SVD;
    `name`, of the tensor, by which is drawn what is drawn.
    """
    if recipe.method == SLERP:
        first, second = (model.astype(np.float64) for model in models)
        between = interpolate_on_sphere(first, second, recipe.weights[1])
        return round_once(np.where(first == second, first, between), dtype)
    if recipe.method == SPECTRAL:
        confidence = confidence_of_tensors(models[0], models[1], precision)
        share = trusted_share(recipe.settings.alpha, confidence, recipe.settings.strength)
        return combine(models, (1 - share, share), dtype)
    if base is None or recipe.method == AVERAGE:
        return combine(models, recipe.weights, dtype)
    if recipe.method in METHODS:
        seed = (recipe.seed % 2**32, zlib.crc32(name.encode()))
        updates = [_difference(model, base, precision) for model in models]
        joined = join_updates(
            METHODS[recipe.method], updates, recipe.weights, recipe.settings, is_matrix=is_matrix, seed=seed
        )
        start, change = base.astype(np.float64), recipe.coefficient * joined.astype(np.float64)
        return round_once(np.where(change == 0, start, start + change), dtype)
    scaled = [recipe.coefficient * weight for weight in recipe.weights]
    cut = [
        truncate_spectrum(_difference(model, base, precision), recipe.share)
        if is_matrix and recipe.method == STAR and recipe.share < 1
        else None
        for model in models
    ]
    if all(part is None for part in cut):
        return combine([base, *models], [recipe.base_coefficient, *scaled], dtype)
    kept = math.fsum(weight for weight, part in zip(scaled, cut, strict=True) if part is None)
    sources = [model if part is None else part for model, part in zip(models, cut, strict=True)]
    return combine([base, *sources], [1 - kept, *scaled], dtype, agree=False)


def combine(
    tensors: Sequence[Shaped[np.ndarray, "..."]],
    coefficients: Sequence[float],
    dtype: np.dtype,
    *,
    agree: bool = True,
) -> Shaped[np.ndarray, "..."]:
    """Compute Σ c_j x_j in float64 and round once to `dtype`; a tensor whose coefficient is 0 does not enter.

    **Arguments:** `agree`, that the coefficients sum to one: entries that are equal in all tensors are copied.
    """
    used = [(tensor.reshape(-1), c) for tensor, c in zip(tensors, coefficients, strict=True) if c]
    merged = np.empty(tensors[0].size, dtype)
    for start in range(0, merged.size, CHUNK):
        parts = [tensor[start : start + CHUNK].astype(np.float64) for tensor, _ in used]
        total = parts[0] * used[0][1]
        for part, (_, coefficient) in zip(parts[1:], used[1:], strict=True):
            total += part * coefficient
        if agree:
            same = np.logical_and.reduce([parts[0] == part for part in parts])
            total[same] = parts[0][same]
        merged[start : start + CHUNK] = round_once(total, dtype)
    return merged.reshape(tensors[0].shape)


def round_once(values: Float[np.ndarray, "..."], dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    """Round float64 to the nearest value of `dtype`, ties to even; beyond its range to infinity.

    ml_dtypes goes to bfloat16 by way of float32, which rounds twice. There the value is first cut to float32 and its
    last bit set if anything was lost (rounding to odd, Boldo & Melquiond 2008), so that the second rounding sees it.
    """
    with np.errstate(over="ignore", under="ignore"):
        if dtype != jnp.bfloat16:
            return values.astype(dtype)
        near = values.astype(np.float32)
        cut = np.where(np.abs(near) > np.abs(values), np.nextafter(near, np.float32(0)), near)
        odd = cut.view(np.uint32) | (cut != values).astype(np.uint32)
        return odd.view(np.float32).astype(dtype)


def truncate_spectrum(delta: Float[np.ndarray, "m n"], share: float) -> Float[np.ndarray, "m n"] | None:
    r"""Truncate a task vector to the share of its nuclear norm and restore the norm; None where nothing is cut.

    With the singular vectors V of the shorter side, $s \sum_{k \le r} \sigma_k u_k v_k^\top = s \tau V_r V_r^\top$, as
    in `removal.Factors`.
    """
    if not delta.any():
        return None
    factors = factorise(jnp.asarray(delta))
    sigma = factors.sigma.astype(np.float64)
    kept = kept_values(sigma, share)
    if kept == sigma.size:
        return None
    vectors = factors.basis[:, :kept]
    projected = (delta @ vectors) @ vectors.T if delta.shape[0] >= delta.shape[1] else vectors @ (vectors.T @ delta)
    return projected * projected.dtype.type(sigma.sum() / sigma[:kept].sum())


def kept_values(sigma: Float[np.ndarray, " k"], share: float) -> int:
    """Count the fewest of the largest values that make up at least `share` of the sum; all of them for a share of 1."""
    if share >= 1 or not sigma.any():
        return sigma.size if sigma.any() else 0
    sums = np.cumsum(sigma, dtype=np.float64)
    return int(np.searchsorted(sums, share * sums[-1])) + 1


def _difference(
    model: Shaped[np.ndarray, "m n"], base: Shaped[np.ndarray, "m n"], precision: str
) -> Float[np.ndarray, "m n"]:
    return (model.astype(np.float64) - base.astype(np.float64)).astype(precision)
