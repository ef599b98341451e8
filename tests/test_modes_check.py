"""Changes of the last token's stream: HF's forward hooks, exact predictions of a linear path, rows and refusals."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import CASES, config_of
from flax import nnx
from hooked import Hooked
from oracles import float64_throughout, save_random

from jacspec import JacspecError
from jacspec.backend import numerics
from jacspec.jacobians.engine import prepare_batches
from jacspec.models.checkpoint import Checkpoint, build_module, open_checkpoint
from jacspec.report.findings import median_interval
from jacspec.studies.modes import CHECK_COLUMNS
from jacspec.studies.modes.carried import ENTER, LEAVE, MIDDLE, see
from jacspec.studies.modes.check import (
    CheckPlan,
    check_batches,
    check_numbers,
    check_possible,
    cut_samples,
    mask_samples,
    measure_effects,
)
from jacspec.studies.modes.directions import Modes
from jacspec.studies.modes.effects import Effect, check_rows
from jacspec.text.corpus import Sample

FIRST_CASES = {family: name for name, (family, _) in reversed(CASES.items())}
TOKENS = ([3, 4, 5, 6, 7, 8, 9], [12, 13, 14], [5, 9, 2, 2])
TARGETS = (11, 3, 7)
PLAN = CheckPlan(layers=(0, 1), epsilons=(0.1, 0.5), random=1)


def open_random(folder: Path, family: str) -> tuple[Checkpoint, Any]:
    model = save_random(folder, family, **config_of(family, CASES[FIRST_CASES[family]][1]))
    return open_checkpoint(folder, dtype="float64"), model


def draw_modes(width: int, layers: Sequence[int] = (0, 1)) -> dict[tuple[int, str], Modes]:
    """Two orthonormal reads and writes a sample; of the last sample the modes of layer 0's MLP are not known."""
    numbers = np.random.default_rng(7)

    def draw() -> np.ndarray:
        return np.linalg.qr(numbers.standard_normal((len(TOKENS), width, 2)))[0].transpose(0, 2, 1)

    sigma, group = np.tile([2.0, 1.0], (len(TOKENS), 1)), np.tile([0, 1], (len(TOKENS), 1))
    found = {(layer, name): Modes(sigma, group.copy(), draw(), draw()) for layer in layers for name in ("attn", "mlp")}
    found[layers[0], "mlp"].group[-1] = 0
    return found


def effects_of(checkpoint: Checkpoint, modes: Any, plan: CheckPlan = PLAN) -> list[Effect]:
    batches = prepare_batches(checkpoint, TOKENS, memory_gib=1.0, engine="lanczos", largest=2)
    return measure_effects(checkpoint, batches, TARGETS, modes, plan)


class Measured(NamedTuple):
    """What was measured of HF's model."""

    family: str
    model: Any
    checkpoint: Checkpoint
    modes: Any
    effects: list[Effect]


def measure(folder: Path, family: str, plan: CheckPlan) -> Measured:
    with numerics("float64"):
        checkpoint, model = open_random(folder, family)
        modes = draw_modes(checkpoint.spec.d_model, plan.layers)
        return Measured(family, model, checkpoint, modes, effects_of(checkpoint, modes, plan))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return measure(tmp_path_factory.mktemp("gpt2"), "gpt2", PLAN)


def test_effects_equal_hf_with_hooks(gpt2: Measured) -> None:
    compare_with_hf(gpt2)


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt_neox", marks=pytest.mark.long)])
def test_effects_of_other_families_equal_hf_however_little_memory(family: str, tmp_path: Path) -> None:
    """A few copies at once, where memory holds no more; parallel branches have no place in the middle."""
    compare_with_hf(measure(tmp_path, family, PLAN._replace(memory_bytes=2.0**17, layers=(0,))))


@pytest.mark.parametrize("family", ["bert", pytest.param("distilbert", marks=pytest.mark.thorough)])
def test_effects_in_encoders_equal_hf(family: str, tmp_path: Path) -> None:
    """All other tokens read the one that is changed, and hand it back: HF's whole model sees it, and its derivative."""
    compare_with_hf(measure(tmp_path, family, PLAN._replace(memory_bytes=2.0**20, layers=(0,))))


