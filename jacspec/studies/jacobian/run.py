"""`task=jacobian`: the spectra of every layer's Jacobians, one component at a time."""

import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError, check_least
from jacspec.jacobians.branches import check_components, choose_components, components_of
from jacspec.jacobians.engine import Plan, list_programs, stream_layers, working_blocks
from jacspec.jacobians.linearity import check_directions
from jacspec.jacobians.nonnormality import OF_EIGENVALUES
from jacspec.jacobians.solvers import ALL, AUTO, ENGINES, check_engine, choose_engine
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.experts import ExpertsSpec
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies.inputs import Inputs
from jacspec.studies.jacobian import JacobianOptions
from jacspec.studies.jacobian.over_depth import depth_tables
from jacspec.studies.over_samples import batch_samples, run_layers
from jacspec.studies.work import Work
from jacspec.text.corpus import Sample


def run_jacobian(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of every layer's Jacobians into `folder`, or resume what `config.resume` holds."""
    choose_metrics(config.metrics.names)
    check_components(config.components)
    check_engine(config.engine.name)
    check_directions(config.own(JacobianOptions).linearity)
    _check(config)
    run_layers(config, folder, console, inputs, _prepare)


def _check(config: Config) -> None:
    options, engine = config.own(JacobianOptions), config.engine.name
    if (options.eigenvalues or options.pseudospectra) and engine != AUTO and ENGINES[engine].needs != ALL:
        raise JacspecError(
            f"jacobian.eigenvalues and jacobian.pseudospectra need the Jacobians themselves, which engine={engine} "
            "does not form. Type engine=auto."
        )
    check_least("jacobian.pseudospectra", options.pseudospectra, 0)
    if options.pseudospectra and not any(name.endswith(("block", "all")) for name in config.components):
        raise JacspecError(
            "jacobian.pseudospectra is of whole blocks, and components has none. Type components=[attn,mlp,block]."
        )


def _has_router(spec: ModelSpec, components: Sequence[str]) -> bool:
    """Say whether any of the components is a mixture of experts."""
    routed = (block for block in spec.blocks if isinstance(block.mlp, ExpertsSpec))
    return any("mlp" in components_of(block, components).values() for block in routed)


def _prepare(config: Config, checkpoint: Checkpoint, sample: Sample) -> Work:
    options = config.own(JacobianOptions)
    beside = (*OF_EIGENVALUES * options.eigenvalues, *("eigenvalue_radius",) * (options.pseudospectra > 0))
    metric_names = choose_metrics([*config.metrics.names, *beside])
    components = choose_components(config.components, checkpoint.spec)
    layers = checkpoint.spec.choose_layers(config.layers)
    engine = choose_engine(config.engine.name, metric_names, checkpoint.spec)
    batches = batch_samples(config, checkpoint, sample, engine)
    plan = Plan(
        components,
        metric_names,
        engine,
        top_k=config.metrics.top_k,
        decoder_input=config.data.decoder_input.value,
        tolerance=config.engine.tolerance,
        seed=config.seed,
        audit=config.engine.audit,
        samples=len(sample.tokens),
        layers=layers,
        margins=_has_router(checkpoint.spec, components),
        linearity=check_directions(options.linearity),
        eigenvalues=options.eigenvalues,
        pseudospectra=options.pseudospectra,
        collapse=options.collapse,
    )
    return Work(
        working_blocks(checkpoint.spec, components, layers),
        plan.columns,
        {"components": list(components), "engine": engine},
        batches,
        functools.partial(stream_layers, checkpoint, plan=plan),
        audited=engine != "jacfwd",
        programs=list_programs(checkpoint, batches, plan),
        tables=lambda results, read: depth_tables(results, seed=config.seed),
    )
