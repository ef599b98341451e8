"""What was found of checkpoints beside each other: whether they act on the same directions, and agree there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jacspec.report.findings import count_once, median_interval
from jacspec.report.labels import number_format
from jacspec.runs import Run
from jacspec.studies.merge import BASE, ILL_CONDITIONED, MISMATCH, TASKS, WEIGHTS

if TYPE_CHECKING:
    import pandas

WORDS = {WEIGHTS: "the weights of {} and {}", TASKS: "the task vectors of {} and {}", BASE: "what {} added and {}"}
MOST = 4
"""Pairs of which a sentence is said."""


def merge_findings(run: Run) -> Iterator[str]:
    """Say of each pair whether leading subspaces overlap beyond chance, and which sign their cosines have."""
    table, words = count_once(run.metrics)
    pairs = list(table.groupby(["compared", "first", "second"], sort=False))
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
            f"{int(overlap.notna().sum())} matrices{words})."
        )
    if len(pairs) > MOST:
        yield f"{len(pairs) - MOST} more pairs are in the table."
    if "confidence" in run.metrics:
        judged = count_once(judged_pairs(run))[0].groupby(["first", "second"], sort=False)
        for (first, second), rows in list(judged)[:MOST]:
            yield _judge(first, second, rows, words)


def judged_pairs(run: Run) -> "pandas.DataFrame":
    """Return the comparisons of weights of two models; with the base where no two others are there."""
    rows = run.metrics[run.metrics["compared"] == WEIGHTS]
    others = rows[rows["first"] != run.provenance.get("base")]
    return others if len(others) else rows


def _judge(first: str, second: str, rows: "pandas.DataFrame", words: str) -> str:
    """Say which matrices of two models ModelCypher's rules flag, and how many of these are as chance has them."""
    apart = rows[rows["confidence"] < MISMATCH]
    ill = rows[rows["condition_second"] > ILL_CONDITIONED]
    chance = int((ill["condition_second"] <= ill["condition_chance"]).sum())
    which = ", ".join(f"{row.role} of layer {row.layer}" for row in apart[:MOST].itertuples())
    write = number_format([float(end) for end in (rows["share_second"].min(), rows["share_second"].max())], digits=(3,))
    return (
        f"By ModelCypher's rules {len(apart)} of {len(rows)} matrices of {first} and {second}{words and words + ','} "
        f"differ too much in σ₁ to be merged as equals (confidence below {MISMATCH}{f': {which}' if which else ''}), "
        f"and {len(ill)} of {second} are ill-conditioned (κ above {ILL_CONDITIONED:g}), {chance} of these no more "
        f"than random matrices of their shape; α′, the share of {second}, is {write(rows['share_second'].min())} to "
        f"{write(rows['share_second'].max())}."
    )