def test_effects_in_an_encoder_are_not_those_of_the_last_token_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(*arguments: Any) -> Any:
        seen, left = see(*arguments)
        return seen._replace(whole=None), left

    monkeypatch.setattr("jacspec.studies.modes.check.see", blind)
    measured = measure(tmp_path, "bert", PLAN._replace(layers=(0,)))
    with pytest.raises(AssertionError):
        compare_with_hf(measured)


def compare_with_hf(measured: Measured) -> None:
    """Adding with both signs and taking away, at every place; loss, KL, and what HF's own derivative predicts."""
    family, model, effects = measured.family, measured.model, measured.effects
    hooked = Hooked(family, model)
    places = list(dict.fromkeys(effect.place for effect in effects))
    assert places == ([ENTER, LEAVE] if family == "gpt_neox" else [ENTER, MIDDLE, LEAVE])
    compared = 0
    for number, effect in enumerate(effects):
        for sample, tokens in enumerate(TOKENS):
            d = effect.direction[sample]
            unknown = effect[0] == 0 and effect.component == "mlp" and not effect.kind.endswith("_k") and sample == 2
            assert np.isnan(d).any() == np.isnan(effect.kl[sample]).any() == unknown
            if unknown or sample != number % len(TOKENS):
                continue
            compared += 1
            with torch.no_grad():
                before = hooked.logits(tokens, effect.layer, effect.place, torch.zeros(len(d))).numpy()
            stream = hooked.stream(tokens, effect.layer, effect.place)
            assert np.linalg.norm(d) == pytest.approx(1)
            length = np.linalg.norm(stream)
            expected = [0.1 * length, -0.1 * length, 0.5 * length, -0.5 * length, -d @ stream]
            assert effect.amount[sample] == pytest.approx(expected, rel=1e-8, abs=1e-10)
            with float64_throughout():
                _, image = torch.autograd.functional.jvp(
                    lambda amount, d=d, t=tokens, e=effect: hooked.logits(
                        t, e.layer, e.place, amount * torch.tensor(d)
                    ),
                    torch.zeros(1, dtype=torch.float64),
                    torch.ones(1, dtype=torch.float64),
                )
            for change in (0, 3, 4):
                amount = expected[change]
                with torch.no_grad():
                    after = hooked.logits(tokens, effect.layer, effect.place, torch.tensor(amount * d)).numpy()
                log_p, log_q = _log_softmax(before), _log_softmax(after)
                loss = log_p[TARGETS[sample]] - log_q[TARGETS[sample]]
                assert effect.loss[sample, change] == pytest.approx(loss, rel=1e-7, abs=1e-10)
                kl = (np.exp(log_p) * (log_p - log_q)).sum()
                assert effect.kl[sample, change] == pytest.approx(kl, rel=1e-6, abs=1e-10)
                moved, said = after - before, amount * image.numpy()
                moved, said = moved - moved.mean(), said - said.mean()
                explained = 1 - ((moved - said) ** 2).sum() / (moved**2).sum()
                assert effect.predicted[sample, change] == pytest.approx(explained, rel=1e-5, abs=1e-7)
    assert compared > 15


def test_subspaces_are_taken_away_whole(gpt2: Measured) -> None:
    """After the removal nothing of the stream is left in the subspace: neither in u₁ nor in u₂."""
    modes, effects = gpt2.modes, gpt2.effects
    hooked, places = Hooked("gpt2", gpt2.model), {"attn": MIDDLE, "mlp": LEAVE}
    whole = [effect for effect in effects if effect.kind == "write_k"]
    assert len(whole) == 4
    for effect in whole:
        assert effect.place == places[effect.component]
        vectors = modes[effect.layer, effect.component].writes
        for sample, tokens in enumerate(TOKENS):
            stream = hooked.stream(tokens, effect.layer, effect.place)
            left = stream + effect.amount[sample, -1] * effect.direction[sample]
            assert np.abs(vectors[sample] @ stream).min() > 1e-3
            assert np.abs(vectors[sample] @ left).max() < 1e-9


