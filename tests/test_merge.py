"""`task=merge`: angles and STAR against NumPy, exact identities, merged folders against PyTorch, what a kill leaves."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jacspec.backend import numerics
from jacspec.errors import JacspecError
from jacspec.spectra.subspaces import leading_subspaces, principal_angles
from jacspec.studies.merge import COMPATIBILITY
from jacspec.studies.merge.compatibility import Subject, compare, examine, list_comparisons
from jacspec.studies.merge.confidence import cautions, condition_of_chance
from jacspec.studies.merge.methods import Settings
from jacspec.studies.merge.recipes import Recipe, kept_values, make_recipe, merge_tensors, round_once, truncate_spectrum

RNG = np.random.default_rng(0)
MEMORY = 1e9
NANOS = ("nano@step0", "nano@step256", "nano@step1024")


def orthonormal(m: int, k: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(m, k)))[0]


def star_by_numpy(delta: np.ndarray, share: float, *, rescale: bool = True, power: int = 1, off: int = 0) -> np.ndarray:
    """Truncate and rescale as the paper has it; the last three arguments make it wrong."""
    left, sigma, right = np.linalg.svd(delta.astype(np.float64), full_matrices=False)
    kept = next(r for r in range(1, len(sigma) + 1) if sum(sigma[:r] ** power) >= share * sum(sigma**power)) + off
    scale = sum(sigma) / sum(sigma[:kept]) if rescale else 1.0
    return sum(scale * sigma[i] * np.outer(left[:, i], right[i]) for i in range(kept))


def angles_by_numpy(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Degrees from the eigenvalues of P Q P, P and Q the projections on two subspaces of the same dimension."""
    p, q = (basis @ np.linalg.pinv(basis) for basis in (first, second))
    cosines = np.sqrt(np.clip(np.linalg.eigvalsh(p @ q @ p)[::-1][: first.shape[1]], 0, 1))
    return np.rad2deg(np.arccos(cosines))


def test_angles_of_subspaces_in_closed_form() -> None:
    e = np.eye(6)
    np.testing.assert_array_equal(principal_angles(e[:, :2], e[:, 2:5]), [90, 90])
    turned = e[:, :3] @ orthonormal(3, 3, 1)
    assert principal_angles(e[:, :3], turned).max() < 1e-6
    for angle in (1e-9, 1e-3, 1.0, 1.5):
        tilted = np.stack([np.cos(angle) * e[0] + np.sin(angle) * e[3], e[1]], axis=1)
        np.testing.assert_allclose(principal_angles(e[:, :2], tilted), np.rad2deg([0, angle]), rtol=1e-6, atol=1e-14)
        # From cosines alone the smallest of them would be lost.
        assert (angles_by_numpy(e[:, :2], tilted)[1] == pytest.approx(np.rad2deg(angle), rel=1e-6)) == (angle > 1e-6)
    assert principal_angles(e[:, :0], e[:, :2]).size == 0


def test_leading_subspaces_are_those_of_numpy() -> None:
    matrices = [RNG.normal(size=(20, 12)), RNG.normal(size=(20, 12))]
    matrices += [orthonormal(20, 2, 3) @ np.diag([2.0, 1.0]) @ orthonormal(12, 2, 4).T, np.zeros((20, 12))]
    with numerics("float64"):
        found = list(leading_subspaces(matrices, 4, memory_bytes=2.0 * 4 * 20 * 12 * 8))
        one_by_one = list(leading_subspaces(matrices, 4, memory_bytes=1.0))
    for matrix, own, alone in zip(matrices[:2], found, one_by_one, strict=False):
        left, sigma, right = np.linalg.svd(matrix)
        np.testing.assert_allclose(own.sigma, sigma, rtol=1e-12)
        np.testing.assert_allclose(own.left @ own.left.T, left[:, :4] @ left[:, :4].T, atol=1e-10)
        np.testing.assert_allclose(own.right @ own.right.T, right[:4].T @ right[:4], atol=1e-10)
        np.testing.assert_allclose(alone.sigma, own.sigma, rtol=1e-12)
        assert np.abs(own.left @ own.left.T - left[:, 1:5] @ left[:, 1:5].T).max() > 0.1
    assert [each.left.shape[1] for each in found] == [4, 4, 2, 0]


