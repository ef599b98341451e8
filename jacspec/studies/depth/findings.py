"""What was found through many layers: how much a small change grows, and along how many directions."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import (
    FEWEST,
    GAIN,
    RATIO,
    Interval,
    Place,
    mean_interval,
    median_interval,
    places,
    ratio_interval,
)
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
        yield from _split(run, component, where)
        yield from _nonnormal(run, component, where)
        if RATIO in run.metric_names and (ends := _ends(run, RATIO, component)):
            change = _growth(*ends)
            if change.excludes(1.0):
                more = "more" if change.value < 1 else "less"
                yield f"One direction stands out {more} at the end: σ₂/σ₁ is {change} times that of the first layer."


def _split(run: Run, component: str, where: str) -> Iterator[str]:
    """Say which of attention and MLP adds more to the first exponent at the end of a path, paired by sample."""
    names = [f"lyapunov_{part}_1" for part in ("attn", "mlp")]
    if not {*names} <= {*run.metric_names}:
        return
    last = [found[1].values for name in names if (found := _ends(run, name, component))]
    if len(last) < len(names) or not mean_interval(last[1] - last[0], fewest=FEWEST).excludes(0.0):
        return
    attention, mlp = (mean_interval(values, fewest=FEWEST) for values in last)
    more = "the MLPs" if mlp.value > attention.value else "attention"
    yield (
        f"Of that exponent of the {where} attention adds {attention} and the MLPs {mlp} nats a layer (means): {more} "
        "the more."
    )


def _nonnormal(run: Run, component: str, where: str) -> Iterator[str]:
    """Say how much of the growth at the end of a path is gone where its blocks are made normal."""
    if "nonnormal_growth" not in run.metric_names or (ends := _ends(run, "nonnormal_growth", component)) is None:
        return
    gone = mean_interval(ends[1].values, fewest=FEWEST)
    if not gone.excludes(0.0):
        return
    normal = next(place.values for place in places(run, "normal_finite_time_1") if place[:2] == ends[1][:2])
    whole = float(np.nanmean(normal)) + gone.value
    share = f": {gone.value / whole:.0%} of the growth is due to non-normality" if 0 < gone.value < whole else ""
    yield (
        f"With the same eigenvalues and every block made normal, the {where} grows by {np.nanmean(normal):.3g} nats a "
        f"layer at most, {gone} less{share}."
    )


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
