"""What is said of a weight matrix on request: its singular vectors, its spacings, and what its tail admits.

A function a group of columns, one matrix a call, whose keys are the columns; NaN where a value is missing.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Complex, Float

from jacspec.spectra.bulk import fit_bulk
from jacspec.spectra.cores import blas_on_one_thread
from jacspec.spectra.eigenvalues import Ring, draw_rotated, null_ring
from jacspec.spectra.metrics import ROTATING
from jacspec.spectra.porter_thomas import RARE, rare_participation, region_slices, vector_chance
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import counting_edges
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.spectra.spacings import FEWEST_RATIOS, measure_spacings, spacing_ratios
from jacspec.spectra.tails import (
    FEWEST_BEYOND,
    alpha_up_to_largest,
    bootstrap_tail,
    compare_laws,
    hill,
    product_of_one,
)
from jacspec.spectra.weight_metrics import gaussian_eigenvalues, js_distance

PROFILES = ("left_p", "right_p", "left_participation", "right_participation")
"""Arrays a singular value that `vector_metrics` gives beside its columns."""

PLANES = ("eigenvalues", "rotated_eigenvalues")
"""Arrays that `eigenvalue_metrics` gives beside its columns."""

NULL_LEVELS = {"_null_low": 0.05, "_null": 0.5}
"""Suffixes of the levels of chance of an exponent, and the share of Gaussian matrices below."""


def vector_metrics(
    left: Float[np.ndarray, "k m"],
    right: Float[np.ndarray, "k n"],
    drawn: tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "k n"]],
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " k"]]]:
    """Compare singular vectors, a row each in descending order of σ, with vectors of random direction.

    **Arguments:** `drawn`, those of independent Gaussian entries with the matrix's own row and column norms.

    **Returns:** the columns, and the arrays of `PROFILES`.
    """
    sides = [vector_chance(side) for side in (left, right)]
    levels = [rare_participation(side.shape[1]) for side in (left, right)]
    rare = [side.participation > level for side, level in zip(sides, levels, strict=True)]
    p_values = np.stack([side.p_value for side in sides])
    found = {
        "vectors_p01": float((p_values <= RARE).mean()),
        "vectors_beyond": float((adjust_for_many(p_values.ravel()) < SURE).sum()),
        "vectors_p01_norms": float(np.mean([vector_chance(side).p_value <= RARE for side in map(np.asarray, drawn)])),
    }
    for region, places in region_slices(len(left)).items():
        found[f"vectors_p01_{region}"] = float((p_values[:, places] <= RARE).mean())
        found[f"participation_{region}"] = float(np.mean([side.participation[places].mean() for side in sides]))
        found[f"localised_{region}"] = float(np.mean([side[places].mean() for side in rare]))
    profiles = (*p_values, *(side.participation for side in sides))
    return found, dict(zip(PROFILES, profiles, strict=True))


def eigenvalue_metrics(
    relative: Complex[np.ndarray, " n"], sigma: Float[np.ndarray, " n"], seed: Sequence[int]
) -> tuple[dict[str, float], dict[str, Complex[np.ndarray, " n"]]]:
    """Measure the eigenvalues of a square matrix beside those of its singular values randomly rotated, one draw.

    **Arguments:** `relative`, the eigenvalues over σ₁; `sigma`, in descending order, the first above 0.

    **Returns:** the columns, and the arrays of `PLANES`, in units of σ₁.
    """
    spectrum = sigma / sigma[0]
    with blas_on_one_thread():
        rotated = draw_rotated(spectrum, np.random.default_rng([*seed, 2]))
    ring, floor = null_ring(spectrum[None]), sigma.size * float(np.finfo(sigma.dtype).eps)
    own, drawn = (_plane_metrics(values, spectrum, ring, floor) for values in (relative, rotated))
    found = {
        "eigenvalue_radius": own["radius"] * sigma[0],
        "positive_share": own["positive"],
        "rotating_share": own["rotating"],
        "henrici_departure": own["departure"],
        "ring_inner": ring.inner[0] * sigma[0],
        "ring_outer": ring.outer[0] * sigma[0],
        "ring_share": own["ring"],
        "rotated_radius": drawn["radius"] * sigma[0],
        "rotated_rotating_share": drawn["rotating"],
        "rotated_departure": drawn["departure"],
        "rotated_ring_share": drawn["ring"],
    }
    arrays = dict(zip(PLANES, (relative, rotated.astype(relative.dtype)), strict=True))
    return {name: float(value) for name, value in found.items()}, arrays


def _plane_metrics(
    values: Complex[np.ndarray, " n"], spectrum: Float[np.ndarray, " n"], ring: Ring, floor: float
) -> dict[str, float]:
    """Say where eigenvalues lie, in units of σ₁; signs and angles are of those above rounding."""
    size = np.abs(values)
    known = size > floor
    count = max(int(known.sum()), 1)
    square = np.square(size, dtype=np.float64).sum() / np.square(spectrum, dtype=np.float64).sum()
    return {
        "radius": float(size.max()),
        "positive": float((known & (values.real > 0)).sum() / count),
        "rotating": float((known & (np.abs(values.imag) > ROTATING * size)).sum() / count),
        "departure": float(np.sqrt(max(1 - square, 0.0))),
        "ring": float(ring.shares(values[None])[0]),
    }


def spacing_metrics(sigma: Float[np.ndarray, " r"]) -> dict[str, float]:
    """Measure the spacings of singular values in descending order, those of zero left out."""
    found = measure_spacings(sigma)
    metrics = {
        "brody": found.brody,
        "brody_error": found.brody_error,
        "spacing_ratio": found.ratio,
        "spacing_ratio_error": found.ratio_error,
        "number_variance": found.number_variance,
    }
    for region, places in region_slices(sigma.size).items():
        ratios = spacing_ratios(sigma[places]) if math.isfinite(found.ratio) else np.empty(0)
        enough = ratios.size >= FEWEST_RATIOS
        metrics[f"spacing_ratio_{region}"] = float(ratios.mean()) if enough else float("nan")
    return metrics


def tail_metrics(
    sigma: Float[np.ndarray, " r"],
    shape: tuple[int, int],
    windows: Float[np.ndarray, "window s"],
    shuffled: Float[np.ndarray, " k"],
    fit: Mapping[str, float],
    *,
    draws: int,
    seed: Sequence[int],
) -> tuple[dict[str, float], list[str]]:
    """Say what the tail of a spectrum is, beside what chance makes of the same.

    **Arguments:** `sigma`, in descending order, those of zero left out; `windows`, singular values of square windows
    of the matrix; `shuffled`, those of its entries in another order; `fit`, the columns `alpha`, `x_min`,
    `ks_distance`; `draws`, of the bootstraps; `seed`, of these and of the levels of chance, whose first number is the
    run's.

    **Returns:** the columns, and why some are missing.
    """
    lam, reasons = np.square(sigma), list[str]()
    found = dict.fromkeys(TAIL_NAMES, float("nan"))
    alpha, x_min = fit["alpha"], fit["x_min"]
    if math.isfinite(alpha):
        rng = np.random.default_rng(seed)
        found["power_p"], found["alpha_low"], found["alpha_high"] = bootstrap_tail(
            lam, alpha, x_min, fit["ks_distance"], draws=draws, rng=rng
        )
        for law, ratio in compare_laws(lam, x_min).items():
            found[f"against_{law}"], found[f"against_{law}_p"] = ratio
        found |= _exponents(lam, np.square(windows), x_min) | chance_of_tails(shape, seed[0])
        found["detx_number"], found["detx_lambda"] = product_of_one(lam)
        found["detx_share"] = found["detx_number"] / lam.size
        found["erg_gap"] = found["detx_number"] - float((lam >= x_min).sum())
    noise = fit_bulk(shuffled, shape)
    if noise.reason:
        reasons.append(f"traps: no bulk of its shuffled entries, {noise.reason}")
    else:
        found["num_traps"] = float((shuffled > counting_edges(noise.shape, noise.variance)[1]).sum())
    bulk = fit_bulk(sigma, shape)
    if not bulk.reason:
        edge = counting_edges(bulk.shape, bulk.variance)[1] ** 2
        beyond = lam[lam > edge]
        found["tail_weight"] = beyond.size / lam.size
        if beyond.size >= FEWEST_BEYOND:
            found["tail_alpha"] = float(1 + beyond.size / np.log(beyond / edge).sum())
            found["tail_alpha_error"] = (found["tail_alpha"] - 1) / beyond.size**0.5
        else:
            reasons.append(f"fewer than {FEWEST_BEYOND} values beyond the bulk: no exponent there")
    return found, reasons


EXPONENTS = ("alpha_to_max", "hill_alpha", "farms_alpha")
"""Exponents of λ beside α, each with its level of chance."""

TAIL_NAMES = (
    *("power_p", "alpha_low", "alpha_high"),
    *(f"against_{law}{what}" for law in ("lognormal", "exponential", "truncated") for what in ("", "_p")),
    *(f"{name}{suffix}" for name in EXPONENTS for suffix in ("", *NULL_LEVELS)),
    *("detx_number", "detx_lambda", "detx_share", "detx_share_null", "erg_gap", "rand_distance_null_high"),
    *("num_traps", "tail_weight", "tail_alpha", "tail_alpha_error"),
)
"""Columns of `tail_metrics`."""


def _exponents(lam: Float[np.ndarray, " r"], windows: Float[np.ndarray, "window s"], x_min: float) -> dict[str, float]:
    """Estimate α in other ways; FARMS takes half of the values of all windows, as Hu et al. 2025 do."""
    return {
        "alpha_to_max": alpha_up_to_largest(lam, x_min),
        "hill_alpha": hill(lam),
        "farms_alpha": hill(windows.ravel(), 0.5),
    }


@functools.lru_cache(maxsize=64)
def chance_of_tails(shape: tuple[int, int], seed: int) -> dict[str, float]:
    """Estimate the same of Gaussian matrices of a shape, those that `alpha_of_chance` draws."""
    least, most = sorted(shape)
    spectra = gaussian_eigenvalues((least, most), seed)
    squares = gaussian_eigenvalues((least, least), seed)
    count = -(-most // least)
    found = [
        _exponents(lam, np.roll(squares, -place, axis=0)[:count], x_min)
        for place, (lam, x_min) in enumerate(zip(spectra, fit_tails(spectra).x_min, strict=True))
    ]
    levels = {
        f"{name}{suffix}": float(np.nanquantile(values, share)) if np.isfinite(values).any() else float("nan")
        for name in EXPONENTS
        for values in [np.array([each[name] for each in found])]
        for suffix, share in NULL_LEVELS.items()
    }
    apart = js_distance(np.sort(spectra[:-1]), np.sort(spectra[1:]))
    return levels | {
        "rand_distance_null_high": float(np.quantile(apart, 0.95)),
        "detx_share_null": float(np.median([product_of_one(lam)[0] for lam in spectra])) / least,
    }
