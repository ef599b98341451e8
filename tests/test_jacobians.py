"""Jacobians against torch.func on HF's sublayers over the whole sequence, and against central differences."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import activations, branch_jacobian, deviation, save_random_gpt2
from test_models import CASES, SABOTAGE

from jacspec import JacspecError, compute_spectra, load_model
from jacspec.backend import numerics
from jacspec.glossary import LayerResult
from jacspec.jacobians.branches import BRANCHES, branch_points, choose_components
from jacspec.jacobians.dense import jacobians
from jacspec.jacobians.engine import batch_size, choose_engine, prepare_batches, stream_layers
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import METRICS

JACOBIAN_TOLERANCE = 1e-9


def our_jacobian(block: Block, h: np.ndarray, component: str, *, length: int | None = None) -> np.ndarray:
    """Compute one Jacobian at the last token of one sample whose stream before the block is `h`."""
    points = branch_points(block, jnp.asarray(h)[None], jnp.asarray([length or len(h)]))
    point = points[component]
    return np.asarray(jacobians(block, point.context, point.x, component=component)[0])


def streams(expected: dict[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """Return the stream that enters each branch of a layer, from the oracle's activations."""
    h = expected["embedding"] if layer == 0 else expected[f"block{layer - 1}"]
    return {"attn": h, "mlp": h + expected[f"attn{layer}"]}


@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("component", ["attn", "mlp"])
@pytest.mark.parametrize("case", CASES)
def test_jacobian_equals_torch_func(tmp_path: Path, case: str, component: str, length: int) -> None:
    model = save_random_gpt2(tmp_path, **CASES[case])
    expected = activations(model, np.arange(length))
    with numerics("float64"):
        block = load_model(tmp_path, precision="float64").block(1)
        h = streams(expected, 1)
        found = our_jacobian(block, h["attn"], component)
    assert deviation(found, branch_jacobian(model, 1, component, h[component])) <= JACOBIAN_TOLERANCE


@pytest.mark.parametrize("sabotage", [*SABOTAGE, "off-by-one last token"])
def test_oracle_catches_sabotage(tmp_path: Path, sabotage: str) -> None:
    model = save_random_gpt2(tmp_path)
    expected = activations(model, np.arange(9))
    component = "mlp" if sabotage == "bias dropped" else "attn"
    with numerics("float64"):
        block = load_model(tmp_path, precision="float64").block(1)
        h = streams(expected, 1)
        length = 8 if sabotage == "off-by-one last token" else 9
        found = our_jacobian(SABOTAGE.get(sabotage, lambda same: same)(block), h["attn"], component, length=length)
    assert deviation(found, branch_jacobian(model, 1, component, h[component])) > 1e-3


@pytest.mark.parametrize("component", BRANCHES)
def test_jacobian_equals_central_differences(tmp_path: Path, component: str) -> None:
    save_random_gpt2(tmp_path)
    with numerics("float64"):
        block = load_model(tmp_path, precision="float64").block(0)
        h = jax.random.normal(jax.random.key(0), (5, 24), jnp.float64)
        context, x = branch_points(block, h[None], jnp.asarray([5]))[component]
        one = jax.tree.map(lambda leaf: leaf[0], context)
        step = 1e-6 * jnp.eye(24)
        f = jax.vmap(lambda moved: BRANCHES[component](block, one, moved))
        centre = jnp.broadcast_to(x, step.shape)
        expected = ((f(centre + step) - f(centre - step)) / 2e-6).T
        found = jacobians(block, context, x, component=component)[0]
        assert deviation(found, expected) < 1e-7


def test_rows_are_outputs_and_columns_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = jnp.arange(9.0).reshape(3, 3)
    monkeypatch.setitem(BRANCHES, "given", lambda block, context, x: matrix @ x)
    block = load_model("nano").block(0)
    found = jacobians(block, None, jnp.ones((2, 3)), component="given")
    np.testing.assert_array_equal(found, jnp.stack([matrix, matrix]))


