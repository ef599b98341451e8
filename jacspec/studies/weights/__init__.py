"""Spectra of a checkpoint's weight matrices, by role, beside chance."""

import dataclasses
import enum
from collections.abc import Mapping

from jacspec.studies.study import MATRICES, MISSING, Page, Quantity, Study


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


WEIGHTWATCHER = "Martin & Mahoney 2021, JMLR 22, 165 (WeightWatcher)"

CLAUSET = "Clauset, Shalizi & Newman 2009, SIAM Review 51, 661"

SMALL = "Small Singular Values Matter"

MP = "Marchenko & Pastur 1967"

PROFILED = "Marchenko & Pastur 1967; quantiles, over the number above (docs/chance.md)"

TRACY_WIDOM = "Johnstone 2001; Ma 2012"

NORMS = "Zhang 2006; Couillet & Hachem 2014"

WEIGHT_METRICS: Mapping[str, Quantity] = {
    "log_spectral_norm": Quantity(r"$\log_{10} \lambda_1$", "log10 of the largest λ = σ²", WEIGHTWATCHER),
    "alpha": Quantity(r"$\alpha$", "exponent of the tail of λ, continuous maximum likelihood above x_min", CLAUSET),
    "alpha_sigma": Quantity(
        r"$\sigma_\alpha$", "standard error of α were x_min known: (α − 1)/√n, n values in the tail", CLAUSET
    ),
    "alpha_error": Quantity(
        r"$\sigma_\alpha^{\mathrm{search}}$",
        "standard error of α with the search for x_min: 1.4 times that, by calibration",
        CLAUSET,
    ),
    "alpha_null_low": Quantity(
        r"$\alpha_{0.05}^{\mathrm{null}}$",
        "α that 5 % of Gaussian matrices of this shape are below, which have no tail (99 draws, 19 of large ones)",
        CLAUSET,
    ),
    "alpha_null": Quantity(r"$\alpha^{\mathrm{null}}$", "their median α", CLAUSET),
    "alpha_null_high": Quantity(r"$\alpha_{0.95}^{\mathrm{null}}$", "α that 5 % of them are above", CLAUSET),
    "alpha_weighted": Quantity(r"$\alpha \log_{10} \lambda_1$", "α times log10 λ_1", WEIGHTWATCHER),
    "alpha_weighted_null": Quantity(
        r"$\alpha^{\mathrm{null}} \log_{10} \lambda_+$",
        "the same of Gaussian matrices of this shape and variance: their median α times log10 of the squared edge σ_+",
        WEIGHTWATCHER,
    ),
    "log_alpha_norm": Quantity(r"$\log_{10} \Sigma \lambda^\alpha$", "log10 Σ λ^α", WEIGHTWATCHER),
    "x_min": Quantity(
        r"$x_{\min}$", "where the tail of λ begins: the candidate of least distance D", CLAUSET, scale=True
    ),
    "ks_distance": Quantity(r"$D$", "Kolmogorov–Smirnov distance of the tail from its power law", CLAUSET),
    "tail_fraction": Quantity(r"tail fraction", "share of the positive λ at or above x_min", CLAUSET),
    "rand_distance": Quantity(
        r"$D_{JS}$",
        "Jensen–Shannon distance (nats, square root) between the ordered λ, divided by their sum, and those of the "
        "null (weights.against): the same entries in another order, or Gaussian ones",
        WEIGHTWATCHER,
    ),
    "null_low": Quantity(
        r"$\sigma_-^{\mathrm{null}}$", "smallest σ of the null (weights.against), one draw", SMALL, scale=True
    ),
    "null_high": Quantity(r"$\sigma_+^{\mathrm{null}}$", "largest σ of the null", SMALL, scale=True),
    "above_null": Quantity(r"$n_>^{\mathrm{null}}$", "number of σ above the largest of the null", SMALL),
    "below_null": Quantity(r"$n_<^{\mathrm{null}}$", "number of σ below the smallest of the null", SMALL),
    "mp_low": Quantity(
        r"$\sigma_-$", "lower Marchenko–Pastur edge s(√N − √M) of σ, s² the variance of the entries", MP, scale=True
    ),
    "mp_high": Quantity(r"$\sigma_+$", "upper edge s(√N + √M)", MP, scale=True),
    "bulk_low": Quantity(
        r"$\sigma_-^{\mathrm{bulk}}$",
        "lower Marchenko–Pastur edge of the bulk: s_bulk(√(N − r) − √(M − r)), r values being above it",
        PROFILED,
        scale=True,
    ),
    "bulk_high": Quantity(
        r"$\sigma_+^{\mathrm{bulk}}$", "upper edge of the bulk, s_bulk(√(N − r) + √(M − r))", PROFILED, scale=True
    ),
    "bulk_share": Quantity(
        r"$s_{\mathrm{bulk}}^2 / s^2$",
        "variance of the bulk over that of the entries; missing where no bulk is identified",
        PROFILED,
    ),
    "bulk_error": Quantity("standard error of the bulk", "standard error of that", PROFILED),
    "bulk_distance": Quantity(
        r"$D_{MP}$", "Kolmogorov–Smirnov distance of the σ between the bulk's edges from Marchenko–Pastur there", MP
    ),
    "count_low": Quantity(
        r"$\sigma_<$",
        "σ below which a value is counted: one draw in 100 of the bulk alone has any",
        TRACY_WIDOM,
        scale=True,
    ),
    "count_high": Quantity(
        r"$\sigma_>$",
        "σ above which a value is counted: one draw in 100 of the bulk alone has any",
        TRACY_WIDOM,
        scale=True,
    ),
    "outliers_above": Quantity(
        r"$n_>$", "number of σ above σ_>; 0.01 are expected where all entries have one variance", TRACY_WIDOM
    ),
    "outliers_below": Quantity(
        r"$n_<$",
        "number of positive σ below σ_<; 0.01 are expected by chance; none is defined of a square matrix",
        TRACY_WIDOM,
    ),
    "largest_p": Quantity(
        r"$p_{\max}$",
        "chance of so large a σ_1 with Gaussian entries of one variance, that of all entries",
        "Johnstone 2001; Ma 2012; drawn below 16 rows",
    ),
    "smallest_p": Quantity(
        r"$p_{\min}$",
        "chance of so small a smallest σ with Gaussian entries of one variance, that of the bulk",
        "Ma 2012; Edelman 1988 where it is square",
    ),
    "norms_low": Quantity(
        r"$\sigma_<^{rc}$",
        "as σ_<, with independent entries that have the matrix's own row and column norms",
        NORMS,
        scale=True,
    ),
    "norms_high": Quantity(r"$\sigma_>^{rc}$", "as σ_>, with the matrix's own row and column norms", NORMS, scale=True),
    "norms_above": Quantity(
        r"$n_>^{rc}$", "number of σ above that; 0.01 or fewer are expected with such entries", NORMS
    ),
    "norms_below": Quantity(r"$n_<^{rc}$", "number of positive σ below the lower one", NORMS),
    "norms_largest_p": Quantity(
        r"$p_{\max}^{rc}$",
        "chance, at most, of so large a σ_1 with Gaussian entries that have the matrix's own row and column norms",
        NORMS,
    ),
    "norms_smallest_p": Quantity(r"$p_{\min}^{rc}$", "chance of so small a smallest σ with such entries", NORMS),
}
"""Columns of `task=weights` beside `METRICS`: the tail of a spectrum, and the spectrum beside chance.

λ = σ² throughout, without a factor of 1/N: the convention of WeightWatcher's eigenvalues. Its `spectral_norm` is
λ_max, its `log_norm` log10 ‖W‖_F².
"""

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
BENJAMINI = "Benjamini & Hochberg 1995"

