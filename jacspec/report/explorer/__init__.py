"""The part of a page on which runs are explored: one function from labelled runs to Markup.

| file           | holds                                                               |
|----------------|---------------------------------------------------------------------|
| `samples.py`   | the data of runs over samples                                       |
| `matrices.py`  | the data of runs over weight matrices and heads                     |
| `experiments.py` | the data of runs over experiments                               |
| `budget.py`    | how many singular values a page holds, and how they are written     |
| `embedding.py` | scripts, data and styles on the page, and the policy that fences it |
| `views.js`     | what all views need: words, scales, controls                        |
| `*_views.js`, `comparison.js` | what each view draws, says, tabulates              |
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
from jacspec.report.explorer.experiments import along_key, experiment_data, experiment_styles
from jacspec.report.explorer.matrices import line_styles, matrix_data, role_styles
from jacspec.report.explorer.samples import sample_data, sample_styles
from jacspec.report.labels import metric_title
from jacspec.report.markup import Markup, element, section
from jacspec.runs import Run
from jacspec.studies import study_of

__all__ = ["explore", "explorer_style", "script_policy"]


WAITING = "The interactive part needs a browser with JavaScript. The figures and tables below need none."

COLLECTORS = {"samples": (sample_data, sample_styles), "experiments": (experiment_data, experiment_styles)}
"""What collects the data and the styles of a kind of rows, where they are no matrices."""


def explore(runs: Sequence[tuple[str, Run]], groups: Sequence[str] = ()) -> Markup:
    """Write the part of a page on which runs of one task are explored.

    **Arguments:** `runs`, a label and a run each; `groups`, of each the group whose colour it has, else each its own.

    **Returns:** the section with its scripts and data; nothing for rows that are drawn against nothing.
    The page needs `explorer_style()` and `script_policy()` in its head, as `write_page` puts them there.

    **Raises:** `JacspecError` where the runs are of several tasks.
    """
    tasks = sorted({str(run.provenance.get("task")) for _, run in runs})
    if len(tasks) > 1:
        raise JacspecError(f"The runs are of several tasks: {', '.join(tasks)}. Give runs of one task.")
    kind = _kind(runs[0][1]) if runs else None
    if kind is None:
        return Markup("")
    data, note = _collect(kind, runs, groups)
    waiting = element("p", WAITING, id="explorer-state", class_="quiet")
    return section("Explore", waiting, element("div", id="explorer"), note, embed(data))


def _kind(run: Run) -> str | None:
    """Tell by its columns what a row of `metrics.csv` is about; `None` where there are no views of that."""
    columns = set(run.metrics.columns)
    if {"layer", "component", "sample"} <= columns:
        return "samples"
    if run.metrics.empty:
        return None
    if {"layer", "role", "head", "name"} <= columns:
        return "heads" if run.metrics["head"].notna().all() else "matrices"
    return "experiments" if along_key(run) else None


def _collect(kind: str, runs: Sequence[tuple[str, Run]], groups: Sequence[str]) -> tuple[dict[str, Any], Markup]:
    collect, styles = COLLECTORS.get(kind, (matrix_data, role_styles))
    values = sum(len(run.metrics) * len(run.metric_names) for _, run in runs)
    budget = Budget(SPECTRUM_VALUES // len(runs), samples=values <= METRIC_VALUES)
    labels = [printable(label) for label, _ in runs]
    collected = [collect(run, budget) for _, run in runs]
    own = groups or [str(place) for place in range(len(runs))]
    lines = line_styles(list(dict.fromkeys(own)))
    named = {name: run for _, run in reversed(runs) for name in run.metric_names}
    names = dict.fromkeys(name for _, run in runs for name in run.metric_names)
    data = {
        "kind": kind,
        "metrics": {name: metric_title(named[name], name) for name in names},
        "styles": styles([run for _, run in runs]),
        "runs": [
            {
                "label": label,
                "style": lines[group],
                **found,
                "metrics": _order(run, found.get("metrics", run.metric_names)),
            }
            for label, (_, run), group, (found, _) in zip(labels, runs, own, collected, strict=True)
        ],
    }
    return data, _say_in_part({label: words for label, (_, words) in zip(labels, collected, strict=True) if words})


def _order(run: Run, names: Sequence[str]) -> list[str]:
    """Put first the metric that a page opens on: the run's first, unless all rows have the same."""
    shown = (*names[:1], *study_of(run.provenance).console, *names)
    varies = (name for name in shown if name in names and run.metrics[name].nunique() > 1)
    return list(dict.fromkeys((next(varies, names[0]), *names))) if names else []


def _say_in_part(runs: Mapping[str, Sequence[str]]) -> Markup:
    if not runs:
        return Markup("")
    listed = "; ".join(f"of {label} {', '.join(words)}" for label, words in runs.items())
    room = f"{SPECTRUM_VALUES:,} singular values and {METRIC_VALUES:,} values of metrics"
    note = f"This page holds a part only: {listed}. It has room for {room}; the run folder has all."
    return element("p", note, class_="quiet")
