"""What was found of Jacobians: gains, how far they hold, and their eigenvalues beside those of rotated ones."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.axes import STEPS
from jacspec.report.findings import (
    FEWEST,
    Interval,
    Place,
    extremes,
    median_interval,
    medians_of,
    places,
    sample_findings,
)
from jacspec.report.labels import component_words
from jacspec.runs import Run
from jacspec.runs.files import REASON
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.studies.jacobian.claims import claim_findings

RADIUS = "linearity_radius"
COLLAPSING = {
    "rank_one_distance": "The distance of a sample's tokens from rank one, a share of their norm,",
    "attention_stable_rank": "The stable rank of attention over the tokens of a sample",
}
LINEAR = "linear along v₁"
"""How the reason begins where a Jacobian is not off by a tenth at any step."""


def jacobian_findings(run: Run) -> Iterator[str]:
    """Say what `sample_findings` does, how far Jacobians hold, and how eigenvalues compare with rotated ones.

    Samples of a layer share its weights, and with them how its singular vectors meet: were these random, the samples
    would be one draw more than many. So it is their median that is placed among single draws, by Student's t of one
    further value.
    """
    gains = list(sample_findings(run))
    yield from gains[:3]
    yield from _reach(run)  # among the first: a gain without its reach misleads
    yield from gains[3:]
    yield from claim_findings(run)
    yield from _collapse(run)
    if "rotated_radius" in run.metric_names:
        yield from _radii(run)
        yield from _shares(run)
    if "kreiss_constant" in run.metric_names:
        yield from _kreiss(run)


def _reach(run: Run) -> Iterator[str]:
    """Say of each component how far its Jacobian holds along v₁, and where least."""
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


def _collapse(run: Run) -> Iterator[str]:
    """Say how far the tokens of a sample are from rank one where they are nearest to it and farthest."""
    for metric, what in COLLAPSING.items():
        if metric in run.metric_names and (found := extremes([each for each in places(run, metric) if _known(each)])):
            (far, most), (near, least) = found
            yield f"{what} is smallest at {near}, {least}, and largest at {far}, {most}."


def _known(place: Place) -> bool:
    return bool(np.isfinite(place.values).all())


def at_least(run: Run) -> list[Place]:
    """Collect the radii, with the longest step that was tried where the branch is linear as far as that."""
    linear = run.metrics[REASON].astype(str).str.contains(LINEAR, regex=False)
    rows = run.metrics.assign(**{RADIUS: run.metrics[RADIUS].where(~linear, STEPS[-1])})
    grouped = rows.groupby(["layer", "component"], sort=False)[RADIUS]
    return [Place(int(layer), str(component), group.to_numpy(np.float64)) for (layer, component), group in grouped]


def _percent(interval: Interval) -> str:
    return f"{interval.over(0.01)} %"


class Beside(NamedTuple):
    """The median of a component of a layer, the mean of the draws, and the p-value of the one among the others."""

    place: Place
    median: float
    chance: float
    p_value: float


def _radii(run: Run) -> Iterator[str]:
    found = _compare(run, "eigenvalue_radius", "rotated_radius", "ring_outer")
    above, below = _beyond_chance(found)
    said = []
    for word, beyond in (("larger", above), ("smaller", below)):
        if beyond:
            most = max(beyond, key=lambda each: abs(np.log(each.median / each.chance)))
            times = f"{most.median / most.chance:.3g} times in {most.place}"
            said.append(f"{word} in {len(beyond)} of {len(found)} components of layers (most so {times})")
    if said:
        yield (
            "Beside the same singular values under random rotations, the largest eigenvalue is "
            f"{' and '.join(said)}, beyond the spread of single rotations."
        )
    elif found:
        yield "No largest eigenvalue is beyond what random rotations of the same singular values give."


def _shares(run: Run) -> Iterator[str]:
    found = _compare(run, "ring_share", "rotated_ring_share")
    _, below = _beyond_chance(found)
    for component in dict.fromkeys(each.place.component for each in below):
        own = [each for each in found if each.place.component == component]
        fewer = sum(each.place.component == component for each in below)
        median, chance = (float(np.mean(values)) for values in zip(*(each[1:3] for each in own), strict=True))
        yield (
            f"Of the eigenvalues of {component_words(component)} {median:.0%} are in the null ring of the singular "
            f"values, {chance:.0%} after random rotations: fewer in {fewer} of {len(own)} layers."
        )


def _kreiss(run: Run) -> Iterator[str]:
    for component in run.components:
        own = [place for place in places(run, "kreiss_constant") if place.component == component]
        means = [(float(np.nanmean(place.values)), place) for place in own if np.isfinite(place.values).any()]
        if means:
            (least, calm), (most, wild) = (end(means, key=lambda each: each[0]) for end in (min, max))
            yield (
                f"Some power of the {component_words(component)} exceeds that of its largest eigenvalue by the Kreiss "
                f"constant at least: {least:.3g} in layer {calm.layer}, {most:.3g} in layer {wild.layer}, the least "
                "and the most of the means over the samples drawn."
            )


def _compare(run: Run, own: str, rotated: str, unit: str = "") -> list[Beside]:
    """Place the median of each component of each layer among the draws; sizes by their logarithms over `unit`."""
    found = []
    for place, draws in zip(places(run, own), places(run, rotated), strict=True):
        values, chance = place.values, draws.values
        if unit:
            scale = next(each.values for each in places(run, unit) if each[:2] == place[:2])
            with np.errstate(divide="ignore", invalid="ignore"):
                values, chance = np.log(values / scale), np.log(chance / scale)
        values, chance = values[np.isfinite(values)], chance[np.isfinite(chance)]
        if min(values.size, chance.size) >= FEWEST:
            median, mean = float(np.median(values)), float(chance.mean())
            p_value = _among(median, chance)
            if unit:
                median, mean = np.exp([median, mean]).tolist()
            found.append(Beside(place, median, mean, p_value))
    return found


def _among(value: float, draws: Float[np.ndarray, " draw"]) -> float:
    """Return the two-sided p-value of one value as one more of some normal draws."""
    from scipy.special import stdtr

    spread = draws.std(ddof=1) * (1 + 1 / draws.size) ** 0.5
    return float(2 * stdtr(draws.size - 1, -abs(value - draws.mean()) / spread)) if spread > 0 else np.nan


def _beyond_chance(found: list[Beside]) -> tuple[list[Beside], list[Beside]]:
    """Return those above and below the draws, adjusted for as many tests."""
    adjusted = adjust_for_many(np.array([each.p_value for each in found]))
    sure = [each for each, q in zip(found, adjusted, strict=True) if q < SURE]
    return [each for each in sure if each.median > each.chance], [each for each in sure if each.median < each.chance]