OVER_MATRICES: Mapping[str, Quantity] = {
    "largest_q": Quantity(
        r"$q_{\max}$", "false discovery rate of p_max over all matrices of the run that have one", BENJAMINI
    ),
    "smallest_q": Quantity(r"$q_{\min}$", "the same of p_min", BENJAMINI),
    "norms_largest_q": Quantity(r"$q_{\max}^{rc}$", "the same of p_max with the matrix's own norms", BENJAMINI),
    "norms_smallest_q": Quantity(r"$q_{\min}^{rc}$", "the same of p_min with the matrix's own norms", BENJAMINI),
}
"""Columns that are known once all matrices are; each has its p-value's name but for the last letter."""

THAMM = "Thamm, Staats & Rosenow 2022, Phys. Rev. E 106, 054124"

VUONG = "Vuong 1989; Clauset, Shalizi & Newman 2009, 5"

HU = "Hu et al. 2025 (FARMS); half of the values, Zhou et al. 2023"

MERGING = "Martin & Mahoney 2021; the merging document's mixture"

VECTORS: Mapping[str, Quantity] = {
    "vectors_p01": Quantity(
        r"$f_{PT}$",
        "share of the singular vectors, left and right, whose entries are no draw of N(0, 1/n) at p ≤ 1 % "
        "(Kolmogorov–Smirnov, calibrated for unit vectors); 0.01 by chance",
        THAMM,
    ),
    "vectors_beyond": Quantity(r"$n_{PT}$", "number of these vectors with q < 5 % over those of the matrix", THAMM),
    "vectors_p01_norms": Quantity(
        r"$f_{PT}^{rc}$",
        "f_PT of one draw of independent Gaussian entries with the matrix's own row and column norms",
        THAMM,
    ),
    **{
        name: quantity
        for region, words in (
            ("large", "the tenth with the largest σ"),
            ("bulk", "the eight tenths between"),
            ("small", "the tenth with the smallest σ"),
        )
        for name, quantity in {
            f"vectors_p01_{region}": Quantity(
                rf"$f_{{PT}}^{{\mathrm{{{region}}}}}$", f"f_PT of {words}; 0.01 by chance", THAMM
            ),
            f"participation_{region}": Quantity(
                rf"IPR$^{{\mathrm{{{region}}}}}$",
                f"inverse participation ratio Σv⁴ of {words}, over 3/(n + 2), that of chance: mean; 1 by chance",
                THAMM,
            ),
            f"localised_{region}": Quantity(
                rf"$f_{{loc}}^{{\mathrm{{{region}}}}}$",
                f"share of {words} whose Σv⁴ is above that of 99 % of random vectors; 0.01 by chance",
                THAMM,
            ),
        }.items()
    },
}

