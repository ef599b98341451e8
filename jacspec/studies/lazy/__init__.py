"""Groups of singular values removed from small networks that learnt lazily or not."""

from jacspec.studies.study import EXPERIMENTS, Page, Study

STUDY = Study(
    name="lazy",
    run="jacspec.studies.lazy.run:run_lazy",
    options="jacspec.studies.lazy.options:LazyOptions",
    reads=frozenset({"lazy", "layers", "precision", "seed"}),
    takes=("precision", "seed"),
    rows=EXPERIMENTS,
    columns=("jacspec.studies.lazy.columns:LAZY",),
    figures="jacspec.studies.lazy.figures:lazy_figures",
    page=Page(
        title="singular values in the lazy and the rich regime",
        reading=(
            "The network is trained so that α (f(x; w) − f₀(x)) fits the targets, f₀ being the network it began "
            "as. At large α the weights hardly move. A group of singular values of both hidden weights is "
            "removed before training (before), or after it from the trained network alone (after), or after it "
            "from the trained network and f₀ alike (both): with f₀ held fixed, α multiplies also what the "
            "removal takes from the initial network, which no training put there.",
        ),
    ),
)
