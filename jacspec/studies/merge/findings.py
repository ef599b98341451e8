"""What was found of checkpoints beside each other: whether they act on the same directions, and agree there."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import median_interval
from jacspec.runs import Run
from jacspec.studies.merge import BASE, TASKS, WEIGHTS

WORDS = {WEIGHTS: "the weights of {} and {}", TASKS: "the task vectors of {} and {}", BASE: "what {} added and {}"}
MOST = 4
"""Pairs of which a sentence is said."""


def merge_findings(run: Run) -> Iterator[str]:
    """Say of each pair whether leading subspaces overlap beyond chance, and which sign their cosines have."""
    pairs = list(run.metrics.groupby(["compared", "first", "second"], sort=False))
    shown = sorted(pairs, key=lambda pair: (TASKS, WEIGHTS, BASE).index(pair[0][0]))[:MOST]
    for (compared, first, second), rows in shown:
        overlap, chance = (rows[[f"left_{name}", f"right_{name}"]].mean(axis=1) for name in ("overlap", "chance"))
        excess = median_interval((overlap - chance).to_numpy(np.float64))
        cosine = median_interval(rows["cosine"].to_numpy(np.float64))
        if np.isnan(excess.low):
            continue
        beyond = f"beyond chance by {excess}" if excess.low > 0 else f"no more than chance has ({chance.median():.3f})"
        signs = {1: "they point the same way", 0: "they agree on no sign", -1: "they point against each other"}
        yield (
            f"The leading subspaces of {WORDS[compared].format(first, second)} overlap {overlap.median():.3f}, "
            f"{beyond}; their cosine is {cosine}: {signs[(cosine.low > 0) - (cosine.high < 0)]} (medians over "
            f"{int(overlap.notna().sum())} matrices)."
        )
    if len(pairs) > MOST:
        yield f"{len(pairs) - MOST} more pairs are in the table."