ATAS = "Oganesyan & Huse 2007; Atas et al. 2013"

SPACINGS: Mapping[str, Quantity] = {
    "brody": Quantity(
        r"Brody's $\beta$",
        "exponent of repulsion of the unfolded spacings, maximum likelihood: 0 of values that know nothing of one "
        "another (Poisson), about 0.95 of random matrices",
        f"Brody 1973; {THAMM}",
    ),
    "brody_error": Quantity(r"$\sigma_\beta$", "its standard error, from the curvature", "Brody 1973"),
    "spacing_ratio": Quantity(
        r"$\langle\tilde{r}\rangle$",
        "mean ratio of the smaller to the larger of neighbouring spacings of σ: 0.5307 of random matrices (GOE), "
        "0.3863 of Poisson",
        ATAS,
    ),
    "spacing_ratio_error": Quantity(r"$\sigma_r$", "its standard error", ATAS),
    "number_variance": Quantity(
        r"$\Sigma^2(2)$",
        "variance of the number of σ in an interval of two mean spacings, unfolded: 0.58 of random matrices (GOE), 2 "
        "of Poisson",
        THAMM,
    ),
    **{
        f"spacing_ratio_{region}": Quantity(
            rf"$\langle\tilde{{r}}\rangle^{{\mathrm{{{region}}}}}$", f"the mean ratio in {words}; none below 16", ATAS
        )
        for region, words in (
            ("large", "the largest tenth of σ"),
            ("bulk", "the eight tenths between"),
            ("small", "the smallest tenth"),
        )
    },
}

