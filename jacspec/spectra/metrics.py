"""What is said about a spectrum: one table, `METRICS`, that feeds the config, the docs, the axis labels and the tests.

A metric is a function of a `Measurement`. To add one, add a row; everything else reads the table.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jacspec.errors import JacspecError, check_least, suggest
from jacspec.spectra.cores import blas_on_one_thread
from jacspec.spectra.eigenvalues import relative_eigenvalues, relative_numerical_abscissas


class Measurement(NamedTuple):
    """One matrix as metrics see it: its singular values, its shape, and itself where a metric needs it.

    `structural_rank` is the largest rank that the matrix can have by its construction. `direction` is the input
    that the matrix is the Jacobian at. `eigenvalues` and `numerical_abscissa` are in units of σ₁.
    """

    sigma: Float[Array, " k"]
    shape: tuple[int, int]
    structural_rank: int
    top_k: int
    matrix: Float[Array, "m n"] | None
    direction: Float[Array, " n"] | None
    eigenvalues: Complex[Array, " n"] | None = None
    numerical_abscissa: Float[Array, ""] | None = None


class Metric(NamedTuple):
    """A row of the table.

    `symbol` is mathtext for axis labels, `definition` the equation in words and Unicode, `needs` what must be
    computed (the top two values, the spectrum, the matrix, or its eigenvalues too), `bounds` the least and the
    greatest value given k (`None`: no bound), `scaling` the p of s(cA) = |c|ᵖ s(A), of a `signed` one of c > 0 alone
    (`None`: it compares with a gain of 1, and there is none), `with_` the metrics always reported beside it.
    """

    function: Callable[[Measurement], Float[Array, ""]]
    symbol: str
    definition: str
    needs: Literal["top", "spectrum", "matrix", "eigenvalues"]
    bounds: Callable[[int], tuple[float, float | None]]
    scaling: int | None
    source: str
    with_: tuple[str, ...] = ()
    signed: bool = False


def _relative(m: Measurement) -> Float[Array, " k"]:
    """Divide by σ₁, so that squares neither overflow nor underflow; a zero matrix gives NaN."""
    return m.sigma / m.sigma[0]


def _norm(values: Float[Array, " n"]) -> Float[Array, ""]:
    """Compute √Σx² in units of the largest |x|, so that squares neither overflow nor underflow."""
    largest = jnp.max(jnp.abs(values))
    return largest * jnp.linalg.norm(values / jnp.where(largest > 0, largest, 1))


def _lambda_share(m: Measurement) -> Float[Array, " k"]:
    squares = jnp.square(_relative(m))
    return squares / jnp.sum(squares)


def _entropy(p: Float[Array, " k"]) -> Float[Array, ""]:
    return -jnp.sum(jax.scipy.special.xlogy(p, p))


def _decay_ratio(m: Measurement) -> Float[Array, ""]:
    return _relative(m)[1] if m.sigma.shape[0] > 1 else jnp.full((), jnp.nan, m.sigma.dtype)


def _participation_ratio(m: Measurement) -> Float[Array, ""]:
    return 1 / jnp.sum(jnp.square(_lambda_share(m)))


def _numerical_rank(m: Measurement) -> Float[Array, ""]:
    threshold = m.sigma[0] * max(m.shape) * jnp.finfo(m.sigma.dtype).eps
    return jnp.sum(m.sigma > threshold).astype(m.sigma.dtype)


def _condition_number(m: Measurement) -> Float[Array, ""]:
    rank = _numerical_rank(m).astype(int)
    return m.sigma[0] / m.sigma[rank - 1]


def _components_for_90(m: Measurement) -> Float[Array, ""]:
    below = jnp.cumsum(_lambda_share(m))[:-1] < 0.9
    return jnp.where(m.sigma[0] > 0, (1 + jnp.sum(below)).astype(m.sigma.dtype), jnp.nan)


def _eigenvalues(m: Measurement) -> Complex[Array, " n"]:
    assert m.eigenvalues is not None
    return m.eigenvalues


def _henrici_departure(m: Measurement) -> Float[Array, ""]:
    share = jnp.sum(jnp.square(jnp.abs(_eigenvalues(m)))) / jnp.sum(jnp.square(_relative(m)))
    return jnp.sqrt(jnp.maximum(1 - share, 0))


ROTATING = 0.1
"""|Im λ| over |λ| above which an eigenvalue counts as one that rotates: 6 degrees from the real axis."""


def _rotating_share(m: Measurement) -> Float[Array, ""]:
    found = _eigenvalues(m)
    size = jnp.abs(found)
    known = size > max(m.shape) * jnp.finfo(size.dtype).eps
    turning = jnp.sum(known & (jnp.abs(found.imag) > ROTATING * size)) / jnp.maximum(jnp.sum(known), 1)
    return jnp.where(m.sigma[0] > 0, turning.astype(m.sigma.dtype), jnp.nan)


def _numerical_abscissa(m: Measurement) -> Float[Array, ""]:
    assert m.numerical_abscissa is not None
    return m.sigma[0] * m.numerical_abscissa


def _residual_gain(m: Measurement) -> Float[Array, ""]:
    assert m.matrix is not None
    assert m.direction is not None
    return _norm(m.matrix @ (m.direction / _norm(m.direction)))


PAPER = "Analyzing Spectral Information of Transformers"
HEAD_STUDY = "the study of per-head W_QK spectra"

METRICS: Mapping[str, Metric] = {
    "spectral_radius": Metric(
        lambda m: m.sigma[0],
        r"$\rho = \sigma_1$",
        "ρ = σ₁, the largest singular value: strictly the spectral norm, the greatest gain of a small change. "
        "Not an eigenvalue; see eigenvalue_radius.",
        "top",
        lambda k: (0, None),
        1,
        f"{PAPER}, eq. 7",
    ),
    "decay_ratio": Metric(
        _decay_ratio,
        r"$\delta = \sigma_2 / \sigma_1$",
        "δ = σ₂/σ₁: small means that one direction dominates (concentration), near 1 that none does.",
        "top",
        lambda k: (0, 1),
        0,
        f"{PAPER}, eq. 8",
    ),
    "frobenius_norm": Metric(
        lambda m: _norm(m.sigma),
        r"$\|A\|_F$",
        "√Σσ²",
        "spectrum",
        lambda k: (0, None),
        1,
        "Golub & Van Loan, Matrix Computations, 2.5",
    ),
    "stable_rank": Metric(
        lambda m: jnp.sum(jnp.square(_relative(m))),
        r"stable rank $\|A\|_F^2 / \sigma_1^2$",
        "Σσ²/σ₁²",
        "spectrum",
        lambda k: (1, k),
        0,
        "Rudelson & Vershynin 2007",
    ),
    "participation_ratio": Metric(
        _participation_ratio,
        r"PR$_\lambda$",
        "(Σλ)²/Σλ², λ = σ²",
        "spectrum",
        lambda k: (1, k),
        0,
        HEAD_STUDY,
    ),
    "normalized_participation_ratio": Metric(
        lambda m: _participation_ratio(m) / m.structural_rank,
        r"NPR$_\lambda$",
        "(Σλ)²/Σλ² over the structural rank, the largest rank that the matrix can have by its construction",
        "spectrum",
        lambda k: (0, 1),
        0,
        HEAD_STUDY,
    ),
    "sigma_participation_ratio": Metric(
        lambda m: jnp.square(jnp.sum(_relative(m))) / jnp.sum(jnp.square(_relative(m))),
        r"PR$_\sigma$",
        "(Σσ)²/Σσ²",
        "spectrum",
        lambda k: (1, k),
        0,
        "the SVD walk-through of GPT-2's c_attn, as its “effective rank”",
    ),
    "effective_rank": Metric(
        lambda m: jnp.exp(_entropy(m.sigma / jnp.sum(m.sigma))),
        r"effective rank",
        "exp(−Σ p ln p), p = σ/Σσ",
        "spectrum",
        lambda k: (1, k),
        0,
        "Roy & Vetterli 2007",
    ),
    "spectral_entropy": Metric(
        lambda m: _entropy(_lambda_share(m)),
        r"spectral entropy $H_\lambda$ (nats)",
        "−Σ p ln p, p = λ/Σλ, in nats",
        "spectrum",
        lambda k: (0, math.log(k)),
        0,
        HEAD_STUDY,
    ),
    "condition_number": Metric(
        _condition_number,
        r"$\kappa = \sigma_1 / \sigma_r$",
        "σ₁/σ_r with r the numerical rank, so that exact and rounding zeros do not enter; at most 1/(max(m, n) · eps), "
        "and near that the threshold's, not the matrix's",
        "spectrum",
        lambda k: (1, None),
        0,
        HEAD_STUDY,
        with_=("numerical_rank",),
    ),
    "lambda_condition_number": Metric(
        lambda m: jnp.square(_condition_number(m)),
        r"$\kappa_\lambda = \lambda_1 / \lambda_r$",
        "λ₁/λ_r = (σ₁/σ_r)²",
        "spectrum",
        lambda k: (1, None),
        0,
        HEAD_STUDY,
        with_=("numerical_rank",),
    ),
    "numerical_rank": Metric(
        _numerical_rank,
        r"numerical rank $r$",
        "r = #{σ > σ₁ · max(m, n) · eps of the working dtype}",
        "spectrum",
        lambda k: (0, k),
        0,
        "numpy.linalg.matrix_rank's default threshold",
    ),
    "variance_top_k": Metric(
        lambda m: jnp.sum(_lambda_share(m)[: m.top_k]),
        r"variance in the top values",
        "Σ_{i≤k} λ/Σλ, k = metrics.top_k",
        "spectrum",
        lambda k: (0, 1),
        0,
        "the SVD walk-through of GPT-2's c_attn",
    ),
    "components_for_90": Metric(
        _components_for_90,
        r"components for 90 % of the variance",
        "the least i with Σ_{j≤i} λ/Σλ ≥ 0.9",
        "spectrum",
        lambda k: (1, k),
        0,
        "the SVD walk-through of GPT-2's c_attn",
    ),
    "share_amplified": Metric(
        lambda m: jnp.mean(m.sigma > 1, dtype=m.sigma.dtype),
        r"share amplified, $\sigma_i > 1$",
        "share of the singular values above 1: of the input directions that are passed on larger",
        "spectrum",
        lambda k: (0, 1),
        None,
        PAPER,
    ),
    "share_preserved": Metric(
        lambda m: jnp.mean(jnp.abs(m.sigma - 1) <= 0.1, dtype=m.sigma.dtype),
        r"share preserved, $|\sigma_i - 1| \leq 0.1$",
        "share of the singular values within 10 % of 1; of `block`, what the identity path carries as it is",
        "spectrum",
        lambda k: (0, 1),
        None,
        PAPER,
    ),
    "share_deleted": Metric(
        lambda m: jnp.where(m.sigma[0] > 0, jnp.mean(_relative(m) < 1e-3, dtype=m.sigma.dtype), jnp.nan),
        r"share deleted, $\sigma_i < 10^{-3}\,\sigma_1$",
        "share of the singular values below σ₁/1000",
        "spectrum",
        lambda k: (0, 1),
        0,
        PAPER,
    ),
    "eigenvalue_radius": Metric(
        lambda m: m.sigma[0] * jnp.max(jnp.abs(_eigenvalues(m))),
        r"$\max |\lambda_i(J)|$",
        "max|λ_i(J)|, the true spectral radius: what repeated application grows by; at most σ₁",
        "eigenvalues",
        lambda k: (0, None),
        1,
        "Horn & Johnson, Matrix Analysis, 5.6",
    ),
    "henrici_departure": Metric(
        _henrici_departure,
        r"departure from normality",
        "√(‖J‖_F² − Σ|λ(J)|²)/‖J‖_F: 0 for a normal matrix, 1 for a nilpotent one",
        "eigenvalues",
        lambda k: (0, 1),
        0,
        "Henrici 1962",
    ),
    "spectral_abscissa": Metric(
        lambda m: m.sigma[0] * jnp.max(_eigenvalues(m).real),
        r"$\max\,\mathrm{Re}\,\lambda_i$",
        "max Re λ_i(J), the largest real part: of a branch, a change along that eigenvector that the stream carries on "
        "grows where it is above 0",
        "eigenvalues",
        lambda k: (-math.inf, None),
        1,
        "Trefethen & Embree 2005, Spectra and Pseudospectra, 14",
        signed=True,
    ),
    "numerical_abscissa": Metric(
        _numerical_abscissa,
        r"$\lambda_1((J + J^T)/2)$",
        "λ_max((J + Jᵀ)/2), the largest v · Jv of unit vectors: of a branch, the most that it lengthens a small change "
        "of the stream, to first order in it; at least max Re λ, at most σ₁",
        "matrix",
        lambda k: (-math.inf, None),
        1,
        "Trefethen & Embree 2005, Spectra and Pseudospectra, 17",
        signed=True,
    ),
    "rotating_share": Metric(
        _rotating_share,
        r"share that rotates, $|\mathrm{Im}\,\lambda| > |\lambda| / 10$",
        "share of the eigenvalues that turn a change in a plane, |Im λ| > |λ|/10, of those above rounding, "
        "|λ| > σ₁ · n · eps of the working dtype",
        "eigenvalues",
        lambda k: (0, 1),
        0,
        "this project",
    ),
    "residual_gain": Metric(
        _residual_gain,
        r"$\|J \hat{x}\|$",
        "‖J x̂‖, x̂ = x/‖x‖: the gain along the direction that the residual stream really has",
        "matrix",
        lambda k: (0, None),
        1,
        f"{PAPER}, future work",
    ),
}

FULL = "full"

OF_SPECTRUM = ("top", "spectrum")
"""Needs that singular values alone meet."""


def choose_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Resolve a choice of metrics: `full` stands for every row; a row brings those always reported beside it.

    **Returns:** names in the order of the table, each once.

    **Raises:** `JacspecError` for a name that is not in the table.
    """
    for name in names:
        if name != FULL and name not in METRICS:
            raise JacspecError(f"metrics.names has {name!r}, which is no metric. " + suggest(name, [FULL, *METRICS]))
    if not names:
        raise JacspecError("metrics.names is empty. " + suggest("", [FULL, *METRICS]))
    chosen = set(METRICS) if FULL in names else set(names)
    chosen |= {beside for name in chosen for beside in METRICS[name].with_}
    return tuple(name for name in METRICS if name in chosen)


