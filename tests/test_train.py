"""Training: what is written is what HF reads, the score is what PyTorch computes, the held-out part stays unseen."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from servers import files_below, run_here
from tokenizers import Tokenizer

from jacspec.api import load_model
from jacspec.backend import numerics
from jacspec.config import ASSETS, DataConfig
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.modules import leaf_names
from jacspec.runs import open_run
from jacspec.studies.train import TrainOptions
from jacspec.studies.train.run import (
    END_OF_TEXT,
    Result,
    Transformer,
    bits_per_byte,
    model_card,
    prepare_training,
    train_model,
)
from jacspec.text.corpus import read_text_bytes

VERSE = (ASSETS / "verse.txt").read_text()
NANO = ASSETS / "nano"
SHAKESPEARE = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
CONFIG = TrainOptions(
    vocab=300,
    positions=16,
    layers=1,
    heads=2,
    d_model=16,
    steps=40,
    batch=4,
    learning_rate=3e-2,
    weight_decay=0.1,
    warmup=4,
    holdout=0.1,
    revisions=[0, 8],
    dtype="float32",
)


class Trained(NamedTuple):
    folder: Path
    result: Result
    reports: list[tuple[int, float]]
    held_out: str


def train(folder: Path, text: str, config: TrainOptions = CONFIG, seed: int = 3) -> Trained:
    file = folder / "text.txt"
    file.write_text(text, encoding="utf-8")
    reports: list[tuple[int, float]] = []
    # Optax's own schedules mix int32 counts with Python floats, which strict promotion refuses.
    with numerics("float32"), jax.numpy_dtype_promotion("standard"):
        result = train_model(
            config,
            prepare_training(config, read_text_bytes(DataConfig("text", path=str(file)))),
            seed=seed,
            folder=folder / "model",
            report=lambda step, loss: reports.append((step, loss)),
        )
    return Trained(folder / "model", result, reports, text[int(len(text) * (1 - config.holdout)) :])


def whole_model(checkpoint: Checkpoint) -> Transformer:
    return Transformer(checkpoint.embedding(), tuple(checkpoint.blocks()), checkpoint.head())


def positions_of(model: Checkpoint) -> int:
    assert model.spec.positions is not None
    return model.spec.positions


def score(checkpoint: Checkpoint, text: str, window: int) -> float:
    tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_folder / "tokenizer.json"))
    with numerics("float32"):
        return bits_per_byte(checkpoint, tokenizer, text, window=window)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("trained"), VERSE)


def hf_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def hf_bits_per_byte(folder: Path, text: str, window: int) -> float:
    """Score each token in the first half-overlapping window that holds it as a target, with HF's own modules."""
    import torch
    from transformers import AutoTokenizer

    model, tokenizer = hf_model(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(text)["input_ids"]])
    starts = range(0, len(ids) - 1, window // 2)
    padded = torch.cat([ids, ids.new_zeros(window)])  # causal: padding at the end changes nothing before it
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.stack([padded[at : at + window] for at in starts])).logits, -1).double()
    nats: dict[int, float] = {}
    for start, window_logs in zip(starts, logs.numpy(), strict=True):
        for place, target in enumerate(ids[start + 1 : start + window + 1].tolist()):
            nats.setdefault(start + place + 1, -float(window_logs[place, target]))
    assert len(nats) == len(ids) - 1
    return sum(nats.values()) / math.log(2) / len(text.encode())


def test_loss_falls(trained: Trained) -> None:
    steps = [step for step, _ in trained.result.curve]
    assert steps == [0, 32, 39]
    assert trained.reports == trained.result.curve
    first, last = trained.result.curve[0][1], trained.result.curve[-1][1]
    assert first == pytest.approx(math.log(300), rel=0.02)  # an untrained model knows nothing
    assert last < first - 1
    assert list(trained.result.bits_per_byte) == ["step0", "step8", "final"]
    scores = list(trained.result.bits_per_byte.values())
    assert scores == sorted(scores, reverse=True)
    assert trained.result.text_sha256 == hashlib.sha256(VERSE.encode()).hexdigest()


def test_hf_reads_what_was_written(trained: Trained) -> None:
    import torch
    from transformers import AutoTokenizer

    model = hf_model(trained.folder)
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert trained.result.parameters == sum(weight.numel() for weight in model.parameters())
    ids = AutoTokenizer.from_pretrained(trained.folder)(trained.held_out)["input_ids"][:16]
    ours = Tokenizer.from_file(str(trained.folder / "tokenizer.json")).encode(trained.held_out).ids[:16]
    assert ids == ours
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    checkpoint = open_checkpoint(trained.folder)
    with numerics("float32"):
        tokens = jnp.asarray(ids, "int32")
        h = checkpoint.embedding()(tokens)
        for block in checkpoint.blocks():
            h = block(h)
        for found in (checkpoint.head()(h), whole_model(checkpoint)(tokens)):
            np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5 * np.abs(expected).max(), rtol=0)
        sabotaged = np.asarray(checkpoint.head()(h[:, ::-1]))
    assert np.abs(sabotaged - expected).max() > 1e-3


