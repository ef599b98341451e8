"""How compatible checkpoints of one architecture are, and one merged from them in HF layout."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.study import MISSING, Page, Quantity, Rows, Study


class Resized(enum.Enum):
    """What becomes of tables of tokens and positions that have more rows in one model than in another."""

    shared = "shared"
    first = "first"


class MergeMethod(enum.Enum):
    """How checkpoints are merged; `none` compares them only."""

    average = "average"
    arithmetic = "arithmetic"
    star = "star"
    slerp = "slerp"
    ties = "ties"
    dare_linear = "dare_linear"
    dare_ties = "dare_ties"
    della_linear = "della_linear"
    della = "della"
    tsv_m = "tsv_m"
    iso_c = "iso_c"
    iso_cts = "iso_cts"
    knots_ties = "knots_ties"
    spectral = "spectral"
    none = "none"


@dataclasses.dataclass
class MergeOptions:
    """Which checkpoints are compared and how they are merged; see conf/task/merge.yaml."""

    models: list[str] = MISSING
    base: str | None = MISSING
    method: MergeMethod = MISSING
    share: float = MISSING
    density: float = MISSING
    epsilon: float = MISSING
    common: float = MISSING
    alpha: float = MISSING
    strength: float = MISSING
    rank_variance: float | None = MISSING
    coefficient: float | None = MISSING
    weights: list[float] = MISSING
    top_k: int = MISSING
    include: list[str] = MISSING
    exclude: list[str] = MISSING
    embeddings: bool = MISSING
    resized: Resized = MISSING
    save: str | None = MISSING


ROY = "Roy & Vetterli 2007"

MIRSKY = "Mirsky 1960, Quart. J. Math. 11, 50"

BJORCK = "Björck & Golub 1973, Math. Comp. 27, 579"

ILHARCO = "Ilharco et al. 2023, Editing Models with Task Arithmetic"

LEE = "Lee et al. 2025, STAR"

CYPHER = "Ethyros-AI 2025, ModelCypher, spectral_analysis.py"

MERGING = "the merging document"

LEADING = "leading subspaces (merge.top_k singular vectors, fewer where the rank is less)"

COMPATIBILITY: Mapping[str, Quantity] = {
    "cosine": Quantity("cosine", "⟨A, B⟩ / (‖A‖_F ‖B‖_F): 1 where one is a multiple of the other", ILHARCO),
    "left_overlap": Quantity(
        "left overlap", f"mean cos² of the principal angles between the left {LEADING}: what is written", BJORCK
    ),
    "right_overlap": Quantity("right overlap", f"the same of the right {LEADING}: what is read", BJORCK),
    "effective_rank_distance": Quantity(
        "effective rank distance", "|r_A − r_B| over the larger, r = exp(−Σ p ln p) with p = σ/Σσ", ROY
    ),
    "spectrum_distance": Quantity(
        "spectrum distance",
        "√Σ(σ_A,i − σ_B,i)² over √(‖A‖²_F + ‖B‖²_F): 0 to 1, and never above that of the matrices",
        MIRSKY,
    ),
    "shape_distance": Quantity(
        "shape distance",
        "Jensen–Shannon distance (nats, square root) of σ_A/Σσ_A and σ_B/Σσ_B",
        "Lin 1991, IEEE Trans. Inf. Theory 37, 145",
    ),
    "left_chance": Quantity("left chance", "what the left overlap of random subspaces is on average", BJORCK),
    "right_chance": Quantity("right chance", "what the right overlap of random subspaces is on average", BJORCK),
    "left_angle": Quantity(
        "left angle", "largest principal angle between the left leading subspaces, in degrees", BJORCK
    ),
    "right_angle": Quantity(
        "right angle", "largest principal angle between the right leading subspaces, in degrees", BJORCK
    ),
    "gap": Quantity(
        "gap",
        "(σ_r − σ_r+1) / σ_r behind the leading r values, the smaller of both: near 0 the leading subspace is one "
        "choice among equals",
        "Wedin 1972, BIT 12, 99",
    ),
    "norm_first": Quantity(r"$\|A\|_F$", "Frobenius norm of the first", "√Σσ²"),
    "norm_second": Quantity(r"$\|B\|_F$", "Frobenius norm of the second", "√Σσ²"),
    "effective_rank_first": Quantity("effective rank of the first", "exp(−Σ p ln p), p = σ/Σσ", ROY),
    "effective_rank_second": Quantity("effective rank of the second", "exp(−Σ p ln p), p = σ/Σσ", ROY),
    "kept_first": Quantity(
        "values kept of the first", "least r with Σ_i≤r σ_i of at least merge.share of the nuclear norm Σσ", LEE
    ),
    "kept_second": Quantity("values kept of the second", "the same of the second", LEE),
    "norm_ratio": Quantity(
        r"$\sigma_1(A) / \sigma_1(B)$", "r, σ₁ of the first over σ₁ of the second", CYPHER, words="ratio of σ₁"
    ),
    "confidence": Quantity(
        "confidence",
        "c = min(r, 1/r): whether both act equally strongly; about 1 too of independent matrices of one variance",
        CYPHER,
    ),
    "share_second": Quantity(
        r"$\alpha'$",
        "α + (1 − α)(1 − c) s, the share of the second in a merge, α = merge.alpha and s = merge.strength",
        CYPHER,
        words="share of the second",
    ),
    "condition_first": Quantity(
        r"$\kappa_A$", "σ₁ over the smallest σ of the first, at most 10⁶", CYPHER, words="condition of the first"
    ),
    "condition_second": Quantity(
        r"$\kappa_B$",
        "the same of the second, the target there: ill-conditioned above 100",
        CYPHER,
        words="condition of the second",
    ),
    "condition_chance": Quantity(
        r"$\kappa_{0.95}$",
        "κ that 5 % of Gaussian matrices of this shape are above",
        "Edelman 1988",
        words="condition by chance",
    ),
    "leading_condition_first": Quantity(
        r"$\kappa_{10,A}$",
        "σ₁ / σ₁₀ of the first, the κ that ModelCypher takes by default",
        CYPHER,
        words="condition of ten values, first",
    ),
    "leading_condition_second": Quantity(
        r"$\kappa_{10,B}$", "the same of the second", CYPHER, words="condition of ten values, second"
    ),
    "rank_variance": Quantity(
        "variance of effective ranks", "of both: (r_A − r_B)² / 4, r as in effective_rank_distance", MERGING
    ),
}
"""Columns of `task=merge`."""

CAUTIONS: Mapping[str, Quantity] = {
    "cautions": Quantity(
        "cautions",
        "ill-conditioned: κ of the second above 100, as by chance where 5 % of Gaussian matrices have a larger one; "
        "mismatch: c below 0.5; ranks differ: variance of effective ranks above merge.rank_variance",
        f"{CYPHER}; {MERGING}",
    )
}
"""Its column of words."""

ILL_CONDITIONED, MISMATCH = 100.0, 0.5
"""ModelCypher's thresholds of κ and of the confidence."""

