"""What is drawn and said of whole models: the metrics that go most with their quality, plain and given their size."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jacspec.report.figures import uses_log_axis
from jacspec.report.findings import Interval
from jacspec.report.labels import (
    NO_VALUE,
    component_words,
    metric_label,
    metric_title,
    metric_words,
    model_name,
    number_format,
    upper_first,
)
from jacspec.report.markup import Markup, fold, section
from jacspec.report.plotting import COLOURS, add_grid, add_names, label_log
from jacspec.report.tables import table
from jacspec.runs import Run
from jacspec.runs.rows import WHOLE_MODEL
from jacspec.spectra.rank_correlation import best_by_chance, residual_scores
from jacspec.spectra.significance import SURE
from jacspec.studies.compare import BYTES, CORRELATIONS_FILE, QUALITY_FILE, VALUES_FILE

if TYPE_CHECKING:
    import pandas

DRAWN, SAID = 3, 3
"""Metrics that are drawn, and of which a sentence is said."""

MARKERS = "osD^vPX"
LEGEND_LINES = 28


def leading_metrics(run: Run) -> "pandas.DataFrame":
    """Order the metrics by how sure their correlation with quality is: given size where all of it is known."""
    whole = run.table(CORRELATIONS_FILE)
    by = "given" if whole["given_p"].notna().any() else "rank"
    value = {"given": "given_size", "rank": "rank_correlation"}[by]
    found = whole[whole[value].notna()]
    order = found.assign(size=found[value].abs()).sort_values([f"{by}_p", "size"], ascending=[True, False])
    return order.drop(columns="size")


def quality_words(run: Run) -> str:
    """Name what quality is."""
    name = str(run.provenance["quality"]["name"])
    return "nats a byte" if name == BYTES else metric_words(name)


def caption(run: Run) -> str:
    """Say what is drawn, and how large a correlation the best of so many metrics has by chance."""
    found, models = run.table(CORRELATIONS_FILE), len(run.table(QUALITY_FILE))
    tested = int(found["rank_correlation"].notna().sum())
    best = f"{best_by_chance(models, tested):.2f}" if models > 3 and tested else "–"
    below = ""
    if found["given_size"].notna().any():
        below = " Below, both given the number of parameters: normal scores of ranks less what those of size say."
    words = f" Of {tested} independent metrics that say nothing the best has |r| above {best} in half of cases."
    if run.provenance["quality"]["series"]:
        words = " Some of these are revisions or seeds of one model: q does not hold for them."
    return (
        f"{upper_first(quality_words(run))} against the metrics that go with it most, of {tested}, a point a model."
        f"{below}{words}"
    )


def draw_quality(run: Run) -> Figure:
    """Draw quality against the leading metrics, a column a metric, and below it what is left of both given size."""
    leading, quality = leading_metrics(run).head(DRAWN), run.table(QUALITY_FILE)
    values = run.table(VALUES_FILE).set_index(["component", "metric"])
    rows = 1 + int(leading["given_size"].notna().any())
    figure = Figure(figsize=(2.6 + 3.0 * len(leading), 0.9 + 2.7 * rows), layout="constrained")
    axes = figure.subplots(rows, len(leading), squeeze=False)
    for column, found in enumerate(leading.to_dict("records")):
        own = values.loc[[(found["component"], found["metric"])]].set_index("model")["value"].dropna()
        judged = quality.set_index("model").loc[own.index]
        panel, name = axes[0, column], str(found["metric"])
        _scatter(panel, own.to_numpy(float), judged["quality"].to_numpy(float), judged, log=True)
        panel.set_xlabel(_label(run, str(found["component"]), name), fontsize="small")
        panel.set_title(_words("r", found, "rank"), fontsize="small")
        if rows == 1:
            continue
        below = axes[1, column]
        if np.isfinite(found["given_size"]):
            sizes = judged["parameters"].to_numpy(float)
            across, up = (residual_scores(each.to_numpy(float), sizes) for each in (own, judged["quality"]))
            _scatter(below, across, up, judged)
            below.set_title(_words("given size, r", found, "given"), fontsize="small")
            below.set_xlabel("the metric, given size", fontsize="small")
    axes[0, 0].set_ylabel(quality_words(run), fontsize="medium")
    if rows > 1:
        axes[1, 0].set_ylabel(f"{quality_words(run)}, given size", fontsize="medium")
    figure.suptitle(f"{model_name(run)}: quality by {run.provenance['quality']['source']}", fontsize="medium")
    if len(quality) <= LEGEND_LINES:
        add_names(figure, axes[0, 0].get_legend_handles_labels()[0])
    return figure


def _label(run: Run, component: str, metric: str) -> str:
    words = ", all matrices" if component == WHOLE_MODEL else f", {component_words(component)}"
    return f"{metric_label(run, metric)}{words}"


def _words(what: str, found: Mapping[Any, Any], by: str) -> str:
    """Write a correlation and its q; a q that is missing is left out."""
    value = found["given_size" if by == "given" else "rank_correlation"]
    q_value = found[f"{by}_q"]
    written = f"{value:+.2f}".replace("-", "−")
    return f"{what} = {written}" + (f", q = {q_value:.2g}" if np.isfinite(q_value) else "")


def _scatter(panel: Axes, x: np.ndarray, y: np.ndarray, judged: "pandas.DataFrame", *, log: bool = False) -> None:
    for model, across, up in zip(judged.index, x, y, strict=True):
        colour, marker = COLOURS[model % len(COLOURS)], MARKERS[model // len(COLOURS) % len(MARKERS)]
        panel.plot(across, up, marker, color=colour, markersize=5, label=str(judged["label"][model]))
    add_grid(panel)
    panel.tick_params(labelsize="small")
    if log and x.min() > 0 and uses_log_axis(x):
        panel.set_xscale("log")
        label_log(panel.xaxis)
    else:
        panel.xaxis.set_major_locator(MaxNLocator(5))
    if log and y.min() > 0 and uses_log_axis(y):
        panel.set_yscale("log")
        label_log(panel.yaxis)


def quality_tables(run: Run) -> Markup:
    """Write each model's quality and size, and of each metric its correlations, the surest first."""
    models = run.table(QUALITY_FILE)
    write = number_format(models["quality"].tolist())
    known = [f"{size:,.0f}" if np.isfinite(size) else NO_VALUE for size in models["parameters"].tolist()]
    rows = zip(models["label"], map(write, models["quality"]), known, strict=True)
    listed = [_row(run, found) for found in leading_metrics(run).to_dict("records")]
    head = ("metric", "models", "rank correlation", "q", "with size", "given size", "q given size")
    return section(
        "What goes with quality",
        fold(table(("model", quality_words(run), "parameters"), rows), len(models), "models"),
        fold(table(head, listed), len(listed), "metrics"),
    )