TAILS: Mapping[str, Quantity] = {
    "power_p": Quantity(
        r"$p_{PL}$",
        "chance of so large a D of a power law with the fitted α and x_min, its search repeated (weights.draws); the "
        "power law is rejected where it is small",
        CLAUSET,
    ),
    "alpha_low": Quantity(
        r"$\alpha_{0.025}$", "lower end of the interval of 95 % of α, bootstrap with the search for x_min", CLAUSET
    ),
    "alpha_high": Quantity(r"$\alpha_{0.975}$", "its upper end", CLAUSET),
    "against_lognormal": Quantity(
        r"$R_{LN}$",
        "log-likelihood of the power law over that of a lognormal, both from x_min on, in standard deviations: "
        "negative where the lognormal is likelier",
        VUONG,
    ),
    "against_lognormal_p": Quantity(r"$p(R_{LN})$", "two-sided p-value that neither is likelier", VUONG),
    "against_exponential": Quantity(r"$R_{exp}$", "the same beside an exponential", VUONG),
    "against_exponential_p": Quantity(r"$p(R_{exp})$", "p-value of that", VUONG),
    "against_truncated": Quantity(
        r"$R_{cut}$",
        "log-likelihood of the power law less that of one with an exponential cut-off, which has it in it: at most 0",
        VUONG,
    ),
    "against_truncated_p": Quantity(
        r"$p(R_{cut})$", "chance of as much where there is no cut-off (half of χ² with one degree of freedom)", VUONG
    ),
    "alpha_to_max": Quantity(
        r"$\alpha^{\leq\lambda_1}$",
        "α where the law is taken to end at the largest λ, with the same x_min",
        "Aban, Meerschaert & Panorska 2006",
    ),
    "alpha_to_max_null_low": Quantity(
        r"$\alpha_{0.05}^{\leq\lambda_1}$", "what 5 % of Gaussian matrices of this shape are below", CLAUSET
    ),
    "alpha_to_max_null": Quantity(r"$\alpha_{null}^{\leq\lambda_1}$", "their median", CLAUSET),
    "hill_alpha": Quantity(r"$\alpha_{Hill}$", "Hill's α of the largest tenth of λ", "Hill 1975"),
    "hill_alpha_null_low": Quantity(
        r"$\alpha_{Hill,0.05}$", "what 5 % of Gaussian matrices of this shape are below", "Hill 1975"
    ),
    "hill_alpha_null": Quantity(r"$\alpha_{Hill}^{null}$", "their median", "Hill 1975"),
    "farms_alpha": Quantity(
        r"$\alpha_{FARMS}$",
        "Hill's α of the larger half of λ of square windows of the matrix together, so that its aspect ratio has no "
        "part in it",
        HU,
    ),
    "farms_alpha_null_low": Quantity(r"$\alpha_{FARMS,0.05}$", "what 5 % of Gaussian matrices are below", HU),
    "farms_alpha_null": Quantity(r"$\alpha_{FARMS}^{null}$", "their median", HU),
    "detx_number": Quantity(
        r"$n_{detX}$",
        "how many of the largest λ, the mean λ being 1, have a product of 1: the last takes it below",
        WEIGHTWATCHER,
    ),
    "detx_lambda": Quantity(r"$\lambda_{detX}$", "the least of these λ", WEIGHTWATCHER, scale=True),
    "detx_share": Quantity(r"$f_{detX}$", "their share of the λ", WEIGHTWATCHER),
    "detx_share_null": Quantity(r"$f_{detX}^{null}$", "median share of Gaussian matrices of this shape", WEIGHTWATCHER),
    "erg_gap": Quantity(
        r"ERG gap", "n_detX less the number of λ from x_min on: 0 where both tails are the same", WEIGHTWATCHER
    ),
    "rand_distance_null_high": Quantity(
        r"$D_{JS,0.95}^{null}$",
        "what 5 % of pairs of Gaussian matrices of this shape are further apart than, by D_JS",
        WEIGHTWATCHER,
    ),
    "num_traps": Quantity(
        r"$n_{traps}$",
        "number of σ of the matrix's entries less their mean, shuffled (one draw), above what their bulk passes in one "
        "draw of 100: large entries; 0.01 by chance",
        WEIGHTWATCHER,
    ),
    "tail_weight": Quantity(
        r"$w_{tail}$",
        "weight w of the tail in (1 − w) ρ_MP + w ρ_tail, ρ_tail a power law from σ_> on: the share of σ above it",
        MERGING,
    ),
    "tail_alpha": Quantity(r"$\mu_{tail}$", "exponent of ρ_tail, maximum likelihood, of five values or more", MERGING),
    "tail_alpha_error": Quantity(r"$\sigma_\mu$", "its standard error, (μ − 1)/√n", MERGING),
}

RING = "Feinberg & Zee 1997; Guionnet, Krishnapur & Zeitouni 2011"

EIGENVALUES: Mapping[str, Quantity] = {
    "eigenvalue_radius": Quantity(
        r"$\max |\lambda_i(W)|$",
        "largest size of an eigenvalue of a square matrix, at most σ₁",
        "Horn & Johnson, Matrix Analysis, 5.6",
        scale=True,
    ),
    "positive_share": Quantity(
        r"$f(\mathrm{Re}\,\lambda > 0)$",
        "share of the eigenvalues above rounding with a positive real part; 0.5 by chance",
        RING,
    ),
    "rotating_share": Quantity(
        r"$f(|\mathrm{Im}\,\lambda| > |\lambda| / 10)$",
        "share of these that turn a vector in a plane, |Im λ| > |λ|/10",
        "this project",
    ),
    "henrici_departure": Quantity(
        "departure from normality",
        "√(‖W‖_F² − Σ|λ|²)/‖W‖_F: 0 of a normal matrix, whose |λ| are its σ; 1 of a nilpotent one",
        "Henrici 1962",
    ),
    "ring_inner": Quantity(
        "inner radius of the null ring",
        "(mean σ⁻²)^(−1/2): within it no eigenvalue of a large U Σ Vᵀ with random rotations U and V lies",
        RING,
        scale=True,
    ),
    "ring_outer": Quantity("outer radius of the null ring", "(mean σ²)^(1/2): beyond it none lies", RING, scale=True),
    "ring_share": Quantity(
        "share in the null ring", "share of the eigenvalues whose size is between these radii", RING
    ),
    "rotated_radius": Quantity(
        r"rotated $\max |\lambda_i|$",
        "max|λ_i| of one draw of U Σ Vᵀ with its own singular values and random rotations: what chance has",
        RING,
        scale=True,
    ),
    "rotated_rotating_share": Quantity(
        r"rotated $f(|\mathrm{Im}\,\lambda| > |\lambda| / 10)$", "rotating_share of that draw", RING
    ),
    "rotated_departure": Quantity("rotated departure from normality", "henrici_departure of that draw", RING),
    "rotated_ring_share": Quantity("share in the null ring, rotated", "ring_share of that draw", RING),
}

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
    "flags": Quantity("flags", "what stands out of a matrix, by `flags_of`; empty where nothing does", "jacspec"),
}
"""Columns of words."""


