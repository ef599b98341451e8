"""`report.html`: a run on one self-contained page, without anything fetched from a network."""

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from jacspec.report.explorer import explore, explorer_style, script_policy
from jacspec.report.facts import what_was_run
from jacspec.report.figures import DPI, EXPONENTS, SPECTRA, boxed_metrics, line_figures
from jacspec.report.labels import (
    MISSING,
    component_words,
    corpus_name,
    lookup,
    metric_title,
    model_name,
    number_format,
    run_title,
    words_of,
)
from jacspec.report.markup import STYLE, Markup, element, section, together
from jacspec.runs import QUANTILES, RUN_FILE, Run, write_atomically
from jacspec.runs import SPECTRA as SPECTRA_FILE
from jacspec.runs.compared import DIFFERENCES_FILE, RUNS_FILE
from jacspec.runs.coupling import COUPLING_FILE, KINDS_FILE
from jacspec.runs.trained import ONSETS_FILE

TABLES = {
    "metrics.csv": "one row a layer, component and sample, a column a metric",
    "summary.csv": "mean, standard error, median, quartiles and whiskers by layer and component",
    "samples.csv": "the samples: number, tokens, text",
    COUPLING_FILE: "which component reads what another writes: a row a pair, over samples",
    KINDS_FILE: "spectral radius and residual gain by kind of the last token",
    RUNS_FILE: "the runs that are compared, and which each is held against",
    DIFFERENCES_FILE: "differences by layer: interval, p-value, noise floor",
    ONSETS_FILE: "when each metric of each layer changes in training",
    SPECTRA_FILE: "the singular values as a labelled array (xarray, netCDF)",
    RUN_FILE: "where the numbers come from: configuration, versions, hashes, seconds",
}
READING = (
    "A sample is one sentence (or line) of the corpus. For each sample, layer and component, the Jacobian says how a "
    "small change of the residual stream at the last token changes the component's output there; the other tokens "
    "are held fixed.",
    "A box holds the middle half of the samples, the line in it is the median, the whiskers reach to the last sample "
    "within 1.5 interquartile ranges of the box, and circles are the samples beyond.",
    "The spectral radius ρ here is the largest singular value σ₁ of the Jacobian, as in the paper's eq. 7: a norm, "
    "the greatest gain that any small change can have. It is not an eigenvalue.",
    "A small decay ratio δ = σ₂/σ₁ means concentration: one direction dominates the layer's response. "
    "Near 1, at least two directions are passed on equally strongly.",
    "A component that adds nothing, as one with a projection of zeros, has ρ = 0 and no ratios (–): the last column of "
    "metrics.csv says why, and a distribution counts the samples that have a value.",
)
PATH_READING = (
    "A path goes from the input of the first layer to the output of the layer named: the product of the Jacobians of "
    "all blocks in between, identity and norms included, each taken where the last token's own stream passes. Changes "
    "that other tokens would pick up in between and hand back are left out; in a causal model there are none.",
)
LINE_CAPTIONS = {
    EXPONENTS: "Growth of a small change a layer, from the first layer to the layer named: Lyapunov exponents (medians "
    "over samples, the quartiles as bands), and the same from the largest singular values of the products, dashed.",
    SPECTRA: "Singular values by index, the median over samples, a line a layer. Values that are rounding only "
    "(σ₁ · k · eps and below) are not drawn.",
}
LINE_WORDS = {
    EXPONENTS: "Line plots of the Lyapunov exponents against depth",
    SPECTRA: "Line plots of the singular values of each layer",
}
SHOWN_SAMPLES = 6
PIXELS_AN_INCH = 110


def write_html(run: Run) -> Path:
    """Write `report.html` of a run from its folder, with the figures that are there."""
    sections = (
        _heading(run),
        what_was_run(run),
        _reading(run),
        explore([(model_name(run), run)]),
        _figures(run),
        _numbers(run),
        quote_samples(run),
        list_files(run),
    )
    return write_page(run, run_title(run), sections)


def write_page(run: Run, title: str, sections: Sequence[Markup]) -> Path:
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


def _heading(run: Run) -> Markup:
    date = str(lookup(run.provenance, "created") or "").partition("T")[0]
    about = " · ".join(text for text in (f"{len(run.samples)} samples", date) if text)
    heading = element("h1", f"{model_name(run)} on {corpus_name(run)}")
    return together((heading, element("p", f"jacspec, spectra of Jacobians · {about}", class_="quiet")))


def _reading(run: Run) -> Markup:
    sentences = READING + (PATH_READING if run.provenance.get("task") == "depth" else ())
    points = element("ul", together((element("li", sentence) for sentence in sentences), "\n"))
    terms = together((define(metric) for metric in run.metric_names), "\n")
    return section("How to read it", points, element("h3", "The metrics of this run"), element("dl", terms))


def define(metric: str) -> Markup:
    """Say what a column holds: term, definition, source."""
    term = element("dt", metric_title(metric), " ", element("code", metric))
    words = words_of(metric)
    if words is None:
        return together((term, element("dd", "This version of jacspec does not know the metric.")))
    return together((term, element("dd", words.definition), element("dd", f"Source: {words.source}", class_="quiet")))


def image_file(run: Run, name: str, kind: str = "png") -> Path:
    """Return where a figure lies, if it was drawn."""
    return run.folder / "figures" / f"{name}.{kind}"


