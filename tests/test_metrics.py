"""Every row of METRICS against NumPy in float64 as the definitions say, and properties driven by the table itself."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacspec.backend import numerics
from jacspec.errors import JacspecError
from jacspec.spectra.metrics import METRICS, Measurement, choose_metrics, compute_metrics
from jacspec.spectra.svd import singular_values

SPECTRAL = tuple(name for name, metric in METRICS.items() if metric.needs != "matrix")
TOP_K = 2
RANK = 3
FEW = settings(deadline=None, max_examples=12, derandomize=True)
SEEDS = st.integers(0, 10**6)
SHAPES = st.sampled_from([(6, 6), (4, 7), (7, 4)])

TOLERANCE = {"float32": 2e-5, "float64": 1e-11}
"""Relative; float32 leaves about 170 eps for sums over a spectrum and the conditioning of eigenvalues."""


def measure(
    names: tuple[str, ...], matrices: np.ndarray, precision: str, directions: np.ndarray | None = None, **options: Any
) -> dict[str, np.ndarray]:
    """Compute metrics as the engines do: the kernel, then the table."""
    with numerics(precision):
        arrays = jnp.asarray(matrices, precision)
        if any(METRICS[name].needs == "matrix" for name in names):
            directions = np.ones((len(matrices), matrices.shape[2])) if directions is None else directions
            options |= {"matrices": arrays, "directions": jnp.asarray(directions, precision)}
        found = compute_metrics(names, singular_values(arrays), shape=matrices.shape[1:], **options)
        assert {value.dtype for value in found.values()} == {jnp.dtype(precision)}
        return {name: np.asarray(value, np.float64) for name, value in found.items()}


def with_spectrum(sigma: np.ndarray, shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((n, len(sigma))))[0] for n in shape)
    return u * sigma @ v.T


def random_matrix(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """A matrix whose singular values fall from 1.3 by random factors, at most a thousandfold in all."""
    factors = np.random.default_rng(seed).uniform(0.32, 1, min(shape) - 1)
    return with_spectrum(1.3 * np.concatenate([[1.0], np.cumprod(factors)]), shape, seed)


# The oracle: DESIGN's table in NumPy, float64, from singular values s, the matrix A, the direction x and eps.
def rank(s: np.ndarray, A: np.ndarray, eps: float) -> int:
    return int((s > s[0] * max(A.shape) * eps).sum())


def entropy(p: np.ndarray) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


ORACLE: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, float], Any]] = {
    "spectral_radius": lambda s, A, x, eps: s[0],
    "decay_ratio": lambda s, A, x, eps: s[1] / s[0],
    "frobenius_norm": lambda s, A, x, eps: np.sqrt((A**2).sum()),
    "stable_rank": lambda s, A, x, eps: (s**2).sum() / s[0] ** 2,
    "participation_ratio": lambda s, A, x, eps: (s**2).sum() ** 2 / (s**4).sum(),
    "normalized_participation_ratio": lambda s, A, x, eps: (s**2).sum() ** 2 / (s**4).sum() / RANK,
    "sigma_participation_ratio": lambda s, A, x, eps: s.sum() ** 2 / (s**2).sum(),
    "effective_rank": lambda s, A, x, eps: np.exp(entropy(s / s.sum())),
    "spectral_entropy": lambda s, A, x, eps: entropy(s**2 / (s**2).sum()),
    "condition_number": lambda s, A, x, eps: s[0] / s[rank(s, A, eps) - 1],
    "lambda_condition_number": lambda s, A, x, eps: (s[0] / s[rank(s, A, eps) - 1]) ** 2,
    "numerical_rank": lambda s, A, x, eps: rank(s, A, eps),
    "variance_top_k": lambda s, A, x, eps: (s[:TOP_K] ** 2).sum() / (s**2).sum(),
    "components_for_90": lambda s, A, x, eps: 1 + np.argmax(np.cumsum(s**2) / (s**2).sum() >= 0.9),
    "share_above_one": lambda s, A, x, eps: np.mean(s > 1),
    "share_near_one": lambda s, A, x, eps: np.mean((s >= 0.9) & (s <= 1.1)),
    "share_deleted": lambda s, A, x, eps: np.mean(s < s[0] / 1000),
    "eigenvalue_radius": lambda s, A, x, eps: np.abs(np.linalg.eigvals(A)).max(),
    "henrici_departure": lambda s, A, x, eps: np.sqrt(
        ((A**2).sum() - (np.abs(np.linalg.eigvals(A)) ** 2).sum()) / (A**2).sum()
    ),
    "residual_gain": lambda s, A, x, eps: np.linalg.norm(A @ x) / np.linalg.norm(x),
}


def expect(name: str, matrices: np.ndarray, directions: np.ndarray, precision: str) -> list[float]:
    eps = float(np.finfo(precision).eps)
    return [
        ORACLE[name](np.linalg.svd(A, compute_uv=False), A, x, eps)
        for A, x in zip(matrices.astype(np.float64), directions.astype(np.float64), strict=True)
    ]


def cases(shape: tuple[int, int], precision: str) -> tuple[np.ndarray, np.ndarray]:
    matrices = np.stack([random_matrix(seed, shape) for seed in range(4)]).astype(precision)
    return matrices, np.random.default_rng(9).standard_normal((4, shape[1])).astype(precision)


def test_oracle_has_every_row() -> None:
    assert ORACLE.keys() == METRICS.keys()


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (7, 4)])
def test_rows_equal_numpy(shape: tuple[int, int], precision: str) -> None:
    names = tuple(METRICS) if shape[0] == shape[1] else SPECTRAL
    matrices, directions = cases(shape, precision)
    found = measure(names, matrices, precision, structural_rank=RANK, top_k=TOP_K, directions=directions)
    for name in names:
        expected = expect(name, matrices, directions, precision)
        np.testing.assert_allclose(found[name], expected, rtol=TOLERANCE[precision] * 10, err_msg=name)


@pytest.mark.parametrize("name", [name for name in SPECTRAL if name != "share_above_one"])  # so is its square
def test_oracle_catches_lambda_for_sigma(name: str) -> None:
    # Falls a thousandfold in a few steps, so that λ also crosses float32's rank threshold.
    matrix = with_spectrum(np.array([3, 1.6, 0.93, 0.05, 1e-3]), (5, 5)).astype("float32")
    expected = expect(name, matrix[None], np.ones((1, 5)), "float32")[0]

    def found(sigma: Any) -> float:
        return float(METRICS[name].function(Measurement(sigma, (5, 5), RANK, TOP_K, None, None)))

    with numerics("float32"):
        sigma = singular_values(jnp.asarray(matrix[None]))[0]
        assert found(sigma) == pytest.approx(expected, rel=1e-3)
        assert found(jnp.square(sigma)) != pytest.approx(expected, rel=1e-3)


MATRIX_SABOTAGE: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "residual_gain": lambda A, x: (A.T, x),
    "eigenvalue_radius": lambda A, x: (A[::-1], x),
    "henrici_departure": lambda A, x: (A[::-1], x),
}


@pytest.mark.parametrize("name", MATRIX_SABOTAGE)
def test_oracle_catches_wrong_matrix(name: str) -> None:
    matrices, directions = cases((6, 6), "float64")
    A, x = MATRIX_SABOTAGE[name](matrices[0], directions[0])
    found = measure((name,), A[None], "float64", directions=x[None])[name]
    assert found[0] != pytest.approx(expect(name, matrices[:1], directions[:1], "float64")[0], rel=1e-3)


@FEW
@given(SEEDS, SHAPES)
def test_bounds_hold(seed: int, shape: tuple[int, int]) -> None:
    names = tuple(METRICS) if shape[0] == shape[1] else SPECTRAL
    for name, value in measure(names, random_matrix(seed, shape)[None], "float32").items():
        low, high = METRICS[name].bounds(min(shape))
        assert low * (1 - 1e-5) <= value[0] <= (np.inf if high is None else high * (1 + 1e-5)), name


@FEW
@given(SEEDS, SHAPES, st.sampled_from([1e-12, -1e-12, 1e12, -1e12, -1.0, 3.0, 1e-5]))
def test_scaling_law(seed: int, shape: tuple[int, int], c: float) -> None:
    names = tuple(METRICS) if shape[0] == shape[1] else SPECTRAL
    matrix = random_matrix(seed, shape).astype("float32")
    found = measure(names, np.stack([matrix, np.float32(c) * matrix]), "float32")
    for name, (value, scaled) in found.items():
        power = METRICS[name].scaling
        if power is None:
            continue
        law = abs(c) ** power * value
        assert scaled == pytest.approx(law, rel=2e-4, abs=0), name


@FEW
@given(SEEDS, SHAPES)
def test_spectrum_alone_counts(seed: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    A = random_matrix(seed, shape)
    Q, R = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in shape)
    plain = measure(SPECTRAL, A[None], "float64")
    for other in (Q @ A @ R, A.T):
        for name, value in measure(SPECTRAL, other[None], "float64").items():
            assert value[0] == pytest.approx(plain[name][0], rel=1e-10), name


@FEW
@given(SEEDS, SHAPES)
def test_squares_sum_to_the_frobenius_norm(seed: int, shape: tuple[int, int]) -> None:
    A = random_matrix(seed, shape)
    assert measure(SPECTRAL, A[None], "float64")["frobenius_norm"][0] ** 2 == pytest.approx((A**2).sum(), rel=1e-12)


ONES = dict.fromkeys(
    ("stable_rank", "participation_ratio", "sigma_participation_ratio", "effective_rank", "condition_number",
     "lambda_condition_number", "numerical_rank", "variance_top_k", "components_for_90"), 1.0
)  # fmt: skip
POWER = np.arange(1, 9.0) ** -1


def harmonic(power: int) -> float:
    return float(sum(Fraction(1, i**power) for i in range(1, 9)))


KNOWN: dict[str, tuple[np.ndarray, dict[str, float]]] = {
    "rank 1": (
        np.outer(np.arange(1, 9), np.arange(8, 0, -1)),
        {**ONES, "spectral_radius": 204, "frobenius_norm": 204, "decay_ratio": 0, "spectral_entropy": 0},
    ),
    "identity": (
        np.eye(8),
        {**dict.fromkeys(ONES, 8.0), "condition_number": 1, "lambda_condition_number": 1, "decay_ratio": 1,
         "variance_top_k": TOP_K / 8, "spectral_entropy": math.log(8), "normalized_participation_ratio": 1},
    ),
    "hidden rank 2": (
        with_spectrum(np.array([2.0, 2, 0, 0, 0, 0, 0, 0]), (8, 8)),
        {**dict.fromkeys(ONES, 2.0), "condition_number": 1, "lambda_condition_number": 1, "decay_ratio": 1,
         "variance_top_k": 1, "spectral_entropy": math.log(2), "normalized_participation_ratio": 2 / 8},
    ),
    "power law": (
        with_spectrum(POWER, (8, 8)),
        {"decay_ratio": 0.5, "stable_rank": harmonic(2), "condition_number": 8, "lambda_condition_number": 64,
         "sigma_participation_ratio": harmonic(1) ** 2 / harmonic(2), "numerical_rank": 8,
         "participation_ratio": harmonic(2) ** 2 / harmonic(4), "variance_top_k": 1.25 / harmonic(2),
         # 1 + 1/4 + 1/9 = 1.3611 < 0.9 · 1.5274 = 1.3747 ≤ 1.3611 + 1/16
         "components_for_90": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("matrix", "expected"), KNOWN.values(), ids=KNOWN)
def test_known_values(matrix: np.ndarray, expected: dict[str, float]) -> None:
    found = measure(SPECTRAL, np.array([matrix], float), "float64", top_k=TOP_K)
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, rel=1e-12, abs=1e-12), name


def test_zero_matrix_is_zero_or_nan() -> None:
    found = measure(tuple(METRICS), np.zeros((1, 4, 4)), "float32")
    zero = {"spectral_radius", "frobenius_norm", "numerical_rank", "eigenvalue_radius", "residual_gain"}
    zero |= {"share_above_one", "share_near_one"}
    assert {name for name, value in found.items() if value[0] == 0} == zero
    assert {name for name, value in found.items() if np.isnan(value[0])} == METRICS.keys() - zero


def test_single_singular_value_has_no_decay_ratio() -> None:
    found = measure(SPECTRAL, np.array([[[3.0, 4, 0, 0, 12]]]), "float32")
    assert {name for name, value in found.items() if np.isnan(value[0])} == {"decay_ratio"}
    assert all(found[name][0] == pytest.approx(one) for name, one in ONES.items())
    assert found["spectral_radius"][0] == pytest.approx(13)


@pytest.mark.parametrize("precision", TOLERANCE)
def test_condition_number_ignores_the_zero_of_a_layer_norm(precision: str) -> None:
    d = 12
    weight = with_spectrum(np.linspace(2, 1, d), (d, d))
    jacobian = weight @ (np.eye(d) - 1 / d)
    names = choose_metrics(["condition_number"])
    found = measure(names, jacobian[None], precision)
    sigma = np.linalg.svd(jacobian, compute_uv=False)
    assert found["numerical_rank"][0] == d - 1
    assert found["condition_number"][0] == pytest.approx(sigma[0] / sigma[d - 2], rel=1e-5)


ROTATION = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
NORMAL = {
    "symmetric": with_spectrum(np.arange(1.0, 7), (6, 6)) @ with_spectrum(np.arange(1.0, 7), (6, 6)).T,
    "antisymmetric": np.subtract.outer(np.arange(6.0), np.arange(6.0)),
    "orthogonal": with_spectrum(np.ones(6), (6, 6)),
    "rotation and scale": np.kron(np.eye(3), 2 * ROTATION),
}  # fmt: skip


@pytest.mark.parametrize("matrix", NORMAL.values(), ids=NORMAL)
def test_normal_matrix(matrix: np.ndarray) -> None:
    found = measure(tuple(METRICS), matrix[None], "float64")
    assert found["eigenvalue_radius"][0] == pytest.approx(found["spectral_radius"][0], rel=1e-12)
    assert found["henrici_departure"][0] < 1e-6  # the root of a rounding error


def test_nilpotent_matrix() -> None:
    matrix = np.triu(np.random.default_rng(3).standard_normal((6, 6)), 1)
    found = measure(tuple(METRICS), matrix[None], "float64")
    assert found["eigenvalue_radius"][0] == pytest.approx(0, abs=1e-12)
    assert found["henrici_departure"][0] == pytest.approx(1)


@FEW
@given(SEEDS)
def test_eigenvalues_stay_below_the_spectral_norm(seed: int) -> None:
    found = measure(tuple(METRICS), np.random.default_rng(seed).standard_normal((1, 6, 6)), "float64")
    assert found["eigenvalue_radius"][0] <= found["spectral_radius"][0] * (1 + 1e-12)


@FEW
@given(SEEDS, st.sampled_from([1e-6, 1.0, -7.0, 1e6]))
def test_residual_gain_along_singular_vectors(seed: int, length: float) -> None:
    A = random_matrix(seed, (6, 6))
    _, sigma, Vt = np.linalg.svd(A)
    found = measure(tuple(METRICS), np.stack([A] * 6), "float64", directions=length * Vt)
    np.testing.assert_allclose(found["residual_gain"], sigma, rtol=1e-12)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["full"], tuple(METRICS)),
        (["stable_rank", "full"], tuple(METRICS)),
        (["decay_ratio", "spectral_radius"], ("spectral_radius", "decay_ratio")),
        (["decay_ratio", "decay_ratio"], ("decay_ratio",)),
        (["condition_number"], ("condition_number", "numerical_rank")),
        (["numerical_rank", "lambda_condition_number"], ("lambda_condition_number", "numerical_rank")),
    ],
)
def test_choice(names: list[str], expected: tuple[str, ...]) -> None:
    assert choose_metrics(names) == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["spectral_radios"], "'spectral_radios', which is no metric. Did you mean 'spectral_radius'"),
        (["decay_ratio", "henrici"], "'henrici'.*Did you mean 'henrici_departure'"),
        (["x"], "Accepted: components_for_90, condition_number"),
        ([], "empty.*Accepted: components_for_90"),
    ],
)
def test_choice_refused(names: list[str], message: str) -> None:
    with pytest.raises(JacspecError, match=message):
        choose_metrics(names)


@pytest.mark.parametrize(("name", "metric"), METRICS.items(), ids=METRICS)
def test_row_is_complete(name: str, metric: Any) -> None:
    assert name == name.lower()
    assert metric.symbol
    assert metric.definition
    assert metric.source
    assert set(metric.with_) <= METRICS.keys()


def test_top_k_below_one_is_refused() -> None:
    with pytest.raises(JacspecError, match=r"metrics\.top_k=0"):
        compute_metrics(["variance_top_k"], jnp.ones((1, 3)), shape=(3, 3), top_k=0)


@pytest.mark.parametrize("scale", [1e25, 1e-30, 0.0])
def test_norms_neither_overflow_nor_underflow(scale: float) -> None:
    """In float32, whose squares reach from 1e-45 to 3e38."""
    sigma = np.array([[3.0, 2.0, 1.0]]) * scale
    matrix, direction = np.diag(sigma[0])[None], np.array([[1.0, 2.0, 2.0]]) * (scale or 1.0)
    found = compute_metrics(
        ["frobenius_norm", "residual_gain"],
        jnp.asarray(sigma, jnp.float32),
        shape=(3, 3),
        matrices=jnp.asarray(matrix, jnp.float32),
        directions=jnp.asarray(direction, jnp.float32),
    )
    assert float(found["frobenius_norm"][0]) == pytest.approx(14**0.5 * scale, rel=1e-6)
    assert float(found["residual_gain"][0]) == pytest.approx(29**0.5 / 3 * scale, rel=1e-6)
