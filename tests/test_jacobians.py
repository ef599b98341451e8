"""Jacobians against torch.func on HF's sublayers over the whole sequence, and against central differences."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, GPT2
from jax.tree_util import Partial
from oracles import branch_jacobian, deviation, save_random, watch

from jacspec import JacspecError, compute_spectra, jacobian, load_model
from jacspec.axes import LayerResult
from jacspec.backend import numerics
from jacspec.jacobians.branches import Branch, Point, bind_samples, choose_components
from jacspec.jacobians.dense import jacobians
from jacspec.jacobians.devices import largest_batch
from jacspec.jacobians.engine import Plan, batch_size, prepare_batches, stream_layers
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint
from jacspec.spectra.metrics import METRICS

JACOBIAN_TOLERANCE = 1e-9


def our_jacobian(block: Block, h: np.ndarray, component: str, *, length: int | None = None) -> np.ndarray:
    """Compute one Jacobian at the last token of one sample whose stream before the block is `h`."""
    branches = bind_samples(block, jnp.asarray(h)[None], jnp.asarray([length or len(h)]))
    return np.asarray(jacobians(branches[component])[0])


@pytest.mark.parametrize("component", ["attn", "mlp"])
def test_jacobian_equals_central_differences(tmp_path: Path, component: str) -> None:
    save_random(tmp_path, "gpt2", **GPT2)
    with numerics("float64"):
        block = load_model(tmp_path, precision="float64").block(0)
        h = jax.random.normal(jax.random.key(0), (5, 24), jnp.float64)
        branch = bind_samples(block, h[None], jnp.asarray([5]))[component]
        context, x = jax.tree.map(lambda leaf: leaf[0], branch.point)
        step = 1e-6 * jnp.eye(24)
        f = jax.vmap(functools.partial(branch.f, context))
        centre = jnp.broadcast_to(x, step.shape)
        expected = ((f(centre + step) - f(centre - step)) / 2e-6).T
        found = jacobians(branch)[0]
        assert deviation(found, expected) < 1e-7


@pytest.mark.parametrize("component", ["attn", "mlp"])
def test_condition_is_that_of_what_the_norm_does_not_see(component: str) -> None:
    """Behind a LayerNorm the last value that is not zero is the gain along the stream itself, less its mean."""
    model = load_model("nano", precision="float64")
    texts = ["Speak, speak.", "What is the city but the people?"]
    own, other = (jacobian(model, text, layer=3, component=component) for text in texts)
    _, sigma, rows = np.linalg.svd(own.dense())
    seen, other_stream = ((each.x - each.x.mean()) / np.linalg.norm(each.x - each.x.mean()) for each in (own, other))
    np.testing.assert_allclose(np.abs(rows[-1]), 1 / np.sqrt(96), atol=1e-4)
    assert sigma[-1] < 1e-13 * sigma[0]
    assert abs(rows[-2] @ seen) > 0.99999
    assert abs(rows[-2] @ other_stream) < 0.99, "the oracle sees another stream"
    names = ["condition_number", "numerical_rank"]
    found = compute_spectra(model, texts[:1], components=[component], metrics=names, layers=[3])
    row = found.sel(component=component, sample=0, layer=3)
    assert float(row["numerical_rank"]) == 95
    assert float(row["condition_number"]) == pytest.approx(sigma[0] / sigma[-2], rel=1e-3)
    assert float(row["condition_number"]) > 300 * sigma[0] / sigma[-3]


def test_rows_are_outputs_and_columns_inputs() -> None:
    matrix = jnp.arange(9.0).reshape(3, 3)
    found = jacobians(Branch(Partial(lambda context, x: matrix @ x), Point(None, jnp.ones((2, 3)))))
    np.testing.assert_array_equal(found, jnp.stack([matrix, matrix]))


def run_layers(
    model: Checkpoint, tokens: list[list[int]], done: dict[int, LayerResult] | None = None
) -> list[LayerResult]:
    """Stream all layers of some samples with the paper's metrics."""
    batches = prepare_batches(model, tokens, memory_gib=1.0)
    plan = Plan(("attn", "mlp"), ("spectral_radius", "decay_ratio"))
    return list(stream_layers(model, batches, plan, done=done))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_padding_and_company_never_change_a_sample(precision: str, tmp_path: Path) -> None:
    save_random(tmp_path, "gpt2", **GPT2 | {"n_layer": 1})
    rng = np.random.default_rng(0)
    tokens = [rng.integers(1, 37, length).tolist() for length in (1, 15, 16, 17)]
    model = load_model(tmp_path, precision=precision)
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
    seen = watch(hf, FAMILIES["gpt2"].layout, np.array(model.tokenizer(text)["input_ids"]))
    for layer in range(6):
        for component in ("attn", "mlp"):
            matrix = branch_jacobian(seen.calls["", component, layer])
            found = dataset.sel(layer=layer, component=component, sample=0)
            sigma = np.linalg.svd(matrix, compute_uv=False)
            assert deviation(found["singular_values"], sigma) < JACOBIAN_TOLERANCE
            assert float(found["spectral_radius"]) == pytest.approx(sigma[0], rel=1e-9)
            assert float(found["decay_ratio"]) == pytest.approx(sigma[1] / sigma[0], rel=1e-9)
            radius = np.abs(np.linalg.eigvals(matrix)).max()
            assert float(found["eigenvalue_radius"]) == pytest.approx(radius, rel=1e-9)
            x = seen.arrays[f"{component}{layer} in"][-1]
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
    with pytest.raises(JacspecError, match="Layer 2, component mlp, sample 0: singular values not finite"):
        run_layers(broken, [[1] * 20, [1, 2, 3]])


def test_choices() -> None:
    gpt2, t5 = load_model("gpt2", init="random").spec, load_model("t5-small", init="random").spec
    with pytest.raises(JacspecError, match="Did you mean 'attn'"):
        choose_components(["atn"], gpt2)
    with pytest.raises(JacspecError, match=r"'cross', which this model has not. Accepted: attn, block, mlp"):
        choose_components(["cross"], gpt2)
    with pytest.raises(JacspecError, match=r"'decoder.attn', which this model has not"):
        choose_components(["decoder.attn"], gpt2)
    assert choose_components(["mlp", "attn", "mlp"], gpt2) == ("mlp", "attn")
    assert choose_components(["attn", "mlp"], t5) == ("encoder.attn", "decoder.attn", "encoder.mlp", "decoder.mlp")
    assert choose_components(["decoder.cross", "cross"], t5) == ("decoder.cross",)
    with pytest.raises(JacspecError, match="empty"):
        choose_components([], gpt2)
    spec = load_model("gpt2", init="random").spec.blocks[0]
    sizes = [batch_size(spec, tokens=100, itemsize=4, memory_bytes=gib * 2**30) for gib in (0.001, 1.0, 1000.0)]
    assert sizes[0] == 1 < sizes[1] < 32 < sizes[2] == pytest.approx(1000 * sizes[1], rel=0.2)
    assert largest_batch(None) == 64


def test_texts_without_tokens_are_refused() -> None:
    with pytest.raises(JacspecError, match=r"\[1\]"):
        compute_spectra(load_model("nano"), ["Speak.", ""])
    with pytest.raises(JacspecError, match="no texts"):
        compute_spectra(load_model("nano"), [])
