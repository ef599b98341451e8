"""Quantiles of p-values where what they test is chance, beside those that they should have.

    python tests/benchmarks/null_p_values.py         (from the repository; about nine minutes)
    python tests/benchmarks/null_p_values.py --draw  (the figure alone, from the JSON)

Writes `null_p_values.json`, and from it `docs/images/null_p_values.png`. Seeds are fixed, and nothing depends on the
machine.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chance import Shape, equal_runs, norms_chance, stand_heads
from matplotlib.figure import Figure
from pages import IMAGES, keep
from scipy.stats import beta
from tails import DRAWS, TAILS

from jacspec.spectra.bulk import fit_bulk
from jacspec.spectra.porter_thomas import vector_chance
from jacspec.spectra.power_law import fit_tails
from jacspec.spectra.random_matrix import largest_p_value, smallest_p_value
from jacspec.spectra.significance import compare_means
from jacspec.spectra.tails import bootstrap_tail

RECORD = Path(__file__).with_suffix(".json")
COUNT = 1000
"""P-values a curve, where nothing else is said."""

RANKS = 24
"""Of them, spread evenly over ln p."""

Found = Iterator[tuple[str, Sequence[float] | np.ndarray]]


def of_matrices(shape: Shape = (96, 384)) -> Found:
    """Draw Gaussian matrices of one variance, then such with row and column norms of their own."""
    rng = np.random.default_rng(shape)
    largest, smallest = [], []
    for _ in range(COUNT):
        matrix = rng.normal(size=shape)
        sigma = np.linalg.svd(matrix, compute_uv=False)
        largest.append(largest_p_value(sigma[0], shape, float(matrix.var())))
        if not (bulk := fit_bulk(sigma, shape)).reason:
            smallest.append(smallest_p_value(sigma[-1], bulk.shape, bulk.variance))
    yield "largest, one variance", largest
    yield "smallest, one variance", smallest
    for spread in (0.0, 0.5):
        seen = norms_chance(shape, spread, COUNT, 1)
        for end in ("largest", "smallest"):
            yield f"{end}, own norms, spread {spread:g}", seen[end]


def of_heads(groups: int = 10) -> Found:
    """Draw heads in groups with draws of their own, with factors of one variance."""
    case = (16, 96), COUNT // groups, 0.0, 0.0
    seen = [stand_heads(case, seed=seed) for seed in range(groups)]
    words = {"plain": "one variance", "norms": "own norms", "turned": "turned"}
    for null, name in words.items():
        for end in ("largest", "smallest"):
            yield f"{end}, {name}", [getattr(each, f"{end}_p") for group in seen for each in group[null]]


def of_vectors_and_tails() -> Found:
    """Draw singular vectors of Gaussian matrices, and power laws."""
    for n in (32, 96):
        rng = np.random.default_rng(n)
        vectors = [np.linalg.svd(rng.normal(size=(n, 25)), full_matrices=False)[0].T for _ in range(COUNT // 25)]
        yield f"Porter–Thomas, n = {n}", vector_chance(np.concatenate(vectors)).p_value
    for words in ("power law, α = 2.5, 50 values", "power law, α = 2.5, 150 values"):
        rng = np.random.default_rng(len(words))
        yield words, [_power_p(TAILS[words](rng), rng) for _ in range(COUNT // 4)]


def _power_p(values: np.ndarray, rng: np.random.Generator) -> float:
    fit = fit_tails(values[None])
    return float(bootstrap_tail(values, fit.alpha[0], fit.x_min[0], fit.ks_distance[0], draws=DRAWS, rng=rng)[0])


def of_differences() -> Found:
    """Compare runs that differ by nothing."""
    for kind in ("normal", "lognormal"):
        for units, paired in ((12, True), (60, True), (60, False)):
            seen = compare_means(*equal_runs(kind, units, COUNT, paired=paired), paired=paired)
            yield f"{kind}, {units} {'pairs' if paired else 'units'}", seen.p_value


PARTS: Mapping[str, Callable[[], Found]] = {
    "singular values of a matrix": of_matrices,
    "singular values of a head": of_heads,
    "singular vectors and tails": of_vectors_and_tails,
    "differences of runs": of_differences,
}


def quantiles(p_values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Take some of the ordered p-values, with what each should be on average, rank/(n + 1)."""
    ordered = np.sort(np.asarray(p_values, np.float64))
    ranks = np.unique(np.geomspace(1, ordered.size, RANKS).round().astype(int))
    expected, seen = ranks / (ordered.size + 1), ordered[ranks - 1]
    return {"number": ordered.size, "expected": _rounded(expected), "seen": _rounded(seen)}


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.3g}") for value in values]


def draw(record: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw quantiles against quantiles, a panel a part, with the band that holds each quantile in 95 % of cases."""
    figure = Figure(figsize=(9, 7.6), layout="constrained")
    for axes, (part, curves) in zip(figure.subplots(2, 2).flat, record.items(), strict=True):
        fewest = min(curve["number"] for curve in curves.values())
        ranks = np.geomspace(1, fewest, 60)
        low, high = (beta.ppf(share, ranks, fewest + 1 - ranks) for share in (0.025, 0.975))
        place = ranks / (fewest + 1)
        axes.fill_between(place, low, high, color="0.9", label=f"95 % of {fewest}")
        axes.plot(place, place, color="0.5", linewidth=1)
        for number, (name, curve) in enumerate(curves.items()):
            axes.plot(curve["expected"], curve["seen"], "osD^vX"[number], markersize=3.5, label=name)
        axes.set(xscale="log", yscale="log", title=part, xlabel="quantile that it should be", ylabel="p-value")
        axes.set_ylim(bottom=axes.get_xlim()[0] / 10)
        axes.legend(fontsize="x-small", frameon=False, loc="lower right")
        axes.grid(color="0.94", linewidth=0.6)
    figure.suptitle("p-values where nothing but chance is there, quantiles beside quantiles")
    return figure


def main(arguments: Sequence[str]) -> None:
    """Compute what is not only drawn, then draw."""
    warnings.simplefilter("error")
    if "--draw" not in arguments:
        found = {part: {name: quantiles(values) for name, values in curves()} for part, curves in PARTS.items()}
        RECORD.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    keep(draw(json.loads(RECORD.read_text(encoding="utf-8"))), IMAGES / f"{RECORD.stem}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
