"""The classifier of `task=lazy` against PyTorch, frozen layers and groups by mass, CIFAR-10's files."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
import torch
from servers import assert_refused, run_here

from jacspec import open_run
from jacspec.api.options import compose
from jacspec.backend import numerics
from jacspec.errors import JacspecError
from jacspec.runs.rows import RowWriter
from jacspec.spectra.subspaces import factorise
from jacspec.studies.lazy import LazyOptions
from jacspec.studies.lazy.classifier import (
    PIXELS,
    LabelledPoints,
    Perceptron,
    draw_classes,
    draw_perceptron,
    read_cifar,
    score,
    train_perceptron,
)
from jacspec.studies.lazy.deep import cut, ranks_of
from jacspec.studies.lazy.figures import lazy_figures

LAYERS = (12, 9, 8, 7, 4)
SMALL = (
    *("lazy.layers=[12,9,8,4]", "lazy.scales=[1,15]", "lazy.samples=40", "lazy.steps=6", "lazy.batch=16"),
    *("lazy.groups=4", "lazy.removed=[2,4]", "lazy.seeds=2"),
)


def drawn() -> tuple[Perceptron, LabelledPoints]:
    train, _ = draw_classes(jax.random.key(1), LAYERS[0], LAYERS[-1], 30)
    return draw_perceptron(jax.random.key(0), LAYERS), train


def options_with(**changes: Any) -> LazyOptions:
    return dataclasses.replace(compose("lazy").own(LazyOptions), layers=[*LAYERS], groups=4, **changes)


def in_torch(network: Perceptron, points: LabelledPoints, *, scale: float, steps: int, rate: float, frozen: int) -> Any:
    """Train PyTorch's own layers by its own SGD, all points in each step."""
    sizes = list(itertools.pairwise(LAYERS))
    linear = [torch.nn.Linear(cols, rows, dtype=torch.float64) for cols, rows in sizes]
    for layer, weight, bias in zip(linear, network.weights, network.biases, strict=True):
        layer.weight.data, layer.bias.data = (torch.tensor(np.asarray(each)) for each in (weight, bias))
    for layer in linear[:frozen]:
        layer.requires_grad_(False)
    parts = [part for layer in linear for part in (layer, torch.nn.ReLU())][:-1]
    model = torch.nn.Sequential(*parts)
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=rate)
    x, y = torch.tensor(np.asarray(points.x)), torch.tensor(np.asarray(points.y), dtype=torch.long)
    for _ in range(steps):
        optimizer.zero_grad()
        (torch.nn.functional.cross_entropy(scale * model(x), y) / scale**2).backward()
        optimizer.step()
    return linear


@pytest.mark.few(2)
@pytest.mark.parametrize(("scale", "frozen"), [(1.0, 0), (15.0, 0), (15.0, 2)])
def test_training_is_that_of_torch_and_frozen_layers_do_not_move(scale: float, frozen: int) -> None:
    with numerics("float64"):
        network, points = drawn()
        trained = train_perceptron(network, points, scale=scale, steps=20, learning_rate=0.1, batch=30, frozen=frozen)
    expected = in_torch(network, points, scale=scale, steps=20, rate=0.1, frozen=frozen)
    other = in_torch(network, points, scale=scale, steps=20, rate=0.1, frozen=2 - frozen)
    for weight, bias, layer in zip(trained.weights, trained.biases, expected, strict=True):
        np.testing.assert_allclose(np.asarray(weight), layer.weight.detach().numpy(), atol=1e-12)
        np.testing.assert_allclose(np.asarray(bias), layer.bias.detach().numpy(), atol=1e-12)
    assert np.abs(np.asarray(trained.weights[0]) - other[0].weight.detach().numpy()).max() > 1e-4
    moved = [not np.array_equal(*each) for each in zip(trained.weights, network.weights, strict=True)]
    assert moved == [place >= frozen for place in range(len(moved))]


@pytest.mark.thorough
def test_batches_take_every_point_once_before_any_again() -> None:
    """A batch as large as half of the points: two steps are one pass."""
    network, points = drawn()
    one = train_perceptron(network, points, scale=1.0, steps=1, learning_rate=0.1, batch=30)
    half = train_perceptron(network, points, scale=1.0, steps=1, learning_rate=0.1, batch=15)
    assert np.abs(np.asarray(one.weights[0]) - np.asarray(half.weights[0])).max() > 1e-5
    order = np.random.default_rng(0).permutation(30)[:15]
    own = LabelledPoints(points.x[order], points.y[order])
    alone = train_perceptron(network, own, scale=1.0, steps=1, learning_rate=0.1, batch=15)
    np.testing.assert_allclose(np.asarray(half.weights[0]), np.asarray(alone.weights[0]), atol=1e-6)


def test_score_is_that_of_torch() -> None:
    network, points = drawn()
    logits = 3.0 * torch.tensor(np.asarray(network(points.x)), dtype=torch.float64)
    y = torch.tensor(np.asarray(points.y), dtype=torch.long)
    found = score(network, points, 3.0)
    assert found["accuracy"] == pytest.approx(float((logits.argmax(1) == y).double().mean()))
    assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, y)), rel=1e-6)


def test_generated_classes_are_balanced_and_can_be_learnt() -> None:
    train, test = draw_classes(jax.random.key(3), 64, 5, 2000)
    counts = np.bincount(np.asarray(train.y), minlength=5) / 2000
    assert 0.1 < counts.min() <= counts.max() < 0.35
    network = draw_perceptron(jax.random.key(4), (64, 64, 5))
    trained = train_perceptron(network, train, scale=1.0, steps=400, learning_rate=0.05, batch=100)
    assert score(trained, test, 1.0)["accuracy"] > counts.max() + 0.2
    variances = np.asarray(train.x).var(axis=0)
    np.testing.assert_allclose(variances[:8] * np.arange(1, 9) / variances[0], 1, rtol=0.15)


