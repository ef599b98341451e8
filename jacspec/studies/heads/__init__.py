"""Spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import MISSING, Page, Quantity, Rows, Study


@dataclasses.dataclass
class HeadsOptions:
    """How many draws the baselines of chance take; see conf/task/heads.yaml."""

    draws: int = MISSING


ROY = "Roy & Vetterli 2007"

SOURCE = "the study of per-head W_QK spectra"

HEADS: Mapping[str, Quantity] = {
    "lambda_0": Quantity(r"$\lambda_0$", "the largest λ = σ² (the study counts from 0)", SOURCE),
    "lambda_sum": Quantity(r"$\Sigma \lambda$", "Σλ, the square of the Frobenius norm", SOURCE),
    "lambda_square_sum": Quantity(r"$\Sigma \lambda^2$", "Σλ²", SOURCE),
    "npr_lambda": Quantity(r"$\mathrm{NPR}_\lambda$", "(Σλ)² / (d_head Σλ²), on λ as the study's text has it", SOURCE),
    "npr_sigma": Quantity(r"$\mathrm{NPR}_\sigma$", "(Σσ)² / (d_head Σσ²), on σ as the study's code has it", SOURCE),
    "spectral_entropy": Quantity(r"spectral entropy $H_\lambda$ (nats)", "−Σ p ln p, p = λ/Σλ, in nats", SOURCE),
    "effective_rank": Quantity("effective rank", "exp(−Σ p ln p), p = σ/Σσ", ROY),
    "kappa_sigma": Quantity(r"$\kappa_\sigma$", "σ_1 / σ_d_head; infinite below full rank, then missing", SOURCE),
    "kappa_lambda": Quantity(r"$\kappa_\lambda$", "its square, λ_1 / λ_d_head", SOURCE),
    "element_mean": Quantity(r"mean of $W_{ij}$", "mean over the d_model² elements of the product", SOURCE),
    "element_std": Quantity(r"$\sigma(W_{ij})$", "standard deviation of the elements: not a singular value", SOURCE),
    "element_skewness": Quantity(r"skewness of $W_{ij}$", "third central moment of the elements over σ³", SOURCE),
    "element_kurtosis": Quantity(r"excess kurtosis of $W_{ij}$", "fourth central moment over σ⁴, less 3", SOURCE),
}
"""What `task=heads` says of each head: its columns."""


STUDY = Study(
    name="heads",
    run="jacspec.studies.heads.run:run_heads",
    options=HeadsOptions,
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "heads", "layers", "precision", "seed"}),
    takes=("layers", "precision", "seed"),
    rows=Rows("matrices", "matrices", ("role", "layer", "head")),
    columns=HEADS,
    console=("npr_lambda", "kappa_sigma"),
    figures="jacspec.studies.heads.figures:head_figures",
    page=Page(
        title="attention heads",
        reading=(
            "Of each head, qk is W_Qᵀ W_K, which scores pairs of positions, and ov is W_O W_V, which carries "
            "what is read; both have d_head singular values. Rotations of rotary models, biases and query–key "
            "norms are left out: they stand between the two factors.",
        ),
        sentences="jacspec.studies.heads.findings:head_findings",
        caution="Heads of one trained model beside independent Gaussian factors; of another training they say nothing.",
    ),
)
