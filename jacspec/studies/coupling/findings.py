"""What was found of weights beside Jacobians: how much of the bound is reached, and what meets more than by chance."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import extremes, median_interval, medians_of, more_than_chance, places
from jacspec.report.labels import component_words, metric_words
from jacspec.runs import Run
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.coupling.figures import coupling_table

LEVEL, ENDS = 0.99, ("read", "write")


def coupling_findings(run: Run) -> Iterator[str]:
    """Say where ρ is nearest to its bound, which alignments and which couplings are beyond random directions."""
    if ends := extremes(places(run, "bound_share")):
        (near, most), (far, least) = ends
        yield f"ρ is nearest to its bound in {near}, median {most} of it, and farthest in {far}, {least}."
    d_model = run.dataset.sizes["d_model"]
    yield from _alignments(run, random_level(d_model))
    pairs = coupling_table(run)
    beyond = pairs["mean"] - 2 * pairs["standard_error"].fillna(np.inf) > random_level(d_model)
    after = pairs["downstream"] == 1
    count, of = int(beyond[after].sum()), int(after.sum())
    if not more_than_chance(count, of, 1 - LEVEL):
        if of:
            yield f"Reads meet earlier writes no more often than random directions: {count} of {of} beyond 99 %."
        return
    top = pairs[beyond & after].sort_values("mean").iloc[-1]
    read, write = (f"the {component_words(top[f'{end}_component'])} of layer {top[f'{end}_layer']}" for end in ENDS)
    control = f"{int(beyond[~after].sum())} of {int((~after).sum())}"
    yield (
        f"Of reads that come after a write {count} of {of} meet it beyond 99 % of random directions (chance: "
        f"{(1 - LEVEL) * of:.1f}), of others, a control, {control}; most {read} that of {write}: |u · v| "
        f"{top['mean']:.2f}, by chance {random_alignment(d_model):.3f}."
    )


def random_level(d_model: int) -> float:
    r"""Return the |cos| that 1 % of random directions exceed: its square is $\mathrm{Beta}(1/2, (d - 1)/2)$."""
    from scipy.special import betaincinv

    return float(betaincinv(0.5, (d_model - 1) / 2, LEVEL)) ** 0.5


def _alignments(run: Run, level: float) -> Iterator[str]:
    """Count the places at which each alignment is beyond random directions, where they are more than by chance.

    The weight's direction is the same for all samples and the Jacobian's nearly so: samples are no repeats of chance,
    and one place counts as one draw.
    """
    said, medians = [], []
    for name in (name for name in run.metric_names if "_alignment" in name):
        found = [place for place in places(run, name) if np.isfinite(place.values).any()]
        count = sum(median_interval(place.values).low > level for place in found)
        if more_than_chance(count, len(found), 1 - LEVEL):
            said.append(f"{metric_words(name)} {count} of {len(found)}")
            medians.append((metric_words(name), *medians_of(found)[0]))
    if said:
        name, place, most = max(medians, key=lambda each: each[2].value)
        yield (
            "Leading directions of Jacobian and weight meet beyond 99 % of random directions in so many components of "
            f"layers (by chance 1 % of them): {', '.join(said)}; most in {place}, {name} {most}."
        )
