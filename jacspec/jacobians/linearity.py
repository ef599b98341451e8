r"""How far a Jacobian holds: how long a change may be before a branch answers otherwise than its Jacobian says.

At the stream x of the last token and a unit vector v the relative error of the linear answer is

$$e(\epsilon) = \lVert f(x + \epsilon \lVert x \rVert v) - f(x) - \epsilon \lVert x \rVert J v \rVert
  \, / \, \lVert \epsilon \lVert x \rVert J v \rVert .$$

The linearity radius along v is the least $\lvert \epsilon \rvert$ with e = 0.1, of both signs. It costs a forward pass
of the branch for each of the steps ±ε of `axes.STEPS`, all samples at once, and two passes more where e crosses 0.1.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jacspec.axes import SIGNED_STEPS, STEPS
from jacspec.backend import Program
from jacspec.errors import JacspecError, suggest
from jacspec.jacobians.branches import Branch, Products
from jacspec.jacobians.devices import shard_like
from jacspec.jacobians.lanczos import (
    TOP,
    decompose,
    leading_vectors,
    list_programs,
    start_vectors,
    vector_programs,
)
from jacspec.jacobians.solvers import BranchSpectra
from jacspec.jacobians.undefined import ZERO_JACOBIAN, ZERO_STREAM
from jacspec.samples import PaddedBatch

RADIUS: Mapping[str, str] = {
    "top": "linearity_radius",
    "input": "linearity_radius_input",
    "random": "linearity_radius_random",
    "residual": "linearity_radius_residual",
}
"""By direction the column of its radius."""
ERROR: Mapping[str, str] = {name: column.replace("radius", "error") for name, column in RADIUS.items()}
"""By direction the array of e at every step."""
CURVATURE = "curvature"
WORDS: Mapping[str, str] = {
    "top": "v₁",
    "input": "x̂",
    "random": "a random direction",
    "residual": "a random difference of streams",
}

NONE: Mapping[str, str] = {name: f"zero derivative along {words}" for name, words in WORDS.items()} | {
    "top": ZERO_JACOBIAN
}
ALONE = "one sample in its batch: no differences of streams"

TENTH = 0.1
"""The relative error that ends the radius."""
KNOWN = 0.02
"""How much of e rounding may be where it counts: an e of 0.1 is then known to a fifth, the radius to about as much."""
NOISE = 4
"""Rounding moves f(x + δ) − f(x) by less than so many eps of ‖f(x)‖ + σ₁‖x‖."""
TOGETHER = 4
"""Steps of one pass: their products with weights are one, and their work arrays fewer than the bases of Lanczos."""


class Linearity(NamedTuple):
    """What a batch gave along one direction.

    `radius` is ∞ where e stays below 0.1; where rounding hides it it is NaN, and so are the `errors`. `gain` is ‖Jv‖,
    `curvature` ‖D²f[v, v]‖ over it.
    """

    radius: Float[Array, " sample"]
    errors: Float[Array, "sample epsilon"]
    gain: Float[Array, " sample"]
    curvature: Float[Array, " sample"]


class Formed(NamedTuple):
    """A batch of matrices that are there, as an operator of Lanczos; samples share nothing."""

    shared: None
    matrices: Float[Array, "sample m n"]

    def products(self) -> Products:
        """Return what multiplies with the matrices, and with their transposes."""
        return (
            lambda vectors: jnp.einsum("smn,sn->sm", self.matrices, vectors),
            lambda vectors: jnp.einsum("smn,sm->sn", self.matrices, vectors),
        )


def check_directions(names: Sequence[str]) -> tuple[str, ...]:
    """Return the directions in the order of `RADIUS`, each once; raises `JacspecError` for an unknown one."""
    for name in names:
        if name not in RADIUS:
            raise JacspecError(f"jacobian.linearity has {name!r}, which is no direction. " + suggest(name, RADIUS))
    return tuple(name for name in RADIUS if name in names)


def measure_linearity(
    branch: Branch,
    names: Sequence[str],
    spectra: BranchSpectra,
    padded: PaddedBatch,
    *,
    tolerance: float,
    seed: int,
    number: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measure radii and errors along the directions `names`, and the curvature along v₁ where that is one of them.

    **Arguments:** `spectra`, of the branch, for v₁; `padded`, the batch; `number`, that of the block, which has random
    directions of its own.

    **Returns:** values by name, a row a sample, and why they are missing.
    """
    values: dict[str, Any] = {}
    undefined: dict[str, np.ndarray] = {}
    x, rows = branch.point.x, padded.row_samples
    sigma = np.asarray(spectra.singular_values)[:, 0].astype(x.dtype)
    no_stream = (np.asarray(x) == 0).all(axis=1)
    drawn = functools.partial(start_vectors, rows, dtype=x.dtype, seed=seed + (number + 1) * 1_000_003)
    for name in names:
        if name == "top":
            vectors: Any = _leading(x, spectra, rows, tolerance, seed)
        elif name == "residual":
            weights = shard_like(drawn(len(rows)), x)
            vectors = _differences(x, weights, np.arange(len(rows)) < len(padded.samples))
        else:
            vectors = x if name == "input" else drawn(x.shape[1])
        found: Any = jax.tree.map(np.asarray, _measure(branch, *shard_like((vectors, sigma), x)))
        values |= {RADIUS[name]: found.radius, ERROR[name]: found.errors}
        none = ALONE if name == "residual" and len(padded.samples) == 1 else NONE[name]
        zero = np.where(found.gain == 0, none, "")
        blank = np.where(no_stream, ZERO_STREAM, zero)
        open_ = np.where(np.isinf(found.radius), _linear(name), np.where(np.isnan(found.radius), _hidden(name), ""))
        undefined[RADIUS[name]] = np.where(blank != "", blank, open_)
        undefined[ERROR[name]] = np.where(
            undefined[RADIUS[name]] != "", undefined[RADIUS[name]], f"f is not finite near x along {WORDS[name]}"
        )
        if name == "top":
            values[CURVATURE], undefined[CURVATURE] = found.curvature, zero
    return values, undefined


