"""Tokenizers put together at random of parts that exist, with settings that no published one has."""

import base64
import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servers import NANO

LETTERS = ["a", "e", " ", "é", "▁", "Ġ", "中", "🙂", "\0", "\n", "##", ""]
PATTERNS = ["", "e", " ", "x*", "(?!)", r"\p{L}", ".", "(", "(e|e)+", r"[\s\S]", "^", "$", r"\b"]
COUNTS = [0, 1, 1, 2, 3, 12, 60, 3000]
Part = dict[str, Any]


def make_tokenizer(seed: int, *, largest: int = 100_000) -> bytes:
    """Make a `tokenizer.json`: some parts the embedded model's, the others odd, none of more than `largest` items."""
    draw = random.Random(seed)
    content = json.loads((NANO / "tokenizer.json").read_text())
    for name, parts in PARTS.items():
        if draw.random() < 0.6:
            content[name] = _sequence(draw, name, parts)
    if draw.random() < 0.4:
        content["model"] = MODELS[draw.choice([*MODELS])](draw, largest)
    if draw.random() < 0.2:
        tokens = range(draw.choice([1, 30, largest]))
        content["added_tokens"] = [_token(draw, number) for number in tokens]
    if draw.random() < 0.2:
        strategy = draw.choice(["BatchLongest", {"Fixed": draw.choice([0, 8, 10**9])}])
        content["padding"] = {
            "strategy": strategy,
            "direction": "Right",
            "pad_to_multiple_of": draw.choice([None, 0, 10**9]),
            "pad_id": draw.choice([0, 2**32 - 1]),
            "pad_type_id": 0,
            "pad_token": "a",
        }
    return json.dumps(content).encode()


def _sequence(draw: random.Random, name: str, parts: Mapping[str, Callable[[random.Random], Part]]) -> Part | None:
    """Make one part, or many of them one after the other, now and then of one kind."""
    count = draw.choice(COUNTS)
    kinds = [draw.choice([*parts])] if draw.random() < 0.5 else [*parts]
    made = [{"type": kind, **parts[kind](draw)} for kind in draw.choices(kinds, k=count)]
    if len(made) < 2:
        return made[0] if made else None
    return {
        "type": "Sequence",
        {"normalizer": "normalizers", "post_processor": "processors"}.get(name, "pretokenizers"): made,
    }


