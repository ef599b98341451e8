"""What was found of modes: how many have a direction, what samples share beyond chance, what layers hand on."""

from collections.abc import Iterator

import numpy as np
import pandas

from jacspec.report.findings import FEWEST, Interval, places
from jacspec.report.labels import component_words
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many
from jacspec.studies.modes import BETWEEN_FILE, CHECK_FILE, MODES_FILE, SHARED_FILE, WORDS_FILE
from jacspec.studies.modes.check_page import check_findings
from jacspec.studies.modes.words_page import words_findings

CLAIMS = (
    ("cos", "read", "the leading read vectors of two samples are more alike than {chance}", "|cos|"),
    ("cos", "write", "the leading write vectors of two samples are more alike than {chance}", "|cos|"),
    ("held", "read", "a sample's reads lie more in the mean subspace of other samples than {chance}", "share"),
    ("held", "write", "a sample's writes lie more in the mean subspace of other samples than {chance}", "share"),
)
CHANCE = "directions with the stream's covariance"


def modes_findings(run: Run) -> Iterator[str]:
    """Say how many modes stand alone, which directions samples share, and how far layers read what others write."""
    yield from _named(run)
    modes, shared, between = (run.table(name) for name in (MODES_FILE, SHARED_FILE, BETWEEN_FILE))
    for what, side, claim, unit in CLAIMS:
        if what == "cos":
            rows, names = modes[modes["mode"] == 1], (f"{side}_cos", f"{side}_error", "random", "stream")
        else:
            rows, names = shared[shared["side"] == side], ("held", "held_error", "held_random", "held_stream")
        yield from _beyond("components of layers", claim.format(chance=CHANCE), unit, rows, names)
    # The level of other samples is an estimate as uncertain as the mean itself.
    rows = between[between["what"] == "write-read"]
    rows = rows.assign(error=2**0.5 * rows["standard_error"])
    claim = "what the first writes is more like what the second reads at one sample than between samples"
    yield from _beyond(
        "pairs of a component and one that follows", claim, "likeness", rows, ("mean", "error", "random", "other")
    )
    if (run.folder / WORDS_FILE).is_file():
        yield from words_findings(run)
    if (run.folder / CHECK_FILE).is_file():
        yield from check_findings(run)


def _named(run: Run) -> Iterator[str]:
    found = places(run, "named_modes")
    k = sum(mode > 0 for mode in run.provenance["modes"])
    whole = np.concatenate([place.values for place in found])
    share = float(np.mean(whole) / k)
    yield (
        f"Of the {k} leading modes {share:.0%} stand alone; the others are subspaces, none of whose vectors has a "
        "meaning of its own."
    )


def _beyond(
    among: str, claim: str, unit: str, rows: pandas.DataFrame, names: tuple[str, str, str, str]
) -> Iterator[str]:
    """Say in how many places a mean is above both levels of chance, adjusted for many (BH), and where most.

    **Arguments:** `names`, the columns of the mean, its standard error, and the two levels.
    """
    from scipy.special import ndtr

    mean, error, *levels = names
    rows = rows[(rows["n"] >= FEWEST) & (rows[error] > 0)]
    if rows.empty:
        return
    chance = rows[levels].max(axis=1)
    beyond = rows[mean] - chance
    sure = adjust_for_many(ndtr(-(beyond / rows[error]).to_numpy(float))) < SURE
    if not sure.any():
        return
    best = beyond[sure].idxmax()
    top = rows.loc[best]
    reach = 1.96 * top[error]
    yield (
        f"In {int(sure.sum())} of {len(rows)} {among} {claim}; most in the "
        f"{component_words(top['component'])} of layer {top['layer']}, {unit} "
        f"{Interval(top[mean], top[mean] - reach, top[mean] + reach)}, by chance {chance[best]:.2g}."
    )