def subjects_of(*matrices: np.ndarray, top_k: int = 3, has_base: bool = False) -> list[Subject]:
    with numerics("float64"):
        return examine(matrices, has_base=has_base, top_k=top_k, dtype="float64", memory_bytes=MEMORY)


def compared(first: np.ndarray, second: np.ndarray, *, top_k: int = 3, share: float = 0.4) -> dict[str, float]:
    return compare(*subjects_of(first, second, top_k=top_k), share=share)[0]


def compare_by_numpy(first: np.ndarray, second: np.ndarray, top_k: int, share: float) -> dict[str, float]:
    u, v = {}, {}
    sigma, rank, kept = [], [], []
    for place, matrix in enumerate((first, second)):
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        u[place], v[place] = left[:, :top_k], right[:top_k].T
        p = values / values.sum()
        sigma.append(values)
        rank.append(np.exp(-(p * np.log(p)).sum()))
        kept.append(next(r for r in range(1, 99) if values[:r].sum() >= share * values.sum()))
    found: dict[str, Any] = {}
    for side, basis in (("left", u), ("right", v)):
        angles = angles_by_numpy(basis[0], basis[1])
        found[f"{side}_overlap"] = np.linalg.norm(basis[0].T @ basis[1]) ** 2 / top_k
        found[f"{side}_chance"] = top_k / len(basis[0])
        found[f"{side}_angle"] = angles.max()
    p, q = (values / values.sum() for values in sigma)
    divergence = sum((part * np.log(2 * part / (p + q))).sum() / 2 for part in (p, q))
    norms = [np.sqrt((matrix**2).sum()) for matrix in (first, second)]
    return found | {
        "cosine": (first * second).sum() / norms[0] / norms[1],
        "effective_rank_distance": abs(rank[0] - rank[1]) / max(rank),
        "spectrum_distance": np.sqrt(((sigma[0] - sigma[1]) ** 2).sum() / (norms[0] ** 2 + norms[1] ** 2)),
        "shape_distance": np.sqrt(divergence),
        "gap": min((values[top_k - 1] - values[top_k]) / values[top_k - 1] for values in sigma),
        "norm_first": norms[0],
        "norm_second": norms[1],
        "effective_rank_first": rank[0],
        "effective_rank_second": rank[1],
        "kept_first": kept[0],
        "kept_second": kept[1],
        **modelcypher(sigma[0], sigma[1], "second"),
        **{f"{name}_first": modelcypher(sigma[1], sigma[0], "first")[f"{name}_first"] for name in CONDITIONS},
        "rank_variance": np.var(rank),
    }


CONDITIONS = ("condition", "leading_condition")


def modelcypher(source: np.ndarray, target: np.ndarray, place: str, strength: float = 0.5) -> dict[str, float]:
    """Compute what ModelCypher's compute_spectral_metrics and apply_spectral_penalty do, its floors included."""
    ratio = source[0] / max(target[0], 1e-6)
    confidence = min(ratio, 1 / ratio) if ratio > 0 else 0.0
    return {
        "norm_ratio": ratio,
        "confidence": confidence,
        "share_second": 0.5 + (1 - 0.5) * (1 - confidence) * strength,
        f"condition_{place}": min(target[0] / max(target[-1], 1e-6), 1e6),
        f"leading_condition_{place}": min(target[0] / max(target[:10][-1], 1e-6), 1e6),
    }


def test_every_column_equals_numpy() -> None:
    first, second = RNG.normal(size=(14, 9)), RNG.normal(size=(14, 9)) * np.linspace(1, 3, 9)
    found, expected = compared(first, second), compare_by_numpy(first, second, 3, 0.4)
    assert found.keys() == expected.keys() | {"condition_chance"} == COMPATIBILITY.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    exchanged = compare_by_numpy(second, first, 3, 0.4)
    for name in ("norm_ratio", "condition_second"):
        assert exchanged[name] != pytest.approx(found[name], rel=1e-3), "models exchanged would be seen"
    twin = compare_by_numpy(first.T, second.T, 3, 0.4)
    assert twin["left_overlap"] != pytest.approx(found["left_overlap"], rel=1e-3), "sides exchanged would be seen"


