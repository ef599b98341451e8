"""The SVD kernel against NumPy's in float64, spectra that were prescribed, and spectra known in closed form."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from jacspec.backend import numerics
from jacspec.spectra import svd
from jacspec.spectra.svd import lapack_threads, singular_values

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
"""Of σ₁, at most 24 rows and columns: about 16 eps in float32 and 45 in float64."""

SHAPES = {"square": (3, 12, 12), "tall": (3, 24, 7), "wide": (3, 7, 24), "one": (1, 12, 12), "1xn": (2, 1, 9)}


def kernel(matrices: np.ndarray, precision: str) -> np.ndarray:
    with numerics(precision):
        found = singular_values(jnp.asarray(matrices, precision))
        assert found.dtype == precision
        return np.asarray(found, np.float64)


def reference(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrices.astype(np.float64), compute_uv=False)


def assert_same(found: np.ndarray, expected: np.ndarray, precision: str) -> None:
    assert found.shape == expected.shape
    error = np.abs(found - expected) / expected[:, :1]
    assert error.max() <= TOLERANCE[precision], f"{error.max():.1e} of σ₁ at {np.argwhere(error == error.max())[0]}"


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_kernel_equals_numpy(shape: tuple[int, int, int], precision: str) -> None:
    matrices = np.random.default_rng(0).standard_normal(shape).astype(precision)
    assert_same(kernel(matrices, precision), reference(matrices), precision)


SABOTAGE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "squared": np.square,
    "ascending": lambda sigma: sigma[:, ::-1],
    "rows swapped": lambda sigma: sigma[::-1],
}


@pytest.mark.parametrize("sabotage", SABOTAGE.values(), ids=SABOTAGE)
def test_oracle_catches_sabotage(sabotage: Callable[[np.ndarray], np.ndarray]) -> None:
    matrices = np.random.default_rng(0).standard_normal(SHAPES["square"]).astype("float32")
    with pytest.raises(AssertionError):
        assert_same(sabotage(kernel(matrices, "float32")), reference(matrices), "float32")


SPECTRA = {
    "flat": np.ones(8),
    "geometric": 0.5 ** np.arange(8),
    "hidden rank 3": np.array([5.0, 2, 1, 0, 0, 0, 0, 0]),
    "pair": np.array([2.0, 2, 1, 1, 1, 1e-3, 1e-3, 0]),
    "zero": np.array([1.0] + [0] * 7),
}


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("rows", [8, 12])
def test_prescribed_spectrum_is_found(spectrum: np.ndarray, rows: int, precision: str) -> None:
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((n, 8)))[0] for n in (rows, 8))
    matrices = (u * spectrum @ v.T)[None].astype(precision)
    assert_same(kernel(matrices, precision), spectrum[None], precision)


CLOSED = {
    "[[3, 2], [2, 3]]": ([[3, 2], [2, 3]], [5, 1]),
    "diag(3, 2, 1) padded": (np.eye(3, 4) * [3, 2, 1, 0], [3, 2, 1]),
    # Characteristic polynomial of A Aᵀ: t² − 650 t + 1920 and an exact zero.
    "1...12": (np.arange(1, 13).reshape(3, 4), [25.4368356, 1.72261225, 0]),
    "zero": (np.zeros((2, 3)), [0, 0]),
    "row": ([[3, 4]], [5]),
}


@pytest.mark.parametrize(("matrix", "expected"), CLOSED.values(), ids=CLOSED)
def test_closed_cases(matrix: np.ndarray, expected: list[float]) -> None:
    found = kernel(np.array([matrix], float), "float64")[0]
    np.testing.assert_allclose(found, expected, rtol=2e-8, atol=1e-13)


RANKS = np.arange(40)
HARD = {
    "ill-conditioned": 10.0 ** (-8 * RANKS / 39),
    "rank 3": np.where(RANKS < 3, 5.0 - RANKS, 0),
    "one large": np.where(RANKS > 0, 1e-6, 1.0),
    "graded to nothing": 10.0 ** -RANKS.astype(float),
    "nearly flat": 1 + 1e-6 * RANKS[::-1],
}


def hard(spectrum: np.ndarray, rows: int) -> np.ndarray:
    """Make a float32 matrix of about that spectrum; its entries are rounded, so that NumPy says what it is."""
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.standard_normal((n, 40)))[0] for n in (rows, 40))
    return (u * spectrum @ v.T).astype(np.float32)


def assert_as_good_as_stated(matrices: list[np.ndarray]) -> None:
    """σ within its own rounding to float32 and √u σ₁, u the rounding unit of float64, twice for both steps."""
    found = np.asarray(singular_values(matrices), np.float64)
    expected = reference(np.stack(matrices))
    allowed = 2.0**-24 * expected + 2 * 2.0**-26.5 * expected[:, :1]
    worst = np.abs(found - expected) / allowed
    assert worst.max() <= 1, f"{worst.max():.2g} of what is allowed at {np.argwhere(worst == worst.max())[0]}"


@pytest.mark.parametrize("spectrum", HARD.values(), ids=HARD)
@pytest.mark.parametrize("rows", [41, 300])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e37])
def test_gram_matrices_are_as_good_as_stated(spectrum: np.ndarray, rows: int, scale: float) -> None:
    matrix = hard(spectrum / spectrum[0], rows) * np.float32(scale)
    assert_as_good_as_stated([matrix, matrix.T.copy().T])
    threshold = reference(matrix[None])[0, 0] * rows * np.finfo(np.float32).eps
    found = np.asarray(singular_values([matrix]))[0]
    assert (found > threshold).sum() == (reference(matrix[None])[0] > threshold).sum()


@pytest.mark.parametrize("name", ["ill-conditioned", "rank 3", "one large", "graded to nothing"])
def test_oracle_catches_a_gram_matrix_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd, "_gram", lambda rows: (rows.T @ rows).astype(np.float64))
    with pytest.raises(AssertionError, match="of what is allowed"):
        assert_as_good_as_stated([hard(HARD[name], 300)])


def test_parts_of_a_tall_matrix_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = [hard(HARD["ill-conditioned"], 300), hard(HARD["nearly flat"], 300)]
    monkeypatch.setattr(svd, "ROWS", 64)
    assert_as_good_as_stated(matrices)
    # The same bits alone, in a batch, on one core, stacked or turned.
    alone = np.asarray(singular_values(matrices[1:]))
    np.testing.assert_array_equal(np.asarray(singular_values(matrices))[1:], alone)
    np.testing.assert_array_equal(np.asarray(singular_values(jnp.asarray(np.stack(matrices))))[1:], alone)
    np.testing.assert_array_equal(np.asarray(singular_values([each.T for each in matrices]))[1:], alone)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    np.testing.assert_array_equal(np.asarray(singular_values(matrices))[1:], alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("cols", [6, 4])
def test_what_is_not_finite_stays_in_its_row(bad: float, cols: int) -> None:
    matrices = np.random.default_rng(2).standard_normal((3, 6, cols)).astype("float32")
    clean = kernel(matrices, "float32")
    matrices[1, 2, 3] = bad
    found = kernel(matrices, "float32")
    assert not np.isfinite(found[1]).any()
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_is_single_threaded_inside_and_restored_after_an_error() -> None:
    before = blas_threads()
    assert before, "threadpoolctl sees no BLAS: the limit would do nothing"

    def fail() -> None:
        with lapack_threads():
            assert set(blas_threads()) == {1}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    kernel(np.ones((1, 2, 2)), "float32")
    assert blas_threads() == before
