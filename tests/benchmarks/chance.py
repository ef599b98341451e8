"""How well chance is known: the bulk's variance, p-values, counts and errors of α where the answer is known.

    python tests/benchmarks/chance.py          (from the repository; about five minutes; writes chance.json)
    python tests/benchmarks/chance.py heads    (that part alone)

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
from scipy.optimize import brentq

from jacspec.spectra.bulk import fit_bulk, quantiles
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.products import (
    Ends,
    Standing,
    ends_of,
    norms_of,
    norms_products,
    plain_products,
    stand,
    turned_products,
)
from jacspec.spectra.random_matrix import (
    TRACY_WIDOM_MEAN,
    TRACY_WIDOM_VARIANCE,
    chance_above,
    chance_below,
    counting_edges,
    largest_p_value,
    marchenko_pastur_edges,
    smallest_p_value,
    tracy_widom_sf,
)
from jacspec.spectra.rank_correlation import correlate
from jacspec.spectra.significance import compare_means, noise_floor
from jacspec.spectra.variance_profile import profile_edges, profile_of
from jacspec.spectra.weight_metrics import SEARCHED

Shape = tuple[int, int]
SHAPES: Mapping[Shape, int] = {(96, 96): 60, (96, 384): 60, (768, 768): 10, (768, 3072): 10}
"""Of planted spectra, with the number of draws."""

NOISE = (
    *(("spikes", share) for share in (0.0, 0.02, 0.1, 0.2, 0.4)),
    *(("rows", spread) for spread in (0.1, 0.3)),
)
"""Share of the values that are spikes, from 1.5 to 6 times the upper edge; spread of ln of the rows' scales."""

LEVELS = (0.01, 0.05, 0.5)


