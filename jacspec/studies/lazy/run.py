"""`task=lazy`: groups of singular values removed from small networks that learnt lazily or not.

With f(x; w) the network and w₀ its initial weights, what is fitted is α (f(x; w) − f(x; w₀)), by gradient descent on
1/α² times the squared loss (Chizat, Oyallon & Bach 2019, eq. 1 and 3). At large α the weights hardly move and the
network is its linearisation (lazy); at small α they move far and features are learnt (rich).
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError, check_least
from jacspec.runs.rows import experiment_layout
from jacspec.spectra.subspaces import equal_ranges, factorise, remove_group
from jacspec.studies.inputs import Inputs
from jacspec.studies.lazy import LAZY, LazyOptions
from jacspec.studies.lazy.classifier import CLASSES, PIXELS, Perceptron, score
from jacspec.studies.lazy.deep import TrainedDeep, cut, train_deep
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

TEACHER_UNITS = 4


class Network(NamedTuple):
    """`aᵀ relu(W₂ relu(W₁ x))`: two hidden layers without biases, weights (out, in)."""

    hidden: tuple[Float[Array, "m n"], ...]
    out: Float[Array, " m"]

    def __call__(self, x: Float[Array, "sample n"]) -> Float[Array, " sample"]:
        """Compute the output at every point."""
        for weight in self.hidden:
            x = jax.nn.relu(x @ weight.T)
        return x @ self.out


class Points(NamedTuple):
    """Points and their targets, 1 or −1."""

    x: Float[Array, "sample n"]
    y: Float[Array, " sample"]


def draw_network(key: Array, inputs: int, width: int) -> Network:
    """Draw weights from N(0, 2/n_in) (He et al. 2015), those of the output from N(0, 1/n_in)."""
    first, second, out = jax.random.split(key, 3)
    hidden = (
        jax.random.normal(first, (width, inputs)) * (2 / inputs) ** 0.5,
        jax.random.normal(second, (width, width)) * (2 / width) ** 0.5,
    )
    return Network(hidden, jax.random.normal(out, (width,)) * width**-0.5)


def draw_points(key: Array, inputs: int, samples: int) -> tuple[Points, Points]:
    """Draw points to train on and as many to test, x from N(0, I), with the targets of a random teacher.

    The teacher is Σ_j b_j φ(u_jᵀx), φ(z) = max(z, z/10), of four random unit vectors u_j with signs b_j = ±1, two of
    each; the target is the sign of what it exceeds its median over all points by, so that both are equally frequent
    and chance is one half. (With relu one point in sixteen would lie at the median itself.)
    """
    directions, inside = jax.random.split(key)
    units = jax.random.normal(directions, (TEACHER_UNITS, inputs))
    units = units / jnp.linalg.norm(units, axis=1, keepdims=True)
    signs = jnp.where(jnp.arange(TEACHER_UNITS) % 2 == 0, 1.0, -1.0)
    x = jax.random.normal(inside, (2 * samples, inputs))
    taught = jax.nn.leaky_relu(x @ units.T, 0.1) @ signs
    y = jnp.where(taught > jnp.median(taught), 1.0, -1.0)
    return Points(x[:samples], y[:samples]), Points(x[samples:], y[samples:])


def train_network(initial: Network, points: Points, *, scale: float, steps: int, learning_rate: float) -> Network:
    """Descend the gradient of (1/α²) mean (α (f(x; w) − f(x; w₀)) − y)²/2 in all weights, over all points at once.

    **Arguments:** `scale`, α; `learning_rate`, the same for every α: the factor 1/α² makes it so.

    **Raises:** `JacspecError` where the loss at the end is not finite.
    """
    trained = _descend(initial, points, jnp.asarray(scale), jnp.asarray(learning_rate), steps)
    if not np.isfinite(measure_output(trained, initial, points, scale)["loss"]):
        raise JacspecError(
            f"The loss at lazy.scales={scale:g} is not finite; lower lazy.learning_rate={learning_rate:g}."
        )
    return trained


@functools.partial(jax.jit, static_argnames="steps")
def _descend(initial: Network, points: Points, scale: Array, learning_rate: Array, steps: int) -> Network:
    begun = initial(points.x)

    def loss_of(network: Network) -> Array:
        return jnp.mean(jnp.square(scale * (network(points.x) - begun) - points.y)) / (2 * jnp.square(scale))

    def step(network: Network, _: None) -> tuple[Network, None]:
        gradient = jax.grad(loss_of)(network)
        return jax.tree.map(lambda weight, slope: weight - learning_rate * slope, network, gradient), None

    return jax.lax.scan(step, initial, length=steps)[0]


def measure_output(network: Network, initial: Network, points: Points, scale: float) -> dict[str, float]:
    """Measure α (f(x; w) − f(x; w₀)): the share of right signs, and the mean of (output − target)²/2."""
    output = scale * np.asarray(network(points.x) - initial(points.x), np.float64)
    y = np.asarray(points.y, np.float64)
    return {"accuracy": float((output * y > 0).mean()), "loss": float(np.square(output - y).mean() / 2)}


def relative_movement(network: Network | Perceptron, initial: Network | Perceptron) -> float:
    """Return ‖W − W₀‖_F / ‖W₀‖_F over all hidden weights together; NaN where W₀ is zero."""

    def norm(weights: list[np.ndarray]) -> float:
        return float(np.sqrt(sum(np.square(weight).sum() for weight in weights)))

    first = [np.asarray(weight, np.float64) for weight in initial.hidden]
    last = [np.asarray(weight, np.float64) for weight in network.hidden]
    begun = norm(first)
    return norm([after - before for after, before in zip(last, first, strict=True)]) / begun if begun else float("nan")


def remove_from(network: Network, group: int, options: LazyOptions) -> Network:
    """Remove a group of the singular values of every hidden weight (1: the largest), or it and all of smaller ones."""
    ranks = equal_ranges(options.groups)[group - 1]
    if options.and_smaller:
        ranks = (ranks[0], 1.0)
    return network._replace(hidden=tuple(remove_group(weight, factorise(weight), ranks) for weight in network.hidden))


NONE, AFTER, BOTH, BEFORE = "none", "after", "both", "before"


class Key(NamedTuple):
    """One experiment: α, when a group is removed, which (0: none), the seed.

    `after`: from the trained network, f₀ being what it was; `both`: from the trained network and from f₀ alike, so that
    only what training changed is judged; `before`: from the initial network, which is then trained.
    """

    scale: float
    order: str
    group: int
    seed: int


class Trained(NamedTuple):
    """A network before and after training, and what it was trained on."""

    initial: Network
    final: Network
    train: Points
    test: Points


def run_lazy(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Train and cut the networks of every scale into `folder`, or resume what `config.resume` holds."""
    options = config.own(LazyOptions)
    _check(options, config.seed)
    with numerics(config.precision.value):
        run_rows(config, folder, console, inputs, lambda: _prepare(config))


