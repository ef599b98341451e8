"""The revisions of one training run, every value against the step, and what appears first."""

from jacspec.studies.study import RUNS, Page, Study

STUDY = Study(
    name="dynamics",
    run="jacspec.studies.dynamics.run:run_dynamics",
    options="jacspec.studies.dynamics.options:DynamicsOptions",
    inputs=frozenset({"runs"}),
    reads=frozenset({"dynamics", "layers", "precision", "seed"}),
    takes=("seed",),
    rows=RUNS,
    columns=("jacspec.studies.dynamics.columns:DYNAMICS",),
    files={
        "onsets.csv": "when each metric of each layer changes in training",
    },
    figures="jacspec.studies.dynamics.figures:dynamics_figures",
    page=Page(
        title="through training",
        reading=(
            "Each curve is the mean of a layer over its units (samples, heads, or the one matrix of a role) "
            "against the training step.",
            "The onset is the first step from which at least half of the whole change, from first to last step, "
            "is there to the end. A change is listed where it is large enough (dynamics.least_change) and, "
            "where there are enough units to tell, beyond the noise floor with q below 0.05. A curve that goes "
            "away and comes back has a late onset; onsets.csv has its extreme too.",
            "Steps between two revisions are not seen: an onset at a step means after the revision before it.",
        ),
        findings="jacspec.studies.dynamics.page:dynamics_findings",
        sentences="jacspec.studies.dynamics.figures:onset_sentences",
        picture_bytes=2500000,
    ),
    resumable=False,
)
