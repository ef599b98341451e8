"""A PyTorch model in memory: the tensors, numbers and refusals that a folder of its files gives."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from families import CASES, config_of
from oracles import auto_class, save_random
from transformers import AutoTokenizer, GPT2LMHeadModel

import jacspec
from jacspec.config import ASSETS
from jacspec.models.modules import module_parts

NANO = ASSETS / "nano"
FIRST = {family: (name, case) for name, (family, case) in reversed(CASES.items())}
"""One case a family."""


@pytest.fixture
def nano() -> Any:
    return GPT2LMHeadModel.from_pretrained(NANO, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", FIRST)
def test_tensors_are_those_of_the_folder(family: str, tmp_path: Path) -> None:
    model = save_random(tmp_path, family, **config_of(family, FIRST[family][1]))
    held, read = jacspec.load_model(model.float()), jacspec.load_model(tmp_path)
    assert held.spec == read.spec
    parts = [part for part in module_parts(read.spec) if part[0] != "head" or read.has_head]
    assert held.has_head == read.has_head
    for part, number in parts:
        ours, theirs = (jax.tree.leaves(each.make(part, number)) for each in (held, read))
        for leaf, expected in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(leaf, np.asarray(expected, np.float32))


def test_study_gives_the_numbers_of_the_folder(nano: Any) -> None:
    """Numbers to the last bit; `run.json` says that the model came from memory, with a hash of its tensors."""
    options: dict[str, Any] = {"texts": "Speak, speak.", "layers": [0, 5], "silent": True}
    tokenizer = AutoTokenizer.from_pretrained(NANO)
    held = jacspec.run("jacobian", nano, tokenizer=tokenizer, **options)
    read = jacspec.run("jacobian", "nano", **options)
    assert held.metrics.equals(read.metrics)
    assert np.array_equal(held.dataset["singular_values"], read.dataset["singular_values"])
    said = held.provenance["identity"]["checkpoint"]
    assert said["name"] == "nano (in memory)"
    (digest,) = said["files"].values()
    assert len(digest) == 64
    same = jacspec.load_model(nano).files
    with torch.no_grad():
        nano.transformer.h[0].mlp.c_fc.weight[0, 0] += 1
    assert [*same.values()] == [digest] != [*jacspec.load_model(nano).files.values()]


def test_bfloat16_is_exact(nano: Any) -> None:
    small = nano.to(torch.bfloat16)
    found = jacspec.load_model(small).block(2).mlp.up.weight[...]
    expected = small.transformer.h[2].mlp.c_fc.weight.detach().float().numpy().T
    np.testing.assert_array_equal(found, expected)


def test_changed_model_is_refused(nano: Any) -> None:
    opened = jacspec.load_model(nano)
    opened.block(0)
    with torch.no_grad():
        nano.transformer.h[0].mlp.c_fc.weight *= 2
    with pytest.raises(jacspec.JacspecError, match="was changed after it was opened"):
        opened.block(0)


def test_without_tokenizer_ids_are_taken(nano: Any) -> None:
    run = jacspec.run("jacobian", nano, [[5, 6, 7]], layers=0, silent=True)
    assert run.samples["text"].tolist() == ["5 6 7"]
    with pytest.raises(jacspec.JacspecError, match=r"without a tokenizer\. Give tokenizer="):
        jacspec.run("jacobian", nano, "Speak.", silent=True)
    assert jacspec.jacobian(nano, [5, 6, 7], layer=0).svd(k=1).s[0] == pytest.approx(
        run.metrics.query("component == 'mlp'")["spectral_radius"].item(), rel=1e-5
    )


def test_what_is_no_such_model_is_refused(nano: Any) -> None:
    with pytest.raises(jacspec.JacspecTypeError, match="Linear has no Hugging Face config"):
        jacspec.load_model(torch.nn.Linear(2, 2))
    with pytest.raises(jacspec.JacspecTypeError, match="model is a dict"):
        jacspec.load_model({})
    with torch.device("meta"):
        empty = auto_class("gpt2").from_config(nano.config)
    with pytest.raises(jacspec.JacspecError, match="has no values: it is on PyTorch's device meta"):
        jacspec.load_model(empty)
