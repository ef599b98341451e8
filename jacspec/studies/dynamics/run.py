"""`task=dynamics`: the revisions of one training run, every value against the step, and what appears first."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.report.labels import words_of
from jacspec.runs import SPECTRA
from jacspec.runs.several import STATISTICS, LabelledRun, Layer, can_pair, describe, layers_of, mismatches
from jacspec.runs.tables import summarise
from jacspec.spectra.significance import SURE, adjust_for_many, check_draws, compare_means, noise_floor
from jacspec.studies.dynamics import ONSETS_FILE, DynamicsOptions
from jacspec.studies.inputs import Inputs
from jacspec.studies.run import Findings, run_over_runs

if TYPE_CHECKING:
    import xarray


def run_dynamics(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write every value of all revisions by training step, and the onsets of their changes, into `folder`."""
    run_over_runs(config, folder, console, inputs, _follow)


def _follow(config: Config, runs: Sequence[LabelledRun], names: Sequence[str]) -> Findings:
    options = config.own(DynamicsOptions)
    check_draws(options.draws, "dynamics.draws")
    if not 0 <= options.least_change < 1:
        raise JacspecError(f"dynamics.least_change={options.least_change} is no share. Accepted: 0 up to 1, as 0.1.")
    by_step = order_by_step(runs, options.final_step)
    onsets = onset_rows(by_step, names, least_change=options.least_change, draws=options.draws, seed=config.seed)
    return Findings(
        str(next(iter(by_step.values())).run.provenance["identity"]["checkpoint"]["name"]),
        {"metrics.csv": (STEP_COLUMNS, step_rows(by_step, names)), ONSETS_FILE: (ONSET_COLUMNS, onsets)},
        {SPECTRA: bytes(step_dataset(by_step).to_netcdf(engine="scipy"))},
        {"steps": list(by_step), "warning": " ".join(mismatches(list(by_step.values())))},
    )


STEP_COLUMNS = ("step", "layer", "component", "metric", *STATISTICS)
ONSET_COLUMNS = (
    *("component", "layer", "metric", "n", "first", "last", "relative_change", "onset", "onset_on", "extreme"),
    "extreme_step",
    *("p_value", "q_value", "floor", "appears"),
)
MISSING_STEP = "Type dynamics.final_step=N where it is the last one of its training."
PROFILES = ("overlap", "relative_variance")


def order_by_step(runs: Sequence[LabelledRun], final_step: int | None) -> dict[int, LabelledRun]:
    """Order revisions of one model by training step; one without a revision is at `final_step`.

    **Raises:** `JacspecError` where a step is not known or is there twice, or there are fewer than two.
    """
    found: dict[int, LabelledRun] = {}
    models = sorted({str(describe(each.run)["model"]) for each in runs})
    if len(models) > 1:
        raise JacspecError(f"The runs are of several models: {', '.join(models)}. Type task=compare for those.")
    for each in runs:
        revision = describe(each.run)["revision"]
        step = final_step if revision is None else step_of(revision)
        if step is None:
            raise JacspecError(
                f"{each.run.folder} is of revision {revision}: its training step is not known. " + MISSING_STEP
            )
        if step in found:
            raise JacspecError(
                f"Step {step} is there twice: {found[step].run.folder} and {each.run.folder}. Give one run a step."
            )
        found[step] = each
    if len(found) < 2:
        raise JacspecError("Training dynamics need runs of two revisions or more, as from model.revision=step0,step64.")
    return dict(sorted(found.items()))


