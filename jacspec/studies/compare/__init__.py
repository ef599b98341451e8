"""Finished runs of one study beside each other, how sure their differences are, and what goes with models' quality."""

import dataclasses

from jacspec.studies.study import MISSING, RUNS, Page, Quantity, Study


@dataclasses.dataclass
class CompareOptions:
    """Which run the others are held against, how often it is drawn, what quality is; see conf/task/compare.yaml."""

    against: int = MISSING
    draws: int = MISSING
    quality: str | None = MISSING
    characters: int = MISSING


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

SCORES = "Boudt, Cornelissen & Croux 2012, Stat. Comput. 22, 471"

LANE = "Freedman & Lane 1983; Winkler et al. 2014"

JUDGED: dict[str, Quantity] = {
    "quality": Quantity(
        "quality",
        "what metrics are correlated with: nats a byte of the text, −Σ ln p over the bytes of the tokens that are "
        "predicted, or the number of the table",
        "",
    ),
    "parameters": Quantity("parameters", "of the checkpoint, tied ones once; or of the table", ""),
    "perplexity": Quantity(
        "perplexity",
        "exp of the mean −ln p of a token, where the text was scored: of models of one tokenizer its ln goes with "
        "nats a byte",
        "HF, Perplexity of fixed-length models",
    ),
    "perplexity_error": Quantity(
        "s.e. of perplexity", "standard error over chunks of the text", "Cochran 1977, Sampling Techniques, ch. 6"
    ),
    "tokens": Quantity("tokens", "tokens that were predicted", ""),
    "bytes": Quantity("bytes", "bytes of them", ""),
}
"""Columns of `quality.csv`, a row a model."""

CORRELATED: dict[str, Quantity] = {
    "models": Quantity("models", "models that have the metric and a quality", ""),
    "rank_correlation": Quantity(
        "rank correlation", "of metric and quality: Pearson's of the normal scores of their ranks", SCORES
    ),
    "rank_low": Quantity("lower end", "of its interval of 95 %", "Fisher 1921"),
    "rank_high": Quantity("upper end", "its other end", "Fisher 1921"),
    "rank_p": Quantity(
        "p",
        "share of the orders of the models that give as large a correlation: all of up to 8 models, else as many as "
        "`compare.draws`; missing where none could be below 0.05, as of 4 models",
        "Good 2005, Permutation, Parametric and Bootstrap Tests",
    ),
    "rank_q": Quantity("q", "the false discovery rate over all rows of the table", "Benjamini & Hochberg 1995"),
    "least_p": Quantity("least p", "the smallest p that any order of so many models has", ""),
    "with_size": Quantity("with size", "rank correlation of the metric and the number of parameters", SCORES),
    "given_size": Quantity(
        "given size",
        "rank correlation of metric and quality, of both scores less what a straight line in those of the number of "
        "parameters says",
        SCORES,
    ),
    "given_low": Quantity("lower end, given size", "of its interval of 95 %", "Fisher 1924"),
    "given_high": Quantity("upper end, given size", "its other end", "Fisher 1924"),
    "given_p": Quantity(
        "p given size",
        "share of the orders of the residuals, fitted anew, that give as large a correlation; from 6 models on",
        LANE,
    ),
    "given_q": Quantity("q given size", "the false discovery rate over all rows", "Benjamini & Hochberg 1995"),
    "given_least_p": Quantity("least p given size", "the smallest that any order has", ""),
}
"""Columns of `correlations.csv`, a row a metric of a component or role, or of all matrices."""

DIFFERENCES_FILE, RUNS_FILE, HEADS_FILE = "differences.csv", "runs.csv", "heads.csv"

BYTES = "nats_per_byte"
"""What quality is called where models were scored here."""

QUALITY_FILE, VALUES_FILE, CORRELATIONS_FILE = "quality.csv", "values.csv", "correlations.csv"

HEAD_COLUMNS = (
    *("run", "role", "layer", "head"),
    *("element_std", "lambda_0", "lambda_sum", "lambda_square_sum", "spectral_entropy"),
)
"""Of `heads.csv`: which head, and what is drawn of it against the elements of its product."""

STUDY = Study(
    name="compare",
    run="jacspec.studies.compare.run:run_compare",
    options=CompareOptions,
    inputs=frozenset({"runs", "text"}),
    reads=frozenset({"compare", "data", "seed"}),
    takes=("memory_gib", "seed"),
    rows=RUNS,
    columns=COMPARED | JUDGED | CORRELATED,
    files={
        "runs.csv": "the runs that are compared, and which each is compared with",
        "differences.csv": "differences by layer: interval, p-value, noise floor",
        "quality.csv": "with compare.quality: each model's quality and size",
        "values.csv": "with it: each metric of each whole model",
        "correlations.csv": "with it: which metrics go with quality, and which given size",
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
            "Where quality is given, a rank correlation says whether the models with more of a metric are the better "
            "ones, and given size whether they still are among models as large. Models are the unit: with 4 of them "
            "no p is below 0.05, and with few no metric passes that is one of many. Checkpoints of one training are "
            "no independent models.",
        ),
        findings="jacspec.studies.compare.figures:compare_sections",
        sentences="jacspec.studies.compare.findings:compare_findings",
        caution="Intervals of 95 % over samples or heads, which say nothing of a model trained from another seed; of "
        "rank correlations, over models.",
        picture_bytes=2500000,
    ),
    resumable=False,
)
