"""Every family against HF's PyTorch: embedding, branches, blocks, Jacobians, logits; and sabotaged twins."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from conftest import FAMILIES_PAGE, STATUS, TOLERANCE, table_rows
from families import CASES, FAMILIES, config_of, layout_of
from oracles import Seen, branch_jacobian, deviation, save_random, watch
from parity import LENGTHS, Forward, forward, quick_jit, samples, through, worst_deviation

from jacspec.backend import numerics
from jacspec.jacobians import analytic
from jacspec.jacobians.branches import bind
from jacspec.jacobians.dense import jacobians
from jacspec.models.checkpoint import open_checkpoint
from jacspec.models.families import ARCHITECTURES
from jacspec.models.modules import leaf_names
from jacspec.models.positions import RelativeBiasSpec, RotarySpec

JACOBIAN_TOLERANCE = 1e-9
CLOSED_FORM_TOLERANCE = 1e-10
SINGLE = {f"{name}: {case}" for name, family in FAMILIES.items() for case in [*family.cases][:: len(family.cases) - 1]}
"""The first and the last case of every family, which are compared in float32 too."""


@pytest.mark.few(16)
@pytest.mark.parametrize("name", CASES)
def test_family_equals_hf(name: str, tmp_path: Path, record_parity: Callable[..., None]) -> None:
    """Every activation and every Jacobian of the last layers in float64; activations of two cases in float32."""
    family, case = CASES[name]
    config = config_of(family, case)
    model = save_random(tmp_path, family, **config)
    start = config.get("decoder_start_token_id")
    tokens, batch = samples(config["vocab_size"])
    expected = [watch(model, layout_of(family, config), ids, start) for ids in tokens]
    for precision in ("float64", "float32") if name in SINGLE else ("float64",):
        with numerics(precision):
            checkpoint = open_checkpoint(tmp_path, dtype=precision)
            found = forward(checkpoint, batch)
        worst = max(worst_deviation(found, *seen) for seen in zip(expected, range(len(LENGTHS)), LENGTHS, strict=True))
        assert worst <= TOLERANCE[precision], precision
        record_parity(family, precision, worst)
        if precision == "float64":
            jacfwd, closed_form = _worst_jacobians(found, expected)
            assert jacfwd <= JACOBIAN_TOLERANCE
            assert closed_form <= CLOSED_FORM_TOLERANCE
            record_parity(family, "Jacobians", max(jacfwd, closed_form))


def _worst_jacobians(found: Forward, expected: list[Seen]) -> tuple[float, float]:
    """Compare with HF's the `jacfwd` of branches, and the closed form of whole blocks, all of whose parts are in it.

    `jacfwd` of whole blocks is compared with it in `test_engines_equal_jacfwd_on_every_family_and_component`.
    """
    last = {(stack, component): layer for stack, component, layer in sorted(found.branches)}
    jacfwd, closed_form = [0.0], [0.0]
    with numerics("float64"):
        for (stack, component), layer in last.items():
            branch = found.branches[stack, component, layer]
            theirs = [branch_jacobian(seen.calls[stack, component, layer]) for seen in expected]
            if component == "block":
                closed_form += map(deviation, _closed_form(branch), theirs)
            else:
                jacfwd += map(deviation, jacobians(branch), theirs)
    return max(jacfwd), max(closed_form)


@quick_jit
def _closed_form(branch: Any) -> Any:
    return analytic.jacobians(branch)


def test_every_family_has_cases() -> None:
    assert FAMILIES.keys() == ARCHITECTURES.keys()


def test_status_on_the_page_is_of_these_families_within_tolerance() -> None:
    """The figures are written by `pytest --write-status`; they may be less elsewhere, but never above tolerance."""
    rows = table_rows(FAMILIES_PAGE.read_text(encoding="utf-8").split(STATUS[0])[1].split(STATUS[1])[0])
    assert {row[0].strip("`") for row in rows} == ARCHITECTURES.keys()
    for family, cases, double, single, jacobian, _, configs in rows:
        assert cases == "; ".join(FAMILIES[family.strip("`")].cases)
        assert float(double) <= TOLERANCE["float64"]
        assert float(single) <= TOLERANCE["float32"]
        assert float(jacobian) <= JACOBIAN_TOLERANCE
        assert configs


def _swapped(first: str, second: str) -> Callable[[Any], Any]:
    """Exchange two leaves of a block."""

    def sabotage(block: Any) -> Any:
        names, leaves = leaf_names(block), jax.tree.leaves(block)
        i, j = names.index(first), names.index(second)
        leaves[i], leaves[j] = leaves[j], leaves[i]
        return jax.tree.unflatten(jax.tree.structure(block), leaves)

    return sabotage


def _changed(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Change one leaf of a block."""

    def sabotage(block: Any) -> Any:
        names, leaves = leaf_names(block), jax.tree.leaves(block)
        leaves[names.index(name)] = change(leaves[names.index(name)])
        return jax.tree.unflatten(jax.tree.structure(block), leaves)

    return sabotage


