"""`task=depth`: the Jacobian of the last token through many layers, its top spectrum and Lyapunov exponents."""

import functools
from pathlib import Path

from rich.console import Console

from jacspec.config import Config
from jacspec.errors import JacspecError, check_least
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import METRICS, choose_metrics
from jacspec.studies.depth import DepthOptions
from jacspec.studies.depth.products import (
    DepthPlan,
    choose_layers,
    choose_parts,
    path_blocks,
    path_name,
    stream_depth,
)
from jacspec.studies.inputs import Inputs
from jacspec.studies.over_samples import batch_samples, run_layers
from jacspec.studies.work import Work
from jacspec.text.corpus import Sample

ENGINE = "lanczos"


def run_depth(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute spectra and exponents with depth into `folder`, or resume what `config.resume` holds."""
    _check(config)
    run_layers(config, folder, console, inputs, _prepare)


def _check(config: Config) -> None:
    if beyond := [name for name in choose_metrics(config.metrics.names) if METRICS[name].needs != "top"]:
        raise JacspecError(
            f"task=depth computes the largest singular values only, and {', '.join(beyond)} need more. "
            "Type metrics=paper."
        )
    check_least("depth.dense", config.own(DepthOptions).dense, 0)
    if config.engine.name not in ("auto", ENGINE):
        raise JacspecError(f"task=depth has one engine, {ENGINE}; {config.engine.name} was given. Type engine=auto.")


def _prepare(config: Config, checkpoint: Checkpoint, sample: Sample) -> Work:
    options = config.own(DepthOptions)
    first, last = choose_layers(options.first, options.last, options.exponents, checkpoint.spec)
    batches = batch_samples(config, checkpoint, sample, ENGINE)
    plan = DepthPlan(
        choose_metrics(config.metrics.names),
        first,
        last,
        options.exponents,
        memory_gib=config.engine.memory_gib,
        decoder_input=config.data.decoder_input.value,
        tolerance=config.engine.tolerance,
        seed=config.seed,
        audit=config.engine.audit,
        samples=len(sample.tokens),
        parts=choose_parts(checkpoint.spec),
        dense=options.dense,
    )
    numbers = path_blocks(checkpoint.spec, first, last)
    components = dict.fromkeys(path_name(checkpoint.spec.blocks[number]) for number in numbers)
    return Work(
        numbers,
        plan.columns,
        {"components": list(components), "engine": ENGINE, "depth": {"first": first, "last": last}},
        batches,
        functools.partial(stream_depth, checkpoint, plan=plan),
        audited=True,
    )
