"""The run folder: written layer by layer so that a kill loses at most the layer in work, resumed, read.

| file            | content                                                                        |
|-----------------|--------------------------------------------------------------------------------|
| `run.json`      | provenance; `status` is `unfinished` until everything else is there            |
| `samples.csv`   | sample, n_tokens, text                                                         |
| `layers/`       | one file a finished layer while the run goes on; the truth that resuming reads |
| `metrics.csv`   | one row a (layer, component, sample), a column a metric                        |
| `summary.csv`   | one row a (layer, component, metric): the distribution over samples            |
| `spectra.nc`    | xarray Dataset: singular values and metrics with labelled axes                 |
| `figures/`, `report.html` | drawn from the files above by `jacspec.report`                       |
"""

import csv
import dataclasses
import functools
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from jacspec.errors import JacspecError
from jacspec.glossary import LayerResult

if TYPE_CHECKING:
    import pandas
    import xarray

RUN_FILE, LAYERS, SPECTRA = "run.json", "layers", "spectra.nc"
QUANTILES = {"median": 0.5, "q1": 0.25, "q3": 0.75}
TEMPORARY = ".jacspec-"
"""How names of files begin that a kill may leave half-written; resuming removes them."""

WHISKER = 1.5
"""Whiskers reach to the last value within 1.5 interquartile ranges of the box, as Tukey and Matplotlib draw them."""


