"""Columns of `task=overlap` where the Fisher spectrum is measured (overlap.fisher)."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity

KUNSTNER = "Kunstner, Balles & Hennig 2019"
SMALL = "Small Singular Values Matter"
PROJECT = "this project"
EFRON = "Efron 1982 (the jackknife)"

OF_FISHER: Mapping[str, Quantity] = {
    "fisher_samples": Quantity(
        "samples of F", "samples N behind F = (1/N) Σ g_i g_iᵀ, g_i the gradient of one", KUNSTNER
    ),
    "fisher_trace": Quantity(
        "trace of the Fisher matrix F", "trace of F: mean ‖g_i‖²", KUNSTNER, unit="nats² / weight²"
    ),
    "fisher_top": Quantity("share of F's largest eigenvalue", "λ₁ / tr F", KUNSTNER),
    "fisher_top_chance": Quantity(
        "share of F's largest by chance", "the same of gradients of the same norms in independent directions", PROJECT
    ),
    "fisher_participation": Quantity("participation ratio of F", "(Σλ)²/Σλ² of F's eigenvalues, at most N", KUNSTNER),
    "fisher_participation_chance": Quantity(
        "participation ratio of F by chance",
        "the same of gradients of the same norms in independent directions",
        PROJECT,
    ),
    "fisher_participation_low": Quantity(
        "participation ratio of F, one in 100", "what one in 100 draws of such gradients is below", PROJECT
    ),
    "fisher_mean": Quantity(
        "share of the mean gradient",
        "‖mean g‖² / tr F: 1/N where gradients are independent, more where they have a common part",
        KUNSTNER,
    ),
    **{
        f"sensitivity_{end}": Quantity(
            f"relative sensitivity, {words}",
            f"mean of S_k = m n Σ_i (u_kᵀ g_i v_k)² / Σ_i ‖g_i‖² over the tenth {what}; 1 along random directions",
            PROJECT,
        )
        for end, words, what in (
            ("top", "largest tenth", "of the largest σ"),
            ("middle", "middle tenth", "in the middle"),
            ("bottom", "smallest tenth", "of the smallest σ"),
        )
    },
    **{
        f"sensitivity_{end}_error": Quantity(
            f"standard error of S, {words} tenth", f"of sensitivity_{end}, by the jackknife over samples", EFRON
        )
        for end, words in (("top", "largest"), ("middle", "middle"), ("bottom", "smallest"))
    },
    "sensitivity_spread": Quantity(
        "standard deviation of S by chance",
        "of the mean S of a tenth of random pairs u, v on the same samples",
        PROJECT,
    ),
    "sensitivity_ratio": Quantity(
        "S of the smallest over the middle tenth", "sensitivity_bottom / sensitivity_middle", SMALL
    ),
    "sensitivity_ratio_error": Quantity(
        "error of ln of that ratio", "of ln sensitivity_ratio, by the jackknife over samples", EFRON
    ),
    **{
        f"crossed_{end}": Quantity(
            f"relative sensitivity, crossed, {words}",
            f"mean of m n Σ_i (u_kᵀ g_i v_l)² / Σ_i ‖g_i‖², k ≠ l, over the {what}: its directions, paired otherwise",
            PROJECT,
        )
        for end, words, what in (
            ("top", "largest tenth", "tenth of the largest σ"),
            ("middle", "middle tenth", "tenth in the middle"),
            ("bottom", "smallest tenth", "tenth of the smallest σ"),
        )
    },
    **{
        f"removal_{end}": Quantity(
            f"predicted loss without the {words}",
            f"½ mean_i T_i (Σ_k σ_k u_kᵀ g_i v_k)² over the {words}, T_i tokens predicted: what its removal costs to "
            "second order, F in the place of the Hessian",
            PROJECT,
            unit="nats/token",
        )
        for end, words in (("top", "largest tenth"), ("middle", "middle tenth"), ("bottom", "smallest tenth"))
    },
}
"""Columns beside the others where the Fisher spectrum is measured."""
