"""Singular vectors of every weight matrix beside the activations that enter it."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.overlap.fisher_columns import OF_FISHER
from jacspec.studies.study import MATRICES, MISSING, TEXT_OPTIONS, Page, Quantity, Study
from jacspec.studies.weights.columns.chance import CHANCE


class FisherLabels(enum.Enum):
    """Whose labels the gradients of the Fisher matrix are of: those of the text, or drawn from the prediction."""

    data = "data"
    model = "model"


@dataclasses.dataclass
class OverlapOptions:
    """Whether heads, the dimension of what enters, Fisher spectra and the linear model are taken too.

    See conf/task/overlap.yaml.
    """

    heads: bool = MISSING
    points: int = MISSING
    fisher: int = MISSING
    fisher_labels: FisherLabels = MISSING
    linear_model: bool = MISSING


SMALL = "Small Singular Values Matter"

MP = "Marchenko & Pastur 1967"

NORMS = "Zhang 2006; Couillet & Hachem 2014"

OVERLAP: Mapping[str, Quantity] = {
    "tokens": Quantity("tokens", "tokens that the covariance was estimated from", SMALL),
    "covariance_rank": Quantity("rank of the covariance", "principal directions above rounding", SMALL),
    "input_participation_ratio": Quantity(
        "participation ratio of the input", "participation ratio of the covariance's eigenvalues", SMALL
    ),
    "overlap_mean": Quantity("mean $O_k$", "mean of O_k = max_j |v_k · f_j| over all k", SMALL),
    "overlap_top": Quantity("mean $O_k$, largest decile", "mean of O_k over the tenth of the largest σ", SMALL),
    "overlap_bottom": Quantity("mean $O_k$, smallest decile", "mean of O_k over the tenth of the smallest σ", SMALL),
    "overlap_above": Quantity("mean $O_k$ above the bulk", "mean of O_k over σ above the bulk's upper edge", SMALL),
    "overlap_below": Quantity("mean $O_k$ below the bulk", "mean of O_k over σ below the bulk's lower edge", SMALL),
    "overlap_mp_above": Quantity("mean $O_k$ above Marchenko–Pastur", "mean of O_k over σ above mp_high", SMALL),
    "overlap_mp_within": Quantity("mean $O_k$ within Marchenko–Pastur", "mean over σ from mp_low to mp_high", SMALL),
    "overlap_mp_below": Quantity("mean $O_k$ below Marchenko–Pastur", "mean over σ below mp_low", SMALL),
    "overlap_null": Quantity("mean $O$ by chance", "mean of max_j |v · f_j| for a random direction v", SMALL),
    "overlap_null_99": Quantity("chance, 99 %", "what 1 % of random directions exceed", SMALL),
    "beyond_null": Quantity("share of $O_k$ beyond chance", "share of k with O_k above the 99 % level", SMALL),
    "overlap_norms": Quantity(
        "mean $O$, own norms",
        "mean of max_j |v · f_j| for a random direction v whose entries have the column norms of the matrix",
        NORMS,
    ),
    "overlap_norms_99": Quantity("own norms, 99 %", "what 1 % of such directions exceed", NORMS),
    "beyond_norms": Quantity("share of $O_k$ beyond its norms", "share of k with O_k above that 99 % level", NORMS),
    "overlap_norms_above": Quantity("mean $O_k$ above its norms", "mean of O_k over σ above norms_high", NORMS),
    "overlap_norms_below": Quantity("mean $O_k$ below its norms", "mean of O_k over σ below norms_low", NORMS),
    "variance_top": Quantity(
        "relative variance, largest decile", "mean of n v_kᵀ C v_k / tr C over the largest σ; 1 by chance", SMALL
    ),
    "variance_bottom": Quantity(
        "relative variance, smallest decile", "the same over the tenth of the smallest σ", SMALL
    ),
    "variance_norms": Quantity(
        "relative variance, own norms",
        "the same on average of random directions with the column norms: n Σ c_j C_jj / (Σ c_j tr C)",
        NORMS,
    ),
    **{name: CHANCE[name] for name in ("mp_low", "mp_high")},
    "bulk_low": Quantity(
        r"$\sigma_-^{\mathrm{bulk}}$",
        "lower Marchenko–Pastur edge of the fitted bulk",
        SMALL,
        scale=True,
        words="lower edge of the bulk",
    ),
    "bulk_high": Quantity(
        r"$\sigma_+^{\mathrm{bulk}}$",
        "upper edge of the fitted bulk",
        SMALL,
        scale=True,
        words="upper edge of the bulk",
    ),
    "norms_low": Quantity(
        r"$\sigma_<^{rc}$",
        "what the smallest σ of one draw in 100 is below: independent entries with the matrix's own row and column "
        "norms",
        NORMS,
        scale=True,
        words="lower edge, own norms",
    ),
    "norms_high": Quantity(
        r"$\sigma_>^{rc}$",
        "what the largest of one draw in 100 is above",
        NORMS,
        scale=True,
        words="upper edge, own norms",
    ),
}
"""Columns of `task=overlap`."""

PROJECT = "this project"

OF_HEADS: Mapping[str, Quantity] = {
    "variance_last": Quantity(
        "relative variance, smallest σ",
        "of heads (overlap.heads): n vᵀ C v / tr C along the vector of the smallest σ alone; 1 by chance",
        SMALL,
    ),
    "rounding_share": Quantity(
        r"$\delta\sigma_{d_{\mathrm{head}}} / \sigma_{d_{\mathrm{head}}}$",
        "what rounding of the stored weights moves the smallest σ by (first order, root mean square), over it: from "
        "about 1 on it may be nothing but rounding; missing below full rank",
        PROJECT,
        words="rounding share of the smallest σ",
    ),
}
"""Columns beside these where heads are measured."""

FACCO = "Facco, d'Errico, Rodriguez & Laio 2017, Sci. Rep. 7, 12140 (two-NN)"

OF_POINTS: Mapping[str, Quantity] = {
    "input_dimension": Quantity(
        "dimension of the input",
        "intrinsic dimension of what enters, from the distances of tokens to two nearest neighbours; too low from "
        "about 10 on, as that of Gaussian points is",
        FACCO,
    ),
    "input_dimension_low": Quantity("lower end of the dimension", "of its interval of 95 %", FACCO),
    "input_dimension_high": Quantity("upper end of the dimension", "its upper end", FACCO),
    "input_points": Quantity("points", "distinct tokens behind it, at most overlap.points", FACCO),
    "gaussian_dimension": Quantity(
        "dimension of Gaussian points", "the same of as many Gaussian points with the input's covariance", FACCO
    ),
    "gaussian_dimension_low": Quantity("its lower end", "lower end of its interval of 95 %", FACCO),
    "gaussian_dimension_high": Quantity("its upper end", "its upper end", FACCO),
}
"""Columns beside these where dimensions are estimated (overlap.points)."""

SILVERSTEIN = "Silverstein & Bai 1995; Ledoit & Péché 2011"

OF_MODEL: Mapping[str, Quantity] = {
    "model_tokens": Quantity(
        "tokens of a half", "tokens that directions come from, or variances along them, whichever are fewer", PROJECT
    ),
    "energy_exponent": Quantity(
        r"$\beta$",
        "energies |W p|² along directions p of the data are like the variance along p to the power −β: 0 by chance, 1 "
        "the noise of least squares, below 0 where the matrix amplifies what varies most",
        PROJECT,
        words="exponent β of energies",
    ),
    "energy_exponent_low": Quantity(r"lower end of $\beta$", "of its interval of 95 %", PROJECT),
    "energy_exponent_high": Quantity(r"upper end of $\beta$", "its upper end", PROJECT),
    "energy_strong": Quantity(
        "energy, strongest tenth", "mean |W p|² over the tenth of the strongest directions, over that of all", PROJECT
    ),
    "distance_plain": Quantity(
        "distance from Marchenko–Pastur", "Kolmogorov–Smirnov distance of σ from its law, at the same median", SMALL
    ),
    "distance_model": Quantity("distance from the model", "the same from the law that β gives", SILVERSTEIN),
    "distance_chance": Quantity(
        "distance by chance", "what 5 % of matrices of independent entries exceed from Marchenko–Pastur", PROJECT
    ),
    "below_found": Quantity(
        "values below the edge", "values below the lower edge of Marchenko–Pastur of the same median", SMALL
    ),
    "below_model": Quantity("below the edge, model", "how many the model has there", SILVERSTEIN),
    "below_given": Quantity(
        "below the edge, given the strong",
        "how many it has there with the matrix on the tenth of the strongest directions as it is, all else random",
        SILVERSTEIN,
    ),
    "small_strong": Quantity(
        "small σ in strong directions",
        "share of right singular vectors that lies in the tenth of the strongest directions of the data, mean over the "
        "tenth of the smallest σ",
        PROJECT,
    ),
    "small_strong_model": Quantity("small σ in strong directions, model", "what the model has there", SILVERSTEIN),
    "small_strong_chance": Quantity("small σ in strong directions, chance", "what random vectors have", PROJECT),
    "small_output": Quantity(
        "output of small σ over the middle",
        "mean σ² vᵀSv over the tenth of the smallest σ, over that of the fifth tenth",
        PROJECT,
    ),
    "small_output_model": Quantity("output of small σ, model", "what the model has there", SILVERSTEIN),
    "small_output_given": Quantity(
        "output of small σ, given the strong",
        "the same with the matrix on the tenth of the strongest directions as it is, all else random",
        SILVERSTEIN,
    ),
    "small_output_chance": Quantity("output of small σ, chance", "what independent entries have", PROJECT),
}
"""Columns beside these where energies are compared with a linear model (overlap.linear_model)."""

HEAD_ROLES: Mapping[str, tuple[str, str]] = {
    "qk.query": ("qk", "left"),
    "qk.key": ("qk", "right"),
    "ov.value": ("ov", "right"),
}
"""Which singular vectors of which product of a head read an input; the left ones of ov are what it writes."""


STUDY = Study(
    name="overlap",
    run="jacspec.studies.overlap.run:run_overlap",
    options=OverlapOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "engine", "overlap", "layers", "precision", "seed"}),
    takes=("layers", *TEXT_OPTIONS, "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns={**OVERLAP, **OF_HEADS, **OF_POINTS, **OF_FISHER, **OF_MODEL},
    files={
        "spectra.nc": "singular values, overlaps and relative variances by index, with overlap.fisher the relative "
        "sensitivity and F's eigenvalues too (netCDF)"
    },
    console=("tokens", "overlap_top", "overlap_bottom", "overlap_null_99", "overlap_norms_99", "variance_top"),
    figures="jacspec.studies.overlap.figures:overlap_figures",
    page=Page(
        title="weight matrices beside the activations that enter them",
        reading=(
            "Each weight matrix reads along its right singular vectors v_k. What enters it, at every token of "
            "the samples, varies along the principal directions f_j of its covariance (means removed). O_k is "
            "the largest |v_k · f_j|; where eigenvalues of the covariance tie, their directions are arbitrary "
            "and O_k with them, the relative variance n v_kᵀ C v_k / tr C is not. Few tokens make both those of "
            "the sample.",
            "Two levels of chance stand beside them: of random directions, and of random directions with the column "
            "norms of the matrix. Where norms follow the input's variances, as where a norm's gain is folded into "
            "them, the first is passed by a matrix whose entries are independent otherwise.",
            "With overlap.heads=true each head has three rows more: the left singular vectors of W_QK = W_Qᵀ W_K, "
            "which read queries (qk.query), its right ones, which read keys (qk.key), and the right ones of "
            "W_OV = W_O W_V, which read values (ov.value), beside directions with the column norms of the head's part "
            "of W_Q, W_K and W_V. A rounding share of about 1 or more says that a head's smallest σ may be rounding of "
            "the stored weights; far below 1 it is none, and the head passes what enters along it on as weakly as σ "
            "says.",
            "With overlap.points=N the intrinsic dimension of what enters is estimated from N tokens (two-NN), beside "
            "that of Gaussian points with the same covariance: below it, the tokens lie on something curved or in "
            "clusters, which no covariance shows.",
            "With overlap.fisher=N the loss of N samples is differentiated with respect to every matrix. S_k is how "
            "sensitive it is to σ_k: the mean of (u_kᵀ g v_k)² over that along all pairs of directions, 1 by chance. "
            "The Fisher spectrum, of F = mean g gᵀ, has no more than N values; beside it stands that of gradients of "
            "the same norms in independent directions.",
            "With overlap.linear_model=true each matrix stands beside a linear layer that has learnt: noise is left in "
            "it along a direction of variance ℓ like ℓ^(−β), so that a direction in which the data vary most can have "
            "a small singular value. β is fitted to the energies |W p|², directions from half of the samples and "
            "variances from the others; what it gives for the spectrum, and for the vectors of small σ, stands beside "
            "what was found and beside independent entries. It describes noise, and knows no signal but energies.",
        ),
        sentences="jacspec.studies.overlap.findings:overlap_findings",
        caution="Matrices of one model and tokens of one text; those that share an input are no independent repeats.",
    ),
)
