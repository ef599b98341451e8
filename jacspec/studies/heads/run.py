"""`task=heads`: spectra of W_QK and W_OV of every attention head, beside products of Gaussian factors."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.glossary import Row
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.rows import matrix_layout, matrix_row
from jacspec.studies.heads.columns import HEADS
from jacspec.studies.heads.options import HeadsOptions
from jacspec.studies.heads.products import (
    HeadProducts,
    gaussian_baseline,
    head_metrics,
    head_products,
    product_edges,
    product_npr,
)
from jacspec.studies.inputs import Inputs
from jacspec.studies.provenance import describe_checkpoint
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

MOMENTS = ("element_mean", "element_std", "element_skewness", "element_kurtosis")


def run_heads(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Compute the spectra of all attention heads into `folder`, or resume what `config.resume` holds."""
    options = config.own(HeadsOptions)
    if options.draws < 2:
        raise JacspecError(f"heads.draws={options.draws} gives no spread. Type heads.draws=N with N of 2 or more.")
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config, inputs))


def _prepare(config: Config, inputs: Inputs) -> RowWork:
    options = config.own(HeadsOptions)
    checkpoint = inputs.checkpoint()
    chosen = inputs.layers(checkpoint.spec)
    own = checkpoint.spec.blocks[0].attention
    if own.d_head > checkpoint.spec.d_model:
        raise JacspecError(
            f"The heads are wider ({own.d_head}) than the model ({checkpoint.spec.d_model}): their products have full "
            "rank, for which there is no baseline here. Type task=weights for q, k, v and o themselves."
        )
    baseline = _baseline(checkpoint.spec.d_model, own.d_head, options.draws, config.seed)

    def stream(done: Mapping[int, Row]) -> Iterator[Sequence[Row]]:
        number = 0
        for place, spec in enumerate(checkpoint.spec.blocks):
            numbers = range(number, number + 2 * spec.attention.heads)
            number = numbers.stop
            wanted = chosen is None or checkpoint.spec.layer(place) in chosen
            if wanted and not all(each in done for each in numbers):
                yield list(_results(checkpoint, place, numbers))

    identity, layout = {"checkpoint": describe_checkpoint(checkpoint)}, matrix_layout(tuple(HEADS))
    return RowWork(layout, identity, {"baseline": baseline}, stream, "matrices", learnt={"left_out": {}})


def _results(checkpoint: Checkpoint, place: int, numbers: Sequence[int]) -> Iterator[Row]:
    """Make the rows of one block: its heads' W_QK, then their W_OV."""
    stack = checkpoint.spec.blocks[place].stack
    layer, d_model = checkpoint.spec.layer(place), checkpoint.spec.d_model
    found = head_products(checkpoint.block(place))
    free = iter(numbers)
    for kind, products in found.items():
        role = f"{stack}.{kind}" if stack else kind
        columns = _columns(products)
        for head, sigma in enumerate(products.sigma):
            metrics = {name: float(values[head]) for name, values in columns.items()}
            reason = "" if sigma[0] > 0 else "all zero"
            if not reason and not np.isfinite(metrics["kappa_sigma"]):
                reason = "below full rank: no condition number"
            name = f"block {place} head {head} {kind}"
            yield matrix_row(next(free), (layer, role, head, name), (d_model, d_model), sigma, metrics, reason)


def _columns(products: HeadProducts) -> dict[str, np.ndarray]:
    moments = dict(zip(MOMENTS, products.moments.astype(np.float64).T, strict=True))
    return {**head_metrics(products.sigma), **moments}


def _baseline(d_model: int, d_head: int, draws: int, seed: int) -> dict[str, Any]:
    """Sum up what Gaussian factors give: quantities that the scale of the factors does not change."""
    sigma = gaussian_baseline(d_model, d_head, draws=draws, seed=seed)
    drawn = head_metrics(sigma)
    free = ("npr_lambda", "npr_sigma", "spectral_entropy", "effective_rank", "kappa_sigma", "kappa_lambda")
    return {
        "draws": draws,
        "metrics": {
            name: {"mean": float(np.nanmean(drawn[name])), "sd": float(np.nanstd(drawn[name], ddof=1))} for name in free
        },
        "edges": list(product_edges(d_model, d_head)),
        "npr_lambda, exact": product_npr(d_model, d_head),
        "median sigma": np.median(sigma / np.sqrt(np.square(sigma).mean(axis=1, keepdims=True)), axis=0).tolist(),
    }
