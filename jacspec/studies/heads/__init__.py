"""Spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import MISSING, Page, Quantity, Rows, Study


@dataclasses.dataclass
class HeadsOptions:
    """How many draws each null takes, and which heads one figure shows; see conf/task/heads.yaml."""

    draws: int = MISSING
    shown: list[str] = MISSING


ROY = "Roy & Vetterli 2007"

SOURCE = "the study of per-head W_QK spectra"

BH = "Benjamini & Hochberg 1995"

CIRCUITS = "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits"

SMALL_P = "by draws; small p Tracy & Widom 1996 (docs/chance.md)"

NULLS: Mapping[str, tuple[str, str]] = {
    "plain": ("0", "factors with independent Gaussian entries of one variance each"),
    "norms": ("rc", "factors with independent Gaussian entries and the row and column norms of the head's own"),
    "turned": ("O", "the head's own factors, turned to one another at random: each keeps its covariance"),
}
"""What heads are compared with: a mark for symbols, and words."""


LABELS: Mapping[str, str] = {"plain": "one variance", "norms": "own norms", "turned": "turned"}
"""What labels call the nulls."""


def _beside_nulls() -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for null, (mark, words) in NULLS.items():
        unit, name = "" if null == "turned" else " in units of the median", LABELS[null]
        for end, what in (("largest", f"so large a σ_1{unit}"), ("smallest", f"so small a σ_d_head{unit}")):
            place = r"\max" if end == "largest" else r"\min"
            chance = f", of {words}" if end == "largest" else "; missing below full rank"
            found[f"{null}_{end}_p"] = Quantity(
                rf"$p_{{{place}}}^{{{mark}}}$", f"chance of {what}{chance}", SMALL_P, words=f"p of the {end} σ, {name}"
            )
            found[f"{null}_{end}_q"] = Quantity(
                rf"$q_{{{place}}}^{{{mark}}}$",
                "that p adjusted for all heads of the run, both products",
                BH,
                words=f"q of the {end} σ, {name}",
            )
        for side, sign in (("above", ">"), ("below", "<")):
            found[f"{null}_{side}"] = Quantity(
                rf"$n_{sign}^{{{mark}}}$",
                f"number of σ {side} what one draw in 100 passes; 0.01 are expected by chance",
                SMALL_P,
                words=f"values {side}, {name}",
            )
        found[f"{null}_excess"] = Quantity(
            rf"$\sigma_1 / \sigma_1^{{{mark}}}$",
            f"σ_1{unit} over what the draws have (geometric mean)",
            SMALL_P,
            words=f"excess of σ₁, {name}",
        )
    return found


def _of_factors() -> dict[str, Quantity]:
    found: dict[str, Quantity] = {}
    for side, words, mark in (
        ("left", "W_Q (qk) or W_O (ov)", "$W_Q$ or $W_O$"),
        ("right", "W_K (qk) or W_V (ov)", "$W_K$ or $W_V$"),
    ):
        found |= {
            f"{side}_std": Quantity(
                f"standard deviation of {mark}", f"standard deviation of the head's part of {words}", SOURCE, scale=True
            ),
            f"{side}_kurtosis": Quantity(
                f"excess kurtosis of {mark}", f"fourth central moment over σ⁴, less 3, of {words}", SOURCE
            ),
            f"{side}_kl": Quantity(
                f"KL divergence of {mark} (nats)",
                f"Kullback–Leibler divergence of the elements of {words} from the normal law of their mean and "
                "variance, in 32 intervals of equal probability; 29/(2n) on average of n normal elements",
                SOURCE,
            ),
        }
    return found


HEADS: Mapping[str, Quantity] = {
    "lambda_0": Quantity(r"$\lambda_0$", "the largest λ = σ² (the study counts from 0)", SOURCE, scale=True),
    "lambda_sum": Quantity(r"$\Sigma \lambda$", "Σλ, the square of the Frobenius norm", SOURCE, scale=True),
    "lambda_square_sum": Quantity(r"$\Sigma \lambda^2$", "Σλ²", SOURCE, scale=True),
    "npr_lambda": Quantity(r"$\mathrm{NPR}_\lambda$", "(Σλ)² / (d_head Σλ²), on λ as the study's text has it", SOURCE),
    "npr_sigma": Quantity(r"$\mathrm{NPR}_\sigma$", "(Σσ)² / (d_head Σσ²), on σ as the study's code has it", SOURCE),
    "spectral_entropy": Quantity(r"spectral entropy $H_\lambda$ (nats)", "−Σ p ln p, p = λ/Σλ, in nats", SOURCE),
    "effective_rank": Quantity("effective rank", "exp(−Σ p ln p), p = σ/Σσ", ROY),
    "kappa_sigma": Quantity(
        r"$\kappa_\sigma$", "σ_1 / σ_d_head, computed in float64; infinite below full rank, then missing", SOURCE
    ),
    "kappa_lambda": Quantity(r"$\kappa_\lambda$", "its square, λ_1 / λ_d_head", SOURCE),
    "rounding_share": Quantity(
        r"$\delta\sigma_{d_{\mathrm{head}}} / \sigma_{d_{\mathrm{head}}}$",
        "what rounding of the stored weights moves the smallest σ by (first order, root mean square), over it: from "
        "about 1 on it may be nothing but rounding; missing below full rank",
        "this project",
    ),
    "lambda_gap": Quantity(r"$\lambda_1 / \lambda_2$", "the largest λ over the next", SOURCE),
    "gap_closed": Quantity(
        "gap closed",
        "1 where a λ lies in the gap between zero and the bulk: below what one Gaussian head in 100 has as its "
        "smallest, in units of the median",
        SOURCE,
    ),
    "element_mean": Quantity(r"mean of $W_{ij}$", "mean over the d_model² elements of the product", SOURCE),
    "element_std": Quantity(
        r"$\sigma(W_{ij})$",
        "standard deviation of the elements: not a singular value",
        SOURCE,
        scale=True,
        words="standard deviation",
    ),
    "element_skewness": Quantity(r"skewness of $W_{ij}$", "third central moment of the elements over σ³", SOURCE),
    "element_kurtosis": Quantity(r"excess kurtosis of $W_{ij}$", "fourth central moment over σ⁴, less 3", SOURCE),
    **_of_factors(),
    "eigenvalue_radius": Quantity(
        r"$\max |\mu|$", "largest |μ|, μ the eigenvalues of the product", CIRCUITS, scale=True
    ),
    "positive_share": Quantity(
        r"share of $\mathrm{Re}\, \mu > 0$",
        "share of the d_head eigenvalues with a positive real part; a half by chance. Of ov: copying",
        CIRCUITS,
    ),
    "copying_score": Quantity(r"$\Sigma\, \mathrm{Re}\, \mu / \Sigma |\mu|$", "Σ Re μ / Σ |μ|; 0 by chance", CIRCUITS),
    **_beside_nulls(),
}
"""What `task=heads` says of each head: its columns."""


STUDY = Study(
    name="heads",
    run="jacspec.studies.heads.run:run_heads",
    options=HeadsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "heads", "layers", "precision", "seed"}),
    takes=("layers", "precision", "seed"),
    rows=Rows("matrices", "matrices", ("role", "layer", "head")),
    columns=HEADS,
    console=("npr_lambda", "kappa_sigma", "norms_excess", "turned_excess", "copying_score"),
    draws=("shown",),
    figures="jacspec.studies.heads.figures:head_figures",
    page=Page(
        title="attention heads",
        reading=(
            "Of each head, qk is W_Qᵀ W_K, which scores pairs of positions, and ov is W_O W_V, which carries "
            "what is read; both have d_head singular values. Rotations of rotary models, biases, query–key norms and "
            "relative positions are left out: they stand between the two factors, or beside the product.",
            "Each head is compared with three nulls. Beyond Gaussian factors of one variance (0) a head may have no "
            "more than rows of different norms, as one that was never trained can. Beyond Gaussian factors with its "
            "own row and column norms (rc) entries depend on one another. Beyond its own factors, turned to one "
            "another at random (O), the two share directions of the head's space, whatever each looks like by itself; "
            "rows of different norms in both, along the same axes, are enough for that too. "
            "q is p adjusted for all heads of the run; heads that share keys and values are not independent.",
            "Values are counted beyond what one draw in 100 passes: 0.01 a head are expected by chance. The smallest σ "
            "is compared in units of the median, so that large ones do not make it small; from a rounding share of "
            "about 1 on it may be rounding of the stored weights.",
        ),
        sentences="jacspec.studies.heads.findings:head_findings",
        caution="Heads of one trained model beside independent Gaussian factors; of another training they say nothing.",
    ),
)
