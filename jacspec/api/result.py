"""What a study gives in Python: its tables, labelled arrays and figures, read from its folder when asked for."""

import dataclasses
import functools
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError, as_typed, suggest
from jacspec.notebook import facts_table
from jacspec.runs.files import SPECTRA
from jacspec.runs.folder import Run as StoredRun
from jacspec.studies import study_of

if TYPE_CHECKING:
    import pandas
    import xarray
    from matplotlib.figure import Figure

SHOWN_ROWS = 5


class MissingNameError(JacspecError, KeyError):
    """A table or figure that a run does not have; the message says which there are."""

    __str__ = Exception.__str__  # KeyError would put it in quotes


class Named(Mapping[str, Any]):
    """Things by name that are made when asked for; a name that is not there says which are."""

    def __init__(self, what: str, names: Callable[[], list[str]], make: Callable[[str], Any]) -> None:
        self._what, self._names, self._make = what, names, make

    def __getitem__(self, name: str) -> Any:
        if name not in (names := self._names()):
            raise MissingNameError(
                f"This run has no {self._what} {name!r}. " + (suggest(str(name), names) if names else "It has none.")
            )
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __repr__(self) -> str:
        return f"{self._what}s: {', '.join(self)}" if len(self) else f"no {self._what}s"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Run(StoredRun):
    """A finished study.

    `metrics` and `summary` are pandas tables, `tables` all of them by name; `dataset` is an xarray Dataset with units
    and words; `figures[name]()` draws one Matplotlib figure; `report()` writes the page and returns its path;
    `save(folder)` keeps a run that lives in a temporary folder, which otherwise goes with this object.
    """

    @property
    def study(self) -> str:
        """The name of the study."""
        return study_of(self.provenance).name

    @property
    def tables(self) -> Mapping[str, "pandas.DataFrame"]:
        """Every table of the run as pandas, by its file's name without `.csv`."""
        return Named("table", lambda: sorted(file.stem for file in self.folder.glob("*.csv")), self._table)

    def _table(self, name: str) -> "pandas.DataFrame":
        return self.table(f"{name}.csv")

    @functools.cached_property
    def metrics(self) -> "pandas.DataFrame":
        """The values: a row a (layer, component, sample), matrix or experiment, a column a metric."""
        return self.tables["metrics"]

    @functools.cached_property
    def summary(self) -> "pandas.DataFrame":
        """Distributions: n, mean, standard error, median, quartiles and whiskers of each metric."""
        return self.tables["summary"]

    @functools.cached_property
    def samples(self) -> "pandas.DataFrame":
        """The samples: number, tokens, text."""
        return self.tables["samples"]

    @functools.cached_property
    def dataset(self) -> "xarray.Dataset":
        """Spectra and metrics with labelled axes; the files keep theirs: see `dataset.describe_dataset`."""
        from jacspec.api.dataset import describe_dataset

        if not (self.folder / SPECTRA).is_file() and "key_columns" not in self.provenance:
            raise MissingNameError(
                f"A run of {self.study} has no dataset. Its tables: {', '.join(self.tables) or 'none'}."
            )
        return describe_dataset(self._stored)

    @property
    def figures(self) -> "Mapping[str, Callable[[], Figure]]":
        """The figures of the run's page by name: `run.figures[name]()` draws one."""
        from jacspec.report.listing import list_figures

        drawn = list_figures(self._stored)
        return Named("figure", lambda: list(drawn), lambda name: drawn[name].draw)

    def plot(self, name: str | None = None) -> "Figure":
        """Draw one figure, by default the first; in a notebook it is shown where it is the value of a cell."""
        figures = self.figures
        return figures[name if name is not None else next(iter(figures), "")]()

    def report(self) -> Path:
        """Draw all figures and write the page; returns where `report.html` is."""
        from jacspec.report import write_report

        if not len(self.figures):
            raise MissingNameError(f"A run of {self.study} has no page.")
        write_report(self._stored)
        return self.folder / "report.html"

    def save(self, folder: str | Path) -> "Run":
        """Copy the run to a folder that is not there yet, its page drawn, and return the run in it.

        **Raises:** `JacspecError` where the folder is there.
        """
        place = Path(folder).expanduser()
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise JacspecError(f"{place} is there already. Give a folder that is not.")
        shutil.copytree(self.folder, place, dirs_exist_ok=True)
        kept = Run(place)
        if len(kept.figures) and not (place / "report.html").is_file():
            kept.report()
        return kept

    @property
    def _stored(self) -> StoredRun:
        """The same run with its arrays as they lie on disk, which figures are drawn from."""
        return StoredRun(self.folder)

    def __repr__(self) -> str:
        """Say in one line what was run."""
        return f"<jacspec.Run of {self.study}: {', '.join(f'{key} {value}' for key, value in self._facts().items())}>"

    def _repr_html_(self) -> str:
        """Show a notebook what was run, and the first rows of its summary or table."""
        table = next((self.tables[name] for name in ("summary", "metrics") if name in self.tables), None)
        shown = "" if table is None else table.head(SHOWN_ROWS)._repr_html_()
        return facts_table(f"jacspec.{self.study}", self._facts()) + shown

    def _facts(self) -> dict[str, Any]:
        from jacspec.report.labels import corpus_name, model_name

        found: dict[str, Any] = {}
        if "identity" in self.provenance:
            found["model"] = model_name(self)
        if "corpus" in self.provenance:
            found["text"] = corpus_name(self)
        found["tables"] = ", ".join(self.tables) or "none"
        found["folder"] = self.folder
        return found


