"""What the tasks share that go through a checkpoint layer by layer: text and checkpoint in, a run folder out."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from jacspec.axes import LayerResult
from jacspec.backend import compiling, numerics, use_compilation_cache
from jacspec.config import Config
from jacspec.errors import JacspecError, check_least
from jacspec.jacobians.audit import allowed_deviation
from jacspec.jacobians.engine import count_samples, prepare_batches
from jacspec.models.checkpoint import Checkpoint
from jacspec.progress import Stopwatch, compile_progress, layer_progress
from jacspec.runs import RunWriter, resume_run, start_run, write_csv
from jacspec.runs.files import PARTS, VECTORS, write_atomically
from jacspec.runs.layers import Stored, pack_stored, read_stored
from jacspec.runs.workers import Workers, join_workers, leave_workers
from jacspec.runs.writing import releasing_folders
from jacspec.samples import PaddedBatch
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint, describe_corpus, describe_run, now, say_notes
from jacspec.studies.run import finish_run
from jacspec.studies.sharing import contribute, coordinate
from jacspec.studies.work import Work
from jacspec.text.corpus import Sample


@releasing_folders()
def run_layers(
    config: Config,
    folder: Path,
    console: Console,
    inputs: Inputs,
    prepare: Callable[[Config, Checkpoint, Sample], Work],
    *,
    cut: Callable[[Config, Checkpoint, Sample], Sample] = lambda config, checkpoint, sample: sample,
) -> None:
    """Open model and text, compute what `prepare` asks for into `folder`, or resume what `config.resume` holds.

    Of several processes, all compute and process 0 alone keeps the folder. `cut` may shorten the samples that were
    drawn.
    """
    _check_accuracy(config)
    watch = Stopwatch()
    if address := config.distributed.coordinator:
        console.print(f"waiting for all processes of the run to reach {address}", soft_wrap=True, highlight=False)
    workers = join_workers(config.distributed)
    use_compilation_cache()
    with numerics(config.precision.value):
        with watch("open model"):
            checkpoint = inputs.checkpoint()
        with watch("read text"):
            sample = cut(config, checkpoint, inputs.sample(checkpoint))
        work = prepare(config, checkpoint, sample)
        with compiling(work.programs, config.precision.value) as programs:
            if config.resume is None and not workers.index:
                programs.begin()  # all is to be computed; meanwhile the model's files are hashed
            provenance = _provenance(config, checkpoint, inputs, sample, work.batches) | {
                "metrics": list(work.columns),
                "processes": workers.count,
                **work.facts,
            }
            say_notes(provenance["identity"], console)
            shown = _progress(workers, work, console)
            timeout = config.distributed.timeout
            if workers.index:
                opened = folder if config.resume is None else Path(config.resume)
                with shown as advance:
                    contribute(workers, work, opened, provenance, advance, timeout=timeout)
                console.print(f"process {workers.index}: its shard is done; process 0 writes {opened}", soft_wrap=True)
                return
            writer = _open_folder(config, folder, provenance, sample, work.columns)
            if work.programs and any(number not in writer.done for number in work.numbers):
                with watch("compile"), compile_progress(console, programs=len(work.programs)) as advance_programs:
                    programs.finish(advance_programs)
        if writer.provenance["status"] == "finished":
            leave_workers(workers)
        else:
            with watch("spectra"), shown as advance:
                for result in _results(workers, work, writer, advance, timeout):
                    writer.add_layer(result)
            with watch("tables"):
                _write_tables(config, work, writer)
            writer.record(seconds=watch.seconds, finished=now())
    _say_accuracy(writer.provenance, console)
    finish_run(config, writer, console, inputs, watch)


def batch_samples(config: Config, checkpoint: Checkpoint, sample: Sample, engine: str) -> list[PaddedBatch]:
    """Put the samples into batches as the group `engine` of the configuration says; as `prepare_batches`."""
    own = config.engine
    return prepare_batches(
        checkpoint,
        sample.tokens,
        memory_gib=own.memory_gib,
        engine=engine,
        devices=own.devices,
        largest=own.batch,
    )


def _progress(
    workers: Workers, work: Work, console: Console
) -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
    """Show what of this process's shard is done; say so where some processes have none."""
    if workers.count > len(work.batches):
        console.print(
            f"{workers.count} processes share {len(work.batches)} batches, so some have none; a lower engine.batch "
            "makes more.",
            soft_wrap=True,
        )
    return layer_progress(console, layers=len(work.numbers), samples=count_samples(workers.shard(work.batches)))


def _results(
    workers: Workers, work: Work, writer: RunWriter, advance: Callable[[int, int], None], timeout: float
) -> Iterable[LayerResult]:
    """Compute what the run has not yet, alone or with other processes."""
    if workers.count > 1:
        return coordinate(workers, work, writer, advance, timeout=timeout)
    leave_workers(workers)
    return work.stream(work.batches, done=dict(writer.done), advance=advance)


