"""From a text to batches of tokens: fetch, split into sentences, tokenize, draw the sample, pad."""

import hashlib
import http.client
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import platformdirs

from jacspec.config import DataConfig, Split
from jacspec.errors import JacspecError, blaming
from jacspec.glossary import Batch, PaddedBatch
from jacspec.reading import read_file

TIMEOUT_SECONDS = 5.0
MAX_TEXT_BYTES = 2**30
LENGTH_STEP = 16
TRAINED_ON = 2**23
"""Characters that Punkt learns from at most: it takes 65 bytes of memory for each, and 5 seconds a million."""

DAMAGED = "because NLTK's English model (punkt_tab) is damaged"
ENGLISH_ENTRIES: Mapping[str, int] = {
    "abbrev_types": 156,
    "collocations": 37,
    "sent_starters": 39,
    "ortho_context": 20366,
}
"""What NLTK's English model holds; one that lacks a tenth of any was cut short."""

TOKENIZED_AT_ONCE = 10_000
CHARACTERS_A_TOKEN = 1000
"""Far more than a token has, but for WordPiece, to which a word of more than 100 is one unknown token."""


class Corpus(NamedTuple):
    """Candidate samples in corpus order, and where they come from: for `run.json`."""

    texts: list[str]
    splitter: str
    sha256: str
    source: str

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the text was read."""
        return [f"sentences split by {self.splitter}"] if DAMAGED in self.splitter else []


class Sample(NamedTuple):
    """The drawn samples in corpus order: their text, their token ids, their place among the candidates."""

    texts: list[str]
    tokens: list[list[int]]
    candidates: list[int]


def load_corpus(data: DataConfig) -> Corpus:
    """Read the text that a configuration names and split it into candidates.

    **Raises:** `JacspecError` where there is no text, it is not UTF-8 text, or its checksum differs.
    """
    raw, source = read_text_bytes(data)
    text = decode_text(raw, source)
    if data.split is Split.lines:
        return Corpus(split_lines(text), "lines", hashlib.sha256(raw).hexdigest(), source)
    texts, splitter = split_sentences(text)
    return Corpus(texts, splitter, hashlib.sha256(raw).hexdigest(), source)


def read_text_bytes(data: DataConfig) -> tuple[bytes, str]:
    """Return the bytes of the chosen text and where they were found, fetching into the user's cache if need be."""
    if data.path is None and data.url is None:
        raise JacspecError(f"data={data.name} needs a file: data.path=FILE.")
    file = Path(data.path).expanduser() if data.path is not None else _fetch(data)
    if not file.is_file():
        raise JacspecError(f"data.path={data.path} is not a file. Give a UTF-8 text file.")
    raw = read_file(file, most=MAX_TEXT_BYTES)
    if data.sha256 is not None and (found := hashlib.sha256(raw).hexdigest()) != data.sha256:
        raise JacspecError(
            f"{file} is not the text of data={data.name}: sha256 {found}, expected {data.sha256}. "
            f"Use data=text data.path={file} to read it as it is."
        )
    return raw, str(file)


def decode_text(raw: bytes, source: str) -> str:
    """Decode UTF-8 and refuse what is not text."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JacspecError(f"{source} is not UTF-8 text ({error}). Convert it, e.g. with iconv.") from None
    if "\0" in text:
        raise JacspecError(f"{source} is a binary file, not text.")
    if text.isspace() or not text:
        raise JacspecError(f"{source} is empty.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_sentences(text: str) -> tuple[list[str], str]:
    """Split with NLTK's Punkt: its English model where that is installed whole, else one trained on the text itself.

    **Returns:** the sentences, whitespace inside them as it stands, and the name of the splitter.
    """
    from nltk.tokenize.punkt import PunktSentenceTokenizer, PunktTrainer

    model, why = _english_model()
    name = "nltk punkt_tab english"
    if model is None:
        model = PunktTrainer(text[:TRAINED_ON]).get_params()
        part = "" if len(text) <= TRAINED_ON else f"the first {TRAINED_ON} characters of "
        name = f"nltk punkt trained on {part}the corpus{why}"
    splitter = PunktSentenceTokenizer(model)
    return [sentence for sentence in splitter.tokenize(text) if sentence.strip()], name


def _english_model() -> tuple[Any, str]:
    """Load NLTK's English model, or return None, and what to say of one that is installed but damaged."""
    import nltk
    from nltk.tokenize.punkt import load_punkt_params

    try:
        folder = nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return None, ""
    except Exception:  # an archive that is damaged
        folder = None
    try:
        model = load_punkt_params(folder)
    except Exception:  # what is not text or not a number, files that are not there
        return None, f", {DAMAGED}"
    whole = all(len(getattr(model, name)) >= 0.9 * count for name, count in ENGLISH_ENTRIES.items())
    return (model, "") if whole else (None, f", {DAMAGED}")


