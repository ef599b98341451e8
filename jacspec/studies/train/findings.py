"""What was found in training: whether the text was learnt, and where the held-out part is predicted best."""

import math
from collections.abc import Iterator

import numpy as np

from jacspec.report.findings import mean_interval
from jacspec.runs import Run
from jacspec.studies.train import CURVE_FILE

LAST = 10
"""The part of the curve that stands for its end: a tenth."""


def train_findings(run: Run) -> Iterator[str]:
    """Say what the loss is beside that of no knowledge, and at which revision the held-out text is predicted best."""
    loss = run.table(CURVE_FILE)["loss"].to_numpy(np.float64)
    end, nothing = mean_interval(loss[-max(len(loss) // LAST, 1) :]), math.log(run.provenance["vocabulary"])
    if np.isfinite(end.low):
        words = "" if end.high < nothing else ": nothing was learnt"
        yield (
            f"Over the last tenth of the batches recorded the training loss is {end} nats a token; a model that knows "
            f"nothing has {nothing:.2f}{words}."
        )
    table = run.metrics.sort_values("step")
    if len(table) < 2 or not end.high < nothing:
        return
    first, last = table.iloc[0], table.iloc[-1]
    best = table.loc[table["bits_per_byte"].idxmin()]
    yield (
        f"The held-out text takes {first['bits_per_byte']:.3f} bits a byte at step {first['step']:.0f} and "
        f"{last['bits_per_byte']:.3f} at step {last['step']:.0f}"
        + (
            "."
            if best["step"] == last["step"]
            else f"; of the revisions kept step {best['step']:.0f} has the fewest, {best['bits_per_byte']:.3f}."
        )
    )
