"""The columns of `task=weights`, by what they say.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

from collections.abc import Mapping

from jacspec.studies.study import Quantity
from jacspec.studies.weights.columns.chance import CHANCE, OVER_MATRICES
from jacspec.studies.weights.columns.eigenvalues import EIGENVALUES
from jacspec.studies.weights.columns.tail import TAIL, TAILS, WEIGHTWATCHER
from jacspec.studies.weights.columns.vectors import SPACINGS, VECTORS

WEIGHT_METRICS: Mapping[str, Quantity] = {**TAIL, **CHANCE}
"""Beside `METRICS`, of every matrix."""

LEADING, THRESHOLD = 10, 0.5
"""How many leading singular vectors may be intruders, and the |cos| below which one is: PEFT's own defaults."""

SHUTTLEWORTH = "Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence"

INTRUDERS: Mapping[str, Quantity] = {
    "intruders_left": Quantity(
        "intruders, left",
        f"of an adapter: number of the {LEADING} first left singular vectors of the sum whose largest |cos| with one "
        f"of the base's is below {THRESHOLD} (other numbers: task=delta)",
        SHUTTLEWORTH,
    ),
    "intruders_right": Quantity("intruders, right", "the same of right singular vectors", SHUTTLEWORTH),
    "least_match_left": Quantity("worst match, left", "the smallest of these largest |cos|, left", SHUTTLEWORTH),
    "least_match_right": Quantity("worst match, right", "the smallest of these largest |cos|, right", SHUTTLEWORTH),
}
"""Columns beside these where the model is an adapter on its base."""

EXTRAS: Mapping[str, Mapping[str, Quantity]] = {
    "vectors": VECTORS,
    "spacings": SPACINGS,
    "tails": TAILS,
    "eigenvalues": EIGENVALUES,
}
"""Columns on request (`weights.extra`), by group."""

WORDS: Mapping[str, Quantity] = {
    "verdict": Quantity(
        "verdict",
        "the range of α and how it is beside chance. Below 2: over-trained (WeightWatcher), heavy-tailed (merging "
        "document); 2 to 6: well trained; above 6: under-trained (both WeightWatcher); above 4: thin-tailed (merging "
        "document). As by chance: not below what 5 % of Gaussian matrices are below, so that no rule applies",
        f"{WEIGHTWATCHER}; the merging document",
    ),
    "depth_verdict": Quantity(
        "depth verdict",
        "whether α is in the range given for its third of the depth: 2.5 to 3.5 early, 2 to 3 in the middle, 1.5 to "
        "2.5 late; none where α is as by chance",
        "the merging document",
    ),
    "flags": Quantity("flags", "what stands out of a matrix; empty where nothing does", "jacspec"),
}
"""Columns of words."""

COLUMNS: Mapping[str, Quantity] = {
    name: quantity
    for group in (WEIGHT_METRICS, OVER_MATRICES, INTRUDERS, *EXTRAS.values(), WORDS)
    for name, quantity in group.items()
}
"""All of these."""
