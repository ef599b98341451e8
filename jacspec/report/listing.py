"""Which figures a run has."""

from collections.abc import Mapping

from jacspec.runs import Run
from jacspec.studies import study_of
from jacspec.studies.study import Plot, load

Plots = Mapping[str, Plot]


def list_figures(run: Run) -> Plots:
    """Name the figures of a run, each with what draws it and its caption."""
    study = study_of(run.provenance)
    return load(study.figures)(run) if study.figures and "metrics" in run.provenance else {}
