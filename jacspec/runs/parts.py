"""The files of `layers/`: a layer whole, or the share of it that one of several processes computed.

| file                    | holds                                                          |
|-------------------------|----------------------------------------------------------------|
| `0003.npz`              | block 3, all samples                                           |
| `0003.process1of4.npz`  | block 3, the samples that process 1 of four (0 to 3) took      |

Whoever goes on, alone or as another number of processes, goes on from all of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jacspec.glossary import LayerResult
from jacspec.runs.files import REASON, part_files, read_arrays, write_arrays
from jacspec.runs.processes import Workers

SAMPLES, AUDIT = "samples", "audit_deviation"
"""The rows of a share, and the one array of a layer that has not a row a sample."""


class Shard(NamedTuple):
    """What is known of one block: the rows of `result` are those of `samples`."""

    samples: Int[np.ndarray, " sample"]
    result: LayerResult


def write_layer(folder: Path, result: LayerResult) -> None:
    """Write a whole layer durably."""
    _write(folder / f"{result.number:04d}.npz", result, {})


def write_shard(folder: Path, share: Shard, workers: Workers) -> None:
    """Write this process's share of a layer durably."""
    file = folder / f"{share.result.number:04d}.process{workers.index}of{workers.count}.npz"
    _write(file, share.result, {SAMPLES: share.samples})


def read_shards(folder: Path, metric_names: Sequence[str]) -> dict[int, list[Shard]]:
    """Read what is there of every block, by its number; raises `JacspecError` for a damaged file."""
    found: dict[int, list[Shard]] = {}
    for file in part_files(folder):
        share = read_arrays(file, lambda arrays: _restore_shard(arrays, metric_names))
        found.setdefault(share.result.number, []).append(share)
    return found


def collect_layers(held: Mapping[int, Sequence[Shard]], samples: Sequence[int]) -> dict[int, LayerResult]:
    """Put together, by number, the blocks of which all `samples` are held, each sample in its place among these."""
    found = {number: _collect(shares, np.asarray(samples)) for number, shares in held.items()}
    return {number: result for number, result in found.items() if result is not None}


def _collect(shares: Sequence[Shard], samples: Int[np.ndarray, " sample"]) -> LayerResult | None:
    known, first = np.unique(np.concatenate([share.samples for share in shares]), return_index=True)
    if not np.isin(samples, known).all():
        return None
    rows = first[np.searchsorted(known, samples)]
    tables = [_flatten(share.result) for share in shares]
    whole = {
        key: np.concatenate([table[key] for table in tables if key in table])
        for key in dict.fromkeys(key for table in tables for key in table)
    }
    in_order = {key: values if key.endswith(AUDIT) else values[rows] for key, values in whole.items()}
    return _restore(shares[0].result.number, shares[0].result.layer, in_order)


def _write(file: Path, result: LayerResult, beside: Mapping[str, np.ndarray]) -> None:
    arrays = {"number": np.array(result.number), "layer": np.array(result.layer)}
    write_arrays(file, {**arrays, **beside, **_flatten(result)})


def _restore_shard(arrays: Mapping[str, np.ndarray], metric_names: Sequence[str]) -> Shard:
    result = _restore(int(arrays["number"]), int(arrays["layer"]), arrays)
    metrics = {component: {name: values[name] for name in metric_names} for component, values in result.metrics.items()}
    rows = len(next(iter(result.singular_values.values())))
    return Shard(arrays.get(SAMPLES, np.arange(rows)), result._replace(metrics=metrics))


def _flatten(result: LayerResult) -> dict[str, np.ndarray]:
    """Name the arrays of a layer by component, kind and name."""
    arrays: dict[str, np.ndarray] = {}
    for component, sigma in result.singular_values.items():
        arrays[f"{component}/singular_values"] = sigma
        for kind, held in (
            ("metric", result.metrics),
            ("diagnostic", result.diagnostics),
            ("vector", result.vectors),
        ):
            arrays |= {f"{component}/{kind}/{name}": values for name, values in held.get(component, {}).items()}
        if component in result.reasons:
            arrays[f"{component}/{REASON}"] = result.reasons[component]
    return arrays


def _restore(number: int, layer: int, arrays: Mapping[str, np.ndarray]) -> LayerResult:
    """Make a layer of its arrays by name."""
    components = dict.fromkeys(key.partition("/")[0] for key in arrays if "/" in key)
    metrics, diagnostics, vectors = (
        {component: _beginning(arrays, f"{component}/{kind}/") for component in components}
        for kind in ("metric", "diagnostic", "vector")
    )
    sigma = {component: arrays[f"{component}/singular_values"] for component in components}
    reasons = {component: arrays[name] for component in components if (name := f"{component}/{REASON}") in arrays}
    return LayerResult(number, layer, sigma, metrics, diagnostics, vectors, reasons)


def _beginning(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