def _row(run: Run, found: Mapping[Any, Any]) -> Sequence[object]:
    plain, given = (
        Interval(*(found[key] for key in keys))
        for keys in (("rank_correlation", "rank_low", "rank_high"), ("given_size", "given_low", "given_high"))
    )
    q_values = (f"{found[key]:.2g}" if np.isfinite(found[key]) else NO_VALUE for key in ("rank_q", "given_q"))
    size = f"{found['with_size']:.2f}" if np.isfinite(found["with_size"]) else NO_VALUE
    where = "" if found["component"] == WHOLE_MODEL else f", {component_words(str(found['component']))}"
    name = f"{metric_title(run, str(found['metric']))}{where}"
    return (name, found["models"], _written(plain), next(q_values), size, _written(given), next(q_values))


def quality_findings(run: Run) -> Iterator[str]:
    """Say how many metrics go with quality, how many given size, and of which; and where too few models can tell."""
    found, models = run.table(CORRELATIONS_FILE), len(run.table(QUALITY_FILE))
    known = found[found["rank_q"].notna()]
    head = f"Of {models} models the quality is {quality_words(run)} ({run.provenance['quality']['source']})"
    if known.empty:
        yield f"{head}; {models} are too few to say which metric goes with it."
        return
    sure = known[known["rank_q"] < SURE]
    given = found[found["given_q"].notna()]
    also = given[given["given_q"] < SURE]
    size = f", {len(also)} of {len(given)} given the number of parameters" if len(given) else ""
    best = best_by_chance(models, len(known))
    yield (
        f"{head}. {len(sure)} of {len(known)} metrics go with it in rank (q below {SURE}){size}; of so many that say "
        f"nothing the best would have |r| above {best:.2f} in half of cases."
    )
    if series := run.provenance["quality"]["series"]:
        yield (
            f"{series} of the models are revisions or seeds of another one of them, so that q is no evidence here: "
            "what changes along one training goes with all else that does."
        )
    for found in (
        (also if len(also) else sure).sort_values("given_p" if len(also) else "rank_p").head(SAID).to_dict("records")
    ):
        yield _sentence(run, found)


def _sentence(run: Run, found: Mapping[Any, Any]) -> str:
    """Say of a metric whether models with more of it have more or less, with intervals."""
    where = "" if found["component"] == WHOLE_MODEL else f" of {component_words(str(found['component']))}"
    name = metric_title(run, str(found["metric"])).partition(" = ")[0]
    plain = Interval(*(found[key] for key in ("rank_correlation", "rank_low", "rank_high")))
    given = Interval(*(found[key] for key in ("given_size", "given_low", "given_high")))
    more = "more" if plain.value > 0 else "fewer" if quality_words(run).startswith("nats") else "less"
    beside = f"; given size {_written(given)}" if np.isfinite(given.value) else ""
    return (
        f"Models with more {name}{where} have {more} {quality_words(run)}: rank correlation {_written(plain)}{beside}."
    )


def _written(value: Interval) -> str:
    """Write a correlation with its interval, where it has one."""
    if np.isfinite(value.low):
        return str(value)
    return f"{value.value:.3g}" if np.isfinite(value.value) else NO_VALUE
