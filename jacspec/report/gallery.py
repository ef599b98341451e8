"""The figures of any run by name, each drawn when it is asked for."""

import functools
from collections.abc import Callable, Mapping

from matplotlib.figure import Figure

from jacspec.report import COLLECTED_TASKS, MATRIX_TASKS
from jacspec.runs import Run


def figures_of(run: Run) -> Mapping[str, Callable[[], Figure]]:
    """Name the figures of a finished run, those of its page, each with the function that draws it."""
    task = str(run.provenance.get("task"))
    if task in MATRIX_TASKS:
        from jacspec.report.matrix_page import FIGURES

        return FIGURES[task](run)
    if task == "coupling":
        from jacspec.report.coupling import coupling_figures

        return coupling_figures(run)
    if task in COLLECTED_TASKS:
        from jacspec.report.collected_page import PAGES

        return PAGES[task].figures(run)
    if "key_columns" in run.provenance:
        from jacspec.report.cell_page import find_page

        return find_page(task).figures(run)
    if "metrics" not in run.provenance:
        return {}
    from jacspec.report.figures import boxed_metrics, draw_boxes, draw_line_figure, line_figures

    boxes = {metric: functools.partial(draw_boxes, run, metric) for metric in boxed_metrics(run)}
    return {**boxes, **{name: functools.partial(draw_line_figure, run, name) for name in line_figures(run)}}
