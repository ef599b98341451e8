"""How several processes share a run over samples: each takes every nth batch through all layers, process 0 gathers.

A batch is the same whoever computes it, so the numbers are those of one process to the last bit.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jacspec.errors import JacspecError
from jacspec.glossary import LayerResult
from jacspec.runs.files import PARTS, RUN_FILE, refuse_link
from jacspec.runs.folder import read_run_file
from jacspec.runs.layers import RunWriter
from jacspec.runs.parts import Share, collect_layers, read_shares, write_share
from jacspec.runs.processes import Crew, part_crew
from jacspec.runs.signs import DONE, forget_signs, read_sign, show_signs, watch
from jacspec.runs.writing import read_same_run
from jacspec.studies.work import Work

Advance = Callable[[int, int], None]


def lead(crew: Crew, work: Work, writer: RunWriter, advance: Advance, *, timeout: float) -> list[LayerResult]:
    """Compute this process's share, process 0's, wait for the others', and put the layers together."""
    parts = writer.folder / PARTS
    forget_signs(parts)
    with show_signs(parts, crew.index, every=timeout / 6):
        part_crew()
        _compute_share(crew, work, parts, advance)
        others = range(1, crew.count)

        def all_done() -> bool:
            signs = [read_sign(parts, index) for index in others]
            return all(sign is not None and sign.state == DONE for sign in signs)

        watch(parts, others, until=all_done, timeout=timeout, ways_on=_ways_on(writer.folder))
        whole = collect_layers(read_shares(parts, work.columns), range(len(writer.n_tokens)))
    if missing := [number for number in work.numbers if number not in whole]:
        raise JacspecError(f"Shares of the blocks {missing} are missing. {_ways_on(writer.folder)}")
    return [whole[number] for number in work.numbers]


def assist(
    crew: Crew, work: Work, folder: Path, provenance: Mapping[str, Any], advance: Advance, *, timeout: float
) -> None:
    """Compute the share of a process other than 0 in the folder that process 0 opened, and wait for it to gather.

    **Raises:** `JacspecError` where that folder is of another run, or process 0 is lost.
    """
    part_crew()
    if not (folder / RUN_FILE).is_file():
        raise JacspecError(f"Process 0 did not open {folder}; it says why.")
    if read_same_run(folder, provenance)["status"] == "finished":
        return
    parts = folder / PARTS
    refuse_link(parts)
    with show_signs(parts, crew.index, every=timeout / 6):
        _compute_share(crew, work, parts, advance)

    def gathered() -> bool:
        sign = read_sign(parts, 0)
        # The signs go when the run is finished.
        return sign.state == DONE if sign is not None else read_run_file(folder)["status"] == "finished"

    watch(parts, [0], until=gathered, timeout=timeout, ways_on=_ways_on(folder))


def _compute_share(crew: Crew, work: Work, parts: Path, advance: Advance) -> None:
    """Write this process's share of every layer that is not there yet."""
    mine = crew.share(work.batches)
    if not mine:
        return
    samples = sorted(sample for padded in mine for sample in padded.samples)
    done = collect_layers(read_shares(parts, work.columns), samples)
    for result in work.stream(mine, done=done, advance=advance):
        if result.number not in done:
            write_share(parts, Share(np.array(samples), result), crew)


def _ways_on(folder: Path) -> str:
    return f"What was finished is kept: start all processes again with resume={folder}."
