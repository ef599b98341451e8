"""What changes along directions do to the predicted token, on the page and as a figure of a `task=modes` run."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from jacspec.report.labels import component_words, title_lines
from jacspec.report.markup import Markup, element, fold, section
from jacspec.report.tables import table
from jacspec.runs import Run
from jacspec.studies.modes import CHECK_FILE
from jacspec.studies.modes.words_page import write_number

REMOVED = "remove"


KINDS = {
    "read": ("read v₁", "#0072B2", "o"),
    "read_k": ("reads v₁…v_k", "#0072B2", "s"),
    "write": ("write u₁", "#D55E00", "o"),
    "write_k": ("writes u₁…u_k", "#D55E00", "s"),
    "principal": ("principal component", "0.45", "o"),
    "principal_k": ("k components", "0.45", "s"),
    "random": ("random", "0.45", "x"),
    "random_k": ("k random", "0.45", "x"),
}
"""How each kind of direction is called and drawn."""


PLACES = {
    "stream that enters": "entering",
    "stream after attention": "after attention",
    "stream that leaves": "leaving",
}
"""How the places of directions of chance are called, briefly."""


CHECK_CAPTION = (
    "Does it matter? How many times as much as random directions with the stream's covariance, of the same length, a "
    "change along each direction moves the distribution of the predicted token (KL): medians over samples of the "
    "ratio to the median random direction at one sample, with intervals of 95 %. Left of a colon the layer; entering "
    "and leaving are its streams. The dashed line is chance: one more random direction is there."
)


def check_section(run: Run) -> Iterator[Markup]:
    """Write what was done along which direction, what it did to the next token, and what the Jacobian said of it."""
    rows = run.table(CHECK_FILE)
    reading = element(
        "p",
        "The last token's stream is changed at one layer and carried on: ε of its length is added along a direction, "
        f"with both signs, or the direction is taken away. KL is that of the {_predicted(run)}'s distribution from the "
        f"unchanged one, Δ loss that of the true {_predicted(run)} (nats); “times chance” is KL over the "
        "median of that of random directions with the stream's covariance at the same place and sample, 1 for one more "
        "of them; “predicted” is the share of the change "
        "of all logits that the product of the Jacobians explains; “named” what the logit of the token that the "
        "direction names directly did over what its score says. Medians over samples, intervals of 95 %.",
    )
    head = ("where", "direction", "change", "KL", "times chance", "Δ loss", "predicted", "named")
    parts = []
    for layer, own in rows.groupby("layer", sort=True):
        body = [
            (
                _where(row["component"]),
                KINDS[row["kind"]][0],
                change_words(row["change"]),
                _two(row["kl"]),
                _interval(row, "ratio"),
                _interval(row, "loss"),
                write_number(row["predicted"], ".0%"),
                "–" if pandas.isna(row["named"]) else _two(row["named"]),
            )
            for row in sorted(own.to_dict("records"), key=_check_order)
        ]
        parts += [element("h3", f"Layer {layer}"), fold(table(head, body, keys=3), len(body), "changes")]
    yield section("Does it matter", reading, *parts)


def _where(component: str) -> str:
    """Name a component, or the place of directions of chance."""
    return PLACES[component] if component in PLACES else component_words(component)


def _check_order(row: dict[str, Any]) -> tuple[bool, str, int]:
    """Put the directions of components before those of chance, a component's or place's together."""
    chance = row["kind"].startswith(("random", "principal"))
    return chance, "" if chance else row["component"], 0 if chance else [*KINDS].index(row["kind"])


def _predicted(run: Run) -> str:
    """Say what the logits are of: the next token of a decoder, or an encoder's masked one."""
    return str(run.provenance.get("predicted", "next token"))


def change_words(change: object) -> str:
    """Say what was done along a direction."""
    return "taken away" if change == REMOVED else f"± {change} ‖x‖"


def _interval(row: dict[str, Any], name: str) -> str:
    if pandas.isna(row[name]):
        return "–"
    value, low, high = (f"{round(float(_two(row[f'{name}{end}'])), 3) + 0:g}" for end in ("", "_low", "_high"))
    return value if pandas.isna(row[f"{name}_low"]) else f"{value} [{low}, {high}]"