@pytest.mark.parametrize("window", [16, 15, 7])
def test_bits_per_byte_equals_torch(trained: Trained, window: int) -> None:
    text = trained.held_out[:1500]
    expected = hf_bits_per_byte(trained.folder, text, window)
    assert score(open_checkpoint(trained.folder), text, window) == pytest.approx(expected, rel=1e-4)


def test_reported_score_is_that_of_the_files(trained: Trained) -> None:
    expected = hf_bits_per_byte(trained.folder, trained.held_out, 16)
    assert trained.result.bits_per_byte["final"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 13, 16])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_each_token_is_scored_once(trained: Trained, window: int, length: int) -> None:
    # Logits that are all equal cost log₂ V bits a token, whatever the windows.
    checkpoint = open_checkpoint(trained.folder)
    flat = dataclasses.replace(
        checkpoint, make=lambda part, number: jax.tree.map(jnp.zeros_like, checkpoint.make(part, number))
    )
    text = trained.held_out[:length]
    tokenizer = Tokenizer.from_file(str(trained.folder / "tokenizer.json"))
    tokens = len(tokenizer.encode(text).ids)
    with numerics("float32"):
        found = bits_per_byte(flat, tokenizer, text, window=window)
    assert found == pytest.approx(tokens * math.log2(300) / len(text.encode()), rel=1e-5)


