"""What the profile over depth is, a row each: a U, phases, and attention beside the MLP of its own layer.

The claims of "Analyzing Spectral Information of Transformers", 5.2 and 5.3, as tables of a run. Ratios are geometric
means over samples with Student's interval of 95 %.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.axes import LayerResult
from jacspec.report.findings import FEWEST, FEWEST_LAYERS, GAIN, RATIO, ratio_interval
from jacspec.spectra.change_points import find_phases
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.jacobian import BRANCHES_FILE, DEPTH_FILE
from jacspec.studies.work import Table

DEPTH_COLUMNS = (
    *("component", "layers", "samples", "first", "first_low", "first_high", "last", "last_low", "last_high"),
    *("pairs_as_high", "phases", "starts", "starts_low", "starts_high", "explained", "p_order", "p_red_noise"),
)
BRANCH_COLUMNS = ("metric", "stack", "layer", "ratio", "low", "high", "p_value", "q_value")
SEGMENTS = (2, 3)


class Profile(NamedTuple):
    """Logarithms of a metric of one component: a row a layer, a column a sample that has a value in all of them."""

    layers: list[int]
    values: Float[np.ndarray, "layer sample"]


def depth_tables(results: Sequence[LayerResult], *, seed: int) -> dict[str, Table]:
    """Write `depth.csv` and `branches.csv`, each where there is anything to write."""
    gains, ratios = (profiles(results, name) for name in (GAIN, RATIO))
    depth = [row for name, found in gains.items() for row in _depth_rows(name, found, seed)]
    branches = [row for metric, found in ((GAIN, gains), (RATIO, ratios)) for row in _branch_rows(metric, found)]
    tables = {DEPTH_FILE: (DEPTH_COLUMNS, depth), BRANCHES_FILE: (BRANCH_COLUMNS, _adjusted(branches))}
    return {name: (header, rows) for name, (header, rows) in tables.items() if rows}


def profiles(results: Sequence[LayerResult], metric: str) -> dict[str, Profile]:
    """Collect the logarithms of a metric by component; layers without a value, as branches of zeros, are left out."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for result in results:
        for component, metrics in result.metrics.items():
            values = metrics.get(metric, np.zeros(0))
            if np.isfinite(values[values > 0]).any():
                logs = np.log(np.where(values > 0, values, np.nan).astype(np.float64))
                found.setdefault(component, {})[result.layer] = logs
    return {
        component: Profile([*sorted(own)], np.stack([own[each] for each in sorted(own)]))
        for component, own in found.items()
    }


def _depth_rows(component: str, found: Profile, seed: int) -> Iterator[tuple[Any, ...]]:
    values = _whole(found.values)
    layers, samples = values.shape
    if layers < FEWEST_LAYERS or samples < FEWEST:
        return
    inner = values[1:-1].mean(axis=0)
    ends = [each for end in (values[0], values[-1]) for each in ratio_interval(end - inner)]
    for segments in SEGMENTS:
        cut = find_phases(values, segments, seed=seed)
        starts = (" ".join(str(found.layers[place]) for place in each) for each in (cut.starts, cut.low, cut.high))
        levels = (cut.explained, cut.p_order, cut.p_red_noise)
        yield (component, layers, samples, *ends, _pairs_as_high(values.mean(axis=1)), segments, *starts, *levels)


def _pairs_as_high(profile: Float[np.ndarray, " layer"]) -> float:
    """Return the share of all pairs of layers whose sum is that of the first and the last at least."""
    first, second = np.triu_indices(len(profile), 1)
    return float((profile[first] + profile[second] >= profile[0] + profile[-1] - 1e-12).mean())


def _branch_rows(metric: str, found: Mapping[str, Profile]) -> Iterator[list[Any]]:
    """Compare the MLP of each layer with its attention, paired by sample."""
    for stack in ("", "encoder.", "decoder."):
        attention, mlp = found.get(f"{stack}attn"), found.get(f"{stack}mlp")
        if attention is None or mlp is None:
            continue
        for layer in sorted({*attention.layers} & {*mlp.layers}):
            change = mlp.values[mlp.layers.index(layer)] - attention.values[attention.layers.index(layer)]
            change = change[np.isfinite(change)]
            if change.size >= FEWEST:
                yield [metric, stack.rstrip("."), layer, *ratio_interval(change), _p_value(change)]


def _p_value(change: Float[np.ndarray, " sample"]) -> float:
    from scipy.special import stdtr

    error = change.std(ddof=1) / change.size**0.5
    return float(2 * stdtr(change.size - 1, -abs(change.mean()) / error)) if error > 0 else np.nan


def _adjusted(rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    adjusted = adjust_for_many(np.array([row[-1] for row in rows], np.float64)).tolist()
    return [(*row, q) for row, q in zip(rows, adjusted, strict=True)]


def _whole(values: Float[np.ndarray, "layer sample"]) -> Float[np.ndarray, "layer kept"]:
    return values[:, np.isfinite(values).all(axis=0)]