def _figures(run: Run) -> Markup:
    boxes = [
        show_figure(run, metric, _box_caption(run, metric), _box_words(run, metric)) for metric in boxed_metrics(run)
    ]
    lines = [
        show_figure(run, name, LINE_CAPTIONS[name], f"{LINE_WORDS[name]}, a panel each for {_listed(run.components)}.")
        for name in line_figures(run)
    ]
    return show_figures(run, boxes + lines)


def show_figures(run: Run, shown: Iterable[Markup]) -> Markup:
    """Put figures into their section, which says what to type where none was drawn."""
    found = [*filter(None, shown)]
    none = f"None was drawn. python -m jacspec task=report run={run.folder} draws them."
    return section("Figures", *(found or [element("p", none)]))


def show_figure(run: Run, name: str, caption: str, description: str) -> Markup:
    """Put a figure on the page as far as it was drawn: its PNG, and a link to its PDF.

    `description` is for those who do not see it.
    """
    picture, drawing = image_file(run, name), image_file(run, name, "pdf")
    parts: list[Markup] = []
    if picture.is_file():
        content = picture.read_bytes()
        width = int.from_bytes(content[16:20]) * PIXELS_AN_INCH // DPI  # where a PNG file has its width
        source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        parts += [element("img", src=source, alt=description, width=str(width)), Markup("\n")]
    link = element("a", "PDF", href=f"figures/{name}.pdf") if drawing.is_file() else Markup("")
    if not parts and not link:
        return Markup("")
    return element("figure", *parts, element("figcaption", f"{caption} ", link))


def _box_caption(run: Run, metric: str) -> str:
    return f"{metric_title(metric)} of {_listed(run.components)} by layer; {len(run.samples)} samples a box."


def _listed(components: Sequence[str]) -> str:
    *others, last = map(component_words, components)
    return f"{', '.join(others)} and {last}" if others else last


def _box_words(run: Run, metric: str) -> str:
    """Say what the picture shows to those who do not see it: where the medians run from and to."""
    rows = run.summary[run.summary["metric"] == metric].dropna(subset=["median"])
    words = f"Box plots of {metric_title(metric)} by layer."
    if rows.empty:
        return f"{words} No finite values."
    ends = [rows.loc[rows["median"].idxmin()], rows.loc[rows["median"].idxmax()]]
    low, high = (f"{end['median']:.4g} ({component_words(end['component'])}, layer {end['layer']})" for end in ends)
    return f"{words} Medians run from {low} to {high}."


def _numbers(run: Run) -> Markup:
    note = "Over samples: the median with the quartiles, and the mean with its standard error."
    tables = (
        part for metric in run.metric_names for part in (element("h3", metric_title(metric)), _table(run, metric))
    )
    return section("Numbers", element("p", note), *tables)


def _table(run: Run, metric: str) -> Markup:
    rows = run.summary[run.summary["metric"] == metric].set_index(["layer", "component"])
    layers = sorted(set(rows.index.get_level_values("layer")))
    write = number_format(rows[[*QUANTILES, "mean"]].to_numpy(float).ravel().tolist())
    write_error = number_format(rows["standard_error"].tolist(), digits=(2,))

    def cells(layer: int, component: str) -> Markup:
        # An encoder and a decoder may differ in depth.
        row = rows.loc[(layer, component)] if (layer, component) in rows.index else None
        if row is None or not row["n"]:
            return together((element("td", MISSING, class_="first"), element("td", MISSING)))
        count = "" if row["n"] == len(run.samples) else f" (n = {row['n']:.0f})"
        quantiles = f"{write(row['median'])} [{write(row['q1'])}, {write(row['q3'])}]{count}"
        mean = f"{write(row['mean'])} ± {write_error(row['standard_error'])}"
        return together((element("td", quantiles, class_="first"), element("td", mean)))

    body = together(
        (
            element("tr", element("th", layer, scope="row"), *(cells(layer, component) for component in run.components))
            for layer in layers
        ),
        "\n",
    )
    table = element("table", _table_head(run.components), "\n", element("tbody", body), class_="numbers")
    return element("div", table, class_="scroll")


def _table_head(components: Sequence[str]) -> Markup:
    names = (element("th", component_words(name), colspan="2", scope="colgroup", class_="first") for name in components)
    kinds = (
        element("th", "median [q1, q3]", scope="col", class_="first") + element("th", "mean ± s.e.", scope="col")
        for _ in components
    )
    top = element("tr", element("th", "layer", rowspan="2", scope="col"), *names)
    return element("thead", top, element("tr", *map(Markup, kinds)))


def quote_samples(run: Run) -> Markup:
    """Quote samples spread over the corpus."""
    count = len(run.samples)
    shown = sorted({index * count // SHOWN_SAMPLES for index in range(SHOWN_SAMPLES)})
    quotes = (
        element("blockquote", text, " ", element("span", f"(sample {sample}, {n_tokens} tokens)", class_="quiet"))
        for sample, n_tokens, text in run.samples.iloc[shown][["sample", "n_tokens", "text"]].itertuples(index=False)
    )
    return section("A few of the samples", *quotes)


def list_files(run: Run) -> Markup:
    """Link the tables of a run."""
    there = {name: words for name, words in TABLES.items() if (run.folder / name).is_file()}
    items = (element("li", element("a", name, href=name), f": {words}") for name, words in there.items())
    return section("Files of this run", element("ul", together(items, "\n")))
