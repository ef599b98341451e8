"""The summary of a run on the console."""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jacspec.errors import printable
from jacspec.report.labels import (
    component_words,
    layer_words,
    lookup,
    metric_title,
    model_name,
    number_format,
    run_title,
)
from jacspec.report.tables import shown_rows
from jacspec.runs import QUANTILES, Run
from jacspec.runs.files import REASON
from jacspec.studies import study_of
from jacspec.studies.study import load

GROUP_WIDTH = 35
"""Columns that a component needs: a median and two quartiles of eight digits each, and what parts them."""


def print_summary(run: Run, console: Console) -> None:
    """Print a table a metric: layers down, components across, median and quartiles."""
    console.print(Text(run_title(run), style="bold"), soft_wrap=True)
    across = max(1, (console.width - 8) // GROUP_WIDTH)
    for metric in _wanted(run):
        rows = run.summary[run.summary["metric"] == metric]
        for group in _groups(run.components, across):
            console.print()
            console.print(_table(run, metric, rows, group))
    console.print()
    _print_left_out(run, console)
    _print_missing(run, console, "Jacobians")


def print_files(run: Run, console: Console, *, brief: bool = False) -> None:
    """Say where the files of a run are; `brief`, its page alone, or its folder where there is none."""
    page = run.folder / "report.html"
    if brief:
        _print_line(console, "report: ", str(page if page.exists() else run.folder))
        return
    _print_line(console, "run folder: ", str(run.folder))
    _print_line(console, "merged checkpoint: ", str(lookup(run.provenance, "merged.folder") or ""))
    _print_line(console, "figures: ", ", ".join(sorted(file.name for file in (run.folder / "figures").glob("*.png"))))
    if page.exists():
        _print_line(console, "report: ", str(page))


def print_report(run: Run, console: Console) -> None:
    """Print the summary of a finished run of any study."""
    rows = study_of(run.provenance).rows
    _PRINTERS[rows.kind if rows else "samples"](run, console)


MOST_METRICS = 4
"""Columns that a console shows of a study that names none."""


def print_brief(run: Run, console: Console) -> None:
    """Print a run as one of many: what was measured, and of each metric the median over all rows with its quartiles."""
    study = study_of(run.provenance)
    if study.rows is None or study.rows.kind == "runs":
        print_report(run, console)
        return
    console.print(Text(f"{model_name(run)}, task={study.name}, {len(run.metrics)} rows", style="bold"), soft_wrap=True)
    for name in _wanted(run):
        quartiles = run.metrics[name].quantile([0.5, 0.25, 0.75]).tolist()
        write = number_format(quartiles)
        median, low, high = map(write, quartiles)
        _print_line(console, f"  {metric_title(run, name)}: ", f"median {median} [{low} .. {high}]")
    _print_left_out(run, console)
    _print_missing(run, console, "rows")


def print_seeds(runs: Sequence[Run], console: Console) -> None:
    """Sum up runs that differ by their seed alone: of each metric the mean of their medians and how these differ."""
    first = runs[0]
    title = f"{model_name(first)}, task={study_of(first.provenance).name}, {len(runs)} seeds"
    console.print(Text(title, style="bold"), soft_wrap=True)
    for name in _wanted(first):
        medians = np.array([run.metrics[name].median() for run in runs], np.float64)
        mean, spread = float(medians.mean()), float(medians.std(ddof=1))
        write = number_format([mean, spread])
        _print_line(console, f"  {metric_title(first, name)}: ", f"median {write(mean)} ± {write(spread)}")


def _wanted(run: Run) -> list[str]:
    """List the columns that fit a terminal: those that the study names, else the first few."""
    named = study_of(run.provenance).console
    found = [name for name in named if name in run.metric_names] if named else list(run.metric_names)
    return found if named else found[:MOST_METRICS]


def _print_left_out(run: Run, console: Console) -> None:
    """Name the columns that the console does not show."""
    wanted = _wanted(run)
    left = [name for name in run.metric_names if name not in wanted]
    _print_line(console, "more columns in metrics.csv: ", ", ".join(left))


def print_findings(run: Run, console: Console) -> None:
    """Print which runs were looked at, and what was found of them in a sentence or a few."""
    console.print(Text(f"{model_name(run)}, task={study_of(run.provenance).name}", style="bold"), soft_wrap=True)
    for number, label in enumerate(run.provenance["labels"]):
        _print_line(console, f"run {number}: ", label)
    for folder, reason in run.provenance["runs_left_out"].items():
        _print_line(console, "left out: ", f"{folder}: {reason}")
    if warning := run.provenance.get("warning"):
        console.print(Text(f"warning: {printable(warning)}", style="bold red"), soft_wrap=True)
    page = study_of(run.provenance).page
    for sentence in load(page.sentences)(run) if page and page.sentences else ():
        shown = textwrap.shorten(printable(sentence), LONGEST_SENTENCE, placeholder=" … (all in report.html)")
        console.print(Text(shown), soft_wrap=True)


LONGEST_SENTENCE = 400
BETWEEN = 3
"""Columns of the terminal between two of a table."""


def print_experiments(run: Run, console: Console) -> None:
    """Print the table of a run of experiments (of those on matrices: medians over layers)."""
    keys, rows, note = shown_rows(run, over=("layer", "role"))
    console.print(Text(f"{model_name(run)}, task={study_of(run.provenance).name}", style="bold"), soft_wrap=True)
    table = Table(title=note or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        table.add_column(key, no_wrap=True)
    room = console.width - sum(BETWEEN + max(len(key), *map(len, rows[key].astype(str))) for key in keys)
    writers = {name: number_format(rows[name].tolist()) for name in run.metric_names}
    named = study_of(run.provenance).console
    shown: list[str] = []
    for name in _wanted(run) if named else run.metric_names:
        # A number is never cut short: columns that a narrow terminal has no room for are left out.
        numbers = (writers[name](number) for number in rows[name].tolist())
        width = max(map(len, (*numbers, *metric_title(run, name).split())))
        if (room := room - BETWEEN - width) < 0:
            break
        shown.append(name)
        table.add_column(metric_title(run, name), justify="right", width=width)
    for row in rows.to_dict("records"):
        cells = (writers[name](float(row[name])) for name in shown)
        table.add_row(*(printable(row[key]) for key in keys), *cells)
    console.print(table)
    if left := [name for name in run.metric_names if name not in shown]:
        _print_line(console, "more columns in metrics.csv: ", ", ".join(left))
    _print_missing(run, console, "rows")


def print_matrices(run: Run, console: Console) -> None:
    """Print a table of roles (medians over their matrices), and what was left out."""
    console.print(Text(f"{model_name(run)}, {len(run.metrics)} matrices", style="bold"), soft_wrap=True)
    whole = run.summary[run.summary["layer"].isna()]
    metrics = _wanted(run)
    table = Table(title="medians by role", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("role", "n", *(metric_title(run, name) for name in metrics)):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in dict.fromkeys(whole["component"]):
        own = whole[whole["component"] == role].set_index("metric")
        rows, count = own["median"], int((run.metrics["role"] == role).sum()) or int(own["n"].max())
        table.add_row(printable(role), str(count), *(number_format([rows[name]])(rows[name]) for name in metrics))
    console.print(table)
    for reason, count in (run.provenance.get("left_out") or {}).items():
        _print_line(console, f"left out, {count}: ", reason)
    if why := run.provenance.get("read by name"):
        _print_line(console, "read by tensor name, because: ", str(why))
    _print_left_out(run, console)
    _print_missing(run, console, "matrices")


def _print_missing(run: Run, console: Console, unit: str) -> None:
    """Say of how many rows values are missing, and why; runs of older versions over samples have no reasons."""
    reasons = run.metrics[REASON].dropna() if REASON in run.metrics else ()
    counts = Counter(part for reason in reasons for part in dict.fromkeys(str(reason).split("; ")))
    if counts:
        listed = "; ".join(f"{part} ({count})" for part, count in counts.most_common())
        _print_line(console, f"{len(reasons)} {unit} lack some values: ", listed)


def _groups(components: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (components[start : start + size] for start in range(0, len(components), size))


def _table(run: Run, metric: str, rows: Any, components: Sequence[str]) -> Table:
    """Lay out one metric; `rows` are its rows of `summary.csv`."""
    numbers = rows[[*QUANTILES]].to_numpy(float)
    write = number_format(numbers.ravel().tolist())
    digits = max(len(write(number)) for number in numbers.ravel().tolist())
    cells = {key: _cell(row, write, digits) for key, row in zip(_keys(rows), numbers.tolist(), strict=True)}
    table = Table(
        title=Text(metric_title(run, metric), style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column(f"\n{layer_words(components)}", justify="right", no_wrap=True)
    for component in components:
        table.add_column(_header(component, digits), no_wrap=True)
    for layer in sorted({layer for layer, component in cells if component in components}):
        table.add_row(str(layer), *(Text(cells.get((layer, component), "")) for component in components))
    return table


def _keys(rows: Any) -> list[tuple[int, str]]:
    return list(rows[["layer", "component"]].itertuples(index=False, name=None))


def _cell(quantiles: Sequence[float], write: Callable[[float], str], digits: int) -> str:
    median, q1, q3 = (write(number).rjust(digits) for number in quantiles)
    return f"{median} [{q1} .. {q3}]"


def _header(component: str, digits: int) -> Text:
    """Centre the component's name over its numbers, and say what these are."""
    width = len(_cell([0.0] * len(QUANTILES), str, digits))
    quartiles = "[q1 .. q3]".center(width - digits - 1)
    return Text(f"{printable(component_words(component)).center(width)}\n{'median'.rjust(digits)} {quartiles}")


def _print_line(console: Console, label: str, text: str) -> None:
    """Print a line that the terminal may wrap but that is never cut, so that a path can be copied whole."""
    if text:
        console.print(
            Text(label, style="dim") + Text(printable(text), style="default"), soft_wrap=True, highlight=False
        )


_PRINTERS: Mapping[str, Callable[[Run, Console], None]] = {
    "samples": print_summary,
    "matrices": print_matrices,
    "experiments": print_experiments,
    "runs": print_findings,
}
"""What prints the summary of a run, by the kind of its rows."""
