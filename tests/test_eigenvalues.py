"""Eigenvalues of Jacobians: kept and read, beside rotations; pseudospectra against closed forms and published ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import GPT2, layout_of
from oracles import branch_jacobian, save_random, watch
from servers import run_here
from test_python import undrawn

import jacspec
from jacspec.api.result import Run
from jacspec.jacobians.nonnormality import NOT_DRAWN, OF_BLOCKS, PSEUDOSPECTRA, RING
from jacspec.spectra.eigenvalues import draw_rotated, normal_part, null_ring
from jacspec.spectra.pseudospectra import kreiss_constant, pseudospectral_abscissa, pseudospectral_radius, resolvent


def haar(size: int, rng: np.random.Generator) -> np.ndarray:
    """A rotation by Householder reflections of Gaussian vectors (Stewart 1980), which no QR decomposition enters."""
    q = np.eye(size)
    for k in range(size):
        v = rng.standard_normal(size - k)
        v[0] += np.copysign(np.linalg.norm(v), v[0])
        q[:, k:] -= 2 * np.outer(q[:, k:] @ v, v) / (v @ v)
    return q * rng.choice([-1, 1], size)


SPECTRA = {
    "even": np.linspace(3, 1, 100),
    "falling": np.geomspace(2, 0.05, 100),
    "zeros": np.r_[np.ones(50), np.zeros(50)],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_rotated_singular_values_fill_the_ring(name: str) -> None:
    """U Σ Vᵀ of rotations drawn otherwise: within the radii but for the edges' width, and of the sizes that we draw."""
    sigma, rng = SPECTRA[name], np.random.default_rng(1)
    expected = np.abs([np.linalg.eigvals(haar(100, rng) * sigma @ haar(100, rng).T) for _ in range(3)])
    found = np.abs([draw_rotated(sigma, rng) for _ in range(3)])
    ring = null_ring(sigma[None])
    assert ring.outer[0] == pytest.approx(np.sqrt((sigma**2).mean()), rel=1e-12)
    if sigma.all():
        assert ring.inner[0] == pytest.approx((sigma**-2).mean() ** -0.5, rel=1e-12)
    else:
        assert ring.inner[0] == 0
    for sizes in (expected, found):
        assert sizes.max() == pytest.approx(ring.outer[0], rel=0.25)  # the edge of few large values is wide
        assert sizes.min() == pytest.approx(ring.inner[0], rel=0.25, abs=1e-6)
        assert ring.shares(sizes.reshape(1, -1).astype(complex))[0] > 0.85
    quantiles = [np.quantile(sizes, [0.25, 0.5, 0.75, 0.95]) for sizes in (expected, found)]
    assert quantiles[1] == pytest.approx(quantiles[0], abs=0.06 * ring.outer[0])
    # A matrix whose singular vectors meet is outside: the oracle would see rotations that are none.
    assert null_ring(sigma[None]).shares(sigma[None].astype(complex))[0] < 0.8 or name == "zeros"


NORMAL = {
    "symmetric": np.add.outer(np.arange(6.0), np.arange(6.0)),
    "antisymmetric": np.subtract.outer(np.arange(6.0), np.arange(6.0)),
    "rotation": haar(6, np.random.default_rng(0)),
    "pairs": np.kron(np.diag([1.0, 2, 3]), [[0.5, -0.2], [0.2, 0.5]]),
}


@pytest.mark.parametrize("matrix", NORMAL.values(), ids=NORMAL)
def test_normal_matrix_is_its_own_normal_part(matrix: np.ndarray) -> None:
    np.testing.assert_allclose(normal_part(matrix), matrix, atol=1e-12)


def test_normal_part_is_normal_with_the_same_eigenvalues() -> None:
    matrix = np.random.default_rng(2).standard_normal((30, 30))
    part = normal_part(matrix)
    np.testing.assert_allclose(part @ part.T, part.T @ part, atol=1e-11)
    values = [np.sort_complex(np.linalg.eigvals(each)) for each in (matrix, part)]
    np.testing.assert_allclose(values[1], values[0], atol=1e-10)
    assert np.linalg.norm(part) ** 2 == pytest.approx((np.abs(values[0]) ** 2).sum())
    assert np.linalg.norm(part, 2) == pytest.approx(np.abs(values[0]).max())


def grcar(size: int) -> np.ndarray:
    return -np.eye(size, k=-1) + sum(np.eye(size, k=k) for k in range(4))


def jordan(value: float, beside: float) -> np.ndarray:
    return np.array([[value, beside], [0, value]])


def jordan_distance(beside: float, away: np.ndarray) -> np.ndarray:
    r"""σ_min(zI − A) of a Jordan block: $(\sqrt{b^2 + 4 w^2} − b) / 2$, w = |z − λ|."""
    return (np.sqrt(beside**2 + 4 * away**2) - beside) / 2


def test_pseudospectra_of_grcar_are_those_published() -> None:
    """Guglielmi & Overton 2011, SIAM J. Matrix Anal. Appl. 32, 1166: of order 100 at ε = 1e-4."""
    found = resolvent(grcar(100))
    assert pseudospectral_radius(found, 1e-4) == pytest.approx(2.85216, abs=1e-5)
    assert pseudospectral_abscissa(found, 1e-4) == pytest.approx(2.41276, abs=1e-5)


