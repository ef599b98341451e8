"""What was found in a run, in a few sentences from its numbers: what studies share, and those of runs over samples.

Each sentence gives an interval of 95 % or a test at 5 %, adjusted where it is one of many, and says nothing that these
do not support. The interval of a median is that of the order statistics, which holds whatever the distribution
(Conover 1999, 3.2); that of a mean, as of a ratio's logarithm, is Student's t.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.report.labels import component_words, number_format
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many

if TYPE_CHECKING:
    import pandas

LEVEL = 0.95
FEWEST = 6
"""Samples below which no interval of a median has a level of 95 %."""
FEWEST_LAYERS = 6
"""Layers below which thirds of the depth are too few to be compared, and no order of them is surprising."""
FEWEST_SEEDS = 3
"""Repeats below which Student's interval of a mean is too wide to say anything."""

FUSED_WORDS = ", fused ones by their parts"
"""What is said behind a number of matrices where `count_once` left some out."""

GAIN, RATIO = "spectral_radius", "decay_ratio"


class Interval(NamedTuple):
    """An estimate and its interval of 95 %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        write = number_format(self, digits=(3,))
        return f"{write(self.value)} ({write(self.low)} to {write(self.high)})"

    def excludes(self, value: float) -> bool:
        """Tell whether the interval is there and does not hold a value."""
        return self.low > value or self.high < value

    def over(self, other: float) -> "Interval":
        """Divide by a number."""
        return Interval(*(value / other for value in self))


class Place(NamedTuple):
    """The values of one component of one layer, a sample each, NaN where there is none."""

    layer: int
    component: str
    values: Float[np.ndarray, " sample"]

    def __str__(self) -> str:
        return f"the {component_words(self.component)} of layer {self.layer}"


def sample_findings(run: Run) -> Iterator[str]:
    """Say where the gain and the concentration of the Jacobians are largest and smallest, and how they vary in depth.

    Nothing where the run has neither metric, or too few samples for intervals.
    """
    if missed := run.provenance.get("not_converged"):
        yield f"{len(missed)} spectra did not reach the accuracy asked for (engine.tolerance)."
    if GAIN in run.metric_names:
        yield from _gains(run)
    if RATIO in run.metric_names and (found := extremes(places(run, RATIO))):
        (flat, most), (steep, least) = found
        yield (
            f"One direction stands out most in {steep}, where σ₂ is {least} of σ₁, and least in {flat}, where it is "
            f"{most}."
        )


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


def mean_interval(values: Float[np.ndarray, " repeat"], *, fewest: int = FEWEST_SEEDS) -> Interval:
    """Return the mean with Student's interval; NaN of fewer values than `fewest`."""
    from scipy.special import stdtrit

    known = values[np.isfinite(values)]
    if known.size < fewest:
        return Interval(float(known.mean()) if known.size else np.nan, np.nan, np.nan)
    mean, error = float(known.mean()), float(known.std(ddof=1)) / known.size**0.5
    reach = float(stdtrit(known.size - 1, 0.5 + LEVEL / 2)) * error
    return Interval(mean, mean - reach, mean + reach)


def ratio_interval(logarithms: Float[np.ndarray, " sample"], *, fewest: int = FEWEST) -> Interval:
    """Return the geometric mean of ratios, given their logarithms, with Student's interval; NaN below `fewest`."""
    return Interval(*np.exp(mean_interval(logarithms, fewest=fewest)).tolist())


def places(run: Run, metric: str) -> list[Place]:
    """Collect the values of a metric by layer and component, the samples in their order."""
    rows = run.metrics.groupby(["layer", "component"], sort=False)[metric]
    return [Place(int(layer), str(component), group.to_numpy(np.float64)) for (layer, component), group in rows]


def medians_of(found: Sequence[Place]) -> list[tuple[Place, Interval]]:
    """Order places by their median, the largest first, with its interval; those without one are left out."""
    known = [(place, median_interval(place.values)) for place in found]
    return sorted((each for each in known if np.isfinite(each[1].low)), key=lambda each: -each[1].value)


