"""One Jacobian as a linear operator, against autograd on HF's modules and NumPy."""

from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from families import CASES, FAMILIES, config_of, layout_of
from oracles import branch_jacobian, deviation, save_random, watch
from scipy.sparse.linalg import LinearOperator, aslinearoperator, svds

import jacspec

TOLERANCE = 1e-9
TEXT = "Speak, that the harbour may hear thee."
CUT = 4


@pytest.fixture(scope="module")
def nano() -> tuple[Any, Any, list[int]]:
    """The embedded model in float64, in jacspec and in HF's PyTorch, and the ids of a text."""
    from transformers import GPT2LMHeadModel

    model = jacspec.load_model("nano", precision="float64")
    hf = GPT2LMHeadModel.from_pretrained(model.tokenizer_folder, attn_implementation="eager").double().eval()
    return model, hf, model.tokenizer(TEXT)["input_ids"]


@pytest.fixture(scope="module", params=["attn", "mlp"])
def pair(request: pytest.FixtureRequest, nano: Any) -> tuple[Any, np.ndarray]:
    """An operator, and what autograd says is its matrix."""
    model, hf, ids = nano
    seen = watch(hf, FAMILIES["gpt2"].layout, np.array(ids))
    operator = jacspec.jacobian(model, TEXT, layer=3, component=request.param)
    return operator, branch_jacobian(seen.calls["", request.param, 3])


def test_products_are_those_of_the_matrix(pair: Any) -> None:
    operator, matrix = pair
    rng = np.random.default_rng(0)
    v, V = rng.normal(size=96), rng.normal(size=(96, 3))
    assert isinstance(operator, LinearOperator)
    assert (operator.shape, operator.dtype) == ((96, 96), np.float64)
    for found, expected in (
        (operator @ v, matrix @ v),
        (operator.T @ v, matrix.T @ v),
        (operator.H @ V, matrix.T @ V),
        (operator.matmat(V), matrix @ V),
        (operator.rmatmat(V), matrix.T @ V),
        (operator @ (v + 1j * V[:, 0]), matrix @ (v + 1j * V[:, 0])),
        ((operator.T * operator) @ v, matrix.T @ (matrix @ v)),
        (operator.dense(), matrix),
    ):
        assert np.abs(found - expected).max() < TOLERANCE * np.abs(expected).max()
    assert deviation(operator.T @ v, matrix @ v) > 1e-3, "the oracle tells a matrix from its transpose"


def test_spectra_are_those_of_the_matrix(pair: Any) -> None:
    operator, matrix = pair
    sigma = np.linalg.svd(matrix, compute_uv=False)
    with mock.patch.object(type(operator), "dense", side_effect=AssertionError("J was formed")):
        top = operator.svd(k=4, tolerance=1e-10)
        np.testing.assert_allclose(svds(operator, k=3, return_singular_vectors=False)[::-1], sigma[:3], rtol=1e-9)
    whole = operator.svd()
    np.testing.assert_allclose(top.s, sigma[:4], rtol=1e-9)
    np.testing.assert_allclose(whole.s, sigma, rtol=1e-9, atol=1e-12)
    for found, count in ((top, 4), (whole, 96)):
        np.testing.assert_allclose(found.U.T @ found.U, np.eye(count), atol=1e-10)
        np.testing.assert_allclose(matrix @ found.Vh.T, found.U * found.s, atol=1e-7 * sigma[0])
    radius = np.abs(np.linalg.eigvals(matrix)).max()
    eigenvalues = operator.eigvals()
    assert abs(eigenvalues[0]) == pytest.approx(radius, rel=1e-9)
    assert np.all(np.diff(np.abs(eigenvalues)) <= 1e-12)


def test_position_and_ids_and_the_last_layer(nano: Any) -> None:
    """Cut at a token, J is that of the shorter text; what follows is not read."""
    model, hf, ids = nano
    seen = watch(hf, FAMILIES["gpt2"].layout, np.array(ids[: CUT + 1]))
    matrix = branch_jacobian(seen.calls["", "attn", 5])
    for given in (TEXT, ids, np.array(ids)):
        operator = jacspec.jacobian(model, given, layer=-1, component="attn", position=CUT)
        assert deviation(operator.dense(), matrix) < TOLERANCE
    whole = jacspec.jacobian(model, ids, layer=-1, component="attn")
    assert deviation(whole.dense(), matrix) > 1e-3
    assert "layer 5" in repr(whole)


def test_cheap_to_make(nano: Any) -> None:
    """Neither J nor a later block is made."""
    model, _, ids = nano
    made: list[int] = []

    def note(number: int, block: Any) -> Any:
        made.append(number)
        return block

    formed = mock.patch("jacspec.jacobians.dense.jacobians", side_effect=AssertionError("J was formed"))
    multiplied = mock.patch("jacspec.jacobians.operator._push", side_effect=AssertionError("J was multiplied"))
    with formed, multiplied:
        jacspec.jacobian(model.with_blocks(note), ids, layer=1)
    assert made == [0, 1]


def test_encoder_decoder(tmp_path: Path) -> None:
    """The decoder's cross attention, at the encoder's output held fixed."""
    family, case = next(CASES[name] for name in CASES if CASES[name][0] == "t5")
    config = config_of(family, case)
    hf = save_random(tmp_path, family, **config)
    ids = [5, 6, 7, 8]
    seen = watch(hf, layout_of(family, config), np.array(ids), config["decoder_start_token_id"])
    model = jacspec.load_model(tmp_path, precision="float64")
    operator = jacspec.jacobian(model, ids, layer=1, component="cross")
    assert deviation(operator.dense(), branch_jacobian(seen.calls["decoder", "cross", 1])) < TOLERANCE
    with pytest.raises(jacspec.JacspecError, match="is in both stacks"):
        jacspec.jacobian(model, ids, layer=0, component="mlp")


def test_float32_keeps_its_precision() -> None:
    operator = jacspec.jacobian("nano", TEXT, layer=0)
    assert operator.dtype == np.float32
    assert (operator @ np.ones(96, np.float32)).dtype == np.float32
    with jax.numpy_dtype_promotion("standard"):
        assert aslinearoperator(operator) is operator


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"layer": 6}, ValueError, "layer=6 is not in the model. Accepted: 0 to 5"),
        ({"layer": "3"}, TypeError, "layer takes an int, and '3'"),
        ({"layer": 0, "component": "mpl"}, ValueError, "Did you mean 'mlp'"),
        ({"layer": 0, "component": ["mlp"]}, TypeError, "component takes one name"),
        ({"layer": 0, "position": 99}, ValueError, "position=99 is not in the text"),
        ({"layer": 0, "text": ["a", "b"]}, TypeError, "takes one text, and 2 were given"),
        ({"layer": 0, "text": [5000]}, ValueError, "vocabulary has 1024"),
        ({"layer": 0, "k": 97}, ValueError, "k=97 singular values of a 96 × 96 matrix"),
    ],
    ids=str,
)
def test_slip_is_told(wrong: dict[str, Any], kind: type[Exception], message: str) -> None:
    options = {"text": TEXT} | wrong
    k = options.pop("k", None)
    with pytest.raises(jacspec.JacspecError, match=message) as caught:
        jacspec.jacobian("nano", **options).svd(k=k)
    assert isinstance(caught.value, kind)
