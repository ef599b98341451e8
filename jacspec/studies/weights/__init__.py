"""Spectra of a checkpoint's weight matrices, by role, beside chance."""

import dataclasses
import enum

from jacspec.studies.study import MATRICES, MISSING, Page, Study
from jacspec.studies.weights.columns import COLUMNS


class Against(enum.Enum):
    """What a weight matrix is compared with: its own entries in another order, or Gaussian ones of their variance."""

    shuffled = "shuffled"
    gaussian = "gaussian"
    none = "none"


class Stacked(enum.Enum):
    """What a tensor of three axes, read by name, is: matrices one behind the other, a kernel, or nothing wanted."""

    auto = "auto"
    experts = "experts"
    kernel = "kernel"
    skip = "skip"


@dataclasses.dataclass
class WeightsOptions:
    """Which weight matrices, and what they are held against; see conf/task/weights.yaml."""

    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    stacked: Stacked = MISSING
    against: Against = MISSING
    extra: list[str] = MISSING
    draws: int = MISSING
    show_layer: int = MISSING
    show_role: str | None = MISSING


STUDY = Study(
    name="weights",
    run="jacspec.studies.weights.run:run_weights",
    options=WeightsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "weights", "layers", "precision", "seed"}),
    takes=("layers", "metrics", "top_k", "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns=COLUMNS,
    console=("spectral_radius", "stable_rank", "alpha", "alpha_null", "outliers_above", "norms_above"),
    draws=("show_layer", "show_role"),
    figures="jacspec.studies.weights.figures:matrix_figures",
    page=Page(
        title="weight matrices",
        sentences="jacspec.studies.weights.findings:matrix_findings",
        caution="The matrices of one model are not independent, and are of one training run.",
        reading=(
            "A matrix W (out, in) has singular values σ and λ = σ², without a factor of 1/N. Beside them stand three "
            "nulls. Plain Marchenko–Pastur and Tracy–Widom: independent entries of one variance. What is beyond that "
            "(n_>, n_<, p_max, p_min) may have no more than rows of different norms, as an untrained matrix can have "
            "too. The null of its own row and column norms (rc) rejects independent entries with these norms: beyond "
            "it, entries depend on one another; of a fused tensor each part has norms of its own. One draw "
            "(weights.against) is the third.",
            "Values are counted beyond the edge that one draw in 100 passes: with random entries 0.01 a matrix are "
            "expected on each side. A bulk of one variance is identified where its lower and upper half agree and two "
            "searches find it; where not, what depends on it is missing. α means nothing without that of Gaussian "
            "matrices, which have no power law: α by chance with its 5 and 95 %.",
            "Of an adapter, each matrix that it changes has three rows: the sum, the base's (.base) and what was "
            "added (.update), whose spectrum is that of its factors. An intruder is a leading singular vector of the "
            "sum that has no counterpart in the base.",
            "The verdict on α names its range and, with it, how it is beside chance: where it is as by chance no rule "
            "applies. WeightWatcher: 2 to 6 well trained, less over-trained, more under-trained; the merging document: "
            "below 2 heavy-tailed, above 4 thin-tailed. The role “all” is the whole model, of fused tensors their "
            "parts. Singular vectors, spacings and what tails admit come with weights.extra.",
            "A missing value (–) has its reason in the last column of metrics.csv.",
        ),
    ),
)
