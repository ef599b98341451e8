"""`task=finetune`: removal against NumPy, training against PyTorch's AdamW, runs and their models against HF."""

import json
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import torch
from conftest import TOLERANCE
from families import FAMILIES
from oracles import deviation, float64_throughout, load_trained
from servers import NANO, assert_refused, run_here
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from jacspec import open_run
from jacspec.backend import numerics
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint, open_checkpoint, random_checkpoint
from jacspec.models.classifier import Classifier, make_classifier, write_classifier
from jacspec.samples import Batch
from jacspec.studies.finetune.training import (
    Labelled,
    Training,
    compute_logits,
    draw_batches,
    fine_tune,
    remove_groups,
    score,
)
from jacspec.text.labelled import Columns, read_labelled

PAD = 1
trains = pytest.mark.usefixtures("_optax_promotion")
ROLES = ("q", "k", "v", "o", "up", "gate", "down")


@pytest.fixture
def _optax_promotion() -> Iterator[None]:
    """Optax mixes int32 counts with Python floats, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def _model(dtype: str = "float64", family: str = "gpt2") -> tuple[Checkpoint, Classifier]:
    layers = "n_layer" if family == "gpt2" else "num_hidden_layers"
    config = {"model_type": family, **FAMILIES[family].base, layers: 1}
    checkpoint = random_checkpoint(config, tokenizer_folder=NANO, seed=0, name="x", dtype=dtype)
    return checkpoint, make_classifier(checkpoint, labels=2, seed=1)


def _data(samples: int = 10) -> Labelled:
    """Samples whose label says whether the token 5 is among the others."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(6, 37, (samples, 8)).astype(np.int32)
    labels = (np.arange(samples) % 2).astype(np.int32)
    lengths = rng.integers(3, 9, samples).astype(np.int32)
    for row, length, label in zip(tokens, lengths, labels, strict=True):
        row[length:] = PAD
        if label:
            row[rng.integers(length)] = 5
    return Labelled(Batch(tokens, lengths), labels)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_chosen_matrices_lose_a_group(family: str, tmp_path: Path) -> None:
    """As HF's tensors see it: the parts of a fused one each lose their own group, the rest keeps its bits."""
    names = {"gpt2": ("c_attn.weight",), "llama": ("v_proj.weight",)}[family]
    with numerics("float64"):
        checkpoint, classifier = _model(family=family)
        cut, share = remove_groups(classifier, group=2, groups=4, roles=("v",))
        tensors = []
        for name, model in (("whole", classifier), ("cut", cut)):
            write_classifier(tmp_path / name, checkpoint, model, labels=("a", "b"), pad=PAD)
            tensors.append(load_trained(tmp_path / name, AutoModelForSequenceClassification).state_dict())
    removed = whole = 0.0
    for name, before in tensors[0].items():
        one, other = before.numpy(), tensors[1][name].numpy()
        if not name.endswith(names):
            np.testing.assert_array_equal(one, other)
            continue
        if family == "gpt2":  # stored (in, out): q, k and v side by side
            d_model = one.shape[0]
            np.testing.assert_array_equal(one[:, : 2 * d_model], other[:, : 2 * d_model])
            one, other = one[:, 2 * d_model :], other[:, 2 * d_model :]
        u, sigma, vt = np.linalg.svd(one, full_matrices=False)
        first, last = len(sigma) // 4, len(sigma) // 2
        expected = one - (u[:, first:last] * sigma[first:last]) @ vt[first:last]
        np.testing.assert_allclose(other, expected, atol=1e-12)
        removed, whole = removed + np.square(sigma[first:last]).sum(), whole + np.square(sigma).sum()
    assert share == pytest.approx(removed / whole)


