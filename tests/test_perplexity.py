"""Perplexity of texts: HF's PyTorch on the same windows, masks in turn, standard errors in closed form."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from families import CASES, config_of
from oracles import deviation, float64_throughout, save_random

from jacspec import JacspecError, load_model
from jacspec.backend import numerics
from jacspec.config import ASSETS
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.scoring.perplexity import (
    ChunkSums,
    mean_nats,
    perplexity,
    perplexity_change,
    prepare_passage,
    score_tokens,
    sum_chunks,
)
from jacspec.scoring.windows import Passage, causal_passage, make_passage, masked_passage

FIRST_CASES = {family: name for name, (family, _) in reversed(CASES.items()) if family not in ("t5", "mt5")}
DECODERS = ("gpt2", "llama", "gemma2", "opt")
ENCODERS = ("bert", "roberta", "distilbert")
"""Heads of each kind, whose logits of every family are HF's by tests/test_families.py."""

SINGLE = ("gpt2", "llama")
"""Families that are compared in float32 too."""

VERSE = (ASSETS / "verse.txt").read_text()
MEMORY = 2.0**28


def draw_tokens(count: int) -> list[int]:
    """Tokens of the tiny models, without those that RoBERTa takes for padding."""
    return np.random.default_rng(5).integers(2, 11, count).tolist()


def nats_of(checkpoint: Checkpoint, passage: Passage, memory_bytes: float = MEMORY) -> np.ndarray:
    return score_tokens(checkpoint, passage, prepare_passage(checkpoint, passage, memory_bytes=memory_bytes))


def slide(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Go through the windows of HF's guide: begin, end, and the first token that is scored."""
    previous = 0
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        yield begin, end, max(previous, 1)
        previous = end
        if end == length:
            break


def hf_perplexity(model: Any, tokens: list[int], window: int, stride: int) -> float:
    """HF's guide as it stands, but for the count of a later window's tokens, of which it leaves one out."""
    ids = torch.tensor([tokens])
    total, count = 0.0, 0
    for begin, end, first in slide(len(tokens), window, stride):
        targets = ids[:, begin:end].clone()
        targets[:, : first - begin] = -100
        with torch.no_grad():
            loss = model(input_ids=ids[:, begin:end], labels=targets, use_cache=False).loss
        total += float(loss) * (end - first)
        count += end - first
    assert count == len(tokens) - 1
    return math.exp(total / count)


def hf_masked_nats(
    model: Any, tokens: list[int], size: int, mask: int, before: list[int], after: list[int]
) -> list[float]:
    """Mask each token of each piece in turn."""
    nats = []
    for start in range(0, len(tokens), size):
        piece = [*before, *tokens[start : start + size], *after]
        for place in range(len(before), len(piece) - len(after)):
            ids = torch.tensor([piece])
            ids[0, place] = mask
            with torch.no_grad():
                logs = torch.log_softmax(model(input_ids=ids).logits[0, place], -1)
            nats.append(-float(logs[piece[place]]))
    return nats


@pytest.mark.parametrize("family", DECODERS)
def test_perplexity_is_hfs(family: str, tmp_path: Path) -> None:
    """With windows that overlap and a last one that is short."""
    _, case = CASES[FIRST_CASES[family]]
    model = save_random(tmp_path, family, **config_of(family, case))
    tokens = draw_tokens(63)
    with float64_throughout():
        expected = hf_perplexity(model, tokens, 20, 7)
        other = hf_perplexity(model, tokens, 20, 19)
    passage = causal_passage(tokens, window=20, stride=7)
    assert len(passage.windows[-1].tokens) < 19
    for precision, tolerance in (("float64", 1e-9), ("float32", 1e-4))[: 2 if family in SINGLE else 1]:
        with numerics(precision):
            nats = nats_of(open_checkpoint(tmp_path, dtype=precision), passage)
        found = perplexity(sum_chunks(nats, passage.chunks)).value
        assert found == pytest.approx(expected, rel=tolerance)
    # The oracle sees another stride.
    assert found != pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("family", ENCODERS)
def test_pseudo_perplexity_is_hfs(family: str, tmp_path: Path) -> None:
    _, case = CASES[FIRST_CASES[family]]
    model = save_random(tmp_path, family, **config_of(family, case))
    tokens, around = draw_tokens(27), {"before": [7], "after": [9, 8]}
    with float64_throughout():
        expected = hf_masked_nats(model, tokens, 10, 6, **around)
    passage = masked_passage(tokens, window=13, mask=6, before=(7,), after=(9, 8))
    assert [np.count_nonzero(passage.chunks == chunk) for chunk in range(3)] == [10, 10, 7]
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        found = nats_of(checkpoint, passage)
        unmasked = nats_of(checkpoint, masked_passage(tokens, window=10, mask=6))
    assert deviation(found, expected) < 1e-9
    # The oracle sees special tokens that are left out.
    assert deviation(unmasked, expected) > 1e-3


def test_trained_model_has_hfs_perplexity() -> None:
    """Nano on the embedded text with the default window and stride, in float32 on both sides."""
    from transformers import AutoModelForCausalLM

    with numerics("float32"):
        checkpoint = load_model("nano")
        passage = make_passage(VERSE, checkpoint, tokens=2000, window=None, stride=None)
        nats = nats_of(checkpoint, passage)
        pieces = nats_of(checkpoint, passage, memory_bytes=4e6)
    assert (passage.window, passage.stride) == (128, 64)
    tokens = checkpoint.tokenizer(VERSE, verbose=False)["input_ids"][:2000]
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "nano", attn_implementation="eager", dtype="float32").eval()
    expected = hf_perplexity(model, tokens, 128, 64)
    sums = sum_chunks(nats, passage.chunks)
    assert perplexity(sums).value == pytest.approx(expected, rel=1e-5)
    assert math.exp(mean_nats(sums)) == pytest.approx(math.exp(nats.mean()), rel=1e-12)
    np.testing.assert_allclose(pieces, nats, rtol=1e-4, atol=1e-5)