def _two(value: float) -> str:
    """Write two significant digits, as 130, and powers of ten for the very large and small alone."""
    return f"{float(f'{value:.2g}'):g}"


def draw_check(run: Run) -> Figure:
    """Draw how many times more than chance a change along each kind of direction matters, a panel a change."""
    rows = run.table(CHECK_FILE)
    rows = rows[rows["ratio"].notna()]
    changes = list(dict.fromkeys(rows["change"]))
    places = list(dict.fromkeys(zip(rows["layer"], rows["component"], strict=True)))
    figure = Figure(figsize=(max(1.5 + 0.5 * len(places), 6), 0.9 + 2.9 * len(changes)), layout="constrained")
    panels = figure.subplots(len(changes), 1, squeeze=False, sharex=True)[:, 0]
    kinds = [kind for kind in KINDS if kind in set(rows["kind"])]
    # What removes nothing, as a read behind a norm, has a ratio of 0: it is drawn at the bottom.
    floor = 1e-3
    for axes, change in zip(panels, changes, strict=True):
        for shift, kind in zip(np.linspace(-0.3, 0.3, len(kinds)), kinds, strict=True):
            own = rows[(rows["change"] == change) & (rows["kind"] == kind)]
            x = np.array([places.index(place) for place in zip(own["layer"], own["component"], strict=True)]) + shift
            middle = own["ratio"].clip(lower=floor)
            reach = [middle - own["ratio_low"].clip(lower=floor), own["ratio_high"].clip(lower=floor) - middle]
            words, colour, marker = KINDS[kind]
            filled = colour if marker == "o" else "white"
            axes.errorbar(x, middle, np.nan_to_num(np.maximum(reach, 0)), fmt=marker, color=colour, label=words,
                          markersize=4, markerfacecolor=filled, linewidth=1)  # fmt: skip
        axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        plain = FuncFormatter(lambda value, _: "0" if value <= floor else f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(f"times chance\n{change_words(change)}")
        axes.grid(axis="y", color="0.92", linewidth=0.6)
    names = [f"{layer}: {_where(component)}" for layer, component in places]
    panels[-1].set_xticks(range(len(places)), names, rotation=90, fontsize="small", parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    figure.suptitle(title_lines(run, figure.get_figwidth()), fontsize="medium", parse_math=False)
    return figure


def check_findings(run: Run) -> Iterator[str]:
    """Say how much more than chance a change along reads and writes matters, and how far the Jacobians foretell it."""
    rows = run.table(CHECK_FILE)
    # Of several amounts the first: places are counted once.
    amount = rows["change"].iloc[0]
    added = rows[(rows["change"] == amount) & rows["ratio_low"].notna()] if amount != REMOVED else rows[:0]
    for kind in ("read", "write"):
        own = added[added["kind"] == kind]
        if own.empty:
            continue
        above, below = int((own["ratio_low"] > 1).sum()), int((own["ratio_high"] < 1).sum())
        top = own.loc[own["ratio"].idxmax()]
        explained = (
            ""
            if pandas.isna(top["predicted"])
            else f", of which the Jacobians explain {top['predicted']:.1%} of the change of the logits"
        )
        yield (
            f"{change_words(amount)} added along {KINDS[kind][0]} moves the {_predicted(run)}'s distribution more than "
            f"random directions of the stream's covariance in {above} of {len(own)} places, less in {below}; most in "
            f"the {component_words(top['component'])} of layer {top['layer']}, {_times(top)} as much{explained}."
        )
    gone = rows[(rows["change"] == REMOVED) & rows["ratio_low"].notna() & (rows["kind"] == "write")]
    if not gone.empty:
        top = gone.loc[gone["ratio"].idxmax()]
        yield (
            f"Taken away, write u₁ matters most in the {component_words(top['component'])} of layer {top['layer']}: "
            f"{_times(top)} as much as random directions, the loss changes by {_interval(dict(top), 'loss')} nats."
        )


def _times(row: "pandas.Series[Any]") -> str:
    return f"{_interval(dict(row), 'ratio')} times"
