"""What was found of Fisher spectra: along which singular values the loss is sensitive, and how concentrated F is."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from jacspec.report.findings import Interval, median_interval, more_than_chance
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many

ENDS = ("top", "middle", "bottom")

LOW = 0.01
"""The share of draws of independent directions whose participation ratio is below `fisher_participation_low`."""


def fisher_findings(run: Run) -> Iterator[str]:
    """Say where the loss is more sensitive than along random pairs, which end matters in which role, how F is spread.

    A tenth counts where S − 1 is beyond its error over samples and the spread of random pairs together (normal, one
    sided, q-values over all matrices and tenths). Intervals of roles are over layers.
    """
    if "fisher_trace" not in run.metric_names:
        return
    table = run.metrics.dropna(subset=["sensitivity_top"])
    if table.empty:
        return
    columns = {name: table[name].to_numpy(np.float64) for name in run.metric_names}
    p_values = np.array([_p_values(columns, end) for end in ENDS])
    counts = (adjust_for_many(p_values.ravel()).reshape(p_values.shape) < SURE).sum(axis=1)
    medians = [median_interval(columns[f"sensitivity_{end}"]) for end in ENDS]
    yield (
        f"The loss is {medians[0]} times as sensitive along the largest tenth of the singular values as along random "
        f"pairs of directions, {medians[1]} times along the middle tenth and {medians[2]} times along the smallest "
        f"(medians over {len(table)} matrices); beyond errors it is more sensitive than there in {counts[0]}, "
        f"{counts[1]} and {counts[2]} of them (q below {SURE})."
    )
    yield from _by_role(run)
    crossed = median_interval(columns["sensitivity_bottom"] / columns["crossed_bottom"])
    if crossed.excludes(1.0):
        yield (
            f"Along the smallest tenth it is {crossed} times as sensitive to the singular pairs as to the same "
            "directions paired otherwise."
        )
    below = int((columns["fisher_participation"] < columns["fisher_participation_low"]).sum())
    spread, chance = (float(np.median(columns[f"fisher_participation{end}"])) for end in ("", "_chance"))
    samples = int(columns["fisher_samples"].max())
    yield (
        f"The gradients of {samples} samples spread over {spread:.3g} directions in the median matrix (participation "
        f"ratio of the Fisher spectrum), independent ones of the same norms over {chance:.3g}; "
        + (
            f"in {below} of {len(table)} matrices over fewer than one in 100 of these."
            if more_than_chance(below, len(table), LOW)
            else "in no more matrices than by chance over fewer."
        )
    )


def _p_values(columns: dict[str, Float[np.ndarray, " matrix"]], end: str) -> Float[np.ndarray, " matrix"]:
    from scipy.special import ndtr

    error = np.hypot(columns[f"sensitivity_{end}_error"], columns["sensitivity_spread"])
    found: np.ndarray = ndtr((1 - columns[f"sensitivity_{end}"]) / error)
    return found


def _by_role(run: Run) -> Iterator[str]:
    """Say in which roles the smallest tenth is more, or less, sensitive than the middle, over layers."""
    found: dict[str, Interval] = {}
    for role, rows in run.metrics.groupby("role", sort=False):
        found[str(role)] = median_interval(rows["sensitivity_ratio"].to_numpy(np.float64))
    for words, sure in (
        ("more", {role: each for role, each in found.items() if each.low > 1}),
        ("less", {role: each for role, each in found.items() if each.high < 1}),
    ):
        if sure:
            listed = ", ".join(f"{each} times in {role}" for role, each in sure.items())
            yield (
                f"It is {words} sensitive along the smallest tenth than along the middle one: {listed} (medians over "
                "layers)."
            )
