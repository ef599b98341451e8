"""`report.html` of a run over cells: what each such task says of itself, its figures, its table."""

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from matplotlib.figure import Figure

from jacspec.report.cell_rows import shown_rows
from jacspec.report.facts import what_was_run
from jacspec.report.html import define, list_files, show_figure, show_figures, write_page
from jacspec.report.labels import metric_title, model_name, number_format
from jacspec.report.markup import Markup, element, section, together
from jacspec.runs import Run


class CellPage(NamedTuple):
    """What a task puts on its page.

    `title` says in a few words what was measured, `reading` how to read it; `figures` names the figures of a run, each
    with the function that draws it, `captions` says of each what it shows, `unit` what a row is.
    """

    title: str
    reading: str
    figures: Callable[[Run], Mapping[str, Callable[[], Figure]]]
    captions: Mapping[str, str]
    unit: str = "experiments"


CELL_PAGES: Mapping[str, str] = {
    "finetune": "jacspec.report.removed:FINETUNE_PAGE",
    "lazy": "jacspec.report.removed:LAZY_PAGE",
    "merge": "jacspec.report.merge:PAGE",
    "removal": "jacspec.report.removal:PAGE",
}
"""Where each task's `CellPage` is."""


def find_page(task: str) -> CellPage:
    """Import the page of a task over cells."""
    module, name = CELL_PAGES[task].split(":")
    return getattr(importlib.import_module(module), name)


def write_cell_page(run: Run) -> None:
    """Draw the figures of a run over cells and write its page."""
    page = find_page(str(run.provenance["task"]))
    figures = page.figures(run)
    title = f"{model_name(run)}: {page.title}"
    terms = element("dl", together(map(define, run.metric_names), "\n"))
    head = (
        element("h1", title),
        element("p", f"jacspec task={run.provenance['task']} · {len(run.metrics)} {page.unit}", class_="quiet"),
    )
    sections = (
        together(head),
        what_was_run(run),
        section(
            "How to read it", element("p", page.reading), element("details", element("summary", "The columns"), terms)
        ),
        show_figures(run, (show_figure(run, name, page.captions[name], page.captions[name]) for name in figures)),
        section("Numbers", *_table(run)),
        list_files(run),
    )
    write_page(run, title, sections)


def _table(run: Run) -> Iterable[Markup]:
    """Write the rows of a run, a row a cell."""
    (keys, table, note), columns = shown_rows(run, over=("layer",)), run.metric_names
    if note:
        yield element("p", f"{note.capitalize()}; metrics.csv has every row.")
    writers = {name: number_format(table[name].tolist()) for name in columns}
    titles = (*(element("th", key, scope="col") for key in keys),)
    head = element("tr", *titles, *(element("th", metric_title(name), scope="col") for name in columns))
    rows = (
        element(
            "tr",
            *(element("th", row[key], scope="row") for key in keys),
            *(element("td", writers[name](float(row[name]))) for name in columns),
        )
        for row in table.to_dict("records")
    )
    body = element("tbody", together(rows, "\n"))
    yield element("div", element("table", element("thead", head), "\n", body, class_="numbers"), class_="scroll")