def test_same_seed_same_bytes_and_held_out_part_unseen(trained: Trained, tmp_path: Path) -> None:
    # Another held-out part of the same length, in letters that occur nowhere else: nothing that is written may change.
    seen = VERSE[: len(VERSE) - len(trained.held_out)]
    other = train(tmp_path, seen + ("QZ~" * len(VERSE))[: len(trained.held_out)])
    files = sorted(file.relative_to(trained.folder) for file in trained.folder.rglob("*") if file.is_file())
    assert [str(file) for file in files] == [
        "config.json",
        "model.safetensors",
        "revisions/step0/model.safetensors",
        "revisions/step8/model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for file in files:
        assert (other.folder / file).read_bytes() == (trained.folder / file).read_bytes(), file
    assert other.result.curve == trained.result.curve
    assert other.result.bits_per_byte["final"] > trained.result.bits_per_byte["final"]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("spoilt", [False, True])
def test_interrupted_training_ends_as_if_it_had_not_been(spoilt: bool, trained: Trained, tmp_path: Path) -> None:
    """From what it kept at step 8; where that is changed, the end is another."""
    (tmp_path / "text.txt").write_text(VERSE, encoding="utf-8")
    prepared = prepare_training(CONFIG, read_text_bytes(DataConfig("text", path=str(tmp_path / "text.txt"))))
    state, folder = tmp_path / "000000.npz", tmp_path / "model"

    def stop(step: int, loss: float) -> None:
        if step:
            raise StoppedError

    with numerics("float32"), jax.numpy_dtype_promotion("standard"):
        with pytest.raises(StoppedError):
            train_model(CONFIG, prepared, seed=3, folder=folder, report=stop, state_file=state)
        with np.load(state) as stored:
            kept = dict(stored)
        assert json.loads(kept["said"].item())[0] == 8
        if spoilt:
            np.savez(state, **{**kept, "0": kept["0"] + np.float32(0.1)})
        steps: list[int] = []
        again = train_model(
            CONFIG, prepared, seed=3, folder=folder, report=lambda step, _: steps.append(step), state_file=state
        )
    assert steps == [32, 39]
    same = (folder / "model.safetensors").read_bytes() == (trained.folder / "model.safetensors").read_bytes()
    assert same != spoilt
    assert (again == trained.result) != spoilt


def test_command_trains_draws_and_names_the_next_one(tmp_path: Path) -> None:
    """A refused option leaves nothing behind; the run has its page, figures and tables, and resumes to itself."""
    sizes = ("train.steps=40", "train.vocab=300", "train.positions=16", "train.layers=1", "train.heads=2")
    small = (*sizes, "train.d_model=16", "train.batch=4", "train.warmup=4", "task=train", "hydra.run.dir=my run")
    with jax.numpy_dtype_promotion("standard"):
        refused = run_here(*small, "train.revisions=[0,99]", cwd=tmp_path)
        assert (refused.code, files_below(tmp_path)) == (1, set()), refused.err
        done = run_here(*small, "train.revisions=0", cwd=tmp_path)
        assert done.code == 0, done.err
        again = run_here(*small, "train.revisions=0", "resume=my run", cwd=tmp_path)
        assert again.code == 0, again.err
    assert f"Type: jacspec 'model={tmp_path}/my run/model'" in done.out
    run = open_run(tmp_path / "my run")
    assert list(run.metrics["revision"]) == ["step0", "final"]
    assert list(run.metrics["step"]) == [0, 40]
    curve = run.table("curve.csv")
    assert list(curve["step"]) == [0, 32, 39]
    assert curve["loss"][0] == pytest.approx(math.log(300), rel=0.02)
    for name in ("report.html", "figures/loss.png", "figures/bits_per_byte.png", "model/model.safetensors"):
        assert (run.folder / name).is_file()
    assert not (run.folder / "layers").exists()


def test_tokenizer_is_lossless(trained: Trained) -> None:
    tokenizer = Tokenizer.from_file(str(trained.folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 300
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    for text in (VERSE, "Ça va ? 😀\r\n\t end", "  two  spaces"):
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_weights_are_read_as_they_were_written(trained: Trained) -> None:
    stored = load_file(trained.folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype("float32")}
    checkpoint = open_checkpoint(trained.folder)
    embedding, block, head = checkpoint.embedding(), checkpoint.block(0), checkpoint.head()
    assert embedding.position is not None
    assert head.norm is not None
    leaves = dict(zip(leaf_names(block), jax.tree.leaves(block), strict=True))
    c_attn = np.concatenate([np.asarray(leaves[f"attn.{name}.weight"]) for name in "qkv"]).T
    pairs = {
        "transformer.wte.weight": embedding.token[...],
        "transformer.wpe.weight": embedding.position[...],
        "transformer.h.0.attn.c_attn.weight": c_attn,
        "transformer.h.0.mlp.c_fc.weight": leaves["mlp.up.weight"].T,
        "transformer.ln_f.weight": head.norm.gain(jnp.dtype("float32")),
    }
    for name, value in pairs.items():
        np.testing.assert_array_equal(np.asarray(value), stored[name], err_msg=name)
    np.testing.assert_array_equal(head.unembed.weight[...], embedding.token[...])


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "one word": ("Hi.", {}, "3 tokens|2 tokens|32 are needed"),
    "no text": (" \n", {}, "is empty"),
    "holds nothing out": (VERSE, {"holdout": 0.0}, "train.holdout=0.0"),
    "holds all out": (VERSE, {"holdout": 1.0}, "train.holdout=1.0"),
    "long warm-up": (VERSE, {"warmup": 40}, "train.warmup=40 does not fit train.steps=40"),
    "no steps": (VERSE, {"steps": 0, "warmup": 0}, "train.steps=0"),
    "heads": (VERSE, {"heads": 3}, "16 dimensions do not divide into 3 heads"),
    "dtype": (VERSE, {"dtype": "float61"}, "'float61' is not known. Did you mean 'float16'"),
}


@pytest.mark.parametrize(("text", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(tmp_path: Path, text: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JacspecError, match=message):
        train(tmp_path, text, dataclasses.replace(CONFIG, **changes))


def test_card_names_what_made_the_model(trained: Trained) -> None:
    card = model_card(CONFIG, trained.result, data="data=verse", seed=3)
    assert "jacspec task=train data=verse seed=3 train.vocab=300" in card
    assert "train.revisions=[0,8]" in card
    assert trained.result.text_sha256 in card
    assert f"| final | {trained.result.bits_per_byte['final']:.3f} |" in card
    assert all(f"| {step} | {loss:.3f} |" in card for step, loss in trained.result.curve)


# The embedded model


def nano_revisions() -> list[str]:
    return sorted((folder.name for folder in (NANO / "revisions").iterdir()), key=lambda name: int(name[4:]))


def test_nano_is_small_and_its_revisions_improve() -> None:
    assert sum(file.stat().st_size for file in NANO.rglob("*") if file.is_file()) <= 10_000_000
    models = [load_model("nano", revision=revision) for revision in nano_revisions()] + [load_model("nano")]
    scores = [score(model, VERSE[:3000], positions_of(model)) for model in models]
    assert len(scores) >= 3
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 3.5
    assert scores[-1] < 3


def test_nano_reads_held_out_shakespeare() -> None:
    """The first tenth of what it was not trained on."""
    if not SHAKESPEARE.is_file():
        pytest.skip(f"{SHAKESPEARE} is not beside this checkout")
    text = SHAKESPEARE.read_text(encoding="utf-8")
    model = load_model("nano")
    held_out = text[int(len(text) * 0.9) :]
    assert score(model, held_out[: len(held_out) // 10], positions_of(model)) <= 2.6


def test_nano_card() -> None:
    card = (NANO / "README.md").read_text(encoding="utf-8")
    assert "jacspec task=train data=" in card
    assert "seed=" in card
    assert "sha256" in card
    config = json.loads((NANO / "config.json").read_text())
    assert all(f"| {revision} |" in card for revision in [*nano_revisions(), "final"])
    assert f"{config['n_layer']} layers, width {config['n_embd']}" in card
