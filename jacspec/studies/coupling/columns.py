"""What is in the columns of a `task=coupling` run."""

from collections.abc import Mapping

from jacspec.quantities import Quantity

PRODUCT = "‖AB‖ ≤ ‖A‖‖B‖: Horn & Johnson, Matrix Analysis, 5.6; the factors: jacspec/studies/coupling/factors.py"

WEIGHTS = {
    "up": ("up", "W_up"),
    "gate": ("gate", "W_gate"),
    "v": ("V", "W_V"),
    "q": ("Q", "W_Q"),
    "k": ("K", "W_K"),
}
"""Weights that a component reads with, by path: index of the symbol, name."""

SLOPES = {
    "up": r"the largest |act′(W_up u)| at the sample; in a gated MLP the largest |act(W_gate u)|",
    "gate": r"the largest |act′(W_gate u) · W_up u| at the sample",
    "v": "what the last token attends to itself, the largest over heads (√Σ a_n² over heads that share a value head)",
    "q": "what a small change of a query is multiplied by, at most, on its way to its head's output",
    "k": "what a small change of the token's own key is multiplied by, at most, on its way to a head's output",
}

COUPLING: Mapping[str, Quantity] = {
    "bound": Quantity(
        "bound: product of the factors",
        "σ₁(O) · σ₁(W_out) · Σ σ₁(S_i) σ₁(W_i) · σ₁(N), the sum over the weights that the component reads with: no "
        "smaller than ρ",
        PRODUCT,
    ),
    "bound_share": Quantity(
        r"share of the bound $\rho$ / bound",
        "ρ over the product of the factors: 1 where all leading directions meet, small where they miss each other",
        PRODUCT,
    ),
    "norm_gain": Quantity(
        r"norm $\sigma_1(N)$", "σ₁ of the Jacobian of the norm on the component's input; 1 where there is none", PRODUCT
    ),
    "output_norm_gain": Quantity(
        r"output norm $\sigma_1(O)$",
        "σ₁ of the Jacobian of the norm on the component's output; 1 where there is none",
        PRODUCT,
    ),
    "sigma_out": Quantity(
        r"writing weight $\sigma_1(W_{\mathrm{out}})$", "σ₁ of W_O in attention, of W_down in an MLP", PRODUCT
    ),
    **{
        f"sigma_{path}": Quantity(rf"weight $\sigma_1(W_{{\mathrm{{{index}}}}})$", f"σ₁ of {name}", PRODUCT)
        for path, (index, name) in WEIGHTS.items()
    },
    **{
        f"slope_{path}": Quantity(rf"slope $\sigma_1(S_{{\mathrm{{{index}}}}})$", SLOPES[path], PRODUCT)
        for path, (index, _) in WEIGHTS.items()
    },
    "write_alignment": Quantity(
        r"write alignment $|u_J \cdot u_{\mathrm{out}}|$",
        "|cos| between the leading left singular vectors of J and of W_out, the gain of a norm on the output in it",
        "this project",
    ),
    **{
        f"read_alignment_{path}": Quantity(
            rf"read alignment $|v_J \cdot v_{{\mathrm{{{index}}}}}|$",
            f"|cos| between the leading right singular vectors of J and of {name}, the gain of the norm in it",
            "this project",
        )
        for path, (index, name) in WEIGHTS.items()
    },
}
"""What the columns of a `task=coupling` run hold, beside rows of `METRICS`."""