def planted(shape: Shape, kind: str, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Draw singular values of Gaussian noise whose mean variance is 1, with what is planted, in ascending order."""
    matrix = rng.normal(size=shape)
    if kind == "spikes":
        spikes = round(amount * shape[0])
        edge = marchenko_pastur_edges(shape, 1.0)[1]
        matrix[np.arange(spikes), np.arange(spikes)] += edge * np.geomspace(1.5, 6, max(spikes, 1))[:spikes]
    else:
        scales = np.exp(amount * rng.normal(size=shape[0]))
        matrix *= (scales / np.sqrt(np.mean(scales**2)))[:, None]
    return np.sqrt(np.maximum(np.linalg.eigvalsh(matrix @ matrix.T), 0))


# Estimators of the variance of the bulk: values in ascending order


def before(sigma: np.ndarray, shape: Shape) -> float:
    """As jacspec had it: quantiles from 10 to 90 %, values beyond the edges dropped until a fifth would be gone."""
    grid, share = quantiles(shape)
    scale, kept = float("nan"), sigma
    for _ in range(50):
        place = np.linspace(0.1, 0.9, 81)
        model = np.interp(place, share, grid)
        scale = float(np.quantile(kept, place) @ model / (model @ model))
        remaining = sigma[(sigma > 0.98 * scale * grid[0]) & (sigma < 1.02 * scale * grid[-1])]
        if remaining.size < max(3, 0.8 * sigma.size) or remaining.size == kept.size:
            break
        kept = remaining
    return scale**2


def median(sigma: np.ndarray, shape: Shape) -> float:
    """Match the median of all values (Gavish & Donoho 2014)."""
    grid, share = quantiles(shape)
    return float((np.median(sigma) / np.interp(0.5, share, grid)) ** 2)


def all_quantiles(sigma: np.ndarray, shape: Shape) -> float:
    """Fit the quantiles from 10 to 90 % of all values."""
    grid, share = quantiles(shape)
    place = np.linspace(0.1, 0.9, 81)
    model = np.interp(place, share, grid)
    return float((np.quantile(sigma, place) @ model / (model @ model)) ** 2)


def bema(sigma: np.ndarray, shape: Shape) -> float:
    """Regress the middle three fifths of λ on the law's quantiles (Ke, Ma & Lin 2023)."""
    grid, share = quantiles(shape)
    index = np.arange(int(0.2 * sigma.size), int(0.8 * sigma.size))
    model = np.interp((index + 1) / sigma.size, share, grid) ** 2
    return float(sigma[index] ** 2 @ model / (model @ model))


def passemier_yao(sigma: np.ndarray, shape: Shape) -> float:
    """Count spikes by gaps (Passemier & Yao 2014), correct the mean of the rest (Passemier, Li & Yao 2017)."""
    rows, columns = shape
    lam, c = sigma[::-1] ** 2 / columns, rows / columns
    variance, spikes = float(lam.mean()), -1
    for _ in range(50):
        gap = 1.5 * variance * (1 + c**0.5) ** 2 * columns ** (-2 / 3) * (2 * np.log(np.log(columns))) ** 0.5
        wide = -np.diff(lam) > gap
        found = next((m for m in range(rows // 2) if not (wide[m] or wide[m + 1])), rows // 2)
        middle = lam[:found] + variance * (1 - c)
        strength = (middle + np.sqrt(np.maximum(middle**2 - 4 * variance * lam[:found], 0))) / 2
        rest = float(lam[found:].mean())
        changed = rest * (1 + c * (found + variance * float((1 / strength).sum())) / (rows - found))
        if found == spikes and abs(changed - variance) < 1e-9 * variance:
            break
        variance, spikes = changed, found
    return variance


def nearest(sigma: np.ndarray, shape: Shape) -> float:
    """Fit quantiles of what is left for each number of spikes, take the one of least Kolmogorov–Smirnov distance."""
    best = (np.inf, np.nan)
    for above in range(0, sigma.size // 2 + 1, max(sigma.size // 96, 1)):
        kept, left = sigma[: sigma.size - above], (shape[0] - above, shape[1] - above)
        variance = all_quantiles(kept, left)
        grid, share = quantiles(left)
        model, steps = np.interp(kept / variance**0.5, grid, share), np.arange(kept.size + 1) / kept.size
        best = min(best, (float(np.maximum(abs(model - steps[:-1]), abs(model - steps[1:])).max()), variance))
    return best[1]


RIVALS: Mapping[str, Callable[[np.ndarray, Shape], float]] = {
    "before": before,
    "median (Gavish–Donoho)": median,
    "quantiles": all_quantiles,
    "BEMA (Ke–Ma–Lin)": bema,
    "Passemier–Yao": passemier_yao,
    "profile, least distance": nearest,
}


def compare_estimators() -> dict[str, Any]:
    """Estimate a variance of 1."""
    found: dict[str, Any] = {}
    for shape, draws in SHAPES.items():
        rng = np.random.default_rng(shape)
        for kind, amount in NOISE:
            spectra = [planted(shape, kind, amount, rng) for _ in range(draws)]
            case: dict[str, Any] = {}
            for name, estimate in RIVALS.items():
                values = np.array([estimate(each, shape) for each in spectra])
                case[name] = {"mean": _round(values.mean()), "sd": _round(values.std())}
            bulks = [fit_bulk(each[::-1], shape) for each in spectra]
            there = [bulk for bulk in bulks if not bulk.reason]
            case["fit_bulk"] = {"identified": _round(len(there) / draws)}
            if there:
                away = np.array([(bulk.variance - 1) / bulk.error for bulk in there])
                case["fit_bulk"] |= {
                    "mean": _round(np.mean([bulk.variance for bulk in there])),
                    "sd": _round(np.std([bulk.variance for bulk in there])),
                    "mean error": _round(np.mean([bulk.error for bulk in there])),
                    "within 1 error": _round(np.mean(abs(away) <= 1)),
                    "within 2 errors": _round(np.mean(abs(away) <= 2)),
                    "above": _round(np.mean([bulk.above for bulk in there])),
                }
            words = f"{amount:.0%} spikes" if kind == "spikes" else f"row scales, spread {amount}"
            found.setdefault(_words(shape), {})[words] = case
    return found


def rates(p_values: Sequence[float]) -> dict[str, float]:
    """Say how often p-values are at or below each level."""
    return {f"{level:.0%}": _round(np.mean(np.array(p_values) <= level)) for level in LEVELS}


def check_p_values(draws: int = 1000) -> dict[str, Any]:
    """Draw Gaussian matrices, some with five spikes at the top, whose smallest values are chance."""
    found: dict[str, Any] = {}
    for shape in ((4, 8), (8, 40), (16, 32), (96, 96), (96, 384), (64, 768)):
        rng = np.random.default_rng(shape)
        matrices = [rng.normal(size=shape) for _ in range(draws)]
        spectra = [np.linalg.svd(each, compute_uv=False) for each in matrices]
        variances = [float(each.var()) for each in matrices]
        case: dict[str, Any] = {
            "largest": rates([largest_p_value(each[0], shape, v) for each, v in zip(spectra, variances, strict=True)])
        }
        bulks = [fit_bulk(each, shape) for each in spectra]
        pairs = [(each, bulk) for each, bulk in zip(spectra, bulks, strict=True) if not bulk.reason]
        if pairs:
            case["smallest"] = rates([smallest_p_value(each[-1], bulk.shape, bulk.variance) for each, bulk in pairs])
            highs = [counting_edges(bulk.shape, bulk.variance)[1] for _, bulk in pairs]
            case["any above the edge"] = _round(np.mean([each[0] > bulk.edges[1] for each, bulk in pairs]))
            case["any counted above"] = _round(
                np.mean([each[0] > high for (each, _), high in zip(pairs, highs, strict=True)])
            )
            case["number counted above"] = _round(
                np.mean([(each > high).sum() for (each, _), high in zip(pairs, highs, strict=True)])
            )
        found[_words(shape)] = case
    for shape in ((96, 96), (96, 384)):
        rng = np.random.default_rng(7)
        old, new = [], []
        for _ in range(draws // 2):
            matrix = rng.normal(size=shape)
            matrix[np.arange(5), np.arange(5)] += marchenko_pastur_edges(shape, 1.0)[1] * np.arange(2, 7)
            sigma = np.linalg.svd(matrix, compute_uv=False)
            old.append(smallest_p_value(sigma[-1], shape, matrix.var()))
            bulk = fit_bulk(sigma, shape)
            new.append(smallest_p_value(sigma[-1], bulk.shape, bulk.variance))
        found[_words(shape)] |= {"five spikes, smallest": rates(new), "five spikes, smallest, before": rates(old)}
    return found


def check_norms(draws: int = 150) -> dict[str, Any]:
    """Draw independent Gaussian entries whose rows and columns have different norms: all that stands out is chance."""
    found: dict[str, Any] = {}
    cases: Mapping[str, tuple[Shape, float | None]] = {
        **{f"{_words(shape)}, one variance": (shape, 0.0) for shape in ((96, 96), (96, 384))},
        **{f"{_words(shape)}, spread 0.5": (shape, 0.5) for shape in ((96, 96), (96, 384))},
        "288 × 96, three blocks": ((288, 96), None),
        "288 × 96, three blocks, columns of each": ((288, 96), 0.5),
    }
    for name, (shape, spread) in cases.items():
        seen = norms_chance(shape, spread, draws, 3 if "blocks" in name else 1)
        found[name] = {
            "plain, largest": rates(seen["plain"]),
            "norms, largest": rates(seen["largest"]),
            **({"norms, smallest": rates(seen["smallest"])} if seen["smallest"] else {}),
            **({"norms of the whole, smallest": rates(seen["whole"])} if seen["whole"] else {}),
            "counted above, plain": _round(np.mean(seen["above, plain"])),
            "counted above, norms": _round(np.mean(seen["above"])),
        }
    return found


def norms_chance(shape: Shape, spread: float | None, draws: int, blocks: int) -> dict[str, list[float]]:
    """Draw matrices of norms with this spread of ln, of several blocks of 1, 2, 4: p-values and counts of each null."""
    rng = np.random.default_rng(shape)
    rows = np.exp((spread or 0) * rng.normal(size=shape[0]))
    columns = np.exp((spread or 0) * rng.normal(size=(blocks, shape[1])))
    parts = (shape[0] // blocks,) * blocks
    rows = np.repeat(2.0 ** np.arange(blocks), parts) if blocks > 1 else rows
    seen: dict[str, list[float]] = {
        key: [] for key in ("plain", "largest", "smallest", "whole", "above, plain", "above")
    }
    for _ in range(draws):
        matrix = rng.normal(size=shape) * rows[:, None] * np.repeat(columns, parts, axis=0)
        sigma, profile = np.linalg.svd(matrix, compute_uv=False), profile_of(matrix, parts)
        assert profile is not None
        low, high = profile_edges(profile)
        seen["plain"].append(largest_p_value(sigma[0], shape, matrix.var()))
        seen["largest"].append(chance_above(sigma[0] ** 2, high, profile.spread))
        seen["above, plain"].append(float((sigma > counting_edges(shape, matrix.var())[1]).sum()))
        seen["above"].append(float((sigma**2 > high.centre + 2.0234 * high.scale).sum()))
        if low:
            seen["smallest"].append(chance_below(sigma[-1] ** 2, low))
        if blocks > 1 and (whole := profile_of(matrix)) and (edge := profile_edges(whole)[0]):
            seen["whole"].append(chance_below(sigma[-1] ** 2, edge))
    return seen


def check_alpha(draws: int = 300) -> dict[str, Any]:
    """Fit tails of known exponent, some behind a body without any."""
    found: dict[str, Any] = {}
    for size, alpha, share in ((100, 2.5, 1.0), (400, 2.5, 1.0), (100, 3.0, 0.3), (400, 3.0, 0.3), (768, 4.0, 0.1)):
        rng = np.random.default_rng(size)
        values = []
        for _ in range(draws):
            tail = rng.binomial(size, share)
            values.append(np.r_[1 + rng.pareto(alpha - 1, tail), rng.uniform(0.05, 1, size - tail) ** 0.5])
        fits = fit_tails(np.stack(values))
        away = np.abs(fits.alpha - alpha) / fits.alpha_sigma
        found[f"{size} values, {share:.0%} of them a tail of α = {alpha}"] = {
            "mean": _round(fits.alpha.mean()),
            **{f"within {k} alpha_sigma": _round(np.mean(away <= k)) for k in (1, 2)},
            **{f"within {k} alpha_error": _round(np.mean(away <= SEARCHED * k)) for k in (1, 2)},
        }
    return found


HEAD_CASES: Mapping[str, tuple[Shape, int, float, float]] = {
    "d_head 16, d_model 96": ((16, 96), 300, 0.0, 0.0),
    "32, 256": ((32, 256), 100, 0.0, 0.0),
    "16, 96, norms of spread 0.5": ((16, 96), 300, 0.5, 0.0),
    "16, 96, norms of spread 1": ((16, 96), 300, 1.0, 0.0),
    "16, 96, one direction planted in both factors": ((16, 96), 100, 0.0, 1.0),
    "16, 96, spread 0.5, one direction planted": ((16, 96), 100, 0.5, 1.0),
}
"""d_head and d_model, heads, spread of ln of the variances of rows and columns, size of what is planted."""


def draw_heads(case: tuple[Shape, int, float, float], seed: int = 0) -> list[np.ndarray]:
    """Draw both factors of heads, each with norms of its own; what is planted is a direction of d_head in both."""
    (d_head, d_model), heads, spread, planted = case
    rng = np.random.default_rng([seed, d_head, heads])
    directions = rng.normal(size=(heads, d_head, 1)) / d_head**0.5
    factors = []
    for _ in range(2):
        scales = np.exp(spread * rng.normal(size=(heads, d_head, 1)) / 2) * np.exp(
            spread * rng.normal(size=(heads, 1, d_model)) / 2
        )
        entries = scales * rng.normal(size=(heads, d_head, d_model))
        factors.append(entries + planted * directions * rng.normal(size=(heads, 1, d_model)))
    return factors


def check_heads(draws: int = 199) -> dict[str, Any]:
    """Draw heads, and compare each with its three nulls as `task=heads` does."""
    found: dict[str, Any] = {}
    for name, case in HEAD_CASES.items():
        seen: dict[str, Any] = {}
        for null, standing in stand_heads(case, draws).items():
            seen[f"{null}, largest"] = rates([each.largest_p for each in standing])
            seen[f"{null}, smallest"] = rates([each.smallest_p for each in standing])
            seen[f"counted above, {null}"] = _round(np.mean([each.above for each in standing]))
        found[name] = seen
    return found


def stand_heads(case: tuple[Shape, int, float, float], draws: int = 199, seed: int = 0) -> dict[str, list[Standing]]:
    """Compare heads that are drawn with each of their three nulls."""
    factors = draw_heads(case, seed)
    cores = [np.asarray(np.linalg.qr(part.swapaxes(1, 2), mode="r")) for part in factors]
    spectra = np.linalg.svd(cores[0] @ cores[1].swapaxes(1, 2), compute_uv=False)
    (d_head, d_model), heads, *_ = case
    own: dict[str, Any] = {"draws": draws, "seed": 1 + seed}
    by_median, as_it_is = (functools.partial(ends_of, by_median=choice) for choice in (True, False))
    plain = by_median(plain_products(d_model, d_head, **own))
    nulls = {
        "plain": Ends(*(np.repeat(part[:, None], heads, axis=1) for part in plain)),
        "norms": norms_products(*(norms_of(list(part)) for part in factors), **own, spectra=by_median),
        "turned": turned_products(cores[0], cores[1], **own, spectra=as_it_is),
    }
    return {
        null: [
            stand(sigma, Ends(*(part[:, head] for part in drawn)), by_median=null != "turned")
            for head, sigma in enumerate(spectra)
        ]
        for null, drawn in nulls.items()
    }


def check_tails(draws: int = 199, nulls: int = 200, count: int = 20000) -> dict[str, Any]:
    """Say how often p-values of heads that are chance come to levels that are beyond most draws."""
    found: dict[str, Any] = {}
    levels = {"1%": 1e-2, "0.1%": 1e-3}
    places = [brentq(lambda x, p=p: tracy_widom_sf(x) - p, 0.0, 8.0) for p in levels.values()]
    ends = ends_of(plain_products(96, 16, draws=count, seed=3), by_median=True)
    for name, values in (("largest", ends.top), ("smallest", -ends.bottom)):
        chosen = np.random.default_rng(0).choice(values, (nulls, draws))
        mean, deviation = chosen.mean(axis=1), chosen.std(axis=1, ddof=1) / TRACY_WIDOM_VARIANCE**0.5
        passed = [mean + deviation * (place - TRACY_WIDOM_MEAN) for place in places]
        shares = (1 - np.searchsorted(np.sort(values), each).mean() / count for each in passed)
        found[f"d_head 16, d_model 96, {name}"] = dict(zip(levels, map(_round, shares), strict=True))
    return found


def check_compare(tests: int = 1000) -> dict[str, Any]:
    """Compare runs that differ by nothing: how often intervals hold zero, p reaches a level, floors are passed."""
    found: dict[str, Any] = {}
    for kind in ("normal", "lognormal"):
        for paired in (True, False):
            for units in (6, 12, 30, 100, 400):
                left, right = equal_runs(kind, units, tests, paired=paired)
                own: dict[str, Any] = {"paired": paired, "draws": 600, "seed": 0}
                seen, floor = compare_means(left, right, paired=paired), noise_floor(left, right, **own)
                found[f"{kind}, {units} {'pairs' if paired else 'units'}"] = {
                    "covered": _round(np.mean((seen.low <= 0) & (seen.high >= 0))),
                    **{f"p at {level}": rate for level, rate in rates(seen.p_value.tolist()).items()},
                    "beyond the floor": _round(np.mean(np.abs(seen.difference) > floor)),
                }
    return found


def equal_runs(kind: str, units: int, tests: int, *, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw two runs that differ by nothing, normal or lognormal; in pairs the second is the first with some noise."""
    rng = np.random.default_rng([units, paired])
    left, right = rng.normal(size=(2, units, tests))
    if paired:
        right = left + 0.3 * right
    if kind == "lognormal":
        # The noise of pairs has a mean of its own there.
        left, right = np.exp(left), np.exp(right - (0.3**2 / 2 if paired else 0))
    return left, right


def metrics_of_models(kind: str, models: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a metric, the quality and the size of models; size apart, only what is linked goes together."""
    size, own, other, link = rng.normal(size=(4, models))
    metric, quality = {
        "nothing follows size": (own, other),
        "both follow size": (2 * size + own, 2 * size + other),
        "both almost are size": (5 * size + own, 5 * size + other),
        "both follow exp(size)": (3 * np.exp(size) + own, 3 * np.exp(size) + other),
        "both linked, and follow size": (2 * size + 2 * link + own, 2 * size + 2 * link + other),
    }[kind]
    return metric, quality, size


MODEL_KINDS = (
    *("nothing follows size", "both follow size", "both almost are size", "both follow exp(size)"),
    "both linked, and follow size",
)


def check_models(tests: int = 1000) -> dict[str, Any]:
    """Correlate a metric with quality over models: how often p reaches a level, plain and given size."""
    found: dict[str, Any] = {}
    for kind in MODEL_KINDS:
        for models in (6, 8, 12, 20):
            rng = np.random.default_rng(models)
            seen: dict[str, list[float]] = {"plain": [], "given size": []}
            covered = []
            for _ in range(tests):
                metric, quality, size = metrics_of_models(kind, models, rng)
                plain = correlate(metric, quality, draws=999, seed=0)
                seen["plain"].append(plain.p_value)
                covered.append(plain.low <= 0 <= plain.high)
                seen["given size"].append(correlate(metric, quality, size, draws=999, seed=0).p_value)
            found[f"{models} models, {kind}"] = {
                **{f"p at {level}": rate for level, rate in rates(seen["plain"]).items()},
                "0 in the interval": _round(np.mean(covered)),
                "tested given size": _round(np.isfinite(seen["given size"]).mean()),
                **{f"given size, p at {level}": rate for level, rate in rates(seen["given size"]).items()},
            }
    return found


def _round(value: Any) -> float:
    return float(f"{float(value):.3g}")


def _words(shape: Shape) -> str:
    return f"{shape[0]} × {shape[1]}"


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "estimators": compare_estimators,
    "p-values": check_p_values,
    "norms": check_norms,
    "alpha": check_alpha,
    "heads": check_heads,
    "heads, small p": check_tails,
    "compare": check_compare,
    "models": check_models,
}


def main(names: Sequence[str]) -> None:
    """Run these parts, or all, and write the JSON beside this file; the others stay in it."""
    warnings.simplefilter("error")
    file = Path(__file__).with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if names else {}
    record |= {name: PARTS[name]() for name in names or PARTS}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
