"""What singular values matter, by how much worse a text is predicted without them."""

from jacspec.studies.study import EXPERIMENTS, Page, Study

STUDY = Study(
    name="removal",
    run="jacspec.studies.removal.run:run_removal",
    options="jacspec.studies.removal.options:RemovalOptions",
    inputs=frozenset({"model", "text"}),
    reads=frozenset({"model", "data", "engine", "removal", "layers", "precision", "seed"}),
    takes=("memory_gib", "precision", "seed"),
    rows=EXPERIMENTS,
    columns=("jacspec.studies.removal.columns:REMOVAL",),
    figures="jacspec.studies.removal.figures:removal_figures",
    page=Page(
        title="perplexity without groups of singular values",
        reading=(
            "Each row is the model without one group of the rank-ordered singular values of every matrix of its "
            "target (a role in all layers, or all roles in a layer); group 1 holds the largest. The perplexity "
            "is that of a text in sliding windows, every token scored once; of encoders it is the "
            "pseudo-perplexity, each token masked in turn. Standard errors are over chunks of the text; that of "
            "a change is paired, the same chunks with and without the group, and says how far another part of "
            "the text may differ, not whether one group differs from another.",
        ),
    ),
)
