"""`report.html` of a run over weight matrices or heads."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from jacspec.report.explorer import explore
from jacspec.report.facts import what_was_run
from jacspec.report.heads import head_figures
from jacspec.report.html import define, list_files, show_figure, show_figures, write_page
from jacspec.report.labels import metric_title, model_name, number_format
from jacspec.report.markup import Markup, element, section, together
from jacspec.report.matrices import matrix_figures
from jacspec.report.overlap import overlap_figures
from jacspec.runs import QUANTILES, Run

if TYPE_CHECKING:
    import pandas

CAPTIONS: Mapping[str, str] = {
    "metrics": "Each metric against the layer, a line a role.",
    "spectra": "Singular values of each role, a line a layer; dashed, the edges of the Marchenko–Pastur bulk.",
    "bulk": "Singular values over s√N of all layers, with the Marchenko–Pastur law of the bulk; ticks mark the values "
    "beyond its edges, above and below.",
    "bulk_of_layer": "The same for one layer (weights.show_layer).",
    "tails": "The share of λ = σ² at or above x in one layer, and the power law fitted from x_min on.",
    "one_matrix": "One matrix: singular values, cumulative variance, eigenvalues of its Gram matrix.",
    "lambda": "λ of every head by index, each head divided by its mean: a row a head.",
    "density": "How the λ of every head, divided by their mean, are distributed: a row a head; dashed, the edges that "
    "the product of two Gaussian factors has.",
    "grid": "Singular values of every head of one layer, with the median of the Gaussian baseline.",
    "by_head": "Largest λ, normalised participation ratio, entropy and condition number of every head, with the mean "
    "of each layer and what chance gives (its mean and three standard deviations).",
    "entropy_npr": "Spectral entropy against normalised participation ratio, a point a head.",
    "overlap": "O_k = max_j |v_k · f_j| of the right singular vectors with the principal directions of what enters the "
    "matrix, by index: a line a layer, black their mean; grey, what random directions have (mean and 99 %). Inset: the "
    "singular values, with the edges of the Marchenko–Pastur bulk, dashed.",
    "variance": "Variance of what enters the matrix along its right singular vectors, over that of an average "
    "direction, by index: a line a layer, black their mean; 1 is what random directions have on average.",
    "elements": "Spectral quantities against the standard deviation of the elements of the product, a point a head.",
}
READING = {
    "weights": "A matrix W (out, in) has singular values σ and λ = σ², without a factor of 1/N. What entries drawn at "
    "random give is the Marchenko–Pastur law between its two edges; values beyond them, above or below, are what "
    "training put there. A missing value (–) has its reason in the last column of metrics.csv.",
    "overlap": "Each weight matrix reads along its right singular vectors v_k. What enters it, at every token of the "
    "samples, varies along the principal directions f_j of its covariance (means removed). O_k is the largest "
    "|v_k · f_j|; where eigenvalues of the covariance tie, their directions are arbitrary and O_k with them, the "
    "relative variance n v_kᵀ C v_k / tr C is not. Few tokens make both those of the sample.",
    "heads": "Of each head, qk is W_Qᵀ W_K, which scores pairs of positions, and ov is W_O W_V, which carries what "
    "is read; both have d_head singular values. Rotations of rotary models, biases and query–key norms are left out: "
    "they stand between the two factors.",
}


FIGURES: Mapping[str, Callable[[Run], Mapping[str, Callable[[], Figure]]]] = {
    "weights": matrix_figures,
    "heads": head_figures,
    "overlap": overlap_figures,
}
TITLES = {
    "weights": "weight matrices",
    "heads": "attention heads",
    "overlap": "weight matrices beside the activations that enter them",
}


def write_matrix_page(run: Run) -> Path:
    """Draw the figures of a run over matrices or heads and write its page."""
    task = str(run.provenance["task"])
    figures = FIGURES[task](run)
    title = f"{model_name(run)}: {TITLES[task]}"
    terms = element("dl", together(map(define, run.metric_names), "\n"))
    sections = (
        together(
            (element("h1", title), element("p", f"jacspec task={task} · {len(run.metrics)} matrices", class_="quiet"))
        ),
        what_was_run(run),
        section(
            "How to read it", element("p", READING[task]), element("details", element("summary", "The columns"), terms)
        ),
        explore([(model_name(run), run)]),
        show_figures(run, _figures(run, figures)),
        section("Numbers", element("p", "By role: the median over its matrices, with the quartiles."), *_tables(run)),
        list_files(run),
    )
    return write_page(run, title, sections)


def _figures(run: Run, names: Iterable[str]) -> Iterable[Markup]:
    for name in names:
        caption = next(CAPTIONS[key] for key in sorted(CAPTIONS, key=len, reverse=True) if name.startswith(key))
        yield show_figure(run, name, caption, caption)


def _tables(run: Run) -> Iterable[Markup]:
    whole = run.summary[run.summary["layer"].isna()]
    roles = list(dict.fromkeys(whole["component"]))
    head = element("tr", element("th", "metric", scope="col"), *(element("th", role, scope="col") for role in roles))
    body = together(
        (_row(name, roles, whole[whole["metric"] == name].set_index("component")) for name in run.metric_names), "\n"
    )
    table = element("table", element("thead", head), "\n", element("tbody", body), class_="numbers")
    yield element("div", table, class_="scroll")


def _row(name: str, roles: Sequence[str], rows: "pandas.DataFrame") -> Markup:
    write = number_format(rows[[*QUANTILES]].to_numpy(float).ravel().tolist())
    cells = (
        element(
            "td", f"{write(rows.loc[role, 'median'])} [{write(rows.loc[role, 'q1'])}, {write(rows.loc[role, 'q3'])}]"
        )
        for role in roles
    )
    return element("tr", element("th", metric_title(name), scope="row"), *cells)