def open_run(folder: str | Path) -> Run:
    """Open a finished run folder.

    **Raises:** `JacspecError` where it is not a run, or one that is not finished.
    """
    run = Run(Path(folder).expanduser())
    if run.provenance["status"] != "finished":
        raise JacspecError(
            f"The run in {folder} is not finished. The same call with folder={str(folder)!r} resumes it, "
            f"in a shell the same command with {as_typed('resume', folder)}."
        )
    return run


def keep_while_used(run: Run) -> Run:
    """Remove the folder of a run when nothing refers to the run any more, at the latest when Python ends."""
    weakref.finalize(run, shutil.rmtree, run.folder, ignore_errors=True)
    return run


def open_sweep(folder: str | Path) -> "pandas.DataFrame":
    """Open all finished runs inside a folder, as those of `python -m jacspec -m …`, as one tidy table.

    **Returns:** a pandas table: what told the runs apart as the first columns, as `model` or `seed`, then the columns
    of `metrics.csv`; `attrs["runs"]` are the runs by number, `attrs["left_out"]` says why others were not read.

    **Raises:** `JacspecError` where there is no finished run, or runs of several studies.
    """
    import pandas

    from jacspec.runs.several import find_run_folders

    place = Path(folder).expanduser()
    runs: list[Run] = []
    left_out: dict[str, str] = {}
    for each in find_run_folders(place):
        try:
            runs.append(open_run(each))
        except JacspecError as error:
            left_out[str(each)] = str(error)
    runs = [run for run in runs if "metrics" in run.tables]
    if not runs:
        raise JacspecError(f"{place} holds no finished run with a table. {'; '.join(left_out.values())}".strip())
    if len(studies := sorted({run.study for run in runs})) > 1:
        raise JacspecError(f"{place} holds runs of several studies: {', '.join(studies)}. Open those of one.")
    overrides = _overrides(runs)
    parts = []
    for number, (run, changed) in enumerate(zip(runs, overrides, strict=True)):
        named = {name if name not in run.metrics else f"{name}_given": value for name, value in changed.items()}
        parts.append(pandas.DataFrame({"run": number, **named}, index=run.metrics.index).join(run.metrics))
    table = pandas.concat(parts, ignore_index=True)
    table.attrs |= {"runs": runs, "left_out": left_out}
    return table


def _overrides(runs: list[Run]) -> list[dict[str, Any]]:
    """Say by short names in what the configurations of runs differ."""
    from jacspec.runs.several import differing_settings

    flat = differing_settings(runs)
    short = {key: re.sub(r"\.name$", "", key).rpartition(".")[2] for each in flat for key in each}
    clash = {name for name in short.values() if list(short.values()).count(name) > 1}
    return [{(key if short[key] in clash else short[key]): value for key, value in each.items()} for each in flat]