@pytest.mark.parametrize(("value", "beside", "epsilon"), [(0.5, 1.0, 0.1), (-0.3, 4.0, 0.01), (0.9, 0.05, 0.3)])
def test_jordan_block_is_its_closed_form(value: float, beside: float, epsilon: float) -> None:
    found, reach = resolvent(jordan(value, beside)), np.sqrt(epsilon**2 + epsilon * beside)
    assert pseudospectral_radius(found, epsilon) == pytest.approx(abs(value) + reach, rel=1e-8)
    assert pseudospectral_abscissa(found, epsilon) == pytest.approx(value + reach, rel=1e-8)
    heights = np.geomspace(1e-4, 1e4, 10**6)
    expected = (heights / jordan_distance(beside, 1 + heights - abs(value))).max()
    assert kreiss_constant(found, 1.0) == pytest.approx(max(expected, 1), rel=1e-6)


@pytest.mark.parametrize("matrix", NORMAL.values(), ids=NORMAL)
def test_normal_matrix_has_discs_about_its_eigenvalues(matrix: np.ndarray) -> None:
    found, values = resolvent(matrix), np.linalg.eigvals(matrix)
    assert kreiss_constant(found, found.radius) == pytest.approx(1, abs=1e-6)
    assert pseudospectral_radius(found, 0.1) == pytest.approx(np.abs(values).max() + 0.1, rel=1e-8)
    assert pseudospectral_abscissa(found, 0.1) == pytest.approx(values.real.max() + 0.1, rel=1e-8)


def test_random_matrix_is_what_a_grid_of_svds_gives() -> None:
    matrix = np.triu(np.random.default_rng(4).standard_normal((12, 12))) + np.diag(np.linspace(-3, 3, 12))
    found, eye = resolvent(matrix), np.eye(12)
    z = np.linspace(-12, 12, 240)[:, None] + 1j * np.linspace(0, 12, 120)
    distance = np.linalg.svd(z[..., None, None] * eye - matrix, compute_uv=False)[..., -1]
    spot = z[37, 55]
    assert found.distance(complex(spot)) == pytest.approx(distance[37, 55], rel=1e-8)
    radius = pseudospectral_radius(found, 0.5)
    assert np.abs(z[distance <= 0.5]).max() == pytest.approx(radius, abs=0.15)
    assert np.abs(z[distance <= 0.5]).max() <= radius
    above = np.abs(z) - found.radius
    constant, most = kreiss_constant(found, found.radius), (above / distance).max()
    assert most <= constant == pytest.approx(most, rel=0.1)
    powers = [np.linalg.norm(np.linalg.matrix_power(matrix / found.radius, k), 2) for k in range(200)]
    assert constant <= max(powers) <= np.e * 12 * constant


TOKENS = ([3, 4, 5, 6, 7, 8, 9], [12, 13, 14])
COMPONENTS = ("attn", "mlp", "block")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A GPT-2 with random weights."""
    folder = tmp_path_factory.mktemp("model")
    return folder, save_random(folder, "gpt2", **GPT2)


@pytest.fixture(scope="module")
def run(model: tuple[Path, torch.nn.Module]) -> Run:
    """Two samples in float64."""
    asked = {"eigenvalues": True, "pseudospectra": 1, "precision": "float64", "layers": [1]}
    with undrawn():
        return jacspec.run("jacobian", str(model[0]), [*TOKENS], components=[*COMPONENTS], silent=True, **asked)


def test_eigenvalues_are_those_of_hf(model: tuple[Path, torch.nn.Module], run: Run) -> None:
    for sample, ids in enumerate(TOKENS):
        seen = watch(model[1], layout_of("gpt2", GPT2), np.array(ids))
        for component in COMPONENTS:
            matrix = branch_jacobian(seen.calls["", component, 1])
            found = run.dataset["eigenvalues"].sel(layer=1, component=component, sample=sample).values
            expected = np.linalg.eigvals(matrix)
            assert found.dtype == np.complex128
            assert (np.diff(np.abs(found)) <= 1e-12).all()
            assert np.abs(found[:, None] - expected).min(axis=1).max() < 1e-7 * np.abs(expected).max()
            assert found.sum() == pytest.approx(np.trace(matrix), rel=1e-9)


def test_columns_stand_beside_eigenvalues(run: Run) -> None:
    dataset, table = run.dataset, run.metrics.set_index(["component", "sample"])
    for component in COMPONENTS:
        for sample in range(len(TOKENS)):
            own = dataset.sel(layer=1, component=component, sample=sample)
            sigma, row = own["singular_values"].values, table.loc[(component, sample)]
            outer = np.sqrt((sigma**2).mean())
            assert row["ring_outer"] == pytest.approx(outer)
            assert row["rotated_radius"] == pytest.approx(np.abs(own["rotated_eigenvalues"].values).max())
            assert outer / 2 < row["rotated_radius"] < sigma[0]
            sizes = np.abs(own["eigenvalues"].values)
            assert row["ring_share"] == pytest.approx(((sizes <= outer) & (sizes >= row["ring_inner"])).mean())
            assert row["eigenvalue_radius"] == pytest.approx(sizes.max())
    drawn = table[table["kreiss_constant"].notna()]
    assert [component for component, _ in drawn.index] == ["block"]
    assert (drawn["pseudospectral_radius"] > drawn["eigenvalue_radius"]).all()
    assert (drawn["kreiss_constant"] >= 1).all()
    assert {*table["reason"].dropna()} == {NOT_DRAWN, OF_BLOCKS}
    assert run.metric_names[-len(RING + PSEUDOSPECTRA) :] == RING + PSEUDOSPECTRA


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ("jacobian.eigenvalues=true engine=lanczos", "engine=auto"),
        ("jacobian.pseudospectra=1", "components=[attn,mlp,block]"),
        ("jacobian.pseudospectra=-1", "0 or more"),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here(*wrong.split(), "data.samples=4", "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err
