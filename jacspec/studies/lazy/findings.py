"""What was found of lazy and rich learning: how far weights move, and what removal costs at which scale."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import FEWEST_SEEDS, Change, changes_by_seed, ratio_interval
from jacspec.report.labels import lookup
from jacspec.runs import Run
from jacspec.spectra.significance import SURE

WHEN = {"before": "before training", "after": "after training", "both": "after training, from f₀ too,"}


def lazy_findings(run: Run) -> Iterator[str]:
    """Say how far training moves the weights at both ends of the scales, then what each removal changes."""
    table = run.metrics
    if table["seed"].nunique() < FEWEST_SEEDS:
        yield f"With fewer than {FEWEST_SEEDS} seeds nothing is said of how sure a difference is."
        return
    whole = table[table["order"] == "none"]
    moved = whole.pivot(index="seed", columns="scale", values="movement")
    scales = sorted(moved.columns)
    ratio = ratio_interval(np.log(moved[scales[0]] / moved[scales[-1]]).to_numpy(), fewest=FEWEST_SEEDS)
    if len(scales) > 1 and ratio.excludes(1.0):
        low, high = (float(moved[scale].mean()) for scale in (scales[0], scales[-1]))
        yield (
            f"Training moves the hidden weights by {low:.2g} of their norm at α = {scales[0]:g} and by {high:.2g} at "
            f"α = {scales[-1]:g}: {ratio} times as far."
        )
    found = changes_by_seed(run, "test_accuracy", ("order", "group", "scale"))
    for order, words in WHEN.items():
        own = [change for change in found if change.key[0] == order]
        if own:
            smaller = " and all smaller" if lookup(run.provenance, "config.lazy.and_smaller") else ""
            yield _say(words, own, smaller)


def _say(when: str, own: list[Change], smaller: str) -> str:
    """Say at how many scales a removal changes the accuracy, and where most."""
    groups = sorted({int(str(change.key[1])) for change in own})
    said = []
    for group in groups:
        mine = [change for change in own if change.key[1] == group]
        sure = [change for change in mine if change.sure]
        if sure:
            most = max(sure, key=lambda change: abs(change.interval.value))
            said.append(
                f"group {group}{smaller} changes the test accuracy at {len(sure)} of {len(mine)} scales, most at "
                f"α = {float(str(most.key[2])):g}, by {most.interval}"
            )
        else:
            said.append(f"group {group}{smaller} at none beyond the spread of seeds")
    return f"Removed {when} {'; '.join(said)} (q below {SURE})."
