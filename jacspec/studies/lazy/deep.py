"""Experiments on the classifier of `lazy.layers`: trained, some layers frozen or not, and cut before or after."""

from typing import NamedTuple

import jax
import numpy as np

from jacspec.spectra.subspaces import Factors, RankRange, equal_ranges, factorise, remove_group
from jacspec.studies.lazy import LazyOptions
from jacspec.studies.lazy.classifier import (
    LabelledPoints,
    Perceptron,
    draw_classes,
    draw_perceptron,
    read_cifar,
    train_perceptron,
)


class TrainedDeep(NamedTuple):
    """A classifier before and after training, and what it was trained on."""

    initial: Perceptron
    final: Perceptron
    train: LabelledPoints
    test: LabelledPoints


def train_deep(options: LazyOptions, scale: float, seed: int, group: int = 0) -> TrainedDeep:
    """Draw or read points and draw weights of a seed, remove a group (0: none) from these, and train them."""
    points, weights = jax.random.split(jax.random.key(seed))
    layers = tuple(options.layers)
    if options.path is None:
        train, test = draw_classes(points, layers[0], layers[-1], options.samples)
    else:
        train, test = read_cifar(options.path, options.samples, seed)
    initial = draw_perceptron(weights, layers)
    if group:
        initial = cut(initial, group, options)
    final = train_perceptron(
        initial,
        train,
        scale=scale,
        steps=options.steps,
        learning_rate=options.learning_rate,
        batch=options.batch,
        frozen=options.frozen,
        seed=seed,
    )
    return TrainedDeep(initial, final, train, test)


def cut(network: Perceptron, group: int, options: LazyOptions) -> Perceptron:
    """Remove a group, or it and all of smaller ones, from the first `lazy.cut` hidden weights (0: all)."""
    last = options.cut or len(network.hidden)
    weights = list(network.weights)
    for place in range(last):
        factors = factorise(weights[place])
        weights[place] = remove_group(weights[place], factors, ranks_of(factors, group, options))
    return network._replace(weights=tuple(weights))


def ranks_of(factors: Factors, group: int, options: LazyOptions) -> RankRange:
    """Say which shares of the ranks a group is: of equally many values, or with `by_mass` of equal shares of Σσ.

    By mass the group begins at the first value with which the larger ones have more than (group − 1)/groups of Σσ.
    """
    start, stop = equal_ranges(options.groups)[group - 1]
    if options.by_mass:
        held = np.cumsum(factors.sigma, dtype=np.float64)
        begins = np.searchsorted(held, [share * held[-1] * (1 + 1e-9) for share in (start, stop)], side="right")
        start, stop = (begins / len(held)).tolist()
    return (start, 1.0) if options.and_smaller or group == options.groups else (start, stop)
