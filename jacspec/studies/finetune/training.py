"""Fine-tune a classifier on labelled token sequences, measure it, and remove groups of its singular values."""

import functools
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jacspec.errors import JacspecError
from jacspec.models.classifier import Classifier
from jacspec.models.matrices import ROLES
from jacspec.models.modules import leaf_names
from jacspec.samples import Batch
from jacspec.spectra.subspaces import equal_ranges, factorise, group_of, remove_group

LOOK = 16


class Labelled(NamedTuple):
    """Samples with their labels, numbers from 0."""

    batch: Batch
    labels: Int[np.ndarray | Array, " sample"]

    def take(self, rows: Int[np.ndarray, " row"]) -> "Labelled":
        """Choose samples by number."""
        return jax.tree.map(lambda array: array[rows], self)


class Training(NamedTuple):
    """How a classifier is fine-tuned: AdamW, linear warm-up over the share `warmup` of the steps, linear decay to 0.

    With `frozen` above 0 the embeddings and so many of the first blocks stay as they are.
    """

    steps: int
    batch: int
    learning_rate: float
    warmup: float
    weight_decay: float
    frozen: int = 0


class Scores(NamedTuple):
    """How well labels are told: the share of right ones, and the mean cross-entropy in nats."""

    accuracy: float
    loss: float


def fine_tune(classifier: Classifier, data: Labelled, training: Training, *, seed: int) -> Classifier:
    """Train the weights of a classifier, embeddings included, on the cross-entropy of its labels.

    **Arguments:** `data`, the samples to train on, padded to one length; `seed`, of the order in which they come:
    every sample once before any comes again.

    **Returns:** the trained classifier; the one given is left as it is.

    **Raises:** `JacspecError` where the loss is not finite.
    """
    optimizer = _optimizer(training)
    classifier = jax.tree.map(jnp.copy, classifier)  # the steps below write into their arguments' memory
    state = optimizer.init(classifier)
    for step, rows in enumerate(draw_batches(len(data.labels), training, seed=seed)):
        classifier, state, loss = _update(training, classifier, state, data.take(rows))
        looked_at = step % LOOK == LOOK - 1 or step == training.steps - 1  # each look waits for the device
        if looked_at and not math.isfinite(float(loss)):
            raise JacspecError(f"The loss is not finite at step {step}; lower finetune.learning_rate.")
    return classifier


def draw_batches(samples: int, training: Training, *, seed: int) -> Iterator[Int[np.ndarray, " batch"]]:
    """Draw the rows of each step's batch: one permutation of the samples after another, cut into equal parts."""
    rng = np.random.default_rng(seed)
    waiting = np.zeros(0, np.int64)
    for _ in range(training.steps):
        while len(waiting) < training.batch:
            waiting = np.concatenate([waiting, rng.permutation(samples)])
        yield waiting[: training.batch]
        waiting = waiting[training.batch :]


def score(classifier: Classifier, data: Labelled, *, batch: int) -> Scores:
    """Measure a classifier, `batch` samples at a time; sums are in float64."""
    right, nats = 0, 0.0
    count = len(data.labels)
    for start in range(0, count, batch):
        rows = np.arange(start, start + batch)
        logits = np.asarray(compute_logits(classifier, data.take(np.minimum(rows, count - 1)).batch), np.float64)
        logits, labels = logits[: count - start], np.asarray(data.labels)[start : start + batch]
        shifted = logits - logits.max(axis=1, keepdims=True)
        nats += float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).sum())
        right += int((logits.argmax(axis=1) == labels).sum())
    return Scores(right / count, nats / count)


@jax.jit
def compute_logits(classifier: Classifier, batch: Batch) -> Float[Array, "sample label"]:
    """Compute the logits of every sample of a batch."""
    return jax.vmap(lambda tokens, length: classifier(tokens, length))(jnp.asarray(batch.tokens), batch.lengths)


def remove_groups(
    classifier: Classifier, *, group: int, groups: int, roles: Collection[str]
) -> tuple[Classifier, float]:
    """Remove one group of singular values of every matrix of these roles in the blocks, each matrix by itself.

    **Arguments:** `group`, from 1 (the largest values) to `groups`; `roles`, of q, k, v, o, up, gate, down.

    **Returns:** the classifier without them, and Σ‖removed‖²_F / Σ‖W‖²_F over these matrices.
    """
    ranks = equal_ranges(groups)[group - 1]
    removed, whole = 0.0, 0.0
    blocks = []
    for block in classifier.blocks:
        leaves = []
        for name, leaf in _named(block):
            if ROLES.get(name) in roles:
                factors = factorise(leaf)
                squares = np.square(factors.sigma, dtype=np.float64)
                removed += float(squares[group_of(ranks, squares.size)].sum())
                whole += float(squares.sum())
                leaf = remove_group(leaf, factors, ranks)
            leaves.append(leaf)
        blocks.append(jax.tree.unflatten(jax.tree.structure(block), leaves))
    return classifier._replace(blocks=tuple(blocks)), removed / whole


def most_groups(classifier: Classifier, roles: Collection[str]) -> int:
    """Count the singular values of the smallest matrix of these roles: more groups would leave some empty."""
    names = [(name, leaf) for block in classifier.blocks for name, leaf in _named(block) if ROLES.get(name) in roles]
    return min((min(leaf.shape) for _, leaf in names), default=0)


def _named(block: Any) -> Iterator[tuple[str, Array]]:
    return zip(leaf_names(block), jax.tree.leaves(block), strict=True)


def _optimizer(training: Training) -> optax.GradientTransformation:
    warm = round(training.warmup * training.steps)
    # The first step of a warm-up from zero would be lost: it begins one step in.
    up = optax.linear_schedule(training.learning_rate / (warm + 1), training.learning_rate, warm)
    down = optax.linear_schedule(training.learning_rate, 0.0, training.steps - warm)
    decayed = functools.partial(jax.tree.map, lambda leaf: leaf.ndim == 2)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.join_schedules([up, down], [warm]), weight_decay=training.weight_decay, mask=decayed),
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def _update(training: Training, classifier: Classifier, state: Any, data: Labelled) -> tuple[Classifier, Any, Array]:
    def loss_of(classifier: Classifier) -> Array:
        logits = compute_logits(classifier, data.batch)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.labels))

    loss, gradient = jax.value_and_grad(loss_of)(classifier)
    updates, state = _optimizer(training).update(_thawed(gradient, training.frozen), state, classifier)
    return optax.apply_updates(classifier, _thawed(updates, training.frozen)), state, loss


def _thawed(change: Classifier, frozen: int) -> Classifier:
    """Set to zero what is frozen of a gradient, which is clipped by its length, or of updates, which decay too."""
    if not frozen:
        return change
    embedding, blocks = jax.tree.map(jnp.zeros_like, (change.embedding, change.blocks[:frozen]))
    return change._replace(embedding=embedding, blocks=(*blocks, *change.blocks[frozen:]))