def test_closed_cases() -> None:
    first = RNG.normal(size=(10, 10))
    same = compared(first, first)
    assert same["cosine"] == pytest.approx(1)
    assert same["left_overlap"] == pytest.approx(1)
    assert same["spectrum_distance"] == same["shape_distance"] == same["effective_rank_distance"] == 0
    turned = compared(first, orthonormal(10, 10, 5) @ first @ orthonormal(10, 10, 6))
    assert turned["spectrum_distance"] < 1e-13
    assert turned["left_overlap"] < 0.9
    e = np.eye(10)
    apart = compared(e[:, :3] @ np.diag([3, 2, 1]) @ e[:3], e[:, 3:6] @ np.diag([3, 2, 1]) @ e[3:6])
    assert apart["left_overlap"] == apart["right_overlap"] == pytest.approx(0, abs=1e-15)
    assert apart["left_angle"] == pytest.approx(90)
    assert apart["gap"] == pytest.approx(1)
    zero = compared(np.zeros((10, 10)), first)
    missing = {name for name, value in zero.items() if np.isnan(value)}
    assert zero["spectrum_distance"] == 1
    assert {"cosine", "left_overlap", "shape_distance", "gap", "effective_rank_first"} <= missing
    assert zero["kept_first"] == 0
    # A task vector of less rank than asked for has that many angles.
    thin = compare(*subjects_of(np.outer(e[0], e[1]), first), share=0.4)
    assert thin[1]["left_angles"].size == 1
    assert thin[0]["left_chance"] == pytest.approx(3 / 10)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0.05, 1))
def test_bounds_symmetry_and_scale(seed: int, scale: float, share: float) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(8, 6)), rng.normal(size=(8, 6)) * rng.lognormal(0, 1, 6)
    found, mirrored = compared(first, second, share=share), compared(second, first, share=share)
    for name in set(COMPATIBILITY) - {"norm_ratio"}:
        other = (
            name
            if name == "share_second"
            else name.replace("first", "x").replace("second", "first").replace("x", "second")
        )
        assert mirrored[other] == pytest.approx(found[name], rel=1e-9, abs=1e-12), name
    assert mirrored["norm_ratio"] * found["norm_ratio"] == pytest.approx(1)
    assert 0 < found["confidence"] <= 1
    assert 0.5 <= found["share_second"] <= 0.75
    apart = np.linalg.norm(first - second) / np.hypot(np.linalg.norm(first), np.linalg.norm(second))
    assert 0 <= found["spectrum_distance"] <= min(1, apart * (1 + 1e-9))  # Mirsky
    assert 0 <= found["left_overlap"] <= 1 + 1e-12
    assert 0 <= found["effective_rank_distance"] < 1
    assert 0 <= found["shape_distance"] <= np.sqrt(np.log(2))
    scaled = compared(scale * first, scale * second, share=share)
    for name in set(COMPATIBILITY) - {"norm_first", "norm_second"}:
        assert scaled[name] == pytest.approx(found[name], rel=1e-7, abs=1e-10), name


