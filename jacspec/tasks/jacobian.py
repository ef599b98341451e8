"""`task=jacobian`: text and checkpoint in, spectra of every layer's Jacobians out, as a run folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console

from jacspec.backend import numerics, use_compilation_cache
from jacspec.config import Config
from jacspec.corpus import Corpus, Sample, draw_sample, load_corpus
from jacspec.errors import JacspecError
from jacspec.glossary import LayerResult, PaddedBatch
from jacspec.jacobians.branches import check_components, choose_components
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers, working_blocks
from jacspec.jacobians.solvers import check_engine, choose_engine
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.hub import open_model
from jacspec.progress import Stopwatch, layer_progress
from jacspec.provenance import describe_device, git_commit, now, versions
from jacspec.report import write_report
from jacspec.report.console import print_summary
from jacspec.runs import Run, RunWriter, open_run, resume_run, start_run
from jacspec.spectra.metrics import choose_metrics


def run_jacobian(config: Config, folder: Path, console: Console) -> None:
    """Compute the spectra of every layer's Jacobians into `folder`, or go on with what `config.resume` holds."""
    metric_names = choose_metrics(config.metrics.names)
    check_components(config.components)
    check_engine(config.engine.name)
    _check_accuracy(config)
    watch = Stopwatch()
    use_compilation_cache()
    with numerics(config.precision.value):
        with watch("open model"):
            checkpoint = open_model(config.model, seed=config.seed, dtype=config.precision.value)
        components = choose_components(config.components, checkpoint.spec)
        with watch("read text"):
            corpus = load_corpus(config.data)
            sample = draw_sample(corpus, checkpoint.tokenizer, config.data, seed=config.seed)
        engine = choose_engine(config.engine.name, metric_names, checkpoint.spec)
        batches = prepare_batches(checkpoint, sample.tokens, memory_gib=config.engine.memory_gib, engine=engine)
        plan = Plan(
            components,
            metric_names,
            engine,
            top_k=config.metrics.top_k,
            decoder_input=config.data.decoder_input.value,
            tolerance=config.engine.tolerance,
            seed=config.seed,
            audit=config.engine.audit,
        )
        provenance = _provenance(config, checkpoint, corpus, sample, batches) | {
            "metrics": list(metric_names),
            "components": list(components),
            "engine": engine,
        }
        writer = _open_folder(config, folder, provenance, sample, metric_names)
        if writer.provenance["status"] != "finished":
            layers = len(working_blocks(checkpoint.spec, components))
            with watch("spectra"), layer_progress(console, layers=layers, samples=len(sample.tokens)) as advance:
                for result in stream_layers(checkpoint, batches, plan, done=dict(writer.done), advance=advance):
                    writer.add_layer(result)
            writer.write_tables()
            writer.record(seconds=watch.seconds, finished=now(), **_accuracy(plan, list(writer.done.values())))
    write_report(Run(writer.folder))
    writer.finish()
    print_summary(open_run(writer.folder), console)
    _say_accuracy(writer.provenance, console)


def _check_accuracy(config: Config) -> None:
    if not config.engine.tolerance > 0:
        raise JacspecError(f"engine.tolerance={config.engine.tolerance} is not above 0. Type engine.tolerance=1e-5.")
    if config.engine.audit < 0:
        raise JacspecError(f"engine.audit={config.engine.audit} is negative. Type engine.audit=N with N of 0 or more.")


def _accuracy(plan: Plan, results: Sequence[LayerResult]) -> dict[str, Any]:
    """Sum up what the engine says of its accuracy: the audit, and the samples that did not converge."""
    if plan.engine == "jacfwd":
        return {"audit": "none: jacfwd is the reference engine"}
    said = [(result.layer, name, values) for result in results for name, values in result.diagnostics.items()]
    audited = np.concatenate([np.zeros(0), *(values.get("audit_deviation", np.zeros(0)) for *_, values in said)])
    missed = [
        f"layer {layer}, {name}, sample {sample}"
        for layer, name, values in said
        for sample in np.flatnonzero(~values.get("converged", np.ones(0, bool))).tolist()
    ]
    return {
        "audit": {
            "recomputed Jacobians": int(audited.size),
            "largest relative deviation": float(audited.max()) if audited.size else None,
            "tolerance": plan.tolerance,
        },
        "not_converged": missed,
    }


def _say_accuracy(provenance: Mapping[str, Any], console: Console) -> None:
    found = provenance.get("audit")
    if isinstance(found, Mapping) and found["recomputed Jacobians"]:
        console.print(
            f"audit: {found['recomputed Jacobians']} Jacobians recomputed with jacfwd and SVD, "
            f"largest relative deviation {found['largest relative deviation']:.1e}",
            soft_wrap=True,
            highlight=False,
        )
    if missed := provenance.get("not_converged"):
        shown = "; ".join(missed[:5]) + ("; …" if len(missed) > 5 else "")
        console.print(
            f"{len(missed)} spectra did not reach engine.tolerance (error bounds: spectra.nc): {shown}",
            style="bold red",
            soft_wrap=True,
            highlight=False,
        )


def _open_folder(
    config: Config, folder: Path, provenance: dict[str, Any], sample: Sample, metric_names: tuple[str, ...]
) -> RunWriter:
    n_tokens = [len(ids) for ids in sample.tokens]
    if config.resume is not None:
        return resume_run(Path(config.resume), provenance, metric_names=metric_names, n_tokens=n_tokens)
    rows = [(number, n, text) for number, (n, text) in enumerate(zip(n_tokens, sample.texts, strict=True))]
    return start_run(folder, provenance, metric_names=metric_names, samples=rows)


def _provenance(
    config: Config, checkpoint: Checkpoint, corpus: Corpus, sample: Sample, batches: Sequence[PaddedBatch]
) -> dict[str, Any]:
    """Collect what `run.json` holds; `identity` is what must be the same for a run to be gone on with."""
    whole = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(whole, dict)
    comparable = {key: value for key, value in whole.items() if key not in ("resume", "run", "train")}
    # Where files lie does not matter: their hashes are compared.
    for group in ("model", "data"):
        comparable[group] = {key: value for key, value in comparable[group].items() if key != "path"}
    return {
        "task": "jacobian",
        "created": now(),
        "config": whole,
        "identity": {
            "config": comparable,
            "checkpoint": {
                "name": checkpoint.name,
                "revision": checkpoint.revision,
                "files": dict(checkpoint.files),
            },
            "corpus": {"sha256": corpus.sha256, "splitter": corpus.splitter},
            "batches": [list(padded.batch.tokens.shape) for padded in batches],
            "device": describe_device(),
            "versions": versions(),
        },
        "corpus": {
            "source": corpus.source,
            "candidates": len(corpus.texts),
            "drawn": sample.candidates,
        },
        "precision": {"dtype": config.precision.value, "matmul": "highest"},
        "seed": config.seed,
        "git_commit": git_commit(),
    }