def test_shared_model_has_hfs_perplexity(shared: Path) -> None:
    """Stories260K, a Llama with grouped heads, on WikiText-2."""
    from transformers import AutoModelForCausalLM

    folder = shared / "models" / "stories260K"
    text = (shared / "data" / "wikitext-2" / "test.txt").read_text()[:6000]
    with numerics("float32"):
        checkpoint = open_checkpoint(folder)
        passage = make_passage(text, checkpoint, tokens=1500, window=None, stride=None)
        nats = nats_of(checkpoint, passage)
    assert (passage.window, passage.stride) == (512, 256)
    tokens = checkpoint.tokenizer(text, verbose=False)["input_ids"][:1500]
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype="float32").eval()
    assert math.exp(nats.mean()) == pytest.approx(hf_perplexity(model, tokens, 512, 256), rel=1e-5)


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(2, 8, 4), (8, 8, 4), (9, 8, 4), (50, 8, 3), (50, 9, 8), (50, 2, 1)]
)
def test_every_token_is_scored_once(count: int, window: int, stride: int) -> None:
    tokens = list(range(100, 100 + count))
    passage = causal_passage(tokens, window=window, stride=stride)
    expected = list(slide(count, window, stride))
    assert len(passage.windows) == len(expected)
    scored: list[int] = []
    for found, (begin, end, first) in zip(passage.windows, expected, strict=True):
        assert found.tokens == tokens[begin : end - 1]
        assert found.targets.tolist() == tokens[first:end]
        # The token before each target is the one whose logits are read.
        assert [found.tokens[place] for place in found.places] == tokens[first - 1 : end - 1]
        scored += found.targets.tolist()
    assert scored == tokens[1:]
    assert len(passage.chunks) == count - 1
    assert (np.bincount(passage.chunks)[:-1] == stride).all()


