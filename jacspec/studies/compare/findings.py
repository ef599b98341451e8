"""What was found of runs beside each other: how many differences are more than noise, and where the largest are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jacspec.report.findings import Interval
from jacspec.report.labels import component_words, metric_title, upper_first
from jacspec.runs import Run
from jacspec.spectra.significance import SURE
from jacspec.studies.compare import DIFFERENCES_FILE, RUNS_FILE
from jacspec.studies.compare.quality_figures import quality_findings
from jacspec.studies.compare.side_by_side import side_by_side_findings

if TYPE_CHECKING:
    import pandas

MOST = 4
"""Metrics and components of which a sentence is said."""


def compare_findings(run: Run) -> Iterator[str]:
    """Count the differences that are more than noise, then say which metrics of which components differ in most layers.

    A difference counts where it is beyond the noise floor and its q-value over all tests is below `SURE`. Where quality
    is given, what goes with it comes first; of runs of matrices, what lies beyond Marchenko and Pastur's law.
    """
    if "quality" in run.provenance:
        yield from quality_findings(run)
    yield from side_by_side_findings(run)
    differences = run.table(DIFFERENCES_FILE)
    tested = differences[differences["q_value"].notna()]
    if tested.empty:
        yield "No layer has enough units (samples, heads) to tell a difference from noise."
        return
    sure = tested[(tested["q_value"] < SURE) & (tested["difference"].abs() > tested["floor"])]
    yield (
        f"{len(sure)} of {len(tested)} differences by layer are beyond the noise floor with q below {SURE}; "
        f"{int((tested['paired'] == 1).sum())} compare the same samples (or heads) in pairs."
    )
    keys = ["run", "metric", "component"]
    layers = tested.groupby(keys).size()
    found = sorted(sure.groupby(keys, sort=False), key=lambda group: -len(group[1]) / layers[group[0]])
    labels = run.table(RUNS_FILE).set_index("run")["label"].astype(str)
    for (number, metric, component), rows in found[:MOST]:
        against = labels[rows["against"].iloc[0]]
        yield (
            f"{upper_first(metric_title(run, metric).partition(' = ')[0])} of {component_words(component)} in "
            f"{labels[number]}, beside {against}: {_directions(rows, int(layers[number, metric, component]))}."
        )
    if len(found) > MOST:
        yield f"So do {len(found) - MOST} more metrics and components, in fewer layers (differences.csv)."


def _directions(rows: "pandas.DataFrame", of: int) -> str:
    """Say in how many layers a run has larger and smaller values, and where the difference is largest."""
    counts = {"larger": int((rows["difference"] > 0).sum()), "smaller": int((rows["difference"] < 0).sum())}
    words = " and ".join(f"{word} in {count}" for word, count in counts.items() if count)
    most = rows.loc[rows["difference"].abs().idxmax()]
    interval = Interval(*(float(most[name]) for name in ("difference", "low", "high")))
    return f"{words} of {of} layers, most in layer {most['layer']}: {interval}"
