"""Figures of a run over weight matrices: metrics by layer, spectra by role, the bulk beside chance, tails."""

import functools

from jacspec.runs import Run
from jacspec.studies.study import Plot
from jacspec.studies.weights.depth import check_depth
from jacspec.studies.weights.figures.bulk import OF_BULK, OF_LAYER, draw_bulk
from jacspec.studies.weights.figures.by_layer import OF_METRICS, OF_THIRDS, draw_metrics, draw_thirds
from jacspec.studies.weights.figures.eigenvalues import OF_EIGENVALUES, draw_eigenvalues, square_rows
from jacspec.studies.weights.figures.shown import shown_layer
from jacspec.studies.weights.figures.spectra import OF_ONE, OF_SPECTRA, OF_TAILS, draw_one, draw_spectra, draw_tails
from jacspec.studies.weights.figures.vectors import (
    OF_PARTICIPATION,
    OF_SPACINGS,
    OF_VECTORS,
    draw_spacings,
    draw_vectors,
)

FIRST = ("spectral_radius", "decay_ratio", "alpha", "norms_above", "norms_largest_p", "norms_smallest_p")
"""The metrics that are drawn unasked: norm, ratio, tail, and what is beyond chance."""

PANELS_A_FIGURE = 12

BESIDE_OTHERS = ("_null", "_null_low", "_null_high", "_error", "_q")
"""What names of columns end in that have no panel of their own."""


def matrix_figures(run: Run) -> dict[str, Plot]:
    """Name the figures of a `task=weights` run: the metrics, spectra, chance, tails, one matrix.

    `metrics` has `FIRST`; the others, a dozen a figure, are drawn on request.
    """
    there = [name for name in run.metric_names if run.metrics[name].notna().any() and not name.endswith(BESIDE_OTHERS)]
    first = [name for name in FIRST if name in there]
    rest = [name for name in there if name not in first]
    pages = [rest[start : start + PANELS_A_FIGURE] for start in range(0, len(rest), PANELS_A_FIGURE)]
    named = {"metrics": first, **{f"metrics_{number}": names for number, names in enumerate(pages, 2)}}
    draw = {name: functools.partial(draw_metrics, run, names) for name, names in named.items() if names}
    figures = {
        name: Plot(drawn, OF_METRICS, explored=True, on_request=name != "metrics") for name, drawn in draw.items()
    }
    layer = shown_layer(run)
    if "left_p" in run.dataset:
        figures |= {
            "vectors": Plot(lambda: draw_vectors(run, "p", 0.5), OF_VECTORS),
            "participation": Plot(lambda: draw_vectors(run, "participation", 1.0), OF_PARTICIPATION),
        }
    if "brody" in run.metrics:
        figures["spacings"] = Plot(lambda: draw_spacings(run), OF_SPACINGS)
    if "eigenvalues" in run.dataset and run.metrics["ring_share"].notna().any():
        figures["eigenvalues"] = Plot(lambda: draw_eigenvalues(run, square_rows(run)), OF_EIGENVALUES)
    if "alpha" in run.metrics and check_depth(run.metrics) is not None:
        figures["thirds"] = Plot(lambda: draw_thirds(run), OF_THIRDS, on_request=True)
    return figures | {
        "spectra": Plot(lambda: draw_spectra(run), OF_SPECTRA),
        "bulk": Plot(lambda: draw_bulk(run, None), OF_BULK),
        "bulk_of_layer": Plot(lambda: draw_bulk(run, layer), OF_LAYER),
        "tails": Plot(lambda: draw_tails(run, layer), OF_TAILS),
        "one_matrix": Plot(lambda: draw_one(run, layer), OF_ONE),
    }
