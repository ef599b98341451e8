"""Whether α falls with depth as the document on merging says: thirds of the layers beside other orders of them."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jacspec.report.findings import FEWEST_LAYERS, Interval
from jacspec.spectra.significance import compare_means
from jacspec.studies.weights.verdicts import THIRDS

if TYPE_CHECKING:
    import pandas

DRAWS, EXACT_UP_TO = 9999, 7
"""How many orders of the layers are drawn, and the number of layers up to which all of them are gone through."""
FUSED = ("qkv", "gate_up")
"""Roles that are whole where their parts are there too."""


class DepthCheck(NamedTuple):
    """What thirds of the depth have, early, middle and late, and how often other orders of the layers have as much.

    `means` are means over layers of a column, each role less its own mean over layers; `fall` is that of the first
    third less that of the last, with Welch's interval, `fall_p` the share of orders whose fall is as large in size.
    `within` of `matrices` lie in the range that is given for their third, `within_chance` in the mean order, and
    `within_p` is the share of orders that have as many.
    """

    means: tuple[float, float, float]
    fall: Interval
    fall_p: float
    within: int
    within_chance: float
    within_p: float
    matrices: int
    layers: int


def check_depth(table: "pandas.DataFrame", column: str = "alpha", *, seed: int = 0) -> DepthCheck | None:
    """Compare thirds of the layers in a column of the table of matrices; None of too few layers to say anything.

    The unit is the layer: matrices of one layer are not independent, and under the null no order of the layers is
    better than another. `within` is that of α's ranges whatever the column.
    """
    rows = table[table["layer"].notna() & table[column].notna() & ~table["role"].isin(FUSED)]
    layers = np.sort(rows["layer"].unique())
    if layers.size < FEWEST_LAYERS:
        return None
    centred = rows[column] - rows.groupby("role")[column].transform("mean") + rows[column].mean()
    means = centred.groupby(rows["layer"]).mean().sort_index().to_numpy(np.float64)
    hits = np.stack([rows[column].between(least, most) for _, least, most in THIRDS], axis=1)
    counts = np.stack([hits[rows["layer"] == layer].sum(axis=0) for layer in layers])
    third = np.arange(layers.size) * len(THIRDS) // layers.size
    orders = np.array(list(_orders(layers.size, seed)))
    falls, within = _falls(means[orders], third), counts[orders, third].sum(axis=1)
    fall, hit = _falls(means[None], third)[0], counts[np.arange(layers.size), third].sum()
    first, middle, last = (means[third == place] for place in range(len(THIRDS)))
    return DepthCheck(
        (float(first.mean()), float(middle.mean()), float(last.mean())),
        _difference(first, last),
        float((np.abs(falls) >= abs(fall) * (1 - 1e-12)).mean()),
        int(hit),
        float(within.mean()),
        float((within >= hit).mean()),
        len(rows),
        int(layers.size),
    )


def _difference(first: Float[np.ndarray, " n"], last: Float[np.ndarray, " m"]) -> Interval:
    found = compare_means(last[:, None], first[:, None], paired=False)
    return Interval(float(found.difference[0]), float(found.low[0]), float(found.high[0]))


def _falls(means: Float[np.ndarray, "order layer"], third: Int[np.ndarray, " layer"]) -> Float[np.ndarray, " order"]:
    return means[:, third == 0].mean(axis=1) - means[:, third == len(THIRDS) - 1].mean(axis=1)


def _orders(count: int, seed: int) -> Iterator[tuple[int, ...]]:
    """Go through all orders, or the given one and `DRAWS` others: a p-value is then at least one over their number."""
    if count <= EXACT_UP_TO:
        yield from itertools.permutations(range(count))
        return
    rng = np.random.default_rng([seed, count])
    yield tuple(range(count))
    for _ in range(DRAWS):
        yield tuple(rng.permutation(count).tolist())
