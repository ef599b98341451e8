"""What page and console show of a run of experiments."""

from typing import TYPE_CHECKING, NamedTuple

from jacspec.runs import Run

if TYPE_CHECKING:
    import pandas

LAYER = "layer"


class ShownRows(NamedTuple):
    """A table to show: its key columns, its rows, and what they are where they are not those of `metrics.csv`."""

    keys: list[str]
    table: "pandas.DataFrame"
    note: str


def shown_rows(run: Run, *, over: tuple[str, ...]) -> ShownRows:
    """Take every row; where a layer is among the keys, so that there are hundreds, medians over the keys `over`."""
    keys = list(run.provenance["key_columns"])
    if LAYER not in keys:
        return ShownRows(keys, run.metrics, "")
    kept = [key for key in keys if key not in over]
    groups = run.metrics.groupby(kept, sort=False, dropna=False)
    medians = groups[list(run.metric_names)].median().reset_index()
    return ShownRows(kept, medians, f"medians over {' and '.join(f'{key}s' for key in over)}")