def _respecified(module: str, **changes: Any) -> Callable[[Any], Any]:
    """Change what a module of a block believes about itself."""

    def sabotage(block: Any) -> Any:
        part = getattr(block, module)
        part.spec = dataclasses.replace(part.spec, **changes)
        return block

    return sabotage


def _unscaled(block: Any) -> Any:
    """Add the MLP's branch as it is."""
    block.mlp_norms.scale = 1.0
    return block


SABOTAGE: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "q and k swapped": ("gpt2: tied", "attn", _swapped("attn.q.weight", "attn.k.weight")),
    "transposed weight": ("gpt2: tied", "attn", _changed("attn.o.weight", lambda w: w.T)),
    "norm weight dropped": ("gpt2: tied", "attn", _changed("attn_norms.norm.weight", jnp.ones_like)),
    "bias dropped": ("gpt2: tied", "mlp", _changed("mlp.up.bias", jnp.zeros_like)),
    "gate and up swapped": ("llama: grouped", "mlp", _swapped("mlp.gate.weight", "mlp.up.weight")),
    "rotation dropped": ("llama: grouped", "attn", _respecified("attn", rotary=None)),
    "neighbours paired": ("llama: grouped", "attn", _respecified("attn", rotary=RotarySpec(6, 1e4, interleaved=True))),
    "halves paired": ("gptj: untied", "attn", _respecified("attn", rotary=RotarySpec(4, 1e4))),
    "scaling dropped": ("llama: llama3", "attn", _respecified("attn", rotary=RotarySpec(6, 100.0))),
    "window one wider": ("mistral: grouped window", "attn", _respecified("attn", window=6)),
    "window dropped": ("gemma2: grouped windows", "attn", _respecified("attn", window=None)),
    "softcap dropped": ("gemma2: grouped windows", "attn", _respecified("attn", softcap=None)),
    "causal BERT": ("bert: tied", "attn", _respecified("attn", causal=True)),
    "bias of one direction": (
        "t5: 1.0",
        "attn",
        _respecified("attn", relative=RelativeBiasSpec(32, 128, bidirectional=False)),
    ),
    "norms of the branch": ("olmo2: grouped", "mlp", _changed("mlp_norms.output_norm.weight", jnp.ones_like)),
    "cut dropped": ("olmo: grouped clipped", "attn", _respecified("attn", clip=None)),
    "branch not scaled": ("granite: grouped", "mlp", _unscaled),
    "rotated where it is not": ("smollm3: not rotated", "attn", _respecified("attn", rotary=RotarySpec(6, 2e6))),
    "bias of another layer": ("umt5: gated", "attn", _changed("attn.relative_bias", lambda bias: bias[::-1])),
    "heads' norms exchanged": (
        "stablelm: parallel, normed",
        "attn",
        _changed("attn.q_norm.weight", lambda weight: weight[::-1]),
    ),
    "one expert fewer": ("mixtral: grouped", "mlp", _respecified("mlp", top_k=1)),
    "weights of all experts": ("mixtral: grouped", "mlp", _respecified("mlp", normalised=False)),
    "sinks of no weight": ("gpt_oss: grouped", "attn", _changed("attn.sinks", lambda sinks: sinks - 100)),
    "distances dropped": ("bloom: tied", "attn", _respecified("attn", alibi=None)),
    "query norm dropped": ("qwen3: grouped", "attn", _changed("attn.q_norm.weight", jnp.ones_like)),
}
UNSEEN_BY_THE_LAST_TOKEN = ("causal BERT",)
"""Sabotage that only other tokens' activations show: the last token of a causal model sees all tokens too."""


@pytest.mark.few(9)
@pytest.mark.parametrize("name", SABOTAGE)
def test_oracle_catches_sabotage(name: str, tmp_path: Path) -> None:
    """Block 0 with one thing wrong, on the stream that HF's block 0 got; `test_family_equals_hf` has it whole.

    The other samples of the batch are there for its shape, whose programs `test_family_equals_hf` compiled.
    """
    case, component, sabotage = SABOTAGE[name]
    family, config = CASES[case][0], config_of(*CASES[case])
    model = save_random(tmp_path, family, **config)
    samples_alone, batch = samples(config["vocab_size"])
    tokens = samples_alone[-1]
    seen = watch(model, layout_of(family, config), tokens, config.get("decoder_start_token_id"))
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        stack = checkpoint.spec.stacks[0]
        block = sabotage(checkpoint.block(0))
        stream = jnp.zeros((*batch.tokens.shape, block.spec.d_model))
        h = stream.at[-1, : len(tokens)].set(seen.arrays[f"{stack}embedding"])
        found, points = through(block, h, jnp.asarray(batch.lengths), None)
        matrix = jacobians(bind(block, component, points[component]))[-1]
    assert deviation(found["block{}"][-1, : len(tokens)], seen.arrays[f"{stack}block0"]) > 1e-3
    caught = deviation(matrix, branch_jacobian(seen.calls[stack, component, 0])) > 1e-3
    assert caught != (name in UNSEEN_BY_THE_LAST_TOKEN)
