"""Columns of `task=overlap` where the Fisher spectrum is measured (overlap.fisher)."""

from collections.abc import Mapping

from jacspec.studies.study import Quantity

KUNSTNER = "Kunstner, Balles & Hennig 2019"
SMALL = "Small Singular Values Matter"
PROJECT = "this project"

OF_FISHER: Mapping[str, Quantity] = {
    "fisher_samples": Quantity("samples", "samples N behind F = (1/N) Σ g_i g_iᵀ, g_i the gradient of one", KUNSTNER),
    "fisher_trace": Quantity(
        "tr F", "trace of F: mean ‖g_i‖²", KUNSTNER, unit="nats² / weight²", words="trace of the Fisher matrix"
    ),
    "fisher_top": Quantity(
        "λ₁ / tr F",
        "share of F's largest eigenvalue in its trace",
        KUNSTNER,
        words="largest eigenvalue's share",
    ),
    "fisher_top_chance": Quantity(
        "λ₁ / tr F by chance", "the same of gradients of the same norms in independent directions", PROJECT
    ),
    "fisher_participation": Quantity(
        "PR of F", "participation ratio (Σλ)²/Σλ² of F's eigenvalues, at most N", KUNSTNER, words="Fisher participation"
    ),
    "fisher_participation_chance": Quantity(
        "PR of F by chance", "the same of gradients of the same norms in independent directions", PROJECT
    ),
    "fisher_participation_low": Quantity(
        "PR of F, one in 100", "what one in 100 draws of such gradients is below", PROJECT
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
        f"sensitivity_{end}_error": Quantity("its standard error", "by the jackknife over samples", "Efron 1982")
        for end in ("top", "middle", "bottom")
    },
    "sensitivity_spread": Quantity(
        "standard deviation by chance", "of the mean S of a tenth of random pairs u, v on the same samples", PROJECT
    ),
    "sensitivity_ratio": Quantity(
        "smallest over middle tenth", "sensitivity_bottom / sensitivity_middle", SMALL, words="smallest over middle S"
    ),
    "sensitivity_ratio_error": Quantity(
        "error of its logarithm", "of ln sensitivity_ratio, by the jackknife over samples", "Efron 1982"
    ),
    **{
        f"crossed_{end}": Quantity(
            f"the same, crossed, {words}",
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
