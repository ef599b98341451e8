"""Classification heads: written checkpoints load in HF's classes and give the same logits, and the other way round."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conftest import TOLERANCE
from families import FAMILIES
from flax import nnx
from oracles import deviation, float64_throughout, load_trained
from parity import quick_jit
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification

from jacspec.backend import numerics
from jacspec.config import ASSETS
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from jacspec.models.classifier import SEQUENCE_HEADS, Classifier, make_classifier, read_classifier, write_classifier

PAD = 1
TOKENS = np.array([[2, 3, 4, 5, 6, 7], [8, 9, 10, PAD, PAD, PAD]], np.int32)
LENGTHS = np.array([6, 3], np.int32)
NAMES = ("no", "perhaps", "yes")
EXPERTS = ("gpt_oss", "mixtral", "qwen3_moe")


def _random(family: str) -> Checkpoint:
    cases = FAMILIES[family].cases
    # OPT's narrower embedding is projected before the head; in the others any case will do.
    case = cases["projected after"] if family == "opt" else next(iter(cases.values()))
    config = one_layer({"model_type": family, **FAMILIES[family].base, **case})
    return random_checkpoint(config, tokenizer_folder=ASSETS / "nano", seed=0, name=family, dtype="float64")


def one_layer(config: dict[str, Any]) -> dict[str, Any]:
    """Leave one layer of a model, whose head is the subject."""
    counts = {key: 1 for key in ("n_layer", "n_layers", "num_hidden_layers") if key in config}
    kinds = {"layer_types": config["layer_types"][:1]} if "layer_types" in config else {}
    return config | counts | kinds


@quick_jit
def _logits(classifier: Classifier, tokens: Any, lengths: Any) -> Any:
    return jax.vmap(lambda tokens, length: classifier(tokens, length))(tokens, lengths)


def _load(folder: Path) -> Any:
    """Load a model whose experts HF puts together from the file's tensors; all of these are taken."""
    with float64_throughout():
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float64, output_loading_info=True
        )
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.config._experts_implementation = "eager"  # its grouped products know no float64
    return model.eval()


def _hf_logits(model: Any, tokens: np.ndarray = TOKENS) -> np.ndarray:
    with torch.no_grad(), float64_throughout():
        return model(torch.tensor(tokens).long(), attention_mask=torch.tensor(tokens != PAD).long()).logits.numpy()


@pytest.mark.few(3)
@pytest.mark.parametrize("family", SEQUENCE_HEADS)
def test_written_classifiers_load_in_hf(family: str, tmp_path: Path) -> None:
    with numerics("float64"):
        checkpoint = _random(family)
        classifier = make_classifier(checkpoint, labels=3, seed=1)
        write_classifier(tmp_path, checkpoint, classifier, labels=NAMES, pad=PAD)
        found = np.asarray(_logits(classifier, TOKENS, LENGTHS))
        again = read_classifier(open_checkpoint(tmp_path, dtype="float64"))
    model = _load(tmp_path) if family in EXPERTS else load_trained(tmp_path, AutoModelForSequenceClassification)
    assert type(model).__name__ == SEQUENCE_HEADS[family].hf_class
    assert model.config.id2label == dict(enumerate(NAMES))
    expected = _hf_logits(model)
    assert deviation(found, expected) < TOLERANCE["float64"]
    for written, read in zip(jax.tree.leaves(classifier), jax.tree.leaves(again), strict=True):
        assert (np.asarray(written) == np.asarray(read)).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_hf_sees_what_is_wrong(family: str, tmp_path: Path) -> None:
    """The token before the last, padding that counts, a head with its labels exchanged."""
    with numerics("float64"):
        checkpoint = _random(family)
        classifier = make_classifier(checkpoint, labels=3, seed=1)
        write_classifier(tmp_path, checkpoint, classifier, labels=NAMES, pad=PAD)
        expected = _hf_logits(load_trained(tmp_path, AutoModelForSequenceClassification))
        whole = np.full_like(LENGTHS, TOKENS.shape[1])
        assert deviation(_logits(classifier, TOKENS, LENGTHS - 1), expected) > 1e-3
        assert deviation(_logits(classifier, TOKENS, whole), expected) > 1e-3
        classifier.readout.score.weight = nnx.Param(classifier.readout.score.weight[...][::-1])
        assert deviation(_logits(classifier, TOKENS, LENGTHS), expected) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "roberta", "distilbert"])
def test_hf_classifiers_are_read(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with float64_throughout():
        config = CONFIG_MAPPING[family](**one_layer({**FAMILIES[family].base, "num_labels": 4, "pad_token_id": PAD}))
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    with numerics("float64"):
        read = read_classifier(open_checkpoint(tmp_path, dtype="float64"))
        found = np.asarray(_logits(read, TOKENS, LENGTHS))
        assert deviation(found, _hf_logits(model)) < TOLERANCE["float64"]
        # A new head is drawn over an old one, but for BERT's pooler, which pretraining made.
        fresh = make_classifier(open_checkpoint(tmp_path, dtype="float64"), labels=4, seed=0).readout
        assert (np.asarray(fresh.score.weight[...]) != np.asarray(read.readout.score.weight[...])).any()
        if read.readout.dense is not None:
            assert fresh.dense is not None
            same = jnp.array_equal(fresh.dense.weight[...], read.readout.dense.weight[...])
            assert bool(same) == (family == "bert")


def test_heads_that_are_not_there(tmp_path: Path) -> None:
    config = {"model_type": "t5", **FAMILIES["t5"].base, **next(iter(FAMILIES["t5"].cases.values()))}
    model = random_checkpoint(config, tokenizer_folder=ASSETS / "nano", seed=0, name="x")
    with pytest.raises(JacspecError, match="encoder-decoder"):
        make_classifier(model, labels=2, seed=0)
    with pytest.raises(JacspecError, match=r"no classification head: score\.weight"):
        read_classifier(open_checkpoint(ASSETS / "nano"))


def test_a_damaged_head_is_refused(tmp_path: Path) -> None:
    with numerics("float64"):
        checkpoint = _random("distilbert")
        classifier = make_classifier(checkpoint, labels=3, seed=1)
        classifier.readout.score.bias = nnx.Param(jnp.zeros(2))
        write_classifier(tmp_path, checkpoint, classifier, labels=NAMES, pad=PAD)
        assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == PAD
        with pytest.raises(JacspecError, match=r"shape of score\.bias"):
            read_classifier(open_checkpoint(tmp_path, dtype="float64"))
