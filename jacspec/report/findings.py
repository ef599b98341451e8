"""What was found in a run over samples, in a few sentences made from its numbers.

Each gives an interval of 95 % over the samples, and says nothing that the interval does not support. Of a median it is
that of the order statistics, which holds whatever the distribution (Conover 1999, 3.2); of a ratio that of Student's t
for the mean logarithm, paired by sample.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.report.labels import component_words, number_format
from jacspec.runs import Run

LEVEL = 0.95
FEWEST = 6
"""Samples below which no interval of a median has a level of 95 %."""
FEWEST_LAYERS = 6
"""Layers below which thirds of the depth are too few to be compared."""

GAIN, RATIO = "spectral_radius", "decay_ratio"


class Interval(NamedTuple):
    """An estimate and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        write = number_format(self, digits=(3,))
        return f"{write(self.value)} ({write(self.low)} to {write(self.high)})"


class Place(NamedTuple):
    """The values of one component of one layer, a sample each, NaN where there is none."""

    layer: int
    component: str
    values: Float[np.ndarray, " sample"]

    def __str__(self) -> str:
        return f"the {component_words(self.component)} of layer {self.layer}"


def sample_findings(run: Run) -> list[str]:
    """Say where the gain and the concentration of the Jacobians are largest and smallest, and how they vary in depth.

    Empty where the run has neither metric, or too few samples for intervals.
    """
    found = list(_gains(run)) if GAIN in run.metric_names else []
    if RATIO in run.metric_names:
        found += _concentration(run)
    if found and (missed := run.provenance.get("not_converged")):
        found.append(f"{len(missed)} spectra did not reach the accuracy asked for (engine.tolerance).")
    return found


def median_interval(values: Float[np.ndarray, " sample"]) -> Interval:
    r"""Return the median and the order statistics between which it lies with 95 %, whatever the distribution.

    With $X \sim \mathrm{Bin}(n, 1/2)$ the r-th smallest and the r-th largest of n values, r the largest with
    $P(X < r) \le 0.025$. NaN below `FEWEST` values.
    """
    from scipy.special import bdtr

    ordered = np.sort(values[np.isfinite(values)])
    n = ordered.size
    if n < FEWEST:
        return Interval(float(np.median(ordered)) if n else np.nan, np.nan, np.nan)
    ranks = np.arange(1, n // 2 + 1)
    rank = int(ranks[bdtr(ranks - 1.0, n, 0.5) <= (1 - LEVEL) / 2].max())
    return Interval(float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[n - rank]))


def ratio_interval(logarithms: Float[np.ndarray, " sample"]) -> Interval:
    """Return the geometric mean of ratios, given their logarithms, with Student's interval; NaN below `FEWEST`."""
    from scipy.special import stdtrit

    known = logarithms[np.isfinite(logarithms)]
    if known.size < FEWEST:
        return Interval(np.nan, np.nan, np.nan)
    mean, error = known.mean(), known.std(ddof=1) / known.size**0.5
    reach = stdtrit(known.size - 1, 0.5 + LEVEL / 2) * error
    return Interval(float(np.exp(mean)), float(np.exp(mean - reach)), float(np.exp(mean + reach)))


def _places(run: Run, metric: str) -> list[Place]:
    rows = run.metrics.groupby(["layer", "component"], sort=False)[metric]
    return [Place(int(layer), str(component), group.to_numpy(np.float64)) for (layer, component), group in rows]


def _medians(places: list[Place]) -> list[tuple[Place, Interval]]:
    """Order places by their median, the largest first, with its interval; those without one are left out."""
    known = [(place, median_interval(place.values)) for place in places]
    return sorted((each for each in known if np.isfinite(each[1].low)), key=lambda each: -each[1].value)


def _gains(run: Run) -> Iterator[str]:
    places = _places(run, GAIN)
    medians = _medians(places)
    if len(medians) > 1:
        (top, most), (bottom, least) = medians[0], medians[-1]
        yield f"The gain ρ is largest in {top}, median {most}, and smallest in {bottom}, {least}."
    elif medians:
        yield f"The gain ρ of {medians[0][0]} has the median {medians[0][1]}."
    above = sum(interval.low > 1 for _, interval in medians)
    below = sum(interval.high < 1 for _, interval in medians)
    if medians:
        yield (
            f"Of {len(places)} components of layers {above} amplify the direction that they amplify most (ρ above 1), "
            f"{below} shrink every direction (ρ below 1)"
            + (f"; of {left} the interval holds 1." if (left := len(places) - above - below) else ".")
        )
    yield from _branches(places)
    yield from _depth(places)


def _logarithms(places: list[Place], component: str) -> Float[np.ndarray, "layer sample"]:
    own = sorted((place for place in places if place.component == component), key=lambda place: place.layer)
    with np.errstate(divide="ignore"):
        return np.log(np.array([np.where(place.values > 0, place.values, np.nan) for place in own]))


def _branches(places: list[Place]) -> Iterator[str]:
    """Compare attention and MLP of the same layers, averaged over layers, paired by sample."""
    components = {place.component for place in places}
    for prefix in ("", "encoder.", "decoder."):
        attention, mlp = f"{prefix}attn", f"{prefix}mlp"
        if not {attention, mlp} <= components:
            continue
        ratio = ratio_interval((_logarithms(places, mlp) - _logarithms(places, attention)).mean(axis=0))
        if ratio.low > 1 or ratio.high < 1:
            yield (
                f"Over all layers the gain of the {component_words(mlp)} is {ratio} times that of "
                f"{component_words(attention)} (geometric mean)."
            )


def _depth(places: list[Place]) -> Iterator[str]:
    """Compare the first and last third of the layers with the middle third, by component."""
    for component in dict.fromkeys(place.component for place in places):
        logarithms = _logarithms(places, component)
        third = len(logarithms) // 3
        if len(logarithms) < FEWEST_LAYERS:
            continue
        middle, said = logarithms[third : len(logarithms) - third].mean(axis=0), []
        for words, part in (("first", logarithms[:third]), ("last", logarithms[len(logarithms) - third :])):
            ratio = ratio_interval(part.mean(axis=0) - middle)
            if ratio.low > 1 or ratio.high < 1:
                said.append(f"in the {words} {ratio} times")
        if said:
            yield (
                f"Over depth the gain of {component_words(component)} differs between thirds of the layers: "
                f"{' and '.join(said)} that of the middle third."
            )


def _concentration(run: Run) -> Iterator[str]:
    medians = _medians(_places(run, RATIO))
    if len(medians) > 1:
        (flat, most), (steep, least) = medians[0], medians[-1]
        yield (
            f"One direction stands out most in {steep}, where σ₂ is {least} of σ₁, and least in {flat}, where it is "
            f"{most}."
        )
