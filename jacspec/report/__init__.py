"""Reports: figures, a page and a table on the console, drawn from a run folder alone.

| file         | draws                                                        |
|--------------|--------------------------------------------------------------|
| `labels.py`  | the words, symbols and digits that the others share          |
| `figures.py` | `figures/`: a box plot a metric                              |
| `lines.py`   | `figures/`: the spectra                                      |
| `drawing.py`, `helpers.py` | which figures are drawn, and on which cores    |
| `html.py`    | `report.html`: figures, tables, samples, on one page         |
| `explorer/`  | its interactive part, of one run or of several               |
| `matrices.py`, `heads.py` | `figures/` of runs over weight matrices, over heads |
| `matrix_page.py` | `report.html` of both                                    |
| `coupling.py`, `coupling_page.py` | `figures/` and `report.html` of `task=coupling` |
| `compare.py`, `dynamics.py` | `figures/` of tasks over finished runs        |
| `collected_page.py` | `report.html` of both                              |
| `cell_page.py` | `report.html` of runs over cells: tables of experiments    |
| `cell_rows.py` | the rows of such runs that page and console show           |
| `removal.py`, `merge.py` | what `task=removal` and `task=merge` put on such a page |
| `facts.py`   | its part that says what was run                              |
| `markup.py`  | its elements, in which text is always escaped                |
| `console.py` | the same medians and quartiles as a table in the terminal    |

The model and the corpus are never needed, so an old run can be drawn again by a newer version.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from jacspec.errors import JacspecError, suggest

if TYPE_CHECKING:
    from rich.console import Console

    from jacspec.runs import Run

FORMATS = ("png", "pdf")
"""What figures can be written as."""

MATRIX_TASKS = ("weights", "heads", "overlap")
"""Tasks whose runs have a row a matrix."""

COLLECTED_TASKS = ("compare", "dynamics")
"""Tasks over finished runs."""


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

    draw_figures(run, console, formats=formats, wanted=figures)
    if run.provenance.get("task") in MATRIX_TASKS:
        from jacspec.report.matrix_page import write_matrix_page

        write_matrix_page(run)
        return
    if run.provenance.get("task") == "coupling":
        from jacspec.report.coupling_page import write_coupling_page

        write_coupling_page(run)
        return
    if run.provenance.get("task") in COLLECTED_TASKS:
        from jacspec.report.collected_page import write_collected_page

        write_collected_page(run)
        return
    if "key_columns" in run.provenance:
        from jacspec.report.cell_page import write_cell_page

        write_cell_page(run)
        return
    from jacspec.report.html import write_html

    write_html(run)