def compute_metrics(
    names: Sequence[str],
    sigma: Float[Array | np.ndarray, "batch k"],
    *,
    shape: tuple[int, int],
    structural_rank: int | None = None,
    top_k: int = 10,
    matrices: Float[Array, "batch m n"] | None = None,
    directions: Float[Array, "batch n"] | None = None,
    eigenvalues: Complex[Array, "batch n"] | None = None,
) -> dict[str, Float[Array, " batch"]]:
    """Compute metrics of a batch of matrices of one shape.

    **Arguments:** `names`, rows of `METRICS`; `sigma`, singular values in descending order; `shape`, (m, n) of a
    matrix; `structural_rank`, by default k; `matrices` and `directions`, for the rows that need them; `eigenvalues`,
    in units of σ₁, where they are known (else they are computed where a row needs them).

    **Returns:** one value a matrix and metric, in the dtype of `sigma`. A zero matrix gives NaN where a metric
    divides by σ₁, and δ is NaN where there is only one singular value.
    """
    check_least("metrics.top_k", top_k, 1)
    rank = structural_rank or sigma.shape[1]
    spectral = tuple(name for name in names if METRICS[name].needs in OF_SPECTRUM)
    whole = tuple(name for name in names if METRICS[name].needs not in OF_SPECTRUM)
    values = _compute(spectral, shape, rank, top_k, sigma, None, None, None, None)
    if whole:
        if eigenvalues is None and any(METRICS[name].needs == "eigenvalues" for name in whole):
            assert matrices is not None
            eigenvalues = relative_eigenvalues(matrices, sigma)
        abscissas = None
        if "numerical_abscissa" in whole:
            assert matrices is not None
            abscissas = relative_numerical_abscissas(matrices, sigma)
        given = (sigma, matrices, directions, eigenvalues, abscissas)
        arguments = jax.device_put(given, jax.local_devices(backend="cpu")[0])
        with blas_on_one_thread():
            values |= jax.block_until_ready(_compute(whole, shape, rank, top_k, *arguments))
    return {name: values[name] for name in names}


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compute(
    names: tuple[str, ...],
    shape: tuple[int, int],
    structural_rank: int,
    top_k: int,
    sigma: Float[Array, "batch k"],
    matrices: Float[Array, "batch m n"] | None,
    directions: Float[Array, "batch n"] | None,
    eigenvalues: Complex[Array, "batch n"] | None,
    numerical_abscissas: Float[Array, " batch"] | None,
) -> dict[str, Float[Array, " batch"]]:
    def measure(sigma: Array, *whole: Array | None) -> dict[str, Array]:
        measurement = Measurement(sigma, shape, structural_rank, top_k, *whole)
        return {name: METRICS[name].function(measurement) for name in names}

    whole = (matrices, directions, eigenvalues, numerical_abscissas)
    return jax.vmap(measure, in_axes=(0, *(None if each is None else 0 for each in whole)))(sigma, *whole)
