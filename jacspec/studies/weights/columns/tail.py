"""Columns of the tail of a spectrum: its power law, beside that of Gaussian matrices, and what else it admits."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity

WEIGHTWATCHER = "Martin & Mahoney 2021, JMLR 22, 165 (WeightWatcher)"

CLAUSET = "Clauset, Shalizi & Newman 2009, SIAM Review 51, 661"

VUONG = "Vuong 1989; Clauset, Shalizi & Newman 2009, 5"

HU = "Hu et al. 2025 (FARMS); half of the values, Zhou et al. 2023"

MERGING = "Martin & Mahoney 2021; the merging document's mixture"

TAIL: Mapping[str, Quantity] = {
    "log_spectral_norm": Quantity(r"$\log_{10} \lambda_1$", "log10 of the largest λ = σ²", WEIGHTWATCHER),
    "alpha": Quantity(r"$\alpha$", "exponent of the tail of λ, continuous maximum likelihood above x_min", CLAUSET),
    "alpha_sigma": Quantity(
        r"$\sigma_\alpha$", "standard error of α were x_min known: (α − 1)/√n, n values in the tail", CLAUSET
    ),
    "alpha_error": Quantity(
        r"$\sigma_\alpha^{\mathrm{search}}$",
        "standard error of α with the search for x_min: 1.4 times that, by calibration",
        CLAUSET,
        words="error of α with its search",
    ),
    "alpha_null_low": Quantity(
        r"$\alpha_{0.05}^{\mathrm{null}}$",
        "α that 5 % of Gaussian matrices of this shape are below, which have no tail (99 draws, 19 of large ones)",
        CLAUSET,
        words="α by chance, 5 %",
    ),
    "alpha_null": Quantity(r"$\alpha^{\mathrm{null}}$", "their median α", CLAUSET, words="α by chance"),
    "alpha_null_high": Quantity(
        r"$\alpha_{0.95}^{\mathrm{null}}$", "α that 5 % of them are above", CLAUSET, words="α by chance, 95 %"
    ),
    "alpha_weighted": Quantity(r"$\alpha \log_{10} \lambda_1$", "α times log10 λ_1", WEIGHTWATCHER),
    "alpha_weighted_null": Quantity(
        r"$\alpha^{\mathrm{null}} \log_{10} \lambda_+$",
        "the same of Gaussian matrices of this shape and variance: their median α times log10 of the squared edge σ_+",
        WEIGHTWATCHER,
        words="α log λ₁ by chance",
    ),
    "log_alpha_norm": Quantity(r"$\log_{10} \Sigma \lambda^\alpha$", "log10 Σ λ^α", WEIGHTWATCHER),
    "x_min": Quantity(
        r"$x_{\min}$", "where the tail of λ begins: the candidate of least distance D", CLAUSET, scale=True
    ),
    "ks_distance": Quantity(
        r"$D$",
        "Kolmogorov–Smirnov distance of the tail from its power law",
        CLAUSET,
        words="distance from the power law",
    ),
    "tail_fraction": Quantity(r"tail fraction", "share of the positive λ at or above x_min", CLAUSET),
}
"""Of every matrix."""

TAILS: Mapping[str, Quantity] = {
    "power_p": Quantity(
        r"$p_{PL}$",
        "chance of so large a D of a power law with the fitted α and x_min, its search repeated (weights.draws); the "
        "power law is rejected where it is small",
        CLAUSET,
        words="p of a power law",
    ),
    "alpha_low": Quantity(
        r"$\alpha_{0.025}$",
        "lower end of the interval of 95 % of α, bootstrap with the search for x_min",
        CLAUSET,
        words="α, lower end",
    ),
    "alpha_high": Quantity(r"$\alpha_{0.975}$", "its upper end", CLAUSET, words="α, upper end"),
    "against_lognormal": Quantity(
        r"$R_{LN}$",
        "log-likelihood of the power law over that of a lognormal, both from x_min on, in standard deviations: "
        "negative where the lognormal is likelier",
        VUONG,
    ),
    "against_lognormal_p": Quantity(
        r"$p(R_{LN})$", "two-sided p-value that neither is likelier", VUONG, words="p beside a lognormal"
    ),
    "against_exponential": Quantity(r"$R_{exp}$", "the same beside an exponential", VUONG),
    "against_exponential_p": Quantity(r"$p(R_{exp})$", "p-value of that", VUONG, words="p beside an exponential"),
    "against_truncated": Quantity(
        r"$R_{cut}$",
        "log-likelihood of the power law less that of one with an exponential cut-off, which has it in it: at most 0",
        VUONG,
    ),
    "against_truncated_p": Quantity(
        r"$p(R_{cut})$",
        "chance of as much where there is no cut-off (half of χ² with one degree of freedom)",
        VUONG,
        words="p beside a cut-off",
    ),
    "alpha_to_max": Quantity(
        r"$\alpha^{\leq\lambda_1}$",
        "α where the law is taken to end at the largest λ, with the same x_min",
        "Aban, Meerschaert & Panorska 2006",
        words="α up to λ₁",
    ),
    "alpha_to_max_null_low": Quantity(
        r"$\alpha_{0.05}^{\leq\lambda_1}$",
        "what 5 % of Gaussian matrices of this shape are below",
        CLAUSET,
        words="α up to λ₁ by chance, 5 %",
    ),
    "alpha_to_max_null": Quantity(
        r"$\alpha_{null}^{\leq\lambda_1}$", "their median", CLAUSET, words="α up to λ₁ by chance"
    ),
    "hill_alpha": Quantity(r"$\alpha_{Hill}$", "Hill's α of the largest tenth of λ", "Hill 1975"),
    "hill_alpha_null_low": Quantity(
        r"$\alpha_{Hill,0.05}$",
        "what 5 % of Gaussian matrices of this shape are below",
        "Hill 1975",
        words="Hill's α by chance, 5 %",
    ),
    "hill_alpha_null": Quantity(r"$\alpha_{Hill}^{null}$", "their median", "Hill 1975", words="Hill's α by chance"),
    "farms_alpha": Quantity(
        r"$\alpha_{FARMS}$",
        "Hill's α of the larger half of λ of square windows of the matrix together, so that its aspect ratio has no "
        "part in it",
        HU,
    ),
    "farms_alpha_null_low": Quantity(
        r"$\alpha_{FARMS,0.05}$", "what 5 % of Gaussian matrices are below", HU, words="α of FARMS by chance, 5 %"
    ),
    "farms_alpha_null": Quantity(r"$\alpha_{FARMS}^{null}$", "their median", HU, words="α of FARMS by chance"),
    "detx_number": Quantity(
        r"$n_{detX}$",
        "how many of the largest λ, the mean λ being 1, have a product of 1: the last takes it below",
        WEIGHTWATCHER,
        words="values of product 1",
    ),
    "detx_lambda": Quantity(
        r"$\lambda_{detX}$", "the least of these λ", WEIGHTWATCHER, scale=True, words="least λ of product 1"
    ),
    "detx_share": Quantity(r"$f_{detX}$", "their share of the λ", WEIGHTWATCHER, words="share of product 1"),
    "detx_share_null": Quantity(
        r"$f_{detX}^{null}$",
        "median share of Gaussian matrices of this shape",
        WEIGHTWATCHER,
        words="share of product 1 by chance",
    ),
    "erg_gap": Quantity(
        r"ERG gap", "n_detX less the number of λ from x_min on: 0 where both tails are the same", WEIGHTWATCHER
    ),
    "rand_distance_null_high": Quantity(
        r"$D_{JS,0.95}^{null}$",
        "what 5 % of pairs of Gaussian matrices of this shape are further apart than, by D_JS",
        WEIGHTWATCHER,
        words="distance by chance, 95 %",
    ),
    "num_traps": Quantity(
        r"$n_{traps}$",
        "number of σ of the matrix's entries less their mean, shuffled (one draw), above what their bulk passes in one "
        "draw of 100: large entries; 0.01 by chance",
        WEIGHTWATCHER,
        words="traps",
    ),
    "tail_weight": Quantity(
        r"$w_{tail}$",
        "weight w of the tail in (1 − w) ρ_MP + w ρ_tail, ρ_tail a power law from σ_> on: the share of σ above it",
        MERGING,
    ),
    "tail_alpha": Quantity(
        r"$\mu_{tail}$",
        "exponent of ρ_tail, maximum likelihood, of five values or more",
        MERGING,
        words="exponent of the tail",
    ),
    "tail_alpha_error": Quantity(r"$\sigma_\mu$", "its standard error, (μ − 1)/√n", MERGING, words="its error"),
}
"""On request."""
