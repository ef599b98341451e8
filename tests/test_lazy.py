"""`task=lazy`: gradient descent against NumPy, the lazy limit against its closed form, runs."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from servers import assert_refused, run_here

from jacspec import open_run
from jacspec.api.options import compose
from jacspec.backend import numerics
from jacspec.studies.lazy import LazyOptions
from jacspec.studies.lazy.run import (
    Network,
    Points,
    draw_network,
    draw_points,
    list_keys,
    measure_output,
    relative_movement,
    remove_from,
    train_network,
)

SMALL = ("lazy.inputs=8", "lazy.width=12", "lazy.samples=24", "lazy.steps=5", "lazy.groups=4", "lazy.removed=[1,4]")


def _draw(inputs: int = 8, width: int = 12, samples: int = 24) -> tuple[Network, Points, Points]:
    network = draw_network(jax.random.key(0), inputs, width)
    return (network, *draw_points(jax.random.key(1), inputs, samples))


def _forward(weights: list[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """The layers of the network in NumPy, the output last."""
    first = np.maximum(x @ weights[0].T, 0)
    second = np.maximum(first @ weights[1].T, 0)
    return [x, first, second, second @ weights[2]]


def _descend(network: Network, points: Points, scale: float, steps: int, rate: float) -> list[np.ndarray]:
    """Gradient descent with the chain rule written out."""
    weights = [np.asarray(weight, np.float64) for weight in (*network.hidden, network.out)]
    x, y = np.asarray(points.x), np.asarray(points.y)
    begun = _forward(weights, x)[-1]
    for _ in range(steps):
        _, first, second, output = _forward(weights, x)
        slope = (scale * (output - begun) - y) / (scale * len(y))
        second_slope = np.outer(slope, weights[2]) * (second > 0)
        first_slope = (second_slope @ weights[1]) * (first > 0)
        gradients = [first_slope.T @ x, second_slope.T @ first, second.T @ slope]
        weights = [weight - rate * gradient for weight, gradient in zip(weights, gradients, strict=True)]
    return weights


@pytest.mark.parametrize("scale", [0.3, 1.0, 20.0])
def test_training_is_that_of_numpy(scale: float) -> None:
    with numerics("float64"):
        network, points, _ = _draw()
        trained = train_network(network, points, scale=scale, steps=50, learning_rate=0.05)
    expected = _descend(network, points, scale, 50, 0.05)
    for found, weight in zip((*trained.hidden, trained.out), expected, strict=True):
        np.testing.assert_allclose(np.asarray(found), weight, atol=1e-11)
    other = _descend(network, points, 1.1 * scale, 50, 0.05)
    assert max(np.abs(np.asarray(trained.hidden[1]) - other[1]).max(), 0) > 1e-6


def test_the_lazy_limit_is_kernel_descent() -> None:
    """At α → ∞ the outputs follow u ← u − η K (u − y)/n with the kernel K = J Jᵀ of the initial network."""
    steps, rate = 400, 0.02
    with numerics("float64"):
        network, points, _ = _draw(width=16)
        flat = [torch.tensor(np.asarray(weight)) for weight in (*network.hidden, network.out)]
        x, y = torch.tensor(np.asarray(points.x)), np.asarray(points.y)

        def output(first: torch.Tensor, second: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
            return torch.relu(torch.relu(x @ first.T) @ second.T) @ out

        jacobian = np.concatenate(
            [part.reshape(len(y), -1).numpy() for part in torch.func.jacrev(output, (0, 1, 2))(*flat)], axis=1
        )
        kernel = jacobian @ jacobian.T / len(y)
        expected = y - np.linalg.matrix_power(np.eye(len(y)) - rate * kernel, steps) @ y
        errors = {}
        for scale in (1e2, 1e4, 1.0):
            trained = train_network(network, points, scale=scale, steps=steps, learning_rate=rate)
            found = scale * np.asarray(trained(points.x) - network(points.x))
            errors[scale] = np.abs(found - expected).max()
    assert errors[1e4] < 1e-3
    assert errors[1e2] < 0.1
    assert errors[1.0] > 0.1  # rich: the kernel moves


def test_movement_falls_with_the_scale() -> None:
    with numerics("float64"):
        network, points, _ = _draw()
        moved = {
            scale: relative_movement(
                train_network(network, points, scale=scale, steps=200, learning_rate=0.02), network
            )
            for scale in (0.1, 100.0, 1000.0)
        }
        assert relative_movement(network, network) == 0
        doubled = network._replace(hidden=tuple(3 * weight for weight in network.hidden))
        assert relative_movement(doubled, network) == pytest.approx(2)
    assert moved[100.0] / moved[1000.0] == pytest.approx(10, rel=0.05)
    assert moved[0.1] > 20 * moved[100.0]


def test_removal_and_measures() -> None:
    with numerics("float64"):
        network, _, test = _draw()
        options = dataclasses.replace(compose("lazy").own(LazyOptions), groups=4)
        cut = remove_from(network, 4, options)
        halved = remove_from(network, 3, dataclasses.replace(options, and_smaller=True))
    for weight, left in zip(network.hidden, cut.hidden, strict=True):
        u, sigma, vt = np.linalg.svd(np.asarray(weight), full_matrices=False)
        kept = 3 * len(sigma) // 4
        np.testing.assert_allclose(np.asarray(left), (u[:, :kept] * sigma[:kept]) @ vt[:kept], atol=1e-12)
    for weight, left in zip(network.hidden, halved.hidden, strict=True):
        u, sigma, vt = np.linalg.svd(np.asarray(weight), full_matrices=False)
        kept = len(sigma) // 2
        np.testing.assert_allclose(np.asarray(left), (u[:, :kept] * sigma[:kept]) @ vt[:kept], atol=1e-12)
    np.testing.assert_array_equal(np.asarray(cut.out), np.asarray(network.out))
    outputs = [
        _forward([np.asarray(weight) for weight in (*each.hidden, each.out)], np.asarray(test.x))[-1]
        for each in (cut, network)
    ]
    output, y = 7 * (outputs[0] - outputs[1]), np.asarray(test.y)
    with numerics("float64"):
        found = measure_output(cut, network, test, 7.0)
    assert found["accuracy"] == ((output > 0) == (y > 0)).mean()
    assert found["loss"] == pytest.approx(((output - y) ** 2).mean() / 2, rel=1e-9)


def test_targets_are_balanced_and_can_be_learnt() -> None:
    with numerics("float32"):
        network, points, test = _draw(inputs=8, width=32, samples=256)
        y = np.concatenate([np.asarray(points.y), np.asarray(test.y)])
        assert set(y.tolist()) == {-1.0, 1.0}
        assert y.sum() == 0
        trained = train_network(network, points, scale=0.3, steps=800, learning_rate=0.03)
        assert measure_output(trained, network, test, 0.3)["accuracy"] > 0.75
        assert measure_output(network, network, test, 0.3)["accuracy"] == 0  # an output of 0 has no sign
    assert jnp.float32 == points.x.dtype


def test_run_over_scales(tmp_path: Path) -> None:
    done = run_here("task=lazy", *SMALL, "lazy.scales=[0.5,5]", "lazy.seeds=2", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert list(run.metrics)[:4] == ["scale", "order", "group", "seed"]
    assert len(run.metrics) == 2 * 2 * (1 + 3 * 2)
    table = run.metrics.set_index(["scale", "order", "group", "seed"])
    for seed in (0, 1):
        whole = table.loc[(5.0, "none", 0, seed)]
        assert (table.loc[(5.0, "after", 4, seed)]["movement"]) == whole["movement"]
        assert table.loc[(5.0, "before", 1, seed)]["movement"] != whole["movement"]
    assert {file.stem for file in (tmp_path / "out" / "figures").glob("*.png")} == {
        "movement",
        "test_accuracy",
        "test_loss",
    }
    page = (tmp_path / "out" / "report.html").read_text()
    assert "MLP 8–12–12–1: singular values in the lazy and the rich regime" in page


@pytest.mark.parametrize("layers", [[], [12, 9, 4]])
def test_every_training_of_a_run_is_drawn(layers: list[int]) -> None:
    """Against the share removed figures have nothing removed before training, so that nothing is trained for it."""
    options = dataclasses.replace(compose("lazy").own(LazyOptions), layers=layers, removed=[2, 3], seeds=2)
    assert {key.order for key in list_keys(options, 0)} == {
        "none",
        "after",
        "before",
        *(["both"] if not layers else []),
    }
    against_share = list_keys(dataclasses.replace(options, and_smaller=True), 0)
    assert {key.order for key in against_share} == {"none", "after", *(["both"] if not layers else [])}


WRONG = {
    "lazy.scales=[]": ("lazy.scales=[]",),
    "lazy.scales=[1,0]": ("above 0",),
    "lazy.scales=[1,1.0]": ("different",),
    "lazy.width=0": ("lazy.width=0",),
    "lazy.groups=33": ("lazy.groups=33", "32 singular values"),
    "lazy.removed=[0]": ("lazy.removed has 0", "to 10"),
    "lazy.learning_rate=-1": ("lazy.learning_rate=-1",),
    "lazy.learning_rate=1e9 lazy.steps=9": ("not finite", "lower lazy.learning_rate"),
    "seed=-1": ("seed=-1",),
}


@pytest.mark.parametrize(("given", "fragments"), WRONG.items(), ids=WRONG)
def test_bad_input(given: str, fragments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_here("task=lazy", *given.split(), "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, *fragments)
