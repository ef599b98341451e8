"""The data of runs over samples: every metric of every sample, its boxes, and spectra as far as there is room."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jacspec.report.explorer.room import Spectra, finite_values, share, short_decimals, spread
from jacspec.report.figures import SPECTRA, box_statistics, component_styles, line_figures
from jacspec.report.labels import component_words
from jacspec.report.lines import visible_spectrum
from jacspec.runs import Run


def sample_styles(runs: Sequence[Run]) -> dict[str, dict[str, str]]:
    """Give each component its words and the colour of the static figures."""
    names = list(dict.fromkeys(name for run in runs for name in run.components))
    return {
        name: {"words": component_words(name), "colour": style.colour, "dash": "solid"}
        for name, style in component_styles(names).items()
    }


def sample_data(run: Run, room: int) -> tuple[dict[str, Any], str]:
    """Collect what a page shows of a run over samples.

    **Arguments:** `room`, how many singular values there is room for.

    **Returns:** the data, a group a (layer, component), and what of the spectra is left out.
    """
    chosen = _choose(run, room)
    texts = run.samples.set_index("sample")["text"] if "text" in run.samples else {}
    data = {
        "groups": list(_groups(run, chosen)),
        "tokens": run.samples["n_tokens"].tolist(),
        "texts": {str(sample): str(texts[sample]) for sample in chosen.samples if sample in texts},
    }
    return data, chosen.left_out


def _choose(run: Run, room: int) -> Spectra:
    """Choose whose spectra are shown: medians of layers take at most half of the room, whole samples the rest."""
    if SPECTRA not in line_figures(run):
        return Spectra(())
    k, layers = run.dataset.sizes["k"], sorted(set(run.metrics["layer"].tolist()))
    shown = [layers[place] for place in spread(len(layers), room // 2 // (k * len(run.components)))]
    groups = run.metrics[["layer", "component"]].drop_duplicates()
    median_count, count = int(groups["layer"].isin(shown).sum()), len(run.samples)
    samples = spread(count, (room - median_count * k) // (k * len(groups)))
    left_out = share("", len(shown), len(layers), "layers' medians")
    return Spectra(shown, samples, share(left_out, len(samples), count, "samples"))


def _groups(run: Run, chosen: Spectra) -> Iterator[dict[str, Any]]:
    for (layer, component), rows in run.metrics.groupby(["layer", "component"], sort=False):
        values = {name: rows[name].to_numpy(np.float64) for name in run.metric_names}
        group: dict[str, Any] = {
            "layer": int(layer),
            "component": component,
            "values": {name: finite_values(column) for name, column in values.items()},
            "boxes": {name: _box(column) for name, column in values.items()},
        }
        if chosen.layers or chosen.samples:
            sigma = run.dataset["singular_values"].sel(layer=layer, component=component).values
            if layer in chosen.layers:
                group["median"] = _spectrum(np.median(sigma, axis=0), sigma.dtype)
            group["spectra"] = {str(sample): _spectrum(sigma[sample], sigma.dtype) for sample in chosen.samples}
        yield group


def _box(values: np.ndarray) -> dict[str, float] | None:
    found = box_statistics(values)
    return {name: float(found[name]) for name in ("med", "q1", "q3", "whislo", "whishi")} if found else None


def _spectrum(sigma: np.ndarray, dtype: np.dtype) -> list[float | None]:
    return short_decimals(visible_spectrum(sigma[None], dtype)[0])
