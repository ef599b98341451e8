"""Which figures of a run are drawn, and by whom: this process, and helpers that were started before."""

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence

from rich.console import Console

from jacspec.errors import JacspecError, suggest
from jacspec.progress import figure_progress
from jacspec.report import check_report
from jacspec.report.figures import save_figure
from jacspec.report.helpers import Drawing, hand_out, stop_helpers, take_back
from jacspec.report.listing import Plots, list_figures
from jacspec.runs import Run

PATIENCE_SECONDS = 60.0
"""No figure takes a tenth of that; a helper that is stopped or starved must not stop the run."""

_one_at_a_time = threading.Lock()
"""Two threads that draw would take what the other one handed out."""


def draw_figures(
    run: Run, console: Console | None = None, *, formats: Sequence[str], wanted: str | Collection[str]
) -> None:
    """Draw figures into the run's folder, on as many cores as there are helpers and this process.

    **Arguments:** `console`, where progress is shown; `formats`, of `FORMATS`; `wanted`, `all` (but those
            on request), `none` or names.

    **Raises:** `JacspecError` for a figure that the run does not have.
    """
    check_report(formats, wanted)
    if wanted == "none":
        return
    figures = list_figures(run)
    names = [name for name, plot in figures.items() if not plot.on_request] if wanted == "all" else list(wanted)
    if unknown := [name for name in names if name not in figures]:
        raise JacspecError(
            f"The run in {run.folder} has no figure {unknown[0]!r}. {suggest(unknown[0], figures)} Its numbers are all "
            f"there. Type task=report run={run.folder} report.figures=[NAME,NAME]."
        )
    with _one_at_a_time, _progress(console, len(names)) as advance:
        _draw(run, figures, names, tuple(formats), advance)


def _draw(
    run: Run, figures: Plots, names: Sequence[str], formats: tuple[str, ...], advance: Callable[[int], None]
) -> None:
    """Draw what no helper has begun, then wait for what they have; what one fails at is drawn, and fails, here."""
    done: queue.SimpleQueue[tuple[str, bool]] = queue.SimpleQueue()
    hand_out([Drawing(run.folder, name, formats, done) for name in names])
    try:
        for _ in names:
            taken = take_back()
            name, drawn = (taken.name, False) if taken else _next_done(done)
            if not drawn:
                save_figure(run, name, figures[name].draw(), formats)
            advance(1)
    finally:
        while take_back():  # after a failure: the helpers go on to nothing
            pass


def _next_done(done: "queue.SimpleQueue[tuple[str, bool]]") -> tuple[str, bool]:
    """Wait for a helper; where none gives a sign for `PATIENCE_SECONDS` they are ended, and their figures missing."""
    try:
        return done.get(timeout=PATIENCE_SECONDS)
    except queue.Empty:
        stop_helpers()
        return done.get()


@contextlib.contextmanager
def _progress(console: Console | None, total: int) -> Iterator[Callable[[int], None]]:
    if console is None:
        yield lambda n: None
    else:
        with figure_progress(console, total=total) as advance:
            yield advance
