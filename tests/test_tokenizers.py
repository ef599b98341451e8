"""Tokenizers as folders have them: one vocabulary file of any kind, or what is missing by its name."""

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jacspec.errors import JacspecError
from jacspec.models import tokenizer as tokenizer_module
from jacspec.models.tokenizer import SENTENCEPIECE, PlainTokenizer, load_encoder, load_tokenizer
from jacspec.text.corpus import encode

TEXTS = ["The cat sat", "the the  cat", "A mat that sat."]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "s", "##at", "a", "m"]
Edit = Callable[[Path], object]


def _write_config(folder: Path, model_type: str | None) -> None:
    named = {"model_type": model_type} if model_type else {}
    (folder / "config.json").write_text(json.dumps({"architectures": ["Any"], **named}))


def _write_words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")


def _write_merges(folder: Path) -> None:
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)] + ["Ġ"]
    vocabulary = [*letters, "th", "the", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")


def _pieces() -> bytes:
    """Train a tiny model of sentencepiece."""
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20),
        model_writer=written,
        vocab_size=30,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return written.getvalue()


def _expected_words(text: str) -> list[int]:
    """Cut into word pieces by hand, in lower case, as without a config."""
    known = {word: number for number, word in enumerate(WORDS)}
    pieces = {"sat": ["s", "##at"], "mat": ["m", "##at"]}
    words = text.lower().replace(".", " .").split()
    ids = [known.get(piece, known["[UNK]"]) for word in words for piece in pieces.get(word, [word])]
    return [known["[CLS]"], *ids, known["[SEP]"]]


@pytest.mark.parametrize("model_type", ["bert", None], ids=["bert", "a config of 2019"])
def test_vocab_txt_alone(model_type: str | None, tmp_path: Path) -> None:
    _write_config(tmp_path, model_type)
    _write_words(tmp_path)
    found = encode(load_tokenizer(tmp_path, model_type="bert"), TEXTS, max_tokens=100)
    assert found == [_expected_words(text) for text in TEXTS]


def test_vocab_txt_keeps_case_where_a_config_says_so(tmp_path: Path) -> None:
    _write_config(tmp_path, "bert")
    _write_words(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert encode(load_tokenizer(tmp_path), ["The cat"], max_tokens=9) == [[2, 1, 6, 3]]


def test_vocab_json_with_merges(tmp_path: Path) -> None:
    _write_config(tmp_path, "gpt2")
    _write_merges(tmp_path)
    known = json.loads((tmp_path / "vocab.json").read_text())
    found = encode(load_tokenizer(tmp_path), ["the oth"], max_tokens=100)
    assert found == [[known[token] for token in ("the", "Ġ", "o", "th")]]


@pytest.mark.parametrize(("file", "model_type"), [("spiece.model", "t5"), ("tokenizer.model", "llama")])
def test_sentencepiece_alone(file: str, model_type: str, tmp_path: Path) -> None:
    _write_config(tmp_path, model_type)
    (tmp_path / file).write_bytes(_pieces())
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / file))
    ends = [1] if model_type == "t5" else []
    found = encode(load_tokenizer(tmp_path), TEXTS[:1], max_tokens=100)
    assert found == [processor.encode(TEXTS[0]) + ends]


