"""The HF tokenizer of a folder: loaded without running what comes with it, and refused where it would fill memory."""

import base64
import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jacspec.errors import JacspecError, blaming
from jacspec.models.deferred_torch import deferring_torch
from jacspec.models.gguf_files import is_gguf, load_gguf_tokenizer
from jacspec.models.hf_config import read_json

TOKENIZER, CONFIG, MERGES = "tokenizer.json", "tokenizer_config.json", "merges.txt"
VOCABULARIES = ("vocab.json", "vocab.txt")
SENTENCEPIECE = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
NEEDED = ("sentencepiece", "google.protobuf")
"""What HF reads files of sentencepiece with: the extra `jacspec[sentencepiece]`."""

PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""HF's names for the class that adds nothing of its own to `tokenizer.json`."""
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
PLAIN_KEYS = frozenset({*NAMED_TOKENS, "tokenizer_class", "model_max_length", "clean_up_tokenization_spaces"})
"""Keys of `tokenizer_config.json` that change no id of a text, given that `tokenizer.json` has the tokens they name."""

BYTES = ("ByT5Tokenizer",)
"""Tokenizers whose tokens are bytes: they have no vocabulary to be found."""

MAX_ADDED = 1000
"""Letters and ids that a tokenizer may add to a text; published ones add one or two."""
LETTERS = ("prepend", "continuing_subword_prefix", "end_of_word_suffix")
"""Keys of what is put before or behind a text, or every subword."""

MAX_GROWTH = 1000
"""Of a text under the replacements of a tokenizer; those of published ones put one character for one, the table that
T5 and XLM-R normalise by 18 for a ligature.
"""

MAX_STEPS = 100
"""Of a normaliser, of what cuts a text and of what adds ids; published ones have a dozen."""

MAX_ADDED_TOKENS, MAX_LETTERS = 2**17, 2**24
"""Tokens beside a vocabulary, each of which HF handles by itself, and letters of all tokens of a Unigram model, which
holds a node of a hundred bytes for each that begins no other; mT5's has two million.
"""

MAX_NUMBER = 2**20
"""Of a setting that is no length."""


def load_tokenizer(folder: Path, *, model_type: str | None = None) -> Any:
    """Load the HF tokenizer of a folder, or that of a GGUF file's metadata, never running code that comes with it.

    **Arguments:** `model_type`, of the model, which decides where neither the tokenizer's files nor `config.json` say.

    **Raises:** `JacspecError` where there is none, its vocabulary is missing or damaged, or it needs sentencepiece.
    """
    if is_gguf(folder):
        return load_gguf_tokenizer(folder)
    _check_files(folder)
    _check_growth(folder / TOKENIZER)
    _check_numbers(folder / CONFIG)
    config_file = folder / "config.json"
    unnamed = model_type is not None and config_file.is_file() and "model_type" not in read_json(config_file)
    try:
        with deferring_torch(), blaming(f"The tokenizer in {folder} cannot be loaded"):
            from transformers import CONFIG_MAPPING, AutoTokenizer

            own = {"config": CONFIG_MAPPING[model_type]()} if unnamed else {}
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **own)
    except JacspecError as error:
        raise JacspecError(_in_our_words(folder, str(error))) from error.__cause__


class PlainTokenizer:
    """Cuts texts as `tokenizer.json` says, by the library that HF reads it with, and nothing more.

    It takes what HF's tokenizers take where jacspec asks for ids alone.
    """

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.name_or_path = str(folder)
        self.backend_tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.backend_tokenizer.encode_special_tokens = False

    def __call__(
        self, texts: list[str], *, truncation: bool, max_length: int, return_attention_mask: bool = False
    ) -> dict[str, list[list[int]]]:
        """Return the ids of each text, at most `max_length`, those that the template adds included."""
        if truncation:
            self.backend_tokenizer.enable_truncation(max_length)
        else:
            self.backend_tokenizer.no_truncation()
        return {"input_ids": [found.ids for found in self.backend_tokenizer.encode_batch(texts)]}


