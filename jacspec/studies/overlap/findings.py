"""What was found of weights beside activations: whether they read where their input varies, beyond chance."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.beyond import overlaps_beyond, say_overlaps_beyond
from jacspec.report.findings import median_interval, say_trend
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.studies.overlap import HEAD_ROLES
from jacspec.studies.overlap.fisher_findings import fisher_findings
from jacspec.studies.overlap.model_findings import model_findings

BEYOND = 0.01
"""The share of random directions that a level leaves beyond it."""

LEVELS = {
    "beyond_null": "random directions",
    "beyond_norms": "random directions with the matrix's column norms",
}


def overlap_findings(run: Run) -> Iterator[str]:
    """Count the matrices that read along principal directions beyond chance, and say how much their input varies there.

    Of a matrix with K singular values chance has Bin(K, 1 %) beyond the level; q-values are over all matrices.
    """
    from scipy.special import betainc

    for column, chance in LEVELS.items():
        if column not in run.metric_names or (table := run.metrics.dropna(subset=[column])).empty:
            continue
        counts = table[["rows", "cols"]].min(axis=1).to_numpy(np.float64)
        beyond = np.round(table[column].to_numpy(np.float64) * counts)
        sure = adjust_for_many(np.where(beyond > 0, betainc(beyond, counts - beyond + 1, BEYOND), 1.0)) < SURE
        if sure.any():
            yield (
                f"In {sure.sum()} of {len(table)} matrices more singular vectors lie along a principal direction of "
                f"what enters than {chance} would (q below {SURE}): in the median matrix "
                f"{table[column].median():.0%} of them, by chance {BEYOND:.0%}."
            )
        else:
            yield (
                f"In none of {len(table)} matrices more singular vectors lie along a principal direction than {chance} "
                "would."
            )
    yield from _beyond(run)
    said = []
    for end in ("top", "bottom"):
        variance = median_interval(run.metrics[f"variance_{end}"].to_numpy(np.float64))
        if variance.excludes(1.0):
            said.append(
                f"along the tenth of the {'largest' if end == 'top' else 'smallest'} σ {variance} times as much"
            )
    if said:
        yield f"What enters varies {' and '.join(said)} as along an average direction (medians over matrices)."
    yield from _of_heads(run)
    yield from _dimensions(run)
    yield from fisher_findings(run)
    yield from model_findings(run)
    by_role = {
        str(role): rows.set_index("layer")["overlap_top"] for role, rows in run.metrics.groupby("role", sort=False)
    }
    yield from say_trend("mean O_k of the tenth of the largest σ", by_role)


def _beyond(run: Run) -> Iterator[str]:
    """Say where O_k is higher beyond Marchenko–Pastur than within; nothing of runs from before these columns."""
    if "mp_high" in run.metric_names:
        profiles = (run.dataset[name].values for name in ("singular_values", "overlap"))
        edges = (run.metrics[name].to_numpy(np.float64) for name in ("mp_low", "mp_high"))
        yield from say_overlaps_beyond(overlaps_beyond(*profiles, *edges), run.metrics["role"].astype(str).tolist())


def _dimensions(run: Run) -> Iterator[str]:
    """Say the intrinsic dimension of what enters each role, and where it is below that of Gaussian points."""
    if "input_dimension" not in run.metric_names:
        return
    known = run.metrics[run.metrics["head"].isna()].dropna(subset=["input_dimension", "gaussian_dimension"])
    middle = known.groupby("role", sort=False)[["input_dimension", "gaussian_dimension", "cols"]].median()
    listed = [
        f"{role} {row.input_dimension:.3g} of {row.cols:g} (Gaussian points {row.gaussian_dimension:.3g})"
        for role, row in middle.iterrows()
    ]
    below = int((known["input_dimension_high"] < known["gaussian_dimension_low"]).sum())
    if listed:
        yield (
            f"Two nearest neighbours give what enters the median layer an intrinsic dimension of, by role: "
            f"{', '.join(listed)}; in {below} of {len(known)} matrices it is below that of Gaussian points with the "
            "same covariance, beyond both intervals."
        )


def _of_heads(run: Run) -> Iterator[str]:
    """Say of heads whether their smallest σ are rounding, and how much their input varies along those that are not."""
    if "rounding_share" not in run.metric_names:
        return
    for role, rows in run.metrics.groupby("role", sort=False):
        if not str(role).endswith(tuple(HEAD_ROLES)):
            continue
        known = rows["rounding_share"].dropna()
        kept = rows.loc[known.index[known < 1], "variance_last"].dropna()
        words = (
            f"{role}: the smallest σ of {len(rows) - len(known)} of {len(rows)} heads is zero to rounding in float64"
        )
        words += f", of {int((known >= 1).sum())} within the rounding of the stored weights"
        if len(kept):
            variance = median_interval(kept.to_numpy(np.float64))
            words += (
                f"; along that of the other {len(kept)} the input has {variance} times the variance of an average "
                "direction (median)"
            )
        yield f"{words}."
