"""What was found of weight matrices, in a few sentences: how many are beyond each null, and how many by chance."""

from collections.abc import Iterator

from jacspec.axes import BASE, UPDATE
from jacspec.report.labels import number_format
from jacspec.runs import Run
from jacspec.spectra.bootstrap import SURE, adjust_for_many
from jacspec.studies.weights import LEADING

COUNTED = 0.01
"""How many values a null has on average beyond the edge from which they are counted."""


def matrix_findings(run: Run) -> Iterator[str]:
    """Say which matrix is strongest, how many are beyond the nulls, and which tails are heavier than chance's.

    A p-value counts where its q-value over all matrices (Benjamini & Hochberg) is below `SURE`.
    """
    table = run.metrics[~run.metrics["role"].str.endswith((BASE, UPDATE))]  # an adapter's sums stand for themselves
    columns = set(run.metric_names)
    if "spectral_radius" in columns and table["spectral_radius"].notna().any():
        ends = [table.loc[find()] for find in (table["spectral_radius"].idxmax, table["spectral_radius"].idxmin)]
        write = number_format([float(end["spectral_radius"]) for end in ends], digits=(3,))
        words = [f"{write(float(end['spectral_radius']))} ({end['role']}, {end['name']})" for end in ends]
        yield f"The largest singular value σ₁ of {len(table)} matrices runs from {words[1]} to {words[0]}."
    for column, null in (
        ("largest_p", "independent entries of one variance give"),
        ("norms_largest_p", "independent entries with the matrix's own row and column norms give"),
    ):
        if column in columns and (tested := table[column].dropna()).size:
            sure = int((adjust_for_many(tested.to_numpy(float)) < SURE).sum())
            yield f"σ₁ is larger than {null} in {sure} of {len(tested)} matrices (q below {SURE})."
    if "intruders_left" in columns and (counts := table["intruders_left"].dropna()).size:
        yield (
            f"Of {len(counts)} matrices that the adapter changed, {int((counts > 0).sum())} have an intruder among "
            f"their first {LEADING} left singular vectors, {int(counts.sum())} in all; the worst match with one of "
            f"the base's is |cos| = {table['least_match_left'].min():.2g}."
        )
    if "norms_above" in columns and (counts := table["norms_above"].dropna()).size:
        roles = table.loc[counts.index].groupby("role", sort=False)["norms_above"].median()
        listed = ", ".join(f"{role} {count:g}" for role, count in roles.items())
        yield (
            "Beyond what such norms explain are, in the median matrix of each role, so many singular values: "
            f"{listed}; by chance {COUNTED:g} a matrix."
        )
    if "outliers_above" in columns and (missing := int(table["outliers_above"].isna().sum())):
        yield f"{missing} of {len(table)} matrices have no bulk of one variance, so that nothing is counted beyond it."
    if {"alpha", "alpha_null_low"} <= columns:
        known = table.dropna(subset=["alpha", "alpha_null_low"])
        below = int((known["alpha"] < known["alpha_null_low"]).sum())
        if len(known):
            yield (
                f"The tail exponent α is below that of 95 % of Gaussian matrices of the same shape in {below} of "
                f"{len(known)} matrices; by chance in {0.05 * len(known):.1f}."
            )