def extremes(found: Sequence[Place]) -> tuple[tuple[Place, Interval], tuple[Place, Interval]] | None:
    """Return the places of the largest and the smallest median; None where places may all be alike.

    They are not where Friedman's test, samples in blocks, has p below `SURE`.
    """
    medians = medians_of(found)
    if len(medians) < 3:
        return None
    values = np.array([place.values for place, _ in medians])
    values = values[:, np.isfinite(values).all(axis=0)]
    if values.shape[1] < FEWEST or (np.ptp(values, axis=0) == 0).all():
        return None
    return (medians[0], medians[-1]) if friedman_p_value(values) < SURE else None


def friedman_p_value(values: Float[np.ndarray, "place sample"]) -> float:
    """Test whether places are alike, samples in blocks, ties shared (Friedman 1937; Conover 1999, 5.8).

    As `scipy.stats.friedmanchisquare`, without the second of processor time that importing it takes.
    """
    import pandas
    from scipy.special import chdtrc

    k = len(values)
    ranks = pandas.DataFrame(values).rank().to_numpy() - (k + 1) / 2
    statistic = (k - 1) * np.square(ranks.sum(axis=1)).sum() / np.square(ranks).sum()
    return float(chdtrc(k - 1, statistic))


def more_than_chance(count: int, of: int, share: float) -> bool:
    """Tell whether so many of `of` are more than chance has in one of twenty draws, `share` being that of chance."""
    from scipy.special import bdtrc

    return bool(count > 0 and bdtrc(count - 1, of, share) < SURE)


def say_trend(what: str, by_name: Mapping[str, "pandas.Series"]) -> Iterator[str]:
    """Say in which of several curves over the layers `what` rises or falls, by Kendall's τ; nothing where in none.

    **Arguments:** `by_name`, values indexed by layer, which may be there several times: their median counts.
    """
    from scipy.stats import kendalltau

    found: dict[str, tuple[float, float]] = {}
    for name, values in by_name.items():
        medians = values.groupby(level=0).median().dropna()
        if len(medians) >= FEWEST_LAYERS and medians.nunique() > 1:
            test = kendalltau(medians.index, medians)
            found[name] = float(test.statistic), float(test.pvalue)
    sure = adjust_for_many(np.array([p for _, p in found.values()])) < SURE
    said = [
        f"{'rises' if tau > 0 else 'falls'} in {name} (Kendall's τ {tau:+.2f}, p = {p:.1g})"
        for (name, (tau, p)), counts in zip(found.items(), sure, strict=True)
        if counts
    ]
    if said:
        yield f"From the first layer to the last {what} {', '.join(said)}."


class Change(NamedTuple):
    """What became of a value, over seeds, and its q-value among all changes of the table."""

    key: tuple[object, ...]
    interval: Interval
    q_value: float

    @property
    def sure(self) -> bool:
        """Tell whether it is more than the spread of seeds."""
        return self.q_value < SURE


def changes_by_seed(run: Run, column: str, keys: Sequence[str]) -> list[Change]:
    """Compare every experiment with the one of its seed from which nothing was removed (`order` none).

    **Arguments:** `keys`, what tells experiments apart beside the seed; those that the unmodified ones have too, as a
    scale, are matched.
    """
    from scipy.special import stdtr

    table, same = run.metrics, [*(name for name in keys if name not in ("order", "group")), "seed"]
    whole = table[table["order"] == "none"].set_index(same)[column]
    found: list[tuple[tuple[object, ...], Interval, float]] = []
    for key, rows in table[table["order"] != "none"].groupby([*keys], sort=False):
        change = (rows.set_index(same)[column] - whole).dropna().to_numpy(np.float64)
        interval = mean_interval(change)
        error = change.std(ddof=1) / change.size**0.5 if change.size >= FEWEST_SEEDS else 0.0
        p_value = 2 * stdtr(change.size - 1, -abs(interval.value) / error) if error > 0 else np.nan
        found.append((key, interval, float(p_value)))
    adjusted = adjust_for_many(np.array([p for *_, p in found])).tolist()
    return [Change(key, interval, q) for (key, interval, _), q in zip(found, adjusted, strict=True)]