def _linear(checkpoint: Checkpoint) -> Checkpoint:
    """A path that is linear by construction: no norms, uniform attention, no activation, no softcap."""
    spec = checkpoint.spec
    mlp = dataclasses.replace(spec.blocks[0].mlp, activation="linear", gated=False)
    block = dataclasses.replace(spec.blocks[0], place="", mlp=mlp)
    spec = dataclasses.replace(spec, blocks=(block,) * 2, head=dataclasses.replace(spec.head, norm=None))

    def make(part: str, number: int) -> Any:
        module = build_module(spec, part, number, jnp.dtype("float64"), jax.random.key(number))
        if part == "block":
            module.attn.q.weight = nnx.Param(jnp.zeros_like(module.attn.q.weight[...]))
            module.mlp.up.weight = nnx.Param(10 * module.mlp.up.weight[...])
        return module

    return dataclasses.replace(checkpoint, spec=spec, make=make)


def test_predictions_of_a_linear_path_are_exact_and_of_others_are_not(gpt2: Measured) -> None:
    plan = PLAN._replace(layers=(0,))
    with numerics("float64"):
        straight = effects_of(_linear(gpt2.checkpoint), draw_modes(gpt2.checkpoint.spec.d_model, plan.layers), plan)
    for effect in straight:
        known = np.isfinite(effect.predicted)
        assert known.any()
        assert effect.predicted[known] == pytest.approx(1, abs=1e-9)
    assert min(np.nanmin(effect.predicted) for effect in gpt2.effects) < 0.9


def test_rows_sum_up_over_samples_and_compare_with_chance() -> None:
    """Planted: a write with three times the KL of the random directions beside it, and with itself no ratio."""
    samples, plan = 40, CheckPlan(layers=(2,), epsilons=(0.1,))
    numbers = np.random.default_rng(0)
    base = np.exp(numbers.standard_normal(samples))[:, None]

    def effect(kind: str, component: str, times: float) -> Effect:
        kl = np.tile(times * base, (1, 3))
        return Effect(2, LEAVE, kind, component, np.zeros((samples, 4)), kl, kl * [1, -1, 2], kl, kl * 0 + 0.7, kl)

    effects = [effect("write", "mlp", 3), effect("random", "", 0.5), effect("random", "", 1.5)]
    rows = [dict(zip(CHECK_COLUMNS, row, strict=True)) for row in check_rows(effects, plan.changes)]
    assert [(row["component"], row["kind"], row["change"]) for row in rows] == [
        ("mlp", "write", "0.1"), ("mlp", "write", "remove"),
        (LEAVE, "random", "0.1"), (LEAVE, "random", "remove"),
    ]  # fmt: skip
    for row in rows[:2]:
        assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((3, 3, 3))
        assert row["chance_kl"] == pytest.approx(np.median(base))
        assert row["kl"] == pytest.approx(3 * np.median(base))
        assert row["kl_low"] < row["kl"] < row["kl_high"]
        assert row["predicted"] == pytest.approx(0.7)
    assert rows[0]["loss"] == pytest.approx(0)  # both signs
    assert rows[1]["loss"] == pytest.approx(6 * np.median(base))
    assert np.isnan(rows[2]["ratio"])


def test_one_more_random_direction_is_chance() -> None:
    """KL has a long tail: over the median of five others one more is 1, over their mean it is surely below it."""
    samples, plan, trials = 60, CheckPlan(layers=(2,), epsilons=(0.1,)), 60
    numbers = np.random.default_rng(1)

    def effect(kind: str) -> Effect:
        # The removal's tail is the longest.
        kl = np.exp(numbers.standard_normal((samples, 3)) * [1, 1, 2])
        return Effect(2, LEAVE, kind, "", np.zeros((samples, 4)), kl, kl, kl, kl, kl)

    outside, by_mean = [], []
    for _ in range(trials):
        effects = [effect("write"), *(effect("random") for _ in range(plan.random))]
        rows = [dict(zip(CHECK_COLUMNS, row, strict=True)) for row in check_rows(effects, plan.changes)][:2]
        outside += [(row["ratio_high"] < 1, row["ratio_low"] > 1) for row in rows]
        mean = np.mean([each.kl[:, 2] for each in effects[1:]], axis=0)
        by_mean.append(median_interval(effects[0].kl[:, 2] / mean).high < 1)
    below, above = np.mean(outside, axis=0)
    assert below < 0.08
    assert above < 0.08
    assert np.mean(by_mean) > 0.7