def _token(draw: random.Random, number: int) -> Part:
    flags = {name: draw.random() < 0.3 for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
    return {
        "id": draw.choice([number, number, number, 0, 2**32 - 1]),
        "content": f"{draw.choice(LETTERS)}{number}",
        **flags,
    }


def _pattern(draw: random.Random) -> Part:
    return {draw.choice(["String", "Regex"]): draw.choice(PATTERNS)}


def _word(draw: random.Random, longest: int = 100_000) -> str:
    return draw.choice(LETTERS) * draw.choice([1, 1, 1, 2, 3, 20, longest])


def _flags(*names: str) -> Callable[[random.Random], Part]:
    return lambda draw: {name: draw.random() < 0.5 for name in names}


def charsmap(tree: bytes, words: bytes, *, claimed: int | None = None) -> str:
    """Write a table of sentencepiece's: a tree, then what is put for letters, each ended by a zero."""
    size = len(tree) if claimed is None else claimed
    return base64.b64encode(size.to_bytes(4, "little") + tree + words).decode()


def _charsmap(draw: random.Random) -> Part:
    tree = draw.randbytes(draw.choice([0, 4, 400, 4096]))
    words = b"\0".join(_word(draw).encode() for _ in range(draw.choice([0, 1, 50])))
    table = charsmap(tree, words, claimed=draw.choice([None, None, 0, 2**32 - 1]))
    return {"precompiled_charsmap": table[: draw.choice([None, None, 4])]}


def _split(draw: random.Random) -> Part:
    kinds = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    return {"pattern": _pattern(draw), "behavior": draw.choice(kinds), "invert": draw.random() < 0.5}


def _metaspace(draw: random.Random) -> Part:
    scheme = draw.choice(["first", "never", "always"])
    return {"replacement": draw.choice(["▁", "e", " "]), "prepend_scheme": scheme, "split": draw.random() < 0.5}


def _template(draw: random.Random) -> Part:
    count = draw.choice(COUNTS)
    token = {"id": "<s>", "ids": [draw.choice([0, 2**32 - 1])] * count, "tokens": ["<s>"] * count}
    pieces = [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * draw.choice(COUNTS)
    texts = [{"Sequence": {"id": draw.choice("AB"), "type_id": 0}}] * draw.choice([0, 1, 1, 1, 2])
    return {"single": pieces + texts, "pair": texts, "special_tokens": {"<s>": token}}


def _ends(draw: random.Random) -> Part:
    return {"sep": ["a", draw.choice([0, 2**32 - 1])], "cls": ["e", 0], "trim_offsets": True, "add_prefix_space": True}


PARTS: Mapping[str, Mapping[str, Callable[[random.Random], Part]]] = {
    "normalizer": {
        **dict.fromkeys(["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"], lambda _: {}),
        "Strip": _flags("strip_left", "strip_right"),
        "BertNormalizer": _flags("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"),
        "Replace": lambda draw: {"pattern": _pattern(draw), "content": _word(draw)},
        "Prepend": lambda draw: {"prepend": _word(draw)},
        "Precompiled": _charsmap,
    },
    "pre_tokenizer": {
        **dict.fromkeys(["BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts"], lambda _: {}),
        "ByteLevel": _flags("add_prefix_space", "trim_offsets", "use_regex"),
        "Punctuation": lambda draw: {"behavior": _split(draw)["behavior"]},
        "Digits": _flags("individual_digits"),
        "Metaspace": _metaspace,
        "CharDelimiterSplit": lambda draw: {"delimiter": draw.choice(["a", " "])},
        "Split": _split,
        "FixedLength": lambda draw: {"length": draw.choice([0, 1, 5, 2**63])},
    },
    "post_processor": {
        "TemplateProcessing": _template,
        "BertProcessing": _ends,
        "RobertaProcessing": _ends,
        "ByteLevel": _flags("add_prefix_space", "trim_offsets", "use_regex"),
    },
}


def _words(draw: random.Random, largest: int) -> Sequence[str]:
    """Make the tokens of a vocabulary: all letters of some text, and more of odd lengths."""
    count = draw.choice([0, 1, 40, 40, largest])
    many = [f"{draw.choice(LETTERS)}{number}" for number in range(count)]
    return [*dict.fromkeys([*"Speak, .é", *(_word(draw) for _ in range(4)), *many])]


def _bpe(draw: random.Random, largest: int) -> Part:
    words = _words(draw, largest)
    pairs = [(draw.choice(words), draw.choice(words)) for _ in range(draw.choice(COUNTS))]
    vocab = {word: number for number, word in enumerate(dict.fromkeys([*words, *(a + b for a, b in pairs)]))}
    affixes = {
        name: draw.choice([None, None, "", "##", "a" * 10**5])
        for name in ("continuing_subword_prefix", "end_of_word_suffix")
    }
    more = {"dropout": draw.choice([None, 0.0, 1.0, 2.0]), "unk_token": draw.choice([None, "a", "none"]), **affixes}
    flags = _flags("fuse_unk", "byte_fallback", "ignore_merges")(draw)
    return {"type": "BPE", "vocab": vocab, "merges": [*map(list, pairs)], **more, **flags}


def _word_piece(draw: random.Random, largest: int) -> Part:
    vocab = {word: draw.choice([number, 2**32 - 1]) for number, word in enumerate(_words(draw, largest))}
    more = {"continuing_subword_prefix": draw.choice(["", "##", "a" * 10**5])}
    return {
        "type": "WordPiece",
        "vocab": vocab,
        "unk_token": draw.choice(["a", "none"]),
        "max_input_chars_per_word": draw.choice([0, 100, 10**9]),
        **more,
    }


def _word_level(draw: random.Random, largest: int) -> Part:
    vocab = {word: draw.choice([number, 0]) for number, word in enumerate(_words(draw, largest))}
    return {"type": "WordLevel", "vocab": vocab, "unk_token": draw.choice(["S", "none"])}


def _unigram(draw: random.Random, largest: int) -> Part:
    scores = [-1.0, -1.0, 0.0, 1e308, -1e308]
    vocab = [[word, draw.choice(scores)] for word in _words(draw, largest)]
    return {
        "type": "Unigram",
        "vocab": vocab,
        "unk_id": draw.choice([None, 0, 10**9]),
        "byte_fallback": draw.random() < 0.3,
    }


MODELS: Mapping[str, Callable[[random.Random, int], Part]] = {
    "BPE": _bpe,
    "WordPiece": _word_piece,
    "WordLevel": _word_level,
    "Unigram": _unigram,
}