def write_atomically(file: Path, content: bytes) -> None:
    """Put a file in place whole and durably: after a crash it is the old one or the new one."""
    stream = tempfile.NamedTemporaryFile(dir=file.parent, prefix=f"{TEMPORARY}{file.name}.", delete=False)  # noqa: SIM115
    try:
        with stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(stream.name).chmod(0o644)
        os.replace(stream.name, file)
    except BaseException:
        Path(stream.name).unlink()
        raise
    _sync_folder(file.parent)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(file, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically; floats keep every digit that tells them apart."""
    write_atomically(file, _csv_text([header, *rows]).encode())


@dataclasses.dataclass
class RunWriter:
    """A Jacobian run being written. `done` maps the blocks that an earlier try finished to their results."""

    folder: Path
    provenance: dict[str, Any]
    metric_names: tuple[str, ...]
    n_tokens: Sequence[int]
    done: dict[int, LayerResult]

    def add_layer(self, result: LayerResult) -> None:
        """Write one finished layer durably, then its rows of `metrics.csv`."""
        if result.number in self.done:
            return
        write_atomically(self.folder / LAYERS / f"{result.number:04d}.npz", _pack_layer(result))
        self.done[result.number] = result
        with (self.folder / "metrics.csv").open("a", encoding="utf-8", newline="") as stream:
            stream.write(_csv_text(_metric_rows(result, self.metric_names, self.n_tokens)))
            stream.flush()
            os.fsync(stream.fileno())

    def write_tables(self) -> None:
        """Write `metrics.csv`, `summary.csv` and `spectra.nc` from the layers that are done."""
        results = [self.done[number] for number in sorted(self.done)]
        write_csv(
            self.folder / "metrics.csv",
            ("layer", "component", "sample", "n_tokens", *self.metric_names),
            (row for result in results for row in _metric_rows(result, self.metric_names, self.n_tokens)),
        )
        if results:
            write_csv(self.folder / "summary.csv", SUMMARY_COLUMNS, summary_rows(results, self.metric_names))
            dataset = to_dataset(results, self.metric_names, self.n_tokens)
            write_atomically(self.folder / SPECTRA, bytes(dataset.to_netcdf(engine="scipy")))

    def record(self, **provenance: Any) -> None:
        """Add what was learnt to `run.json`."""
        self.provenance |= provenance
        write_json(self.folder / RUN_FILE, self.provenance)

    def finish(self) -> None:
        """Declare the run finished, everything else being there, and remove the files that served resuming."""
        self.record(status="finished")
        shutil.rmtree(self.folder / LAYERS, ignore_errors=True)


def start_run(
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    metric_names: tuple[str, ...],
    samples: Sequence[tuple[int, int, str]],
) -> RunWriter:
    """Begin a run in a new folder.

    **Arguments:** `provenance`, what `run.json` is to hold; its entry `identity` decides later whether a run can
    be gone on with. `samples`, rows of `samples.csv`: number, tokens, text.
    """
    if (folder / RUN_FILE).exists():
        raise JacspecError(f"{folder} already holds a run. Type resume={folder} to go on with it.")
    (folder / LAYERS).mkdir(parents=True, exist_ok=True)
    write_csv(folder / "samples.csv", ("sample", "n_tokens", "text"), samples)
    whole = {"status": "unfinished", **provenance}
    writer = RunWriter(folder, whole, metric_names, [n for _, n, _ in samples], {})
    writer.write_tables()
    # Last, because a folder with run.json is a run: a kill before this line leaves nothing to go on with.
    write_json(folder / RUN_FILE, whole)
    return writer


def resume_run(
    folder: Path, provenance: Mapping[str, Any], *, metric_names: tuple[str, ...], n_tokens: Sequence[int]
) -> RunWriter:
    """Go on with an unfinished run of the same configuration, files and versions.

    **Raises:** `JacspecError` with the keys that differ.
    """
    stored = read_run_file(folder)
    if "identity" not in stored:
        raise JacspecError(f"The run in {folder} is of task={stored.get('task')}, which cannot be gone on with.")
    differing = differing_keys(stored.get("identity", {}), provenance["identity"])
    if differing:
        raise JacspecError(f"{folder} is a run of another configuration: {'; '.join(differing)}.")
    for stray in folder.rglob(f"{TEMPORARY}*"):
        stray.unlink()
    done = {}
    for file in sorted((folder / LAYERS).glob("*.npz")):
        result = _unpack_layer(file, metric_names)
        done[result.number] = result
    writer = RunWriter(folder, stored, metric_names, n_tokens, done)
    if stored["status"] != "finished":
        writer.write_tables()
    return writer


def differing_keys(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Name the leaves in which two nested mappings differ, with both values."""
    left, right = _flatten(stored), _flatten(given)
    return [
        f"{key} was {left.get(key)!r}, now {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def read_run_file(folder: Path) -> dict[str, Any]:
    """Read `run.json`; raises `JacspecError` where the folder is no run."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JacspecError(f"{folder} is not a run folder: it has no {RUN_FILE}.") from None
    except (OSError, ValueError) as error:
        raise JacspecError(f"{folder / RUN_FILE} cannot be read: {error}") from error
    if not isinstance(content, dict) or "status" not in content:
        raise JacspecError(f"{folder / RUN_FILE} was not written by jacspec.")
    return content


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A finished run folder, read lazily."""

    folder: Path

    @functools.cached_property
    def provenance(self) -> dict[str, Any]:
        """What was run, from `run.json`."""
        return read_run_file(self.folder)

    @functools.cached_property
    def metrics(self) -> "pandas.DataFrame":
        """One row a (layer, component, sample), a column a metric."""
        return self._table("metrics.csv")

    @functools.cached_property
    def summary(self) -> "pandas.DataFrame":
        """One row a (layer, component, metric): n, mean, standard error, median, quartiles, whiskers."""
        return self._table("summary.csv")

    @functools.cached_property
    def samples(self) -> "pandas.DataFrame":
        """One row a sample: number, tokens, text."""
        return self._table("samples.csv")

    @functools.cached_property
    def dataset(self) -> "xarray.Dataset":
        """Singular values and metrics with labelled axes."""
        import xarray

        return xarray.load_dataset(self.folder / SPECTRA, engine="scipy")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that were computed, in the order of the table."""
        return tuple(self.provenance["metrics"])

    @property
    def components(self) -> tuple[str, ...]:
        """The components that were analysed."""
        return tuple(dict.fromkeys(self.metrics["component"]))

    def _table(self, name: str) -> "pandas.DataFrame":
        import pandas

        # A sample's text may be "nan".
        return pandas.read_csv(
            self.folder / name, keep_default_na=False, na_values=["nan", ""], na_filter=name != "samples.csv"
        )


def open_run(folder: Path | str) -> Run:
    """Open a finished run folder.

    **Raises:** `JacspecError` where it is no run, or one that is not finished.
    """
    run = Run(Path(folder).expanduser())
    if run.provenance["status"] != "finished":
        raise JacspecError(f"The run in {folder} is not finished. Type resume={folder} to go on with it.")
    if "metrics" not in run.provenance:
        raise JacspecError(f"The run in {folder} is of task={run.provenance.get('task')}: it has no spectra to show.")
    return run


DIAGNOSTICS: Mapping[str, tuple[str, ...]] = {"error_bound": ("k",), "steps": (), "converged": ()}
"""What an engine may say of its accuracy beside the spectra, and the axes it has beyond those of a metric."""


def to_dataset(
    results: Sequence[LayerResult], metric_names: Sequence[str], n_tokens: Sequence[int]
) -> "xarray.Dataset":
    """Label results: `singular_values` (layer, component, sample, k) and each metric (layer, component, sample).

    NaN stands where a stack has fewer layers than another.
    """
    import xarray

    layers = sorted({result.layer for result in results})
    components = list(dict.fromkeys(name for result in results for name in result.singular_values))
    found = {(result.layer, name): result for result in results for name in result.singular_values}

    def table(values: Callable[[LayerResult, str], np.ndarray]) -> np.ndarray:
        blank = np.full_like(values(*next((result, name) for (_, name), result in found.items())), np.nan)
        return np.stack(
            [
                np.stack([values(found[layer, name], name) if (layer, name) in found else blank for name in components])
                for layer in layers
            ]
        )

    sigma = table(lambda result, name: result.singular_values[name])
    axes = ("layer", "component", "sample")
    variables: dict[str, Any] = {"singular_values": ((*axes, "k"), sigma)}
    for metric in metric_names:

        def values(result: LayerResult, name: str, metric: str = metric) -> np.ndarray:
            return result.metrics[name][metric]

        variables[metric] = (axes, table(values))
    first = next(iter(found.values())).diagnostics
    for name, dimensions in DIAGNOSTICS.items():
        if all(name in said for said in first.values()) and first:

            def said(result: LayerResult, component: str, name: str = name) -> np.ndarray:
                return result.diagnostics[component][name].astype(np.float64)

            variables[name] = ((*axes, *dimensions), table(said))
    coordinates = {
        "layer": layers,
        "component": components,
        "sample": np.arange(sigma.shape[2]),
        "k": np.arange(1, sigma.shape[3] + 1),
        "n_tokens": ("sample", np.asarray(n_tokens)),
    }
    return xarray.Dataset(variables, coordinates)


SUMMARY_COLUMNS = (
    "layer", "component", "metric", "n", "mean", "standard_error", *QUANTILES, "whisker_low", "whisker_high"
)  # fmt: skip


def summary_rows(results: Sequence[LayerResult], metric_names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Summarise each distribution over samples; values that are missing (NaN) are left out and not counted."""
    return [
        (result.layer, component, metric, *summarise(np.asarray(result.metrics[component][metric], np.float64)))
        for result in results
        for component in result.metrics
        for metric in metric_names
    ]


def summarise(values: Float[np.ndarray, " sample"]) -> tuple[int | float, ...]:
    """Return n, mean, standard error (n − 1 in the deviation), median, quartiles, and Tukey's whiskers."""
    values = values[np.isfinite(values)]
    if not values.size:
        return (0, *[float("nan")] * (len(SUMMARY_COLUMNS) - 4))
    deviation = values.std(ddof=1) if values.size > 1 else float("nan")
    median, q1, q3 = np.quantile(values, list(QUANTILES.values())).tolist()
    reach = WHISKER * (q3 - q1)
    inside = values[(values >= q1 - reach) & (values <= q3 + reach)]
    low, high = min(inside.min(), q1), max(inside.max(), q3)
    numbers = (values.mean(), deviation / values.size**0.5, median, q1, q3, low, high)
    return (int(values.size), *(float(number) for number in numbers))


def _metric_rows(result: LayerResult, names: Sequence[str], n_tokens: Sequence[int]) -> list[tuple[Any, ...]]:
    return [
        (result.layer, component, sample, tokens, *(metrics[name][sample] for name in names))
        for component, metrics in result.metrics.items()
        for sample, tokens in enumerate(n_tokens)
    ]


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _pack_layer(result: LayerResult) -> bytes:
    arrays: dict[str, Shaped[np.ndarray, ...]] = {
        "number": np.array(result.number),
        "layer": np.array(result.layer),
        "components": np.array(list(result.singular_values)),
    }
    for component, sigma in result.singular_values.items():
        arrays[f"{component}/singular_values"] = sigma
        arrays |= {f"{component}/metric/{name}": values for name, values in result.metrics[component].items()}
        said = result.diagnostics.get(component, {})
        arrays |= {f"{component}/diagnostic/{name}": values for name, values in said.items()}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _unpack_layer(file: Path, metric_names: Sequence[str]) -> LayerResult:
    try:
        # All is read, not only what is looked for: reading is what compares checksums and names.
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            arrays = dict(stored)
        components = arrays["components"].tolist()
        singular_values = {component: arrays[f"{component}/singular_values"] for component in components}
        metrics = {
            component: {name: arrays[f"{component}/metric/{name}"] for name in metric_names} for component in components
        }
        diagnostics = {
            component: {
                name.removeprefix(f"{component}/diagnostic/"): values
                for name, values in arrays.items()
                if name.startswith(f"{component}/diagnostic/")
            }
            for component in components
        }
        return LayerResult(int(arrays["number"]), int(arrays["layer"]), singular_values, metrics, diagnostics)
    except Exception as error:  # zipfile raises many types for a damaged file
        raise JacspecError(f"{file} is damaged ({error}). Delete it: resuming computes that layer again.") from error


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
