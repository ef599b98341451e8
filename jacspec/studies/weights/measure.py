"""What is said of weight matrices: their spectra, metrics, tails and place beside chance, batch by batch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.models.matrices import Matrix, in_batches
from jacspec.runs.rows import matrix_row
from jacspec.spectra.metrics import compute_metrics
from jacspec.spectra.svd import singular_values
from jacspec.spectra.variance_profile import profile_of
from jacspec.spectra.weight_metrics import (
    compute_weight_metrics,
    equal_to_rounding,
    gaussian_spectrum,
    rescale,
    shuffled_spectra,
)
from jacspec.studies.weights.columns import OVER_MATRICES
from jacspec.studies.weights.extras import NOTHING, Extra, measure_extras

UNSCALED = 32
"""Powers of two within which the largest entry of a matrix is left as it is: no real weights lie beyond."""


def within_range(matrix: Matrix, precision: str) -> Matrix:
    """Cast a matrix to what it is computed in, divided by a power of two where its squares would leave that range.

    The division is exact, so that spectra are those of the matrix, and ratios of them to the last bit.
    """
    # Exact; of bfloat16 NumPy finds the largest slowly.
    values = matrix.values if matrix.values.dtype == np.float64 else matrix.values.astype(np.float32, copy=False)
    largest = max(float(values.max()), -float(values.min()))
    exponent = math.frexp(largest)[1] if math.isfinite(largest) else 0
    if abs(exponent) > UNSCALED and largest > 0:
        return matrix._replace(values=np.ldexp(values, -exponent).astype(precision), exponent=exponent)
    return matrix._replace(values=values.astype(precision, copy=False))


def measure_all(
    matrices: Iterator[tuple[int, Matrix]],
    metric_names: Sequence[str],
    *,
    precision: str,
    top_k: int,
    null: str,
    seed: int,
    memory_bytes: float,
    extra: Extra = NOTHING,
) -> Iterator[list[Row]]:
    """Measure numbered matrices batch by batch, as `measure_batch`; while one is measured the next is read.

    **Arguments:** `memory_bytes`, for two batches, and of one its draw of chance and LAPACK's copies.
    """

    def measure(batch: Sequence[tuple[int, Matrix]]) -> list[Row]:
        with numerics(precision):  # each thread has its own
            return measure_batch(batch, metric_names, top_k=top_k, null=null, seed=seed, extra=extra)

    running: Future[list[Row]] | None = None
    with ThreadPoolExecutor(1) as worker:
        for batch in in_batches(matrices, memory_bytes=memory_bytes / 5):
            following = worker.submit(measure, batch)
            if running is not None:
                yield running.result()
            running = following
        if running is not None:
            yield running.result()


def measure_batch(
    batch: Sequence[tuple[int, Matrix]],
    metric_names: Sequence[str],
    *,
    top_k: int,
    null: str,
    seed: int,
    extra: Extra = NOTHING,
) -> list[Row]:
    """Compute the spectra of matrices of one kind (some perhaps transposed), and all that is said of them.

    What has a power of two set apart is computed without it, and has it in the result.

    **Arguments:** `batch`, matrices with their numbers in the run, in the dtype they are computed in; `metric_names`,
    rows of `METRICS` that need no matrix; `null`, `shuffled`, `gaussian` or `none`; `seed`, of its draws, which
    depend on a matrix's number (shuffled) or its shape (gaussian) and on nothing else; `extra`, what is said on
    request.
    """
    matrices = [_tall(matrix.values) for _, matrix in batch]
    with np.errstate(invalid="ignore", over="ignore"):
        # In float64 no sum of float32 values overflows: entries are looked at one by one where a mean is not finite.
        means = np.array([matrix.mean(dtype=np.float64) for matrix in matrices])
    finite = np.array(
        [bool(np.isfinite(mean) or np.isfinite(matrix).all()) for mean, matrix in zip(means, matrices, strict=True)]
    )
    # A matrix that holds NaN is computed as zeros and blanked: LAPACK may not end on it.
    matrices = [matrix if whole else np.zeros_like(matrix) for matrix, whole in zip(matrices, finite, strict=True)]
    sigma = _spectra([matrix for _, matrix in batch], matrices)
    rows, cols = matrices[0].shape
    values = compute_metrics(metric_names, sigma, shape=(rows, cols), top_k=top_k)
    drawn = None
    spectra = np.where(finite[:, None], np.asarray(sigma), np.nan)
    variances = np.array([_variance(*each) for each in zip(matrices, means, spectra, strict=True)])
    if null == "shuffled":
        drawn = shuffled_spectra([(seed, number) for number, _ in batch], matrices)
    elif null == "gaussian":
        drawn = np.sqrt(variances)[:, None] * gaussian_spectrum((rows, cols), seed)
    found = {name: np.asarray(array, np.float64) for name, array in values.items()}
    profiles = [
        profile_of(matrix.values, matrix.blocks) if whole else None
        for (_, matrix), whole in zip(batch, finite, strict=True)
    ]
    beside, why = compute_weight_metrics(spectra, (rows, cols), variances, drawn, profiles, seed=seed)
    found |= beside
    further = measure_extras(batch, matrices, spectra, beside, profiles, extra, seed)
    results = []
    for row, ((number, matrix), more) in enumerate(zip(batch, further, strict=True)):
        metrics = {name: float(array[row]) if finite[row] else float("nan") for name, array in found.items()}
        reason = _reason(spectra[row], (rows, cols), float(variances[row]), metrics, [*why[row], *more.reasons])
        metrics |= {**more.values, **dict.fromkeys(OVER_MATRICES, float("nan"))}  # those are known in the end
        values = spectra[row]
        if matrix.exponent:
            values = np.ldexp(values.astype(np.float64), matrix.exponent)
            metrics, lost = rescale(metrics, matrix.exponent)
            reason = "; ".join(filter(None, [reason, *(f"{name} is beyond what float64 holds" for name in lost)]))
        shape = (int(matrix.values.shape[0]), int(matrix.values.shape[1]))
        key = (matrix.layer, matrix.role, None, matrix.name)
        results.append(matrix_row(number, key, shape, values, metrics, reason, more.profiles))
    return results


def _spectra(batch: Sequence[Matrix], matrices: Sequence[Float[np.ndarray, "m n"]]) -> Float[Array, "batch k"]:
    """Compute the singular values of matrices, those of low rank W = (W Q) Qᵀ from W Q: the others are zero."""
    if batch[0].inputs is None:
        return singular_values(matrices)
    found = singular_values(
        [own.values @ own.inputs.astype(own.values.dtype) for own in batch if own.inputs is not None]
    )
    return jnp.pad(found, ((0, 0), (0, matrices[0].shape[1] - found.shape[1])))


def _variance(matrix: Float[np.ndarray, "m n"], mean: float, sigma: Float[np.ndarray, " k"]) -> float:
    """Compute the variance of the entries, from Σσ² = ‖W‖²_F: NumPy's own in float64 took a tenth of a run's time."""
    variance = float(np.square(sigma, dtype=np.float64).sum()) / matrix.size - mean**2
    # Of equal entries nothing but the rounding of σ would be left.
    if variance < 1e-5 * mean**2 and matrix.max() == matrix.min():
        return 0.0
    return max(variance, 0.0)


def _tall(values: Shaped[np.ndarray, "rows cols"]) -> Shaped[np.ndarray, "most least"]:
    return values if values.shape[0] >= values.shape[1] else values.T


def _reason(
    sigma: Float[np.ndarray, " k"],
    shape: tuple[int, int],
    variance: float,
    metrics: Mapping[str, float],
    beside_chance: Sequence[str],
) -> str:
    """Say why metrics are missing; empty where none is."""
    if not np.isfinite(sigma).all():
        return "holds values that are not finite"
    if not sigma[0] > 0:
        return "all zero: no ratios, no tail, nothing beside chance"
    reasons = []
    if sigma.size == 1:
        reasons.append("one singular value: no decay ratio, no p-value")
    if not variance > 0:
        reasons.append("all entries equal: nothing beside chance")
    if not np.isfinite(metrics["alpha"]):
        equal = sigma.size > 1 and equal_to_rounding(sigma[None], shape)[0]
        reasons.append("all singular values equal to rounding: no tail" if equal else "too few values for a tail")
    return "; ".join([*reasons, *beside_chance])
