"""Finished runs of one study beside each other, and how sure their differences are."""

from jacspec.studies.study import RUNS, Page, Study

STUDY = Study(
    name="compare",
    run="jacspec.studies.compare.run:run_compare",
    options="jacspec.studies.compare.options:CompareOptions",
    inputs=frozenset({"runs"}),
    reads=frozenset({"compare", "layers", "precision", "seed"}),
    takes=("seed",),
    rows=RUNS,
    columns=("jacspec.studies.compare.columns:COMPARED",),
    files={
        "runs.csv": "the runs that are compared, and which each is compared with",
        "differences.csv": "differences by layer: interval, p-value, noise floor",
    },
    figures="jacspec.studies.compare.figures:compare_figures",
    page=Page(
        title="compared",
        reading=(
            "A curve is the mean of each layer over its units (samples, heads, or the one matrix of a role) "
            "against relative depth: 0 the first layer of a stack, 1 the last. Runs that differ by their seed "
            "alone are one line, their spread a band.",
            "A difference is that of two means. Its interval and p-value come from a bootstrap over units, "
            "drawn together for both runs where the units are the same (paired). Layers of models of different "
            "depth are held against the nearest in relative depth.",
            "The noise floor is what two random halves of one run differ by, exceeded by 5 % of splits: a "
            "difference within it says nothing. q is the p-value adjusted for all tests of the table.",
        ),
        findings="jacspec.studies.compare.page:compare_findings",
        sentences="jacspec.studies.compare.page:compare_sentences",
        picture_bytes=2500000,
    ),
    resumable=False,
)
