"""What the page of `task=jacobian` says of the profile over depth, from `depth.csv` and `branches.csv`."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from jacspec.report.findings import GAIN, Interval
from jacspec.report.labels import component_words
from jacspec.report.markup import Markup, element, section
from jacspec.report.tables import table
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.studies.jacobian import BRANCHES_FILE, DEPTH_FILE

if TYPE_CHECKING:
    import pandas

PHASES = 3
HEAD = ("gain", "first layer", "last layer", "pairs as high", "phases begin at", "explained", "p")
READ_DEPTH = (
    "The gain of the first and of the last layer over that of those between, geometric means. Pairs as high: the share "
    "of all pairs of layers whose gains together are those of the first and the last at least; a U has few. Phases are "
    "the cut in three that leaves the least squares of ln ρ about the mean of each; a first phase begins at the first "
    "layer. What they explain of the variance between layers is placed among the layers in any order (first p), and "
    "among red noise (second p), which drifts over depth as this profile does but has no steps. In brackets, intervals "
    "of 95 % over samples. The cut in two is in depth.csv."
)


def depth_sections(run: Run) -> Iterator[Markup]:
    """Write the table of the gain over depth, where the run has one."""
    rows = depth_rows(run)
    if rows is not None and len(rows):
        body = ((component_words(row["component"]), *_cells(row)) for row in rows.to_dict("records"))
        yield section("Over depth", element("p", READ_DEPTH), table(HEAD, body))


def depth_rows(run: Run) -> "pandas.DataFrame | None":
    """Read the rows of three phases; None where the run has no such table."""
    if not (run.folder / DEPTH_FILE).is_file():
        return None
    rows = run.table(DEPTH_FILE)
    return rows[rows["phases"] == PHASES]


def _cells(row: dict[Any, Any]) -> Iterator[str]:
    for name in ("first", "last"):
        yield str(_interval(row, name))
    yield f"{row['pairs_as_high']:.0%}"
    yield _say_starts(row)
    yield f"{row['explained']:.0%}"
    yield f"{row['p_order']:.3f}, {row['p_red_noise']:.3f}"


def _interval(row: dict[Any, Any], name: str) -> Interval:
    return Interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _say_starts(row: dict[Any, Any]) -> str:
    """Write where the second and the third phase begin, with what resampled samples give where that differs."""
    columns = (str(row[name]).split() for name in ("starts", "starts_low", "starts_high"))
    said = (f"{start} ({low} to {high})" if low != high else start for start, low, high in zip(*columns, strict=True))
    return " and ".join(said)


def claim_findings(run: Run) -> Iterator[str]:
    """Say whether the gain over depth is a U, whether it has three phases, and which branch is more concentrated."""
    rows = depth_rows(run)
    if rows is not None and len(rows):
        yield from _phases(rows)
    if (run.folder / BRANCHES_FILE).is_file():
        yield from _concentration(run.table(BRANCHES_FILE))


def _phases(rows: "pandas.DataFrame") -> Iterator[str]:
    """Call phases found where they explain more than layers in any order and more than a drift does."""
    worse = rows[["p_order", "p_red_noise"]].max(axis=1).to_numpy(float)
    pairs = adjust_for_many(rows["pairs_as_high"].to_numpy(float))
    phases = adjust_for_many(worse)
    for row, q_pairs, q in zip(rows.to_dict("records"), pairs, phases, strict=True):
        name = component_words(row["component"])
        first, last = (_interval(row, end) for end in ("first", "last"))
        if min(first.low, last.low) > 1 and q_pairs < SURE:
            yield (
                f"The gain of {name} is a U over depth: that of the first layer is {first} times, that of the last "
                f"{last} times that of the layers between, and of all pairs of layers {row['pairs_as_high']:.1%} are "
                "as high."
            )
        if q < SURE:
            yield (
                f"In three phases, which begin at layers {_say_starts(row)}, ln ρ of {name} is explained better "
                f"({row['explained']:.0%} of its variance over layers) than in any order of the layers and than a "
                f"drift of its own autocorrelation is (q = {q:.2g})."
            )
    drifts = [component_words(each) for each, p in zip(rows["component"], phases, strict=True) if p >= SURE]
    if drifts:
        yield f"Of {' and '.join(drifts)} three phases are not told from a drift over depth, or from none at all."


def _concentration(table: "pandas.DataFrame") -> Iterator[str]:
    """Count the layers in which σ₂/σ₁ of attention is below that of its MLP, and above."""
    ratios = table[table["metric"] != GAIN]
    for stack, rows in ratios.groupby(ratios["stack"].astype(object).fillna(""), sort=False):
        sure = rows[rows["q_value"] < SURE]
        lower, higher = (int(count.sum()) for count in (sure["ratio"] > 1, sure["ratio"] < 1))
        where = f" of the {stack}" if stack else ""
        if lower or higher:
            yield (
                f"Attention is more concentrated (smaller σ₂/σ₁) than the MLP of its layer in {lower} of {len(rows)} "
                f"layers{where}, less in {higher}, paired by sample (q below {SURE})."
            )