def _write_tables(config: Config, work: Work, writer: RunWriter) -> None:
    """Write the tables of a run whose layers are all there, and what its engine says of its accuracy."""
    writer.write_tables()
    results = [writer.done[number] for number in sorted(writer.done)]

    def read(number: int) -> Stored:
        return read_stored(writer.folder / PARTS, number, len(writer.n_tokens))

    if results and read(results[0].number):
        numbers = [(result.number, result.layer) for result in results]
        write_atomically(writer.folder / VECTORS, pack_stored(numbers, read))
    for name, (header, rows) in work.tables(results, read).items():
        write_csv(writer.folder / name, header, rows)
    said = _accuracy(results, config.engine.tolerance, config.precision.value)
    writer.record(**(said if work.audited else NOT_AUDITED), **work.learnt)


def _check_accuracy(config: Config) -> None:
    if not config.engine.tolerance > 0:
        raise JacspecError(f"engine.tolerance={config.engine.tolerance} is not above 0. Type engine.tolerance=1e-5.")
    check_least("engine.audit", config.engine.audit, 0)


NOT_AUDITED = {"audit": "none: jacfwd is the reference engine"}
CANCELLED = "terms cancel, values are rounding"


def _accuracy(results: Sequence[LayerResult], tolerance: float, precision: str) -> dict[str, Any]:
    """Sum up what the engine says of its accuracy: the audit, and the samples that did not converge."""
    said = [(result.layer, name, values) for result in results for name, values in result.diagnostics.items()]
    allowed = allowed_deviation(tolerance, jnp.dtype(precision))
    audited = [(f"layer {layer}, {name}", values.get("audit_deviation", np.zeros(0))) for layer, name, values in said]
    within = np.concatenate([np.zeros(0), *(each[each <= allowed] for _, each in audited)])
    cancelled = [where for where, each in audited if not (each <= allowed).all()]
    missed = [
        f"layer {layer}, {name}, sample {sample}"
        for layer, name, values in said
        for sample in np.flatnonzero(~values.get("converged", np.ones(0, bool))).tolist()
    ]
    return {
        "audit": {
            "recomputed Jacobians": sum(each.size for _, each in audited),
            "largest relative deviation": float(within.max()) if within.size else None,
            "tolerance": tolerance,
            **({CANCELLED: cancelled} if cancelled else {}),
        },
        "not_converged": missed,
    }


def _say_accuracy(provenance: Mapping[str, Any], console: Console) -> None:
    def say(words: str, style: str = "") -> None:
        console.print(words, style=style, soft_wrap=True, highlight=False)

    found = provenance.get("audit")
    if isinstance(found, Mapping) and found["recomputed Jacobians"]:
        largest = found["largest relative deviation"]
        deviation = "" if largest is None else f", largest relative deviation {largest:.1e}"
        say(f"audit: {found['recomputed Jacobians']} Jacobians recomputed with jacfwd and SVD{deviation}")
        if cancelled := found.get(CANCELLED):
            say(f"values that are rounding, for the terms of these Jacobians cancel: {_first(cancelled)}", "yellow")
    if missed := provenance.get("not_converged"):
        say(
            f"{len(missed)} spectra did not reach engine.tolerance (error bounds: spectra.nc): {_first(missed)}",
            "bold red",
        )


def _first(places: Sequence[str]) -> str:
    return "; ".join(places[:5]) + ("; …" if len(places) > 5 else "")


def _open_folder(
    config: Config, folder: Path, provenance: dict[str, Any], sample: Sample, columns: tuple[str, ...]
) -> RunWriter:
    pairs = zip(sample.tokens, sample.texts, strict=True)
    rows = [(number, len(ids), text) for number, (ids, text) in enumerate(pairs)]
    if config.resume is not None:
        return resume_run(Path(config.resume), provenance, metric_names=columns, samples=rows)
    return start_run(folder, provenance, metric_names=columns, samples=rows)


def _provenance(
    config: Config, checkpoint: Checkpoint, inputs: Inputs, sample: Sample, batches: Sequence[PaddedBatch]
) -> dict[str, Any]:
    """Collect what `run.json` holds of a run over samples."""
    corpus = inputs.corpus
    identity = {
        "checkpoint": describe_checkpoint(checkpoint),
        "corpus": describe_corpus(corpus, sample),
        "batches": [list(padded.batch.tokens.shape) for padded in batches],
    }
    return describe_run(config, study=find_study(config.task), identity=identity) | {
        "corpus": {
            "name": inputs.corpus_name,
            "source": corpus.source,
            "candidates": len(corpus.texts),
            "drawn": sample.candidates,
        },
    }
