"""The numbers of a page, by what a row of its run is, and the rows that page and console show."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from jacspec.report.labels import NO_VALUE, component_words, layer_words, metric_title, number_format
from jacspec.report.markup import LONGEST_OPEN, Markup, element, fold, section, together
from jacspec.runs import QUANTILES, Run

if TYPE_CHECKING:
    import pandas


LONGEST_KEY = 16
"""Letters of a row's name from which on paper its column is kept wide."""

MOST_COLUMNS_ON_PAPER = 14
"""Of the letters that tables are printed in; those with more have smaller ones."""


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, keys: int = 1) -> Markup:
    """Write a table whose first `keys` columns name its rows."""
    rows = list(rows)
    lines = (
        element(
            "tr",
            *(element("th", cell, scope="row") for cell in row[:keys]),
            *(element("td", cell) for cell in row[keys:]),
        )
        for row in rows
    )
    top = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = element("tbody", together(lines, "\n"))
    kind = "numbers wide" if len(head) > MOST_COLUMNS_ON_PAPER else "numbers"
    kind += " named" * any(len(str(row[0])) > LONGEST_KEY for row in rows)
    return element("div", element("table", element("thead", top), "\n", body, class_=kind), class_="scroll")


def sample_numbers(run: Run) -> Iterator[Markup]:
    """Write a table a metric: layers down, components across."""
    note = "Over samples: the median with the quartiles, and the mean with its standard error."
    yield section("Numbers", element("p", note), *(_by_component(run, metric) for metric in run.metric_names))


def _by_component(run: Run, metric: str) -> Markup:
    rows = run.summary[run.summary["metric"] == metric].set_index(["layer", "component"])
    layers = sorted(set(rows.index.get_level_values("layer")))
    write = number_format(rows[[*QUANTILES, "mean"]].to_numpy(float).ravel().tolist())
    write_error = number_format(rows["standard_error"].tolist(), digits=(2,))

    def cells(layer: int, component: str) -> Markup:
        # An encoder and a decoder may differ in depth.
        row = rows.loc[(layer, component)] if (layer, component) in rows.index else None
        if row is None or not row["n"]:
            return together((element("td", NO_VALUE, class_="first"), element("td", NO_VALUE)))
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
    whole = element("table", _component_head(run.components), "\n", element("tbody", body), class_="numbers")
    content, title = element("div", whole, class_="scroll"), metric_title(run, metric)
    if len(layers) > LONGEST_OPEN:
        return fold(content, len(layers), f"layers: {title}")
    return together((element("h3", title), content))


def _component_head(components: Sequence[str]) -> Markup:
    names = (element("th", component_words(name), colspan="2", scope="colgroup", class_="first") for name in components)
    kinds = (
        element("th", "median [q1, q3]", scope="col", class_="first") + element("th", "mean ± s.e.", scope="col")
        for _ in components
    )
    top = element("tr", element("th", layer_words(components), rowspan="2", scope="col"), *names)
    return element("thead", top, element("tr", *map(Markup, kinds)))


def matrix_numbers(run: Run) -> Iterator[Markup]:
    """Write one table: metrics down, roles across."""
    whole = run.summary[run.summary["layer"].isna()]
    roles = list(dict.fromkeys(whole["component"]))
    rows = (
        _across(run, name, roles, whole[whole["metric"] == name].set_index("component")) for name in run.metric_names
    )
    note = element("p", "By role: the median over its matrices, with the quartiles.")
    yield section("Numbers", note, fold(table(("metric", *roles), rows), len(run.metric_names), "metrics"))


def _across(run: Run, name: str, roles: Sequence[str], rows: "pandas.DataFrame") -> tuple[str, ...]:
    write = number_format(rows[[*QUANTILES]].to_numpy(float).ravel().tolist())
    cells = (
        f"{write(rows.loc[role, 'median'])} [{write(rows.loc[role, 'q1'])}, {write(rows.loc[role, 'q3'])}]"
        if rows.loc[role, "n"]
        else NO_VALUE
        for role in roles
    )
    return (metric_title(run, name), *cells)


def experiment_numbers(run: Run) -> Iterator[Markup]:
    """Write one table: a row an experiment, medians over layers where those are among its keys."""
    (keys, rows, note), columns = shown_rows(run, over=("layer",)), run.metric_names
    writers = {name: number_format(rows[name].tolist()) for name in columns}
    body = (
        (*(row[key] for key in keys), *(writers[name](float(row[name])) for name in columns))
        for row in rows.to_dict("records")
    )
    said = [element("p", f"{note.capitalize()}; metrics.csv has every row.")] if note else []
    head = (*keys, *(metric_title(run, name) for name in columns))
    yield section("Numbers", *said, fold(table(head, body, keys=len(keys)), len(rows), "rows"))


def list_runs(run: Run) -> Markup:
    """List the runs by number, which the tables and figures name them by."""
    items = together((element("li", label) for label in run.provenance["labels"]), "\n")
    return section("The runs", element("ol", items, start="0"))


NUMBERS: Mapping[str, Callable[[Run], Iterator[Markup]]] = {
    "samples": sample_numbers,
    "matrices": matrix_numbers,
    "experiments": experiment_numbers,
    "runs": lambda run: iter(()),
}
"""What shows the numbers of a run, by the kind of its rows; runs over runs show theirs as findings."""


LAYER = "layer"


class ShownRows(NamedTuple):
    """A table to show: its key columns, its rows, and what they are where they are not those of `metrics.csv`."""

    keys: list[str]
    table: "pandas.DataFrame"
    note: str


def shown_rows(run: Run, *, over: tuple[str, ...]) -> ShownRows:
    """Take every row; where a layer is among the keys, so that there are hundreds, medians over the keys `over`.

    Where nothing else would be left, medians over layers.
    """
    keys = list(run.provenance["key_columns"])
    if LAYER not in keys:
        return ShownRows(keys, run.metrics, "")
    over = over if {*keys} - {*over} else (LAYER,)
    kept = [key for key in keys if key not in over]
    groups = run.metrics.groupby(kept, sort=False, dropna=False)
    medians = groups[list(run.metric_names)].median().reset_index()
    return ShownRows(kept, medians, f"medians over {' and '.join(f'{key}s' for key in over)}")
