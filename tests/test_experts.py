"""Mixtures of experts against HF's PyTorch where the router switches, and what each study makes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from families import config_of
from oracles import deviation, float64_throughout, save_random
from servers import NANO, TINY, run_here

from jacspec.backend import numerics
from jacspec.jacobians import analytic, dense
from jacspec.jacobians.branches import Branch, Point, bind
from jacspec.jacobians.switching import ALL_CHOSEN, NO_ROUTER, router_margins
from jacspec.models.checkpoint import open_checkpoint
from jacspec.models.matrices import Choice, LeftOut, Listed, Matrix, list_model, stream_model

CASES = {"mixtral": "grouped", "qwen3_moe": "grouped", "olmoe": "full, normalised", "gpt_oss": "grouped"}
"""Weights that sum to one, weights that the experts which are not chosen change too, and clamps."""


def _branches(folder: Path, family: str) -> tuple[Callable[[Any], torch.Tensor], Callable[[Any], torch.Tensor], Any]:
    """HF's MLP branch and router logits as functions of the stream, and jacspec's block, all of the last layer."""
    model = save_random(folder, family, **config_of(family, CASES[family]))
    layer = model.get_submodule("model.layers")[-1]

    def branch(x: Any) -> torch.Tensor:
        with float64_throughout():
            found = layer.mlp(layer.post_attention_layernorm(torch.as_tensor(x)[None, None]))
            return (found[0] if family == "gpt_oss" else found)[0, 0]

    def logits(x: Any) -> torch.Tensor:
        with float64_throughout():
            router = layer.mlp.router if family == "gpt_oss" else layer.mlp.gate
            return router(layer.post_attention_layernorm(torch.as_tensor(x)[None]))[0][0]

    with numerics("float64"):
        return branch, logits, open_checkpoint(folder, dtype="float64").block(1)


def _gap(logits: Callable[[Any], torch.Tensor], x: Any) -> tuple[float, np.ndarray]:
    """By how much the second largest logit leads the third, and its gradient."""
    x = torch.tensor(np.asarray(x), requires_grad=True)
    ordered = torch.sort(logits(x), descending=True).values
    gap = ordered[1] - ordered[2]
    gap.backward()
    return gap.item(), x.grad.numpy()


def _chosen(logits: Callable[[Any], torch.Tensor], x: Any) -> set[int]:
    return set(torch.topk(logits(x), 2).indices.tolist())


def _differences(branch: Callable[[Any], torch.Tensor], x: np.ndarray, inward: np.ndarray) -> np.ndarray:
    """Three-point differences to one side, each coordinate's that which goes along `inward`."""
    step, columns = 1e-4, []
    with torch.no_grad():
        for number, sign in enumerate(np.where(inward < 0, -1.0, 1.0)):
            move = np.zeros_like(x)
            move[number] = sign * step
            one, two, three = (branch(x + times * move).numpy() for times in range(3))
            columns.append(sign * (-3 * one + 4 * two - three) / (2 * step))
    return np.stack(columns, axis=1)


