"""`task=coupling`: Jacobians beside the weights they are made of, and which layers read what others write."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jacspec.axes import LayerResult
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.jacobians.branches import check_components, list_sites
from jacspec.jacobians.engine import working_blocks
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.layers import Stored
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies.coupling import BY_KIND, COUPLING_FILE, CouplingOptions
from jacspec.studies.coupling.measure import NAMES, CouplingPlan, choose_factored, coupling_columns, stream_coupling
from jacspec.studies.coupling.tables import COUPLING_COLUMNS, coupling_rows
from jacspec.studies.ends import end_samples, kinds_of
from jacspec.studies.inputs import Inputs
from jacspec.studies.kinds import KIND_COLUMNS, KINDS_FILE, kind_rows
from jacspec.studies.over_samples import batch_samples, run_layers
from jacspec.studies.work import Table, Work
from jacspec.text.corpus import Sample

ENGINE = "lanczos"


def run_coupling(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute factors, alignments and couplings into `folder`, or resume what `config.resume` holds."""
    check_components(config.components)
    if beyond := [name for name in choose_metrics(config.metrics.names) if name not in NAMES]:
        raise JacspecError(
            f"task=coupling has columns of its own; metrics.names adds {', '.join(beyond)}. Type metrics=paper."
        )
    if config.engine.name not in ("auto", ENGINE):
        raise JacspecError(f"task=coupling has one engine, {ENGINE}; {config.engine.name} was given. Type engine=auto.")
    run_layers(config, folder, console, inputs, _prepare, cut=_cut)


def _cut(config: Config, checkpoint: Checkpoint, sample: Sample) -> Sample:
    return end_samples(config, sample, config.own(CouplingOptions).end)


def _prepare(config: Config, checkpoint: Checkpoint, sample: Sample) -> Work:
    spec = checkpoint.spec
    components = choose_factored(config.components, spec)
    layers = spec.choose_layers(config.layers)
    working = working_blocks(spec, components, layers)
    columns = coupling_columns(components, spec)
    batches = batch_samples(config, checkpoint, sample, ENGINE)
    plan = CouplingPlan(
        components,
        columns,
        decoder_input=config.data.decoder_input.value,
        tolerance=config.engine.tolerance,
        seed=config.seed,
        audit=config.engine.audit,
        samples=len(sample.tokens),
        layers=layers,
    )
    mark, kinds = kinds_of(checkpoint, components, sample.tokens, config.data.decoder_input)
    places = list_sites(components, spec)

    def tables(results: Sequence[LayerResult], read: Callable[[int], Stored]) -> dict[str, Table]:
        return {
            COUPLING_FILE: (COUPLING_COLUMNS, coupling_rows(results, places)),
            KINDS_FILE: (KIND_COLUMNS, [row for result in results for row in _by_kind(result, kinds)]),
        }

    return Work(
        working,
        columns,
        {"components": list(components), "engine": ENGINE, "token_mark": mark, "token_kinds": kinds},
        batches,
        functools.partial(stream_coupling, checkpoint, plan=plan),
        audited=True,
        tables=tables,
    )


def _by_kind(result: LayerResult, kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    values = {component: {name: own[name] for name in BY_KIND} for component, own in result.metrics.items()}
    return kind_rows(result.layer, values, kinds)
