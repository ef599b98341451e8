"""The summary of a run on the console."""

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jacspec.errors import printable
from jacspec.report import COLLECTED_TASKS, MATRIX_TASKS
from jacspec.report.cell_rows import shown_rows
from jacspec.report.labels import component_words, lookup, metric_title, model_name, number_format, run_title
from jacspec.runs import QUANTILES, Run
from jacspec.runs.files import REASON

GROUP_WIDTH = 35
"""Columns that a component needs: a median and two quartiles of eight digits each, and what parts them."""


COUPLING_METRICS = ("spectral_radius", "bound", "bound_share", "residual_gain", "write_alignment")
"""Of the many columns of a run of static beside dynamic, those that fit a terminal."""


def print_summary(run: Run, console: Console) -> None:
    """Print a table a metric: layers down, components across, median and quartiles."""
    console.print(Text(run_title(run), style="bold"), soft_wrap=True)
    across = max(1, (console.width - 8) // GROUP_WIDTH)
    wanted = COUPLING_METRICS if run.provenance.get("task") == "coupling" else run.metric_names
    for metric in wanted:
        rows = run.summary[run.summary["metric"] == metric]
        for group in _groups(run.components, across):
            console.print()
            console.print(_table(metric, rows, group))
    console.print()
    _print_missing(run, console, "Jacobians")


def print_files(run: Run, console: Console) -> None:
    """Say where the files of a run are."""
    _print_line(console, "run folder: ", str(run.folder))
    _print_line(console, "merged checkpoint: ", str(lookup(run.provenance, "merged.folder") or ""))
    _print_line(console, "figures: ", ", ".join(sorted(file.name for file in (run.folder / "figures").glob("*.png"))))
    if (run.folder / "report.html").exists():
        _print_line(console, "report: ", str(run.folder / "report.html"))


CONSOLE_METRICS = (
    "spectral_radius",
    "stable_rank",
    "alpha",
    "outliers_above",
    "outliers_below",
    "npr_lambda",
    "kappa_sigma",
    "tokens",
    "overlap_top",
    "overlap_bottom",
    "overlap_null_99",
    "variance_top",
)
"""Of the many columns of a run over matrices, those that fit a terminal."""


def print_report(run: Run, console: Console) -> None:
    """Print the summary of a finished run of any task."""
    if run.provenance.get("task") in COLLECTED_TASKS:
        print_collected(run, console)
    elif "key_columns" in run.provenance:
        print_cells(run, console)
    else:
        (print_matrices if run.provenance["task"] in MATRIX_TASKS else print_summary)(run, console)


def print_collected(run: Run, console: Console) -> None:
    """Print which runs were looked at, what was found of them in a sentence or a few, then where the files are."""
    from jacspec.report.collected_page import count_sure
    from jacspec.report.dynamics import onset_sentences

    console.print(Text(f"{model_name(run)}, task={run.provenance['task']}", style="bold"), soft_wrap=True)
    for number, label in enumerate(run.provenance["labels"]):
        _print_line(console, f"run {number}: ", label)
    for folder, reason in run.provenance["runs_left_out"].items():
        _print_line(console, "left out: ", f"{folder}: {reason}")
    if warning := run.provenance.get("warning"):
        console.print(Text(f"warning: {printable(warning)}", style="bold red"), soft_wrap=True)
    for sentence in onset_sentences(run) if run.provenance["task"] == "dynamics" else (count_sure(run),):
        shown = textwrap.shorten(printable(sentence), LONGEST_SENTENCE, placeholder=" … (all in report.html)")
        console.print(Text(shown), soft_wrap=True)


LONGEST_SENTENCE = 400
BETWEEN = 3
"""Columns of the terminal between two of a table."""


def print_cells(run: Run, console: Console) -> None:
    """Print the table of a run over cells (of matrices: medians over layers)."""
    keys, rows, note = shown_rows(run, over=("layer", "role"))
    console.print(Text(f"{model_name(run)}, task={run.provenance['task']}", style="bold"), soft_wrap=True)
    table = Table(title=note or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for key in keys:
        table.add_column(key, no_wrap=True)
    room = console.width - sum(BETWEEN + max(len(key), *map(len, rows[key].astype(str))) for key in keys)
    writers = {name: number_format(rows[name].tolist()) for name in run.metric_names}
    shown: list[str] = []
    for name in run.metric_names:
        # A number is never cut short: columns that a narrow terminal has no room for are left out.
        numbers = (writers[name](number) for number in rows[name].tolist())
        width = max(map(len, (*numbers, *metric_title(name).split())))
        if (room := room - BETWEEN - width) < 0:
            break
        shown.append(name)
        table.add_column(metric_title(name), justify="right", width=width)
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
    metrics = [name for name in CONSOLE_METRICS if name in run.metric_names]
    table = Table(title="medians by role", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("role", "n", *map(metric_title, metrics)):
        table.add_column(heading, justify="left" if heading == "role" else "right")
    for role in dict.fromkeys(whole["component"]):
        rows = whole[whole["component"] == role].set_index("metric")["median"]
        count = int((run.metrics["role"] == role).sum())
        table.add_row(printable(role), str(count), *(number_format([rows[name]])(rows[name]) for name in metrics))
    console.print(table)
    for reason, count in (run.provenance.get("left_out") or {}).items():
        _print_line(console, f"left out, {count}: ", reason)
    if why := run.provenance.get("read by name"):
        _print_line(console, "read by tensor name, because: ", str(why))
    _print_missing(run, console, "matrices")


def _print_missing(run: Run, console: Console, unit: str) -> None:
    """Say of how many rows values are missing, and why; runs of older versions over samples have no reasons."""
    reasons = run.metrics[REASON].dropna() if REASON in run.metrics else ()
    if len(reasons):
        _print_line(console, f"{len(reasons)} {unit} lack some values: ", "; ".join(sorted(set(reasons))))


def _groups(components: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (components[start : start + size] for start in range(0, len(components), size))


def _table(metric: str, rows: Any, components: Sequence[str]) -> Table:
    """Lay out one metric; `rows` are its rows of `summary.csv`."""
    numbers = rows[[*QUANTILES]].to_numpy(float)
    write = number_format(numbers.ravel().tolist())
    digits = max(len(write(number)) for number in numbers.ravel().tolist())
    cells = {key: _cell(row, write, digits) for key, row in zip(_keys(rows), numbers.tolist(), strict=True)}
    table = Table(
        title=Text(metric_title(metric), style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.add_column("\nlayer", justify="right")
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