ARRAYS = ("sigma_first", "sigma_second", "left_angles", "right_angles")
"""What is kept of each comparison: singular values, principal angles in degrees, the smallest first."""

WEIGHTS, TASKS, BASE = "weights", "tasks", "task-base"
"""What is compared: weights of two models, task vectors of two models, a model's task vector and the base's weights."""


STUDY = Study(
    name="merge",
    run="jacspec.studies.merge.run:run_merge",
    options=MergeOptions,
    reads=frozenset({"merge", "precision", "seed"}),
    takes=("memory_gib", "precision", "seed"),
    rows=Rows("experiments", "comparisons of a matrix"),
    columns={**COMPATIBILITY, **CAUTIONS},
    files={
        "spectra.nc": "singular values of both matrices, and the principal angles of their leading subspaces (netCDF)",
        "merged": "the merged checkpoint, in HF layout",
    },
    figures="jacspec.studies.merge.figures:merge_figures",
    page=Page(
        title="spectral compatibility",
        reading=(
            "Each row compares a weight matrix of two checkpoints, A (first) and B (second). weights: the "
            "matrices themselves. tasks: the task vectors of two models, what each added to the common base. "
            "task-base: a model's task vector (first) beside the base's own weights (second). Task vectors "
            "whose leading subspaces overlap no more than chance act on other directions and add up "
            "undisturbed; a large overlap with a cosine near 1 is the same change twice, one with a cosine near "
            "0 or below it a conflict in the same directions. A leading subspace is only as well determined as "
            "the gap behind it. Fused matrices are there in parts and whole. Layer −1 stands for matrices "
            "outside the blocks; a missing value (–) belongs to a matrix of zeros.",
        ),
        sentences="jacspec.studies.merge.findings:merge_findings",
        caution="In brackets, intervals of 95 % over the matrices of these checkpoints, which were trained together.",
    ),
)