def _prepare(config: Config) -> RowWork:
    options = config.own(LazyOptions)
    keys = list_keys(options, config.seed)
    train, measure_one = (train_deep, measure_deep) if options.layers else (train_whole, measure)

    def stream(done: Mapping[int, Row]) -> Iterator[list[Row]]:
        whole: Any = functools.lru_cache(maxsize=1)(functools.partial(train, options))
        for number, key in enumerate(keys):
            if number not in done:
                yield [Row(number, tuple(key), measure_one(options, key, whole(key.scale, key.seed)))]

    # What the page calls the model.
    sizes = options.layers or [options.inputs, options.width, options.width, 1]
    name = f"MLP {'–'.join(map(str, sizes))}" + f", {options.frozen} layers frozen" * (options.frozen > 0)
    facts = {"chance": 1 / max(sizes[-1], 2), "corpus": {"source": _source(options)}}
    layout = experiment_layout(Key._fields, tuple(LAZY), over="seed")
    return RowWork(layout, {"checkpoint": {"name": name}}, facts, stream, total=len(keys))


def _source(options: LazyOptions) -> str:
    if options.path is not None:
        return options.path
    classes = "classes" if options.layers else "signs"
    return f"points from a normal distribution, {classes} of a random teacher"


def list_keys(options: LazyOptions, first: int) -> list[Key]:
    """List the experiments, those of one trained network together.

    A classifier has no f₀ to remove from; against the share removed, what is removed before training is not drawn.
    """
    orders = (AFTER, *(BOTH,) * (not options.layers), *(BEFORE,) * (not options.and_smaller))
    return [
        Key(scale, order, group, seed)
        for scale in options.scales
        for seed in range(first, first + options.seeds)
        for order, groups in ((NONE, [0]), *((order, options.removed) for order in orders))
        for group in groups
    ]


