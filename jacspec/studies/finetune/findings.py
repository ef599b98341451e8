"""What was found of fine-tuning with groups of singular values removed: whether it learns, and what it makes good."""

from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import FEWEST_SEEDS, changes_by_seed, mean_interval
from jacspec.runs import Run
from jacspec.spectra.significance import SURE


def finetune_findings(run: Run) -> Iterator[str]:
    """Say whether the fine-tuned model is above chance, then which groups it misses in either order."""
    table, chance = run.metrics, float(run.provenance["chance"])
    if table["seed"].nunique() < FEWEST_SEEDS:
        yield f"With fewer than {FEWEST_SEEDS} seeds nothing is said of how sure a difference is."
        return
    whole = mean_interval(table.loc[table["order"] == "none", "accuracy"].to_numpy(np.float64))
    if not whole.low > chance:
        yield (
            f"The fine-tuned model has an accuracy of {whole}, which chance ({chance:.3f}) may have too: nothing can "
            "be said of what removal costs."
        )
        return
    yield f"The fine-tuned model has an accuracy of {whole} over seeds, by chance {chance:.3f}."
    found = changes_by_seed(run, "accuracy", ("order", "group"))
    for order in ("before", "after"):
        own = [change for change in found if change.key[0] == order]
        sure = sorted((change for change in own if change.sure), key=lambda change: change.interval.value)
        if sure:
            listed = ", ".join(f"group {change.key[1]} {change.interval}" for change in sure)
            yield f"Removal {order} fine-tuning changes it beyond the spread of seeds (q below {SURE}): {listed}."
        elif own:
            yield f"No group removed {order} fine-tuning changes it beyond the spread of seeds (q below {SURE})."
