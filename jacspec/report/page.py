"""`report.html`: a run on one self-contained page, without anything fetched from a network. All studies have this one.

What its study says of itself is on it (`Page`): a title, how to read it, sections of its own; the rest depends on what
a row of the run is.
"""

import base64
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jacspec.errors import JacspecError, as_typed
from jacspec.report.explorer import explore, explorer_style, script_policy
from jacspec.report.facts import what_was_run
from jacspec.report.figures import DPI
from jacspec.report.labels import lookup, metric_title, model_name, run_title, words_of
from jacspec.report.listing import list_figures
from jacspec.report.markup import STYLE, Markup, element, section, together
from jacspec.report.tables import NUMBERS
from jacspec.runs import RUN_FILE, Run, open_run, write_atomically
from jacspec.runs import SPECTRA as SPECTRA_FILE
from jacspec.runs.folder import blaming_folders
from jacspec.studies import study_of
from jacspec.studies.study import Page, Plot, Study, load

FILES = {
    "samples.csv": "the samples: number, tokens, text",
    SPECTRA_FILE: "the singular values, and what other arrays there are, labelled (xarray, netCDF)",
    RUN_FILE: "where the numbers come from: configuration, versions, hashes, seconds",
}
"""Files that runs of most studies have."""

TABLES = {
    "samples": {
        "metrics.csv": "one row a layer, component and sample, a column a metric",
        "summary.csv": "mean, standard error, median, quartiles and whiskers by layer and component",
    },
    "matrices": {
        "metrics.csv": "one row a matrix, a column a metric",
        "summary.csv": "mean, standard error, median, quartiles and whiskers by role, in each layer and over all",
    },
    "experiments": {
        "metrics.csv": "one row an experiment: which it is, then what it gave",
        "summary.csv": "mean, standard error, median, quartiles and whiskers over what is repeated, as seeds or layers",
    },
    "runs": {"metrics.csv": "one row a run, layer, component and metric: mean, standard error, number"},
}
"""Tables of a run, by the kind of its rows."""

SHOWN_SAMPLES = 6
PIXELS_AN_INCH = 110


def write_page(run: Run) -> Path:
    """Write `report.html` of a run from its folder, with the figures that are there."""
    study = study_of(run.provenance)
    page = study.page
    if page is None:
        raise JacspecError(f"A run of {study.name} has no page.")
    figures = list_figures(run)
    title = page_title(run)
    numbers = load(page.numbers) if page.numbers else NUMBERS[study.rows.kind if study.rows else "samples"]
    explored = _explore(run)
    parts = (
        _findings(run, page),
        explored,
        *(load(page.findings)(run) if page.findings else ()),
        _figures(run, figures, page.picture_bytes, explored=bool(explored)),
        *numbers(run),
        _reading(run, page),
        *([quote_samples(run)] if (run.folder / "samples.csv").is_file() else ()),
        list_files(run, study),
        what_was_run(run),
    )
    return write_sections(run, title, (_heading(run, study, title), _warning(run), _contents(parts), *parts))


def write_sections(run: Run, title: str, sections: Sequence[Markup]) -> Path:
    """Put sections on one page and write it as `report.html`."""
    # What is written into the page could not run or load anything even if it got past the escaping.
    policy = element("meta", **{"http-equiv": "Content-Security-Policy"}, content=script_policy())
    head = (
        element("meta", charset="utf-8"),
        policy,
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"jacspec: {title}"),
        element("style", together((STYLE, explorer_style()))),
    )
    body = element("body", element("main", together(sections, "\n")))
    page = "<!doctype html>\n" + element("html", element("head", *head), "\n", body, lang="en") + "\n"
    file = run.folder / "report.html"
    # A name out of JSON may hold half a surrogate pair, which UTF-8 cannot carry.
    write_atomically(file, page.encode("utf-8", "xmlcharrefreplace"))
    return file


FIRST = 5
"""Sentences of what was found that a page opens with; further ones are folded."""

HEADING = re.compile(r'<section id="([^"]*)"><h2>(.*?)</h2>')


