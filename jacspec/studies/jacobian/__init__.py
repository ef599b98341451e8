"""Spectra of every layer's Jacobians, one component at a time."""

from jacspec.studies.study import ENGINE_OPTIONS, READ_SAMPLES, SAMPLE_CAUTION, SAMPLES, TEXT_OPTIONS, Page, Study

STUDY = Study(
    name="jacobian",
    run="jacspec.studies.jacobian.run:run_jacobian",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed"}),
    takes=("components", "layers", "metrics", "top_k", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    figures="jacspec.report.figures:sample_figures",
    page=Page(
        title="spectra of Jacobians",
        reading=READ_SAMPLES,
        sentences="jacspec.report.findings:sample_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
