"""How compatible checkpoints of one architecture are, and one merged from them in HF layout."""

from jacspec.studies.study import Page, Rows, Study

STUDY = Study(
    name="merge",
    run="jacspec.studies.merge.run:run_merge",
    options="jacspec.studies.merge.options:MergeOptions",
    reads=frozenset({"merge", "precision"}),
    takes=("memory_gib", "precision"),
    rows=Rows("experiments", "comparisons of a matrix"),
    columns=("jacspec.studies.merge.columns:COMPATIBILITY",),
    figures="jacspec.studies.merge.figures:merge_figures",
    page=Page(
        title="spectral compatibility",
        reading=(
            "Each row compares a weight matrix of two checkpoints, A (first) and B (second). weights: the "
            "matrices themselves. tasks: the task vectors of two models, what each added to the common base. "
            "task-base: a model's task vector (first) beside the base's own weights (second). Task vectors "
            "whose leading subspaces overlap no more than chance act on other directions and add up "
            "undisturbed; a large overlap with a cosine near 1 is the same change twice, one with a cosine near "
            "0 or below it a conflict in the same directions. A leading subspace is only as well determined as "
            "the gap behind it. Fused matrices are there in parts and whole. Layer −1 stands for matrices "
            "outside the blocks; a missing value (–) belongs to a matrix of zeros.",
        ),
    ),
)