def _contents(parts: Sequence[Markup]) -> Markup:
    """Link the parts of the page; what a heading holds is markup already."""
    links = (element("a", Markup(words), href=f"#{name}") for part in parts for name, words in HEADING.findall(part))
    return element("nav", together(links, "\n"), aria_label="Contents")


def _findings(run: Run, page: Page) -> Markup:
    """Say in a few sentences what was found, and of what the numbers say nothing."""
    sentences = list(load(page.sentences)(run)) if page.sentences else []
    if not sentences:
        return Markup("")
    first, further = (_listed(part) for part in (sentences[:FIRST], sentences[FIRST:]))
    folded = [element("details", element("summary", f"{len(sentences) - FIRST} more"), further)] if further else []
    caution = [element("p", page.caution, class_="quiet")] if page.caution else []
    return section("What was found", first, *folded, *caution)


def _listed(sentences: Sequence[str]) -> Markup:
    items = together((element("li", sentence) for sentence in sentences), "\n")
    return element("ul", items) if items else items


def page_title(run: Run) -> str:
    """Say what a page is about: the model, how much of which text, and what was measured."""
    page = study_of(run.provenance).page
    return f"{run_title(run)}: {page.title}" if page else run_title(run)


def _heading(run: Run, study: Study, title: str) -> Markup:
    date = str(lookup(run.provenance, "created") or "").partition("T")[0]
    count = f"{len(run.metrics)} {study.rows.unit}" if study.rows else ""
    if (run.folder / "samples.csv").is_file():
        count = f"{len(run.samples)} samples"
    elif "of" in run.provenance:
        count = f"{len(run.provenance['runs'])} runs of task={run.provenance['of']}"
    about = " · ".join(filter(None, (f"jacspec task={study.name}", count, date)))
    return together((element("h1", title), element("p", about, class_="quiet")))


def _warning(run: Run) -> Markup:
    warning = run.provenance.get("warning")
    return element("p", element("strong", f"Warning. {warning}"), role="alert") if warning else Markup("")


def _reading(run: Run, page: Page) -> Markup:
    points = element("ul", together((element("li", sentence) for sentence in page.reading), "\n"))
    terms = element("dl", together((define(run, column) for column in _columns(run)), "\n"))
    return section("How to read it", points, element("details", element("summary", "The columns"), terms))


def _columns(run: Run) -> Sequence[str]:
    """List the columns to explain: the metrics, and of a run over runs those of its own tables."""
    own = study_of(run.provenance)
    further = own.columns if "of" in run.provenance else ()
    return (*run.metric_names, *further)


def define(run: Run, column: str) -> Markup:
    """Say what a column holds: term, definition, source."""
    term = element("dt", metric_title(run, column), " ", element("code", column))
    words = words_of(run, column)
    if words is None:
        return together((term, element("dd", "This version of jacspec does not know the metric.")))
    return together((term, element("dd", words.definition), element("dd", f"Source: {words.source}", class_="quiet")))


def _explore(run: Run) -> Markup:
    """Put a run on the page to be explored; of a run over others these, where their folders still are."""
    if "of" not in run.provenance:
        return explore([(model_name(run), run)])
    try:
        found = [open_run(folder) for folder in run.provenance["runs"]]
        with blaming_folders(*found):
            return explore(list(zip(run.provenance["labels"], found, strict=True)), _groups(run))
    except JacspecError as error:
        return element("p", f"The runs cannot be explored here: {error}", class_="quiet")


def _groups(run: Run) -> list[str]:
    """Return of each run the group that it shares with others of other seeds, where the study says so."""
    table = run.folder / "runs.csv"
    return run.table(table.name)["group"].astype(str).tolist() if table.is_file() else []


def image_file(run: Run, name: str, kind: str = "png") -> Path:
    """Return where a figure lies, if it was drawn."""
    return run.folder / "figures" / f"{name}.{kind}"


