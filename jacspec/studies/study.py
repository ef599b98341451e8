"""What there is to know of a study, as data: the one object that is asked for whatever depends on the study.

What computes and what draws is named, as `module:name`, and imported when it is needed (`load`): a table of studies
needs neither JAX nor Matplotlib.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Plot(NamedTuple):
    """A figure of a run: what draws it, what its caption says, and what those are told who do not see it.

    Without a `description` that is the caption.
    """

    draw: "Callable[[], Figure]"
    caption: str
    description: Callable[[], str] | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a row of `metrics.csv` is.

    `kind` is how rows are written, summed up and shown: `samples` (a layer, component and sample), `matrices`,
    `experiments` (by key columns of the run's own), `runs` (of other runs). `unit` is what page and console call one;
    `keys` are what Python selects them by, of experiments the run's key columns.
    """

    kind: str
    unit: str
    keys: tuple[str, ...] = ()

    @property
    def by_layer(self) -> bool:
        """Whether they are values of layers, so that runs can be compared layer by layer."""
        return self.kind in ("samples", "matrices")


SAMPLES = Rows("samples", "samples")
MATRICES = Rows("matrices", "matrices", ("role", "layer", "name"))
EXPERIMENTS = Rows("experiments", "experiments")
RUNS = Rows("runs", "runs")


@dataclasses.dataclass(frozen=True)
class Page:
    """What a study puts on its page, beside what all pages have.

    `title` says in a few words what was measured, `reading` how to read it. `findings` names a function that writes
    sections before the figures, `numbers` one for the tables behind them (else those of its kind of rows), `sentences`
    one that says in a few lines what was found. `picture_bytes` is how much of the pictures the page holds; the others
    are linked.
    """

    title: str
    reading: tuple[str, ...]
    findings: str = ""
    numbers: str = ""
    sentences: str = ""
    picture_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: what it reads, computes, writes and shows.

    **What it is given:** `run` names the function `(config, folder, console, inputs)`, `options` the dataclass of its
    own group of the configuration, whose values and words are in `conf/task/`. `inputs` are what it is about,
    of `model`, `text` and `runs`; `reads` the groups and keys of the configuration that its numbers depend on, and no
    others do: a run is resumed where these are the same. `takes` are the options that it shares with other studies.

    **What it gives:** `rows`, what a row of `metrics.csv` is (None: it has no such table); `columns` name the tables
    (name to `Quantity`) that say what is in its columns, its own first; `files`, words for further files; `console`,
    which columns the terminal shows (empty: all); `figures`, a function of the run that gives its `Plot`s by name;
    `page`.

    `shareable`: several processes may share a run. `resumable`: an unfinished run is resumed. `folder`: it makes a run
    folder.
    """

    name: str
    run: str
    options: str = ""
    inputs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    takes: tuple[str, ...] = ()
    rows: Rows | None = None
    columns: tuple[str, ...] = ()
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    console: tuple[str, ...] = ()
    figures: str = ""
    page: Page | None = None
    shareable: bool = False
    resumable: bool = True
    folder: bool = True


def load(place: str) -> Any:
    """Import what `module:name` names."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
