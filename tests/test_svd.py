"""The SVD kernel against NumPy's in float64, spectra that were prescribed, and spectra known in closed form."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from jacspec.backend import numerics
from jacspec.spectra import svd
from jacspec.spectra.cores import blas_on_one_thread, map_on_cores
from jacspec.spectra.svd import (
    Way,
    choose_way,
    leading_pairs,
    right_vectors,
    singular_values,
)

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}
"""Of σ₁, at most 24 rows and columns: about 16 eps in float32 and 45 in float64."""

SHAPES = {"square": (3, 12, 12), "tall": (3, 24, 7), "wide": (3, 7, 24), "one": (1, 12, 12), "1xn": (2, 1, 9)}


WAYS = [
    ("float32", Way.lapack),
    ("float64", Way.lapack),
    ("float32", Way.gram),
    ("float32", Way.qr),
    ("float64", Way.qr),
]
"""An accelerator's ways run on a CPU as well."""


def kernel(matrices: np.ndarray, precision: str, way: Way = Way.lapack) -> np.ndarray:
    with numerics(precision):
        found = singular_values(jnp.asarray(matrices, precision), way=way)
        assert found.dtype == precision
        return np.asarray(found, np.float64)


def reference(matrices: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrices.astype(np.float64), compute_uv=False)


def assert_same(found: np.ndarray, expected: np.ndarray, precision: str) -> None:
    assert found.shape == expected.shape
    error = np.abs(found - expected) / expected[:, :1]
    assert error.max() <= TOLERANCE[precision], f"{error.max():.1e} of σ₁ at {np.argwhere(error == error.max())[0]}"


@pytest.mark.parametrize(("precision", "way"), WAYS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_kernel_equals_numpy(shape: tuple[int, int, int], precision: str, way: Way) -> None:
    matrices = np.random.default_rng(0).standard_normal(shape).astype(precision)
    assert_same(kernel(matrices, precision, way), reference(matrices), precision)


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


@pytest.mark.parametrize(("precision", "way"), WAYS)
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("rows", [8, 12])
def test_prescribed_spectrum_is_found(spectrum: np.ndarray, rows: int, precision: str, way: Way) -> None:
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((n, 8)))[0] for n in (rows, 8))
    matrices = (u * spectrum @ v.T)[None].astype(precision)
    assert_same(kernel(matrices, precision, way), spectrum[None], precision)


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


def assert_as_good_as_stated(matrices: list[np.ndarray], way: Way = Way.lapack) -> None:
    """σ within its own rounding to float32 and √u σ₁, u the rounding unit of float64, twice for both steps."""
    found = np.asarray(singular_values(matrices, way=way), np.float64)
    expected = reference(np.stack(matrices))
    allowed = 2.0**-24 * expected + 2 * 2.0**-26.5 * expected[:, :1]
    worst = np.abs(found - expected) / allowed
    assert worst.max() <= 1, f"{worst.max():.2g} of what is allowed at {np.argwhere(worst == worst.max())[0]}"


GRAM = [(Way.lapack, 41), (Way.lapack, 300), (Way.gram, 40), (Way.gram, 300)]
"""Where float32 goes through Gram matrices, and rows: on an accelerator square matrices too."""


@pytest.mark.parametrize("spectrum", HARD.values(), ids=HARD)
@pytest.mark.parametrize(("way", "rows"), GRAM)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e37])
def test_gram_matrices_are_as_good_as_stated(spectrum: np.ndarray, way: Way, rows: int, scale: float) -> None:
    matrix = hard(spectrum / spectrum[0], rows) * np.float32(scale)
    assert_as_good_as_stated([matrix, matrix.copy()], way)
    assert_as_good_as_stated([matrix.T], way)
    threshold = reference(matrix[None])[0, 0] * rows * np.finfo(np.float32).eps
    found = np.asarray(singular_values([matrix], way=way))[0]
    assert (found > threshold).sum() == (reference(matrix[None])[0] > threshold).sum()


@pytest.mark.parametrize("name", ["ill-conditioned", "rank 3", "one large", "graded to nothing"])
def test_oracle_catches_a_gram_matrix_in_float32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd, "_gram", lambda rows: (rows.T @ rows).astype(np.float64))
    with pytest.raises(AssertionError, match="of what is allowed"):
        assert_as_good_as_stated([hard(HARD[name], 300)])


