"""Singular vectors of every weight matrix beside the activations that enter it."""

from jacspec.studies.study import MATRICES, Page, Study

STUDY = Study(
    name="overlap",
    run="jacspec.studies.overlap.run:run_overlap",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "engine", "layers", "precision", "seed"}),
    takes=(
        "layers",
        "samples",
        "split",
        "min_tokens",
        "max_tokens",
        "position",
        "decoder_input",
        "memory_gib",
        "precision",
        "seed",
    ),
    rows=MATRICES,
    columns=("jacspec.studies.overlap.columns:OVERLAP",),
    console=("tokens", "overlap_top", "overlap_bottom", "overlap_null_99", "variance_top"),
    figures="jacspec.studies.overlap.figures:overlap_figures",
    page=Page(
        title="weight matrices beside the activations that enter them",
        reading=(
            "Each weight matrix reads along its right singular vectors v_k. What enters it, at every token of "
            "the samples, varies along the principal directions f_j of its covariance (means removed). O_k is "
            "the largest |v_k · f_j|; where eigenvalues of the covariance tie, their directions are arbitrary "
            "and O_k with them, the relative variance n v_kᵀ C v_k / tr C is not. Few tokens make both those of "
            "the sample.",
        ),
    ),
)
