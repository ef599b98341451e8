"""`task=weights`: the spectra of a checkpoint's weight matrices, by role, beside chance."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jacspec.axes import BASE, UPDATE, Key, Row
from jacspec.backend import numerics
from jacspec.config import Config, Init
from jacspec.errors import MOST_NAMES, JacspecError, shortened, suggest
from jacspec.jacobians.engine import memory_budget
from jacspec.models.adapters import has_adapter
from jacspec.models.matrices import (
    ROLES,
    Choice,
    LeftOut,
    Listed,
    Matrix,
    describe_layouts,
    list_model,
    list_tensors,
    stream_adapted,
    stream_model,
)
from jacspec.runs.rows import WHOLE_MODEL, matrix_layout
from jacspec.spectra.metrics import FULL, METRICS, OF_SPECTRUM, choose_metrics
from jacspec.spectra.subspaces import decompose, match_leading
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.weights import WeightsOptions
from jacspec.studies.weights.columns import INTRUDERS, LEADING, OVER_MATRICES, THRESHOLD, WEIGHT_METRICS, WORDS
from jacspec.studies.weights.extras import choose_extra
from jacspec.studies.weights.measure import measure_all, within_range
from jacspec.studies.weights.verdicts import complete_rows
from jacspec.studies.work import RowWork

NOT_A_SUM = "no intruders: not the sum of a base and an adapter's change"


def run_weights(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of all weight matrices into `folder`, or resume what `config.resume` holds."""
    names = spectral_metrics(config.metrics.names)
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs, names))


def spectral_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Choose metrics of singular values; `full` means all of these; one that needs the Jacobian itself is refused."""
    chosen = choose_metrics(names)
    beyond = [name for name in chosen if METRICS[name].needs not in OF_SPECTRUM or METRICS[name].scaling is None]
    if beyond and FULL not in names:
        raise JacspecError(f"{', '.join(beyond)} concern Jacobians, not weights. Type metrics=full for all that do.")
    return tuple(name for name in chosen if name not in beyond)


def _prepare(config: Config, inputs: Inputs, names: tuple[str, ...]) -> RowWork:
    options = config.own(WeightsOptions)
    choice = Choice(options.include, options.exclude, options.embeddings, options.stacked.value)
    extra = choose_extra(options.extra, options.draws)
    opened = _open(config, inputs, choice)
    if options.show_layer or options.show_role:  # the defaults, 0 and None, mean the first that there is
        _check_shown(options, opened)
    precision = config.precision.value
    left_out: Counter[str] = Counter()

    def stream(done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        counter = itertools.count()
        intruders: dict[int, dict[str, float]] = {}

        def wanted() -> Iterator[tuple[int, Matrix]]:
            for found in opened.matrices:
                if isinstance(found, LeftOut):
                    left_out[found.reason] += 1
                elif (number := next(counter)) not in done:
                    if found.base is not None:
                        intruders[number] = _count_intruders(found, precision)
                    yield number, within_range(found._replace(base=None), precision)

        for rows in measure_all(
            wanted(),
            names,
            precision=precision,
            top_k=config.metrics.top_k,
            null=options.against.value,
            seed=config.seed,
            memory_bytes=memory_budget(config.engine.memory_gib),
            extra=extra,
        ):
            yield [_add_intruders(row, intruders.pop(row.number, None)) for row in rows] if opened.adapted else rows
        if not next(counter):
            raise JacspecError(
                f"No matrix is left: {dict(left_out) or 'the checkpoint holds no tensor'}. "
                "Type weights.include=[] weights.exclude=[] for all."
            )

    further = INTRUDERS if opened.adapted else ()
    layout = dataclasses.replace(
        matrix_layout((*names, *WEIGHT_METRICS, *OVER_MATRICES, *further, *extra.columns)),
        groups=_count_towards,
        complete=functools.partial(complete_rows, depth=opened.depth),
        words=tuple(WORDS),
    )
    identity = {"checkpoint": opened.identity}
    return RowWork(layout, identity, opened.facts, stream, "matrices", learnt={"left_out": left_out})


def _check_shown(options: WeightsOptions, opened: "Opened") -> None:
    """Refuse a layer or role of figures of one matrix that no matrix has, before anything is measured."""
    there = opened.listed()
    layers = sorted({each.layer for each in there if each.layer is not None})
    asked, role = options.show_layer, options.show_role
    if there and asked and asked not in layers:
        among = f"Accepted: {shortened([str(layer) for layer in layers], MOST_NAMES)}" if layers else "None has a layer"
        raise JacspecError(f"weights.show_layer={asked} is the layer of no matrix. {among}.")
    shown = asked if asked in layers else min(layers, default=None)
    roles = {each.role for each in there if each.layer == shown}
    roles |= {f"{role}{part}" for role in roles for part in (BASE, UPDATE)} if opened.adapted else set()
    if there and role is not None and role not in roles:
        where = "" if shown is None else f" in layer {shown}"
        raise JacspecError(f"weights.show_role={role} is the role of no matrix{where}. {suggest(role, roles)}")


def _count_towards(key: Key) -> Iterator[Key]:
    """Count a matrix to its role, and to the whole model unless it is fused of others that count."""
    role = key[1]
    yield None, role
    if role == "other" or role in ROLES.values():
        yield None, WHOLE_MODEL


def _count_intruders(matrix: Matrix, precision: str) -> dict[str, float]:
    """Count the singular vectors that a matrix has and its base has not."""
    assert matrix.base is not None
    pair = [values.astype(precision) for values in (matrix.base, matrix.values)]
    if not all(np.isfinite(values).all() for values in pair):
        return dict.fromkeys(INTRUDERS, float("nan"))
    before, after = decompose(pair)
    return match_leading(before, after, LEADING).columns(THRESHOLD)


def _add_intruders(row: Row, found: Mapping[str, float] | None) -> Row:
    """Put the columns of adapters behind a row."""
    if found is not None:
        return row._replace(values={**row.values, **found})
    reason = "; ".join(filter(None, [row.reason, NOT_A_SUM]))
    return row._replace(values={**row.values, **dict.fromkeys(INTRUDERS, float("nan"))}, reason=reason)


class Opened(NamedTuple):
    """A checkpoint as this study reads it: what `run.json` says of it, its matrices, whether an adapter is on it.

    `listed` lists the matrices without reading one, `depth` is the number of its layers, where it is known.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    matrices: Iterator[Matrix | LeftOut]
    adapted: bool
    listed: Callable[[], list[Listed]]
    depth: int | None = None


