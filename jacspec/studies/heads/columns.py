"""What is said of an attention head."""

from collections.abc import Mapping

from jacspec.quantities import Quantity
from jacspec.spectra.metrics import METRICS

STUDY = "the study of per-head W_QK spectra"

HEADS: Mapping[str, Quantity] = {
    "lambda_0": Quantity(r"$\lambda_0$", "the largest λ = σ² (the study counts from 0)", STUDY),
    "lambda_sum": Quantity(r"$\Sigma \lambda$", "Σλ, the square of the Frobenius norm", STUDY),
    "lambda_square_sum": Quantity(r"$\Sigma \lambda^2$", "Σλ²", STUDY),
    "npr_lambda": Quantity(r"$\mathrm{NPR}_\lambda$", "(Σλ)² / (d_head Σλ²), on λ as the study's text has it", STUDY),
    "npr_sigma": Quantity(r"$\mathrm{NPR}_\sigma$", "(Σσ)² / (d_head Σσ²), on σ as the study's code has it", STUDY),
    "spectral_entropy": Quantity(METRICS["spectral_entropy"].symbol, METRICS["spectral_entropy"].definition, STUDY),
    "effective_rank": Quantity(
        METRICS["effective_rank"].symbol, METRICS["effective_rank"].definition, METRICS["effective_rank"].source
    ),
    "kappa_sigma": Quantity(r"$\kappa_\sigma$", "σ_1 / σ_d_head; infinite below full rank, then missing", STUDY),
    "kappa_lambda": Quantity(r"$\kappa_\lambda$", "its square, λ_1 / λ_d_head", STUDY),
    "element_mean": Quantity(r"mean of $W_{ij}$", "mean over the d_model² elements of the product", STUDY),
    "element_std": Quantity(r"$\sigma(W_{ij})$", "standard deviation of the elements: not a singular value", STUDY),
    "element_skewness": Quantity(r"skewness of $W_{ij}$", "third central moment of the elements over σ³", STUDY),
    "element_kurtosis": Quantity(r"excess kurtosis of $W_{ij}$", "fourth central moment over σ⁴, less 3", STUDY),
}
"""What `task=heads` says of each head: its columns."""