def _linear(name: str) -> str:
    return f"linear along {WORDS[name]}: off by less than a tenth up to {STEPS[-1]:.0%} of ‖x‖"


def _hidden(name: str) -> str:
    return f"rounding hides where the Jacobian ends along {WORDS[name]}"


def linearity_programs(branch: Branch, *, names: Sequence[str], formed: bool) -> list[Program]:
    """Say what `measure_linearity` compiles, random directions apart, given shapes; `formed`: J is there."""
    x = branch.point.x
    measuring = Program(_measure, (branch, x, jax.ShapeDtypeStruct(x.shape[:1], x.dtype)), {})
    if "top" not in names:
        return [measuring] if names else []
    if formed:
        samples, d_model = x.shape
        operator: Any = Formed(None, jax.ShapeDtypeStruct((samples, d_model, d_model), x.dtype))  # type: ignore[arg-type]
        return [list_programs(operator, x)[-1], measuring]
    return [*vector_programs(branch, x), measuring]


def _leading(
    x: Float[Array, "sample d_model"], spectra: BranchSpectra, rows: np.ndarray, tolerance: float, seed: int
) -> Float[np.ndarray, "sample d_model"]:
    """Find v₁ of every sample: of the bases where Lanczos was the engine, else by Lanczos of the matrices."""
    top = spectra.top
    if top is None:
        assert spectra.jacobians is not None
        drawn = [np.random.default_rng([seed % 2**32, int(row)]).standard_normal(x.shape[1]) for row in rows]
        starts = shard_like(jax.device_put(np.array(drawn, x.dtype)), x)
        found = decompose(Formed(None, spectra.jacobians), starts, k=min(TOP, x.shape[1]), tolerance=tolerance)
        return leading_vectors(*found, on_host=True)[0][:, 0]
    return leading_vectors(*top)[0][:, 0]


@jax.jit
def _differences(
    x: Float[Array, "sample d_model"], weights: Float[Array, "sample sample"], own: Bool[Array | np.ndarray, " sample"]
) -> Float[Array, "sample d_model"]:
    """Draw directions in the span of the differences of the rows that are `own`: their mean is taken out."""
    kept = jnp.asarray(own)[:, None]
    centred = jnp.where(
        kept, x - jnp.sum(jnp.where(kept, x, 0), axis=0, keepdims=True) / jnp.sum(kept, dtype=x.dtype), 0
    )
    return weights @ centred


