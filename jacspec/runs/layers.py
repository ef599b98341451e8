"""A run over samples: written layer by layer so that a kill loses at most the layer in work, and resumed."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jacspec.glossary import LayerResult
from jacspec.runs.files import PARTS, REASON, SPECTRA, csv_text, write_atomically, write_csv
from jacspec.runs.parts import collect_layers, read_shards, write_layer
from jacspec.runs.tables import SUMMARY_COLUMNS, summary_rows, to_dataset
from jacspec.runs.writing import Writer, make_folder, reopen_folder


@dataclasses.dataclass
class RunWriter(Writer):
    """A Jacobian run being written. `done` maps the blocks that an earlier try finished to their results."""

    metric_names: tuple[str, ...]
    samples: Sequence[tuple[int, int, str]]
    done: dict[int, LayerResult]

    @property
    def n_tokens(self) -> list[int]:
        """Count the tokens of each sample."""
        return [n for _, n, _ in self.samples]

    def add_layer(self, result: LayerResult) -> None:
        """Write one finished layer durably, then its rows of `metrics.csv`."""
        if result.number in self.done:
            return
        write_layer(self.folder / PARTS, result)
        self.done[result.number] = result
        with (self.folder / "metrics.csv").open("a", encoding="utf-8", newline="") as stream:
            stream.write(csv_text(_metric_rows(result, self.metric_names, self.n_tokens)))
            stream.flush()
            os.fsync(stream.fileno())

    def write_tables(self) -> None:
        """Write `samples.csv`, and `metrics.csv`, `summary.csv` and `spectra.nc` from the layers that are done."""
        write_csv(self.folder / "samples.csv", ("sample", "n_tokens", "text"), self.samples)
        results = [self.done[number] for number in sorted(self.done)]
        write_csv(
            self.folder / "metrics.csv",
            ("layer", "component", "sample", "n_tokens", *self.metric_names, REASON),
            (row for result in results for row in _metric_rows(result, self.metric_names, self.n_tokens)),
        )
        if results:
            write_csv(self.folder / "summary.csv", SUMMARY_COLUMNS, summary_rows(results, self.metric_names))
            dataset = to_dataset(results, self.metric_names, self.n_tokens)
            write_atomically(self.folder / SPECTRA, bytes(dataset.to_netcdf(engine="scipy")))


def start_run(
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    metric_names: tuple[str, ...],
    samples: Sequence[tuple[int, int, str]],
) -> RunWriter:
    """Begin a run in a new folder.

    **Arguments:** `provenance`, what `run.json` is to hold; its entry `identity` decides later whether a run can
    be resumed. `samples`, rows of `samples.csv`: number, tokens, text.
    """
    writer = RunWriter(folder, make_folder(folder, provenance), metric_names, samples, {})
    writer.write_tables()
    return writer


def resume_run(
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    metric_names: tuple[str, ...],
    samples: Sequence[tuple[int, int, str]],
) -> RunWriter:
    """Resume an unfinished run of the same configuration, files and versions; arguments as `start_run`.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = reopen_folder(folder, provenance)
    done = collect_layers(read_shards(folder / PARTS, metric_names), range(len(samples)))
    writer = RunWriter(folder, stored, metric_names, samples, done)
    if stored["status"] != "finished":
        writer.write_tables()
    return writer


def _metric_rows(result: LayerResult, names: Sequence[str], n_tokens: Sequence[int]) -> list[tuple[Any, ...]]:
    return [
        (result.layer, component, sample, tokens, *(metrics[name][sample] for name in names), reason)
        for component, metrics in result.metrics.items()
        for sample, (tokens, reason) in enumerate(
            zip(n_tokens, _reasons(result, component, len(n_tokens)), strict=True)
        )
    ]


def _reasons(result: LayerResult, component: str, samples: int) -> Sequence[str]:
    return [str(reason) for reason in result.reasons.get(component, [""] * samples)]
