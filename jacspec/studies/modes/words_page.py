"""Words of directions on the page of a `task=modes` run."""

import json
from collections.abc import Iterator
from typing import Any

import pandas

from jacspec.report.labels import component_words
from jacspec.report.markup import Markup, element, fold, section
from jacspec.report.tables import table
from jacspec.runs import Run
from jacspec.spectra.significance import SURE
from jacspec.studies.modes import OWN_FILE, WORDS_FILE, Through

SHOWN = 5


SIDES = {
    "write": "What writes make likelier",
    "read": "What reads look for: token embeddings",
    "read stream": "What reads look for: the average stream of each token at that layer",
}


def words_section(run: Run) -> Iterator[Markup]:
    """Write the words of shared directions, those beyond chance in bold, and which token comes first in each sample."""
    rows = run.table(WORDS_FILE)
    parts = [element("p", _words_reading(run, rows))]
    for side, title in (SIDES | {"write": SIDES["write"] + _through(run)}).items():
        named = rows[(rows["side"] == side) & rows["strongest"].notna()]
        if named.empty:
            continue
        head = ("layer", "component", "mode", "share", "one end", "other end", "largest |score|", "by chance", "p", "q")
        body = [_word_row(row) for row in named.to_dict("records")]
        parts += [element("h3", title), fold(table(head, body, keys=3), len(body), "directions")]
    parts += [element("h3", "Each sample's own first mode"), *_own(run)]
    yield section("In words", *parts)


def _words_reading(run: Run, rows: pandas.DataFrame) -> str:
    count = int(rows["strongest"].notna().sum())
    facts = run.provenance.get("words") or {}
    return (
        f"Directions that the samples share, as tokens: {count} of {len(rows)} have words; the others are no one "
        "direction, two halves of the samples giving different ones. The sign is that of the largest |score|. Chance "
        f"are {facts.get('draws', '')} directions with the covariance of the stream that is written to, or of what a "
        "read is compared with; “by chance” is the median of their largest |score|, p the share that reaches the "
        "direction's own, q the same adjusted for all rows. Bold: q < 5 %. Writes: "
        f"{facts.get('writes', 'through the final norm and the unembedding')}."
    )


def _word_row(row: dict[str, Any]) -> tuple[object, ...]:
    one, other = (show_tokens(row[end]) for end in ("top", "bottom"))
    return (
        row["layer"],
        component_words(row["component"]),
        row["mode"],
        f"{row['holds']:.0%}",
        element("strong", one) if row["q"] < SURE else one,
        other,
        f"{row['strongest']:.3g}",
        write_number(row["chance"], ".3g"),
        write_number(row["p"], ".3f"),
        write_number(row["q"], ".3f"),
    )


def show_tokens(cell: object, shown: int = SHOWN) -> str:
    """Write the first tokens of a cell of JSON, spaces and line ends visible."""
    return " · ".join(show_token(token) for token, _ in json.loads(str(cell))[:shown])


def show_token(token: str) -> str:
    """Write one token so that it can be told from others."""
    return json.dumps(token, ensure_ascii=False)[1:-1].replace(" ", "␣").replace('\\"', '"')


def _own(run: Run) -> Iterator[Markup]:
    rows = run.table(OWN_FILE)
    yield element(
        "p",
        "Which token comes first for how many samples, each read with its own derivative. Vectors of samples that are "
        "alike name one token often, whatever it is; whether they say more than chance is judged by the median of "
        "their largest |score|, beside that of directions of chance, p being twice the median of the samples' own. A "
        "sample whose leading value is not alone has no such token.",
    )
    head = ("layer", "component", "side", "samples", "first tokens", "times", "largest |score|", "by chance", "q")
    body = [
        (
            row["layer"],
            component_words(row["component"]),
            row["side"],
            row["samples"],
            _counts(row["tokens"], strong=row["q"] < SURE),
            write_number(row["times"], ".0f"),
            write_number(row["strongest"], ".3g"),
            write_number(row["chance"], ".3g"),
            write_number(row["q"], ".3f"),
        )
        for row in rows[rows["mode"] == 1].to_dict("records")
    ]
    yield fold(table(head, body, keys=3), len(body), "components of layers")


def _counts(cell: object, *, strong: bool) -> object:
    if not isinstance(cell, str):
        return "–"
    words = ", ".join(f"{show_token(token)} {times}" for token, times in json.loads(cell)[:SHOWN])
    return element("strong", words) if strong else words


def _through(run: Run) -> str:
    """Say that writes are read in words behind all later blocks, where it is not by the head directly."""
    deep = (run.provenance.get("words") or {}).get("through") == Through.depth.value
    return " through all later blocks" if deep else ""


def write_number(value: float | int, spec: str) -> str:
    """Write a number as `spec` says; a dash where there is none."""
    return "–" if pandas.isna(value) else format(value, spec)


def words_findings(run: Run) -> Iterator[str]:
    """Say which words shared directions have beyond chance, and which token most samples' own modes name."""
    rows = run.table(WORDS_FILE)
    named = rows[rows["strongest"].notna()]
    through = _through(run)
    for side, verb, what in (("write", "make", "a token likelier"), ("read", "lie", "along a token's embedding")):
        own = named[named["side"] == side]
        if not own.empty:
            yield _beyond_chance(own, side, verb, what, through * (side == "write"))
    own = run.table(OWN_FILE)
    own = own[(own["mode"] == 1) & (own["side"] == "write") & (own["samples"] > 0)]
    sure = own[own["q"] < SURE]
    if not sure.empty:
        top = sure.loc[(sure["strongest"] / sure["chance"]).idxmax()]
        yield (
            f"In {len(sure)} of {len(own)} components of layers the samples' own first writes make a token likelier"
            f"{through} than directions of the same covariance do (q < 5 %); most in the "
            f"{component_words(top['component'])} of layer {top['layer']}, |score| {top['strongest']:.2g} beside "
            f"{top['chance']:.2g}, “{show_tokens(top['tokens'], 1)}” in {top['times']:.0f} of {top['samples']} samples."
        )


def _beyond_chance(rows: pandas.DataFrame, side: str, verb: str, what: str, through: str) -> str:
    """Say how many shared directions with words have them beyond chance, and which most."""
    beyond = rows[rows["q"] < SURE].sort_values("layer")
    best = beyond.loc[(beyond["strongest"] / beyond["chance"]).nlargest(3).index]
    if len(rows) == 1:
        one = f"The one {side} direction that samples share and that has words{through}"
        if beyond.empty:
            return (
                f"{one} does not {verb} {what} beyond directions of the same covariance (q < 5 %): at this power its "
                "words are no more than those of any direction."
            )
        return f"{one} {verb}s {what} more than directions of the same covariance do (q < 5 %): {_examples(best)}."
    many = f"Of the {len(rows)} {side} directions that samples share and that have words{through}"
    if beyond.empty:
        return (
            f"{many}, none {verb} {what} beyond directions of the same covariance (q < 5 %): at this power their words "
            "are no more than those of any direction."
        )
    return (
        f"{many}, {len(beyond)} {verb}{'s' * (len(beyond) == 1)} {what} more than directions of the same covariance do "
        f"(q < 5 %); most {_examples(best)}."
    )


def _examples(rows: pandas.DataFrame) -> str:
    return "; ".join(
        f"{component_words(row['component'])} {row['layer']} ({show_tokens(row['top'], 3)}; {row['strongest']:.2g} "
        f"beside {row['chance']:.2g})"
        for row in rows.to_dict("records")
    )