def _figures(run: Run, figures: Mapping[str, Plot], most_bytes: int | None, *, explored: bool) -> Markup:
    """Put figures on the page as long as there is room, link the rest, and say what to type where none was drawn.

    What the interactive part shows is linked, and behind a click, for where there is no JavaScript.
    """
    asked = [name for name, plot in figures.items() if plot.on_request and not image_file(run, name).is_file()]
    further = [_on_request(run, asked)] if asked else []
    above = {name: plot for name, plot in figures.items() if explored and plot.explored}
    figures = {name: plot for name, plot in figures.items() if name not in above}
    if above and (linked := [*_link_explored(run, above)]):
        return section("Figures", *_show(run, figures, most_bytes), *linked, *further)
    none = f"None was drawn. jacspec task=report {as_typed('run', run.folder)} draws them."
    return section("Figures", *(_show(run, figures, most_bytes) or [element("p", none)]), *further)


def _on_request(run: Run, names: Sequence[str]) -> Markup:
    typed = f"jacspec task=report {as_typed('run', run.folder)} report.figures=[{','.join(names)}]"
    return element("p", "Further figures are drawn by ", element("code", typed), ".", class_="quiet")


def _link_explored(run: Run, figures: Mapping[str, Plot]) -> Iterator[Markup]:
    there = [(name, kind) for name in figures for kind in ("png", "pdf") if image_file(run, name, kind).is_file()]
    if not there:
        return
    links = (element("a", f"{name}.{kind}", href=f"figures/{name}.{kind}") for name, kind in there)
    yield element("p", "What can be explored above, as files: ", together(links, ", "), ".")
    pictures = (show_figure(run, name, plot) for name, plot in figures.items())
    yield element("details", element("summary", "The same as pictures"), *pictures, class_="again")


def _show(run: Run, figures: Mapping[str, Plot], most_bytes: int | None) -> list[Markup]:
    drawn = [name for name in figures if image_file(run, name).is_file()]
    sizes = itertools.accumulate(image_file(run, name).stat().st_size for name in drawn)
    linked = [] if most_bytes is None else drawn[sum(size <= most_bytes for size in sizes) :]
    shown = [show_figure(run, name, plot) for name, plot in figures.items() if name not in linked]
    return [*filter(None, shown), *_link(run, linked)]


def _link(run: Run, names: Sequence[str]) -> Iterator[Markup]:
    if names:
        links = (element("li", element("a", metric_title(run, name), href=f"figures/{name}.png")) for name in names)
        yield element("p", "Further figures, in the folder of the run:")
        yield element("ul", together(links, "\n"))


def show_figure(run: Run, name: str, plot: Plot) -> Markup:
    """Put a figure on the page as far as it was drawn: its PNG, and a link to its PDF."""
    picture, drawing = image_file(run, name), image_file(run, name, "pdf")
    description = plot.description() if plot.description else plot.caption
    parts: list[Markup] = []
    if picture.is_file():
        content = picture.read_bytes()
        width = int.from_bytes(content[16:20]) * PIXELS_AN_INCH // DPI  # where a PNG file has its width
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        parts += [element("img", src=source, alt=description, width=str(width)), Markup("\n")]
    link = element("a", "PDF", href=f"figures/{name}.pdf") if drawing.is_file() else Markup("")
    if not parts and not link:
        return Markup("")
    return element("figure", *parts, element("figcaption", f"{plot.caption} ", link))


def quote_samples(run: Run) -> Markup:
    """Quote samples spread over the corpus."""
    count = len(run.samples)
    shown = sorted({index * count // SHOWN_SAMPLES for index in range(SHOWN_SAMPLES)})
    quotes: Iterable[Markup] = (
        element("blockquote", text, " ", element("span", f"(sample {sample}, {n_tokens} tokens)", class_="quiet"))
        for sample, n_tokens, text in run.samples.iloc[shown][["sample", "n_tokens", "text"]].itertuples(index=False)
    )
    return section("A few of the samples", *quotes)


def list_files(run: Run, study: Study) -> Markup:
    """Link the tables of a run."""
    tables = TABLES[study.rows.kind] if study.rows else {}
    words_by_file = {**tables, **FILES, **study.files}
    there = {name: words for name, words in words_by_file.items() if (run.folder / name).exists()}
    items = (element("li", element("a", name, href=name), f": {words}") for name, words in there.items())
    return section("Files of this run", element("ul", together(items, "\n")))
