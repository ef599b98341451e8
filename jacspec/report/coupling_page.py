"""`report.html` of a run of static beside dynamic."""

from collections.abc import Iterable, Mapping, Sequence

import pandas

from jacspec.coupling import random_alignment
from jacspec.report.coupling import FEWEST, coupling_figures, coupling_table, shown_kinds
from jacspec.report.explorer import explore
from jacspec.report.facts import what_was_run
from jacspec.report.html import define, list_files, quote_samples, show_figure, show_figures, write_page
from jacspec.report.labels import component_words, metric_symbol, metric_title, model_name, number_format, run_title
from jacspec.report.markup import Markup, element, section, together
from jacspec.runs import QUANTILES, Run
from jacspec.runs.coupling import BY_KIND, KINDS_FILE

CAPTIONS: Mapping[str, str] = {
    "factors": "ρ of each component, the bound that the product of the factors gives, and the factors: medians over "
    "samples by layer, of ρ and the bound with their quartiles. Weights do not change with the sample; the norm's gain "
    "and the slopes do.",
    "bound_share": "ρ over the bound, by layer: how much of what norms allow is reached.",
    "alignment": "Where the Jacobian's leading directions and those of its weights meet: |cos|, medians over samples "
    "with quartiles; dotted, what independent random directions have on average.",
    "coupling": "Which layer reads what another writes: the mean over samples of |u · v|, u the leading left singular "
    "vector of the row's Jacobian, v the leading right one of the column's, at the same sample. Above the line the "
    "read comes after the write in the stream; below it there is no way from one to the other, a control.",
    "kinds": "ρ and the gain of the residual direction by the kind of the token at which each sample ends.",
}
READING = (
    "A component reads the last token's stream through a norm and some weights, bends what they give, and writes with "
    "one weight: J = O W_out (Σ S_i W_i) N. The largest singular value of a product is at most the product of the "
    "largest ones, so ρ is at most the bound. It is reached only where the leading directions of all factors meet.",
    "The spectral radius ρ here is the largest singular value σ₁ of the Jacobian, a norm. The leading directions of J "
    "are those that belong to it; where the decay ratio δ = σ₂/σ₁ is near 1 there is no one leading direction, and an "
    "alignment means little.",
    "The gain along the residual direction is nearly 0 behind a norm on the input: a norm does not see the length of "
    "what it norms, but for its eps. Its rounding is that of ρ: in float32 take no digits below 1e-6 ρ.",
    "The kind of a token is decided by the tokenizer's own marks of where words begin, and by its text: special, white "
    "space, punctuation, the start of a word, or its continuation.",
)
STRONGEST = 8


def write_coupling_page(run: Run) -> None:
    """Draw the figures of a `task=coupling` run and write its page."""
    figures = coupling_figures(run)
    heading = (
        element("h1", f"{run_title(run)}: weights beside Jacobians"),
        element("p", f"jacspec task=coupling · {len(run.samples)} samples", class_="quiet"),
    )
    terms = element("dl", together(map(define, run.metric_names), "\n"))
    sections = (
        together(heading),
        what_was_run(run),
        section(
            "How to read it",
            element("ul", together((element("li", sentence) for sentence in READING), "\n")),
            element("details", element("summary", "The columns"), terms),
        ),
        explore([(model_name(run), run)]),
        show_figures(run, (show_figure(run, name, CAPTIONS[name], CAPTIONS[name]) for name in figures)),
        section("Numbers", element("p", "Medians over samples; the columns are explained above."), *_layers(run)),
        section("The strongest couplings", *_strongest(run)),
        section("By kind of token", *_kinds(run)),
        quote_samples(run),
        list_files(run),
    )
    write_page(run, run_title(run), sections)


def _layers(run: Run) -> Iterable[Markup]:
    """Write one table a component: a row a layer, a column a value."""
    for component in run.components:
        rows = run.summary[(run.summary["component"] == component) & (run.summary["n"] > 0)]
        names = [name for name in run.metric_names if name in set(rows["metric"])]
        medians = rows.pivot(index="layer", columns="metric", values="median")
        writers = {name: number_format(medians[name].tolist(), digits=(3, 2)) for name in names}
        body = ((layer, *(writers[name](row[name]) for name in names)) for layer, row in medians.iterrows())
        yield element("h3", component_words(component))
        yield _table(("layer", *map(metric_symbol, names)), body)


def _strongest(run: Run) -> Iterable[Markup]:
    chance = random_alignment(run.dataset.sizes["d_model"])
    table = coupling_table(run)
    after, others = (table[table["downstream"] == seen] for seen in (1, 0))
    if after.empty:
        yield element("p", "No read comes after a write: there is one component alone.")
        return
    rows = after.sort_values("mean", ascending=False, kind="stable").head(STRONGEST)
    write = number_format([*rows["mean"], *rows["standard_error"]], digits=(3,))
    yield element(
        "p",
        "Of the reads that come after the write, those with the largest mean of |u · v| over samples. Over all such "
        f"pairs the mean is {after['mean'].mean():.3f}, over the others {others['mean'].mean():.3f}; independent "
        f"random directions have {chance:.3f}.",
    )
    yield _table(
        ("write", "read", "mean ± s.e.", "times chance"),
        (
            (
                f"{component_words(row['write_component'])} {row['write_layer']}",
                f"{component_words(row['read_component'])} {row['read_layer']}",
                f"{write(row['mean'])} ± {write(row['standard_error'])}",
                f"{row['mean'] / chance:.1f}",
            )
            for row in rows.to_dict("records")
        ),
    )


def _kinds(run: Run) -> Iterable[Markup]:
    table = pandas.read_csv(run.folder / KINDS_FILE)
    for component in run.components:
        shown, few = shown_kinds(run, component)
        left_out = ", ".join(f"{kind} ({count})" for kind, count in few.items())
        own = table[table["component"] == component].set_index(["kind", "metric", "layer"])
        for metric in BY_KIND:
            yield element("h3", f"{component_words(component)}: {metric_title(metric)}, median [q1, q3]")
            if few:
                yield element("p", f"Left out, with fewer than {FEWEST} samples: {left_out}.", class_="quiet")
            layers = sorted({layer for kind, name, layer in own.index if name == metric})
            rows = {(kind, layer): own.loc[(kind, metric, layer)] for kind in shown for layer in layers}
            write = number_format([row[name] for row in rows.values() for name in QUANTILES], digits=(3, 2))
            body = (
                (layer, *(f"{write(row['median'])} [{write(row['q1'])}, {write(row['q3'])}]" for row in across))
                for layer in layers
                for across in ([rows[kind, layer] for kind in shown],)
            )
            counts = [f"{kind} (n = {run.provenance['token_kinds'][component].count(kind)})" for kind in shown]
            yield _table(("layer", *counts), body)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    top = element("tr", *(element("th", name, scope="col") for name in head))
    body = together(
        (
            element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
            for first, *rest in rows
        ),
        "\n",
    )
    table = element("table", element("thead", top), "\n", element("tbody", body), class_="numbers")
    return element("div", table, class_="scroll")
