"""Jacobians beside the weights they are made of, and which layers read what others write."""

import dataclasses
from collections.abc import Mapping

from jacspec.studies.study import (
    ENGINE_OPTIONS,
    MISSING,
    SAMPLE_CAUTION,
    SAMPLES,
    TEXT_OPTIONS,
    End,
    Page,
    Quantity,
    Study,
)


@dataclasses.dataclass
class CouplingOptions:
    """Where the samples end; see conf/task/coupling.yaml."""

    end: End = MISSING


COUPLING_FILE = "coupling.csv"
BY_KIND = ("spectral_radius", "residual_gain")
"""What is summed up by the kind of the last token."""

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
        "σ₁ of the Jacobian of the norm on the component's output, times Granite's factor; 1 where there is neither",
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


STUDY = Study(
    name="coupling",
    run="jacspec.studies.coupling.run:run_coupling",
    options=CouplingOptions,
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed", "coupling"}),
    takes=("components", "layers", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    columns=COUPLING,
    files={
        COUPLING_FILE: "which component reads what another writes: a row a pair, over samples",
        "kinds.csv": "spectral radius and residual gain by kind of the last token",
        "spectra.nc": "singular values, and what each component writes and reads along (netCDF)",
    },
    console=("spectral_radius", "bound", "bound_share", "residual_gain", "write_alignment"),
    figures="jacspec.studies.coupling.figures:coupling_figures",
    page=Page(
        title="weights beside Jacobians",
        reading=(
            "A component reads the last token's stream through a norm and some weights, bends what they give, "
            "and writes with one weight: J = O W_out (Σ S_i W_i) N. The largest singular value of a product is "
            "at most the product of the largest ones, so ρ is at most the bound. It is reached only where the "
            "leading directions of all factors meet.",
            "The spectral radius ρ here is the largest singular value σ₁ of the Jacobian, a norm. The leading "
            "directions of J are those that belong to it; where the decay ratio δ = σ₂/σ₁ is near 1 there is no "
            "one leading direction, and an alignment means little.",
            "The gain along the residual direction is nearly 0 behind a norm on the input: a norm does not see "
            "the length of what it norms, but for its eps. Its rounding is that of ρ: in float32 take no digits "
            "below 1e-6 ρ.",
            "The kind of a token is decided by the tokenizer's own marks of where words begin, and by its text: "
            "special, white space, punctuation, the start of a word, or its continuation.",
        ),
        numbers="jacspec.studies.coupling.page:coupling_numbers",
        sentences="jacspec.studies.coupling.findings:coupling_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
