"""What is kept of a Jacobian's eigenvalues beside chance, and of the pseudospectra of a few blocks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Complex

from jacspec.jacobians.solvers import BranchSpectra
from jacspec.jacobians.undefined import ZERO_JACOBIAN, Reasons
from jacspec.spectra.cores import blas_on_one_thread, map_on_cores
from jacspec.spectra.eigenvalues import draw_rotated, null_ring
from jacspec.spectra.pseudospectra import kreiss_constant, pseudospectral_abscissa, pseudospectral_radius, resolvent

EIGENVALUES, ROTATED = "eigenvalues", "rotated_eigenvalues"
"""Names of the arrays: eigenvalues of each Jacobian, and of one of its own singular values, randomly rotated."""

RING = ("ring_inner", "ring_outer", "ring_share", "rotated_ring_share", "rotated_radius")
"""Columns that stand beside eigenvalues: the null ring, what lies in it, and the same of the rotated."""

OF_EIGENVALUES = ("eigenvalue_radius", "henrici_departure", "spectral_abscissa", "rotating_share")
"""Metrics that cost nothing once the eigenvalues are there."""

PSEUDOSPECTRA = ("kreiss_constant", "pseudospectral_radius", "pseudospectral_abscissa")
EPSILON = 0.01
"""ε of the pseudospectra, in units of σ₁: what a change of a hundredth of the Jacobian does to its eigenvalues."""

OF_BLOCKS = "pseudospectra are those of whole blocks"
NOT_DRAWN = "pseudospectra: not among the samples drawn"
NILPOTENT = "all eigenvalues are zero: no Kreiss constant"


class Found(NamedTuple):
    """Values by name, a row a sample, and why some are missing."""

    values: dict[str, np.ndarray]
    undefined: Reasons


def beside_chance(
    spectra: BranchSpectra, relative: Complex[Array, "row d_model"], samples: Sequence[int], seed: Sequence[int]
) -> Found:
    """Take the eigenvalues of a batch, and draw for each sample what its singular values would give if rotated.

    **Arguments:** `relative`, the eigenvalues in units of σ₁; `seed`, with the sample's number that of its draw, so
    that it does not depend on the batch.
    """
    sigma = np.asarray(spectra.singular_values)[: len(samples)]
    own = np.asarray(relative)[: len(samples)] * sigma[:, :1]
    rngs = [np.random.default_rng([*seed, sample]) for sample in samples]
    rotated = np.array(map_on_cores(draw_rotated, sigma, rngs))
    ring, zero = null_ring(sigma), sigma[:, 0] == 0
    shares = (np.where(zero, np.nan, ring.shares(each)) for each in (own, rotated))
    columns = (ring.inner, ring.outer, *shares, np.abs(rotated).max(axis=1))
    values = dict(zip(RING, (column.astype(sigma.dtype) for column in columns), strict=True))
    missing = dict.fromkeys(("ring_share", "rotated_ring_share"), np.where(zero, ZERO_JACOBIAN, ""))
    return Found({**values, EIGENVALUES: own, ROTATED: rotated.astype(own.dtype)}, missing)


def find_pseudospectra(spectra: BranchSpectra, samples: Sequence[int], chosen: frozenset[int] | None) -> Found:
    """Compute the columns `PSEUDOSPECTRA` of the chosen samples of a batch, in float64; all others lack them.

    **Arguments:** `chosen`, None of a component that has none.
    """
    sigma = np.asarray(spectra.singular_values)
    values = {name: np.full(len(samples), np.nan, sigma.dtype) for name in PSEUDOSPECTRA}
    why = np.full(len(samples), OF_BLOCKS if chosen is None else NOT_DRAWN, object)
    for row, sample in enumerate(samples):
        if chosen is None or sample not in chosen:
            continue
        if sigma[row, 0] == 0:
            why[row] = ZERO_JACOBIAN
            continue
        assert spectra.jacobians is not None
        with blas_on_one_thread():
            found = resolvent(np.asarray(spectra.jacobians[row], np.float64))
            epsilon, why[row] = EPSILON * found.norm, ""
            values["pseudospectral_radius"][row] = pseudospectral_radius(found, epsilon)
            values["pseudospectral_abscissa"][row] = pseudospectral_abscissa(found, epsilon)
            if found.radius > 0:
                values["kreiss_constant"][row] = kreiss_constant(found, found.radius)
            else:
                why[row] = NILPOTENT
    return Found(values, dict.fromkeys(PSEUDOSPECTRA, why.astype(str)))