def load_encoder(folder: Path) -> PlainTokenizer | None:
    """Load what gives the ids of texts without transformers, which is a second's import, where HF would add nothing.

    **Returns:** none where HF's class may add something of its own, and `load_tokenizer` is to be asked; what it gives
    is the same to the id.
    """
    if is_gguf(folder) or not _is_plain(folder):
        return None
    _check_growth(folder / TOKENIZER)
    with blaming(f"The tokenizer in {folder} cannot be loaded"):
        return PlainTokenizer(folder)


def _is_plain(folder: Path) -> bool:
    """Say whether HF makes its tokenizer of `tokenizer.json` as it is."""
    if not all((folder / name).is_file() for name in (TOKENIZER, CONFIG)):
        return False
    if any((folder / name).exists() for name in ("added_tokens.json", "special_tokens_map.json")):
        return False
    settings = read_json(folder / CONFIG)
    if settings.get("tokenizer_class") not in PLAIN_CLASSES or settings.keys() - PLAIN_KEYS:
        return False
    content = read_json(folder / TOKENIZER)  # megabytes, of a large vocabulary
    if any(content.get(name) is not None for name in ("truncation", "padding")) or not content.get("post_processor"):
        return False
    tokens = content.get("added_tokens")
    known = [each.get("content") for each in tokens if isinstance(each, dict)] if isinstance(tokens, list) else []
    return all(settings[name] in known for name in NAMED_TOKENS if settings.get(name) is not None)


def _check_files(folder: Path) -> None:
    """Refuse a folder without a vocabulary, of which HF would make a tokenizer that knows no word."""
    there = {name for name in (TOKENIZER, CONFIG, *VOCABULARIES, MERGES, *SENTENCEPIECE) if (folder / name).is_file()}
    if TOKENIZER in there:
        return
    if not there - {MERGES}:
        raise JacspecError(
            f"{folder} has no tokenizer: put its {TOKENIZER} there (or {', '.join((*VOCABULARIES, *SENTENCEPIECE))})."
        )
    if not there & {*VOCABULARIES, *SENTENCEPIECE} and read_json(folder / CONFIG).get("tokenizer_class") not in BYTES:
        raise JacspecError(f"{folder} has a {CONFIG}, but no vocabulary: put its {TOKENIZER} there.")
    if "vocab.json" in there and not there & {MERGES, *SENTENCEPIECE}:
        raise JacspecError(f"{folder} has a vocab.json, but no {MERGES}: put that or a {TOKENIZER} there.")
    model = next((name for name in SENTENCEPIECE if name in there), None)
    if model and not all(map(importable, NEEDED)):
        raise JacspecError(
            f"{folder / model} is read with sentencepiece, which is not installed: "
            f"pip install 'jacspec[sentencepiece]'. Or put a {TOKENIZER} there."
        )