def split_lines(text: str) -> list[str]:
    """Take each non-empty line as one candidate."""
    return [line for line in text.split("\n") if line.strip()]


def draw_sample(corpus: Corpus, tokenizer: Any, data: DataConfig, *, seed: int) -> Sample:
    """Tokenize the candidates and draw `data.samples` of those long enough, without replacement.

    Candidates are truncated to `data.max_tokens` (special tokens that the tokenizer adds are kept and count);
    those with fewer than `data.min_tokens` are left out. The sample is in corpus order.
    """
    for key, value in (("samples", data.samples), ("max_tokens", data.max_tokens)):
        if value < 1:
            raise JacspecError(f"data.{key}={value} is less than 1. Type data.{key}=N with N of 1 or more.")
    if seed < 0:
        raise JacspecError(f"seed={seed} is negative. Type seed=N with N of 0 or more.")
    lengths = _count_tokens(tokenizer, corpus.texts, max_tokens=data.max_tokens)
    long_enough = [index for index, length in enumerate(lengths) if length >= max(data.min_tokens, 1)]
    if len(long_enough) < data.samples:
        raise JacspecError(
            f"Only {len(long_enough)} of the {len(lengths)} {data.split.value} in {corpus.source} have "
            f"{data.min_tokens} tokens or more, fewer than data.samples={data.samples}. "
            "Lower data.samples or data.min_tokens, or give a longer text."
        )
    drawn: np.ndarray = np.random.default_rng(seed).choice(len(long_enough), size=data.samples, replace=False)
    candidates = [long_enough[index] for index in sorted(drawn.tolist())]
    texts = [corpus.texts[i] for i in candidates]
    return Sample(texts, encode(tokenizer, texts, max_tokens=data.max_tokens), candidates)


