"""From a text to batches: reading, splitting, drawing, padding."""

import dataclasses
import hashlib
import importlib
import importlib.util
import io
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import Answer, serve

from jacspec.config import ASSETS, DataConfig, Split, config_folder
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import load_tokenizer
from jacspec.samples import Packed
from jacspec.text import corpus as corpus_module
from jacspec.text import sentences as sentences_module
from jacspec.text.corpus import (
    Corpus,
    check_tokens,
    decode_text,
    decoder_batch,
    draw_sample,
    encode,
    load_corpus,
    make_batches,
    read_text_bytes,
    split_lines,
)
from jacspec.text.sentences import DAMAGED, split_sentences

SHARED = Path(__file__).parents[2] / "shared" / "data"
SHAKESPEARE = SHARED / "tinyshakespeare.txt"
ENGLISH = SHARED / "nltk_data"
TRAINED_NAME, ENGLISH_NAME = "nltk punkt trained on the corpus", "nltk punkt_tab english"


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not beside this checkout")
    return path


def sentences(text: str, nltk_folders: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], str]:
    import nltk

    monkeypatch.setattr(nltk.data, "path", nltk_folders)
    return split_anew(text)


def split_anew(text: str) -> tuple[list[str], str]:
    spans, splitter = sentences_module._sentence_spans(text)
    return [text[start:end] for start, end in spans], splitter


def boundaries(text: str, parts: list[str]) -> set[int]:
    ends, place = set(), 0
    for part in parts:
        place = text.index(part, place) + len(part)
        ends.add(place)
    return ends


def words(texts: list[str], max_length: int) -> list[list[int]]:
    return [[len(word) for word in text.split()][:max_length] for text in texts]


class Words:
    """A tokenizer whose tokens are words and whose ids are their lengths."""

    def __call__(self, texts: list[str], *, truncation: bool, max_length: int, **_: Any) -> dict[str, Any]:
        assert truncation
        return {"input_ids": words(texts, max_length)}


def numbered(n: int) -> Corpus:
    """Candidates of 1, 2, ... n words."""
    return Corpus([" ".join(["ab"] * (i + 1)) for i in range(n)], "lines", "", "here.txt")


# Reading

DECODED = {
    "plain": ("a\nb", "a\nb"),
    "byte order mark": ("\ufeffa\nb", "a\nb"),
    "Windows lines": ("a\r\nb\r\n", "a\nb\n"),
    "old Macintosh lines": ("a\rb\r", "a\nb\n"),
    "beyond ASCII": ("Ça va ? 😀", "Ça va ? 😀"),
}


@pytest.mark.parametrize(("given", "expected"), DECODED.values(), ids=DECODED)
def test_decode(given: str, expected: str) -> None:
    assert decode_text(given.encode(), "here.txt") == expected


UNREADABLE = {
    "latin-1": ("Ça va".encode("latin-1"), "here.txt is not UTF-8 text.*iconv"),
    "utf-16": ("text".encode("utf-16"), "here.txt is not UTF-8"),
    "binary": (b"ab\0cd", "here.txt is a binary file"),
    "empty": (b"", "here.txt is empty"),
    "blank": (b" \n\t\n", "here.txt is empty"),
}


