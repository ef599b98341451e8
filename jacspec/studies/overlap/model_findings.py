"""What was found of matrices beside the linear model of learned noise."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from jacspec.report.findings import median_interval
from jacspec.runs import Run

if TYPE_CHECKING:
    import pandas


def model_findings(run: Run) -> Iterator[str]:
    """Say the exponents by role, whose law is nearer, what lies below the edge, and where the smallest values read."""
    if "energy_exponent" not in run.metric_names:
        return
    known = run.metrics.dropna(subset=["energy_exponent"])
    if known.empty:
        return
    roles = {str(role): rows for role, rows in known.groupby("role", sort=False)}
    listed = [f"{role} {_interval(rows['energy_exponent'], '+.2f')}" for role, rows in roles.items()]
    falling, rising = known["energy_exponent_low"] > 0, known["energy_exponent_high"] < 0
    yield (
        f"Energies along directions of the data are like their variance to the power −β, with a median β of, by role: "
        f"{', '.join(listed)}; in {falling.sum()} of {len(known)} matrices it is above 0, as learnt noise has it, in "
        f"{rising.sum()} below 0 (the matrix amplifies what varies most), beyond intervals of 95 %."
    )
    held = known.dropna(subset=["distance_model"])
    if held.empty:
        return
    nearer = held["distance_model"] < held["distance_plain"]
    yield (
        f"The law that β gives is nearer to the spectrum than Marchenko–Pastur's in {nearer.sum()} of {len(held)} "
        f"matrices (median distance {held['distance_model'].median():.3f} and {held['distance_plain'].median():.3f}), "
        f"and within {held['distance_chance'].median():.3f}, which 5 % of random matrices exceed, in "
        f"{(held['distance_model'] < held['distance_chance']).sum()}."
    )
    yield _small_end(held)


def _small_end(held: "pandas.DataFrame") -> str:
    """Say what is below the edge, and what the smallest tenth gives the output beside the middle."""
    output, below = [], []
    for role, rows in held.groupby("role", sort=False):
        model, given, chance = (rows[f"small_output_{name}"].median() for name in ("model", "given", "chance"))
        output.append(
            f"{role} {_interval(rows['small_output'], '.2g')} (model {model:.2g}, given the strong directions "
            f"{given:.2g}, chance {chance:.2g})"
        )
        if len(edges := rows.dropna(subset=["below_found"])):
            found, model, given = (edges[f"below_{name}"].sum() for name in ("found", "model", "given"))
            below.append(f"{role} {found:.0f} (model {model:.0f}, given the strong directions {given:.0f})")
    return (
        f"The tenth of the smallest σ gives the output this many times what the fifth tenth gives (medians): "
        f"{', '.join(output)}."
        + (f" Below the lower edge of Marchenko–Pastur lie {', '.join(below)} values." if below else "")
    )


def _interval(values: "pandas.Series", style: str) -> str:
    found = median_interval(values.to_numpy(np.float64))
    if not np.isfinite(found.low):
        return f"{found.value:{style}}"
    return f"{found.value:{style}} ({found.low:{style}} to {found.high:{style}})"