def _count_tokens(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> list[int]:
    """Count the ids of each text, `TOKENIZED_AT_ONCE` texts in memory: a tokenizer holds a hundred bytes a token."""
    parts = (texts[start : start + TOKENIZED_AT_ONCE] for start in range(0, len(texts), TOKENIZED_AT_ONCE))
    return [len(ids) for part in parts for ids in encode(tokenizer, part, max_tokens=max_tokens)]


def encode(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """Tokenize each text to at most `max_tokens` ids, special tokens included.

    No more than the first `CHARACTERS_A_TOKEN · max_tokens` characters of a text are looked at: a tokenizer takes many
    times their memory, and would read a line of a gigabyte to its end for the first few ids.
    """
    most = CHARACTERS_A_TOKEN * max_tokens
    return tokenize(tokenizer, [text[:most] for text in texts], truncation=True, max_length=max_tokens)


def tokenize(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """Call an HF tokenizer and return its ids; raises `JacspecError` where its own files make it fail."""
    with blaming("The tokenizer of the model cannot read the text"):
        return tokenizer(*texts, return_attention_mask=False, **options)["input_ids"]


def make_batches(tokens: Sequence[Sequence[int]], *, size: int, multiple: int = 1) -> list[PaddedBatch]:
    """Pad samples of similar length together, at most `size` to a batch, rows to a `multiple` that divides it.

    Lengths are rounded up by doubling (16, 32, 64, 128, …), and the samples of one such length are spread evenly
    over as few batches as hold them, so that each length has one shape to compile and little of it is padding. A
    batch that is short repeats its last sample.
    """
    by_length: dict[int, list[int]] = {}
    for index, ids in enumerate(tokens):
        padded = LENGTH_STEP
        while padded < len(ids):
            padded *= 2
        by_length.setdefault(padded, []).append(index)
    batches = []
    for padded, members in sorted(by_length.items()):
        parts = np.array_split(np.array(members), -(-len(members) // size))
        for samples in (part.tolist() for part in parts):
            wanted = -(-len(parts[0]) // multiple) * multiple
            rows = samples + [samples[-1]] * (wanted - len(samples))
            table = np.zeros((len(rows), padded), np.int32)
            for row, index in enumerate(rows):
                table[row, : len(tokens[index])] = tokens[index]
            lengths = np.array([len(tokens[index]) for index in rows], np.int32)
            batches.append(PaddedBatch(Batch(table, lengths), samples))
    return batches


def decoder_batch(batch: Batch, *, start: int, kind: str) -> Batch:
    """Make what the decoder of an encoder-decoder model is fed, for samples that its encoder reads.

    `shifted`: the sample moved one place to the right behind the token `start`, as HF feeds it when the sample is
    its own target; its last token predicts the sample's last. `start`: that one token alone.
    """
    tokens, lengths = np.asarray(batch.tokens), np.asarray(batch.lengths)
    first = np.full_like(tokens[:, :1], start)
    if kind == "start":
        return Batch(first, np.ones_like(lengths))
    return Batch(np.concatenate([first, tokens[:, :-1]], axis=1), lengths)


def check_tokens(tokens: Sequence[Sequence[int]], *, positions: int | None, vocab: int) -> None:
    """Refuse samples that the model has no positions or no embeddings for."""
    longest = max(len(ids) for ids in tokens)
    if positions is not None and longest > positions:
        raise JacspecError(
            f"A sample has {longest} tokens, more than the model's {positions} positions. "
            f"Type data.max_tokens={positions} or less."
        )
    largest = max(max(ids) for ids in tokens)
    if largest >= vocab:
        raise JacspecError(
            f"The tokenizer gives the id {largest}, but the model's vocabulary has {vocab}: they do not match."
        )


def cache_folder() -> Path:
    """Return jacspec's own folder in the user's cache."""
    return Path(platformdirs.user_cache_dir("jacspec"))


def _fetch(data: DataConfig) -> Path:
    """Download `data.url` into the user's cache once; only bytes of the right checksum are ever kept."""
    assert data.url is not None
    # Without a checksum the address is all that tells one text from another.
    mark = data.sha256 or hashlib.sha256(data.url.encode()).hexdigest()
    file = cache_folder() / "texts" / f"{data.name}-{mark[:16]}.txt"
    if file.is_file():
        return file
    try:
        with urllib.request.urlopen(data.url, timeout=TIMEOUT_SECONDS) as response:
            raw = response.read(MAX_TEXT_BYTES + 1)
            missing = getattr(response, "length", None)  # what the server announced and did not send; not for file:
            if missing:
                raise http.client.IncompleteRead(raw, missing)
            if len(raw) > MAX_TEXT_BYTES:
                raise ValueError(f"it gives more than {MAX_TEXT_BYTES // 2**20} MiB")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise JacspecError(
            f"The text of data={data.name} is not in the cache and {data.url} cannot be reached ({error}). "
            "Three ways on without a network: data.path=FILE with a copy of it, data=text data.path=FILE with "
            "another text, or data=verse (the embedded text)."
        ) from None
    found = hashlib.sha256(raw).hexdigest()
    if data.sha256 is not None and found != data.sha256:
        raise JacspecError(f"{data.url} gave bytes with sha256 {found}, expected {data.sha256}; nothing was kept.")
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        half.write_bytes(raw)
        os.replace(half, file)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    return file
