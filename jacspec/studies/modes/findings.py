"""What was found of modes: how many have a direction, what samples share beyond chance, what layers hand on."""

from collections.abc import Iterator

import numpy as np
import pandas

from jacspec.report.findings import Interval, places
from jacspec.report.labels import component_words
from jacspec.runs import Run
from jacspec.spectra.bootstrap import SURE, adjust_for_many
from jacspec.studies.modes import BETWEEN_FILE, MODES_FILE, SHARED_FILE

FEWEST = 6


def modes_findings(run: Run) -> Iterator[str]:
    """Say how many modes stand alone, which directions samples share, and how far layers read what others write."""
    yield from _named(run)
    modes, shared, between = (run.table(name) for name in (MODES_FILE, SHARED_FILE, BETWEEN_FILE))
    first = modes[(modes["mode"] == 1) & (modes["n"] >= FEWEST)]
    for side in ("read", "write"):
        own = pandas.DataFrame(
            {"value": first[f"{side}_cos"], "error": first[f"{side}_error"], "chance": first[["random", "stream"]].max(axis=1)}
        )
        yield from _beyond(
            f"the leading {side} vectors of two samples are more alike than directions with the stream's covariance",
            "|cos|",
            first,
            own,
        )
    for side in ("read", "write"):
        rows = shared[(shared["side"] == side) & (shared["n"] >= FEWEST)]
        own = pandas.DataFrame(
            {"value": rows["held"], "error": rows["held_error"], "chance": rows[["held_random", "held_stream"]].max(axis=1)}
        )
        yield from _beyond(
            f"the mean subspace of other samples holds more of the {side}s than of directions with the stream's covariance",
            "share",
            rows,
            own,
        )
    rows = between[(between["what"] == "write-read") & (between["n"] >= FEWEST)]
    own = pandas.DataFrame(
        {"value": rows["mean"], "error": rows["standard_error"], "chance": rows[["random", "other"]].max(axis=1)}
    )
    yield from _beyond(
        "a component's write and the next one's read are more alike at one sample than between samples", "likeness", rows, own
    )


def _named(run: Run) -> Iterator[str]:
    found = places(run, "named_modes")
    k = sum(mode > 0 for mode in run.provenance["modes"])
    whole = np.concatenate([place.values for place in found])
    share = float(np.mean(whole) / k)
    yield (
        f"Of the {k} leading modes {share:.0%} stand alone; the others are subspaces, none of whose vectors has a "
        "meaning of its own."
    )


def _beyond(claim: str, unit: str, rows: pandas.DataFrame, own: pandas.DataFrame) -> Iterator[str]:
    """Say in how many places a mean is above both levels of chance, adjusted for many (BH), and where most."""
    from scipy.special import ndtr

    known = own["error"] > 0
    rows, own = rows[known], own[known]
    if own.empty:
        return
    p = ndtr(-((own["value"] - own["chance"]) / own["error"]).to_numpy(float))
    sure = adjust_for_many(p) < SURE
    if not sure.any():
        return
    best = (own["value"] - own["chance"])[sure].idxmax()
    value, error = own.loc[best, "value"], own.loc[best, "error"]
    interval = Interval(value, value - 1.96 * error, value + 1.96 * error)
    where = f"the {component_words(rows.loc[best, 'component'])} of layer {rows.loc[best, 'layer']}"
    yield (
        f"In {int(sure.sum())} of {len(own)} components of layers {claim}; most in {where}, {unit} {interval}, by chance "
        f"{own.loc[best, 'chance']:.2g}."
    )
