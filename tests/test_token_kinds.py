"""Kinds of tokens: byte-level BPE, SentencePiece, WordPiece, and a vocabulary without marks."""

from collections.abc import Sequence
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jacspec import load_model
from jacspec.studies.kinds import find_mark, last_token_kind

KINDS = {"w": "word start", "c": "continuation", "p": "punctuation", "s": "white space", "x": "special"}
EXPECTED = {
    "bytes": [("[X]", "x"), ("S", "w"), ("p", "c"), (",", "p"), ("Ġd", "w"), ("on", "c"), ("'", "p"), ("t", "c"),
              ("Ġ", "s"), ('"', "p"), ("H", "w"), ("on", "c"), ("Ċ", "s"), ("S", "w"), ("Ġ-", "p"), ("##", "p"),
              ("Ġ", "s"), ("Ã", "w"), ("¼", "c"), ("on", "c"), ("Ġ1", "w"), ("t", "c"), ("[X]", "x"), ("t", "w")],
    "sentencepiece": [("▁d", "w"), ("on", "c"), ("'", "p"), ("t", "c"), ("▁", "s"), ("(", "p"), ("on", "w"),
                      ("▁–", "p"), ("▁", "s"), ("on", "w"), ("é", "c"), ("<0x0A>", "s"), ("on", "w"), ("[X]", "x")],
    "wordpiece": [("[X]", "x"), ("don", "w"), ("##key", "c"), ("'", "p"), ("t", "w"), ("##s", "c"), (".", "p"),
                  ("$", "p"), ("3", "w"), ("[X]", "x")],
    "none": [("a", "w"), ("b", "c"), (" ", "s"), ("b", "w"), ("!", "p"), ("a", "w")],
}  # fmt: skip
MARKS = {"bytes": "Ġ", "sentencepiece": "▁", "wordpiece": "##", "none": ""}


def _tokenizer(kind: str) -> Any:
    pieces = list(dict.fromkeys(piece for piece, _ in EXPECTED[kind]))
    if kind == "wordpiece":
        # As in BERT's vocabulary, there are more of them.
        pieces += [f"##{letter}" for letter in "abc"]
    vocab = {piece: index for index, piece in enumerate(["[UNK]", *pieces])}
    inner: Any
    if kind == "wordpiece":
        inner = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
        inner.decoder = decoders.WordPiece()
    else:
        inner = tokenizers.Tokenizer(models.BPE(vocab, []))
        if kind == "bytes":
            inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        elif kind == "sentencepiece":
            inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = {"bos_token": "[X]"} if "[X]" in vocab else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


@pytest.mark.parametrize("kind", EXPECTED)
def test_kinds(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    mark = find_mark(tokenizer)
    assert mark == MARKS[kind]
    pieces = [piece for piece, _ in EXPECTED[kind]]
    found = _kinds(tokenizer, mark, tokenizer.convert_tokens_to_ids(pieces))
    assert list(zip(pieces, found, strict=True)) == [(piece, KINDS[letter]) for piece, letter in EXPECTED[kind]]
    # Another vocabulary's rule is another answer.
    other = "##" if kind == "bytes" else "Ġ"
    if kind in ("bytes", "wordpiece"):
        assert _kinds(tokenizer, other, tokenizer.convert_tokens_to_ids(pieces)) != found


def _kinds(tokenizer: Any, mark: str, ids: Sequence[int]) -> list[str]:
    return [last_token_kind(tokenizer, mark, ids[: end + 1]) for end in range(len(ids))]


def test_kinds_of_the_embedded_model() -> None:
    tokenizer = load_model("nano").tokenizer
    ids = tokenizer("Speak, don't go!\nWhat now?")["input_ids"]
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert pieces == ["S", "p", "eak", ",", "Ġd", "on", "'t", "Ġgo", "!", "Ċ", "What", "Ġnow", "?"]
    assert "".join(kind[0] for kind in _kinds(tokenizer, find_mark(tokenizer), ids)) == "wccpwccwpwwwp"


def test_kinds_of_a_sentencepiece_checkpoint(shared: Any) -> None:
    from jacspec.models.checkpoint import load_tokenizer

    tokenizer = load_tokenizer(shared / "models" / "stories260K")
    assert find_mark(tokenizer) == "▁"
    ids = tokenizer("Don't\n(he)!")["input_ids"]
    pieces = ["<s>", "▁", "D", "on", "'", "t", "<0x0A>", "(", "he", ")", "!"]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    expected = [KINDS[letter] for letter in "xswcpcspwpp"]
    assert _kinds(tokenizer, "▁", ids) == expected