@pytest.mark.parametrize("group", [1, 3, 4])
def test_groups_by_mass_hold_their_share(group: int) -> None:
    """With the group and all smaller ones gone, what is left is the most of the largest values within its share."""
    options = options_with(by_mass=True, and_smaller=True)
    network, _ = drawn()
    for before, after in zip(network.hidden, cut(network, group, options).hidden, strict=True):
        sigma, left = (np.linalg.svd(np.asarray(each, np.float64), compute_uv=False) for each in (before, after))
        share = (group - 1) / 4
        kept = int((np.cumsum(sigma) <= share * sigma.sum()).sum())
        np.testing.assert_allclose(left, [*sigma[:kept], *[0.0] * (len(sigma) - kept)], atol=2e-6)
    plain = options_with()
    assert ranks_of(factorise(network.weights[0]), group, plain) == ((group - 1) / 4, group / 4)


def test_only_the_first_layers_are_cut() -> None:
    options = options_with(cut=2)
    network, _ = drawn()
    changed = [
        not np.array_equal(*each) for each in zip(cut(network, 1, options).weights, network.weights, strict=True)
    ]
    assert changed == [True, True, False, False]


def write_cifar(folder: Path) -> np.ndarray:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (6, 7, PIXELS + 1), dtype=np.uint8)
    records[:, :, 0] %= 10
    for name, own in zip([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"], records, strict=True):
        (folder / f"{name}.bin").write_bytes(own.tobytes())
    return records


def test_cifar_is_read_record_by_record(tmp_path: Path) -> None:
    records = write_cifar(tmp_path)
    train, test = read_cifar(str(tmp_path), 20, seed=0)
    assert (len(train.y), len(test.y)) == (20, 7)
    pixels = records[:5, :, 1:].reshape(-1, PIXELS).astype(np.float64)
    known = {row.tobytes(): int(label) for row, label in zip(records[5, :, 1:], records[5, :, 0], strict=True)}
    back = np.rint(np.asarray(test.x, np.float64) * pixels.std() + pixels.mean()).astype(np.uint8)
    assert [known[row.tobytes()] for row in back] == np.asarray(test.y).tolist()
    (tmp_path / "test_batch.bin").write_bytes(records[5].tobytes()[:-1])
    with pytest.raises(JacspecError, match=r"test_batch.bin is no file of CIFAR-10"):
        read_cifar(str(tmp_path), 20, seed=0)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(JacspecError, match=r"data_batch_3.bin is not there"):
        read_cifar(str(tmp_path), 20, seed=0)


def test_run_is_resumed_and_drawn(tmp_path: Path) -> None:
    """Stopped after its first row and resumed: the table of a run left alone, byte for byte, and its curves drawn."""
    words = ("task=lazy", *SMALL, "lazy.and_smaller=true")
    done = run_here(*words, "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    real, written = RowWriter.add, 0

    def stop_after_one(*given: Any) -> None:
        nonlocal written
        if written:
            raise KeyboardInterrupt
        written += 1
        real(*given)

    with mock.patch.object(RowWriter, "add", stop_after_one):
        assert run_here(*words, "hydra.run.dir=stopped", cwd=tmp_path).code == 130
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["status"] != "finished"
    done = run_here(*words, "resume=stopped", cwd=tmp_path)
    assert done.code == 0, done.err
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("run", "stopped")]
    assert tables[0] == tables[1]
    other = run_here(*words, "seed=1", "hydra.run.dir=other", "report.figures=none", cwd=tmp_path)
    assert other.code == 0, other.err
    assert (tmp_path / "other" / "metrics.csv").read_bytes() != tables[0]
    run = open_run(tmp_path / "stopped")
    (panel,) = lazy_figures(run._stored)["test_accuracy"].draw().axes
    table = run.metrics[run.metrics["scale"] == 15]
    drawn = {label: np.asarray(line[0].get_xydata()) for line, label in
             ((each, each.get_label()) for each in panel.containers)}  # fmt: skip
    expected = [(0.0, "none", 0), (25.0, "after", 4), (75.0, "after", 2)]
    rows = [(share, table[(table["order"] == order) & (table["group"] == group)]) for share, order, group in expected]
    np.testing.assert_allclose(drawn[r"$\alpha = 15$"], [(share, own["test_accuracy"].mean()) for share, own in rows])
    assert set(run.metrics["order"]) == {"none", "after"}
    assert run._stored.provenance["chance"] == 0.25
    frozen = run_here("task=lazy", *SMALL, "lazy.frozen=2", "lazy.removed=[4]", "hydra.run.dir=frozen", cwd=tmp_path)
    assert frozen.code == 0, frozen.err
    whole = open_run(tmp_path / "frozen").metrics
    assert set(whole["order"]) == {"none", "after", "before"}
    assert (whole.loc[whole["order"] != "before", "movement"] == 0).all()
    assert (run.metrics.loc[run.metrics["order"] == "none", "movement"] > 0).all()


REFUSED = {
    "frozen without layers": (("lazy.frozen=1",), "lazy.layers=[3072,512,10]"),
    "too many frozen": ((*SMALL, "lazy.frozen=3"), "Accepted: 0 to 2"),
    "no hidden layer": (("lazy.layers=[8,4]",), "make no classifier"),
    "other sizes than CIFAR's": ((*SMALL, "lazy.path=."), "3072 inputs and 10 classes"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_bad_layers_are_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert_refused(run_here("task=lazy", *words, cwd=tmp_path), tmp_path, message)
