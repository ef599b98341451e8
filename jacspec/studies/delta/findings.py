"""What was found of a change to a base: how large, whether it has directions, and whether these are new."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jacspec.report.findings import count_once, say_trend
from jacspec.report.labels import number_format
from jacspec.runs import Run
from jacspec.spectra.random_matrix import largest_p_value
from jacspec.spectra.significance import SURE, adjust_for_many


def delta_findings(run: Run) -> Iterator[str]:
    """Say how large the change is and where, in how many matrices it is no noise, and where leading vectors are new."""
    table, words = count_once(run.metrics)
    changed = table[table["norm_delta"] > 0]
    if changed.empty:
        yield f"Nothing was changed: all of {len(table)} matrices{words and words + ','} are those of the base."
        return
    relative = changed["relative"].dropna()
    if relative.size:
        ends = [changed.loc[relative.idxmin()], changed.loc[relative.idxmax()]]
        write = number_format([*relative.quantile([0, 0.5, 1])], digits=(3, 2))
        low, high = (f"{write(row['relative'])} ({row['role']}, layer {row['layer']})" for row in ends)
        yield (
            f"{len(changed)} of {len(table)} matrices{words and words + ','} were changed, the median one by "
            f"{write(relative.median())} of its norm, from {low} to {high}."
        )
    sure = adjust_for_many(np.array([noise_p_value(row) for row in changed.to_dict("records")])) < SURE
    if not sure.any():
        yield f"In none of them σ₁ of the change is larger than independent noise of its size gives (q below {SURE})."
    else:
        yield (
            f"In {sure.sum()} of them σ₁ of the change is larger than independent noise of its size gives (q below "
            f"{SURE}): in the median of these {changed.loc[sure, 'structure'].median():.3g} times that."
        )
        new = changed[sure & (changed["intruders_left"] + changed["intruders_right"] > 0).to_numpy()]
        if len(new):
            roles = ", ".join(f"{role} {count}" for role, count in new["role"].value_counts().items())
            yield f"{len(new)} of these have intruders among their leading singular vectors: {roles}."
        else:
            yield "None of these has an intruder among its leading singular vectors."
    inside = changed[changed["layer"] >= 0]
    by_role = {str(role): rows.set_index("layer")["relative"] for role, rows in inside.groupby("role", sort=False)}
    yield from say_trend("the relative change", by_role)


def noise_p_value(row: Mapping[str, Any]) -> float:
    r"""Return the chance of so large a σ₁ of the change if its entries were independent noise of one variance.

    The sides follow from $\|\Delta W\|_F = s\sqrt{NM}$ and the edge $s(\sqrt N + \sqrt M)$.
    """
    noise = row["noise"]
    product, total = row["norm_delta"] / noise, row["noise_edge"] / noise
    gap = max(total**2 - 4 * product, 0.0) ** 0.5
    sides = round(((total - gap) / 2) ** 2), round(((total + gap) / 2) ** 2)
    return largest_p_value(row["spectral_delta"], sides, noise**2)
