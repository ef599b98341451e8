"""Spectra of a checkpoint's weight matrices, by role, beside chance."""

from jacspec.studies.study import MATRICES, Page, Study

STUDY = Study(
    name="weights",
    run="jacspec.studies.weights.run:run_weights",
    options="jacspec.studies.weights.options:WeightsOptions",
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "weights", "layers", "precision", "seed"}),
    takes=("layers", "metrics", "top_k", "memory_gib", "precision", "seed"),
    rows=MATRICES,
    columns=("jacspec.studies.weights.columns:STATIC", "jacspec.spectra.metrics:METRICS"),
    console=("spectral_radius", "stable_rank", "alpha", "outliers_above", "outliers_below"),
    figures="jacspec.studies.weights.figures:matrix_figures",
    page=Page(
        title="weight matrices",
        reading=(
            "A matrix W (out, in) has singular values σ and λ = σ², without a factor of 1/N. What entries drawn "
            "at random give is the Marchenko–Pastur law between its two edges; values beyond them, above or "
            "below, are what training put there. A missing value (–) has its reason in the last column of "
            "metrics.csv.",
        ),
    ),
)
