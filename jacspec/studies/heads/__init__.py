"""Spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors."""

from jacspec.studies.study import Page, Rows, Study

STUDY = Study(
    name="heads",
    run="jacspec.studies.heads.run:run_heads",
    options="jacspec.studies.heads.options:HeadsOptions",
    inputs=frozenset({"model"}),
    reads=frozenset({"model", "metrics", "heads", "layers", "precision", "seed"}),
    takes=("layers", "precision", "seed"),
    rows=Rows("matrices", "matrices", ("role", "layer", "head")),
    columns=("jacspec.studies.heads.columns:HEADS", "jacspec.spectra.metrics:METRICS"),
    console=("npr_lambda", "kappa_sigma"),
    figures="jacspec.studies.heads.figures:head_figures",
    page=Page(
        title="attention heads",
        reading=(
            "Of each head, qk is W_Qᵀ W_K, which scores pairs of positions, and ov is W_O W_V, which carries "
            "what is read; both have d_head singular values. Rotations of rotary models, biases and query–key "
            "norms are left out: they stand between the two factors.",
        ),
    ),
)