@pytest.mark.parametrize("name", ["ill-conditioned", "rank 3", "one large", "graded to nothing"])
def test_oracle_catches_an_accelerator_in_float32(name: str) -> None:
    """QR is right to float32's rounding, and JAX's own Gram matrix not even that: neither passes for float64."""
    with pytest.raises(AssertionError, match="of what is allowed"):
        assert_as_good_as_stated([hard(HARD[name], 300)], Way.qr)


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


@pytest.mark.parametrize("length", [1, 7, 9, 30])
@pytest.mark.parametrize("cores", [1, 3])
def test_rows_have_the_same_bits_whatever_shares_their_batch(
    length: int, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    matrices = np.random.default_rng(5).standard_normal((length, 6, 6)).astype("float32")
    values = [jnp.linalg.svd(matrix, compute_uv=False) for matrix in matrices]
    np.testing.assert_array_equal(np.asarray(singular_values(list(matrices))), np.array(values))
    left, sigma, right = (np.asarray(part) for part in leading_pairs(jnp.asarray(matrices), 2))
    programs: Any = svd._one_after_the_other
    compiled = programs._cache_size()
    for number, matrix in enumerate(matrices):
        u, s, v = map(np.asarray, jnp.linalg.svd(matrix, full_matrices=False))
        for found, alone in ((left[number], u[:, :2]), (sigma[number], s), (right[number], v[:2].T)):
            np.testing.assert_array_equal(found, alone)
    leading_pairs(jnp.asarray(matrices), 2)
    assert programs._cache_size() == compiled


def test_batches_of_several_arrays_go_row_by_row() -> None:
    left, right = np.arange(5.0, dtype="float32"), np.arange(10.0, dtype="float32").reshape(5, 2)
    found = svd.on_cores(_scaled, left, jnp.asarray(right))
    np.testing.assert_array_equal(np.asarray(found), left[:, None] * right)


def _scaled(factor: jax.Array, row: jax.Array) -> jax.Array:
    return factor[None] * row


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("cols", [6, 4])
@pytest.mark.parametrize("way", Way)
def test_what_is_not_finite_stays_in_its_row(bad: float, cols: int, way: Way) -> None:
    matrices = np.random.default_rng(2).standard_normal((3, 6, cols)).astype("float32")
    clean = kernel(matrices, "float32", way)
    matrices[1, 2, 3] = bad
    found = kernel(matrices, "float32", way)
    assert not np.isfinite(found[1]).any()
    np.testing.assert_array_equal(found[[0, 2]], clean[[0, 2]])


def blas_threads() -> list[int]:
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_is_single_threaded_inside_and_restored_after_an_error() -> None:
    before = blas_threads()
    assert before, "threadpoolctl sees no BLAS: the limit would do nothing"

    def fail() -> None:
        with blas_on_one_thread():
            assert set(blas_threads()) == {1}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    kernel(np.ones((1, 2, 2)), "float32")
    assert blas_threads() == before


def test_work_on_the_cores_keeps_its_order_and_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=30)

    def work(number: int, factor: int) -> tuple[int, set[int]]:
        if number < 2:
            both.wait()  # neither would pass alone
        return number * factor, set(blas_threads())

    assert map_on_cores(work, range(5), range(5)) == [(number**2, {1}) for number in range(5)]
    with pytest.raises(ZeroDivisionError):
        map_on_cores(lambda number: 1 // number, range(3))


# Vectors


def assert_vectors(matrices: np.ndarray, sigma: np.ndarray, left: np.ndarray, right: np.ndarray, within: float) -> None:
    """Check pairs of vectors, as columns: orthonormal, and W v = σ u, Wᵀ u = σ v to `within` σ₁."""
    wide, top = matrices.astype(np.float64), left.shape[2]
    values, u, v = (np.asarray(each, np.float64) for each in (sigma, left, right))
    for vectors in (u, v):
        assert np.abs(vectors.swapaxes(1, 2) @ vectors - np.eye(top)).max() <= within
    for image, vectors in ((wide @ v, u), (wide.swapaxes(1, 2) @ u, v)):
        assert (np.abs(image - values[:, None, :top] * vectors).max(axis=(1, 2)) <= within * values[:, 0]).all()


@pytest.mark.parametrize(("precision", "way"), WAYS)
@pytest.mark.parametrize("shape", [(40, 40), (90, 40), (40, 90)])
def test_vectors_belong_to_their_values(shape: tuple[int, int], precision: str, way: Way) -> None:
    tall = np.stack([hard(spectrum, max(shape)) for spectrum in HARD.values()]).astype(precision)
    matrices = tall if shape[0] >= shape[1] else tall.swapaxes(1, 2)
    within = 1e-6 if way is Way.gram else {"float32": 1e-5, "float64": 1e-13}[precision]
    with numerics(precision):
        left, sigma, right = map(np.asarray, leading_pairs(jnp.asarray(matrices), 40, way=way))
        values, vectors = map(np.asarray, right_vectors(jnp.asarray(matrices), way=way))
    assert_vectors(matrices, sigma, left, right, within)
    np.testing.assert_array_equal(values, sigma)
    np.testing.assert_array_equal(vectors.swapaxes(1, 2), right)
    for one, other in ((left, right[:, :, ::-1]), (-left, right), (left, 1.01 * right)):
        with pytest.raises(AssertionError):
            assert_vectors(matrices, sigma, one, other, within)


def test_gram_vectors_tell_small_values_apart_better_than_float32_does() -> None:
    """Planes of the small ones, 1e-5 σ₁ and below it in steps of a tenth: what `removal` takes away."""
    spectrum = np.concatenate([np.ones(20), 1e-5 * 0.9 ** np.arange(20)])
    matrix = hard(spectrum, 60)
    expected = np.linalg.svd(matrix.astype(np.float64))[2][:40]

    def worst(way: Way) -> float:
        with numerics("float32"):
            found = np.asarray(right_vectors(jnp.asarray(matrix[None]), way=way)[1], np.float64)[0]
        return float(np.abs(1 - np.abs((found * expected).sum(axis=1)))[20:].max())

    assert worst(Way.gram) < 1e-6 < worst(Way.qr)


def test_a_large_batch_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = jnp.asarray(np.random.default_rng(4).standard_normal((7, 9, 5)), "float32")
    whole = [singular_values(matrices, way=Way.gram), *leading_pairs(matrices, 2, way=Way.gram)]
    monkeypatch.setattr(svd, "WORK_BYTES", 3.5 * 8 * (3 * 9 + 3 * 5) * 5)
    parts = [singular_values(matrices, way=Way.gram), *leading_pairs(matrices, 2, way=Way.gram)]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with jax.enable_x64(True):
        assert "while" in svd._values.lower(matrices, Way.gram, 3).as_text()


# Which way


DEVICES = {
    "cpu": ("lapack", "lapack"),
    "TPU v5 lite": ("lapack", "lapack"),
    "NVIDIA H100 80GB HBM3": ("gram", "qr"),
    "NVIDIA A100-SXM4-40GB": ("gram", "qr"),
    "NVIDIA H20": ("qr", "qr"),
    "NVIDIA B300 SXM6 AC": ("qr", "qr"),
    "NVIDIA RTX A3000 Laptop GPU": ("qr", "qr"),
    "NVIDIA GeForce RTX 4090": ("qr", "qr"),
    "AMD Instinct MI300X": ("qr", "qr"),
}


@pytest.mark.parametrize("kind", DEVICES)
def test_way_is_the_devices(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = kind[:3].lower() if kind[:3].lower() in ("cpu", "tpu") else "gpu"
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform=platform, device_kind=kind)])
    assert tuple(choose_way(np.dtype(name)).value for name in ("float32", "float64")) == DEVICES[kind]


def test_no_product_of_the_kernel_is_in_tf32() -> None:
    """Outside `numerics` too: a default product of float32 on a GPU may be one of TF32."""
    with jax.enable_x64(True):
        for way in (Way.gram, Way.qr):
            program = svd._leading.lower(jnp.ones((2, 9, 5), "float32"), way, 2, 3).as_text()
            products = [line for line in program.splitlines() if "dot_general" in line]
            assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
            assert bool(products) is (way is Way.gram)


def test_what_runs_on_the_host_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a TPU, which computes nothing of the kernel: two matrices, by `gesdd` and by Gram matrices."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    for shape in ((2, 6, 6), (2, 6, 4)):
        matrices = np.random.default_rng(5).standard_normal(shape).astype("float32")
        assert_same(kernel(matrices, "float32"), reference(matrices), "float32")
        left, sigma, right = (np.asarray(each) for each in leading_pairs(jnp.asarray(matrices), 3))
        assert_vectors(matrices, sigma, left, right, 5e-6)