@pytest.mark.parametrize("missing", ["sentencepiece", "google.protobuf"])
@pytest.mark.parametrize("file", SENTENCEPIECE)
def test_sentencepiece_that_is_not_installed_is_named(
    file: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_config(tmp_path, "t5")
    (tmp_path / file).write_bytes(b"any")
    real = importlib.util.find_spec

    def find(name: str, *package: Any) -> Any:
        return None if name == missing else real(name, *package)

    monkeypatch.setattr(tokenizer_module.importlib.util, "find_spec", find)
    with pytest.raises(JacspecError, match=r"pip install 'jacspec\[sentencepiece\]'") as caught:
        load_tokenizer(tmp_path)
    assert "tiktoken" not in str(caught.value)


def _write(name: str, content: str | bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


OWN_CODE = json.dumps({"auto_map": {"AutoTokenizer": ["odd.Odd", None]}, "tokenizer_class": "Odd"})
INCOMPLETE: dict[str, tuple[str, list[Edit], str]] = {
    "nothing": ("bert", [], "has no tokenizer: put its tokenizer.json there"),
    "merges alone": ("gpt2", [_write("merges.txt", "a b\n")], "has no tokenizer"),
    # HF makes tokenizers of these that know no word.
    "a config alone": ("bert", [_write("tokenizer_config.json", "{}")], "but no vocabulary"),
    "a config alone, GPT-2": ("gpt2", [_write("tokenizer_config.json", "{}")], "but no vocabulary"),
    "no merges": ("gpt2", [_write_merges, lambda folder: (folder / "merges.txt").unlink()], "no merges.txt"),
    "not sentencepiece": ("llama", [_write("tokenizer.model", "IQ== 0\nIg== 1\n")], "no sentencepiece model"),
    "code of its own": ("llama", [_write_words, _write("tokenizer_config.json", OWN_CODE)], "which is never run"),
}


@pytest.mark.parametrize(("model_type", "edits", "message"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_tokenizers_are_named(model_type: str, edits: list[Edit], message: str, tmp_path: Path) -> None:
    _write_config(tmp_path, model_type)
    for edit in edits:
        edit(tmp_path)
    with pytest.raises(JacspecError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert not {"tiktoken", "trust_remote_code"} & {*str(caught.value).replace("=", " ").split()}


def test_bytes_need_no_vocabulary(tmp_path: Path) -> None:
    _write_config(tmp_path, "t5")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert encode(load_tokenizer(tmp_path), ["ab"], max_tokens=9) == [[ord("a") + 3, ord("b") + 3, 1]]


PLAIN = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "model_max_length": 5}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}
MODELS: dict[str, dict[str, Any]] = {
    "WordPiece": {
        "model": {
            "type": "WordPiece",
            "vocab": {word: number for number, word in enumerate(WORDS)},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
    },
    "Unigram": {
        "model": {
            "type": "Unigram",
            "unk_id": 1,
            "vocab": [[word, -1.0] for word in WORDS[:5]]
            + [["▁the", -2.0], ["▁", -4.0], ["s", -5.0], ["at", -3.0], ["c", -5.0]],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    },
}


def _write_plain(folder: Path, kind: str, **further: Any) -> None:
    """Write a tokenizer of one file, and its settings."""
    tokens = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, word in enumerate(WORDS[:5])
    ]
    content = {"version": "1.0", "added_tokens": tokens, "post_processor": TEMPLATE, **MODELS[kind]}
    content |= {key: further.pop(key) for key in ("padding", "post_processor") if key in further}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps(PLAIN | further))
    _write_config(folder, "gpt2")


@pytest.mark.parametrize("kind", MODELS)
def test_ids_without_transformers_are_those_with_it(kind: str, tmp_path: Path) -> None:
    _write_plain(tmp_path, kind, pad_token="[PAD]")
    plain, whole = load_encoder(tmp_path), load_tokenizer(tmp_path)
    assert isinstance(plain, PlainTokenizer)
    texts = [*TEXTS, "", "the [MASK] cat the cat the cat"]
    for most in (3, 7, 100):
        assert encode(plain, texts, max_tokens=most) == encode(whole, texts, max_tokens=most)
    assert [ids[0] for ids in encode(plain, TEXTS, max_tokens=9)] == [2] * len(TEXTS)


@pytest.mark.parametrize(
    "further",
    [
        {"add_bos_token": True, "bos_token": "[SEP]"},
        {"tokenizer_class": "BertTokenizer"},
        {"mask_token": "<mask>"},
        {"added_tokens_decoder": {"0": {"content": "mat", "special": False}}},
        {
            "padding": {
                "strategy": {"Fixed": 4},
                "direction": "Right",
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            }
        },
        {"post_processor": None},
        {"a key of next year": True},
    ],
    ids=lambda further: next(iter(further)),
)
def test_what_may_change_ids_is_left_to_transformers(further: dict[str, Any], tmp_path: Path) -> None:
    _write_plain(tmp_path, "WordPiece", **further)
    assert load_encoder(tmp_path) is None


def test_a_token_that_transformers_adds_changes_ids(tmp_path: Path) -> None:
    """The comparison above fails where `load_encoder` takes what is not plain."""
    _write_plain(tmp_path, "WordPiece", mask_token="<mask>")
    whole, plain = load_tokenizer(tmp_path), PlainTokenizer(tmp_path)
    assert encode(plain, ["the <mask>"], max_tokens=9) != encode(whole, ["the <mask>"], max_tokens=9)
