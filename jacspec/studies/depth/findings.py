"""What was found through many layers: how much a small change grows, and along how many directions."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import FEWEST, GAIN, RATIO, Interval, Place, median_interval, places, ratio_interval
from jacspec.report.labels import component_words
from jacspec.runs import Run

EXPONENT = "lyapunov_1"


def depth_findings(run: Run) -> Iterator[str]:
    """Say of each path what its end is: the gain, the largest exponent, and the concentration beside its beginning."""
    for component in run.components:
        where = component_words(component)
        if GAIN in run.metric_names and (ends := _ends(run, GAIN, component)):
            first, last = ends
            gain, growth = median_interval(last.values), _growth(first, last)
            if np.isfinite(gain.low):
                yield (
                    f"From the input of layer {first.layer} to the output of layer {last.layer} the {where} has the "
                    f"gain ρ {gain} (median)"
                    + (f", {growth} times that of its first layer alone." if growth.excludes(1.0) else ".")
                )
        if EXPONENT in run.metric_names and (ends := _ends(run, EXPONENT, component)):
            exponent = median_interval(ends[1].values)
            kind = "a generic small change grows" if exponent.value > 0 else "even a generic small change shrinks"
            if exponent.excludes(0.0):
                yield f"The largest Lyapunov exponent at the end of the {where} is {exponent} nats a layer: {kind}."
            elif np.isfinite(exponent.low):
                yield f"The largest Lyapunov exponent at the end of the {where}, {exponent}, may be zero."
        if RATIO in run.metric_names and (ends := _ends(run, RATIO, component)):
            change = _growth(*ends)
            if change.excludes(1.0):
                more = "more" if change.value < 1 else "less"
                yield f"One direction stands out {more} at the end: σ₂/σ₁ is {change} times that of the first layer."


def _ends(run: Run, metric: str, component: str) -> tuple[Place, Place] | None:
    """Return what a path has after its first and its last layer."""
    found = sorted(
        (place for place in places(run, metric) if place.component == component), key=lambda each: each.layer
    )
    return (found[0], found[-1]) if len(found) > 1 and found[0].values.size >= FEWEST else None


def _growth(first: Place, last: Place) -> Interval:
    """Return the ratio of the end to the beginning, paired by sample."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return ratio_interval(np.log(last.values) - np.log(first.values))