def test_samples_are_cut_so_that_a_token_follows() -> None:
    sample = Sample(["a", "b"], [list(range(10)), [4, 5, 6]], [0, 1])
    ends = set()
    for seed in range(40):
        cut, targets = cut_samples(sample, least=2, seed=seed)
        for ids, whole, target in zip(cut.tokens, sample.tokens, targets, strict=True):
            assert [*ids, target] == whole[: len(ids) + 1]
        ends.add(len(cut.tokens[0]))
        assert len(cut.tokens[1]) == 2
    assert ends == set(range(2, 10))
    assert [len(ids) for ids in cut_samples(sample, least=20, seed=0)[0].tokens] == [9, 2]
    with pytest.raises(JacspecError, match=r"Sample 1 has one token.*data\.min_tokens=2"):
        cut_samples(sample._replace(tokens=[[1, 2], [3]]), least=1, seed=0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epsilons": ()}, "check_epsilons"),
        ({"epsilons": (0.1, -1.0)}, "check_epsilons"),
        ({"random": 0}, "check_random"),
        ({"layers": ()}, "check_layers is empty"),
        ({"layers": (0, 3)}, r"check_layers has 3.*check_layers=\[0\]"),
    ],
)
def test_numbers_that_change_nothing_are_refused(changed: dict[str, Any], words: str) -> None:
    check_numbers(PLAN, range(2))
    with pytest.raises(JacspecError, match=words):
        check_numbers(PLAN._replace(**changed), range(2))


def test_models_that_predict_no_token_are_refused(tmp_path: Path) -> None:
    for family in ("t5", "bert"):
        save_random(tmp_path / family, family, **config_of(family, CASES[FIRST_CASES[family]][1]))
    with pytest.raises(JacspecError, match="for decoders and for encoders"):
        check_possible(open_checkpoint(tmp_path / "t5"))
    encoder = open_checkpoint(tmp_path / "bert")
    check_possible(encoder)
    with pytest.raises(JacspecError, match="saved without its language-model head"):
        check_possible(dataclasses.replace(encoder, has_head=False))


def test_masks_hide_tokens_that_are_no_special_ones() -> None:
    sample = Sample(["a", "b"], [[1, 10, 11, 12, 13, 2], [1, 9, 2]], [0, 1])
    ends = set()
    for seed in range(40):
        cut, hidden = mask_samples(sample, 99, {1, 2}, least=3, seed=seed)
        for ids, whole, target in zip(cut.tokens, sample.tokens, hidden, strict=True):
            assert ids == [*whole[: len(ids) - 1], 99]
            assert target == whole[len(ids) - 1]
        ends.add(len(cut.tokens[0]))
        assert cut.tokens[1] == [1, 99]  # none leaves three
    assert ends == {3, 4, 5}
    with pytest.raises(JacspecError, match="Sample 0 has special tokens alone"):
        mask_samples(sample._replace(tokens=[[1, 2], [1, 5, 2]]), 99, {1, 2}, least=1, seed=0)


def test_batches_of_an_encoder_are_as_small_as_memory_asks(tmp_path: Path, gpt2: Measured) -> None:
    save_random(tmp_path, "bert", **config_of("bert", CASES[FIRST_CASES["bert"]][1]))
    encoder = open_checkpoint(tmp_path)
    whole = prepare_batches(encoder, TOKENS, memory_gib=1.0, engine="lanczos")
    few = PLAN._replace(memory_bytes=1.0)
    assert [len(padded.samples) for padded in check_batches(encoder, TOKENS, whole, few)] == [1, 1, 1]
    assert [len(padded.samples) for padded in check_batches(encoder, TOKENS, whole, PLAN)] == [3]
    assert check_batches(gpt2.checkpoint, TOKENS, whole, few) is whole
