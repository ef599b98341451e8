"""Reports: figures, a page and a table on the console, drawn from a run folder alone.

| file         | draws                                                        |
|--------------|--------------------------------------------------------------|
| `labels.py`  | the words, symbols and digits that the others share          |
| `figures.py` | `figures/`: a box plot a metric; how all are saved           |
| `lines.py`   | `figures/`: the spectra                                      |
| `drawing.py`, `helpers.py` | which figures are drawn, and on which cores    |
| `plotting.py` | what figures of several studies share                       |
| `page.py`    | `report.html`: the one page that all studies have            |
| `tables.py`  | its numbers, by what a row of the run is                     |
| `explorer/`  | its interactive part, of one run or of several               |
| `facts.py`   | its part that says what was run                              |
| `markup.py`  | its elements, in which text is always escaped                |
| `console.py` | the same medians and quartiles as a table in the terminal    |

What differs from study to study its `STUDY` says. The model and the corpus are never needed, so an old run can be drawn
again by a newer version.
"""

import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError, suggest

if TYPE_CHECKING:
    from rich.console import Console

    from jacspec.runs import Run

FORMATS = ("png", "pdf")
"""What figures can be written as."""


def check_report(formats: Sequence[str], figures: Any) -> None:
    """Refuse formats that are not of `FORMATS`, and figures that are neither `all` nor `none` nor names."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise JacspecError(f"report.formats has {unknown[0]!r}. {suggest(str(unknown[0]), FORMATS)}")
    if not formats:
        raise JacspecError("report.formats=[] draws nothing. Type report.figures=none for that.")
    named = isinstance(figures, Collection) and not isinstance(figures, str)
    if not (all(isinstance(name, str) for name in figures) if named else figures in ("all", "none")):
        raise JacspecError(f"report.figures={figures} is not known. Accepted: all, none, or names as [spectra].")


def write_report(
    run: "Run",
    console: "Console | None" = None,
    *,
    formats: Sequence[str] = FORMATS[:1],
    figures: str | Collection[str] = "all",
) -> None:
    """Draw the figures of a finished run and write its page, which shows the figures that its folder then has.

    **Arguments:** `console`, where the progress of drawing is shown, if anywhere; `formats`, of `FORMATS`; `figures`,
    `all`, `none` or their names: figures that were drawn before stay.

    **Raises:** `JacspecError` for formats and figures that there are not.
    """
    from jacspec.report.drawing import draw_figures
    from jacspec.report.explorer.embedding import packed_plotly

    packing = threading.Thread(target=packed_plotly)
    packing.start()
    draw_figures(run, console, formats=formats, wanted=figures)
    from jacspec.report.page import write_page

    packing.join()
    write_page(run)