LABELS: Mapping[str, str] = {
    "alpha_error": "error of α with its search",
    "alpha_null_low": "α by chance, 5 %",
    "alpha_null": "α by chance",
    "alpha_null_high": "α by chance, 95 %",
    "alpha_weighted_null": "α log λ₁ by chance",
    "ks_distance": "distance from the power law",
    "rand_distance": "distance from the null",
    "null_low": "smallest σ of the null",
    "null_high": "largest σ of the null",
    "above_null": "values above the null",
    "below_null": "values below the null",
    "mp_low": "lower Marchenko–Pastur edge",
    "mp_high": "upper Marchenko–Pastur edge",
    "bulk_low": "lower edge of the bulk",
    "bulk_high": "upper edge of the bulk",
    "bulk_share": "variance of the bulk",
    "bulk_distance": "distance from Marchenko–Pastur",
    "count_low": "outliers begin below",
    "count_high": "outliers begin above",
    "norms_low": "lower edge, own norms",
    "norms_high": "upper edge, own norms",
    "norms_above": "values above, own norms",
    "norms_below": "values below, own norms",
    **{
        f"{null}{end}_{letter}": f"{letter} of the {end} σ{words}"
        for null, words in (("", ""), ("norms_", ", own norms"))
        for end in ("largest", "smallest")
        for letter in "pq"
    },
    "vectors_p01": "vectors not random",
    "vectors_beyond": "vectors not random (q)",
    "vectors_p01_norms": "vectors not random, own norms",
    **{f"vectors_p01_{region}": f"vectors not random, {region}" for region in ("large", "bulk", "small")},
    "power_p": "p of a power law",
    "alpha_low": "α, lower end",
    "alpha_high": "α, upper end",
    "against_lognormal_p": "p beside a lognormal",
    "against_exponential_p": "p beside an exponential",
    "against_truncated_p": "p beside a cut-off",
    "alpha_to_max": "α up to λ₁",
    "alpha_to_max_null_low": "α up to λ₁ by chance, 5 %",
    "alpha_to_max_null": "α up to λ₁ by chance",
    "hill_alpha_null_low": "Hill's α by chance, 5 %",
    "hill_alpha_null": "Hill's α by chance",
    "farms_alpha_null_low": "α of FARMS by chance, 5 %",
    "farms_alpha_null": "α of FARMS by chance",
    "tail_alpha": "exponent of the tail",
    "tail_alpha_error": "its error",
    "detx_number": "values of product 1",
    "detx_lambda": "least λ of product 1",
    "detx_share": "share of product 1",
    "detx_share_null": "share of product 1 by chance",
    "num_traps": "traps",
    "eigenvalue_radius": "largest |λ|",
    "positive_share": "share of Re λ > 0",
    "rotating_share": "share that rotates",
    "rotated_radius": "largest |λ|, rotated",
    "rotated_rotating_share": "share that rotates, rotated",
    "rand_distance_null_high": "distance by chance, 95 %",
}
"""What labels call columns whose names are no words."""


STUDY = Study(
    name="weights",
    run="jacspec.studies.weights.run:run_weights",
    options=WeightsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "weights", "layers", "precision", "seed"}),
    takes=("layers", "metrics", "top_k", "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns={
        name: quantity._replace(words=LABELS.get(name, ""))
        for group in (WEIGHT_METRICS, OVER_MATRICES, INTRUDERS, *EXTRAS.values(), WORDS)
        for name, quantity in group.items()
    },
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
