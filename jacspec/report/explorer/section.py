"""Which runs are explored on one page, and what the page says before its script starts."""

from collections.abc import Sequence
from typing import Any

from jacspec.errors import JacspecError
from jacspec.report.explorer.embedding import embed
from jacspec.report.explorer.matrices import line_styles, matrix_data, role_styles
from jacspec.report.explorer.room import SPECTRUM_VALUES
from jacspec.report.explorer.samples import sample_data, sample_styles
from jacspec.report.labels import metric_title, printable
from jacspec.report.markup import Markup, element, section
from jacspec.runs import Run

KINDS = {"weights": "matrices", "overlap": "matrices", "heads": "heads"}
"""What a row of `metrics.csv` is about, by task; others have a row a (layer, component, sample)."""

WAITING = "The interactive part needs a browser with JavaScript. The figures and tables below need none."


def explore(runs: Sequence[tuple[str, Run]]) -> Markup:
    """Write the part of a page on which runs of one task are explored.

    **Arguments:** `runs`, a label and a run each.

    **Returns:** the section with its scripts and data; nothing for runs over experiments, which one table shows whole.
    The page needs `explorer_style()` and `script_policy()` in its head, as `write_page` puts them there.

    **Raises:** `JacspecError` where the runs are of several tasks.
    """
    tasks = sorted({str(run.provenance.get("task", "jacobian")) for _, run in runs})
    if len(tasks) > 1:
        raise JacspecError(f"The runs are of several tasks: {', '.join(tasks)}. Give runs of one task.")
    if not runs or any("key_columns" in run.provenance for _, run in runs):
        return Markup("")
    data, left_out = _collect(KINDS.get(tasks[0], "samples"), runs)
    waiting = element("p", WAITING, id="explorer-state", class_="quiet")
    return section("Explore", waiting, element("div", id="explorer"), *left_out, embed(data))


def _collect(kind: str, runs: Sequence[tuple[str, Run]]) -> tuple[dict[str, Any], list[Markup]]:
    collect, styles = (sample_data, sample_styles) if kind == "samples" else (matrix_data, role_styles)
    names = list(dict.fromkeys(name for _, run in runs for name in run.metric_names))
    labels = [printable(label) for label, _ in runs]
    collected = [collect(run, SPECTRUM_VALUES // len(runs)) for _, run in runs]
    lines = line_styles([str(place) for place in range(len(runs))]).values()
    data = {
        "kind": kind,
        "metrics": {name: metric_title(name) for name in names},
        "styles": styles([run for _, run in runs]),
        "runs": [
            {"label": label, "style": style, "metrics": list(run.metric_names), **found}
            for label, (_, run), style, (found, _) in zip(labels, runs, lines, collected, strict=True)
        ],
    }
    return data, [_say_left_out(label, words) for label, (_, words) in zip(labels, collected, strict=True) if words]


def _say_left_out(label: str, words: str) -> Markup:
    whole = f"a page holds {SPECTRUM_VALUES:,} singular values; all are in spectra.nc"
    return element("p", f"Spectra of {label} on this page: {words} ({whole}).", class_="quiet")
