"""`report.html` of tasks over finished runs: `compare` and `dynamics`."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from jacspec.comparison import COMPARED, SURE
from jacspec.dynamics import DYNAMICS
from jacspec.errors import JacspecError
from jacspec.report.compare import compare_figures
from jacspec.report.dynamics import dynamics_figures, onset_sentences
from jacspec.report.explorer import explore
from jacspec.report.facts import what_was_run
from jacspec.report.html import define, image_file, list_files, show_figure, show_figures, write_page
from jacspec.report.labels import component_words, metric_title, model_name, number_format
from jacspec.report.markup import Markup, element, section, together
from jacspec.runs import Run, open_run
from jacspec.runs.compared import DIFFERENCES_FILE


class CollectedPage(NamedTuple):
    """What a task puts on its page: a heading, how to read it, figures with captions, a part of text of its own."""

    title: str
    reading: tuple[str, ...]
    figures: Callable[[Run], Mapping[str, Callable[[], Figure]]]
    caption: Callable[[str], str]
    findings: Callable[[Run], Markup]
    terms: Sequence[str]


def write_collected_page(run: Run) -> None:
    """Draw the figures of a run over finished runs and write its page."""
    page = PAGES[str(run.provenance["task"])]
    figures = page.figures(run)
    title = f"{model_name(run)}: {page.title}"
    about = f"jacspec task={run.provenance['task']} · {len(run.provenance['runs'])} runs of task={run.provenance['of']}"
    terms = element("dl", together(map(define, (*run.metric_names, *page.terms)), "\n"))
    reading = element("ul", together((element("li", sentence) for sentence in page.reading), "\n"))
    sections = (
        together((element("h1", title), element("p", about, class_="quiet"))),
        _warning(run),
        what_was_run(run),
        section("How to read it", reading, element("details", element("summary", "The columns"), terms)),
        _list_runs(run),
        page.findings(run),
        _explore(run),
        show_figures(run, _show(run, list(figures), page.caption)),
        list_files(run),
    )
    write_page(run, title, sections)


FIGURE_BYTES = 2_500_000
"""What the pictures on a page may take; the figures beyond are linked."""


def _show(run: Run, names: Sequence[str], caption: Callable[[str], str]) -> Iterator[Markup]:
    """Put figures on the page as long as there is room, and link the rest."""
    drawn = [name for name in names if image_file(run, name).is_file()]
    sizes = itertools.accumulate(image_file(run, name).stat().st_size for name in drawn)
    linked = drawn[sum(size <= FIGURE_BYTES for size in sizes) :]
    yield from (show_figure(run, name, caption(name), caption(name)) for name in names if name not in linked)
    if linked:
        links = (element("li", element("a", metric_title(name), href=f"figures/{name}.png")) for name in linked)
        yield element("p", "Further figures, in the folder of the run:")
        yield element("ul", together(links, "\n"))


def _warning(run: Run) -> Markup:
    warning = run.provenance.get("warning")
    return element("p", element("strong", f"Warning. {warning}"), role="alert") if warning else Markup("")


def _explore(run: Run) -> Markup:
    """Put the runs themselves on the page to be explored, where their folders still are."""
    try:
        found = [open_run(folder) for folder in run.provenance["runs"]]
    except JacspecError as error:
        return element("p", f"The runs cannot be explored here: {error}", class_="quiet")
    return explore(list(zip(run.provenance["labels"], found, strict=True)))


def _list_runs(run: Run) -> Markup:
    """List the runs by number, which the tables and figures name them by."""
    items = together((element("li", label) for label in run.provenance["labels"]), "\n")
    return section("The runs", element("ol", items, start="0"))


def _table(head: Sequence[Any], rows: Iterator[Sequence[Any]]) -> Markup:
    cells = (
        element("tr", element("th", row[0], scope="row"), *(element("td", cell) for cell in row[1:])) for row in rows
    )
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    table = element("table", top, "\n", element("tbody", together(cells, "\n")), class_="numbers")
    return element("div", table, class_="scroll")


def _compare_findings(run: Run) -> Markup:
    """Write the means over layers of every run, and how many differences are more than noise."""
    rows = run.metrics[run.metrics["n"] > 0]
    means = rows.groupby(["metric", "component", "run"], sort=False)["mean"].mean().unstack("run")

    def lines() -> Iterator[Sequence[Any]]:
        for (metric, component), values in means.iterrows():
            write = number_format(values.tolist())
            yield (f"{metric_title(metric)}, {component_words(component)}", *(write(value) for value in values))

    head = ("mean over layers", *(f"run {number}" for number in means.columns))
    return section("Numbers", element("p", count_sure(run)), _table(head, lines()))


def count_sure(run: Run) -> str:
    """Say how many differences are more than noise."""
    table = run.table(DIFFERENCES_FILE)
    tested = table[table["q_value"].notna()]
    if tested.empty:
        return "No layer has enough units (samples, heads) to tell a difference from noise."
    sure = (tested["q_value"] < SURE) & (tested["difference"].abs() > tested["floor"])
    return (
        f"{int(sure.sum())} of {len(tested)} differences by layer are beyond the noise floor with q below {SURE}; "
        f"{int((tested['paired'] == 1).sum())} compare the same samples (or heads) in pairs."
    )


def _dynamics_findings(run: Run) -> Markup:
    items = (element("li", sentence) for sentence in onset_sentences(run))
    return section("What appears first", element("ul", together(items, "\n")))


def _difference_caption(name: str) -> str:
    if name.startswith("difference_"):
        metric = metric_title(name.removeprefix("difference_"))
        return (
            f"{metric}: difference of each run from its reference by layer, with its interval of 95 %; grey, the noise "
            "floor. A logarithmic axis is linear about zero."
        )
    return f"{metric_title(name)}: means of each layer over relative depth, a line a group of runs, bands over seeds."


def _dynamics_caption(name: str) -> str:
    return DYNAMICS_CAPTIONS.get(name, f"{metric_title(name)} against the training step, a line a layer (dark: first).")


DYNAMICS_CAPTIONS = {
    "onsets": "The step by which half of the change from first to last step is there for good, by metric and layer; "
    "white where the change is too small or within noise.",
    "overlap_by_step": "O_k = max_j |v_k · f_j| by index, the mean over layers, a line a step; grey, what random "
    "directions have (mean and 99 %). Inset: the singular values, with the edges of the last step's bulk.",
}

PAGES: Mapping[str, CollectedPage] = {
    "compare": CollectedPage(
        title="compared",
        reading=(
            "A curve is the mean of each layer over its units (samples, heads, or the one matrix of a role) against "
            "relative depth: 0 the first layer of a stack, 1 the last. Runs that differ by their seed alone are one "
            "line, their spread a band.",
            "A difference is that of two means. Its interval and p-value come from a bootstrap over units, drawn "
            "together for both runs where the units are the same (paired). Layers of models of different depth are "
            "held against the nearest in relative depth.",
            "The noise floor is what two random halves of one run differ by, exceeded by 5 % of splits: a difference "
            "within it says nothing. q is the p-value adjusted for all tests of the table.",
        ),
        figures=compare_figures,
        caption=_difference_caption,
        findings=_compare_findings,
        terms=tuple(COMPARED),
    ),
    "dynamics": CollectedPage(
        title="through training",
        reading=(
            "Each curve is the mean of a layer over its units (samples, heads, or the one matrix of a role) against "
            "the training step.",
            "The onset is the first step from which at least half of the whole change, from first to last step, is "
            "there to the end. A change is listed where it is large enough (dynamics.least_change) and, where there "
            "are enough units to tell, beyond the noise floor with q below 0.05. A curve that goes away and comes "
            "back has a late onset; onsets.csv has its extreme too.",
            "Steps between two revisions are not seen: an onset at a step means after the revision before it.",
        ),
        figures=dynamics_figures,
        caption=_dynamics_caption,
        findings=_dynamics_findings,
        terms=tuple(DYNAMICS),
    ),
}
