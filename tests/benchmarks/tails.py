"""How well vectors, spacings and tails are judged: rates under the null and power on what is planted.

    python tests/benchmarks/tails.py            (from the repository; five minutes; writes tails.json)
    python tests/benchmarks/tails.py exponents  (that part alone)

docs/chance.md has its tables. Seeds are fixed, and nothing depends on the machine.
"""

import functools
import json
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chance import LEVELS, Shape, rates
from scipy.stats import kstwo

from jacspec.spectra.bulk import fit_bulk
from jacspec.spectra.further_metrics import EXPONENTS, chance_of_tails, tail_metrics
from jacspec.spectra.porter_thomas import distance_from_normal, rare_participation, vector_chance
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import counting_edges
from jacspec.spectra.spacings import measure_spacings
from jacspec.spectra.svd import singular_values
from jacspec.spectra.tails import bootstrap_tail, compare_laws, square_windows
from jacspec.spectra.weight_metrics import shuffled_spectra

DRAWS = 99
"""Of each bootstrap here; `weights.draws` are more."""


def check_vectors() -> dict[str, Any]:
    """Take singular vectors of Gaussian matrices, and vectors of entries that are not Gaussian."""
    found: dict[str, Any] = {}
    for n, matrices in ((32, 100), (96, 60), (384, 10)):
        rng = np.random.default_rng(n)
        vectors = np.concatenate(
            [np.linalg.svd(rng.normal(size=(n, max(n // 3, 24))), full_matrices=False)[0].T for _ in range(matrices)]
        )
        distances, seen = distance_from_normal(vectors), vector_chance(vectors)
        found[f"singular vectors, n = {n}"] = {
            "Kolmogorov as SciPy has it": rates(kstwo.sf(distances, n).tolist()),
            "porter_thomas_p": rates(seen.p_value.tolist()),
            "mean participation": _round(seen.participation.mean()),
            "localised": _round((seen.participation > rare_participation(n)).mean()),
        }
    for n in (96, 384):
        rng = np.random.default_rng(n + 1)
        for words, entries in _unlike_normal(rng, n).items():
            seen = vector_chance(entries / np.linalg.norm(entries, axis=1, keepdims=True))
            found[f"{words}, n = {n}"] = {
                "porter_thomas_p": rates(seen.p_value.tolist()),
                "mean participation": _round(seen.participation.mean()),
                "localised": _round((seen.participation > rare_participation(n)).mean()),
            }
    return found


def _unlike_normal(rng: np.random.Generator, n: int, draws: int = 400) -> dict[str, np.ndarray]:
    return {
        "entries of Student's t, 4 degrees": rng.standard_t(4, (draws, n)),
        "a third of the entries three times as large": rng.normal(size=(draws, n)) * rng.choice([1, 1, 3], (draws, n)),
        "a common part of half a deviation": rng.normal(size=(draws, n)) + 0.5,
        "one entry of a tenth of the squares": np.c_[rng.normal(size=(draws, n - 1)), np.full(draws, (n / 9) ** 0.5)],
    }


def check_spacings() -> dict[str, Any]:
    """Take spectra that repel and spectra that do not."""
    draws = 40
    found = {}
    for words, draw in _spectra().items():
        rng = np.random.default_rng(len(words))
        seen = [measure_spacings(draw(rng)) for _ in range(draws)]
        ratio, error = (np.array([getattr(each, name) for each in seen]) for name in ("ratio", "ratio_error"))
        beta, its = (np.array([getattr(each, name) for each in seen]) for name in ("brody", "brody_error"))
        found[words] = {
            "mean ratio": _round(ratio.mean()),
            "its error over the spread": _round(error.mean() / ratio.std()),
            "Brody's β": _round(beta.mean()),
            "σ_β over the spread": _round(its.mean() / beta.std()),
            "number variance": _round(np.mean([each.number_variance for each in seen])),
        }
    return found


def goe(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw the middle three quarters of the eigenvalues of a matrix of the Gaussian orthogonal ensemble."""
    half = rng.normal(size=(n, n))
    values = np.linalg.eigvalsh(half + half.T)[n // 8 : -n // 8]
    return values - values[0] + 1


def poisson(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draw values that know nothing of one another."""
    return rng.uniform(1, 2, n)


def _spectra() -> Mapping[str, Callable[[np.random.Generator], np.ndarray]]:
    def gaussian(shape: Shape) -> Callable[[np.random.Generator], np.ndarray]:
        return lambda rng: np.linalg.svd(rng.normal(size=shape), compute_uv=False)

    return {
        **{f"GOE, {n} values": functools.partial(goe, n=4 * n // 3) for n in (96, 384)},
        **{f"Gaussian matrix, {_words(shape)}": gaussian(shape) for shape in ((96, 96), (96, 384), (384, 384))},
        **{f"Poisson, {n} values": functools.partial(poisson, n=n) for n in (96, 384)},
        "Poisson, 384 values of density 1/x": lambda rng: np.exp(rng.uniform(0, 3, 384)),
    }


TAILS: Mapping[str, Callable[[np.random.Generator], np.ndarray]] = {
    "power law, α = 2.5, 50 values": lambda rng: 1 + rng.pareto(1.5, 50),
    "power law, α = 2.5, 150 values": lambda rng: 1 + rng.pareto(1.5, 150),
    "power law, α = 3, 60 of 150 values": lambda rng: np.r_[1 + rng.pareto(2.0, 60), rng.uniform(0.05, 1, 90) ** 0.5],
    "lognormal, σ = 1, 150 values": lambda rng: np.exp(rng.normal(size=150)),
    "exponential, 150 values": lambda rng: 1 + rng.exponential(size=150),
    "power law cut off, 150 values": lambda rng: _cut_off(rng, 150),
    "Gaussian matrix, 96 × 96": lambda rng: np.linalg.svd(rng.normal(size=(96, 96)), compute_uv=False) ** 2,
    "Gaussian matrix, 96 × 384": lambda rng: np.linalg.svd(rng.normal(size=(96, 384)), compute_uv=False) ** 2,
}


def _cut_off(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw x ≥ 1 of density x^(−1.5) e^(−x/10), by rejection."""
    x = 1 + rng.pareto(0.5, 40 * count)
    return x[rng.uniform(size=x.size) < np.exp(-(x - 1) / 10)][:count]


TRUE = {"power law, α = 2.5, 50": 2.5, "power law, α = 2.5, 150": 2.5, "power law, α = 3, 60": 3.0}


def check_tails(draws: int = 60) -> dict[str, Any]:
    """Fit tails that are power laws and tails that are not: p-values, and how often the interval holds α."""
    found: dict[str, Any] = {}
    for words, draw in TAILS.items():
        rng = np.random.default_rng(len(words))
        spectra = [draw(rng) for _ in range(draws)]
        fits = [fit_tails(each[None]) for each in spectra]
        boots = [
            bootstrap_tail(each, fit.alpha[0], fit.x_min[0], fit.ks_distance[0], draws=DRAWS, rng=rng)
            for each, fit in zip(spectra, fits, strict=True)
        ]
        laws = [compare_laws(each, float(fit.x_min[0])) for each, fit in zip(spectra, fits, strict=True)]
        case: dict[str, Any] = {"power law": rates([p for p, *_ in boots])}
        for law in ("lognormal", "exponential", "truncated"):
            case[f"power law against {law}"] = rates([each[law].p_value for each in laws])
            case[f"{law} is likelier"] = _round(np.mean([each[law].ratio < 0 for each in laws]))
        if alpha := next((alpha for begin, alpha in TRUE.items() if words.startswith(begin)), None):
            case["interval of 95 % holds α"] = _round(np.mean([low <= alpha <= high for _, low, high in boots]))
        found[words] = case
    return found


def check_exponents(draws: int = 60) -> dict[str, Any]:
    """Fit Gaussian matrices: how many are below what 5 % and half of such matrices should be below."""
    found: dict[str, Any] = {}
    for shape in ((96, 96), (96, 384)):
        level, below = chance_of_tails(shape, 0), dict[str, list[tuple[bool, bool]]]()
        rng = np.random.default_rng(shape)
        for number in range(draws):
            metrics = further(rng.normal(size=shape), number)
            for name in EXPONENTS:
                value = metrics[name]
                below.setdefault(name, []).append((value < level[f"{name}_null_low"], value < level[f"{name}_null"]))
            below.setdefault("traps", []).append((metrics["num_traps"] > 0, False))
        found[_words(shape)] = {
            **{name: dict(zip(("below low", "below median"), map(_round, np.mean(below[name], axis=0)), strict=True))
               for name in EXPONENTS},
            "any trap": _round(np.mean(below["traps"], axis=0)[0]),
        }  # fmt: skip
    for size in (5, 10, 20, 40):
        rng = np.random.default_rng(size)
        traps = []
        for number in range(draws):
            matrix = rng.normal(size=(96, 384))
            matrix[0, 0] = size
            traps.append(further(matrix, number)["num_traps"] > 0)
        found[f"96 × 384, one entry of {size} deviations"] = {"any trap": _round(np.mean(traps))}
    return found


def further(matrix: np.ndarray, number: int) -> dict[str, float]:
    """Compute the columns of tails of a matrix, with a bootstrap of two draws that is not looked at."""
    sigma = np.linalg.svd(matrix, compute_uv=False)
    fit = fit_tails(sigma[None] ** 2)
    given = {"alpha": float(fit.alpha[0]), "x_min": float(fit.x_min[0]), "ks_distance": float(fit.ks_distance[0])}
    windows = np.asarray(singular_values(square_windows(matrix.astype(np.float32))))
    shuffled = shuffled_spectra([(0, number)], [(matrix - matrix.mean()).astype(np.float32)])[0]
    shape = matrix.shape[0], matrix.shape[1]
    return tail_metrics(sigma, shape, windows, shuffled, given, draws=2, seed=(0, number))[0]


def check_mixture(draws: int = 40) -> dict[str, Any]:
    """Plant a tail of known weight and exponent beyond a bulk."""
    found = {}
    for shape, count, mu in (((96, 384), 10, 3.0), ((192, 192), 20, 3.0), ((192, 192), 20, 5.0)):
        rng = np.random.default_rng([*shape, count])
        seen = []
        for number in range(draws):
            rest = np.linalg.svd(rng.normal(size=(shape[0] - count, shape[1] - count)), compute_uv=False)
            edge = counting_edges((shape[0] - count, shape[1] - count), 1.0)[1]
            sigma = np.sort(np.r_[rest, edge * (1 + rng.pareto(mu - 1, count)) ** 0.5])[::-1]
            bulk = fit_bulk(sigma, shape)
            if bulk.reason:
                continue
            beyond = sigma[sigma > counting_edges(bulk.shape, bulk.variance)[1]]
            noise = np.linalg.svd(rng.normal(size=shape), compute_uv=False)
            given = {"alpha": float("nan"), "x_min": float("nan"), "ks_distance": float("nan")}
            metrics, _ = tail_metrics(sigma, shape, sigma[None], noise, given, draws=2, seed=(0, number))
            assert metrics["tail_weight"] == beyond.size / sigma.size
            seen.append((metrics["tail_weight"], metrics["tail_alpha"], metrics["tail_alpha_error"]))
        weight, alpha, error = np.array(seen).T
        found[f"{_words(shape)}, {count} values of exponent {mu:g} beyond"] = {
            "weight planted": _round(count / shape[0]),
            "weight": _round(weight.mean()),
            "exponent": _round(np.nanmedian(alpha)),
            "within 2 errors": _round(np.mean((abs(alpha - mu) < 2 * error)[np.isfinite(alpha)])),
            "identified": _round(len(seen) / draws),
        }
    return found


def _round(value: Any) -> float:
    return float(f"{float(value):.3g}")


def _words(shape: Sequence[int]) -> str:
    return f"{shape[0]} × {shape[1]}"


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "vectors": check_vectors,
    "spacings": check_spacings,
    "tails": check_tails,
    "exponents": check_exponents,
    "mixture": check_mixture,
}


def main(names: Sequence[str]) -> None:
    """Run these parts, or all, and write the JSON beside this file; the others stay in it."""
    warnings.simplefilter("error")
    assert LEVELS == (0.01, 0.05, 0.5)
    file = Path(__file__).with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if names else {}
    record |= {name: PARTS[name]() for name in names or PARTS}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