def test_tokens_scored_twice_are_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A twin that scores every token of every window differs from the oracle."""
    model = save_random(tmp_path, "gpt2", **config_of("gpt2", "tied"))
    tokens = draw_tokens(50)
    right = causal_passage(tokens, window=16, stride=5)
    windows = [
        window._replace(
            places=np.arange(len(window.tokens)), targets=np.array([*window.tokens[1:], window.targets[-1]])
        )
        for window in right.windows
    ]
    twice = Passage(windows, np.zeros(sum(len(window.tokens) for window in windows), int), 16, 5)
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        found = {name: nats_of(checkpoint, passage).mean() for name, passage in (("right", right), ("twice", twice))}
    with float64_throughout():
        expected = math.log(hf_perplexity(model, tokens, 16, 5))
    assert found["right"] == pytest.approx(expected, rel=1e-9)
    assert found["twice"] != pytest.approx(expected, rel=1e-4)


def test_standard_errors_in_closed_form() -> None:
    """With chunks of one size: of the mean over chunks, times the perplexity; differences are paired."""
    rng = np.random.default_rng(0)
    hard = rng.normal(4, 0.5, 40)
    before, after = hard + rng.normal(0, 0.01, 40), 1.02 * hard + rng.normal(0, 0.01, 40)
    tokens = np.full(40, 16.0)
    sums, whole = ChunkSums(16 * after, tokens), ChunkSums(16 * before, tokens)
    found = perplexity(sums)
    assert found.value == pytest.approx(math.exp(after.mean()))
    assert found.error == pytest.approx(found.value * after.std(ddof=1) / 40**0.5)
    change = perplexity_change(sums, whole)
    assert change.value == pytest.approx(found.value - perplexity(whole).value)
    terms = found.value * after - perplexity(whole).value * before
    assert change.error == pytest.approx(terms.std(ddof=1) / 40**0.5)
    # Without pairing it would be several times as large.
    assert math.hypot(found.error, perplexity(whole).error) > 5 * change.error
    assert perplexity_change(whole, whole) == (0, 0)


def test_standard_errors_with_chunks_of_any_size() -> None:
    """The jackknife over chunks, which shares no formula with it."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(8, 64, 200).astype(np.float64)
    before = tokens * rng.normal(4, 0.3, 200)
    after = before + tokens * rng.normal(0.1, 0.1, 200)
    keep = ~np.eye(200, dtype=bool)
    left_out = [
        math.exp(after[rows].sum() / tokens[rows].sum()) - math.exp(before[rows].sum() / tokens[rows].sum())
        for rows in keep
    ]
    jackknife = np.sqrt(199 / 200 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    found = perplexity_change(ChunkSums(after, tokens), ChunkSums(before, tokens))
    assert found.error == pytest.approx(jackknife, rel=0.02)
    one = ChunkSums(np.array([8.0]), np.array([2.0]))
    assert math.isnan(perplexity(one).error)
    assert perplexity(one).value == pytest.approx(math.exp(4))
    assert perplexity(ChunkSums(np.array([2e3, 2e3]), np.ones(2))).value == math.inf


def test_values_that_are_not_finite_stop() -> None:
    with numerics("float32"):
        checkpoint = load_model("nano")
        passage = causal_passage(list(range(20)), window=16, stride=8)
        big = checkpoint.with_blocks(lambda number, block: jax.tree.map(lambda leaf: leaf * 1e30, block))
        with pytest.raises(JacspecError, match="scored token 0 is not finite"):
            nats_of(big, passage)


def test_model_without_its_head_is_refused() -> None:
    headless = dataclasses.replace(load_model("nano"), has_head=False)
    with pytest.raises(JacspecError, match="without its language-model head"):
        prepare_passage(headless, causal_passage([1, 2, 3], window=3, stride=1), memory_bytes=MEMORY)


def _write_bert_tokenizer(folder: Path, *, mask: bool) -> None:
    """A tokenizer of words that puts [CLS] before and [SEP] after a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: number for number, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdef"))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]"} | ({"mask_token": "[MASK]"} if mask else {})
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def test_special_tokens_stand_around_each_piece(tmp_path: Path) -> None:
    save_random(tmp_path, "bert", **config_of("bert", "tied"))
    _write_bert_tokenizer(tmp_path, mask=True)
    checkpoint = open_checkpoint(tmp_path)
    options: dict[str, Any] = {"tokens": None, "stride": None}
    passage = make_passage("a b c d e", checkpoint, window=5, **options)
    assert [window.tokens for window in passage.windows] == [
        *([2, 4, 6, 7, 3], [2, 5, 4, 7, 3], [2, 5, 6, 4, 3]),
        *([2, 4, 9, 3], [2, 8, 4, 3]),
    ]
    assert [window.targets.tolist() for window in passage.windows] == [[5], [6], [7], [8], [9]]
    assert passage.chunks.tolist() == [0, 0, 0, 1, 1]
    # As many positions as there are, where they are fewer than the default.
    assert make_passage("a b c d e", checkpoint, window=None, **options).window == 24
    with pytest.raises(JacspecError, match="Accepted: 4 to 24"):
        make_passage("a b c", checkpoint, window=3, **options)
    with pytest.raises(JacspecError, match="fewer than two tokens"):
        make_passage("a", checkpoint, window=None, **options)
    _write_bert_tokenizer(tmp_path, mask=False)
    with pytest.raises(JacspecError, match="no mask token"):
        make_passage("a b c", open_checkpoint(tmp_path), window=None, **options)