def _tie(logits: Callable[[Any], torch.Tensor], start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, by halving, where the choice changes between two streams, and the unit normal there towards `start`."""
    first = _chosen(logits, start)
    assert _chosen(logits, end) != first
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if _chosen(logits, middle) == first else (start, middle)
    normal = _gap(logits, start)[1]
    return start, normal / np.linalg.norm(normal)


def _margins(branch: Branch) -> np.ndarray:
    found, reasons = router_margins(branch)
    assert (reasons == "").all()
    return found


@pytest.mark.parametrize("family", CASES)
def test_each_side_of_a_tie_has_its_own_jacobian(family: str, tmp_path: Path) -> None:
    """Those of HF's one-sided differences, 1e-6 away from the tie, which is what `router_margin` says there."""
    hf, logits, block = _branches(tmp_path, family)
    rng = np.random.default_rng(0)
    start = rng.normal(size=24)
    end = next(x for x in rng.normal(size=(100, 24)) if _chosen(logits, x) != _chosen(logits, start))
    tie, normal = _tie(logits, start, end)
    away = 1e-6
    sides = np.stack([tie + away * normal, tie - away * normal])
    with numerics("float64"):
        branch = bind(block, "mlp", Point(None, jnp.asarray(sides)))
        forms = [np.asarray(form(branch)) for form in (dense.jacobians, analytic.jacobians)]
        margins = _margins(branch)
    expected = [_differences(hf, x, sign * normal) for x, sign in zip(sides, (1, -1), strict=True)]
    for found in forms:
        assert deviation(found[0], expected[0]) < 1e-6
        assert deviation(found[1], expected[1]) < 1e-6
        assert deviation(found[0], expected[1]) > 1e-2
    np.testing.assert_allclose(margins, away, rtol=1e-3)


@pytest.mark.parametrize("family", CASES)
def test_margin_is_the_distance_to_first_order(family: str, tmp_path: Path) -> None:
    _, logits, block = _branches(tmp_path, family)
    x = np.random.default_rng(1).normal(size=(5, 24))
    with numerics("float64"):
        found = _margins(bind(block, "mlp", Point(None, jnp.asarray(x))))
    pairs = [_gap(logits, each) for each in x]
    np.testing.assert_allclose(found, [gap / np.linalg.norm(slope) for gap, slope in pairs], rtol=1e-9)


def test_margin_is_missing_with_a_reason_where_there_is_no_other_choice(tmp_path: Path) -> None:
    for config in ({"num_experts_per_tok": 4}, {}):
        save_random(tmp_path, "mixtral", **config_of("mixtral", "grouped") | config)
        block = open_checkpoint(tmp_path).block(0)
        for component in ("attn", "mlp"):
            branch = bind(block, component, Point(None, jnp.ones((2, 24))))
            if component == "mlp" and not config:
                continue
            margins, reasons = router_margins(branch)
            assert np.isnan(margins).all()
            assert set(reasons) == {ALL_CHOSEN if component == "mlp" else NO_ROUTER}


def test_one_token_alone_and_in_a_sequence_give_the_same(tmp_path: Path) -> None:
    _, _, block = _branches(tmp_path, "qwen3_moe")
    with numerics("float64"):
        x = jnp.asarray(np.random.default_rng(2).normal(size=(7, 24)))
        together, alone = block.mlp(x), jnp.stack([block.mlp(each) for each in x])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("family", sorted(CASES.keys() - {"gpt_oss"}))
def test_every_expert_has_its_matrices(family: str, tmp_path: Path) -> None:
    """By HF's tensors in memory, where an expert's gate and up lie in one; and choices by name."""
    model = save_random(tmp_path, family, **config_of(family, CASES[family]))
    checkpoint = open_checkpoint(tmp_path, dtype="float64")
    found = {each.name: each for each in stream_model(checkpoint, Choice()) if isinstance(each, Matrix)}
    assert [each.name for each in list_model(checkpoint, Choice()) if isinstance(each, Listed)] == list(found)
    names = {"gate": "w1", "up": "w3", "down": "w2"} if family == "mixtral" else {}
    place = "block_sparse_moe" if family == "mixtral" else "mlp"
    for layer, module in enumerate(model.get_submodule("model.layers")):
        assert found[f"layers.{layer}.{place}.gate.weight"].role == "router"
        for number in range(4):
            both, down = (getattr(module.mlp.experts, name)[number] for name in ("gate_up_proj", "down_proj"))
            parts = {"gate": both[: len(both) // 2], "up": both[len(both) // 2 :], "down": down}
            for role, expected in parts.items():
                name = f"layers.{layer}.{place}.experts.{number}.{names.get(role, f'{role}_proj')}.weight"
                assert found[name].role == role
                np.testing.assert_array_equal(found[name].values, expected.detach().numpy())
    chosen = Choice(include=["*experts.2.*"])
    kept = [each for each in stream_model(checkpoint, chosen) if isinstance(each, Matrix)]
    assert len(kept) == 2 * 3
    assert all(".experts.2." in each.name for each in kept)
    left = {each.name for each in list_model(checkpoint, chosen) if isinstance(each, LeftOut)}
    assert found.keys() - {each.name for each in kept} <= left


def test_every_expert_of_a_stack_has_its_matrices(tmp_path: Path) -> None:
    """gpt-oss keeps them `(expert, in, out)`, units in turn from gate and up; biases in stacks are no matrices."""
    model = save_random(tmp_path, "gpt_oss", **config_of("gpt_oss", "grouped"))
    checkpoint = open_checkpoint(tmp_path, dtype="float64")
    found = {(each.name, each.role): each for each in stream_model(checkpoint, Choice()) if isinstance(each, Matrix)}
    assert not any("bias" in name for name, _ in found)
    for layer, module in enumerate(model.get_submodule("model.layers")):
        for number in range(4):
            name = f"layers.{layer}.mlp.experts.{{}}[{number}]"
            both, down = (getattr(module.mlp.experts, each)[number] for each in ("gate_up_proj", "down_proj"))
            gate, up = found[name.format("gate_up_proj"), "gate"], found[name.format("gate_up_proj"), "up"]
            np.testing.assert_array_equal(gate.values, both.detach().numpy()[:, ::2].T)
            np.testing.assert_array_equal(up.values, both.detach().numpy()[:, 1::2].T)
            assert found[name.format("gate_up_proj"), "gate_up"].values.shape == both.T.shape
            np.testing.assert_array_equal(found[name.format("down_proj"), "down"].values, down.detach().numpy().T)


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mixtral with the embedded model's tokenizer."""
    folder = tmp_path_factory.mktemp("routed")
    vocab = json.loads((NANO / "config.json").read_text())["vocab_size"]
    save_random(folder, "mixtral", **config_of("mixtral", "grouped") | {"vocab_size": vocab})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((NANO / name).read_bytes())
    return folder


def _run(task: str, folder: Path, out: Path, *more: str) -> Any:
    model = (f"model.path={folder}", "model=path", "model.name=routed")
    return run_here(f"task={task}", *model, f"hydra.run.dir={out}", "report.figures=none", *more, cwd=out.parent)


def test_run_has_the_margin_of_experts_and_says_where_there_is_none(routed: Path, tmp_path: Path) -> None:
    finished = _run("jacobian", routed, tmp_path / "run", *TINY, "precision=float64")
    assert finished.code == 0, finished.err
    table = pd.read_csv(tmp_path / "run" / "metrics.csv", keep_default_na=False)
    margins, reasons = table.groupby("component")["router_margin"], table.groupby("component")[table.columns[-1]]
    assert set(margins.get_group("attn")) <= {"", "nan"}
    assert set(reasons.get_group("attn")) == {NO_ROUTER}
    assert (margins.get_group("mlp").astype(float) > 0).all()
    assert set(reasons.get_group("mlp")) == {""}


STUDIES: dict[str, tuple[str, ...]] = {
    "depth": TINY,
    "overlap": ("data.samples=8", "data.max_tokens=16", "overlap.fisher=8"),
    "removal": ("removal.groups=2", "removal.tokens=128"),
    "weights": ("weights.against=none",),
    "coupling": (*TINY, "components=[attn]"),
    "modes": (*TINY, "modes.k=2", "modes.draws=9"),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("task", STUDIES)
def test_other_studies_run(task: str, routed: Path, tmp_path: Path) -> None:
    finished = _run(task, routed, tmp_path / "run", *STUDIES[task])
    assert finished.code == 0, finished.err
    assert not pd.read_csv(tmp_path / "run" / "metrics.csv").empty


def test_coupling_of_experts_is_refused_with_the_way_on(routed: Path, tmp_path: Path) -> None:
    finished = _run("coupling", routed, tmp_path / "run", *TINY)
    assert finished.code != 0
    assert "mixture of experts" in finished.err
    assert "components=[attn]" in finished.err