@pytest.mark.parametrize(("raw", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_decode_refuses(raw: bytes, message: str) -> None:
    with pytest.raises(JacspecError, match=message):
        decode_text(raw, "here.txt")


def test_checksum_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"One. Two.")
    right = hashlib.sha256(b"One. Two.").hexdigest()
    assert read_text_bytes(DataConfig("play", path=str(file), sha256=right)) == (b"One. Two.", str(file))
    with pytest.raises(JacspecError, match=f"not the text of data=play: sha256 {right}, expected 00.*data=text"):
        read_text_bytes(DataConfig("play", path=str(file), sha256="00"))


@pytest.mark.parametrize(
    ("path", "message"), [(None, "data.path=FILE"), ("/no/such", "not a file"), ("/", "not a file")]
)
def test_no_file(path: str | None, message: str) -> None:
    with pytest.raises(JacspecError, match=message):
        read_text_bytes(DataConfig("text", path=path))


def test_fetch_keeps_only_what_has_the_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "cache_folder", lambda: tmp_path / "cache")
    remote = tmp_path / "remote.txt"
    remote.write_bytes(b"text")
    right = hashlib.sha256(b"text").hexdigest()
    with pytest.raises(JacspecError, match="nothing was kept"):
        read_text_bytes(DataConfig("play", url=remote.as_uri(), sha256="00"))
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    for time in ("first", "damaged", "from the cache"):
        raw, source = read_text_bytes(DataConfig("play", url=remote.as_uri(), sha256=right))
        assert raw == b"text"
        assert Path(source).is_relative_to(tmp_path / "cache")
        if time == "first":
            Path(source).write_bytes(b"te")
        else:
            remote.unlink(missing_ok=True)
    with pytest.raises(JacspecError, match=r"data\.path=FILE.*data=verse"):
        read_text_bytes(DataConfig("other", url=remote.as_uri()))


