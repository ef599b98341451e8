"""Of what kind a token is: the start of a word, its continuation, punctuation, white space, special."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jacspec.runs.tables import SUMMARY_COLUMNS, summarise

KINDS_FILE = "kinds.csv"
KIND_COLUMNS = ("layer", "component", "metric", "kind", *SUMMARY_COLUMNS[3:])

Values = Mapping[str, Mapping[str, Float[np.ndarray, " sample"]]]

WORD_START, CONTINUATION, PUNCTUATION, SPACE, SPECIAL = KINDS = (
    "word start",
    "continuation",
    "punctuation",
    "white space",
    "special",
)
BYTES, SENTENCEPIECE, WORDPIECE = "Ġ", "▁", "##"
"""How pieces are marked that begin a word (byte-level BPE, SentencePiece), and that go on with one (WordPiece)."""

UNDECODED = "\N{REPLACEMENT CHARACTER}"
"""What stands for some of a character's bytes."""


def find_mark(tokenizer: Any) -> str:
    """Find the mark that most pieces of the vocabulary begin with; empty where none does."""
    marks = (BYTES, SENTENCEPIECE, WORDPIECE)
    # Byte-level vocabularies hold runs of # too, so the first one found is not enough.
    counts = Counter(mark for piece in tokenizer.get_vocab() for mark in marks if piece.startswith(mark))
    return counts.most_common(1)[0][0] if counts else ""


def last_token_kind(tokenizer: Any, mark: str, ids: Sequence[int]) -> str:
    """Say of what kind the last token of a sample is; the first rule that fits counts.

    | kind | rule |
    |---|---|
    | special | a special token of the tokenizer |
    | white space | its text is empty or white space alone |
    | punctuation | all its characters but white space are of a Unicode category of punctuation or symbols (P, S) |
    | word start | marked so (`Ġ`, `▁`), or what is before it is no part of a word; WordPiece: not marked by `##` |
    | continuation | everything else, as `'t` behind `don` in byte-level BPE, or some of a character's bytes |

    Part of a word are letters, marks and digits, apostrophes, and bytes of unfinished characters.

    **Arguments:** `mark`, from `find_mark`; `ids`, the sample's tokens up to the one in question.
    """
    special = set(tokenizer.all_special_ids)
    if ids[-1] in special:
        return SPECIAL
    text = _text(tokenizer, mark, ids[-1])
    letters = text.strip()
    if not letters:
        return SPACE
    if all(unicodedata.category(letter)[0] in "PS" and letter != UNDECODED for letter in letters):
        return PUNCTUATION
    if mark == WORDPIECE:
        return CONTINUATION if tokenizer.convert_ids_to_tokens(ids[-1]).startswith(WORDPIECE) else WORD_START
    before = " " if len(ids) == 1 or ids[-2] in special else _text(tokenizer, mark, ids[-2]) or " "
    return WORD_START if text[0].isspace() or not _in_word(before[-1]) else CONTINUATION


def _in_word(letter: str) -> bool:
    return letter in ("'", "’", UNDECODED) or unicodedata.category(letter)[0] in "LMN"


def _text(tokenizer: Any, mark: str, token: int) -> str:
    """Return the text of one token, the space that its mark stands for in front."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if mark == WORDPIECE:
        return piece.removeprefix(WORDPIECE)
    text = str(tokenizer.convert_tokens_to_string([piece]))
    # SentencePiece decoders drop the space in front of what they take for a whole text.
    return f" {text.lstrip(' ')}" if mark == SENTENCEPIECE and piece.startswith(SENTENCEPIECE) else text


def kind_rows(layer: int, values: Values, kinds: Mapping[str, Sequence[str]]) -> Iterator[tuple[Any, ...]]:
    """Sum a layer's values up by the kind of the last token.

    **Arguments:** `values`, by component and name; `kinds`, by component, a kind a sample.
    """
    for component, named in values.items():
        own = np.asarray(kinds[component])
        for name, numbers in named.items():
            for kind in sorted(set(own.tolist())):
                yield (layer, component, name, kind, *summarise(np.asarray(numbers, np.float64)[own == kind]))
