"""`task=coupling`: Jacobians beside the weights they are made of, and which layers read what others write."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jacspec.axes import LayerResult
from jacspec.config import Config, DecoderInput
from jacspec.errors import JacspecError
from jacspec.jacobians.branches import check_components
from jacspec.jacobians.engine import prepare_batches, working_blocks
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies.coupling import CouplingOptions, End
from jacspec.studies.coupling.measure import (
    NAMES,
    CouplingPlan,
    choose_factored,
    coupling_columns,
    coupling_places,
    stream_coupling,
)
from jacspec.studies.coupling.tables import (
    COUPLING_COLUMNS,
    COUPLING_FILE,
    KIND_COLUMNS,
    KINDS_FILE,
    coupling_rows,
    find_mark,
    kind_rows,
    last_token_kind,
)
from jacspec.studies.inputs import Inputs
from jacspec.studies.over_samples import run_layers
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


def _cut(config: Config, sample: Sample) -> Sample:
    """End each sample at a drawn token, uniformly from `data.min_tokens` on, unless it is to stay as it is.

    A sentence nearly always ends with its full stop: whole ones would show one kind of token.
    """
    options = config.own(CouplingOptions)
    if options.end is End.sample or config.data.position is not None:
        return sample
    # The samples themselves are drawn from the seed alone.
    draw = np.random.default_rng([config.seed, 1])
    least = max(config.data.min_tokens, 1)
    return sample._replace(tokens=[ids[: int(draw.integers(least, len(ids) + 1))] for ids in sample.tokens])


def _prepare(config: Config, checkpoint: Checkpoint, sample: Sample) -> Work:
    spec = checkpoint.spec
    components = choose_factored(config.components, spec)
    columns = coupling_columns(components, spec)
    batches = prepare_batches(
        checkpoint,
        sample.tokens,
        memory_gib=config.engine.memory_gib,
        engine=ENGINE,
        devices=config.engine.devices,
        largest=config.engine.batch,
    )
    plan = CouplingPlan(
        components,
        columns,
        decoder_input=config.data.decoder_input.value,
        tolerance=config.engine.tolerance,
        seed=config.seed,
        audit=config.engine.audit,
        samples=len(sample.tokens),
    )
    mark, kinds = _kinds(checkpoint, components, sample.tokens, config.data.decoder_input)
    places = coupling_places(components, spec)

    def tables(results: Sequence[LayerResult]) -> dict[str, Table]:
        return {
            COUPLING_FILE: (COUPLING_COLUMNS, coupling_rows(results, places)),
            KINDS_FILE: (KIND_COLUMNS, kind_rows(results, kinds)),
        }

    return Work(
        working_blocks(spec, components),
        columns,
        {"components": list(components), "engine": ENGINE, "token_mark": mark, "token_kinds": kinds},
        batches,
        functools.partial(stream_coupling, checkpoint, plan=plan),
        audited=True,
        tables=tables,
    )


def _kinds(
    checkpoint: Checkpoint, components: Sequence[str], tokens: Sequence[Sequence[int]], fed: DecoderInput
) -> tuple[str, dict[str, list[str]]]:
    """Find, by component, the kind of the token at which each sample is differentiated."""
    tokenizer: Any = checkpoint.tokenizer
    mark = find_mark(tokenizer)
    kind = functools.partial(last_token_kind, tokenizer, mark)
    own = [kind(ids) for ids in tokens]
    found = dict.fromkeys(components, own)
    start = checkpoint.spec.decoder_start
    if start is not None:
        inputs = [[start, *ids[:-1]] if fed is DecoderInput.shifted else [start] for ids in tokens]
        decoded = [kind(ids) for ids in inputs]
        found |= {name: decoded for name in components if name.startswith("decoder.")}
    return mark, found