def step_rows(runs: Mapping[int, LabelledRun], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Sum up every revision by layer, component and metric, a row each."""
    for step, each in runs.items():
        for found in layers_of(each.run, names):
            for name, values in zip(names, found.values.T, strict=True):
                yield (step, found.layer, found.component, name, *summarise(values))


def onset_rows(
    runs: Mapping[int, LabelledRun], names: Sequence[str], *, least_change: float, draws: int, seed: int
) -> list[tuple[Any, ...]]:
    """Say of every metric of every layer when it changed, a row each; those without a change are left out."""
    steps = list(runs)
    ends = [runs[steps[0]], runs[steps[-1]]]
    scales = frozenset(name for name in names if (words := words_of(ends[0].run, name)) and words.scale)
    by_step = [{(each.component, each.layer): each for each in layers_of(run.run, names)} for run in runs.values()]
    rows: list[tuple[Any, ...]] = []
    for place in by_step[0]:
        if all(place in layers for layers in by_step):
            curve = [layers[place] for layers in by_step]
            pair = can_pair(*ends)
            rows += _rows_of_layer(curve, steps, names, scales=scales, pair=pair, draws=draws, seed=seed)
    adjusted = adjust_for_many(np.array([row[ONSET_COLUMNS.index("p_value")] for row in rows], np.float64)).tolist()
    return [
        (*row, q, floor, _appears(row, q, floor, least_change)) for (*row, floor), q in zip(rows, adjusted, strict=True)
    ]


def _rows_of_layer(
    curve: Sequence[Layer],
    steps: Sequence[int],
    names: Sequence[str],
    *,
    scales: frozenset[str],
    pair: bool,
    draws: int,
    seed: int,
) -> Iterator[tuple[Any, ...]]:
    first, last = curve[0], curve[-1]
    paired = pair and first.units == last.units
    result = compare_means(first.values, last.values, paired=paired)
    floor = noise_floor(first.values, last.values, paired=paired, draws=draws, seed=seed)
    for place, name in enumerate(names):
        means = np.array([_mean(each.values[:, place]) for each in curve])
        by_ratio = name in scales and bool((means > 0).all())
        onset = find_onset(np.log(means) if by_ratio else means)
        if onset is not None:
            yield (
                *(first.component, first.layer, name, int(np.isfinite(last.values[:, place]).sum())),
                *(float(means[0]), float(means[-1]), float((means[-1] - means[0]) / np.abs(means[[0, -1]]).max())),
                *(steps[onset.onset], "ln" if by_ratio else "linear", float(means[onset.extreme])),
                *(steps[onset.extreme], float(result.p_value[place]), float(floor[place])),
            )


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _appears(row: Sequence[Any], q_value: float, floor: float, least_change: float) -> int:
    """Decide whether a change counts: large enough and, where enough units tell, more than noise."""
    values = dict(zip(ONSET_COLUMNS, row, strict=False))
    sure = not np.isfinite(q_value) or (q_value < SURE and abs(values["last"] - values["first"]) > floor)
    return int(sure and abs(values["relative_change"]) >= least_change)


def step_dataset(runs: Mapping[int, LabelledRun]) -> "xarray.Dataset":
    """Label the spectra by step: medians over samples (or the heads of a layer), `singular_values` (step, place, k).

    `place` counts pairs of component and layer; runs of `task=overlap` also give their profiles.
    """
    import xarray

    tables = [_spectra(each) for each in runs.values()]
    places = [place for place in tables[0] if all(place in table for table in tables)]
    names = list(tables[0][places[0]])
    longest = max(values.size for table in tables for place in places for values in table[place].values())
    variables: dict[str, Any] = {}
    for name in names:
        values = np.full((len(runs), len(places), longest), np.nan)
        for row, table in enumerate(tables):
            for column, place in enumerate(places):
                values[row, column, : table[place][name].size] = table[place][name]
        variables[name] = (("step", "place", "k"), values)
    coordinates: dict[str, Any] = {"step": list(runs), "k": np.arange(1, longest + 1)}
    coordinates["component"] = ("place", [component for component, _ in places])
    coordinates["layer"] = ("place", [layer for _, layer in places])
    return xarray.Dataset(variables, coordinates)


def _spectra(labelled: LabelledRun) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Collect the median spectrum, and profiles where there are any, of each component (or role) and layer."""
    dataset = labelled.run.dataset
    names = ["singular_values", *(name for name in PROFILES if name in dataset)]
    found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    if "sample" in dataset.dims:
        for component in dataset["component"].values.tolist():
            for layer in dataset["layer"].values.tolist():
                own = dataset.sel(component=component, layer=layer)
                if np.isfinite(own["singular_values"].values).any():
                    found[component, layer] = {name: np.median(own[name].values, axis=0) for name in names}
        return found
    pairs = list(zip(dataset["role"].values.tolist(), dataset["layer"].values.tolist(), strict=True))
    for role, layer in dict.fromkeys(pairs):
        rows = [row for row, pair in enumerate(pairs) if pair == (role, layer)]
        if layer >= 0:
            found[role, layer] = {name: np.median(dataset[name].values[rows], axis=0) for name in names}
    return found


STEP = re.compile(r"(?:^|[^a-z])step[-_]?(\d+)|^(\d+)$", re.IGNORECASE)
KEPT = 0.5
"""The share of the whole change that is there from the onset on."""


class Onset(NamedTuple):
    """How one value moves over training: its first and last value, where the onset is, and its extreme.

    `onset` and `extreme` are places among the steps; the extreme is where the value is farthest from its first.
    """

    first: float
    last: float
    onset: int
    extreme: int


def step_of(revision: Any) -> int | None:
    """Read the training step out of a revision's name (`step1000`, `stage1-step150-tokens1B`, `1000`)."""
    found = STEP.search(str(revision)) if revision is not None else None
    return int(found[1] or found[2]) if found else None


def find_onset(curve: Float[np.ndarray, " step"]) -> Onset | None:
    """Find where a curve has made half of its change for good; None where a value is missing or nothing changes.

    Of what is a scale the curve is its logarithm: half of a growth by 50 is one by 7.
    """
    change = float(curve[-1] - curve[0])
    if not np.isfinite(curve).all() or change == 0:
        return None
    there = (curve - curve[0]) / change >= KEPT
    onset = int(np.flatnonzero(~there)[-1]) + 1
    return Onset(float(curve[0]), float(curve[-1]), onset, int(np.argmax(np.abs(curve - curve[0]))))
