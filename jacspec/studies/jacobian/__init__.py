"""Spectra of every layer's Jacobians, one component at a time."""

from jacspec.studies.study import SAMPLES, Page, Study

STUDY = Study(
    name="jacobian",
    run="jacspec.studies.jacobian.run:run_jacobian",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed"}),
    takes=(
        "components",
        "layers",
        "metrics",
        "top_k",
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
    columns=("jacspec.spectra.metrics:METRICS",),
    figures="jacspec.report.figures:sample_figures",
    page=Page(
        title="spectra of Jacobians",
        reading=(
            "A sample is one sentence (or line) of the corpus. For each sample, layer and component, the "
            "Jacobian says how a small change of the residual stream at the last token changes the component's "
            "output there; the other tokens are held fixed.",
            "A box holds the middle half of the samples, the line in it is the median, the whiskers reach to "
            "the last sample within 1.5 interquartile ranges of the box, and circles are the samples beyond.",
            "The spectral radius ρ here is the largest singular value σ₁ of the Jacobian, as in the paper's eq. "
            "7: a norm, the greatest gain that any small change can have. It is not an eigenvalue.",
            "A small decay ratio δ = σ₂/σ₁ means concentration: one direction dominates the layer's response. "
            "Near 1, at least two directions are passed on equally strongly.",
            "A component that adds nothing, as one with a projection of zeros, has ρ = 0 and no ratios (–): the "
            "last column of metrics.csv says why, and a distribution counts the samples that have a value.",
        ),
    ),
    shareable=True,
)
