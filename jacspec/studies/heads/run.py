"""`task=heads`: W_QK and W_OV of every attention head, beside products of factors drawn at random."""

import dataclasses
import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.rows import matrix_layout, matrix_row
from jacspec.spectra.products import FEWEST_DRAWS
from jacspec.studies.heads import HEADS, NULLS, HeadsOptions
from jacspec.studies.heads.measure import Chance, baseline, describe_heads, head_products
from jacspec.studies.heads.shown import shown_heads
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork, adjust_rows


def run_heads(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of all attention heads into `folder`, or resume what `config.resume` holds."""
    options = config.own(HeadsOptions)
    if options.draws < 2:
        raise JacspecError(f"heads.draws={options.draws} gives no spread. Type heads.draws=N with N of 2 or more.")
    shown_heads(options.shown)
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs))


def _prepare(config: Config, inputs: Inputs) -> RowWork:
    options = config.own(HeadsOptions)
    checkpoint = inputs.checkpoint()
    chosen = checkpoint.spec.choose_layers(config.layers)
    own = checkpoint.spec.blocks[0].attention
    if own.d_head > checkpoint.spec.d_model:
        raise JacspecError(
            f"The heads are wider ({own.d_head}) than the model ({checkpoint.spec.d_model}): their products have full "
            "rank, for which there is no baseline here. Type task=weights for q, k, v and o themselves."
        )
    _check_shown(options.shown, checkpoint, chosen)
    chance = Chance(options.draws, config.seed)

    def stream(done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        number = 0
        for place, spec in enumerate(checkpoint.spec.blocks):
            numbers = range(number, number + 2 * spec.attention.heads)
            number = numbers.stop
            wanted = chosen is None or checkpoint.spec.layer(place) in chosen
            if wanted and not all(each in done for each in numbers):
                yield list(_results(checkpoint, place, numbers, chance))

    identity = {"checkpoint": describe_checkpoint(checkpoint)}
    complete = functools.partial(adjust_rows, names=ADJUSTED)
    layout = dataclasses.replace(matrix_layout(tuple(HEADS)), complete=complete)
    facts = {"baseline": baseline(checkpoint.spec.d_model, own.d_head, chance)}
    return RowWork(layout, identity, facts, stream, "matrices", learnt={"left_out": {}})


def _check_shown(shown: Sequence[str], checkpoint: Checkpoint, chosen: Collection[int] | None) -> None:
    """Refuse a head of the figure of two that a stack of the model has not, before anything is measured."""
    by_stack: dict[str, dict[int, int]] = {}
    for place, spec in enumerate(checkpoint.spec.blocks):
        if chosen is None or checkpoint.spec.layer(place) in chosen:
            by_stack.setdefault(spec.stack, {})[checkpoint.spec.layer(place)] = spec.attention.heads
    for layer, head in shown_heads(shown):
        for heads in by_stack.values():
            if head >= heads.get(layer, 0):
                most = "L{}H{}".format(*max((layer, count - 1) for layer, count in heads.items()))
                raise JacspecError(
                    f"heads.shown has L{layer}H{head}, which the run has not: its heads are "
                    f"L{min(heads)}H0 to {most}. Type heads.shown=[L{min(heads)}H0,{most}]."
                )


def _results(checkpoint: Checkpoint, place: int, numbers: Sequence[int], chance: Chance) -> Iterator[Row]:
    """Make the rows of one block: its heads' W_QK, then their W_OV."""
    stack = checkpoint.spec.blocks[place].stack
    layer, d_model = checkpoint.spec.layer(place), checkpoint.spec.d_model
    found = head_products(checkpoint.block(place))
    free = iter(numbers)
    for kind, products in found.items():
        role = f"{stack}.{kind}" if stack else kind
        for head, (sigma, values) in enumerate(zip(products.sigma, describe_heads(products, chance), strict=True)):
            metrics = {**dict.fromkeys(ADJUSTED, float("nan")), **values}
            name = f"block {place} head {head} {kind}"
            stored = sigma.astype(products.stored)
            reason = _reason(sigma, metrics, chance)
            yield matrix_row(next(free), (layer, role, head, name), (d_model, d_model), stored, metrics, reason)


ADJUSTED = tuple(f"{null}_{end}_q" for null in NULLS for end in ("largest", "smallest"))
"""Columns of q-values, which take all heads."""


def _reason(sigma: np.ndarray, metrics: Mapping[str, float], chance: Chance) -> str:
    """Say why columns are missing; empty where none is."""
    if not sigma[0] > 0:
        return "all zero"
    reasons = []
    if not np.isfinite(metrics["kappa_sigma"]):
        reasons.append("below full rank: no condition number, nothing is said of the smallest")
    if chance.draws < FEWEST_DRAWS:
        reasons.append(f"fewer than {FEWEST_DRAWS} draws: no p-values")
    elif np.isnan(metrics["norms_largest_p"]):
        reasons.append("a factor with fewer than two rows or columns: no norms to draw with")
    return "; ".join(reasons)
