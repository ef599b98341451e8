"""How several processes share a run over samples: each takes every nth batch through all layers, process 0 gathers.

A batch is the same whoever computes it, so the numbers are those of one process to the last bit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jacspec.axes import LayerResult
from jacspec.errors import JacspecError, as_typed
from jacspec.runs.files import PARTS, RUN_FILE, refuse_link
from jacspec.runs.folder import read_run_file
from jacspec.runs.layers import LayerShard, RunWriter, collect_layers, read_shards, write_shard
from jacspec.runs.workers import DONE, Workers, forget_heartbeats, leave_workers, read_heartbeat, send_heartbeats, watch
from jacspec.runs.writing import read_same_run
from jacspec.studies.work import Work

Advance = Callable[[int, int], None]


def coordinate(
    workers: Workers, work: Work, writer: RunWriter, advance: Advance, *, timeout: float
) -> list[LayerResult]:
    """Compute this process's shard, process 0's, wait for the others', and put the layers together."""
    layers = writer.folder / PARTS
    forget_heartbeats(layers)
    with send_heartbeats(layers, workers.index, every=timeout / 6):
        leave_workers(workers)
        _compute_shard(workers, work, layers, advance)
        others = range(1, workers.count)

        def all_done() -> bool:
            signs = [read_heartbeat(layers, index) for index in others]
            return all(sign is not None and sign.state == DONE for sign in signs)

        watch(layers, others, until=all_done, timeout=timeout, ways_on=_ways_on(writer.folder))
        whole = collect_layers(read_shards(layers, work.columns), range(len(writer.n_tokens)))
    if missing := [number for number in work.numbers if number not in whole]:
        raise JacspecError(f"Shards of the blocks {missing} are missing. {_ways_on(writer.folder)}")
    return [whole[number] for number in work.numbers]


def contribute(
    workers: Workers, work: Work, folder: Path, provenance: Mapping[str, Any], advance: Advance, *, timeout: float
) -> None:
    """Compute the shard of a process other than 0 in the folder that process 0 opened, and wait for it to gather.

    **Raises:** `JacspecError` where that folder is of another run, or process 0 is lost.
    """
    leave_workers(workers)
    if not (folder / RUN_FILE).is_file():
        raise JacspecError(f"Process 0 did not open {folder}; it says why.")
    if read_same_run(folder, provenance)["status"] == "finished":
        return
    layers = folder / PARTS
    refuse_link(layers)
    with send_heartbeats(layers, workers.index, every=timeout / 6):
        _compute_shard(workers, work, layers, advance)

    def gathered() -> bool:
        sign = read_heartbeat(layers, 0)
        # The signs go when the run is finished.
        return sign.state == DONE if sign is not None else read_run_file(folder)["status"] == "finished"

    watch(layers, [0], until=gathered, timeout=timeout, ways_on=_ways_on(folder))


def _compute_shard(workers: Workers, work: Work, layers: Path, advance: Advance) -> None:
    """Write this process's shard of every layer that is not there yet."""
    mine = workers.shard(work.batches)
    if not mine:
        return
    samples = sorted(sample for padded in mine for sample in padded.samples)
    done = collect_layers(read_shards(layers, work.columns), samples)
    for result in work.stream(mine, done=done, advance=advance):
        if result.number not in done:
            write_shard(layers, LayerShard(np.array(samples), result), workers)


def _ways_on(folder: Path) -> str:
    return f"What was finished is kept: start all processes again with {as_typed('resume', folder)}."
