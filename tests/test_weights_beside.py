"""`task=weights`: eigenvalues of square matrices against NumPy, thirds of the depth against other orders of layers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats
from servers import run_here

from jacspec.backend import numerics
from jacspec.models.matrices import Matrix
from jacspec.runs import Run, open_run
from jacspec.studies.weights.depth import check_depth
from jacspec.studies.weights.extras import choose_extra
from jacspec.studies.weights.figures import matrix_figures
from jacspec.studies.weights.measure import measure_batch, within_range
from jacspec.studies.weights.verdicts import THIRDS

ROTATION = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 30)))[0]
SQUARES = {
    "gaussian": np.random.default_rng(0).normal(size=(60, 60)),
    "symmetric": ROTATION @ np.diag(np.linspace(-3, 3, 30)) @ ROTATION.T,
    "rotation": ROTATION,
    "nilpotent": np.diag(np.linspace(1, 2, 19), 1),
    "scaled": 2.0**300 * np.random.default_rng(2).normal(size=(20, 20)),
}
BESIDE = ("eigenvalue_radius", "positive_share", "rotating_share", "henrici_departure", "ring_share")


def measured(values: np.ndarray, precision: str = "float64") -> Any:
    extra = choose_extra(["eigenvalues"], 99)
    options: dict[str, Any] = {"top_k": 3, "null": "none", "seed": 0, "extra": extra}
    with numerics(precision):
        matrix = within_range(Matrix(0, "o", "w", values), precision)
        return measure_batch([(0, matrix)], ["spectral_radius"], **options)[0]


def by_numpy(matrix: np.ndarray) -> dict[str, float]:
    values, sigma = np.linalg.eigvals(matrix), np.linalg.svd(matrix, compute_uv=False)
    size = np.abs(values)
    known = size > sigma[0] * len(matrix) * np.finfo(np.float64).eps
    inner, outer = (1 / np.mean((1 / sigma) ** 2)) ** 0.5 if sigma[-1] else 0.0, np.mean(sigma**2) ** 0.5
    return {
        "eigenvalue_radius": size.max(),
        "positive_share": np.mean(values[known].real > 0) if known.any() else 0.0,
        "rotating_share": np.mean(np.abs(values[known].imag) > size[known] / 10) if known.any() else 0.0,
        "henrici_departure": max(1 - (size**2).sum() / (sigma**2).sum(), 0) ** 0.5,
        "ring_inner": inner,
        "ring_outer": outer,
        "ring_share": np.mean((size >= inner) & (size <= outer)),
    }


@pytest.mark.parametrize("name", SQUARES)
def test_eigenvalues_are_numpys(name: str) -> None:
    matrix = SQUARES[name]
    found, expected = measured(matrix), by_numpy(np.ldexp(matrix, -300) if name == "scaled" else matrix)
    power = 2.0**300 if name == "scaled" else 1.0
    for column, value in expected.items():
        if name == "rotation" and column == "ring_share":
            continue  # a ring without width
        scale = power if column in ("eigenvalue_radius", "ring_inner", "ring_outer") else 1.0
        assert found.values[column] == pytest.approx(value * scale, rel=1e-8, abs=2e-8 * scale), column
    values, sigma = np.linalg.eigvals(matrix), np.linalg.svd(matrix, compute_uv=False)
    own = np.sort_complex(found.arrays["eigenvalues"] * sigma[0])
    np.testing.assert_allclose(np.abs(own.sum()), np.abs(np.trace(matrix)), atol=1e-9 * power)
    np.testing.assert_allclose(np.sort(np.abs(own)), np.sort(np.abs(values)), atol=1e-9 * power)


def test_eigenvalues_in_closed_cases() -> None:
    symmetric, rotation, nilpotent = (measured(SQUARES[name]).values for name in ("symmetric", "rotation", "nilpotent"))
    assert symmetric["eigenvalue_radius"] == pytest.approx(3) == pytest.approx(symmetric["spectral_radius"])
    assert (symmetric["positive_share"], symmetric["rotating_share"]) == (0.5, 0)
    assert symmetric["henrici_departure"] == pytest.approx(0, abs=1e-7)
    assert rotation["eigenvalue_radius"] == pytest.approx(1)
    assert nilpotent["henrici_departure"] == pytest.approx(1)
    assert nilpotent["eigenvalue_radius"] < 1e-6 < nilpotent["rotated_radius"]
    gaussian = measured(SQUARES["gaussian"], "float32").values
    assert gaussian["ring_share"] == pytest.approx(gaussian["rotated_ring_share"], abs=0.1)
    assert gaussian["henrici_departure"] == pytest.approx(gaussian["rotated_departure"], abs=0.05)
    assert abs(symmetric["henrici_departure"] - symmetric["rotated_departure"]) > 0.3, "a normal matrix would be seen"
    missing = measured(np.ones((3, 5)) + np.eye(3, 5))
    assert np.isnan([missing.values[name] for name in BESIDE]).all()
    assert "not square: no eigenvalues" in missing.reason
    assert np.isnan(measured(np.zeros((4, 4))).values["eigenvalue_radius"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    cwd = tmp_path_factory.mktemp("eigenvalues")
    words = ("weights.extra=[eigenvalues]", "weights.include=[o,up]", "weights.show_role=o", "weights.against=none")
    done = run_here("task=weights", *words, "report.figures=[eigenvalues,thirds]", "hydra.run.dir=out", cwd=cwd)
    assert done.code == 0, done.err
    return open_run(cwd / "out")


def test_a_run_keeps_eigenvalues_and_draws_them(run: Run) -> None:
    assert {"eigenvalues.png", "thirds.png"} <= {file.name for file in (run.folder / "figures").iterdir()}
    kept = run.dataset["eigenvalues"].values
    assert np.iscomplexobj(kept)
    row = run.metrics.index[(run.metrics["role"] == "o") & (run.metrics["layer"] == 2)][0]
    radius = np.abs(kept[row]).max() * run.metrics["spectral_radius"][row]
    assert radius == pytest.approx(run.metrics["eigenvalue_radius"][row], rel=1e-6)
    figure = matrix_figures(run)["eigenvalues"].draw()
    dots = figure.axes[2].lines[0]
    np.testing.assert_allclose(np.asarray(dots.get_xdata()), kept[row].real)
    assert "no eigenvalues" in run.metrics.loc[run.metrics["role"] == "up", "reason"].iloc[0]
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert "In thirds of the depth α is" in page
    assert "Of 6 square matrices the median has" in page


def test_a_run_is_drawn_anew_of_another_matrix(run: Run, tmp_path: Path) -> None:
    """What only figures show may change when a run is resumed, what numbers depend on may not."""
    shutil.copytree(run.folder, tmp_path / "out")
    before = (tmp_path / "out" / "metrics.csv").read_bytes()
    words = ("task=weights", "weights.extra=[eigenvalues]", "weights.against=none", "resume=out")
    done = run_here(
        *words, "weights.include=[o,up]", "weights.show_role=up", "report.figures=[one_matrix]", cwd=tmp_path
    )
    assert done.code == 0, done.err
    again = open_run(tmp_path / "out")
    assert again.provenance["config"]["weights"]["show_role"] == "up"
    assert (tmp_path / "out" / "metrics.csv").read_bytes() == before
    assert "mlp.c_fc" in matrix_figures(again)["one_matrix"].draw().get_suptitle()
    other = run_here(*words, "weights.include=[o]", cwd=tmp_path)
    assert "weights.include was ['o', 'up'], now ['o']" in other.err


def depths(alphas: np.ndarray, roles: str = "qk") -> pandas.DataFrame:
    """Lay out α by layer and role."""
    rows = [
        {"layer": float(layer), "role": role, "alpha": value}
        for layer, values in enumerate(alphas)
        for role, value in zip(roles, values, strict=True)
    ]
    return pandas.DataFrame([*rows, {"layer": np.nan, "role": "embed", "alpha": 50.0}])


def test_thirds_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(4)
    alphas = np.linspace(3.2, 1.9, 12)[:, None] + rng.normal(0, 0.2, (12, 2)) + np.array([0.0, 0.3])
    found = check_depth(depths(alphas))
    assert found is not None
    np.testing.assert_allclose(found.means, alphas.reshape(3, 4, 2).mean(axis=(1, 2)))
    assert found.fall.value == pytest.approx(alphas[:4].mean() - alphas[8:].mean())
    ranges = np.repeat([each[1:] for each in THIRDS], 4, axis=0)
    inside = (alphas >= ranges[:, :1]) & (alphas <= ranges[:, 1:])
    assert (found.within, found.matrices, found.layers) == (inside.sum(), 24, 12)
    assert found.fall_p < 0.01
    assert found.within_p < 0.05
    assert found.within > found.within_chance
    backwards = check_depth(depths(alphas[::-1]))
    assert backwards is not None
    assert backwards.fall.value == pytest.approx(-found.fall.value)
    assert backwards.fall_p == pytest.approx(found.fall_p, abs=0.005)
    assert backwards.within_p > 0.3


def test_thirds_of_few_layers_go_through_all_orders() -> None:
    alphas = np.array([3.0, 2.9, 2.5, 2.6, 2.0, 2.1])[:, None]
    found = check_depth(depths(alphas, "q"))
    assert found is not None
    assert found.fall_p == pytest.approx(2 * 2**3 / 720)
    assert check_depth(depths(alphas[:5], "q")) is None


def test_thirds_of_layers_without_order_are_as_sure_as_they_say() -> None:
    """p-values over layers of which none is before another; roles share a layer's level, which is one unit."""
    rng, sure, matrices = np.random.default_rng(5), 0, 0
    for _ in range(60):
        alphas = 3 + rng.normal(0, 0.4, (9, 1)) + rng.normal(0, 0.05, (9, 4))
        found = check_depth(depths(alphas, "qkvo"))
        assert found is not None
        sure += found.fall_p < 0.05
        matrices += stats.ttest_ind(alphas[:3].ravel(), alphas[6:].ravel()).pvalue < 0.05
    assert sure <= stats.binom.ppf(0.999, 60, 0.05) < matrices, "matrices as units would be too sure"


def test_wrong_extras_are_answered(tmp_path: Path) -> None:
    done = run_here("task=weights", "weights.extra=[eigenvalue]", "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert "eigenvalues" in done.err
