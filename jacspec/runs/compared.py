"""What `task=compare` says of several runs: which is held against which, how fair that is, their differences."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jacspec.comparison import adjust_for_many, compare_means, split_half_floor
from jacspec.runs.collection import LabelledRun, Layer, collect, describe

DIFFERENCES_FILE, RUNS_FILE = "differences.csv", "runs.csv"
DIFFERENCE_COLUMNS = (
    *("run", "against", "component", "layer", "against_layer", "depth", "metric", "paired", "n", "against_n"),
    *("mean", "against_mean", "difference", "low", "high", "p_value", "q_value", "floor"),
)
SAMPLING = ("split", "samples", "min_tokens", "max_tokens")
"""Keys of `data` that say how samples are drawn."""

RUN_COLUMNS = ("run", "label", "group", "against", "model", "revision", "seed", "precision", "corpus", "folder")


def group_of(labelled: LabelledRun) -> str:
    """Name what a run shares with those that differ from it by their seed alone: its label without the seed."""
    parts = [part for part in labelled.label.split(", ") if not part.startswith("seed=")]
    return ", ".join(parts) or str(describe(labelled.run)["model"])


def references(runs: Sequence[LabelledRun], against: int) -> list[int]:
    """Choose for each run the one it is held against: of the group of run `against`, the one of its own seed.

    Where that group has no other run of its seed, it is run `against`; that one's reference is itself.
    """
    groups, seeds = [group_of(run) for run in runs], [describe(each.run)["seed"] for each in runs]
    chosen = []
    for number, seed in enumerate(seeds):
        same = [other for other, found in enumerate(seeds) if found == seed and groups[other] == groups[against]]
        chosen.append(next((other for other in same if other != number and number != against), against))
    return chosen


def mismatches(runs: Sequence[LabelledRun]) -> list[str]:
    """Say in which of corpus, sampling, tokens and precision the runs differ: then they do not measure the same."""
    facts = [describe(each.run) for each in runs]
    found = []
    for name, words in (("corpus", "corpora"), ("precision", "precisions")):
        values = {str(fact[name]) for fact in facts}
        if len(values) > 1:
            shown = "" if name == "corpus" else f": {', '.join(sorted(values))}"
            found.append(f"The runs are of different {words}{shown}.")
    if "sample" not in runs[0].run.metrics:
        return found
    sampling = [{key: fact["data"].get(key) for key in SAMPLING} for fact in facts if fact["data"]]
    if differing := [key for key in SAMPLING if len({repr(each[key]) for each in sampling}) > 1]:
        found.append(f"The runs draw their samples differently: {', '.join(f'data.{key}' for key in differing)}.")
    if any(same_texts(runs[0], other) and not _same_tokens(runs[0], other) for other in runs[1:]):
        found.append("The runs read the same texts as different tokens, so that their last tokens differ.")
    return found


def same_texts(left: LabelledRun, right: LabelledRun) -> bool:
    """Decide whether two runs are over the same samples, in the same order."""
    texts = [each.run.samples["text"].tolist() for each in (left, right)]
    return texts[0] == texts[1]


def _same_tokens(left: LabelledRun, right: LabelledRun) -> bool:
    counts = [each.run.samples["n_tokens"].tolist() for each in (left, right)]
    return counts[0] == counts[1]


def can_pair(left: LabelledRun, right: LabelledRun) -> bool:
    """Decide whether rows of two runs are of the same units: the same samples, or the matrices of one model."""
    if "sample" in left.run.metrics:
        return same_texts(left, right)
    return bool(describe(left.run)["model"] == describe(right.run)["model"])


def difference_rows(
    runs: Sequence[LabelledRun], names: Sequence[str], against: int, *, draws: int, seed: int
) -> list[tuple[Any, ...]]:
    """Hold each run against its reference, a row a (run, component, layer, metric).

    A layer is held against the layer of the same component that is nearest in relative depth: the same one where both
    models have as many.
    """
    layers = [collect(each.run, names) for each in runs]
    rows: list[tuple[Any, ...]] = []
    for number, other in enumerate(references(runs, against)):
        if number != other:
            paired = can_pair(runs[other], runs[number])
            who = (number, other)
            rows += _rows_of_pair(who, layers[other], layers[number], names, paired=paired, draws=draws, seed=seed)
    place = DIFFERENCE_COLUMNS.index("q_value")
    adjusted = adjust_for_many(np.array([row[place - 1] for row in rows], np.float64))
    return [(*row[:place], float(q), *row[place:]) for row, q in zip(rows, adjusted, strict=True)]


def _rows_of_pair(
    who: tuple[int, int],
    left: Sequence[Layer],
    right: Sequence[Layer],
    names: Sequence[str],
    *,
    paired: bool,
    draws: int,
    seed: int,
) -> Iterator[tuple[Any, ...]]:
    for found in right:
        same = [layer for layer in left if layer.component == found.component]
        if not same:
            continue
        other = min(same, key=lambda layer: (abs(layer.depth - found.depth), layer.layer))
        together = paired and other.units == found.units
        result = compare_means(other.values, found.values, paired=together, draws=draws, seed=seed)
        floors = [split_half_floor(each.values, draws=draws, seed=seed) for each in (other, found)]
        for place, name in enumerate(names):
            values, others = (each.values[:, place][np.isfinite(each.values[:, place])] for each in (found, other))
            yield (
                *who,
                found.component,
                found.layer,
                other.layer,
                found.depth,
                name,
                int(together),
                values.size,
                others.size,
                *(float(each.mean()) if each.size else float("nan") for each in (values, others)),
                *(float(column[place]) for column in result),
                float(np.fmax(floors[0][place], floors[1][place])),
            )


def run_rows(runs: Sequence[LabelledRun], against: int) -> Iterator[tuple[Any, ...]]:
    """Say which runs are compared, a row each."""
    for number, (each, other) in enumerate(zip(runs, references(runs, against), strict=True)):
        facts = describe(each.run)
        columns = (facts[name] for name in ("model", "revision", "seed", "precision", "corpus"))
        yield (number, each.label, group_of(each), other, *columns, str(each.run.folder))
