"""What was found by removal: which groups of singular values a text needs, and whether the smallest are among them."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jacspec.report.findings import LEVEL, Interval
from jacspec.report.labels import metric_title, upper_first
from jacspec.runs import Run
from jacspec.spectra.significance import SURE, adjust_for_many

FEWEST_CHUNKS = 5
LISTED = 4


class Ratio(NamedTuple):
    """How much larger a perplexity is than another of the same text, and the p-value of none."""

    interval: Interval
    p_value: float


def removal_findings(run: Run) -> Iterator[str]:
    """Say what the model has, what it loses without each group, and how the smallest values compare with the middle."""
    table, name = run.metrics, run.metric_names[0]
    whole = table[table["group"] == 0].iloc[0]
    chunks = run.provenance["scored"]["chunks"]
    if chunks < FEWEST_CHUNKS:
        yield f"{FEWEST_CHUNKS} chunks of text are needed to say how sure a change is; there are {chunks}."
        return
    removed = table[table["group"] > 0]
    found = [_compare(run, int(number), int(whole.name)) for number in removed.index]
    sure = adjust_for_many(np.array([each.p_value for each in found])) < SURE
    worse = sum(each.interval.value > 1 for each, counts in zip(found, sure, strict=True) if counts)
    error = 1.96 * whole["perplexity_error"]
    level = (
        f"{upper_first(metric_title(run, name))} is {Interval(whole[name], whole[name] - error, whole[name] + error)}"
    )
    noise = f"beyond what chunks of the text differ by (q below {SURE})"
    if not sure.any():
        yield f"{level}; none of {len(found)} removals changes it {noise}."
        return
    most = max((place for place in range(len(found)) if sure[place]), key=lambda place: found[place].interval.value)
    yield (f"{level}; of {len(found)} removals {worse} raise it and {int(sure.sum()) - worse} lower it {noise}.")
    if found[most].interval.low > 1:
        row = removed.iloc[most]
        yield f"Most is lost without group {row['group']} of {row['target']}: {found[most].interval} times as much."
    yield from _smallest(run)


def _smallest(run: Run) -> Iterator[str]:
    """Compare the last group with the middle one, by target: which of the two the text needs more."""
    table, groups = run.metrics, len(run.provenance["shares"])
    if groups < 3 or run.provenance["config"]["removal"]["ranges"]:
        return
    middle = (groups + 1) // 2
    targets = list(dict.fromkeys(table.loc[table["group"] > 0, "target"]))
    number = table.reset_index().set_index(["target", "group"])["index"]
    found = {name: _compare(run, *(int(number[name, group]) for group in (groups, middle))) for name in targets}
    sure = adjust_for_many(np.array([each.p_value for each in found.values()])) < SURE
    known = {name: each.interval for (name, each), counts in zip(found.items(), sure, strict=True) if counts}
    for words, own in (
        ("more", {name: each for name, each in known.items() if each.value > 1}),
        ("less", {name: each for name, each in known.items() if each.value < 1}),
    ):
        if own:
            ordered = sorted(own, key=lambda name: -abs(np.log(own[name].value)))
            listed = ", ".join(f"{own[name]} in {name}" for name in ordered[:LISTED])
            rest = f" and so on in {len(own) - LISTED} more" if len(own) > LISTED else ""
            yield (
                f"The smallest values (group {groups}) matter {words} than those in the middle (group {middle}) in "
                f"{len(own)} of {len(targets)} targets, perplexity without them over that without the middle: {listed}"
                f"{rest}."
            )


def _compare(run: Run, row: int, other: int) -> Ratio:
    """Compare the perplexities of two rows, in pairs over the chunks."""
    nats, tokens = (run.dataset[f"chunk_{name}"].values for name in ("nats", "tokens"))
    return perplexity_ratio(nats[row], nats[other], tokens[row])


def perplexity_ratio(
    nats: Float[np.ndarray, " chunk"], others: Float[np.ndarray, " chunk"], tokens: Float[np.ndarray, " chunk"]
) -> Ratio:
    r"""Compute exp of the mean difference of nats a token, with the interval of a ratio estimator over chunks.

    $\hat R = \sum_c d_c / \sum_c n_c$ with the standard error
    $\sqrt{\frac{C}{C-1} \sum_c (d_c - \hat R n_c)^2} / \sum_c n_c$ (Cochran 1977, Sampling Techniques, 6.4) and
    Student's t of C − 1 degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit

    there = np.isfinite(tokens) & (tokens > 0)
    change, tokens = (nats - others)[there], tokens[there]
    count, mean = change.size, change.sum() / tokens.sum()
    error = float(np.sqrt(count / (count - 1) * np.square(change - mean * tokens).sum()) / tokens.sum())
    if not (np.isfinite(mean) and error > 0):
        return Ratio(Interval(float(np.exp(mean)), np.nan, np.nan), np.nan)
    reach = float(stdtrit(count - 1, 0.5 + LEVEL / 2)) * error
    interval = Interval(*np.exp([mean, mean - reach, mean + reach]).tolist())
    return Ratio(interval, float(2 * stdtr(count - 1, -abs(mean) / error)))
