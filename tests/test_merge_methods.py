"""Methods of merging against their authors' formulas in NumPy, loops and all; what is drawn, by its statistics."""

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import pytest

from jacspec.backend import numerics
from jacspec.errors import JacspecError
from jacspec.studies.merge.methods import METHODS, Settings, drop, drop_small, interpolate_on_sphere
from jacspec.studies.merge.recipes import make_recipe, merge_tensors

RNG = np.random.default_rng(0)
SETTINGS = Settings(density=0.3, epsilon=0.2, common=0.5)
DRAWN = ("dare_linear", "dare_ties", "della_linear", "della")


def merge(
    method: str,
    models: Sequence[np.ndarray],
    base: np.ndarray | None,
    *,
    weights: Sequence[float] = (),
    settings: Settings = SETTINGS,
    seed: int = 0,
    name: str = "w",
    is_matrix: bool = True,
) -> np.ndarray:
    recipe = make_recipe(
        method,
        models=len(models),
        has_base=base is not None,
        share=0.4,
        coefficient=None,
        weights=weights,
        settings=settings,
        seed=seed,
    )
    dtype = models[0].dtype
    with numerics("float64"):
        return merge_tensors(recipe, base, models, dtype=dtype, is_matrix=is_matrix, precision="float64", name=name)


def ties_by_hand(taus: Sequence[np.ndarray], density: float, weights: Sequence[float]) -> np.ndarray:
    """Trim, elect, average the agreeing, an entry at a time."""
    kept = []
    for tau in taus:
        order = sorted(range(tau.size), key=lambda place: -abs(tau.flat[place]))
        own = np.zeros(tau.size)
        for place in order[: int(density * tau.size)]:
            own[place] = tau.flat[place]
        kept.append(own)
    found = np.zeros(taus[0].size)
    for place in range(found.size):
        entries = [(own[place], weight) for own, weight in zip(kept, weights, strict=True)]
        sign = 1 if sum(entry * weight for entry, weight in entries) >= 0 else -1
        agreeing = [(entry, weight) for entry, weight in entries if entry * sign > 0]
        if agreeing:
            found[place] = sum(e * w for e, w in agreeing) / sum(w for _, w in agreeing)
    return found.reshape(taus[0].shape)


def polar(vectors: np.ndarray) -> np.ndarray:
    """X (XᵀX)^(-1/2) by the eigenvalues of XᵀX."""
    values, rotation = np.linalg.eigh(vectors.T @ vectors)
    return vectors @ rotation @ np.diag(values**-0.5) @ rotation.T


def tsv_by_hand(taus: Sequence[np.ndarray]) -> np.ndarray:
    each = min(taus[0].shape) // len(taus)
    left, sigma, right = zip(*(np.linalg.svd(tau, full_matrices=False) for tau in taus), strict=True)
    u = np.hstack([own[:, :each] for own in left])
    v = np.hstack([own[:each].T for own in right])
    return polar(u) @ np.diag(np.concatenate([own[:each] for own in sigma])) @ polar(v).T


def iso_by_hand(tau: np.ndarray) -> np.ndarray:
    left, sigma, right = np.linalg.svd(tau, full_matrices=False)
    return sum(sigma.mean() * np.outer(left[:, i], right[i]) for i in range(len(sigma)))


def iso_cts_by_hand(taus: Sequence[np.ndarray], common: float) -> np.ndarray:
    k, whole = min(taus[0].shape), sum(taus)
    own = round((k - int(k * common)) / len(taus))
    u, s, vt = np.linalg.svd(whole, full_matrices=False)
    first = k - own * len(taus)
    lefts, sigmas, rights = [u[:, :first]], [s[:first]], [vt[:first].T]
    for tau in taus:
        residual = (np.eye(len(u)) - u[:, :first] @ u[:, :first].T) @ tau
        left, sigma, right = np.linalg.svd(residual, full_matrices=False)
        lefts.append(left[:, :own])
        sigmas.append(sigma[:own])
        rights.append(right[:own].T)
    return np.concatenate(sigmas).mean() * polar(np.hstack(lefts)) @ polar(np.hstack(rights)).T


