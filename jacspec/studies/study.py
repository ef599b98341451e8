"""What there is to know of a study, as data: the one object that is asked for whatever depends on the study.

What computes and what draws is named, as `module:name`, and imported when it is needed (`load`): a table of studies
needs neither JAX nor Matplotlib, nor does what it says of options and columns.
"""

import dataclasses
import enum
import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING: Any = "???"
"""OmegaConf's own word for a value that the configuration has to give, without OmegaConf's time to import."""


class End(enum.Enum):
    """Where a sample ends: at a drawn token of it, or at its own last one."""

    random = "random"
    sample = "sample"


class Quantity(NamedTuple):
    """What a column holds, so that console, page, figures and Python say the same.

    `symbol` is mathtext, `words` what labels call it where its name would not do, `unit` that of the values (`1` of a
    pure number). A `scale` grows with the matrix that it is of, as σ does: its changes are ratios.
    """

    symbol: str
    definition: str
    source: str
    unit: str = "1"
    scale: bool = False
    words: str = ""


class Plot(NamedTuple):
    """A figure of a run: what draws it, what its caption says, and what those are told who do not see it.

    Without a `description` that is the caption. What the page's interactive part shows too is `explored`: the page
    then links the file, and has it behind a click. One `on_request` is drawn where its name is given, not with all.
    """

    draw: "Callable[[], Figure]"
    caption: str
    description: Callable[[], str] | None = None
    explored: bool = False
    on_request: bool = False


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

TEXT_OPTIONS = ("samples", "split", "min_tokens", "max_tokens", "position", "decoder_input")
ENGINE_OPTIONS = ("engine", "tolerance", "audit", "memory_gib", "devices", "batch", "precision", "seed")
"""What studies of Jacobians take."""

READ_SAMPLES = (
    "A sample is one sentence (or line) of the corpus. For each sample, layer and component, the "
    "Jacobian says how a small change of the residual stream at the last token changes the component's "
    "output there; the other tokens are held fixed.",
    "A box holds the middle half of the samples, the line in it is the median, the whiskers reach to "
    "the last sample within 1.5 interquartile ranges of the box, and circles are the samples beyond.",
    "The spectral radius ρ here is the largest singular value σ₁ of the Jacobian, as in the paper's eq. "
    "7: a norm, the greatest gain that any small change can have. It is not an eigenvalue.",
    "A small decay ratio δ = σ₂/σ₁ means concentration: one direction dominates the layer's response. "
    "Near 1, at least two directions are passed on equally strongly.",
    "A component that adds nothing, as one with a projection of zeros, has ρ = 0 and no ratios (–): the "
    "last column of metrics.csv says why, and a distribution counts the samples that have a value.",
)
"""How to read metrics of Jacobians, a sample each."""

SAMPLE_CAUTION = (
    "In brackets, intervals of 95 % over the samples of this text in this one trained model; they say nothing of "
    "another text or another training seed."
)


@dataclasses.dataclass(frozen=True)
class Page:
    """What a study puts on its page, beside what all pages have.

    `title` says in a few words what was measured, `reading` how to read it. `findings` names a function that writes
    sections before the figures, `numbers` one for the tables behind them (else those of its kind of rows), `sentences`
    one that says in a few lines what was found, and `caution` what they do not say. `picture_bytes` is how much of
    the pictures the page holds; the others are linked.
    """

    title: str
    reading: tuple[str, ...]
    findings: str = ""
    caution: str = ""
    numbers: str = ""
    sentences: str = ""
    picture_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Study:
    """A study: what it reads, computes, writes and shows.

    **What it is given:** `run` names the function `(config, folder, console, inputs)`, `options` the dataclass of its
    own group of the configuration, whose values and words are in `conf/task/`. `inputs` are what it is about,
    of `model`, `text` and `runs`; `reads` the groups and keys of the configuration that its numbers depend on, and no
    others do: a run is resumed where these are the same. `draws` are options of its own that only say what figures
    show: a run is drawn anew with others. `takes` are the options that it shares with other studies.

    **What it gives:** `rows`, what a row of `metrics.csv` is (None: it has no such table); `columns` say what is in its
    columns, beside rows of `METRICS`; `files`, words for further files; `console`,
    which columns the terminal shows (empty: all); `figures`, a function of the run that gives its `Plot`s by name;
    `page`.

    `shareable`: several processes may share a run. `resumable`: an unfinished run is resumed. `folder`: it makes a run
    folder.
    """

    name: str
    run: str
    options: type | None = None
    inputs: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    draws: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    rows: Rows | None = None
    columns: Mapping[str, Quantity] = dataclasses.field(default_factory=dict)
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