def test_confidence_in_closed_cases() -> None:
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(12, 12))
    same = compare(*subjects_of(matrix, matrix), share=0.4, alpha=0.3, strength=0.7)[0]
    sigma = np.linalg.svd(matrix, compute_uv=False)
    for name, value in modelcypher(sigma, sigma, "second").items():
        assert same[name] == pytest.approx(value) or name == "share_second", name
    assert same["leading_condition_second"] < same["condition_second"] / 2
    assert (same["norm_ratio"], same["confidence"], same["share_second"], same["rank_variance"]) == (1, 1, 0.3, 0)
    twice = compare(*subjects_of(matrix, 2 * matrix), share=0.4, alpha=0.3, strength=0.7)[0]
    assert (twice["norm_ratio"], twice["confidence"]) == (0.5, 0.5)
    assert twice["share_second"] == pytest.approx(0.3 + 0.7 * 0.5 * 0.7)
    assert compare(*subjects_of(matrix, 9 * matrix), share=0.4, alpha=0.3, strength=0.0)[0]["share_second"] == 0.3
    assert compare(*subjects_of(matrix, 9 * matrix), share=0.4, alpha=1.0, strength=1.0)[0]["share_second"] == 1
    singular = compared(matrix, np.outer(np.arange(1.0, 13), np.ones(12)))
    assert singular["condition_second"] == singular["leading_condition_second"] == 1e6
    zero = compared(np.zeros((12, 12)), matrix)
    assert zero["norm_ratio"] == zero["confidence"] == 0
    assert np.isnan(zero["condition_first"])
    assert np.isnan(compared(matrix, np.zeros((12, 12)))["confidence"])
    # Independent matrices of one variance are trusted as much as relatives are.
    assert compared(*rng.normal(size=(2, 60, 40)))["confidence"] > 0.9


def test_condition_of_chance_is_that_of_gaussian_matrices() -> None:
    rng = np.random.default_rng(8)
    for shape in ((30, 30), (20, 50), (50, 20)):
        own = [np.linalg.cond(rng.normal(size=shape)) for _ in range(1500)]
        low, high = np.quantile(own, [0.85, 0.995])  # 99 draws know their 95 % quantile no better
        assert low < condition_of_chance(shape, 0) < high, shape
    assert not np.quantile(own, 0.85) < condition_of_chance((50, 50), 0) < np.quantile(own, 0.995)


def test_cautions_are_the_rules() -> None:
    fine = {"condition_second": 100.0, "condition_chance": 150.0, "confidence": 0.5, "rank_variance": 4.0}
    assert cautions(fine, None) == cautions(fine, 4.0) == ""
    assert cautions(fine | {"condition_second": 101.0}, None) == "ill-conditioned, as by chance"
    odd = fine | {"condition_second": 151.0, "confidence": 0.49}
    assert cautions(odd, 3.9) == "ill-conditioned; mismatch; ranks differ"
    assert cautions(dict.fromkeys(fine, math.nan), 1.0) == ""


def test_chance_is_that_of_random_subspaces() -> None:
    overlaps = [np.square(orthonormal(12, 3, 2 * s).T @ orthonormal(12, 5, 2 * s + 1)).sum() / 3 for s in range(400)]
    assert np.mean(overlaps) == pytest.approx(5 / 12, abs=4 * np.std(overlaps) / 20)


def test_what_is_compared() -> None:
    assert [tuple(each) for each in list_comparisons(2, has_base=False)] == [("weights", 0, 1)]
    found = [tuple(each) for each in list_comparisons(3, has_base=True)]
    assert found[3:] == [("tasks", 3, 4), ("task-base", 3, 0), ("task-base", 4, 0)]
    base, one, other = (RNG.normal(size=(6, 6)) for _ in range(3))
    own = subjects_of(base, one, other, has_base=True)
    np.testing.assert_array_equal(own[3].matrix, one - base)
    np.testing.assert_array_equal(own[4].matrix, other - base)


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_star_is_the_papers(shape: tuple[int, int], share: float) -> None:
    delta = RNG.normal(size=shape)
    with numerics("float64"):
        found = truncate_spectrum(delta, share)
    assert found is not None
    np.testing.assert_allclose(found, star_by_numpy(delta, share), atol=1e-12)
    assert np.linalg.norm(found, "nuc") == pytest.approx(np.linalg.norm(delta, "nuc"), rel=1e-12)
    for wrong in ({"rescale": False}, {"off": 1}, {"power": 2}):
        twin = star_by_numpy(delta, share, **wrong)
        if wrong != {"power": 2} or share == 0.9:  # for small shares squares ask for as many values
            assert np.abs(found - twin).max() > 1e-3, wrong


