"""The revisions of one training run, every value against the step, and what appears first."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import MISSING, RUNS, Page, Quantity, Study


@dataclasses.dataclass
class DynamicsOptions:
    """Where training ended, and which change counts; see conf/task/dynamics.yaml."""

    final_step: int | None = MISSING
    least_change: float = MISSING
    draws: int = MISSING


DYNAMICS: Mapping[str, Quantity] = {
    "onset": Quantity(
        "onset",
        "the first step from which half of the change from first to last step is there to the end",
        "this project",
    ),
    "onset_on": Quantity(
        "scale of the onset",
        "ln where the metric is a scale, as σ is, and positive: half of a change is then its square root as a ratio; "
        "linear elsewhere",
        "this project",
    ),
    "extreme_step": Quantity("extreme", "the step at which the value is farthest from its first", "this project"),
    "appears": Quantity(
        "appears",
        "1 where the change is at least dynamics.least_change of the larger of first and last value and, where there "
        "are enough units to tell, beyond the noise floor with q below 0.05",
        "this project",
    ),
}
"""What the columns of `onsets.csv` hold."""


ONSETS_FILE = "onsets.csv"

STUDY = Study(
    name="dynamics",
    run="jacspec.studies.dynamics.run:run_dynamics",
    options=DynamicsOptions,
    inputs=frozenset({"runs"}),
    reads=frozenset({"dynamics", "seed"}),
    takes=("seed",),
    rows=RUNS,
    columns=DYNAMICS,
    files={
        "onsets.csv": "when each metric of each layer changes in training",
        "metrics.csv": "one row a step, layer, component and metric: mean, standard error, number",
        "spectra.nc": "median singular values by step (netCDF)",
    },
    figures="jacspec.studies.dynamics.figures:dynamics_figures",
    page=Page(
        title="through training",
        reading=(
            "Each curve is the mean of a layer over its units (samples, heads, or the one matrix of a role) "
            "against the training step.",
            "The onset is the first step from which at least half of the whole change, from first to last step, "
            "is there to the end, on a logarithmic scale where the metric is a scale (as ρ is, or a norm). A change is "
            "listed where it is large enough (dynamics.least_change) and, "
            "where there are enough units to tell, beyond the noise floor with q below 0.05. A curve that goes "
            "away and comes back has a late onset; onsets.csv has its extreme too.",
            "Steps between two revisions are not seen: an onset at a step means after the revision before it.",
        ),
        findings="jacspec.studies.dynamics.figures:dynamics_sections",
        sentences="jacspec.studies.dynamics.findings:dynamics_findings",
        caution="One training run, seen at the revisions that there are.",
        picture_bytes=2500000,
    ),
    resumable=False,
)