def train_whole(options: LazyOptions, scale: float, seed: int, group: int = 0) -> Trained:
    """Draw points and network of a seed, remove a group (0: none) from the network, and train it."""
    points, weights = jax.random.split(jax.random.key(seed))
    train, test = draw_points(points, options.inputs, options.samples)
    initial = draw_network(weights, options.inputs, options.width)
    if group:
        initial = remove_from(initial, group, options)
    final = train_network(initial, train, scale=scale, steps=options.steps, learning_rate=options.learning_rate)
    return Trained(initial, final, train, test)


def measure(options: LazyOptions, key: Key, whole: Trained) -> dict[str, float]:
    """Do one experiment on the network that was trained without removal."""
    found = train_whole(options, key.scale, key.seed, key.group) if key.order == BEFORE else whole
    initial, final = found.initial, found.final
    movement = relative_movement(final, initial)
    if key.order in (AFTER, BOTH):
        final = remove_from(final, key.group, options)
    if key.order == BOTH:
        initial = remove_from(initial, key.group, options)
    test = measure_output(final, initial, found.test, key.scale)
    train = measure_output(final, initial, found.train, key.scale)
    return {
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "train_loss": train["loss"],
        "movement": movement,
    }


def measure_deep(options: LazyOptions, key: Key, whole: TrainedDeep) -> dict[str, float]:
    """Do one experiment on the classifier that was trained without removal."""
    found = train_deep(options, key.scale, key.seed, key.group) if key.order == BEFORE else whole
    movement = relative_movement(found.final, found.initial)
    final = cut(found.final, key.group, options) if key.order == AFTER else found.final
    test, train = (score(final, points, key.scale) for points in (found.test, found.train))
    losses = {"test_loss": test["loss"], "train_loss": train["loss"]}
    return {"test_accuracy": test["accuracy"], **losses, "movement": movement}


def _check(options: LazyOptions, seed: int) -> None:
    for name in ("inputs", "width", "samples", "steps", "groups", "seeds"):
        check_least(f"lazy.{name}", getattr(options, name), 1)
    check_least("seed", seed, 0)
    if not options.scales or min(options.scales) <= 0 or len({*options.scales}) < len(options.scales):
        raise JacspecError(f"lazy.scales={options.scales} are not scales. Give different ones above 0, as [0.1,1,10].")
    if not options.learning_rate > 0:
        raise JacspecError(f"lazy.learning_rate={options.learning_rate} is not above 0. Give one as 0.02.")
    _check_layers(options)
    if options.groups > (most := min(options.layers[:-1] or [options.inputs, options.width])):
        raise JacspecError(f"lazy.groups={options.groups}, but there are {most} singular values. Give {most} or fewer.")
    if wrong := [group for group in options.removed if not 1 <= group <= options.groups]:
        raise JacspecError(f"lazy.removed has {wrong[0]}. Accepted: 1 (the largest values) to {options.groups}.")


def _check_layers(options: LazyOptions) -> None:
    """Refuse layers that make no classifier, and what is said of layers where there are none."""
    hidden = len(options.layers) - 2
    if not options.layers:
        given = {"path": options.path, "frozen": options.frozen, "cut": options.cut, "by_mass": options.by_mass}
        if own := [name for name, value in given.items() if value]:
            raise JacspecError(f"lazy.{own[0]} is of a classifier. Give its layers too, as lazy.layers=[3072,512,10].")
        return
    if hidden < 1 or min(options.layers) < 1 or options.layers[-1] < 2:
        raise JacspecError(
            f"lazy.layers={options.layers} make no classifier. Give inputs, widths and classes, as [3072,512,10]."
        )
    if options.path is not None and (options.layers[0], options.layers[-1]) != (PIXELS, CLASSES):
        raise JacspecError(f"lazy.layers={options.layers}, but lazy.path has {PIXELS} inputs and {CLASSES} classes.")
    check_least("lazy.batch", options.batch, 1)
    for name in ("frozen", "cut"):
        if not 0 <= (value := getattr(options, name)) <= hidden:
            raise JacspecError(f"lazy.{name}={value}, but there are {hidden} hidden layers. Accepted: 0 to {hidden}.")
