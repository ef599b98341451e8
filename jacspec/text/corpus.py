"""From a text to batches of tokens: fetch, split into sentences, tokenize, draw the sample, pad."""

import hashlib
import heapq
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jacspec.config import DataConfig, Split
from jacspec.errors import JacspecError, blaming, check_least
from jacspec.files import cache_folder, read_file, write_cached
from jacspec.samples import Packed, Packing, PaddedBatch
from jacspec.text.pace import check_pace
from jacspec.text.parquet import MAGIC, parquet_text
from jacspec.text.sentences import DAMAGED, split_sentences

TIMEOUT_SECONDS = 5.0
MAX_TEXT_BYTES = 2**30
LENGTH_STEP, PLACES_STEP = 8, 32
"""What the longest sample and the tokens of a pack are rounded up to."""
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
    """The drawn samples in corpus order: their text, their token ids, their place among the candidates.

    `notes` are what the user should know of them.
    """

    texts: list[str]
    tokens: list[list[int]]
    candidates: list[int]
    notes: tuple[str, ...] = ()


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
    if data.text is not None:
        # What a shell hands on need not be text.
        return data.text.encode("utf-8", "surrogateescape"), "data.text"
    if data.path is None and data.url is None:
        raise JacspecError(f'data={data.name} needs a text. Type data.path=FILE, or data.text="…" for the text itself.')
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
    """Decode UTF-8, or read a Parquet file's column of text; refuse what is not text."""
    if raw.startswith(MAGIC):
        raw = parquet_text(raw, source).encode()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise JacspecError(f"{source} is not UTF-8 text ({error}). Convert it, e.g. with iconv.") from None
    if "\0" in text:
        raise JacspecError(f"{source} is a binary file, not text.")
    if text.isspace() or not text:
        raise JacspecError(f"{source} is empty.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def split_lines(text: str) -> list[str]:
    """Take each non-empty line as one candidate."""
    return [line for line in text.split("\n") if line.strip()]


def draw_sample(corpus: Corpus, tokenizer: Any, data: DataConfig, *, seed: int) -> Sample:
    """Tokenize the candidates and draw `data.samples` of those long enough, all where there are no more.

    Drawn without replacement.
    Candidates are truncated to `data.max_tokens` (special tokens that the tokenizer adds are kept and count);
    those with fewer than `data.min_tokens` are left out. The sample is in corpus order.
    """
    for key, value in (("samples", data.samples), ("max_tokens", data.max_tokens)):
        if value is not None:
            check_least(f"data.{key}", value, 1)
    check_least("seed", seed, 0)
    lengths = _count_tokens(tokenizer, corpus.texts, max_tokens=data.max_tokens)
    long_enough = [index for index, length in enumerate(lengths) if length >= max(data.min_tokens, 1)]
    if not long_enough:
        raise JacspecError(
            f"None of the {len(lengths)} {data.split.value} in {corpus.source} has {data.min_tokens} tokens or more. "
            "Lower data.min_tokens, or give a longer text."
        )
    wanted = len(long_enough) if data.samples is None else data.samples
    size = min(wanted, len(long_enough))
    drawn: np.ndarray = np.random.default_rng(seed).choice(len(long_enough), size=size, replace=False)
    candidates = [long_enough[index] for index in sorted(drawn.tolist())]
    texts = [corpus.texts[i] for i in candidates]
    notes = (f"{size} samples, not {wanted}: {corpus.source} has no more of {data.min_tokens} tokens or more",)
    tokens = encode(tokenizer, texts, max_tokens=data.max_tokens)
    return Sample(texts, tokens, candidates, notes if size < wanted else ())


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
    check_pace(tokenizer, _all_texts(texts))
    with blaming("The tokenizer of the model cannot read the text"):
        return tokenizer(*texts, return_attention_mask=False, **options)["input_ids"]


def _all_texts(given: Iterable[Any]) -> list[str]:
    """List the texts among the arguments of a tokenizer."""
    found: list[str] = []
    for each in given:
        found += [each] if isinstance(each, str) else each or []
    return found


def make_batches(tokens: Sequence[Sequence[int]], *, size: int, packs: int = 1) -> list[PaddedBatch]:
    """Put samples into packs of at most `size`, and these, `packs` at a time, into batches: all of one shape.

    Samples are spread so that packs have nearly as many tokens each, the longest first to the pack with the fewest
    (Graham 1969), and as few packs as hold them. A pack without enough samples repeats its last; one without any has
    the last of all.

    **Returns:** batches of `packs` rows of packs each, their samples in the order of their rows.
    """
    number = -(-len(tokens) // (size * packs)) * packs
    slots = -(-len(tokens) // number)
    members = _spread([len(ids) for ids in tokens], number, slots)
    members = [own or [members[(len(tokens) - 1) // slots][-1]] for own in members]
    longest = _round_up(max(map(len, tokens)), LENGTH_STEP)
    places = _round_up(max(sum(len(tokens[index]) for index in own) for own in members), PLACES_STEP)
    laid = [_lay_out([tokens[index] for index in own], slots, longest, places) for own in members]
    batches = []
    for start in range(0, number, packs):
        part = slice(start, start + packs)
        rows = [index for pack, own in enumerate(members[part], start) if pack * slots < len(tokens) for index in own]
        stacked: list[Any] = [np.stack(arrays) for arrays in zip(*laid[part], strict=True)]
        batches.append(PaddedBatch(Packed(stacked[0], Packing(*stacked[1:])), rows))
    return batches


def _spread(lengths: Sequence[int], packs: int, slots: int) -> list[list[int]]:
    """Deal samples to packs of `slots` each, of which the last may stay short, with nearly as many tokens in all."""
    room = [min(slots, max(len(lengths) - slots * pack, 0)) for pack in range(packs)]
    loads = [(0, pack) for pack in range(packs) if room[pack]]
    members: list[list[int]] = [[] for _ in range(packs)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        load, pack = heapq.heappop(loads)
        members[pack].append(index)
        if len(members[pack]) < room[pack]:
            heapq.heappush(loads, (load + lengths[index], pack))
    return [sorted(own) for own in members]


def _lay_out(tokens: Sequence[Sequence[int]], slots: int, longest: int, places: int) -> tuple[np.ndarray, ...]:
    """Lay samples one behind the other: ids, lengths, places and rows as `axes.Packing` has them."""
    lengths = np.array([len(ids) for ids in tokens], np.int32)
    first = np.cumsum(lengths) - lengths
    position = np.arange(longest, dtype=np.int32)
    place = first[:, None] + np.minimum(position[None], lengths[:, None] - 1)
    ids, rows = np.zeros(places, np.int32), np.zeros(places, np.int32)
    for slot, own in enumerate(tokens):
        where = slice(first[slot], first[slot] + len(own))
        ids[where], rows[where] = own, slot * longest + position[: len(own)]
    repeated = np.minimum(np.arange(slots), len(tokens) - 1)
    return ids, lengths[repeated], place[repeated].astype(np.int32), rows


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def decoder_batch(batch: Packed, *, start: int, kind: str) -> Packed:
    """Make what the decoder of an encoder-decoder model is fed, for samples that its encoder reads.

    `shifted`: the sample moved one place to the right behind the token `start`, as HF feeds it when the sample is
    its own target; its last token predicts the sample's last. `start`: that one token alone.
    """
    packs, slots, longest = batch.packing.places.shape
    if kind == "start":
        own: Any = np.broadcast_to(np.arange(slots, dtype=np.int32), (packs, slots))
        return Packed(np.full((packs, slots), start, np.int32), Packing(np.ones_like(own), own[:, :, None], own))
    begins = np.asarray(batch.packing.rows) % longest == 0
    return Packed(np.where(begins, np.int32(start), np.roll(np.asarray(batch.tokens), 1, axis=1)), batch.packing)


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


def _fetch(data: DataConfig) -> Path:
    """Download `data.url` into the user's cache once; only bytes of the right checksum are ever kept."""
    assert data.url is not None
    # Without a checksum the address is all that tells one text from another.
    mark = data.sha256 or hashlib.sha256(data.url.encode()).hexdigest()
    file = cache_folder() / "texts" / f"{data.name}-{mark[:16]}.txt"
    if file.is_file() and data.sha256 in (None, hashlib.sha256(read_file(file, most=MAX_TEXT_BYTES)).hexdigest()):
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
    write_cached(file, raw)
    return file
