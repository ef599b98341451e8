"""Redraw the report of a finished run from its folder alone."""

from jacspec.studies.study import Study

STUDY = Study(
    name="report",
    run="jacspec.studies.run:run_report",
    inputs=frozenset({"run"}),
    resumable=False,
    folder=False,
)