CHOICES = {"shakespeare": 40_000, "wikitext": 2_000}
"""Texts that are fetched, of which the shared material has a copy, and how many lines they have at least."""
COPIES = {"shakespeare": "tinyshakespeare.txt", "wikitext": "wikitext-2/test.txt"}


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_fetched_over_http_and_have_their_checksum(
    name: str, tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped name, checksum and split, of a server on this machine in the place of the published one."""
    monkeypatch.setattr(corpus_module, "cache_folder", lambda: tmp_path / "cache")
    own = yaml.safe_load((config_folder() / "data" / f"{name}.yaml").read_text())
    body = (shared / "data" / COPIES[name]).read_bytes()
    sent = [body[: len(body) // 2], body.replace(b"e", b"a", 1), body]
    with serve(lambda path: Answer(200, sent.pop(0) if path.endswith(".txt") else b"")) as server:
        data = DataConfig(name, url=f"{server.url}{urlsplit(own['url']).path}", sha256=own["sha256"])
        for _ in range(2):
            with pytest.raises(JacspecError, match="nothing was kept"):
                read_text_bytes(data)
        for _ in range(2):
            assert read_text_bytes(data)[0] == body
        assert len(server.requests) == 3
    assert len(split_lines(decode_text(body, "here"))) > CHOICES[name] // 2


def test_parquet_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "text.parquet").write_bytes(b"PAR1....PAR1")
    with pytest.raises(JacspecError, match=r"text.parquet is a Parquet file.*jacspec\[parquet\]"):
        load_corpus(DataConfig("bookcorpus", path=str(tmp_path / "text.parquet")))


def test_parquet_over_http_is_read_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shipped choice reads it: rows are samples, and no more of them than are asked for."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    monkeypatch.setattr(corpus_module, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("jacspec.text.parquet.MOST_ROWS", 3)
    own = yaml.safe_load((config_folder() / "data" / "bookcorpus.yaml").read_text())

    def packed(**columns: Any) -> bytes:
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), stream)
        return stream.getvalue()

    body = packed(text=["one .", None, "two . three .", "four", "five"])
    with serve(lambda path: Answer(200, body)) as server:
        address = f"{server.url}{urlsplit(own['url']).path}"
        corpus = load_corpus(DataConfig(own["name"], url=address, split=Split[own["split"]]))
    assert corpus.texts == ["one .", "two . three .", "four"]
    assert corpus.sha256 == hashlib.sha256(body).hexdigest()
    for raw, message in ((packed(words=["one"]), "no column 'text'.*words"), (body[:-30], "no Parquet file")):
        with pytest.raises(JacspecError, match=message):
            decode_text(raw, "here.parquet")


# Splitting


def test_lines() -> None:
    assert split_lines("One.  Two\n\n \t\n three\n") == ["One.  Two", " three"]


PROSE = "He came. She left early!  Did they meet?\nNobody knows the answer. The end came soon."
PIECES = ["He came.", "She left early!", "Did they meet?", "Nobody knows the answer.", "The end came soon."]


def test_sentences_without_nltk_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sentences(PROSE, [], monkeypatch) == (PIECES, TRAINED_NAME)


def test_sentences_with_nltk_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sentences(PROSE, [str(need(ENGLISH))], monkeypatch) == (PIECES, ENGLISH_NAME)


def _write_english(folder: Path) -> Path:
    """Write a model in the layout of NLTK's, of its size, that knows no word."""
    model = folder / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    entries = {"abbrev_types.txt": 156, "collocations.tab": 37, "sent_starters.txt": 39, "ortho_context.tab": 20366}
    for name, count in entries.items():
        value = {"collocations.tab": "\tother", "ortho_context.tab": "\t32"}.get(name, "")
        (model / name).write_text("\n".join(f"{name[0]}xq{number}{value}" for number in range(count)))
    return model


def _archive(model: Path, share: float) -> None:
    root = model.parent.parent
    with zipfile.ZipFile(root / "punkt_tab.zip", "w") as archive:
        for file in model.iterdir():
            archive.write(file, f"punkt_tab/english/{file.name}")
    whole = (root / "punkt_tab.zip").read_bytes()
    (root / "punkt_tab.zip").write_bytes(whole[: int(share * len(whole))])
    shutil.rmtree(model.parent)


def _cut(name: str, share: float) -> Callable[[Path], None]:
    def cut(model: Path) -> None:
        whole = (model / name).read_bytes()
        (model / name).write_bytes(whole[: int(share * len(whole))])

    return cut


def _cut_between_lines(model: Path) -> None:
    lines = (model / "ortho_context.tab").read_text().split("\n")
    (model / "ortho_context.tab").write_text("\n".join(lines[:5000]))


def _write_all(content: bytes) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        for file in list(model.iterdir()):
            file.write_bytes(content)

    return write


def _remove_files(model: Path) -> None:
    for file in list(model.iterdir()):
        file.unlink()


NLTK_DATA: dict[str, tuple[Callable[[Path], object], bool]] = {
    "whole": (lambda model: None, True),
    "whole archive": (lambda model: _archive(model, 1), True),
    "not text": (_write_all(b"\xff\xfe\0"), False),
    "a proxy's page": (_write_all(b"<html>\n<body>Blocked</body>\n</html>\n"), False),
    "empty": (_write_all(b""), False),
    "one file empty": (_cut("abbrev_types.txt", 0), False),
    "cut in a line": (_cut("ortho_context.tab", 0.5), False),
    "cut between lines": (_cut_between_lines, False),
    "one file not there": (lambda model: (model / "sent_starters.txt").unlink(), False),
    "no file there": (_remove_files, False),
    "half an archive": (lambda model: _archive(model, 0.5), False),
    "no archive": (lambda model: _archive(model, 0), False),
}


@pytest.mark.parametrize(("damage", "whole"), NLTK_DATA.values(), ids=NLTK_DATA)
def test_damaged_nltk_data_is_said_and_done_without(
    damage: Callable[[Path], object], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(_write_english(tmp_path))
    found, name = sentences(PROSE, [str(tmp_path)], monkeypatch)
    assert found == PIECES
    assert name == (ENGLISH_NAME if whole else f"{TRAINED_NAME}, {DAMAGED}")
    notes = Corpus(found, name, "", "").notes
    assert notes == ([] if whole else [f"sentences split by {name}"])


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "jacspec" / "sentences"


def test_sentences_are_remembered_without_the_text(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = split_sentences(PROSE)
    assert first == split_anew(PROSE)
    (file,) = own_cache.iterdir()
    assert PIECES[0].split()[0].encode() not in file.read_bytes()
    monkeypatch.setattr(sentences_module, "_sentence_spans", None)  # not asked again
    assert split_sentences(PROSE) == first


@pytest.mark.parametrize("place", [3, 70, -3])
def test_remembered_sentences_that_are_damaged_are_found_anew(place: int, own_cache: Path) -> None:
    first = split_sentences(PROSE)
    (file,) = own_cache.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert split_sentences(PROSE) == first
    assert file.read_bytes() != bytes(content)


def test_an_english_model_that_is_installed_or_changed_later_is_used(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert split_sentences(PROSE)[1] == TRAINED_NAME
    model = _write_english(tmp_path)
    assert split_sentences(PROSE)[1] == ENGLISH_NAME
    (model / "abbrev_types.txt").write_bytes(b"")
    assert split_sentences(PROSE)[1] == f"{TRAINED_NAME}, {DAMAGED}"
    assert len(list(own_cache.iterdir())) == 1


def test_sentences_are_split_where_the_cache_cannot_be_written(own_cache: Path) -> None:
    own_cache.parents[1].write_text("a file where the cache should be")
    assert split_sentences(PROSE) == split_anew(PROSE)


@pytest.mark.thorough
def test_both_splitters_agree_on_tiny_shakespeare(monkeypatch: pytest.MonkeyPatch) -> None:
    text = need(SHAKESPEARE).read_text(encoding="utf-8")
    english, english_name = sentences(text, [str(need(ENGLISH))], monkeypatch)
    trained, trained_name = sentences(text, [], monkeypatch)
    assert (english_name, trained_name) == (ENGLISH_NAME, TRAINED_NAME)
    assert len(english) == 12_460
    both = sum((Counter(english) & Counter(trained)).values())
    assert both >= 0.998 * len(english)  # 12,445: a boundary that one of them lacks costs two sentences
    ours, theirs = boundaries(text, trained), boundaries(text, english)
    assert len(theirs - ours) <= 0.001 * len(theirs)  # 3
    assert len(ours - theirs) <= 0.001 * len(theirs)  # 10


def test_verse_is_fit_for_a_first_run() -> None:
    raw = (ASSETS / "verse.txt").read_bytes()
    assert raw.isascii()
    data = DataConfig("verse", path=str(ASSETS / "verse.txt"))
    found = load_corpus(data)
    assert len(found.texts) >= 250
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert len(draw_sample(found, load_tokenizer(ASSETS / "nano"), data, seed=0).texts) == data.samples


def test_load_lines(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfOne. Two.\r\n\r\nthree\r\n")
    found = load_corpus(DataConfig("text", path=str(file), split=Split.lines))
    assert (found.texts, found.splitter, found.source) == (["One. Two.", "three"], "lines", str(file))


# Drawing


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 99), st.integers(1, 25), st.integers(0, 8), st.integers(1, 12))
def test_draw(seed: int, samples: int, min_tokens: int, max_tokens: int) -> None:
    candidates = numbered(20)
    lengths = [min(i + 1, max_tokens) for i in range(20)]
    eligible = [i for i in range(20) if lengths[i] >= min_tokens]
    data = DataConfig("text", samples=samples, min_tokens=min_tokens, max_tokens=max_tokens, split=Split.lines)
    if not eligible:
        with pytest.raises(JacspecError, match=f"None of the 20 lines in here.txt has {min_tokens} tokens or more"):
            draw_sample(candidates, Words(), data, seed=seed)
        return
    drawn = draw_sample(candidates, Words(), data, seed=seed)
    assert len(drawn.candidates) == min(samples, len(eligible))
    assert bool(drawn.notes) == (len(eligible) < samples)
    everyone = draw_sample(candidates, Words(), dataclasses.replace(data, samples=None), seed=seed)
    assert (everyone.candidates, everyone.notes) == (eligible, ())
    assert drawn.candidates == sorted(set(drawn.candidates) & set(eligible))  # corpus order, none twice
    assert drawn.texts == [candidates.texts[i] for i in drawn.candidates]
    assert drawn.tokens == [[2] * lengths[i] for i in drawn.candidates]
    assert drawn == draw_sample(candidates, Words(), data, seed=seed)


def test_draw_depends_on_the_seed_and_reaches_everyone() -> None:
    data = DataConfig("text", samples=5, min_tokens=1)
    drawn = [tuple(draw_sample(numbered(20), Words(), data, seed=seed).candidates) for seed in range(200)]
    assert len(set(drawn)) > 190
    counts = np.bincount(np.ravel(drawn), minlength=20)
    assert counts.min() > 25  # 50 expected, standard deviation 6
    assert counts.max() < 75


def test_tokens_of_the_embedded_tokenizer() -> None:
    tokenizer = load_tokenizer(ASSETS / "nano")
    texts = ["Speak, speak.", "What is the city but the people?" * 9, ""]
    whole = [tokenizer(text)["input_ids"] for text in texts]
    assert encode(tokenizer, texts, max_tokens=7) == [ids[:7] for ids in whole]
    assert encode(tokenizer, texts, max_tokens=99) == whole


@pytest.mark.parametrize(("key", "value"), [("samples", 0), ("samples", -3), ("max_tokens", 0), ("max_tokens", -1)])
def test_draw_refuses_nothing(key: str, value: int) -> None:
    data = DataConfig("text", samples=2)
    setattr(data, key, value)
    with pytest.raises(JacspecError, match=f"data.{key}={value} is less than 1"):
        draw_sample(numbered(20), Words(), data, seed=0)


# Batches


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=30), st.integers(1, 9), st.sampled_from([1, 2, 4]))
def test_batches(lengths: list[int], size: int, packs: int) -> None:
    tokens = [[100 * (index + 1) + place for place in range(length)] for index, length in enumerate(lengths)]
    batches = make_batches(tokens, size=size, packs=packs)
    assert sorted(sample for batch in batches for sample in batch.samples) == list(range(len(lengths)))
    assert len({str([leaf.shape for leaf in (batch.tokens, *batch.packing)]) for batch, _ in batches}) == 1
    assert len(batches) == -(-len(lengths) // (size * packs)), "as few batches as hold them"
    loads = []
    for padded in batches:
        (ids, packing), samples = padded
        count, slots, longest = packing.places.shape
        assert (count, slots <= size) == (packs, True)
        assert ids.dtype == packing.places.dtype == packing.rows.dtype == packing.lengths.dtype == np.int32
        assert max(lengths) <= longest < max(lengths) + 8
        assert ids.shape[1] % 32 == 0
        rows = samples + [samples[-1]] * (count * slots - len(samples))
        assert padded.row_samples.tolist() == rows
        for row, sample in enumerate(rows):
            pack, slot = divmod(row, slots)
            place, length = packing.places[pack, slot], lengths[sample]
            assert packing.lengths[pack, slot] == length
            assert ids[pack, place[:length]].tolist() == tokens[sample]
            assert (place[length:] == place[length - 1]).all()
        held = packing.holding(len(samples))
        assert held.sum() == sum(lengths[sample] for sample in samples)
        for pack in range(packs):
            (places,) = np.nonzero(held[pack])
            slots_held, positions = np.divmod(packing.rows[pack, places], longest)
            assert (packing.places[pack, slots_held, positions] == places).all()
            if (pack + 1) * slots <= len(samples):
                loads.append(int(held[pack].sum()))
    assert max(loads, default=0) - min(loads, default=0) <= max(lengths), "full packs have nearly as many tokens each"


@pytest.mark.parametrize("kind", ["shifted", "start"])
def test_decoders_are_fed_each_sample_behind_the_start_token(kind: str) -> None:
    tokens = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14]]
    for (ids, packing), samples in make_batches(tokens, size=3):
        fed, laid = decoder_batch(Packed(ids, packing), start=1, kind=kind)
        for row, sample in enumerate(samples):
            expected = [1, *tokens[sample][:-1]] if kind == "shifted" else [1]
            assert fed[0, laid.places[0, row, : laid.lengths[0, row]]].tolist() == expected
        assert laid.holding(len(samples)).sum() == sum(
            len(tokens[sample]) if kind == "shifted" else 1 for sample in samples
        )


@pytest.mark.parametrize(
    ("positions", "vocab", "message"),
    [(3, 9, None), (2, 9, "3 tokens, more than the model's 2 positions.*data.max_tokens=2"), (3, 8, "id 8.*has 8")],
)
def test_check_tokens(positions: int, vocab: int, message: str | None) -> None:
    tokens = [[1], [0, 8, 3]]
    if message is None:
        check_tokens(tokens, positions=positions, vocab=vocab)
        return
    with pytest.raises(JacspecError, match=message):
        check_tokens(tokens, positions=positions, vocab=vocab)