def test_values_kept() -> None:
    sigma = np.array([4.0, 3.0, 2.0, 1.0])
    assert [kept_values(sigma, share) for share in (1e-9, 0.4, 0.41, 0.7, 0.71, 0.9, 0.91, 1.0)] == [
        *(1, 1, 2, 2, 3, 3, 4, 4),
    ]
    assert kept_values(np.array([1.0, 1e-30]), 1.0) == 2
    assert kept_values(np.zeros(3), 0.4) == 0
    with numerics("float64"):
        assert truncate_spectrum(np.zeros((3, 4)), 0.4) is None
        assert truncate_spectrum(np.diag(sigma), 0.95) is None


def merge(method: str, models: Sequence[np.ndarray], base: np.ndarray | None, **options: Any) -> np.ndarray:
    asked = {"share": 0.4, "coefficient": None, "weights": (), "settings": Settings(0.2, 0.15, 0.8)} | options
    recipe = make_recipe(method, models=len(models), has_base=base is not None, seed=0, **asked)
    dtype = (models[0] if base is None else base).dtype
    with numerics("float64"):
        return merge_tensors(recipe, base, models, dtype=dtype, is_matrix=True, precision="float64")


def test_methods_are_their_equations() -> None:
    base, one, other = (RNG.normal(size=(8, 5)) for _ in range(3))
    taus = [one - base, other - base]
    expected = {
        "average": (one + other) / 2,
        "arithmetic": base + 0.4 * (taus[0] + taus[1]),
        "star": base + (star_by_numpy(taus[0], 0.4) + star_by_numpy(taus[1], 0.4)) / 2,
    }
    for method, wanted in expected.items():
        np.testing.assert_allclose(merge(method, [one, other], base), wanted, atol=1e-12)
    np.testing.assert_allclose(merge("average", [one, other], None, weights=(3.0, 1.0)), 0.75 * one + 0.25 * other)
    weighted = merge("arithmetic", [one, other], base, weights=(2.0, -1.0), coefficient=0.3)
    np.testing.assert_allclose(weighted, base + 0.3 * (2 * taus[0] - taus[1]), atol=1e-14)
    star = merge("star", [one, other], base, weights=(3.0, 1.0), coefficient=0.5, share=0.7)
    parts = [star_by_numpy(tau, 0.7) for tau in taus]
    np.testing.assert_allclose(star, base + 0.5 * (0.75 * parts[0] + 0.25 * parts[1]), atol=1e-12)
    # One task vector that is cut and one that is zero.
    np.testing.assert_allclose(merge("star", [one, base], base), base + star_by_numpy(taus[0], 0.4) / 2, atol=1e-12)
    assert np.abs(merge("star", [one, other], base) - merge("arithmetic", [one, other], base)).max() > 0.01


def test_spectral_trusts_by_strength() -> None:
    """ModelCypher's share of the second model, matrix by matrix, and vector by vector."""
    rng = np.random.default_rng(9)
    one, other = rng.normal(size=(8, 5)), 3 * rng.normal(size=(8, 5))
    settings = Settings(0.2, 0.15, 0.8, alpha=0.2, strength=0.9)
    for pair, order in (((one, other), 2), ((one[0], other[0]), None)):
        sizes = [np.linalg.norm(tensor, order) for tensor in pair]
        share = 0.2 + 0.8 * 0.9 * (1 - min(sizes) / max(sizes))
        wanted = (1 - share) * pair[0] + share * pair[1]
        found = merge("spectral", pair, None, settings=settings)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert np.abs(found - (share * pair[0] + (1 - share) * pair[1])).max() > 0.01, "exchanged, it would be seen"
    plain = merge("spectral", [one, other], None, settings=settings._replace(strength=0.0))
    assert plain.tobytes() == merge("average", [one, other], None, weights=(0.8, 0.2)).tobytes()
    last = merge("spectral", [one, other], one, settings=settings._replace(alpha=1.0))
    assert last.tobytes() == other.tobytes()
    zero = np.zeros((8, 5))
    assert merge("spectral", [zero, zero], None).tobytes() == zero.tobytes()


