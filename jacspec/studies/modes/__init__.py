"""What each Jacobian reads and writes: its leading singular vectors, between samples, layers, the input and words."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.study import (
    ENGINE_OPTIONS,
    MISSING,
    SAMPLE_CAUTION,
    SAMPLES,
    TEXT_OPTIONS,
    End,
    Page,
    Quantity,
    Study,
)


class Through(enum.Enum):
    """What of a write is read in words: what the head sees of it directly, or after all later blocks."""

    direct = "direct"
    depth = "depth"


@dataclasses.dataclass
class ModesOptions:
    """How many singular triples are kept, when they have names, and what is said of them; see conf/task/modes.yaml."""

    k: int = MISSING
    trailing: int = MISSING
    gap: float = MISSING
    end: End = MISSING
    words: int = MISSING
    draws: int = MISSING
    through: Through = MISSING
    through_samples: int = MISSING
    check: bool = MISSING
    check_layers: list[int] | None = MISSING
    check_epsilons: list[float] = MISSING
    check_random: int = MISSING
    labelled: str | None = MISSING
    text: str = MISSING
    labels: list[str] = MISSING


MODES_FILE, SHARED_FILE, BETWEEN_FILE, INPUT_FILE = "modes.csv", "shared.csv", "between.csv", "input.csv"
ALONG_FILE, GROUPS_FILE = "input_modes.csv", "input_groups.csv"
BY_KIND = ("spectral_radius", "residual_gain", "named_modes", "read_input")
"""What is summed up by the kind of the last token, and by label."""

READ_SHARES: Mapping[str, str] = {
    "read_mean_stream": "share of the mean stream in the reads",
    "read_writes": "share of earlier writes in the reads",
}
"""What is summed up beside it and needs all samples, or other layers: no columns of `metrics.csv`."""

LABELS_FILE = "labels.csv"

MODE_COLUMNS = (
    *("layer", "component", "mode", "samples", "n", "known", "sigma"),
    *("read_cos", "read_error", "write_cos", "write_error"),
    *("random", "stream", "input", "input_error", "mean_input", "mean_input_error", "input_random"),
)
SHARED_COLUMNS = (
    *("layer", "component", "side", "n", "rank", "alike", "alike_error", "random", "stream"),
    *("held", "held_error", "held_random", "held_stream", "pairs"),
    *(f"{end}_angle{what}" for end in ("smallest", "largest") for what in ("", "_error", "_random", "_stream")),
)
ESTIMATE = ("n", "mean", "standard_error")
BETWEEN_COLUMNS = ("layer", "component", "next_layer", "next_component", "what", *ESTIMATE, "random", "other")
INPUT_COLUMNS = ("layer", "component", "source_layer", "source", *ESTIMATE, "random", "other")
ALONG_COLUMNS = ("layer", "component", "mode", "source_layer", "source", *ESTIMATE, "random", "other")
GROUPS_COLUMNS = ("layer", "component", "source_layer", "source", "column", "group", *ESTIMATE)

WEDIN = "Wedin 1972, BIT 12, 99"

MODES: Mapping[str, Quantity] = {
    "named_modes": Quantity(
        "modes with a direction of their own",
        "how many of the leading modes.k singular values are far enough from their neighbours that their vectors are "
        "known; the others are known as subspaces only",
        WEDIN,
    ),
    "read_input": Quantity(
        r"input in the reads $\|V \hat{x}\|^2$",
        "share of the stream's own direction x̂ in the subspace of the leading read vectors; k/d of a random direction, "
        "and 0 by construction behind a norm on the input",
        "this project",
    ),
}
"""What the columns of a `task=modes` run hold, beside rows of `METRICS`."""

WORDS_FILE, OWN_FILE = "words.csv", "own_words.csv"
WORD_COLUMNS = (
    "layer", "component", "side", "mode", "holds", "gap", "stability", "strongest", "chance", "p", "q", "top", "bottom",
    "reason",
)  # fmt: skip
"""Words of the directions that samples share. `top` and `bottom` are JSON, [token, score] each; see docs/modes.md."""

OWN_COLUMNS = (
    "layer", "component", "side", "mode", "samples", "unnamed", "first", "times", "strongest", "chance", "p", "q",
    "tokens",
)  # fmt: skip
"""Which token comes first how often, of each sample's own modes."""

CHECK_FILE = "check.csv"
CHECK_COLUMNS = (
    "layer", "component", "kind", "change", "samples", "loss", "loss_low", "loss_high", "kl", "kl_low", "kl_high",
    "chance_kl", "ratio", "ratio_low", "ratio_high", "predicted", "predicted_low", "predicted_high", "named",
)  # fmt: skip
"""What changes along directions do to the next token."""


STUDY = Study(
    name="modes",
    run="jacspec.studies.modes.run:run_modes",
    options=ModesOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed", "modes"}),
    takes=("components", "layers", "metrics", "top_k", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    columns=MODES,
    files={
        MODES_FILE: "each mode over the samples: its value, how often it stands alone, how alike it is between "
        "samples, and what of the input lies along it",
        SHARED_FILE: "the subspace of the leading modes between samples, and the mean subspace of the corpus",
        BETWEEN_FILE: "the subspaces of one component beside those of the next",
        INPUT_FILE: "what of the stream, and of each earlier component's write, lies in the subspace that is read",
        ALONG_FILE: "the same along each mode, the trailing ones too: where in the spectrum the input lies",
        GROUPS_FILE: "the same by kind of the last token, and by the labels of a labelled text",
        "kinds.csv": "by kind of the last token",
        LABELS_FILE: "by the labels of a labelled text (modes.labelled)",
        "words.csv": "tokens that each layer's shared directions name, beside chance",
        "own_words.csv": "tokens that each sample's own modes name, counted over samples",
        "check.csv": "what becomes of the loss where directions are added or removed",
        "vectors.npz": "the directions themselves, an array a component of a layer (NumPy)",
        "spectra.nc": "singular values, error bounds, and which values are one group (netCDF)",
    },
    console=("spectral_radius", "decay_ratio", "named_modes", "residual_gain"),
    figures="jacspec.studies.modes.figures:modes_figures",
    page=Page(
        title="modes: what Jacobians read and write",
        reading=(
            "A Jacobian J = Σ σᵢ uᵢ vᵢᵀ reads a small change of the last token's stream along its right singular "
            "vectors vᵢ and writes along its left ones uᵢ, σᵢ times as large. A mode is one such triple.",
            "Two singular values that are closer than modes.gap, or than the error bounds allow (Wedin), belong to one "
            "subspace: any rotation of its vectors is as good, none of them has a meaning of its own, and none is "
            "named or compared alone. They are compared as the subspace that they span.",
            "Chance stands beside every overlap twice: directions that are uniformly random, and directions drawn with "
            "the covariance that the stream has over the samples. Streams of trained models lie along few directions, "
            "so that the second is far larger.",
        ),
        numbers="jacspec.studies.modes.page:modes_numbers",
        sentences="jacspec.studies.modes.findings:modes_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
