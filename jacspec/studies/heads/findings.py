"""What was found of attention heads: which are more concentrated than products of Gaussian factors, and where."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import say_trend
from jacspec.report.labels import lookup
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many

CONCENTRATION = "npr_lambda"

NULLS = {
    "norms": "Gaussian factors with the head's own row and column norms",
    "turned": "the head's own factors, turned to one another at random,",
}
"""Nulls of a head of its own, where a run has their q-values."""


def head_findings(run: Run) -> Iterator[str]:
    """Count the heads whose spectrum is more concentrated than chance's, and say how that changes with depth.

    A head counts where its q-value over all heads of its role is below `SURE`; the p-value is Student's, with the mean
    and the spread of the draws of the baseline.
    """
    from scipy.special import stdtr

    chance, draws = (lookup(run.provenance, f"baseline.{name}") for name in (f"metrics.{CONCENTRATION}", "draws"))
    if not chance or CONCENTRATION not in run.metric_names:
        return
    level = f"{chance['mean']:.3f} ± {chance['sd']:.3f}"
    known = run.metrics.dropna(subset=[CONCENTRATION])
    for role, rows in known.groupby("role", sort=False):
        spread = chance["sd"] * (1 + 1 / draws) ** 0.5
        below = (rows[CONCENTRATION].to_numpy(np.float64) - chance["mean"]) / spread
        sure = adjust_for_many(stdtr(draws - 1, below)) < SURE
        if not sure.any():
            yield (
                f"No head's {role} is more concentrated than products of Gaussian factors are (NPR_λ {level} by "
                f"chance, q below {SURE})."
            )
            continue
        least = rows.loc[rows[CONCENTRATION].idxmin()]
        yield (
            f"The spectrum of {role} is more concentrated than that of products of Gaussian factors in {sure.sum()} of "
            f"{len(rows)} heads (q below {SURE}): in the median head NPR_λ is {rows[CONCENTRATION].median():.3f}, in "
            f"{least['name']} least, {least[CONCENTRATION]:.3f}; by chance {level}."
        )
    for null, words in NULLS.items():
        column = f"{null}_largest_q"
        if column in run.metric_names and (tested := run.metrics.dropna(subset=[column])).size:
            counts = (tested[column] < SURE).groupby(tested["role"], sort=False).agg(["sum", "size"])
            listed = ", ".join(f"{role} {row['sum']} of {row['size']}" for role, row in counts.iterrows())
            yield f"σ₁ is larger than {words} give in so many heads (q below {SURE}): {listed}."
    by_role = {str(role): rows.set_index("layer")[CONCENTRATION] for role, rows in known.groupby("role", sort=False)}
    yield from say_trend("the median NPR_λ of a layer's heads", by_role)