def _gains(run: Run) -> Iterator[str]:
    found = places(run, GAIN)
    medians = medians_of(found)
    if ends := extremes(found):
        (top, most), (bottom, least) = ends
        yield f"The gain ρ is largest in {top}, median {most}, and smallest in {bottom}, {least}."
    elif len(medians) > 2:
        yield f"The gain ρ of {len(medians)} components of layers does not differ beyond its spread over samples."
    else:
        yield from (f"The gain ρ of {place} has the median {interval}." for place, interval in medians)
    above = sum(interval.low > 1 for _, interval in medians)
    below = sum(interval.high < 1 for _, interval in medians)
    if medians:
        yield (
            f"Of {len(found)} components of layers {above} amplify the direction that they amplify most (ρ above 1), "
            f"{below} shrink every direction (ρ below 1)"
            + (f"; of {left} the interval holds 1." if (left := len(found) - above - below) else ".")
        )
    yield from _branches(found)
    yield from _depth(found)


def _logarithms(found: list[Place], component: str) -> Float[np.ndarray, "layer sample"]:
    own = sorted((place for place in found if place.component == component), key=lambda place: place.layer)
    with np.errstate(divide="ignore"):
        return np.log(np.array([np.where(place.values > 0, place.values, np.nan) for place in own]))


def _branches(found: list[Place]) -> Iterator[str]:
    """Compare attention and MLP of the same layers, averaged over layers, paired by sample."""
    components = {place.component for place in found}
    for prefix in ("", "encoder.", "decoder."):
        attention, mlp = f"{prefix}attn", f"{prefix}mlp"
        if not {attention, mlp} <= components:
            continue
        ratio = ratio_interval((_logarithms(found, mlp) - _logarithms(found, attention)).mean(axis=0))
        if ratio.excludes(1.0):
            yield (
                f"Over all layers the gain of the {component_words(mlp)} is {ratio} times that of "
                f"{component_words(attention)} (geometric mean)."
            )


def _depth(found: list[Place]) -> Iterator[str]:
    """Compare the first and last third of the layers with the middle third, by component."""
    for component in dict.fromkeys(place.component for place in found):
        logarithms = _logarithms(found, component)
        third = len(logarithms) // 3
        if len(logarithms) < FEWEST_LAYERS:
            continue
        middle, said = logarithms[third : len(logarithms) - third].mean(axis=0), []
        for words, part in (("first", logarithms[:third]), ("last", logarithms[len(logarithms) - third :])):
            ratio = ratio_interval(part.mean(axis=0) - middle)
            if ratio.excludes(1.0):
                said.append(f"in the {words} {ratio} times")
        if said:
            yield (
                f"Over depth the gain of {component_words(component)} differs between thirds of the layers: "
                f"{' and '.join(said)} that of the middle third."
            )


def count_once(table: "pandas.DataFrame") -> tuple["pandas.DataFrame", str]:
    """Leave out of a table of matrices the fused ones whose parts are rows too, as `qkv` beside `q`, `k` and `v`.

    They hold the same numbers, so that a count or a test would take these twice. Returns what is left, and the words
    that say so, none where nothing is left out.
    """
    roles = set(table["role"])
    fused = {role for role in roles if role and _parts_of(role) <= roles - {role}}
    kept = table[~table["role"].isin(fused)]
    return kept, FUSED_WORDS if fused else ""


def _parts_of(role: str) -> set[str]:
    """Take a role that names several apart: `decoder.qkv` is decoder.q, decoder.k and decoder.v."""
    stack, dot, own = role.rpartition(".")
    return {f"{stack}{dot}{part}" for part in (own.split("_") if "_" in own else own)}
