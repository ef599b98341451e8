"""The part of a page on which runs are explored: one function from labelled runs to Markup.

| file           | holds                                                               |
|----------------|---------------------------------------------------------------------|
| `samples.py`   | the data of runs over samples                                       |
| `matrices.py`  | the data of runs over weight matrices and heads                     |
| `budget.py`    | how many singular values a page holds, and how they are written     |
| `embedding.py` | scripts, data and styles on the page, and the policy that fences it |
| `views.js`     | what all views need: words, scales, controls                        |
| `sample_views.js`, `matrix_views.js`, `head_views.js`, `comparison.js` | what each view draws, says, tabulates |
| `explorer.js`  | the controls, and starting                                          |
| `explorer.css` | how it looks, on a screen and on paper                              |

Plotly (https://plotly.com/javascript/) draws. Nothing is fetched: its script is in the page, compressed, as are the
data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jacspec.errors import JacspecError, printable
from jacspec.report.explorer.budget import METRIC_VALUES, SPECTRUM_VALUES, Budget
from jacspec.report.explorer.embedding import embed, explorer_style, script_policy
from jacspec.report.explorer.matrices import line_styles, matrix_data, role_styles
from jacspec.report.explorer.samples import sample_data, sample_styles
from jacspec.report.labels import metric_title
from jacspec.report.markup import Markup, element, section
from jacspec.runs import Run

__all__ = ["explore", "explorer_style", "script_policy"]


WAITING = "The interactive part needs a browser with JavaScript. The figures and tables below need none."


def explore(runs: Sequence[tuple[str, Run]]) -> Markup:
    """Write the part of a page on which runs of one task are explored.

    **Arguments:** `runs`, a label and a run each.

    **Returns:** the section with its scripts and data; nothing for runs over experiments, which one table shows whole.
    The page needs `explorer_style()` and `script_policy()` in its head, as `write_page` puts them there.

    **Raises:** `JacspecError` where the runs are of several tasks.
    """
    tasks = sorted({str(run.provenance.get("task")) for _, run in runs})
    if len(tasks) > 1:
        raise JacspecError(f"The runs are of several tasks: {', '.join(tasks)}. Give runs of one task.")
    kind = _kind(runs[0][1]) if runs else None
    if kind is None:
        return Markup("")
    data, note = _collect(kind, runs)
    waiting = element("p", WAITING, id="explorer-state", class_="quiet")
    return section("Explore", waiting, element("div", id="explorer"), note, embed(data))


def _kind(run: Run) -> str | None:
    """Tell by its columns what a row of `metrics.csv` is about; `None` where there are no views of that."""
    columns = set(run.metrics.columns)
    if {"layer", "component", "sample"} <= columns:
        return "samples"
    if not {"layer", "role", "head", "name"} <= columns or run.metrics.empty:
        return None
    return "heads" if run.metrics["head"].notna().all() else "matrices"


def _collect(kind: str, runs: Sequence[tuple[str, Run]]) -> tuple[dict[str, Any], Markup]:
    collect, styles = (sample_data, sample_styles) if kind == "samples" else (matrix_data, role_styles)
    values = sum(len(run.metrics) * len(run.metric_names) for _, run in runs)
    budget = Budget(SPECTRUM_VALUES // len(runs), samples=values <= METRIC_VALUES)
    labels = [printable(label) for label, _ in runs]
    collected = [collect(run, budget) for _, run in runs]
    lines = line_styles([str(place) for place in range(len(runs))]).values()
    named = {name: run for _, run in reversed(runs) for name in run.metric_names}
    names = dict.fromkeys(name for _, run in runs for name in run.metric_names)
    data = {
        "kind": kind,
        "metrics": {name: metric_title(named[name], name) for name in names},
        "styles": styles([run for _, run in runs]),
        "runs": [
            {"label": label, "style": style, "metrics": list(run.metric_names), **found}
            for label, (_, run), style, (found, _) in zip(labels, runs, lines, collected, strict=True)
        ],
    }
    return data, _say_in_part({label: words for label, (_, words) in zip(labels, collected, strict=True) if words})


def _say_in_part(runs: Mapping[str, Sequence[str]]) -> Markup:
    if not runs:
        return Markup("")
    listed = "; ".join(f"of {label} {', '.join(words)}" for label, words in runs.items())
    room = f"{SPECTRUM_VALUES:,} singular values and {METRIC_VALUES:,} values of metrics"
    note = f"This page holds a part only: {listed}. It has room for {room}; the run folder has all."
    return element("p", note, class_="quiet")