def run_layers(model: Checkpoint, tokens: list[list[int]], **options: object) -> list[LayerResult]:
    """Stream all layers of some samples with the paper's metrics."""
    batches = prepare_batches(model, tokens, memory_gib=1.0)
    names = ("spectral_radius", "decay_ratio")
    return list(stream_layers(model, batches, components=("attn", "mlp"), metric_names=names, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_padding_and_company_never_change_a_sample(precision: str) -> None:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(1, 1000, length).tolist() for length in (1, 2, 15, 16, 17, 40)]
    model = load_model("nano", precision=precision)
    with numerics(precision):
        together = run_layers(model, tokens)
        for sample, ids in enumerate(tokens):
            alone = run_layers(model, [ids])
            for whole, single in zip(together, alone, strict=True):
                for component in ("attn", "mlp"):
                    found = whole.singular_values[component][sample]
                    # Same arithmetic in another batch shape: rounding of the working precision only.
                    tolerance = 1e-5 if precision == "float32" else 1e-13
                    assert deviation(found, single.singular_values[component][0]) < tolerance


def test_later_tokens_are_invisible_and_earlier_ones_are_not() -> None:
    block = load_model("nano").block(0)
    h = jax.random.normal(jax.random.key(1), (8, 96))
    base = our_jacobian(block, np.asarray(h), "attn", length=5)
    after = our_jacobian(block, np.asarray(h.at[5:].add(3.0)), "attn", length=5)
    before = our_jacobian(block, np.asarray(h.at[2].multiply(-1)), "attn", length=5)
    np.testing.assert_array_equal(base, after)
    assert deviation(before, base) > 1e-3


def test_layers_done_before_are_carried_through_to_the_same_bits() -> None:
    model = load_model("nano")
    tokens = [[5, 6, 7, 8, 9], [11, 12, 13]]
    whole = run_layers(model, tokens)
    rest = run_layers(model, tokens, done={result.layer: result for result in whole[:3]})
    for first, second in zip(whole, rest, strict=True):
        for component in ("attn", "mlp"):
            np.testing.assert_array_equal(first.singular_values[component], second.singular_values[component])


def test_spectra_equal_numpy_svd_of_torch_jacobians(tmp_path: Path) -> None:
    """The whole path on the embedded model, tokens to spectra, against HF, torch.func and NumPy."""
    from transformers import GPT2LMHeadModel

    model = load_model("nano", precision="float64")
    hf = GPT2LMHeadModel.from_pretrained(model.tokenizer_folder, attn_implementation="eager").double().eval()
    text = "Speak, that the harbour may hear thee."
    dataset = compute_spectra(model, [text], metrics=["full"])
    expected = activations(hf, np.array(model.tokenizer(text)["input_ids"]))
    for layer in range(6):
        h = streams(expected, layer)
        for component in ("attn", "mlp"):
            matrix = branch_jacobian(hf, layer, component, h[component])
            found = dataset.sel(layer=layer, component=component, sample=0)
            sigma = np.linalg.svd(matrix, compute_uv=False)
            assert deviation(found["singular_values"], sigma) < JACOBIAN_TOLERANCE
            assert float(found["spectral_radius"]) == pytest.approx(sigma[0], rel=1e-9)
            assert float(found["decay_ratio"]) == pytest.approx(sigma[1] / sigma[0], rel=1e-9)
            radius = np.abs(np.linalg.eigvals(matrix)).max()
            assert float(found["eigenvalue_radius"]) == pytest.approx(radius, rel=1e-9)
            x = h[component][-1]
            gain = np.linalg.norm(matrix @ x) / np.linalg.norm(x)
            assert float(found["residual_gain"]) == pytest.approx(gain, rel=1e-7, abs=1e-12)
    assert set(METRICS) <= set(dataset.data_vars)


def test_values_that_are_not_finite_name_layer_component_and_sample() -> None:
    model = load_model("nano")

    def overflowing(part: str, layer: int) -> object:
        module = model.make(part, layer)
        if (part, layer) == ("block", 2):
            module.mlp.down.weight = module.mlp.down.weight.replace(jnp.inf * module.mlp.down.weight[...])
        return module

    broken = Checkpoint(**{**model.__dict__, "make": overflowing})
    with pytest.raises(JacspecError, match="Layer 2, component mlp, sample 1: singular values not finite"):
        run_layers(broken, [[1] * 20, [1, 2, 3]])


def test_choices() -> None:
    assert choose_engine("auto") == "jacfwd"
    with pytest.raises(JacspecError, match="Accepted: auto, jacfwd"):
        choose_engine("jacrev")
    with pytest.raises(JacspecError, match="Did you mean 'attn'"):
        choose_components(["atn"])
    with pytest.raises(JacspecError, match="empty"):
        choose_components([])
    spec = load_model("gpt2", init="random").spec.blocks[0]
    sizes = [batch_size(spec, tokens=100, itemsize=4, memory_bytes=gib * 2**30) for gib in (0.001, 1.0, 1000.0)]
    assert sizes[0] == 1 < sizes[1] < sizes[2] == 32


def test_texts_without_tokens_are_refused() -> None:
    with pytest.raises(JacspecError, match=r"\[1\]"):
        compute_spectra(load_model("nano"), ["Speak.", ""])
    with pytest.raises(JacspecError, match="no texts"):
        compute_spectra(load_model("nano"), [])
