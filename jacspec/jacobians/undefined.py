"""What has no value by construction: the ratios of a zero Jacobian, and the words that stand in their place."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float

from jacspec.spectra.metrics import METRICS

ZERO_JACOBIAN = "zero Jacobian: no ratios, no directions"
ONE_VALUE = "one singular value: no decay ratio"
ZERO_STREAM = "zero stream: no direction"

Reasons = Mapping[str, np.ndarray]
"""By name of a value, a text a sample: why it has none there, empty where it must have one."""


def undefined_metrics(
    names: Iterable[str], sigma: Float[np.ndarray, "sample k"], x: Float[np.ndarray, "sample d_model"]
) -> dict[str, np.ndarray]:
    """Say of each metric where it is undefined, whatever its value, at Jacobians with singular values `sigma` at `x`.

    A metric that the scale of a matrix does not change divides by σ₁, and is 0/0 of the zero matrix.
    """
    zero = sigma[:, 0] == 0
    ratios = {name: np.where(zero, ZERO_JACOBIAN, "") for name in names if METRICS[name].scaling == 0}
    if "decay_ratio" in ratios and sigma.shape[1] == 1:
        ratios["decay_ratio"] = np.where(zero, ZERO_JACOBIAN, ONE_VALUE)
    return ratios | {"residual_gain": np.where((x == 0).all(axis=1), ZERO_STREAM, "")}


def explain(
    values: Mapping[str, np.ndarray], undefined: Reasons
) -> tuple[dict[str, np.ndarray], np.ndarray, list[tuple[str, int]]]:
    """Part values that are missing for a reason from values that are not finite without one.

    **Arguments:** `values`, by name, (sample, ...).

    **Returns:** the values, NaN where there is a reason for one that is not finite; a text a sample, its reasons
    joined; and where a value is not finite without a reason, its name and sample.
    """
    samples = len(next(iter(values.values())))
    given: list[dict[str, None]] = [{} for _ in range(samples)]
    kept, strays = dict(values), []
    for name, array in values.items():
        why = undefined.get(name, np.full(samples, ""))
        for sample in np.flatnonzero(~np.isfinite(array).reshape(samples, -1).all(axis=1)).tolist():
            if not why[sample]:
                strays.append((name, sample))
                continue
            if kept[name] is array:
                kept[name] = array.copy()
            kept[name][sample] = np.nan
            given[sample][str(why[sample])] = None
    return kept, np.array(["; ".join(reasons) for reasons in given]), strays
