"""`task=weights`: the spectra of a checkpoint's weight matrices, by role, beside chance."""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jacspec.axes import Key, Row
from jacspec.backend import numerics
from jacspec.config import Config, Init
from jacspec.errors import JacspecError
from jacspec.files import Hashes
from jacspec.jacobians.engine import memory_budget
from jacspec.models.matrices import ROLES, Choice, LeftOut, Matrix, describe_layouts, stream_model, stream_tensors
from jacspec.runs.rows import WHOLE_MODEL, matrix_layout
from jacspec.spectra.metrics import FULL, METRICS, choose_metrics
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.weights import OVER_MATRICES, WEIGHT_METRICS, WORDS, WeightsOptions
from jacspec.studies.weights.extras import choose_extra
from jacspec.studies.weights.measure import measure_all, within_range
from jacspec.studies.weights.verdicts import complete_rows
from jacspec.studies.work import RowWork


def run_weights(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of all weight matrices into `folder`, or resume what `config.resume` holds."""
    names = spectral_metrics(config.metrics.names)
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs, names))


def spectral_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Choose metrics of singular values; `full` means all of these; one that needs the Jacobian itself is refused."""
    chosen = choose_metrics(names)
    beyond = [name for name in chosen if METRICS[name].needs == "matrix"]
    if beyond and FULL not in names:
        raise JacspecError(f"{', '.join(beyond)} concern Jacobians, not weights. Type metrics=full for all that do.")
    return tuple(name for name in chosen if name not in beyond)


def _prepare(config: Config, inputs: Inputs, names: tuple[str, ...]) -> RowWork:
    options = config.own(WeightsOptions)
    choice = Choice(options.include, options.exclude, options.embeddings, options.stacked.value)
    extra = choose_extra(options.extra, options.draws)
    identity, facts, matrices, depth = _open(config, inputs, choice)
    left_out: Counter[str] = Counter()

    def stream(done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        counter = itertools.count()

        def wanted() -> Iterator[tuple[int, Matrix]]:
            for found in matrices:
                if isinstance(found, LeftOut):
                    left_out[found.reason] += 1
                elif (number := next(counter)) not in done:
                    yield number, within_range(found, config.precision.value)

        yield from measure_all(
            wanted(),
            names,
            precision=config.precision.value,
            top_k=config.metrics.top_k,
            null=options.against.value,
            seed=config.seed,
            memory_bytes=memory_budget(config.engine.memory_gib),
            extra=extra,
        )
        if not next(counter):
            raise JacspecError(
                f"No matrix is left: {dict(left_out) or 'the checkpoint holds no tensor'}. "
                "Type weights.include=[] weights.exclude=[] for all."
            )

    columns = (*names, *WEIGHT_METRICS, *OVER_MATRICES, *extra.columns)
    layout = dataclasses.replace(
        matrix_layout(columns),
        groups=_count_towards,
        complete=functools.partial(complete_rows, depth=depth),
        words=tuple(WORDS),
    )
    return RowWork(layout, {"checkpoint": identity}, facts, stream, "matrices", learnt={"left_out": left_out})


def _count_towards(key: Key) -> Iterator[Key]:
    """Count a matrix to its role, and to the whole model unless it is fused of others that count."""
    role = key[1]
    yield None, role
    if role == "other" or role in ROLES.values():
        yield None, WHOLE_MODEL


def _open(
    config: Config, inputs: Inputs, choice: Choice
) -> tuple[dict[str, Any], dict[str, Any], Iterator[Matrix | LeftOut], int | None]:
    """Open a checkpoint by its family's rules, or where it has none by tensor name, its depth then being unknown."""
    try:
        checkpoint = inputs.checkpoint()
    except JacspecError as error:
        if config.model.init is Init.random:
            raise
        try:
            name, tensors = inputs.tensors()
        except JacspecError:
            raise error from None
        files = dict(Hashes(tensors.files))
        notes = [*tensors.notes, *describe_layouts(tensors, choice)]
        identity: dict[str, Any] = {"name": name, "revision": config.model.revision, "files": files}
        identity |= {"notes": notes} if notes else {}
        layers = None if config.layers is None else frozenset(config.layers)  # how many there are is not known
        return identity, {"read by name": str(error)}, _of_layers(stream_tensors(tensors, choice), layers), None
    matrices = _of_layers(stream_model(checkpoint, choice), inputs.layers(checkpoint.spec))
    return describe_checkpoint(checkpoint), {}, matrices, len(checkpoint.spec.blocks)


def _of_layers(found: Iterator[Matrix | LeftOut], layers: frozenset[int] | None) -> Iterator[Matrix | LeftOut]:
    """Leave out the matrices of other layers, and those outside all layers."""
    for each in found:
        unwanted = layers is not None and isinstance(each, Matrix) and each.layer not in layers
        yield LeftOut(each.name, "outside the chosen layers") if unwanted else each
