"""`task=lazy`: groups of singular values removed from small networks that learnt lazily or not."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from jacspec.backend import numerics
from jacspec.config import Config
from jacspec.errors import JacspecError
from jacspec.glossary import Row
from jacspec.runs.rows import experiment_layout
from jacspec.studies.inputs import Inputs
from jacspec.studies.lazy.columns import LAZY
from jacspec.studies.lazy.network import (
    Network,
    Points,
    draw_network,
    draw_points,
    measure_output,
    relative_movement,
    remove_from,
    train_network,
)
from jacspec.studies.lazy.options import LazyOptions
from jacspec.studies.run import run_rows
from jacspec.studies.work import RowWork

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

    def stream(done: Mapping[int, Row]) -> Iterator[list[Row]]:
        whole = functools.lru_cache(maxsize=1)(functools.partial(train_whole, options))
        for number, key in enumerate(keys):
            if number not in done:
                yield [Row(number, tuple(key), measure(options, key, whole(key.scale, key.seed)))]

    # What the page calls the model.
    name = f"MLP {options.inputs}–{options.width}–{options.width}–1"
    facts = {"chance": 0.5, "corpus": {"source": "points from N(0, I), signs of a random teacher"}}
    layout = experiment_layout(Key._fields, tuple(LAZY), over="seed")
    return RowWork(layout, {"checkpoint": {"name": name}}, facts, stream, total=len(keys))


def list_keys(options: LazyOptions, first: int) -> list[Key]:
    """List the experiments, those of one trained network together."""
    return [
        Key(scale, order, group, seed)
        for scale in options.scales
        for seed in range(first, first + options.seeds)
        for order, groups in ((NONE, [0]), *((order, options.removed) for order in (AFTER, BOTH, BEFORE)))
        for group in groups
    ]


def train_whole(options: LazyOptions, scale: float, seed: int, group: int = 0) -> Trained:
    """Draw points and network of a seed, remove a group (0: none) from the network, and train it."""
    points, weights = jax.random.split(jax.random.key(seed))
    train, test = draw_points(points, options.inputs, options.samples)
    initial = draw_network(weights, options.inputs, options.width)
    if group:
        initial = remove_from(initial, group, options.groups)
    final = train_network(initial, train, scale=scale, steps=options.steps, learning_rate=options.learning_rate)
    return Trained(initial, final, train, test)


def measure(options: LazyOptions, key: Key, whole: Trained) -> dict[str, float]:
    """Do one experiment on the network that was trained without removal."""
    found = train_whole(options, key.scale, key.seed, key.group) if key.order == BEFORE else whole
    initial, final = found.initial, found.final
    movement = relative_movement(final, initial)
    if key.order in (AFTER, BOTH):
        final = remove_from(final, key.group, options.groups)
    if key.order == BOTH:
        initial = remove_from(initial, key.group, options.groups)
    test = measure_output(final, initial, found.test, key.scale)
    train = measure_output(final, initial, found.train, key.scale)
    return {
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "train_loss": train["loss"],
        "movement": movement,
    }


def _check(options: LazyOptions, seed: int) -> None:
    for name in ("inputs", "width", "samples", "steps", "groups", "seeds"):
        if (value := getattr(options, name)) < 1:
            raise JacspecError(f"lazy.{name}={value} is less than 1. Type lazy.{name}=N with N of 1 or more.")
    if seed < 0:
        raise JacspecError(f"seed={seed} is negative. Type seed=N with N of 0 or more.")
    if not options.scales or min(options.scales) <= 0 or len({*options.scales}) < len(options.scales):
        raise JacspecError(f"lazy.scales={options.scales} are not scales. Give different ones above 0, as [0.1,1,10].")
    if not options.learning_rate > 0:
        raise JacspecError(f"lazy.learning_rate={options.learning_rate} is not above 0. Give one as 0.02.")
    if options.groups > (most := min(options.inputs, options.width)):
        raise JacspecError(f"lazy.groups={options.groups}, but there are {most} singular values. Give {most} or fewer.")
    if wrong := [group for group in options.removed if not 1 <= group <= options.groups]:
        raise JacspecError(f"lazy.removed has {wrong[0]}. Accepted: 1 (the largest values) to {options.groups}.")