def knots_by_hand(taus: Sequence[np.ndarray], density: float, weights: Sequence[float]) -> np.ndarray:
    left, sigma, right = np.linalg.svd(np.hstack(taus), full_matrices=False)
    kept = sigma > 1e-5  # as in the authors' code: of adapters few rows are left
    left, sigma, right = left[:, kept], sigma[kept], right[kept]
    n = taus[0].shape[1]
    parts = [np.diag(sigma) @ right[:, i * n : (i + 1) * n] for i in range(len(taus))]
    return left @ ties_by_hand(parts, density, weights)


BY_HAND: dict[str, Callable[[list[np.ndarray]], np.ndarray]] = {
    "ties": lambda taus: ties_by_hand(taus, 0.3, [1, 1, 1]),
    "tsv_m": tsv_by_hand,
    "iso_c": lambda taus: iso_by_hand(np.sum(taus, axis=0)),
    "iso_cts": lambda taus: iso_cts_by_hand(taus, 0.5),
    "knots_ties": lambda taus: knots_by_hand(taus, 0.3, [1, 1, 1]),
}


@pytest.mark.parametrize("shape", [(20, 11), (11, 20)])
@pytest.mark.parametrize("method", BY_HAND)
def test_methods_are_their_authors(method: str, shape: tuple[int, int]) -> None:
    base, *models = (RNG.normal(size=shape) for _ in range(4))
    wanted = BY_HAND[method]([model - base for model in models])
    found = merge(method, models, base) - base
    np.testing.assert_allclose(found, wanted, atol=1e-11)
    others = [name for name in BY_HAND if name != method]
    for other in others:
        assert np.abs(found - BY_HAND[other]([model - base for model in models])).max() > 1e-2, other
    mean = merge(method, models, base, is_matrix=False) - base
    if METHODS[method].matrices:
        np.testing.assert_allclose(mean, sum(models) / 3 - base, atol=1e-13)
    else:
        np.testing.assert_array_equal(mean, found)


def test_weights_count() -> None:
    base, *models = (RNG.normal(size=(9, 9)) for _ in range(3))
    taus = [model - base for model in models]
    found = merge("ties", models, base, weights=(3.0, 1.0)) - base
    np.testing.assert_allclose(found, ties_by_hand(taus, 0.3, [3, 1]), atol=1e-13)
    assert np.abs(found - ties_by_hand(taus, 0.3, [1, 1])).max() > 0.1
    found = merge("iso_c", models, base, weights=(3.0, 1.0)) - base
    np.testing.assert_allclose(found, iso_by_hand(3 * taus[0] + taus[1]), atol=1e-12)


def test_directions_that_a_matrix_has_not_are_not_made_up() -> None:
    """The sum of two updates of rank one has two directions; the other vectors of an SVD are arbitrary."""
    base = RNG.normal(size=(8, 6))
    models = [base + np.outer(RNG.normal(size=8), RNG.normal(size=6)) for _ in range(2)]
    for method in ("iso_c", "iso_cts", "tsv_m", "knots_ties"):
        assert np.linalg.matrix_rank(merge(method, models, base) - base, tol=1e-9) <= 2, method
        np.testing.assert_array_equal(merge(method, [base, base], base), base)


