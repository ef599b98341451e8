"""The numbers on the page of a `task=coupling` run."""

from collections.abc import Iterable, Iterator

import pandas

from jacspec.report.labels import component_words, metric_symbol, metric_title, number_format
from jacspec.report.markup import Markup, element, fold, section
from jacspec.report.tables import table
from jacspec.runs import QUANTILES, Run
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.coupling import BY_KIND
from jacspec.studies.coupling.figures import FEWEST, coupling_table, shown_kinds
from jacspec.studies.kinds import KINDS_FILE

STRONGEST = 8


def coupling_numbers(run: Run) -> Iterator[Markup]:
    """Write the medians by layer, the strongest couplings, and what each kind of token has."""
    yield section("Numbers", element("p", "Medians over samples; the columns are explained above."), *_layers(run))
    yield section("The strongest couplings", *_strongest(run))
    yield section("By kind of token", *_kinds(run))


def _layers(run: Run) -> Iterable[Markup]:
    """Write one table a component: a row a layer, a column a value."""
    for component in run.components:
        rows = run.summary[(run.summary["component"] == component) & (run.summary["n"] > 0)]
        names = [name for name in run.metric_names if name in set(rows["metric"])]
        medians = rows.pivot(index="layer", columns="metric", values="median")
        writers = {name: number_format(medians[name].tolist(), digits=(3, 2)) for name in names}
        body = ((layer, *(writers[name](row[name]) for name in names)) for layer, row in medians.iterrows())
        yield element("h3", component_words(component))
        yield fold(table(("layer", *(metric_symbol(run, name) for name in names)), body), len(medians), "layers")


def _strongest(run: Run) -> Iterable[Markup]:
    chance = random_alignment(run.dataset.sizes["d_model"])
    pairs = coupling_table(run)
    after, others = (pairs[pairs["downstream"] == seen] for seen in (1, 0))
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
    yield table(
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
    kinds = pandas.read_csv(run.folder / KINDS_FILE)
    for component in run.components:
        shown, few = shown_kinds(run, component)
        left_out = ", ".join(f"{kind} ({count})" for kind, count in few.items())
        own = kinds[kinds["component"] == component].set_index(["kind", "metric", "layer"])
        words = component_words(component)
        if few:
            left = f"Left out of {words}, with fewer than {FEWEST} samples: {left_out}."
            yield element("p", left, class_="quiet")
        for metric in BY_KIND if shown else ():
            yield element("h3", f"{words}: {metric_title(run, metric)}, median [q1, q3]")
            layers = sorted({layer for kind, name, layer in own.index if name == metric})
            rows = {(kind, layer): own.loc[(kind, metric, layer)] for kind in shown for layer in layers}
            write = number_format([row[name] for row in rows.values() for name in QUANTILES], digits=(3, 2))
            body = (
                (layer, *(f"{write(row['median'])} [{write(row['q1'])}, {write(row['q3'])}]" for row in across))
                for layer in layers
                for across in ([rows[kind, layer] for kind in shown],)
            )
            counts = [f"{kind} (n = {run.provenance['token_kinds'][component].count(kind)})" for kind in shown]
            yield fold(table(("layer", *counts), body), len(layers), "layers")
