"""The network of the paper's appendix: a perceptron on points of CIFAR-10's shape, lazy by the scale of its logits.

“Small Singular Values Matter”, appendix A, eq. 10: the softmax is of α times the logits, the loss is over α², and no
initial output is taken off. Points are generated or read from CIFAR-10's binary files.
"""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.files import read_file

TAUGHT, TEACHER_UNITS = 16, 32
"""Coordinates that the labels of generated points depend on, and hidden units of the teacher that gives them."""
TRAIN_FILES, TEST_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)
PIXELS, CLASSES, MOST_BYTES = 3072, 10, 2**26


class Perceptron(NamedTuple):
    """`W_L relu(… relu(W₁ x + b₁) …) + b_L`: weights (out, in) and biases of every layer."""

    weights: tuple[Float[Array, "m n"], ...]
    biases: tuple[Float[Array, " m"], ...]

    @property
    def hidden(self) -> tuple[Float[Array, "m n"], ...]:
        """The weights of all layers but the last."""
        return self.weights[:-1]

    def __call__(self, x: Float[Array, "sample n"]) -> Float[Array, "sample label"]:
        """Compute the logits at every point."""
        *hidden, (last, bias) = zip(self.weights, self.biases, strict=True)
        for weight, shift in hidden:
            x = jax.nn.relu(x @ weight.T + shift[None])
        return x @ last.T + bias[None]


class LabelledPoints(NamedTuple):
    """Points and their classes, from 0."""

    x: Float[Array, "sample n"]
    y: Int[Array, " sample"]


def draw_perceptron(key: Array, layers: tuple[int, ...]) -> Perceptron:
    """Draw weights from N(0, 2/n_in) (He et al. 2015), those of the output from N(0, 1/n_in); biases are zero."""
    sizes = list(itertools.pairwise(layers))
    gains = [2.0] * (len(sizes) - 1) + [1.0]
    weights = tuple(
        jax.random.normal(own, (rows, cols)) * (gain / cols) ** 0.5
        for own, (cols, rows), gain in zip(jax.random.split(key, len(sizes)), sizes, gains, strict=True)
    )
    return Perceptron(weights, tuple(jnp.zeros(rows) for _, rows in sizes))


def draw_classes(key: Array, inputs: int, classes: int, samples: int) -> tuple[LabelledPoints, LabelledPoints]:
    """Draw points to train on and as many to test: independent coordinates, the k-th of variance ∝ 1/k, Σ = inputs.

    Variances fall as those of natural images' principal components do, about; a random rotation would change nothing
    for a network whose first weights are Gaussian. The class is the largest output of a random network of one hidden
    layer on the first coordinates, standardised, so that every class is the largest about as often.
    """
    inside, first, second = jax.random.split(key, 3)
    z = jax.random.normal(inside, (2 * samples, inputs))
    taught = z[:, :TAUGHT]
    hidden = jax.nn.relu(taught @ jax.random.normal(first, (taught.shape[1], TEACHER_UNITS)))
    outputs = hidden @ jax.random.normal(second, (TEACHER_UNITS, classes))
    outputs = (outputs - outputs.mean(axis=0, keepdims=True)) / outputs.std(axis=0, keepdims=True)
    variances = 1 / np.arange(1, inputs + 1)
    x = z * jnp.asarray(np.sqrt(variances * inputs / variances.sum()), z.dtype)[None]
    y = outputs.argmax(axis=1)
    return LabelledPoints(x[:samples], y[:samples]), LabelledPoints(x[samples:], y[samples:])


def read_cifar(folder: str, samples: int, seed: int) -> tuple[LabelledPoints, LabelledPoints]:
    """Read CIFAR-10's binary files and draw points to train on and to test, pixels less their mean over their spread.

    **Raises:** `JacspecError` where files are missing, or are not records of a label and 3072 pixels.
    """
    rng = np.random.default_rng(seed)
    (pixels, labels), (test_pixels, test_labels) = (_records(folder, names) for names in (TRAIN_FILES, TEST_FILES))
    mean, spread = float(pixels.mean()), float(pixels.std()) or 1.0
    parts = []
    for x, y in ((pixels, labels), (test_pixels, test_labels)):
        chosen = rng.permutation(len(y))[:samples]
        parts.append(LabelledPoints(jnp.asarray((x[chosen] - mean) / spread), jnp.asarray(y[chosen])))
    return parts[0], parts[1]


