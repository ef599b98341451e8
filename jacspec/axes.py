"""What rooms hand to the run folder, and the glossary of the axes of all arrays.

| axis       | meaning                                                             |
|------------|---------------------------------------------------------------------|
| `layer`    | transformer blocks, from 0                                          |
| `sample`   | sentences, numbered in corpus order                                 |
| `token`    | positions in a sample, padding at the end                           |
| `d_model`  | width of the residual stream                                        |
| `head`     | query heads                                                         |
| `kv_head`  | key and value heads; `group` query heads share one                  |
| `d_head`   | width of a head                                                     |
| `d_ff`     | hidden units of the MLP                                             |
| `vocab`    | token ids                                                           |
| `m`, `n`   | outputs and inputs of a matrix; `k = min(m, n)` singular values     |

Matrices act on columns, `y = A x`, so a weight is `(out, in)`.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact, Shaped

Key = tuple[str | int | float | None, ...]
"""Which row of a run it is, one value a key column."""

BASE, UPDATE = ".base", ".update"
"""What stands behind the role and name of a matrix before an adapter changed it, and of what was added to it."""


class LayerResult(NamedTuple):
    """What one block gave: by component, the singular values and, by metric, one value a sample.

    `number` counts all blocks in the order of the stream, `layer` those of the block's own stack; they differ in
    the decoder of an encoder-decoder model only. `diagnostics` hold, by component, what the engine says of its own
    accuracy: `error_bound` (sample, k), `steps` and `converged` (sample), and `audit_deviation`, one value an
    audited sample. `vectors` are, by component and name, what has an axis more than a metric: directions of the
    residual stream, and rows of `ARRAY_AXES`, where a task keeps any. `stored` are arrays (sample, ...) that are too
    many to stay in memory: they are in the layer's file alone. `reasons` say, by component, why values of a sample are
    missing (NaN), and are empty where none is.
    """

    number: int
    layer: int
    singular_values: Mapping[str, Float[np.ndarray, "sample k"]]
    metrics: Mapping[str, Mapping[str, Float[np.ndarray, " sample"]]]
    diagnostics: Mapping[str, Mapping[str, np.ndarray]] = {}
    vectors: Mapping[str, Mapping[str, Shaped[np.ndarray, "sample _"]]] = {}
    reasons: Mapping[str, np.ndarray] = {}
    stored: Mapping[str, Mapping[str, np.ndarray]] = {}


class Row(NamedTuple):
    """What one matrix or experiment of a run gave: a row of `metrics.csv`, and the arrays behind it.

    `number` is its place in the run, `key` which it is, one value a key column of the run, None where it has none;
    `values` are its numbers, NaN where there is none; `arrays` have one axis each, and all rows of a run have the same
    ones. `reason` says why values are missing, and is empty where none is. `words` are columns of text.
    """

    number: int
    key: Key
    values: Mapping[str, float]
    arrays: Mapping[str, Inexact[np.ndarray, "..."]] = {}
    reason: str = ""
    words: Mapping[str, str] = {}


STEPS = (0.01, 0.03, 0.1, 0.3)
"""How long the changes are that a Jacobian's answer is compared at, in units of ‖x‖."""
SIGNED_STEPS = (*(-step for step in reversed(STEPS)), *STEPS)

ARRAY_AXES: Mapping[str, tuple[str, tuple[float, ...]]] = {
    **dict.fromkeys(
        ("linearity_error", "linearity_error_input", "linearity_error_random", "linearity_error_residual"),
        ("epsilon", SIGNED_STEPS),
    ),
    **dict.fromkeys(("eigenvalues", "rotated_eigenvalues"), ("k", ())),
}
"""By name of an array that is no direction of the stream: its axis beside `sample`, and the places on it."""
