"""The tables of a run over samples: the labelled arrays, and the distribution of each metric."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jacspec.axes import ARRAY_AXES, LayerResult

if TYPE_CHECKING:
    import xarray

QUANTILES = {"median": 0.5, "q1": 0.25, "q3": 0.75}
WHISKER = 1.5
"""Whiskers reach to the last value within 1.5 interquartile ranges of the box, as Tukey and Matplotlib draw them."""

DIAGNOSTICS: Mapping[str, tuple[str, ...]] = {
    "error_bound": ("k",),
    "steps": (),
    "converged": (),
    "vector_bound": ("mode",),
    "group": ("mode",),
}
"""What an engine may say of its accuracy beside the spectra, and the axes it has beyond those of a metric."""


def to_dataset(
    results: Sequence[LayerResult],
    metric_names: Sequence[str],
    n_tokens: Sequence[int],
    *,
    modes: Sequence[int] | None = None,
) -> "xarray.Dataset":
    """Label results: `singular_values` (layer, component, sample, k) and each metric (layer, component, sample).

    Beside them stand what the engine says of its accuracy, and vectors (layer, component, sample, d_model) or arrays of
    `ARRAY_AXES`. NaN stands where a stack has fewer layers than another. `modes` numbers the singular triples of
    `group` and `vector_bound`: 1 has the largest value, −1 the least.
    """
    import xarray

    layers = sorted({result.layer for result in results})
    components = list(dict.fromkeys(name for result in results for name in result.singular_values))
    found = {(result.layer, name): result for result in results for name in result.singular_values}

    def table(values: Callable[[LayerResult, str], np.ndarray]) -> np.ndarray:
        blank = np.full_like(values(*next((result, name) for (_, name), result in found.items())), np.nan)
        return np.stack(
            [
                np.stack([values(found[layer, name], name) if (layer, name) in found else blank for name in components])
                for layer in layers
            ]
        )

    sigma = table(lambda result, name: result.singular_values[name])
    axes = ("layer", "component", "sample")
    variables: dict[str, Any] = {"singular_values": ((*axes, "k"), sigma)}
    for metric in metric_names:

        def values(result: LayerResult, name: str, metric: str = metric) -> np.ndarray:
            return result.metrics[name][metric]

        variables[metric] = (axes, table(values))
    first = next(iter(found.values())).diagnostics
    for name, dimensions in DIAGNOSTICS.items():
        if all(name in said for said in first.values()) and first:

            def said(result: LayerResult, component: str, name: str = name) -> np.ndarray:
                return result.diagnostics[component][name].astype(np.float64)

            variables[name] = ((*axes, *dimensions), table(said))
    coordinates: dict[str, Any] = {}
    for name in dict.fromkeys(name for result in results for held in result.vectors.values() for name in held):

        def vector(result: LayerResult, component: str, name: str = name) -> np.ndarray:
            return result.vectors[component][name]

        axis, places = ARRAY_AXES.get(name, ("d_model", ()))
        variables[name] = ((*axes, axis), table(vector))
        coordinates |= {axis: list(places)} if places else {}
    coordinates |= {
        "layer": layers,
        "component": components,
        "sample": np.arange(sigma.shape[2]),
        "k": np.arange(1, sigma.shape[3] + 1),
        "n_tokens": ("sample", np.asarray(n_tokens)),
    }
    if modes is not None and "group" in variables:
        coordinates["mode"] = list(modes)
    return xarray.Dataset(variables, coordinates)


REAL, IMAGINARY = "_real", "_imag"
"""What the parts of a complex array are called in a file, after its name: netCDF 3 has no complex numbers."""


def split_complex(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """Put the parts of every complex array in its place."""
    for name in [str(name) for name, array in dataset.items() if array.dtype.kind == "c"]:
        array = dataset[name]
        dataset = dataset.drop_vars(name).assign({f"{name}{REAL}": array.real, f"{name}{IMAGINARY}": array.imag})
    return dataset


def join_complex(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """Put complex arrays together again from their parts."""
    for name in [str(name).removesuffix(REAL) for name in dataset if str(name).endswith(REAL)]:
        real, imaginary = f"{name}{REAL}", f"{name}{IMAGINARY}"
        if imaginary in dataset and dataset[real].dims == dataset[imaginary].dims:
            joined = dataset[real] + 1j * dataset[imaginary]
            dataset = dataset.drop_vars([real, imaginary]).assign({name: joined})
    return dataset


SUMMARY_COLUMNS = (
    "layer", "component", "metric", "n", "mean", "standard_error", *QUANTILES, "whisker_low", "whisker_high"
)  # fmt: skip


def summary_rows(results: Sequence[LayerResult], metric_names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Summarise each distribution over samples; values that are missing (NaN) are left out and not counted."""
    return [
        (result.layer, component, metric, *summarise(np.asarray(result.metrics[component][metric], np.float64)))
        for result in results
        for component in result.metrics
        for metric in metric_names
    ]


def summarise(values: Float[np.ndarray, " sample"]) -> tuple[int | float, ...]:
    """Return n, mean, standard error (n − 1 in the deviation), median, quartiles, and Tukey's whiskers."""
    values = values[np.isfinite(values)]
    if not values.size:
        return (0, *[float("nan")] * (len(SUMMARY_COLUMNS) - 4))
    deviation = values.std(ddof=1) if values.size > 1 else float("nan")
    median, q1, q3 = np.quantile(values, list(QUANTILES.values())).tolist()
    reach = WHISKER * (q3 - q1)
    inside = values[(values >= q1 - reach) & (values <= q3 + reach)]
    low, high = min(inside.min(), q1), max(inside.max(), q3)
    numbers = (values.mean(), deviation / values.size**0.5, median, q1, q3, low, high)
    return (int(values.size), *(float(number) for number in numbers))
