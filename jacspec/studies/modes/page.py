"""The numbers on the page of a `task=modes` run."""

from collections.abc import Iterator

import pandas

from jacspec.report.labels import component_words, metric_title, number_format
from jacspec.report.markup import Markup, element, fold, section
from jacspec.report.tables import sample_numbers, table
from jacspec.runs import Run
from jacspec.studies.kinds import KINDS_FILE
from jacspec.studies.modes import (
    BETWEEN_FILE,
    CHECK_FILE,
    LABELS_FILE,
    MODES_FILE,
    READ_SHARES,
    SHARED_FILE,
    WORDS_FILE,
)
from jacspec.studies.modes.check_page import check_section
from jacspec.studies.modes.words_page import words_section

NOTHING = {
    "spectral_radius": 0.0,
    "residual_gain": 1e-2,
    "read_input": 1e-3,
    "read_mean_stream": 0.0,
    "read_writes": 0.0,
}
"""What groups are compared by; where no mean is more it is 0 by construction, but for rounding and a norm's eps."""

LONGEST = 24
"""Letters of a label at the head of a column."""


def modes_numbers(run: Run) -> Iterator[Markup]:
    """Write the words, the check, the tables of modes, of what is shared and of neighbours, and those of columns."""
    if (run.folder / WORDS_FILE).is_file():
        yield from words_section(run)
    if (run.folder / CHECK_FILE).is_file():
        yield from check_section(run)
    yield section("Modes between samples", *_modes(run))
    yield section("Shared subspaces", *_shared(run))
    yield section("From layer to layer", *_between(run))
    yield section("By kind of token", *_by(run, KINDS_FILE, "kind"))
    if (run.folder / LABELS_FILE).is_file():
        yield section("By label", *_by(run, LABELS_FILE, "label"))
    yield from sample_numbers(run)


def _modes(run: Run) -> Iterator[Markup]:
    rows = run.table(MODES_FILE)
    yield element(
        "p",
        "Of each mode: the median of σ, in how many samples it stands alone, and of those |cos| between two samples "
        "(mean ± standard error) beside that of directions with the covariance of the stream and of random ones; last, "
        "what share of the stream's direction lies along the read vector, in random directions; of modes that are one "
        "subspace in a sample, the mean of that. Modes −1, −2 … have the smallest values.",
    )
    head = ("layer", "mode", "σ", "alone", "|cos| of reads", "of writes", "stream's", "random", "input, over random")
    for component, own in rows.groupby("component", sort=False):
        body = [
            (
                row["layer"],
                row["mode"],
                f"{row['sigma']:.3g}",
                f"{row['n'] / row['samples']:.0%}",
                _pair(row["read_cos"], row["read_error"]),
                _pair(row["write_cos"], row["write_error"]),
                f"{row['stream']:.2f}",
                f"{row['random']:.2f}",
                _ratio(row["input"], row["input_random"]),
            )
            for row in own.to_dict("records")
        ]
        yield element("h3", component_words(str(component)))
        yield fold(table(head, body, keys=2), len(body), "modes")


def _shared(run: Run) -> Iterator[Markup]:
    rows = run.table(SHARED_FILE)
    yield element(
        "p",
        "How alike the subspaces of the leading modes are between samples, and what share of one's modes the mean "
        "subspace of the other half of the samples holds; last, the smallest and the largest principal angle between "
        "two samples' subspaces, means over pairs. In brackets by chance, with the stream's covariance.",
    )
    head = ("layer", "side", "dimensions", "alike", "held by the mean subspace", "smallest angle", "largest angle")
    for component, own in rows.groupby("component", sort=False):
        body = [
            (
                row["layer"],
                row["side"],
                f"{row['rank']:.1f}",
                f"{_pair(row['alike'], row['alike_error'])} ({row['stream']:.2f})",
                f"{_pair(row['held'], row['held_error'])} ({row['held_stream']:.2f})",
                *(_angle(row[f"{end}_angle"], row[f"{end}_angle_stream"]) for end in ("smallest", "largest")),
            )
            for row in own.to_dict("records")
        ]
        yield element("h3", component_words(str(component)))
        yield fold(table(head, body, keys=2), len(body), "rows")


def _between(run: Run) -> Iterator[Markup]:
    rows = run.table(BETWEEN_FILE)
    if rows.empty:
        yield element("p", "Nothing is measured that follows a component in its layer or the next.")
        return
    yield element(
        "p",
        "Each component beside what follows it, at one sample (mean ± standard error); “another sample” takes the "
        "second from another one. m_K is 0 where the modes of both are the same, and about 1 by chance.",
    )
    head = ("from", "to", "what", "samples", "mean ± s.e.", "another sample", "random")
    write = number_format([1.0], digits=(2,))
    body = [
        (
            f"{component_words(row['component'])} {row['layer']}",
            f"{component_words(row['next_component'])} {row['next_layer']}",
            row["what"],
            row["n"],
            _pair(row["mean"], row["standard_error"]),
            _number(row["other"]),
            write(row["random"]) if row["what"] == "m_K" else _number(row["random"]),
        )
        for row in rows.to_dict("records")
    ]
    yield fold(table(head, body, keys=2), len(body), "pairs")


def _by(run: Run, file: str, by: str) -> Iterator[Markup]:
    """Write means by group of samples, layers down; a table a component, a value, and a column of labels."""
    rows = run.table(file)
    rows = rows[rows["metric"].isin([*NOTHING])]
    rows = rows.assign(column=rows.get("column", ""))
    seen = rows.groupby(["component", "metric"])["mean"].transform("max") > rows["metric"].map(NOTHING)
    yield element(
        "p",
        "Means ± standard errors over the samples of a group; “–” where it has none. The share of the stream's own "
        "direction that is read, and the gain along it, are 0 by construction behind a norm on the input, and left out "
        "there. The mean stream is that of all samples. Of earlier writes, of what each component that is measured "
        "before wrote at the sample, it is the mean share.",
    )
    # By component first: a metric may begin at a later layer than others.
    rows = rows[seen].sort_values("component", key=lambda own: own.map(run.components.index), kind="stable")
    for (component, metric, column), own in rows.groupby(["component", "metric", "column"], sort=False):
        of = f" by {column}" if column else ""
        title = READ_SHARES.get(str(metric)) or metric_title(run, str(metric))
        yield element("h3", f"{component_words(str(component))}: {title}{of}")
        counts = own.groupby(by, sort=False)["n"].max()
        cells = {(row["layer"], row[by]): _pair(row["mean"], row["standard_error"]) for row in own.to_dict("records")}
        layers = own["layer"].unique()
        body = [(layer, *(cells.get((layer, group), "–") for group in counts.index)) for layer in layers]
        head = ("layer", *(f"{_short(str(group))} (n = {count})" for group, count in counts.items()))
        yield fold(table(head, body, keys=1), len(body), "layers")


def _short(label: str) -> str:
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def _angle(value: float, chance: float) -> str:
    return "–" if pandas.isna(value) else f"{value:.1f}° ({chance:.1f}°)"


def _ratio(value: float, chance: float) -> str:
    return "–" if pandas.isna(value) else f"{value / chance:.2g}"


def _number(value: float) -> str:
    return "–" if pandas.isna(value) else f"{value:.3f}"


def _pair(value: float, error: float) -> str:
    if pandas.isna(value):
        return "–"
    return f"{value:.3f}" if pandas.isna(error) else f"{value:.3f} ± {error:.3f}"
