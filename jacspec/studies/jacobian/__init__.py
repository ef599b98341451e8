"""Spectra of every layer's Jacobians, one component at a time."""

from jacspec.studies.study import (
    ENGINE_OPTIONS,
    READ_SAMPLES,
    SAMPLE_CAUTION,
    SAMPLES,
    TEXT_OPTIONS,
    Page,
    Quantity,
    Study,
)

STUDY = Study(
    name="jacobian",
    run="jacspec.studies.jacobian.run:run_jacobian",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "metrics", "engine", "components", "layers", "precision", "seed"}),
    takes=("components", "layers", "metrics", "top_k", *TEXT_OPTIONS, *ENGINE_OPTIONS),
    rows=SAMPLES,
    columns={
        "router_margin": Quantity(
            r"$\Delta r / \|\nabla \Delta r\|$",
            "how far the stream that enters a mixture of experts is from where its router chooses others, to first "
            "order: the lead of the last expert chosen over the first that is not, over the length of its gradient; "
            "of models with experts alone, and missing where a component has no router",
            "the Jacobian is that of the experts that were chosen",
            "of the residual stream",
        )
    },
    figures="jacspec.report.figures:sample_figures",
    page=Page(
        title="spectra of Jacobians",
        reading=READ_SAMPLES,
        sentences="jacspec.report.findings:sample_findings",
        caution=SAMPLE_CAUTION,
    ),
    shareable=True,
)
