"""What was found of Jacobians: their gains, and how far along the direction of greatest gain they hold."""

from collections.abc import Iterator

import numpy as np

from jacspec.axes import STEPS
from jacspec.report.findings import Interval, Place, median_interval, medians_of, sample_findings
from jacspec.report.labels import component_words
from jacspec.runs import Run
from jacspec.runs.files import REASON

RADIUS = "linearity_radius"
LINEAR = "linear along v₁"
"""How the reason begins where a Jacobian is not off by a tenth at any step."""


def jacobian_findings(run: Run) -> Iterator[str]:
    """Say what `sample_findings` says, and of each component how far its Jacobian holds along v₁, and where least."""
    yield from sample_findings(run)
    if RADIUS not in run.metric_names:
        return
    found = at_least(run)
    for component in dict.fromkeys(place.component for place in found):
        own = [place for place in found if place.component == component]
        table = np.array([place.values for place in own])
        table = table[:, np.isfinite(table).all(axis=0)]
        held = median_interval(np.median(table, axis=0) if table.size else np.zeros(0))
        if not np.isfinite(held.low):
            continue
        what = f"Along the direction of greatest gain the Jacobian of the {component_words(component)} holds"
        if held.low >= STEPS[-1]:
            yield f"{what} as far as was tried, up to {100 * STEPS[-1]:g} % of ‖x‖."
            continue
        least, most = medians_of(own)[-1]
        over, where = "samples", ""
        if len(own) > 1:
            over, where = "samples and layers", f"; least in layer {least.layer}, {_percent(most)}"
        yield f"{what} up to {_percent(held)} of ‖x‖, the median over {over}, and is then off by a tenth{where}."


def at_least(run: Run) -> list[Place]:
    """Collect the radii, with the longest step that was tried where the branch is linear as far as that."""
    linear = run.metrics[REASON].astype(str).str.contains(LINEAR, regex=False)
    rows = run.metrics.assign(**{RADIUS: run.metrics[RADIUS].where(~linear, STEPS[-1])})
    grouped = rows.groupby(["layer", "component"], sort=False)[RADIUS]
    return [Place(int(layer), str(component), group.to_numpy(np.float64)) for (layer, component), group in grouped]


def _percent(interval: Interval) -> str:
    return f"{interval.over(0.01)} %"
