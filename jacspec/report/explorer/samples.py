"""The data of runs over samples: boxes of every metric, the samples behind them, spectra as far as there is room."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from jacspec.report.explorer.budget import Budget, finite_values, partly, short_decimals, spread
from jacspec.report.figures import component_styles, has_spectra
from jacspec.report.labels import component_words, layer_words
from jacspec.report.lines import visible_spectrum
from jacspec.runs import SUMMARY_COLUMNS, Run, summarise

SHOWN = ("n", "mean", "median", "q1", "q3", "whisker_low", "whisker_high")
"""What is told of a distribution, as `summary.csv` calls it."""


def sample_styles(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Give each component its words and the colour of the static figures."""
    names = list(dict.fromkeys(name for run in runs for name in run.components))
    return {
        name: {"words": component_words(name), "colour": style.colour}
        for name, style in component_styles(names).items()
    }


def sample_data(run: Run, budget: Budget) -> tuple[dict[str, Any], list[str]]:
    """Collect what a page shows of a run over samples.

    **Returns:** the data, a group a (layer, component), and in words what the page holds in part only.
    """
    count, layers = len(run.samples), sorted(set(run.metrics["layer"].tolist()))
    medians, samples = _choose(run, layers, budget.spectra)
    in_part = [] if budget.samples else ["boxes without their samples"]
    if has_spectra(run):
        in_part += partly("median spectra", len(medians), len(layers), "layers")
        in_part += partly("spectra", len(samples), count, "samples")
    data = {
        "layers": layer_words(run.components),
        "groups": list(_groups(run, medians, samples, every=budget.samples)),
        "tokens": run.samples["n_tokens"].tolist(),
        "texts": {str(sample): str(run.samples["text"].iloc[sample]) for sample in samples},
    }
    return data, in_part


def _choose(run: Run, layers: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """Choose layers whose median spectra are shown, in at most half of the room, and samples for the rest."""
    if not has_spectra(run):
        return [], []
    k, groups = run.dataset.sizes["k"], run.metrics[["layer", "component"]].drop_duplicates()
    shown = [layers[place] for place in spread(len(layers), room // 2 // (k * len(run.components)))]
    left = room - k * int(groups["layer"].isin(shown).sum())
    return shown, spread(len(run.samples), left // (k * len(groups)))


def _groups(run: Run, medians: Collection[int], samples: Sequence[int], *, every: bool) -> Iterator[dict[str, Any]]:
    for (layer, component), rows in run.metrics.groupby(["layer", "component"], sort=False):
        columns = {name: rows[name].to_numpy(np.float64) for name in run.metric_names}
        group: dict[str, Any] = {
            "layer": int(layer),
            "component": component,
            "boxes": {name: _box(values) for name, values in columns.items()},
            "values": {name: finite_values(values) for name, values in columns.items()} if every else None,
        }
        if medians or samples:
            sigma = run.dataset["singular_values"].sel(layer=layer, component=component).values
            group["median"] = _spectrum(np.median(sigma, axis=0), sigma.dtype) if layer in medians else None
            group["spectra"] = {str(sample): _spectrum(sigma[sample], sigma.dtype) for sample in samples}
        yield group


def _box(values: np.ndarray) -> dict[str, int | float] | None:
    found = dict(zip(SUMMARY_COLUMNS[3:], summarise(values), strict=True))
    return {name: found[name] for name in SHOWN} if found["n"] else None


def _spectrum(sigma: np.ndarray, dtype: np.dtype) -> list[float | None]:
    return short_decimals(visible_spectrum(sigma[None], dtype)[0])
