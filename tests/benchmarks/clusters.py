"""How often the two largest values of Lanczos are not the two largest: constructed spectra, dense and with clusters.

    python tests/benchmarks/clusters.py    (from the repository; writes clusters.json)

Matrices of known singular values with random vectors. By kind, the share of matrices where a value that is marked
converged is off by more than the tolerance, 1e-5, the largest error beyond the residual in eps of σ₁, and the steps;
`before`, with the residual alone as the rule (`APART` so large, and `FINEST` 1, that no gap asks for more).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jacspec.backend import numerics
from jacspec.jacobians import bounds
from jacspec.jacobians.branches import Branch, Point
from jacspec.jacobians.lanczos import decompose
from jacspec.studies.provenance import versions

N, MATRICES, TOLERANCE = 60, 200, 1e-5


def clustered(rng: np.random.Generator, before: int, count: int, width: float, rest: np.ndarray) -> np.ndarray:
    """Put `count` values within a relative `width` below 1, after `before` larger ones."""
    cluster = np.sort(1 - width * rng.uniform(size=count))[::-1]
    return np.r_[1.4 * np.ones(before), cluster, rest[: N - count - before]]


DECAY, LINE = 0.6 * np.arange(1, N + 1) ** -0.5, np.linspace(0.6, 0, N)

SPECTRA: Mapping[str, Callable[[np.random.Generator], np.ndarray]] = {
    "five within 1e-4, then decay": lambda rng: clustered(rng, 0, 5, 1e-4, DECAY),
    "five within 1e-4, then a line": lambda rng: clustered(rng, 0, 5, 1e-4, LINE),
    "three within 1e-4, then decay": lambda rng: clustered(rng, 0, 3, 1e-4, DECAY),
    "five within 1e-3, then decay": lambda rng: clustered(rng, 0, 5, 1e-3, DECAY),
    "one, then five within 1e-4": lambda rng: clustered(rng, 1, 5, 1e-4, DECAY),
    "two equal": lambda rng: clustered(rng, 0, 2, 0, DECAY),
    "decay": lambda rng: np.arange(1, N + 1) ** -0.5,
    "flat": lambda rng: np.linspace(1, 0.9, N),
    "rank one": lambda rng: np.r_[5.0, np.zeros(N - 1)],
}


def solve(kind: str, precision: str) -> dict[str, float]:
    """Run Lanczos on matrices of one kind of spectrum."""
    sigma, matrices = [], []
    for seed in range(MATRICES):
        rng = np.random.default_rng(seed)
        sigma.append(SPECTRA[kind](rng))
        left, right = (np.linalg.qr(rng.normal(size=(N, N)))[0] for _ in range(2))
        matrices.append((left * sigma[-1]) @ right.T)
    rounded = np.stack(matrices).astype(precision)
    exact = np.linalg.svd(rounded.astype(np.float64), compute_uv=False)[:, :2]
    point = Point(jnp.asarray(rounded), jnp.ones((MATRICES, N), precision))
    starts = jax.random.normal(jax.random.key(1), (MATRICES, N), precision)
    found, _ = decompose(Branch(Partial(jnp.matmul), point), starts, k=2, tolerance=TOLERANCE)
    error = np.abs(found.singular_values - exact) / exact[:, :1]
    eps = float(np.finfo(precision).eps)
    within = error <= TOLERANCE
    return {
        "converged": float(found.converged.mean()),
        "off by more than the tolerance": float((~within.all(axis=1)).mean()),
        "beyond the bound": float((error > found.bounds / exact[:, :1]).any(axis=1).mean()),
        "largest error": float(f"{error.max():.2g}"),
        "largest error of those within, eps of sigma_1": round(float(error[within].max() / eps), 1),
        "steps": round(float(found.steps.mean()), 1),
    }


def main() -> None:
    """Measure both rules and write the JSON beside this file."""
    found: dict[str, Any] = {"matrices": MATRICES, "rows": N, "versions": versions()}
    for precision in ("float32", "float64"):
        with numerics(precision):
            for name, apart, finest in (("before", 1e9, 1.0), ("now", bounds.APART, bounds.FINEST)):
                with mock.patch.multiple(bounds, APART=apart, FINEST=finest):
                    jax.clear_caches()
                    found[f"{name}, {precision}"] = {kind: solve(kind, precision) for kind in SPECTRA}
    text = json.dumps(found, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
