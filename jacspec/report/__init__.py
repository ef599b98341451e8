"""Reports: figures, a page and a table on the console, drawn from a run folder alone.

| file         | draws                                                        |
|--------------|--------------------------------------------------------------|
| `labels.py`  | the words, symbols and digits that the others share          |
| `figures.py` | `figures/`: a box plot a metric                              |
| `lines.py`   | `figures/`: the spectra                                      |
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

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jacspec.runs import Run


MATRIX_TASKS = ("weights", "heads", "overlap")
"""Tasks whose runs have a row a matrix."""

COLLECTED_TASKS = ("compare", "dynamics")
"""Tasks over finished runs."""


def write_report(run: "Run") -> None:
    """Draw the figures of a finished run and write its page."""
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
    from jacspec.report.figures import save_figures
    from jacspec.report.html import write_html

    save_figures(run)
    write_html(run)