def _open(config: Config, inputs: Inputs, choice: Choice) -> Opened:
    """Open a checkpoint by its family's rules, or where it has none by tensor name."""
    try:
        checkpoint = inputs.checkpoint()
    except JacspecError as error:
        if config.model.init is Init.random:
            raise
        try:
            name, tensors, hashes = inputs.tensors()
        except JacspecError as damaged:
            raise (damaged if inputs.bare else error) from None
        notes = [*tensors.notes, *describe_layouts(tensors, choice)]
        identity: dict[str, Any] = {"name": name, "revision": config.model.revision, "files": dict(hashes)}
        identity |= {"notes": notes} if notes else {}
        layers = None if config.layers is None else frozenset(config.layers)  # how many there are is not known
        matrices = _of_layers(stream_adapted(tensors, None, choice), layers)
        listed = functools.partial(_list, lambda: list_tensors(tensors, choice), layers)
        return Opened(identity, {"read by name": str(error)}, matrices, has_adapter(tensors), listed)
    layers, identity = checkpoint.spec.choose_layers(config.layers), describe_checkpoint(checkpoint)
    listed = functools.partial(_list, lambda: list_model(checkpoint, choice), layers)
    depth = len(checkpoint.spec.blocks)
    if checkpoint.tensors is None:
        matrices, adapted = stream_model(checkpoint, choice), False
    else:
        matrices, adapted = stream_adapted(checkpoint.tensors, checkpoint, choice), has_adapter(checkpoint.tensors)
    return Opened(identity, {}, _of_layers(matrices, layers), adapted, listed, depth)


def _list(found: Callable[[], Iterator[Listed | LeftOut]], layers: Collection[int] | None) -> list[Listed]:
    """List the matrices of the chosen layers."""
    return [each for each in found() if isinstance(each, Listed) and (layers is None or each.layer in layers)]


def _of_layers(found: Iterator[Matrix | LeftOut], layers: frozenset[int] | None) -> Iterator[Matrix | LeftOut]:
    """Leave out the matrices of other layers, and those outside all layers."""
    for each in found:
        unwanted = layers is not None and isinstance(each, Matrix) and each.layer not in layers
        yield LeftOut(each.name, "outside the chosen layers") if unwanted else each
