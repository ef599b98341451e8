"""A run folder as it is read: what was run, and its tables."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError, as_typed, blaming, shortened
from jacspec.files import MAX_JSON_BYTES, parse_json, read_file
from jacspec.runs.checks import check_file, check_provenance, check_table
from jacspec.runs.files import RUN_FILE, SPECTRA
from jacspec.runs.tables import join_complex

if TYPE_CHECKING:
    import pandas
    import xarray


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
        return self.table("metrics.csv")

    @functools.cached_property
    def summary(self) -> "pandas.DataFrame":
        """One row a (layer, component, metric): n, mean, standard error, median, quartiles, whiskers."""
        return self.table("summary.csv")

    @functools.cached_property
    def samples(self) -> "pandas.DataFrame":
        """One row a sample: number, tokens, text."""
        return self.table("samples.csv")

    @functools.cached_property
    def dataset(self) -> "xarray.Dataset":
        """Singular values, metrics and what other arrays there are, with labelled axes."""
        import xarray

        file = self._checked(SPECTRA)
        with blaming(f"{file} cannot be read"):
            return join_complex(xarray.load_dataset(file, engine="scipy"))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that were computed, in the order of the table."""
        return tuple(self.provenance["metrics"])

    @property
    def components(self) -> tuple[str, ...]:
        """The components that were analysed."""
        return tuple(dict.fromkeys(self.metrics["component"]))

    def table(self, name: str) -> "pandas.DataFrame":
        """Read a further table of the folder by its file name.

        **Raises:** `JacspecError` where it is not what the run wrote (`runs.checks`).
        """
        import pandas

        file = self._checked(name)
        # A sample's text may be "nan".
        with blaming(f"{file} cannot be read"):
            table = pandas.read_csv(file, keep_default_na=False, na_values=["nan", ""], na_filter=name != "samples.csv")
        check_table(table, file, self.provenance)
        return table

    def check(self) -> None:
        """Look whether the tables are what the run wrote; raises `JacspecError` where one is not."""
        for name in self.provenance.get("files") or {"metrics.csv": {}}:
            self._checked(name)
        _ = self.metrics

    def _checked(self, name: str) -> Path:
        """Return the place of a table that is as the run wrote it."""
        check_file(self.folder / name, self.provenance.get("files") or {})
        return self.folder / name


@contextlib.contextmanager
def blaming_folders(*runs: Run) -> Iterator[None]:
    """Say of whatever fails inside that a folder is damaged: tables have hashes, `run.json` itself has none.

    A disk that is full or may not be written is no fault of the folder's content.
    """
    try:
        yield
    except (JacspecError, MemoryError, OSError):
        raise
    except Exception as error:
        folders = shortened(str(run.folder) for run in runs)
        raise JacspecError(
            f"{folders} is damaged or of another version (JACSPEC_TRACEBACK=1 says where it fails): {error}"
        ) from error


def open_run(folder: Path | str) -> Run:
    """Open a finished run folder.

    **Raises:** `JacspecError` where it is not a run, or one that is not finished.
    """
    run = Run(Path(folder).expanduser())
    if run.provenance["status"] != "finished":
        raise JacspecError(f"The run in {folder} is not finished. Type {as_typed('resume', folder)} to resume it.")
    if "metrics" not in run.provenance:
        raise JacspecError(f"The run in {folder} is of task={run.provenance.get('task')}: it has no spectra to show.")
    return run


def differing_keys(stored: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Name the leaves in which two nested mappings differ, with both values."""
    left, right = flatten(stored), flatten(given)
    return [
        f"{key} was {left.get(key)!r}, now {right.get(key)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    ]


def read_run_file(folder: Path) -> dict[str, Any]:
    """Read `run.json`; raises `JacspecError` where the folder is not a run."""
    file = folder / RUN_FILE
    if not file.exists():
        there = "" if folder.exists() else "; there is no such folder"
        raise JacspecError(f"{folder} is not a run folder: it has no {RUN_FILE}{there}.")
    content = parse_json(read_file(file, most=MAX_JSON_BYTES), str(file))
    check_provenance(content, file)
    assert isinstance(content, dict)
    return content


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name the leaves of nested mappings by dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
