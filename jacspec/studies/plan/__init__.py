"""What a run would cost on given devices, printed; nothing is computed and no run folder is written."""

from jacspec.studies.study import Study

STUDY = Study(
    name="plan",
    run="jacspec.studies.plan.run:run_plan",
    options="jacspec.studies.plan.options:PlanOptions",
    inputs=frozenset({"model"}),
    takes=("metrics", "samples", "engine", "batch"),
    resumable=False,
    folder=False,
)