TYPES = [np.dtype(name) for name in ("float64", "float32", "float16")] + [np.dtype(jnp.bfloat16)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 49])
def test_identities_are_exact_to_the_last_bit(dtype: np.dtype, count: int) -> None:
    """Sizes that span many powers of ten, negative zeros and the largest numbers."""
    own = (RNG.normal(size=(6, 40)) * 10.0 ** RNG.integers(-7, 4, (6, 40))).astype(dtype)
    own[0, :3] = [-0.0, np.finfo(np.float16).max, -1]
    other = RNG.normal(size=(6, 40)).astype(dtype)
    bits = own.tobytes()
    assert merge("average", [own] * count, None).tobytes() == bits
    assert merge("average", [own] * count, other, weights=np.arange(1.0, count + 1).tolist()).tobytes() == bits
    for coefficient in (None, 0.3, -2.0):
        assert merge("arithmetic", [own] * count, own, coefficient=coefficient).tobytes() == bits
        assert merge("star", [own] * count, own, coefficient=coefficient).tobytes() == bits
    assert merge("star", [own] * count, other, share=1.0).tobytes() == bits
    assert merge("arithmetic", [own], other, coefficient=1.0).tobytes() == bits
    assert merge("arithmetic", [own] * count, other, coefficient=0.0).tobytes() == other.tobytes()
    models = [RNG.normal(size=(6, 40)).astype(dtype) for _ in range(count)]
    whole = merge("star", models, other, share=1.0)
    assert whole.tobytes() == merge("average", models, None).tobytes()
    mean = merge("arithmetic", models, other, weights=[1 / count] * count, coefficient=1.0)
    if count * (1 / count) == 1:
        assert whole.tobytes() == mean.tobytes()
    else:  # in float64, 49 weights of 1/49 are not 1
        np.testing.assert_allclose(whole.astype(np.float64), mean.astype(np.float64), atol=1e-15)
    assert whole.tobytes() != merge("star", models, other, share=0.5).tobytes()


def test_rounding_happens_once() -> None:
    """The result is no farther from the exact value than its neighbours; going by float32 would not do."""
    ties = 1 + np.array([1, 3, 5]) * 2.0**-8
    values = np.concatenate([RNG.normal(size=2000), ties, ties + 2.0**-40, ties - 2.0**-40, [1e39, -0.0]])
    dtype = np.dtype(jnp.bfloat16)
    found = round_once(values, dtype)
    finite = np.isfinite(found)
    near = found[finite].astype(np.float64)
    for towards in (-np.inf, np.inf):
        beside = np.nextafter(found[finite], dtype.type(towards)).astype(np.float64)
        assert (np.abs(near - values[finite]) <= np.abs(beside - values[finite])).all()
    assert found[-2] == np.inf
    assert np.signbit(found[-1])
    twice = values[finite].astype(np.float32).astype(dtype)
    assert (twice != found[finite]).any(), "a rounding on the way would be seen"


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ({"method": "star", "has_base": False}, "merge.base=NAME"),
        ({"share": 0.0}, "merge.share=0.0"),
        ({"share": 1.01}, "above 0, to 1"),
        ({"coefficient": math.nan}, "not finite"),
        ({"method": "average", "coefficient": 0.5}, "Leave it out"),
        ({"weights": (1.0,)}, "merge.models names 2"),
        ({"weights": (1.0, -1.0)}, "sum to nothing"),
        ({"method": "spectral", "models": 3}, "merge.models names 3"),
        ({"method": "spectral", "weights": (1.0, 1.0)}, "merge.alpha"),
        ({"method": "spectral", "coefficient": 0.4}, "Leave it out"),
    ],
)
def test_recipes_that_make_no_merge(wrong: dict[str, Any], fragment: str) -> None:
    asked: dict[str, Any] = {
        "method": "star",
        "models": 2,
        "has_base": True,
        "share": 0.4,
        "coefficient": None,
        "weights": (),
        "settings": Settings(0.2, 0.15, 0.8),
        "seed": 0,
    }
    with pytest.raises(JacspecError, match=fragment):
        make_recipe(**(asked | wrong))
    assert isinstance(make_recipe(**asked), Recipe)