def _train_in_torch(model: torch.nn.Module, data: Labelled, training: Training, seed: int) -> None:
    """PyTorch's AdamW on HF's model: linear warm-up and decay, gradients clipped to norm 1, decay on matrices."""
    named = dict(model.named_parameters())
    matrices = [value for value in named.values() if value.ndim == 2]
    vectors = [value for value in named.values() if value.ndim != 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    warm = round(training.warmup * training.steps)
    for step, rows in enumerate(draw_batches(len(data.labels), training, seed=seed)):
        rising = (step + 1) / (warm + 1)
        falling = (training.steps - step) / (training.steps - warm)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * (rising if step < warm else falling)
        tokens = torch.tensor(np.asarray(data.batch.tokens)[rows]).long()
        labels = torch.tensor(np.asarray(data.labels)[rows]).long()
        optimizer.zero_grad()
        logits = model(tokens, attention_mask=(tokens != PAD).long()).logits
        torch.nn.functional.cross_entropy(logits, labels).backward()
        norm = torch.sqrt(sum((value.grad**2).sum() for value in named.values() if value.grad is not None))
        for value in named.values():
            if value.grad is not None:
                value.grad /= max(float(norm), 1.0)
        optimizer.step()


@trains
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_training_is_that_of_torch(family: str, tmp_path: Path) -> None:
    training, data = Training(steps=6, batch=4, learning_rate=1e-2, warmup=0.34, weight_decay=0.1), _data()
    with numerics("float64"):
        checkpoint, classifier = _model(family=family)
        write_classifier(tmp_path, checkpoint, classifier, labels=("a", "b"), pad=PAD)
        model = load_trained(tmp_path, AutoModelForSequenceClassification)  # in eval mode: nothing is dropped out
        with float64_throughout():
            _train_in_torch(model, data, training, seed=3)
            tokens = torch.tensor(np.asarray(data.batch.tokens)).long()
            expected = model(tokens, attention_mask=(tokens != PAD).long()).logits.detach().numpy()
        untouched = [np.asarray(leaf).copy() for leaf in jax.tree.leaves(classifier)]
        trained = fine_tune(classifier, data, training, seed=3)
        # Optax computes its schedule and bias corrections in float32.
        assert deviation(compute_logits(trained, data.batch), expected) < 1e-6
        other = fine_tune(classifier, data, training, seed=4)
        assert deviation(compute_logits(other, data.batch), expected) > 1e-4
        for before, after in zip(untouched, jax.tree.leaves(classifier), strict=True):
            np.testing.assert_array_equal(before, np.asarray(after))


@trains
def test_frozen_blocks_do_not_move_as_torch_trains_the_rest(tmp_path: Path) -> None:
    training = Training(steps=4, batch=4, learning_rate=1e-2, warmup=0.34, weight_decay=0.1, frozen=1)
    data = _data()
    with numerics("float64"):
        config = {"model_type": "gpt2", **FAMILIES["gpt2"].base}  # two blocks
        checkpoint = random_checkpoint(config, tokenizer_folder=NANO, seed=0, name="x", dtype="float64")
        classifier = make_classifier(checkpoint, labels=2, seed=1)
        write_classifier(tmp_path, checkpoint, classifier, labels=("a", "b"), pad=PAD)
        model = load_trained(tmp_path, AutoModelForSequenceClassification)
        for part in (model.transformer.wte, model.transformer.wpe, model.transformer.h[0]):
            part.requires_grad_(False)
        with float64_throughout():
            _train_in_torch(model, data, training, seed=3)
            tokens = torch.tensor(np.asarray(data.batch.tokens)).long()
            expected = model(tokens, attention_mask=(tokens != PAD).long()).logits.detach().numpy()
        trained = fine_tune(classifier, data, training, seed=3)
        assert deviation(compute_logits(trained, data.batch), expected) < 1e-6
        assert deviation(compute_logits(classifier, data.batch), expected) > 1e-4

    def moved(part: str) -> bool:
        return any(
            not np.array_equal(*leaves)
            for leaves in zip(*(jax.tree.leaves(getattr(each, part)) for each in (trained, classifier)), strict=True)
        )

    assert not moved("embedding")
    assert moved("readout")
    pairs = zip(trained.blocks, classifier.blocks, strict=True)
    changed = [
        [not np.array_equal(*leaves) for leaves in zip(*map(jax.tree.leaves, pair), strict=True)] for pair in pairs
    ]
    assert not any(changed[0])
    assert any(changed[1])


def test_scores_are_those_of_numpy() -> None:
    """With a last batch that is short; the oracle sees a label exchanged."""
    with numerics("float64"):
        _, classifier = _model()
        data = _data()
        logits = np.asarray(compute_logits(classifier, data.batch), np.float64)
        found = score(classifier, data, batch=4)
    rows = np.arange(len(data.labels))
    nats = -np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[rows, data.labels]
    assert found.accuracy == (logits.argmax(axis=1) == data.labels).mean()
    assert found.loss == pytest.approx(nats.mean(), rel=1e-12)
    exchanged = np.array(data.labels)
    exchanged[0] = 1 - exchanged[0]
    with numerics("float64"):
        assert score(classifier, data._replace(labels=exchanged), batch=4).accuracy != found.accuracy


def test_batches_take_every_sample_before_any_again() -> None:
    training = Training(steps=15, batch=4, learning_rate=1.0, warmup=0.0, weight_decay=0.0)
    drawn = np.concatenate(list(draw_batches(10, training, seed=0)))
    for epoch in drawn.reshape(-1, 10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert (drawn[:10] != drawn[10:20]).any()


@trains
def test_a_rule_is_learnt_and_its_loss_watched() -> None:
    with numerics("float32"):
        _, classifier = _model("float32")
        data = _data(64)
        training = Training(steps=60, batch=16, learning_rate=1e-2, warmup=0.1, weight_decay=0.01)
        assert score(fine_tune(classifier, data, training, seed=0), data, batch=64).accuracy > 0.9
        with pytest.raises(JacspecError, match="not finite at step"):
            fine_tune(classifier, data, training._replace(learning_rate=1e30, steps=17), seed=0)


def _examples(folder: Path) -> str:
    lines = ("the ferry rows at night", "a bell below the quay", "herring and cheese", "no man goes by", "the tide")
    rows = [{"text": line, "label": bool(n % 2)} for n, line in enumerate(lines * 3)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = {"n_layer": 1, "n_embd": 24, "n_head": 2, "vocab_size": 1024, "n_positions": 64}
    model = "model=gpt2 model.init=random " + " ".join(f"++model.config.{key}={size}" for key, size in sizes.items())
    small = "finetune.steps=2 finetune.batch=4 finetune.groups=2 finetune.seeds=2 finetune.holdout=0.4"
    return f"task=finetune {model} finetune.path={folder / 'a.jsonl'} {small}"


@trains
def test_run_and_its_models_in_hf(tmp_path: Path) -> None:
    small = _examples(tmp_path).split()
    with mock.patch("jacspec.studies.finetune.run.fine_tune", wraps=fine_tune) as trained:
        done = run_here(*small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    # A fine-tuning for each seed and group removed before it; one a seed serves all that is removed after it.
    assert trained.call_count == 2 * (1 + 2)
    run = open_run(tmp_path / "out")
    assert list(run.metrics) == ["order", "group", "seed", "accuracy", "label_loss", "removed_share", "reason"]
    assert len(run.metrics) == 2 * (1 + 2 * 2)
    assert set(run.summary["order"]) == {"none", "before", "after"}
    assert {file.name for file in (tmp_path / "out" / "figures").glob("*.png")} == {"accuracy.png", "label_loss.png"}
    # HF's accuracy on the same examples, tokenized by HF from the folder that was written.
    columns = Columns("text", None, "label")
    text = read_labelled(str(tmp_path / "a.jsonl"), columns, held_out_path=None, holdout=0.4, seed=0)
    for seed in (0, 1):
        folder = tmp_path / "out" / "models" / f"seed{seed}"
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            logits = torch.cat([model(**tokenizer(each.text, return_tensors="pt")).logits for each in text.held_out])
        labels = torch.tensor(text.numbers(text.held_out)).long()
        row = run.metrics.set_index(["order", "seed"]).loc[("none", seed)]
        assert row["accuracy"] == float((logits.argmax(dim=1) == labels).double().mean())
        loss = torch.nn.functional.cross_entropy(logits.double(), labels)
        assert row["label_loss"] == pytest.approx(float(loss), rel=TOLERANCE["float32"])
    # What was fine-tuned is a checkpoint like any other.
    assert open_checkpoint(folder).block(0).spec.d_model == 24
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("ferry", "barge"))
    assert "corpus.sha256" in run_here(*small, "resume=out", cwd=tmp_path).err


WRONG = {
    "finetune.steps=0": ("finetune.steps=0",),
    "finetune.groups=97": ("finetune.groups=97", "96 singular values"),
    "finetune.roles=[querry]": ("querry", "Accepted"),
    "finetune.roles=[]": ("removes nothing",),
    "finetune.roles=[gate]": ("0 singular values", "other finetune.roles"),
    "finetune.warmup=1": ("finetune.warmup=1",),
    "finetune.learning_rate=0": ("finetune.learning_rate=0",),
    "finetune.held_out=x.csv": ("finetune.path=FILE",),
    "finetune.path=none.jsonl": ("none.jsonl", "is not a file"),
    "model=t5-small model.init=random": ("encoder-decoder", "gpt2"),
    "seed=-1": ("seed=-1",),
}


@pytest.mark.parametrize(("given", "fragments"), WRONG.items(), ids=WRONG)
def test_bad_input(given: str, fragments: tuple[str, ...], tmp_path: Path) -> None:
    done = run_here("task=finetune", *given.split(), "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, *fragments)
