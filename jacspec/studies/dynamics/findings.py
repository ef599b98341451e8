"""What was found through training: how many curves change, and what changes first and last."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from jacspec.report.labels import component_words, metric_title
from jacspec.runs import Run
from jacspec.studies.dynamics import ONSETS_FILE

if TYPE_CHECKING:
    import pandas

MOST = 3
"""Metrics that a sentence names, and stretches of layers that it lists."""


def dynamics_findings(run: Run) -> Iterator[str]:
    """Say how many curves change, by which step most have, and which are first and last."""
    table = run.table(ONSETS_FILE)
    found = table[table["appears"] == 1]
    if found.empty:
        yield "Nothing changes beyond dynamics.least_change and noise."
        return
    untested = int(found["q_value"].isna().sum())
    yield (
        f"{len(found)} of {len(table)} curves change beyond dynamics.least_change and noise"
        + (f" ({untested} of them have too few units to be tested)" if untested else "")
        + f"; half of them have made half of their change by step {int(found['onset'].quantile(0.5, 'lower'))}."
    )
    steps = sorted(set(found["onset"]))
    for words, step in dict.fromkeys((("First", steps[0]), ("Last", steps[-1]))):
        if words == "First" or step != steps[0]:
            changed = list(changes_by_metric(run, found[found["onset"] == step]))
            more = len(changed) - MOST
            rest = f"; and {more} more metric{'s' * (more > 1)}" if more > 0 else ""
            yield f"{words}, by step {step}: {'; '.join(changed[:MOST])}{rest}."


def changes_by_step(run: Run) -> Iterator[tuple[int, str]]:
    """List, step by step, which metrics of which layers have made half of their change for good."""
    table = run.table(ONSETS_FILE)
    found = table[table["appears"] == 1]
    for step in sorted(set(found["onset"])):
        yield int(step), "; ".join(changes_by_metric(run, found[found["onset"] == step]))


def changes_by_metric(run: Run, rows: "pandas.DataFrame") -> Iterator[str]:
    """Name the components and layers of each metric, that with most of them first."""
    whole = {str(name): layers.nunique() for name, layers in run.metrics.groupby("component")["layer"]}
    for metric, own in sorted(rows.groupby("metric", sort=False), key=lambda group: -len(group[1])):
        yield f"{metric_title(run, str(metric)).partition(' = ')[0]} of {', '.join(_where(own, whole))}"


def _where(rows: "pandas.DataFrame", whole: Mapping[str, int]) -> Iterator[str]:
    """Name the components and layers of rows; `whole` counts the layers of each component."""
    for component, layers in rows.groupby("component", sort=False)["layer"]:
        own, count = sorted(set(layers)), whole[str(component)]
        words = spans(own)
        if words.count(",") >= MOST:
            words = f"{len(own)} of {count} layers"
        yield f"{component_words(str(component))} in {'all layers' if len(own) == count > 1 else words}"


def spans(layers: Sequence[int]) -> str:
    """Write layers as a person would: `layer 3`, `layers 0–2, 5`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    words = ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)
    return f"layer{'s' * (len(layers) > 1)} {words}"
