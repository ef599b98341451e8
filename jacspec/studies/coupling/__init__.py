"""Jacobians beside the weights they are made of, and which layers read what others write."""

from jacspec.studies.study import SAMPLES, Page, Study

STUDY = Study(
    name="coupling",
    run="jacspec.studies.coupling.run:run_coupling",
    options="jacspec.studies.coupling.options:CouplingOptions",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed", "coupling"}),
    takes=(
        "components",
        "samples",
        "split",
        "min_tokens",
        "max_tokens",
        "position",
        "decoder_input",
        "engine",
        "tolerance",
        "audit",
        "memory_gib",
        "devices",
        "batch",
        "precision",
        "seed",
    ),
    rows=SAMPLES,
    columns=("jacspec.studies.coupling.columns:COUPLING", "jacspec.spectra.metrics:METRICS"),
    files={
        "coupling.csv": "which component reads what another writes: a row a pair, over samples",
        "kinds.csv": "spectral radius and residual gain by kind of the last token",
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
    ),
    shareable=True,
)
