"""`task=removal`: what singular values matter, by how much worse a text is predicted without them."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.jacobians.engine import memory_budget
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.rows import experiment_layout
from jacspec.scoring.perplexity import (
    Batches,
    ChunkSums,
    mean_nats,
    perplexity,
    perplexity_change,
    prepare_passage,
    score_tokens,
    sum_chunks,
)
from jacspec.scoring.windows import Passage, make_passage, model_kind
from jacspec.spectra.subspaces import Factors, RankRange, equal_ranges
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.removal import RemovalOptions
from jacspec.studies.removal.groups import (
    ALL_ZERO,
    Place,
    RemovalTarget,
    choose_targets,
    count_removed,
    decompose_target,
    fewest_values,
    mean_spectrum,
    without_group,
)
from jacspec.studies.removal.saved import check_place, save_model
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork
from jacspec.text.corpus import decode_text

KEYS = ("target", "group")
NONE = "none"


class Experiment(NamedTuple):
    """What is measured: a model on a text, without each group of each target in turn.

    `columns` are those of values; `save` is where the one model that is measured is written.
    """

    checkpoint: Checkpoint
    passage: Passage
    batches: Batches
    targets: Sequence[RemovalTarget]
    ranges: Sequence[RankRange]
    columns: tuple[str, ...]
    memory_bytes: float
    save: str | None


def run_removal(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Measure perplexity without each group into `folder`, or resume what `config.resume` holds."""
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs))


def _prepare(config: Config, inputs: Inputs) -> RowWork:
    options = config.own(RemovalOptions)
    if config.engine.memory_gib <= 0:
        raise JacspecError(f"engine.memory_gib={config.engine.memory_gib} leaves no memory. Type engine.memory_gib=1.")
    checkpoint = inputs.checkpoint()
    masked = model_kind(checkpoint.spec) == "masked"
    targets = choose_targets(checkpoint.spec, by=options.by.value, roles=options.roles)
    ranges = choose_ranges(options, most=fewest_values(checkpoint.spec, targets))
    check_place(options.save, models=len(targets) * len(ranges), resume=config.resume is not None)
    raw, source = inputs.text()
    tokens = options.masked_tokens if masked else options.tokens
    passage = make_passage(
        decode_text(raw, source),
        checkpoint,
        tokens=tokens,
        window=options.window,
        stride=options.stride,
    )
    budget = memory_budget(config.engine.memory_gib)
    batches = prepare_passage(checkpoint, passage, memory_bytes=budget)
    name = "pseudo_perplexity" if masked else "perplexity"
    columns = (name, "perplexity_error", f"delta_{name}", "delta_error", "nll", "removed_values", "removed_share")
    experiment = Experiment(checkpoint, passage, batches, targets, ranges, columns, budget, options.save)
    shapes = [list(padded.batch.tokens.shape) for padded in batches.windows]
    return RowWork(
        layout=experiment_layout(KEYS, columns),
        identity={
            "checkpoint": describe_checkpoint(checkpoint),
            "corpus": {"sha256": hashlib.sha256(raw).hexdigest()},
            "batches": {"windows": shapes, "rows": batches.rows},
        },
        facts={
            "corpus": {"name": inputs.corpus_name, "source": source},
            "by": options.by.value,
            "shares": [list(each) for each in ranges],
            "scored": {
                "tokens": len(passage.chunks),
                "window": passage.window,
                "stride": passage.stride,
                "chunks": int(passage.chunks[-1]) + 1,
            },
        },
        stream=functools.partial(_stream, experiment),
        total=1 + len(targets) * len(ranges),
    )


def choose_ranges(options: RemovalOptions, *, most: int) -> list[RankRange]:
    """Read which groups of singular values are removed, at most `most` of the same size, and refuse what is none."""
    for given in options.ranges:
        numbers = all(isinstance(end, int | float) for end in given)
        if len(given) != 2 or not numbers or not 0 <= given[0] <= given[1] <= 1:
            raise JacspecError(
                f"removal.ranges has {given}: not two shares of the ranks, 0 ≤ from ≤ to ≤ 1. "
                "Type removal.ranges=[[0,0.1],[0.9,1]]."
            )
    if options.ranges:
        return [(float(start), float(stop)) for start, stop in options.ranges]
    if not 1 <= options.groups <= most:
        raise JacspecError(
            f"removal.groups={options.groups}: the smallest of the matrices has {most} singular values. "
            f"Accepted: 1 to {most}."
        )
    return equal_ranges(options.groups)


def _stream(experiment: Experiment, done: Mapping[int, Row]) -> Iterator[list[Row]]:
    """Measure the unmodified model, then each target without each group; what is done is left out."""
    if 0 in done:
        whole = ChunkSums(done[0].arrays["chunk_nats"], done[0].arrays["chunk_tokens"])
    else:
        whole = _measure(experiment, experiment.checkpoint)
        yield [_row(experiment, 0, (NONE, 0), whole, whole, (0, 0.0), np.zeros(0))]
    for place, target in enumerate(experiment.targets):
        first = 1 + place * len(experiment.ranges)
        missing = [group for group in range(len(experiment.ranges)) if first + group not in done]
        if not missing:
            continue
        factors = decompose_target(experiment.checkpoint, target, memory_bytes=experiment.memory_bytes)
        for group in missing:
            yield [_remove(experiment, first + group, (target.name, group + 1), whole, factors)]


def _remove(
    experiment: Experiment, number: int, key: tuple[str, int], whole: ChunkSums, factors: Mapping[Place, Factors]
) -> Row:
    ranks = experiment.ranges[key[1] - 1]
    cut = without_group(experiment.checkpoint, factors, ranks)
    if experiment.save is not None:
        save_model(experiment.save, cut)
    try:
        sums = _measure(experiment, cut)
    except JacspecError as error:
        raise JacspecError(f"Without group {key[1]} of {key[0]}: {error}") from error
    return _row(experiment, number, key, sums, whole, count_removed(factors, ranks), mean_spectrum(factors))


def _measure(experiment: Experiment, checkpoint: Checkpoint) -> ChunkSums:
    nats = score_tokens(checkpoint, experiment.passage, experiment.batches)
    return sum_chunks(nats, experiment.passage.chunks)


def _row(
    experiment: Experiment,
    number: int,
    key: tuple[str, int],
    sums: ChunkSums,
    whole: ChunkSums,
    removed: tuple[int, float],
    spectrum: np.ndarray,
) -> Row:
    values: tuple[Any, ...] = (*perplexity(sums), *perplexity_change(sums, whole), mean_nats(sums), *removed)
    arrays = {"chunk_nats": sums.nats, "chunk_tokens": sums.tokens, "mean_spectrum": spectrum.astype(np.float64)}
    named = {name: float(value) for name, value in zip(experiment.columns, values, strict=True)}
    return Row(number, key, named, arrays, _reason(named, len(sums.tokens)))


def _reason(values: Mapping[str, float], chunks: int) -> str:
    """Say why values are missing; empty where none is."""
    reasons = []
    if np.isnan(values["perplexity_error"]):
        reasons.append("one chunk of text: no errors" if chunks < 2 else "perplexity is not finite: no errors")
    if np.isnan(values["removed_share"]):
        reasons.append(ALL_ZERO)
    return "; ".join(reasons)
