"""What `weights.extra` asks for: singular vectors, spacings, and what tails admit, of the matrices of a batch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Inexact

from jacspec.errors import JacspecError, suggest
from jacspec.models.matrices import Matrix
from jacspec.spectra.eigenvalues import relative_eigenvalues
from jacspec.spectra.further_metrics import (
    PLANES,
    PROFILES,
    eigenvalue_metrics,
    spacing_metrics,
    tail_metrics,
    vector_metrics,
)
from jacspec.spectra.svd import leading_pairs, singular_values
from jacspec.spectra.tails import square_windows
from jacspec.spectra.variance_profile import Profile
from jacspec.spectra.weight_metrics import above_rounding, shuffled_spectra
from jacspec.studies.weights.columns import EXTRAS

FEWEST_DRAWS = 99


class Extra(NamedTuple):
    """Which further columns there are, and how many draws the bootstraps have."""

    columns: tuple[str, ...]
    draws: int = FEWEST_DRAWS

    @property
    def groups(self) -> list[str]:
        """The groups that have one of the columns."""
        return [group for group, columns in EXTRAS.items() if not columns.keys().isdisjoint(self.columns)]


NOTHING = Extra(())


def choose_extra(names: Sequence[str], draws: int) -> Extra:
    """Resolve columns and groups of them; raises `JacspecError` for others, and for too few draws."""
    known = {group: list(columns) for group, columns in EXTRAS.items()}
    known |= {column: [column] for columns in EXTRAS.values() for column in columns}
    for name in names:
        if name not in known:
            raise JacspecError(f"weights.extra has {name!r}, which there is not. {suggest(name, list(known))}")
    if draws < FEWEST_DRAWS:
        raise JacspecError(f"weights.draws={draws} is too few. Type weights.draws=N with N of {FEWEST_DRAWS} or more.")
    wanted = {column for name in names for column in known[name]}
    return Extra(tuple(name for columns in EXTRAS.values() for name in columns if name in wanted), draws)


class Further(NamedTuple):
    """What was found of one matrix."""

    values: Mapping[str, float]
    profiles: Mapping[str, Inexact[np.ndarray, " k"]] = {}
    reasons: Sequence[str] = ()


def measure_extras(
    batch: Sequence[tuple[int, Matrix]],
    matrices: Sequence[Float[np.ndarray, "most least"]],
    spectra: Float[np.ndarray, "batch k"],
    fits: Mapping[str, Float[np.ndarray, " batch"]],
    profiles: Sequence[Profile | None],
    extra: Extra,
    seed: int,
) -> Iterator[Further]:
    """Measure what was asked for of each matrix, NaN of those without a spectrum.

    **Arguments:** as in `measure_batch`; `fits`, the columns of `compute_weight_metrics`.
    """
    shape = matrices[0].shape
    there = above_rounding(spectra, shape)
    for row, (number, whole) in enumerate(batch):
        values, arrays = dict.fromkeys(extra.columns, float("nan")), dict[str, np.ndarray]()
        if "vectors" in extra.groups:
            arrays |= {name: np.full(spectra.shape[1], np.nan) for name in PROFILES}
        if "eigenvalues" in extra.groups:
            missing = np.full(spectra.shape[1], np.nan, np.result_type(spectra.dtype, np.complex64))
            arrays |= dict.fromkeys(PLANES, missing)
        rank, reasons = int(there[row].sum()), list[str]()
        if rank:
            sigma, matrix = spectra[row, :rank].astype(np.float64), matrices[row]
            if "vectors" in extra.groups:
                _add_vectors(values, arrays, whole, matrix, rank, profiles[row], (seed, number))
            if "spacings" in extra.groups:
                values |= spacing_metrics(sigma)
            if "tails" in extra.groups:
                windows = np.asarray(singular_values(square_windows(matrix))).astype(np.float64)
                found, reasons = tail_metrics(
                    sigma,
                    (shape[0], shape[1]),
                    np.where(above_rounding(windows, windows.shape), windows, 0),
                    shuffled_spectra([(seed, number)], [matrix - matrix.mean()])[0].astype(np.float64),
                    {name: float(fits[name][row]) for name in ("alpha", "x_min", "ks_distance")},
                    draws=extra.draws,
                    seed=(seed, number),
                )
                values |= found
            if "eigenvalues" in extra.groups:
                if shape[0] == shape[1]:
                    found, planes = _eigenvalues(matrix, spectra[row], (seed, number))
                    values, arrays = values | found, arrays | planes
                else:
                    reasons = [*reasons, "not square: no eigenvalues"]
        yield Further({name: values[name] for name in extra.columns}, arrays, reasons)


def _eigenvalues(
    matrix: Float[np.ndarray, "n n"], sigma: Float[np.ndarray, " n"], seed: tuple[int, int]
) -> tuple[dict[str, float], dict[str, Inexact[np.ndarray, " n"]]]:
    relative = np.asarray(relative_eigenvalues(jnp.asarray(matrix)[None], sigma[None]))[0]
    found, planes = eigenvalue_metrics(relative, sigma, seed)
    return found, {**planes}


def _add_vectors(
    values: dict[str, float],
    arrays: dict[str, np.ndarray],
    whole: Matrix,
    matrix: Float[np.ndarray, "most least"],
    rank: int,
    profile: Profile | None,
    seed: tuple[int, int],
) -> None:
    """Add what vectors say, those of the null space left out: they are arbitrary."""
    if profile is None:
        return
    variances = profile.columns.T @ profile.rows
    other = np.random.default_rng([*seed, 1]).normal(size=variances.shape) * np.sqrt(variances)
    (left, right), null = (_vectors(each.astype(matrix.dtype, copy=False)) for each in (matrix, other))
    left, right = left[:rank], right[:rank]
    if whole.values.shape[0] < whole.values.shape[1]:  # it was transposed
        left, right = right, left
    found, each = vector_metrics(left, right, null)
    values |= found
    for name, array in each.items():
        arrays[name][:rank] = array


def _vectors(matrix: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "k n"]]:
    left, _, right = (np.asarray(part)[0] for part in leading_pairs(jnp.asarray(matrix)[None], min(matrix.shape)))
    return left.T, right.T
