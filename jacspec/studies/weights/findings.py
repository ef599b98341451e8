"""What was found of weight matrices, in a few sentences: how many are beyond each null, and how many by chance."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from jacspec.axes import BASE, UPDATE
from jacspec.report.findings import count_once
from jacspec.report.labels import number_format
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.studies.weights.columns import LEADING
from jacspec.studies.weights.depth import FUSED, check_depth
from jacspec.studies.weights.verdicts import HEAVIER, RANGES, REJECTED, THIRDS

if TYPE_CHECKING:
    import pandas

COUNTED = 0.01
"""How many values a null has on average beyond the edge from which they are counted."""


def matrix_findings(run: Run) -> Iterator[str]:
    """Say which matrix is strongest, how many are beyond the nulls, and which tails are heavier than chance's.

    A p-value counts where its q-value over all matrices (Benjamini & Hochberg) is below `SURE`. A fused matrix counts
    by its parts.
    """
    table = run.metrics[~run.metrics["role"].str.endswith((BASE, UPDATE))]  # an adapter's sums stand for themselves
    table, parts = count_once(table)
    columns = set(run.metric_names)
    if "spectral_radius" in columns and table["spectral_radius"].notna().any():
        ends = [table.loc[find()] for find in (table["spectral_radius"].idxmax, table["spectral_radius"].idxmin)]
        write = number_format([float(end["spectral_radius"]) for end in ends], digits=(3,))
        words = [f"{write(float(end['spectral_radius']))} ({end['role']}, {end['name']})" for end in ends]
        matrices = f"{len(table)} matrices{parts and parts + ','}"
        yield f"The largest singular value σ₁ of {matrices} runs from {words[1]} to {words[0]}."
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
    yield from _verdicts(table)
    yield from _depth(table)
    yield from _quality(table)
    yield from _on_request(table)


def _verdicts(table: "pandas.DataFrame") -> Iterator[str]:
    """Count the verdicts on α that are beyond chance."""
    if "verdict" not in table:
        return
    known = (word.split(", ") for word in table["verdict"].dropna())
    ranges = Counter(name for name, relation in known if relation == HEAVIER)
    if ranges:
        listed = ", ".join(f"{name} in {ranges[name]}" for _, name in RANGES if ranges[name])
        yield (
            f"Where α is below chance's it is {listed}. WeightWatcher calls 2 to 6 well trained, less over-trained, "
            "more under-trained; the merging document calls below 2 heavy-tailed, above 4 thin-tailed."
        )


def _depth(table: "pandas.DataFrame") -> Iterator[str]:
    """Say whether α falls through thirds of the depth, and how many are in the ranges given, beside other orders."""
    if "alpha" not in table or (check := check_depth(table)) is None:
        return
    write = number_format(check.means, digits=(3,))
    early, middle, late = map(write, check.means)
    falls = check.fall_p < SURE and check.fall.value > 0
    verdict = "it falls with depth" if falls else "it rises with depth" if check.fall_p < SURE else "no fall with depth"
    ranges = ", ".join(f"{least:g} to {most:g}" for _, least, most in THIRDS)
    yield (
        f"In thirds of the depth α is {early} early, {middle} in the middle and {late} late, means of {check.layers} "
        f"layers: {verdict} (p = {check.fall_p:.2g}, over orders of the layers). In the ranges that the merging "
        f"document gives for them ({ranges}) are {check.within} of {check.matrices} matrices; with the layers in "
        f"another order {check.within_chance:.1f} (p = {check.within_p:.2g})."
    )


def _quality(table: "pandas.DataFrame") -> Iterator[str]:
    """Say the whole model's α and α log λ₁ beside those of Gaussian matrices."""
    columns = ["alpha", "alpha_null", "alpha_weighted", "alpha_weighted_null"]
    if not set(columns) <= set(table) or not len(known := table[~table["role"].isin(FUSED)][columns].dropna()):
        return
    alpha, null, weighted, other = known.mean()
    yield (
        f"Over the whole model α is {alpha:.3g} on average and α log₁₀ λ₁ {weighted:.3g}, where Gaussian matrices of "
        f"these shapes and variances have {null:.3g} and {other:.3g}. WeightWatcher predicts by them which of several "
        "models of one architecture tests better: of one model they say nothing."
    )


def _on_request(table: "pandas.DataFrame") -> Iterator[str]:
    """Say what `weights.extra` found, beside what chance gives."""
    if "power_p" in table and (known := table["power_p"].dropna()).size:
        yield (
            f"A power law is ruled out (p < {REJECTED}) as the law of the tail in {int((known < REJECTED).sum())} of "
            f"{known.size} matrices; of true power laws in {REJECTED * known.size:.1f}. A lognormal is likelier "
            f"(p < {SURE}) in {_likelier(table, 'lognormal')}, an exponential in {_likelier(table, 'exponential')}; "
            f"where neither is, in {SURE / 2 * known.size:.1f}. A cut-off is in {_likelier(table, 'truncated')}, of "
            f"true power laws in at most {SURE * known.size:.1f}."
        )
    if "num_traps" in table and (known := table["num_traps"].dropna()).size:
        yield (
            f"Large entries alone, in any order, lift a singular value out of the bulk in {int((known > 0).sum())} of "
            f"{known.size} matrices; by chance in {COUNTED * known.size:.1f}."
        )
    if "vectors_p01" in table and (known := table["vectors_p01"].dropna()).size:
        norms = table.get("vectors_p01_norms", known * float("nan")).median()
        yield (
            f"Of the singular vectors of the median matrix {known.median():.1%} are beyond random directions at 1 %; "
            f"of independent entries with its row and column norms {norms:.1%}."
        )
    if "ring_share" in table and len(known := table.dropna(subset=["ring_share"])):
        middle = known[["ring_share", "rotated_ring_share", "henrici_departure", "positive_share"]].median()
        yield (
            f"Of {len(known)} square matrices the median has {middle['ring_share']:.1%} of its eigenvalues in the null "
            f"ring, {middle['rotated_ring_share']:.1%} after random rotations, and {middle['positive_share']:.1%} on "
            "the right of the plane, by chance 50 %; its departure from normality is "
            f"{middle['henrici_departure']:.2f}."
        )
    if "spacing_ratio" in table and (known := table["spacing_ratio"].dropna()).size:
        yield (
            f"Neighbouring singular values have a mean spacing ratio of {known.median():.3f} in the median matrix; "
            "those of random matrices 0.531, without repulsion 0.386."
        )


def _likelier(table: "pandas.DataFrame", law: str) -> int:
    ratio, p_value = f"against_{law}", f"against_{law}_p"
    return int(((table[ratio] < 0) & (table[p_value] < SURE)).sum()) if ratio in table and p_value in table else 0
