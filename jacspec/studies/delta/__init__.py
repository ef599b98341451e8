"""What a model changed in its base, matrix by matrix: by an adapter, by training, or by storing it in few bits."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import MISSING, Page, Quantity, Rows, Study


@dataclasses.dataclass
class DeltaOptions:
    """What the model is compared with, and what counts as an intruder; see conf/task/delta.yaml."""

    base: str | None = MISSING
    top_k: int = MISSING
    threshold: float = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING


SHUTTLEWORTH = "Shuttleworth et al. 2024, LoRA vs Full Fine-tuning: An Illusion of Equivalence"

WEYL = "Weyl 1912, Math. Ann. 71, 441"

STEWART = "Stewart 1990, Perturbation Theory for the Singular Value Decomposition"

MP = "Marchenko & Pastur 1967"

ROY = "Roy & Vetterli 2007"

DELTA: Mapping[str, Quantity] = {
    "relative": Quantity("change relative to the base", "‖ΔW‖_F / ‖W‖_F", "√Σσ²"),
    "norm_base": Quantity("‖W‖_F", "Frobenius norm of the base", "√Σσ²"),
    "norm_delta": Quantity("‖ΔW‖_F", "Frobenius norm of the change", "√Σσ²"),
    "spectral_delta": Quantity(
        "σ₁ of the change", "largest σ of the change: no σ of the base is shifted by more", WEYL
    ),
    "stable_rank_delta": Quantity("stable rank of the change", "‖ΔW‖²_F / σ_1(ΔW)²", "Rudelson & Vershynin 2007"),
    "effective_rank_delta": Quantity("effective rank of the change", "exp(−Σ p ln p), p = σ/Σσ", ROY),
    "noise": Quantity(
        "noise s",
        "root mean square of the entries of ΔW; of independent ones the standard deviation of a shift, to first order",
        STEWART,
    ),
    "noise_edge": Quantity(
        "σ₁ of such noise", "s(√N + √M): what σ_1(ΔW) would be if the entries of ΔW were independent noise", MP
    ),
    "structure": Quantity(
        "σ₁ of the change over that of noise",
        "σ_1(ΔW) over noise_edge: 1 for noise, more where the change has a direction",
        MP,
    ),
    "below_noise": Quantity(
        "σ of the base below noise",
        "number of σ of the base below that edge: values that noise of this strength has too",
        MP,
    ),
    "largest_shift": Quantity("largest shift of σ", "max_i |σ_i′ − σ_i|", WEYL),
    "median_shift": Quantity(
        "median shift of σ",
        "median of |σ_i′ − σ_i|; 0.67 s to first order where ΔW is noise",
        STEWART,
    ),
    "smallest_shift": Quantity("shift of the smallest σ", "σ_M′ − σ_M, with its sign", STEWART),
    "intruders_left": Quantity(
        "intruders, left",
        "number of the delta.top_k first left singular vectors of W + ΔW whose largest |cos| with one of W's is below "
        "delta.threshold",
        SHUTTLEWORTH,
    ),
    "intruders_right": Quantity("intruders, right", "the same of right singular vectors", SHUTTLEWORTH),
    "least_match_left": Quantity(
        "worst match, left", "min_j max_i |u_j′ · u_i|: the smallest of these largest |cos|", SHUTTLEWORTH
    ),
    "least_match_right": Quantity("worst match, right", "the same of right singular vectors", SHUTTLEWORTH),
}
"""Columns of `task=delta`; W is the base's matrix, W + ΔW the model's, N ≥ M its sides."""

ARRAYS = ("sigma_base", "sigma", "sigma_delta", "match_left", "match_right")
"""What is kept of each matrix: singular values, and of each leading vector its largest |cos|."""


STUDY = Study(
    name="delta",
    run="jacspec.studies.delta.run:run_delta",
    options=DeltaOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "delta", "layers", "precision"}),
    takes=("layers", "precision"),
    rows=Rows("experiments", "matrices"),
    columns=DELTA,
    files={"spectra.nc": "singular values of base, model and change, and the best matches of leading vectors (netCDF)"},
    console=("relative", "structure", "stable_rank_delta", "intruders_left", "least_match_left", "below_noise"),
    figures="jacspec.studies.delta.figures:delta_figures",
    page=Page(
        title="what was changed",
        reading=(
            "Each row is a weight matrix W of the base and W + ΔW of the model. No singular value shifts by more than "
            "σ₁(ΔW) (Weyl). A change with a direction, as an adapter's, has a σ₁ far above what its entries would have "
            "as independent noise; the rounding of few bits lies near 1.",
            "An intruder is one of the leading singular vectors of W + ΔW that has no counterpart in W: its largest "
            "|cos| with all of W's is below the threshold. Where singular values nearly coincide, their vectors may "
            "mix without a change that matters; the smallest match beside the count says how near the threshold is.",
            "Of an adapter only the matrices that it changes have a row, and the spectrum of B A is computed from its "
            "factors. Layer −1 stands for matrices outside the blocks; a missing value (–) belongs to a matrix of "
            "zeros.",
        ),
        sentences="jacspec.studies.delta.findings:delta_findings",
        caution="Matrices of one model and one base; noise is independent entries of one variance.",
    ),
)