def _records(folder: str, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    files = [Path(folder).expanduser() / name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise JacspecError(
            f"{missing[0]} is not there. lazy.path is the folder of CIFAR-10's binary version: "
            f"{TRAIN_FILES[0]} to {TRAIN_FILES[-1]} and {TEST_FILES[0]}."
        )
    found = []
    for file in files:
        raw = read_file(file, most=MOST_BYTES)
        if not raw or len(raw) % (PIXELS + 1) or max(raw[:: PIXELS + 1]) >= CLASSES:
            raise JacspecError(
                f"{file} is no file of CIFAR-10's binary version: a label below 10 and 3072 pixels each."
            )
        found.append(np.frombuffer(raw, np.uint8).reshape(-1, PIXELS + 1))
    records = np.concatenate(found)
    return records[:, 1:].astype(np.float32), records[:, 0].astype(np.int32)


def train_perceptron(
    initial: Perceptron,
    points: LabelledPoints,
    *,
    scale: float,
    steps: int,
    learning_rate: float,
    batch: int,
    frozen: int = 0,
    seed: int = 0,
) -> Perceptron:
    """Descend the gradient of the mean cross-entropy of softmax(α logits) over α², a batch of points a step.

    **Arguments:** `frozen`, how many of the first layers stay as they are, weights and biases; `seed`, of the order in
    which points come.

    **Raises:** `JacspecError` where the loss at the end is not finite.
    """
    count = len(points.y)
    size = min(batch, count)
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(count)[: count // size * size] for _ in range(-(-steps // (count // size)))]
    rows = np.concatenate(passes).reshape(-1, size)[:steps]
    trained = _descend(initial, points, jnp.asarray(rows), jnp.asarray(scale), jnp.asarray(learning_rate), frozen)
    if not np.isfinite(score(trained, points, scale)["loss"]):
        raise JacspecError(
            f"The loss at lazy.scales={scale:g} is not finite; lower lazy.learning_rate={learning_rate:g}."
        )
    return trained


@functools.partial(jax.jit, static_argnames="frozen")
def _descend(
    initial: Perceptron,
    points: LabelledPoints,
    rows: Int[Array, "step batch"],
    scale: Array,
    learning_rate: Array,
    frozen: int,
) -> Perceptron:
    fixed = jax.tree.map(lambda part: part[:frozen], initial, is_leaf=_is_layers)
    free = jax.tree.map(lambda part: part[frozen:], initial, is_leaf=_is_layers)

    def loss_of(free: Perceptron, x: Array, y: Array) -> Array:
        logits = scale * Perceptron(fixed.weights + free.weights, fixed.biases + free.biases)(x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y)) / jnp.square(scale)

    def step(free: Perceptron, own: Array) -> tuple[Perceptron, None]:
        gradient = jax.grad(loss_of)(free, points.x[own], points.y[own])
        return jax.tree.map(lambda weight, slope: weight - learning_rate * slope, free, gradient), None

    free = jax.lax.scan(step, free, rows)[0]
    return Perceptron(fixed.weights + free.weights, fixed.biases + free.biases)


def _is_layers(part: object) -> bool:
    return isinstance(part, tuple) and not isinstance(part, Perceptron)


def score(network: Perceptron, points: LabelledPoints, scale: float) -> dict[str, float]:
    """Measure a network: the share of right classes, and the mean cross-entropy of softmax(α logits) in nats."""
    logits = scale * np.asarray(network(points.x), np.float64)
    y = np.asarray(points.y)
    shifted = logits - logits.max(axis=1, keepdims=True)
    nats = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]
    return {"accuracy": float((logits.argmax(axis=1) == y).mean()), "loss": float(nats.mean())}
