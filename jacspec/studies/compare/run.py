"""`task=compare`: several runs of one task beside each other, and how sure their differences are."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.runs.several import TIDY_COLUMNS, LabelledRun, Layer, can_pair, describe, layers_of, mismatches, tidy_rows
from jacspec.spectra.significance import adjust_for_many, check_draws, compare_means, noise_floor
from jacspec.studies.compare import (
    CORRELATIONS_FILE,
    DIFFERENCES_FILE,
    HEAD_COLUMNS,
    HEADS_FILE,
    QUALITY_FILE,
    RUNS_FILE,
    VALUES_FILE,
    CompareOptions,
)
from jacspec.studies.compare.quality import (
    CORRELATION_COLUMNS,
    QUALITY_COLUMNS,
    VALUE_COLUMNS,
    Judgement,
    correlation_rows,
    judge,
    quality_rows,
    value_rows,
)
from jacspec.studies.compare.side_by_side import matrix_profiles
from jacspec.studies.inputs import Inputs
from jacspec.studies.run import Findings, run_over_runs


def run_compare(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Write the tidy table of all runs and their differences from one of them into `folder`."""
    run_over_runs(config, folder, console, inputs, functools.partial(_compare, inputs))


def _compare(inputs: Inputs, config: Config, runs: Sequence[LabelledRun], names: Sequence[str]) -> Findings:
    options = config.own(CompareOptions)
    check_draws(options.draws, "compare.draws")
    if not 0 <= options.against < len(runs):
        listed = "; ".join(f"{number}: {each.label}" for number, each in enumerate(runs))
        raise JacspecError(f"compare.against={options.against} is not a run. Accepted: {listed}.")
    if len(runs) < 2:
        raise JacspecError(f"{runs[0].run.folder} alone compares with nothing. Give two runs or more.")
    judgement = judge(config, inputs, runs)
    differences = functools.partial(difference_rows, runs, names, options.against)
    of_heads = {HEADS_FILE: (HEAD_COLUMNS, head_rows(runs))} if {*HEAD_COLUMNS[4:]} <= {*names} else {}
    return Findings(
        _name_models(runs),
        {
            RUNS_FILE: (RUN_COLUMNS, compared_rows(runs, options.against)),
            "metrics.csv": (TIDY_COLUMNS, tidy_rows(runs, names)),
            DIFFERENCES_FILE: (DIFFERENCE_COLUMNS, differences(draws=options.draws, seed=config.seed)),
            **of_heads,
            **({} if judgement is None else _quality_tables(judgement, runs, names, options.draws, config.seed)),
        },
        matrix_profiles(runs),
        {
            "warning": " ".join([*mismatches(runs), *(judgement.warnings if judgement else ())]),
            **({"quality": {name: getattr(judgement, name) for name in QUALITY_FACTS}} if judgement else {}),
        },
    )


def _quality_tables(
    judgement: Judgement, runs: Sequence[LabelledRun], names: Sequence[str], draws: int, seed: int
) -> dict[str, tuple[Sequence[str], Sequence[tuple[Any, ...]]]]:
    values = value_rows(judgement, runs, names)
    return {
        QUALITY_FILE: (QUALITY_COLUMNS, list(quality_rows(judgement, runs))),
        VALUES_FILE: (VALUE_COLUMNS, values),
        CORRELATIONS_FILE: (CORRELATION_COLUMNS, correlation_rows(judgement, values, draws=draws, seed=seed)),
    }


def _name_models(runs: Sequence[LabelledRun]) -> str:
    """Name the models of runs, as many as a title holds."""
    names = list(dict.fromkeys(str(describe(each.run)["model"]) for each in runs))
    return ", ".join(names) if len(names) <= NAMED_MODELS else f"{names[0]} and {len(names) - 1} more models"


NAMED_MODELS = 3

QUALITY_FACTS = ("name", "source", "series")

DIFFERENCE_COLUMNS = (
    *("run", "against", "component", "layer", "against_layer", "depth", "metric", "paired", "n", "against_n"),
    *("mean", "against_mean", "difference", "low", "high", "p_value", "q_value", "floor"),
)

RUN_COLUMNS = ("run", "label", "group", "against", "model", "revision", "seed", "precision", "corpus", "folder")


def group_name(labelled: LabelledRun) -> str:
    """Name what a run shares with those that differ from it by their seed alone: its label without the seed."""
    parts = [part for part in labelled.label.split(", ") if not part.startswith("seed=")]
    return ", ".join(parts) or str(describe(labelled.run)["model"])


def references(runs: Sequence[LabelledRun], against: int) -> list[int]:
    """Choose for each run the one it is compared with: of the group of run `against`, the one of its own seed.

    Where that group has no other run of its seed, it is run `against`; that one's reference is itself.
    """
    groups, seeds = [group_name(run) for run in runs], [describe(each.run)["seed"] for each in runs]
    chosen = []
    for number, seed in enumerate(seeds):
        same = [other for other, found in enumerate(seeds) if found == seed and groups[other] == groups[against]]
        chosen.append(next((other for other in same if other != number and number != against), against))
    return chosen


def difference_rows(
    runs: Sequence[LabelledRun], names: Sequence[str], against: int, *, draws: int, seed: int
) -> list[tuple[Any, ...]]:
    """Compare each run with its reference, a row a (run, component, layer, metric).

    A layer is compared with the layer of the same component that is nearest in relative depth: the same one where both
    models have as many.
    """
    layers = [layers_of(each.run, names) for each in runs]
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
        result = compare_means(other.values, found.values, paired=together)
        floor = noise_floor(other.values, found.values, paired=together, draws=draws, seed=seed)
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
                float(floor[place]),
            )


def compared_rows(runs: Sequence[LabelledRun], against: int) -> Iterator[tuple[Any, ...]]:
    """Say which runs are compared, a row each."""
    for number, (each, other) in enumerate(zip(runs, references(runs, against), strict=True)):
        facts = describe(each.run)
        columns = (facts[name] for name in ("model", "revision", "seed", "precision", "corpus"))
        yield (number, each.label, group_name(each), other, *columns, str(each.run.folder))


def head_rows(runs: Sequence[LabelledRun]) -> Iterator[tuple[Any, ...]]:
    """Put the heads of all runs below one another, with what is drawn against their elements."""
    for number, each in enumerate(runs):
        for row in each.run.metrics[[*HEAD_COLUMNS[1:]]].itertuples(index=False):
            yield (number, *row)