def importable(module: str) -> bool:
    """Say whether a module is installed, without importing more than what it lies in."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _in_our_words(folder: Path, message: str) -> str:
    """Say what HF says where that asks for what does not help here: packages, or running foreign code."""
    if "trust_remote_code" in message:
        return (
            f"The tokenizer in {folder} is code of its own (auto_map), which is never run. "
            f"Put a {TOKENIZER} there that does the same."
        )
    if "tiktoken" in message:
        found = [name for name in SENTENCEPIECE if (folder / name).is_file()]
        what = f"{folder / found[0]} is damaged or no sentencepiece model" if found else message.partition(":")[0]
        return f"{what}. Put the model's {TOKENIZER} there."
    return message


def _check_growth(file: Path) -> None:
    """Refuse what multiplies a text or adds more to it than a sample may have: either would fill any memory.

    Forty replacements that put two letters for one make a letter a trillion; an expression that matches nothing puts
    its replacement between all letters; a template adds ids, a `Prepend` or the prefix of a subword letters.
    """
    if not file.is_file():
        return
    content = read_json(file)
    _check_vocabulary(file, content)
    growth, added, steps = 1, 0, 0
    for part in _parts([content.get(name) for name in ("normalizer", "pre_tokenizer", "post_processor", "model")]):
        steps += "type" in part
        growth = min(growth * _growth(part), 10**18)
        added += sum(len(part[name]) for name in LETTERS if isinstance(part.get(name), str))
        added += _template_ids(part)
        if (times := _template_texts(part)) > 1:
            raise JacspecError(f"{file} repeats a text {times} times. Accepted: once.")
        longest = part.get("max_input_chars_per_word")
        if isinstance(longest, int) and longest > MAX_ADDED:  # takes the square of it
            raise JacspecError(f"{file} takes words of {longest} letters apart. Accepted: {MAX_ADDED} letters.")
        if steps > MAX_STEPS:
            raise JacspecError(f"{file} has more than {MAX_STEPS} steps. Accepted: {MAX_STEPS}.")
        if added > MAX_ADDED:
            break  # before it goes through a million pieces
    if growth > MAX_GROWTH:
        raise JacspecError(
            f"{file} makes a text up to {growth:.1g} times longer before it is cut into tokens. "
            f"Accepted: {MAX_GROWTH} times."
        )
    if added > MAX_ADDED:
        raise JacspecError(f"{file} adds {added} letters or ids to a text. Accepted: {MAX_ADDED}.")


def _check_vocabulary(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse more tokens beside the vocabulary, or more letters of a Unigram model, than memory and time have room for.

    The model keeps its tokens as a tree of letters, those of BPE and WordPiece as they are.
    """
    tokens, model = content.get("added_tokens"), content.get("model")
    if isinstance(tokens, list) and len(tokens) > MAX_ADDED_TOKENS:
        raise JacspecError(f"{file} has {len(tokens)} added tokens. Accepted: {MAX_ADDED_TOKENS}.")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):  # of Unigram alone
        letters = sum(len(each[0]) for each in vocab if isinstance(each, list) and each and isinstance(each[0], str))
        if letters > MAX_LETTERS:
            raise JacspecError(f"{file} has tokens of {letters} letters in all. Accepted: {MAX_LETTERS}.")


def _growth(part: Mapping[str, Any]) -> int:
    """Say how many letters a step puts for one at most: a `Replace`, letters for bytes, a table of sentencepiece's."""
    put, pattern, table = part.get("content"), part.get("pattern"), part.get("precompiled_charsmap")
    if isinstance(put, str) and isinstance(pattern, dict):
        nothing = "Regex" in pattern or pattern.get("String") == ""
        return max(len(put) + nothing, 1)
    if isinstance(table, str):
        with contextlib.suppress(ValueError):  # no base64, which is for whoever reads it to say
            raw = base64.b64decode(table)
            replacements = raw[4 + int.from_bytes(raw[:4], "little") :].split(b"\0")
            return max(1, *(len(each.decode("utf-8", "replace")) for each in replacements))
    return 2 if part.get("type") == "ByteLevel" else 1


def _parts(waiting: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield every object inside JSON values, but for the vocabulary of a model."""
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield part
            waiting += [inner for name, inner in part.items() if name not in ("vocab", "merges")]
        elif isinstance(part, list):
            waiting += part


def _template_ids(part: Mapping[str, Any]) -> int:
    """Count the ids that a `TemplateProcessing` adds to a text at most."""
    pieces, tokens = part.get("single"), part.get("special_tokens")
    if not isinstance(pieces, list) or not isinstance(tokens, dict):
        return 0
    ids = (token.get("ids") for token in tokens.values() if isinstance(token, dict))
    return len(pieces) * max((len(each) for each in ids if isinstance(each, list)), default=0)


def _template_texts(part: Mapping[str, Any]) -> int:
    """Count how often a `TemplateProcessing` puts a text into the ids of one."""
    pieces = part.get("single")
    return sum("Sequence" in piece for piece in pieces if isinstance(piece, dict)) if isinstance(pieces, list) else 0


def _check_numbers(file: Path) -> None:
    """Refuse settings of which HF makes a list as long as a number says, as T5's `extra_ids`, and lists as long."""
    content = read_json(file) if file.is_file() else {}
    for name, value in content.items():
        if isinstance(value, list | dict) and len(value) > MAX_ADDED_TOKENS:
            raise JacspecError(f"{file} has {len(value)} of {name}. Accepted: {MAX_ADDED_TOKENS} at most.")
        if isinstance(value, int) and value > MAX_NUMBER and not name.endswith("length"):
            raise JacspecError(f"{file} has {name}={value}. Accepted: {MAX_NUMBER} at most.")
