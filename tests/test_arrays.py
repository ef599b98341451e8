"""Bare arrays, in memory and in files of their own, beside NumPy's singular values."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import jacspec
from jacspec import JacspecError, JacspecTypeError

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(7, 12)).astype(np.float32)


def weights(given: Any, **options: Any) -> jacspec.Run:
    return jacspec.weights(given, precision="float64", silent=True, **options)


def check(run: jacspec.Run, expected: dict[str, np.ndarray]) -> None:
    assert set(run.metrics["name"]) == expected.keys()
    for name, matrix in expected.items():
        row = run.metrics.set_index("name").loc[name]
        sigma = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        assert row["spectral_radius"] == pytest.approx(sigma[0], rel=1e-9)
        assert row["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-9)
        assert row["spectral_radius"] != pytest.approx(np.abs(np.diag(matrix)).max(), rel=1e-3)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, torch.tensor], ids=["numpy", "jax", "torch"])
def test_array_in_memory(kind: Any) -> None:
    check(weights(kind(MATRIX), metrics=["full"]), {"matrix": MATRIX})


def test_arrays_by_name_in_files_of_any_name(tmp_path: Path) -> None:
    named = {"h.0.q": MATRIX, "h.1.q": MATRIX[:, :5].copy(), "scale": MATRIX[0]}
    both = {name: named[name] for name in ("h.0.q", "h.1.q")}
    check(weights(named, metrics=["full"]), both)
    save_file(named, tmp_path / "some.safetensors")
    check(weights(tmp_path / "some.safetensors", metrics=["full"]), both)
    np.save(tmp_path / "own.npy", MATRIX)
    run = weights(tmp_path / "own.npy", metrics=["full"])
    check(run, {"own": MATRIX})
    assert list(run.provenance["identity"]["checkpoint"]["files"]) == ["own.npy"]


HALF = np.sqrt(27**2 / 4 - 102) * np.array([1, -1])
"""λ² − 27 λ + 102 = 0, of the Gram matrix whose third row is the mean of two others."""


def test_teaching_matrices_of_the_walk_through() -> None:
    """docs/sources/walk_through.md: (5, 1) by hand, a diagonal, rows that depend on one another, a power law."""
    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))
    given: dict[str, tuple[np.ndarray, list[float]]] = {
        "symmetric": (np.array([[3.0, 2.0], [2.0, 3.0]]), [5, 1]),
        "diagonal": (np.eye(3, 4) * [[3.0], [2.0], [1.0]], [3, 2, 1]),
        "counting": (np.arange(1.0, 13.0).reshape(3, 4), [25.4368356, 1.72261225, 0]),
        "multiples": (np.outer([1.0, 2, 3], [1.0, 2, 3, 4]), [np.sqrt(14 * 30), 0, 0]),
        "hidden": (np.array([[1.0, 0, 2, 1], [3, 2, 0, 1], [2, 1, 1, 1]]), [*np.sqrt(13.5 + HALF), 0]),
        "power law": (turned @ np.diag(8 / np.arange(1.0, 9)), (8 / np.arange(1.0, 9)).tolist()),
    }
    run = weights({name: matrix for name, (matrix, _) in given.items()} | {"h.0.q": MATRIX}, metrics=["full"])
    ranks = run.metrics.set_index("name")["numerical_rank"]
    assert ranks[list(given)].tolist() == [2, 3, 2, 1, 2, 8]
    found = dict(zip(run.dataset["name"].values.tolist(), run.dataset["singular_values"].values, strict=True))
    for name, (_, expected) in given.items():
        np.testing.assert_allclose(found[name][: len(expected)], expected, atol=1e-7)
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in run.plot("one_matrix").axes[1].lines}
    (left,) = (values for label, values in lines.items() if "W_i" in label)
    u, sigma, vh = np.linalg.svd(MATRIX.astype(np.float64), full_matrices=False)
    rest = [np.linalg.norm((u[:, k:] * sigma[k:]) @ vh[k:]) for k in range(1, 8)]
    np.testing.assert_allclose(left, np.array(rest) / np.linalg.norm(MATRIX), atol=1e-7)


def test_another_array_is_another_run(tmp_path: Path) -> None:
    weights(MATRIX, folder=tmp_path)
    assert len(weights(MATRIX, folder=tmp_path).metrics) == 1
    with pytest.raises(JacspecError, match="checkpoint"):
        weights(MATRIX + 1, folder=tmp_path)


def test_what_is_no_array_of_numbers_is_said(tmp_path: Path) -> None:
    with pytest.raises(JacspecError, match="complex128"):
        weights(MATRIX.astype(complex))
    with pytest.raises(JacspecTypeError, match="b is a list"):
        weights({"a": MATRIX, "b": [1.0]})
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    with pytest.raises(JacspecError, match="cannot be read as a NumPy array"):
        weights(tmp_path / "objects.npy")
    with pytest.raises(JacspecTypeError, match="ndarray"):
        jacspec.heads(MATRIX)
