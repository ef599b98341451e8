"""Finished runs of one study beside each other, and how sure their differences are."""

import dataclasses

from jacspec.studies.study import MISSING, RUNS, Page, Quantity, Study


@dataclasses.dataclass
class CompareOptions:
    """Which run the others are held against, and how often it is drawn; see conf/task/compare.yaml."""

    against: int = MISSING
    draws: int = MISSING


WELCH = "Student 1908; Welch 1947"

COMPARED: dict[str, Quantity] = {
    "difference": Quantity(
        "difference of means", "mean over units of the run − that of the run it is held against", ""
    ),
    "low": Quantity("lower end", "of the interval of 95 %, Student's over units, unpaired Welch's", WELCH),
    "high": Quantity("upper end", "its other end", WELCH),
    "p_value": Quantity(
        "p",
        "chance of so large a difference: Student's t over units, unpaired Welch's",
        WELCH,
    ),
    "q_value": Quantity(
        "q", "p adjusted for all tests of the table: the false discovery rate", "Benjamini & Hochberg 1995"
    ),
    "floor": Quantity(
        "noise floor",
        "of pairs: what |difference| comes to with the sign of each pair's drawn at random, exceeded by 5 % of draws; "
        "of others what the means of two random halves of one run differ by, exceeded by 5 % of splits, the larger of "
        "both",
        "Good 2005, Permutation, Parametric and Bootstrap Tests",
    ),
}
"""What the columns of `differences.csv` hold."""


DIFFERENCES_FILE, RUNS_FILE, HEADS_FILE = "differences.csv", "runs.csv", "heads.csv"

HEAD_COLUMNS = (
    *("run", "role", "layer", "head"),
    *("element_std", "lambda_0", "lambda_sum", "lambda_square_sum", "spectral_entropy"),
)
"""Of `heads.csv`: which head, and what is drawn of it against the elements of its product."""

STUDY = Study(
    name="compare",
    run="jacspec.studies.compare.run:run_compare",
    options=CompareOptions,
    inputs=frozenset({"runs"}),
    reads=frozenset({"compare", "seed"}),
    takes=("seed",),
    rows=RUNS,
    columns=COMPARED,
    files={
        "runs.csv": "the runs that are compared, and which each is compared with",
        "differences.csv": "differences by layer: interval, p-value, noise floor",
        "heads.csv": "of runs of `heads`, what one figure draws of every head of all runs",
        "spectra.nc": "of runs of `weights` or `overlap`, the profiles of all matrices of all runs (netCDF)",
    },
    figures="jacspec.studies.compare.figures:compare_figures",
    page=Page(
        title="compared",
        reading=(
            "A curve is the mean of each layer over its units (samples, heads, or the one matrix of a role) "
            "against relative depth: 0 the first layer of a stack, 1 the last. Runs that differ by their seed "
            "alone are one line, their spread a band.",
            "A difference is that of two means. Its interval and p-value are Student's, of the differences of pairs "
            "where both runs have the same units, else Welch's. "
            "Units are samples or heads of one trained model: q says nothing of a model trained from another seed. "
            "Layers of models of different "
            "depth are held against the nearest in relative depth.",
            "The noise floor of pairs is what their mean difference comes to when the sign of each is drawn at random, "
            "of others what two random halves of one run differ by, exceeded by 5 % of draws: a difference within it "
            "says nothing. q is the p-value adjusted for all tests of the table. None is given of fewer than 6 units.",
        ),
        findings="jacspec.studies.compare.figures:compare_sections",
        sentences="jacspec.studies.compare.findings:compare_findings",
        caution="Intervals of 95 % over samples or heads; they say nothing of a model trained from another seed.",
        picture_bytes=2500000,
    ),
    resumable=False,
)