def test_what_is_drawn_has_the_mean_and_the_chances() -> None:
    tau = RNG.normal(size=(3, 50))
    draws = [np.random.default_rng(number) for number in range(4000)]
    dropped = np.stack([drop(tau, SETTINGS, draw) for draw in draws])
    ranked = np.stack([drop_small(tau, SETTINGS, draw) for draw in draws])
    ranks = np.abs(tau)[:, None, :] > np.abs(tau)[:, :, None]
    chances = {0: np.full(tau.shape, 0.3), 1: 0.2 + 0.2 * (49 - ranks.sum(2)) / 49}
    for number, found in enumerate((dropped, ranked)):
        chance = chances[number]
        error = np.sqrt(chance * (1 - chance) / len(draws))
        assert np.abs(((found != 0).mean(0) - chance) / error).max() < 4.5
        np.testing.assert_allclose(found.max(0) + found.min(0), tau / chance, rtol=1e-12)
    assert np.abs(((ranked != 0).mean(0) - 0.3) / np.sqrt(0.21 / len(draws))).max() > 10, "chances differ by rank"


@pytest.mark.parametrize("method", DRAWN)
def test_what_is_drawn_is_the_tensors_own(method: str) -> None:
    base, *models = (RNG.normal(size=(30, 20)) for _ in range(3))
    found = merge(method, models, base)
    np.testing.assert_array_equal(found, merge(method, models, base))
    for other in ({"name": "v"}, {"seed": 1}):
        assert (found != merge(method, models, base, **other)).mean() > 0.1
    kept = found != base
    expected = 1 - 0.7**2
    assert abs(kept.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / kept.size)


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype(jnp.bfloat16)], ids=str)
@pytest.mark.parametrize("method", [*METHODS, "slerp", "spectral"])
def test_nothing_learnt_changes_no_bit(method: str, dtype: np.dtype) -> None:
    base = (RNG.normal(size=(6, 9)) * 10.0 ** RNG.integers(-7, 4, (6, 9))).astype(dtype)
    base[0, 0] = -0.0
    assert merge(method, [base, base], base).tobytes() == base.tobytes()


def test_slerp_goes_along_the_arc() -> None:
    first, second = RNG.normal(size=(2, 40))
    second *= np.linalg.norm(first) / np.linalg.norm(second)
    whole = math.acos(first @ second / (first @ first))
    for share in (0.0, 0.25, 0.5, 1.0):
        found = interpolate_on_sphere(first, second, share)
        assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(first), rel=1e-12)
        assert first @ found / (first @ first) == pytest.approx(math.cos(share * whole), rel=1e-9)
    merged = merge("slerp", [first, second], None, weights=(1.0, 3.0))
    np.testing.assert_allclose(merged, by_the_angle(first, second, 0.75), rtol=1e-12)
    assert np.abs(merged - 0.25 * first - 0.75 * second).max() > 0.01, "the chord would be seen"
    np.testing.assert_allclose(interpolate_on_sphere(first, 2 * first, 0.5), 1.5 * first)
    np.testing.assert_allclose(interpolate_on_sphere(first, 0 * first, 0.5), 0.5 * first)


def by_the_angle(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Turn the first towards the second in their plane; of equal length both."""
    angle = share * math.acos(first @ second / (first @ first))
    towards = second - (second @ first) / (first @ first) * first
    return math.cos(angle) * first + math.sin(angle) * towards * np.linalg.norm(first) / np.linalg.norm(towards)


@pytest.mark.parametrize(
    ("method", "wrong", "fragment"),
    [
        ("ties", {"settings": Settings(0.0, 0.1, 0.8)}, "merge.density=0.0"),
        ("della", {"settings": Settings(0.2, 0.5, 0.8)}, "here -0.05 to 0.45"),
        ("iso_cts", {"settings": Settings(0.2, 0.1, 1.5)}, "merge.common=1.5"),
        ("ties", {"weights": (1.0, -1.0)}, "each is above 0"),
        ("ties", {"base": None}, "merge.base=NAME"),
        ("slerp", {"models": 3}, "merge.models names 3"),
    ],
)
def test_what_makes_no_merge(method: str, wrong: dict, fragment: str) -> None:
    models = [RNG.normal(size=(3, 3)) for _ in range(wrong.pop("models", 2))]
    base = wrong.pop("base", models[0])
    with pytest.raises(JacspecError, match=fragment):
        merge(method, models, base, **wrong)
