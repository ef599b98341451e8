"""What the page and the console say of a comparison."""

from collections.abc import Iterator, Sequence
from typing import Any

from jacspec.report.labels import component_words, metric_title, number_format
from jacspec.report.markup import Markup, element, section
from jacspec.report.tables import list_runs, table
from jacspec.runs import Run
from jacspec.spectra.bootstrap import SURE
from jacspec.studies.compare.differences import DIFFERENCES_FILE


def compare_findings(run: Run) -> Iterator[Markup]:
    """Write the means over layers of every run, and how many differences are more than noise."""
    rows = run.metrics[run.metrics["n"] > 0]
    means = rows.groupby(["metric", "component", "run"], sort=False)["mean"].mean().unstack("run")

    def lines() -> Iterator[Sequence[Any]]:
        for (metric, component), values in means.iterrows():
            write = number_format(values.tolist())
            yield (f"{metric_title(run, metric)}, {component_words(component)}", *(write(value) for value in values))

    head = ("mean over layers", *(f"run {number}" for number in means.columns))
    yield list_runs(run)
    yield section("Numbers", element("p", count_sure(run)), table(head, lines()))


def count_sure(run: Run) -> str:
    """Say how many differences are more than noise."""
    differences = run.table(DIFFERENCES_FILE)
    tested = differences[differences["q_value"].notna()]
    if tested.empty:
        return "No layer has enough units (samples, heads) to tell a difference from noise."
    sure = (tested["q_value"] < SURE) & (tested["difference"].abs() > tested["floor"])
    return (
        f"{int(sure.sum())} of {len(tested)} differences by layer are beyond the noise floor with q below {SURE}; "
        f"{int((tested['paired'] == 1).sum())} compare the same samples (or heads) in pairs."
    )


def compare_sentences(run: Run) -> Iterator[str]:
    """Say in a sentence what was found."""
    yield count_sure(run)
