"""What is said of singular values beyond the edges of Marchenko and Pastur's law: how far, and what they overlap with.

The claims of "Small Singular Values Matter": some roles lie further beyond than others (Figures 1 and 2), and singular
vectors of what lies beyond have a higher overlap O_k with the activations' principal directions (Figures 3, 4, 9, 10).
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jacspec.report.findings import median_interval
from jacspec.spectra.significance import SURE, adjust_for_many

if TYPE_CHECKING:
    import pandas

SIDES = {"above": "above the upper edge", "below": "below the lower edge"}


def overlaps_beyond(
    sigma: Float[np.ndarray, "matrix k"],
    overlap: Float[np.ndarray, "matrix k"],
    low: Float[np.ndarray, " matrix"],
    high: Float[np.ndarray, " matrix"],
) -> "pandas.DataFrame":
    """Compare O_k beyond each edge with O_k between the edges, by matrix.

    `matrix`, `side`, `difference` of the means, and `q_value` of Mann and Whitney's test that those beyond are higher,
    over all matrices and sides; no row where nothing lies beyond or between. Of singular vectors in random directions
    the O_k of a matrix have one distribution, whatever their σ.
    """
    import pandas
    from scipy.stats import mannwhitneyu

    rows = []
    for matrix in np.flatnonzero(high > 0).tolist():
        known = np.isfinite(sigma[matrix]) & np.isfinite(overlap[matrix])
        value, own = sigma[matrix][known], overlap[matrix][known].astype(np.float64)
        above, below = value > high[matrix], value < low[matrix]
        within = own[~(above | below)]
        for side, beyond in (("above", own[above]), ("below", own[below])):
            if beyond.size and within.size:
                p_value = float(mannwhitneyu(beyond, within, alternative="greater").pvalue)
                rows.append((matrix, side, float(beyond.mean() - within.mean()), p_value))
    found = pandas.DataFrame(rows, columns=["matrix", "side", "difference", "q_value"])
    return found.assign(q_value=adjust_for_many(found["q_value"].to_numpy(np.float64)))


def say_overlaps_beyond(found: "pandas.DataFrame", roles: Sequence[str]) -> Iterator[str]:
    """Say in how many matrices O_k is higher beyond the edges than between them, and of which roles.

    **Arguments:** `found`, from `overlaps_beyond`; `roles`, of its matrices.
    """
    said = []
    for side, words in SIDES.items():
        own = found[found["side"] == side]
        if own.empty:
            said.append(f"{words} no matrix has values")
            continue
        sure = own[own["q_value"] < SURE]
        names = np.asarray(roles)[own["matrix"].to_numpy()]
        by_role = [
            f"{role} {mine} of {int((names == role).sum())}, by {change:.2g}"
            for role in dict.fromkeys(names.tolist())
            for mine, change in [_count(own, sure, names == role)]
            if mine
        ]
        listed = f" ({'; '.join(by_role)})" if by_role else ""
        those = f"{len(own)} {'matrix' if len(own) == 1 else 'matrices'} with values there"
        said.append(f"{words} in {len(sure) or 'none'} of {those}{listed}")
    if len(found):
        listed = ", ".join(said)
        yield f"O_k is higher beyond Marchenko–Pastur's edges than within, {listed} (rank tests, q below {SURE})."


def _count(own: "pandas.DataFrame", sure: "pandas.DataFrame", mine: np.ndarray) -> tuple[int, float]:
    """Count the matrices of a role where O_k is higher, and take the median of how much."""
    rows = own[mine]
    chosen = rows[rows.index.isin(sure.index)]
    return len(chosen), float(chosen["difference"].median())


def say_spectra_beyond(table: "pandas.DataFrame") -> Iterator[str]:
    """Say how far beyond Marchenko–Pastur's edge the roles of one model reach, and in how many layers one goes further.

    **Arguments:** `table`, a row a matrix: `role`, `layer`, `ratio` of the largest σ to the upper edge, and `beyond`,
    the number of σ beyond what its own norms give, missing where that is not known.
    """
    from scipy.stats import binomtest

    ratios = {str(role): rows.groupby("layer")["ratio"].max() for role, rows in table.groupby("role", sort=False)}
    ratios = dict(sorted(ratios.items(), key=lambda each: -each[1].median()))
    if not ratios:
        return
    counts = table.groupby("role")["beyond"].median()
    words = []
    for role, values in ratios.items():
        interval = median_interval(values.to_numpy(np.float64))
        number = f"{interval}" if np.isfinite(interval.low) else f"{interval.value:.3g}"
        beyond = f", {counts[role]:.3g} values beyond its own norms" if np.isfinite(counts[role]) else ""
        words.append(f"{role} {number}{beyond}")
    layers = table["layer"].nunique()
    yield (
        f"The largest σ over Marchenko–Pastur's upper edge, {'medians over layers' if layers > 1 else 'one layer'}: "
        f"{'; '.join(words)}."
    )
    pairs = []
    for one, other in itertools.combinations(ratios, 2):
        both = (ratios[one] - ratios[other]).dropna()
        larger, smaller = int((both > 0).sum()), int((both < 0).sum())
        if larger + smaller > 1:
            p_value = float(binomtest(larger, larger + smaller).pvalue)
            pairs.append(f"in {one} than in {other} in {larger} of {len(both)} layers (sign test, p = {p_value:.1g})")
    if pairs:
        yield f"It is larger {', '.join(pairs)}."