@jax.jit
def _measure(branch: Branch, directions: Float[Array, "sample d_model"], sigma: Float[Array, " sample"]) -> Linearity:
    """Measure along a direction a sample, of any length; a row of zeros has none. `sigma` is σ₁."""
    f, (context, x) = jax.vmap(branch.f), branch.point
    length = _norm(x)
    size = _norm(directions)
    v = directions / jnp.where(size > 0, size, 1)[:, None]

    def along(x: Array) -> tuple[Array, Array]:
        return jax.jvp(functools.partial(f, context), (x,), (v,))

    (y, slope), (_, bend) = jax.jvp(along, (x,), (v,))
    gain = _norm(slope)
    divisor = jnp.where(gain > 0, gain, 1)
    curvature = jnp.where(gain > 0, _norm(bend) / divisor, jnp.nan)

    def error(epsilon: Float[Array, " sample"]) -> Float[Array, " sample"]:
        step = epsilon * length
        off = f(context, x + step[:, None] * v) - y - step[:, None] * slope
        return _norm(off / (jnp.where(step != 0, step, 1) * divisor)[:, None])

    # What rounding adds to e is this over ε: f rounds its answer, and x, which J passes on.
    rounded = NOISE * jnp.finfo(x.dtype).eps * (_norm(y) + sigma * length)
    floor = rounded / (jnp.where(length > 0, length, 1) * divisor)

    steps = jnp.asarray(SIGNED_STEPS, x.dtype)
    errors = jax.lax.map(lambda epsilon: error(jnp.broadcast_to(epsilon, length.shape)), steps, batch_size=TOGETHER).T
    count = len(STEPS)
    up, down = errors[:, count:], errors[:, count - 1 :: -1]
    proportion = curvature * length / 2
    radii = jax.vmap(lambda own, sign: _radius(own, sign, error, floor, proportion))(
        jnp.stack([up, down]), jnp.asarray([1, -1], x.dtype)
    )
    there = (gain > 0) & (length > 0)
    radius = jnp.where(there, jnp.min(radii, axis=0), jnp.nan)
    errors = jnp.where(jnp.isnan(radius)[:, None], jnp.nan, errors)
    return Linearity(radius, errors, gain, curvature)


def _radius(
    errors: Float[Array, "sample epsilon"],
    sign: Float[Array, ""],
    error: Any,
    floor: Float[Array, " sample"],
    proportion: Float[Array, " sample"],
) -> Float[Array, " sample"]:
    r"""Find the least ε of one sign at which e is 0.1: between two steps, by a pass there and log-log interpolation.

    Below the first step that counts e is taken to grow as `proportion` · ε, which is what D²f says of small ε. A step
    counts where rounding is less than `KNOWN` of its error.
    """
    steps = jnp.asarray(STEPS, errors.dtype)
    known = floor[:, None] < KNOWN * steps[None]
    above = known & ~(errors < TENTH)  # what is not finite is above
    first = jnp.argmax(above, axis=1)
    before = jnp.maximum(first - 1, 0)
    high, e_high = steps[first], _pick(errors, first)
    low, e_low = steps[before], _pick(errors, before)
    bracketed = (first > 0) & _pick(known, before)
    slope = jnp.where(proportion > 0, TENTH / jnp.where(proportion > 0, proportion, 1), high)
    guess = jnp.where(bracketed, _between(low, e_low, high, e_high), jnp.clip(slope, steps[0] / 10000, high))
    e_guess = error(sign * guess)
    left = ~(e_guess < TENTH)
    # The crossing is between the step below and the guess, or between that and the step above.
    inside = _between(
        jnp.where(left, low, guess), jnp.where(left, e_low, e_guess),
        jnp.where(left, guess, high), jnp.where(left, e_guess, e_high),
    )  # fmt: skip
    found = jnp.where(left & ~bracketed, guess * TENTH / e_guess, inside)
    found = jnp.where(floor < KNOWN * found, found, jnp.nan)
    return jnp.where(above.any(axis=1), found, jnp.where(known[:, -1], jnp.inf, jnp.nan))


def _between(low: Array, e_low: Array, high: Array, e_high: Array) -> Float[Array, " sample"]:
    """Find where e is 0.1 between two steps, e being a power of ε there; it is below at `low` and not at `high`."""
    tiny = jnp.finfo(low.dtype).tiny
    logs = jnp.log(jnp.maximum(jnp.stack([e_low, e_high]), tiny) / TENTH)
    share = logs[0] / jnp.where(logs[0] < logs[1], logs[0] - logs[1], -1)
    share = jnp.clip(jnp.nan_to_num(share, nan=1.0), 0, 1)
    return low * (high / low) ** share


def _pick(table: Array, place: Array) -> Array:
    return jnp.take_along_axis(table, place[:, None], axis=1)[:, 0]


def _norm(vectors: Float[Array, "sample d_model"]) -> Float[Array, " sample"]:
    """Compute lengths in units of the largest entry, so that squares neither overflow nor underflow."""
    largest = jnp.max(jnp.abs(vectors), axis=1)
    return largest * jnp.linalg.norm(vectors / jnp.where(largest > 0, largest, 1)[:, None], axis=1)
