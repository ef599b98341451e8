"""Hostile checkpoints, configs, tokenizers, texts and overrides: a clear error or a right result, nothing executed.

`tests/faults/campaign.py` does the same for longer, with atheris, and with a bound on memory.
"""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hostile import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MOST_HEADER,
    is_right,
    mutate,
    read_ours,
    read_unchecked,
    refuses_or_reads,
    safetensors,
    tensor,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_tokenizers import charsmap, make_tokenizer
from safetensors.numpy import save
from servers import (
    NANO,
    NANO_FILES,
    TINY,
    Answer,
    assert_refused,
    copy_nano,
    files_below,
    hub,
    run_command,
    run_here,
    serve,
)
from test_gguf import make as make_gguf

from jacspec.cli.explain import explain
from jacspec.config import ASSETS
from jacspec.errors import JacspecError
from jacspec.models import gguf_files
from jacspec.models.gguf_files import open_gguf
from jacspec.models.hf_config import read_config
from jacspec.models.tensor_files import open_tensors
from jacspec.models.tokenizer import load_tokenizer
from jacspec.text.corpus import encode

FUZZ = settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Safetensors

FOUR = bytes(range(16))
HEADERS = {
    "nothing": b"",
    "no header": b"\x05\0\0\0\0\0\0\0",
    "length beyond the file": safetensors({"a": tensor([4], 0, 16)}, FOUR, claimed=10**6),
    "length of 2^64 - 1": safetensors({"a": tensor([4], 0, 16)}, FOUR, claimed=2**64 - 1),
    "header above the limit": safetensors({}, claimed=MOST_HEADER + 1),
    "no JSON": safetensors(b"{" * 40),
    "a list": safetensors([]),
    "nested deeply": safetensors(b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    "not UTF-8": safetensors(b'{"\xff\xfe":' + json.dumps(tensor([4], 0, 16)).encode() + b"}", FOUR),
    "overlapping": safetensors({"a": tensor([3], 0, 12), "b": tensor([3], 4, 16)}, FOUR),
    "the same bytes twice": safetensors({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}, FOUR),
    "a hole": safetensors({"a": tensor([1], 0, 4), "b": tensor([1], 12, 16)}, FOUR),
    "data left over": safetensors({"a": tensor([2], 0, 8)}, FOUR),
    "beyond the data": safetensors({"a": tensor([40], 0, 160)}, FOUR),
    "backwards": safetensors({"a": tensor([4], 16, 0)}, FOUR),
    "negative offset": safetensors({"a": tensor([4], -16, 0)}, FOUR),
    "absurd shape": safetensors({"a": tensor([2**31, 2**31, 2**31], 0, 16)}, FOUR),
    "shape whose product wraps to fit": safetensors({"a": tensor([2**62, 4, 1], 0, 0)}),
    "negative shape": safetensors({"a": tensor([-2, -2], 0, 16)}, FOUR),
    "shape of strings": safetensors({"a": tensor(["4"], 0, 16)}, FOUR),
    "fewer bytes than the shape": safetensors({"a": tensor([400], 0, 16)}, FOUR),
    "unknown type": safetensors({"a": tensor([4], 0, 16, "F33")}, FOUR),
    "type of another size": safetensors({"a": tensor([4], 0, 16, "F16")}, FOUR),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}, "a": tensor([4], 0, 16)}, FOUR),
    "offsets of floats": safetensors({"a": tensor([4], 0.0, 16.5)}, FOUR),
    "a pickle": b"\x80\x04\x95" + bytes(40),
}
GOOD = save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3, dtype=np.int32)})


@pytest.mark.parametrize("raw", HEADERS.values(), ids=HEADERS)
def test_hostile_header_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(JacspecError, match=r"model.safetensors is damaged or not a safetensors file"):
        open_tensors(tmp_path)


def test_reader_without_checks_is_caught() -> None:
    assert is_right(read_unchecked, GOOD)
    caught = [name for name, raw in HEADERS.items() if not is_right(read_unchecked, raw)]
    assert {"overlapping", "a hole", "absurd shape", "beyond the data", "length beyond the file"} <= {*caught}


def test_every_truncation_and_every_flipped_bit(tmp_path: Path) -> None:
    """Of a small file: each is refused, or read as the specification says."""
    read = read_ours(tmp_path)
    assert read(GOOD)["a"] == ((2, 3), np.arange(6, dtype=np.float32).tobytes())
    for length in range(len(GOOD)):
        with pytest.raises(JacspecError):
            read(GOOD[:length])
    wrong = []
    for place in range((len(GOOD) - 36) * 8):  # all but the data, which may be anything
        flipped = bytearray(GOOD)
        flipped[place // 8] ^= 1 << place % 8
        if not is_right(read, bytes(flipped)):
            wrong.append(place)
    assert wrong == []


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", "/etc/passwd", "\0", "\x1b[2J", "F32", "(a+)+$"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SIDES = st.lists(st.integers(-1, 5) | st.sampled_from([2**31, 2**62, 2**63]), max_size=3)
OFFSETS = st.integers(-1, 40) | st.sampled_from([2**32, 2**63, 2**64 - 1])
ENTRIES = st.builds(tensor, SIDES, OFFSETS, OFFSETS, st.sampled_from(["F32", "BF16", "I32", "U8", "F8_E4M3", "F4"]))


@FUZZ
@given(
    header=st.dictionaries(st.text(max_size=5) | st.just("__metadata__"), ENTRIES | JSON, max_size=3),
    data=st.binary(max_size=40),
    claimed=st.none() | st.integers(0, 80) | st.sampled_from([2**32, 2**63]),
)
def test_any_header(tmp_path: Path, header: dict[str, Any], data: bytes, claimed: int | None) -> None:
    assert is_right(read_ours(tmp_path), safetensors(header, data, claimed=claimed))


NAMES = ["../model.safetensors", "/etc/passwd", "a/../../b.safetensors", "..", "", "\0", "x" * 300, "config.json"]


@pytest.mark.parametrize("name", [*NAMES, 3, None, ["a.safetensors"]])
def test_index_names_nothing_outside_its_folder(name: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "b.safetensors").write_bytes(GOOD)
        (place / "config.json").write_bytes(GOOD)
    (tmp_path / "model.safetensors").write_bytes(GOOD)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name, "b": "b.safetensors"}}))
    with pytest.raises((JacspecError, OSError), match=r"index.json|File name too long"):
        open_tensors(folder)


# JSON

DEEP = b"[" * 200_000
HUGE = b'{"model_type": "gpt2", "n_layer": ' + b"9" * 5000 + b"}"


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("config.json", DEEP),
        ("tokenizer.json", DEEP),
        ("tokenizer_config.json", DEEP),
        ("config.json", HUGE),
        ("tokenizer_config.json", b"\xff{}"),
    ],
    ids=["deep", "deep tokenizer", "deep settings", "huge", "not UTF-8"],
)
def test_json_beyond_a_parser_is_refused(name: str, raw: bytes, tmp_path: Path) -> None:
    copy_nano(tmp_path / "own")
    (tmp_path / "own" / name).write_bytes(raw)
    done = run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, "own")


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"n_layer": 10**12}, "n_layer=1000000000000"),
        ({"n_layer": 0}, "without layers"),
        ({"num_labels": 2**31}, "num_labels=2147483648"),
        ({"n_embd": 2**40, "n_head": 1}, "2147483647"),
        ({"vocab_size": 2**62}, "2147483647"),
        ({"n_layer": True}, "gpt2"),
        ({"n_head": 0.5}, "gpt2"),
        ({"layer_norm_epsilon": "1e-5"}, "gpt2"),
    ],
    ids=str,
)
def test_absurd_config_is_refused_at_once(changes: dict[str, Any], fragment: str) -> None:
    raw = json.loads((NANO / "config.json").read_text()) | changes
    with pytest.raises(JacspecError, match=fragment):
        read_config(raw, "config.json")


CONFIG = json.loads((NANO / "config.json").read_text())
EDITS = st.dictionaries(st.sampled_from([*CONFIG, "num_labels", "rope_scaling", "layer_types", "auto_map"]), JSON)


@FUZZ
@given(edits=EDITS, family=st.sampled_from(["gpt2", "llama", "bert", "t5", "gemma3_text"]))
def test_any_config(tmp_path: Path, edits: dict[str, Any], family: str) -> None:
    raw = (CONFIG if family == "gpt2" else {}) | edits | {"model_type": family}
    refuses_or_reads("config", json.dumps(raw).encode(), tmp_path)


# Tokenizers


def _spoil(**changes: Any) -> bytes:
    return json.dumps(json.loads((NANO / "tokenizer.json").read_text()) | changes).encode()


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


TEXT_A = {"Sequence": {"id": "A", "type_id": 0}}


def _template(*, pieces: int, ids: int) -> dict[str, Any]:
    token = {"id": "<s>", "ids": [0] * ids, "tokens": ["<s>"] * ids}
    piece = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [piece] * pieces,
        "pair": [text, text],
        "special_tokens": {"<s>": token},
    }


DOUBLE = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
WORD = {"type": "WordLevel", "vocab": {"x": 10**9}, "unk_token": "x"}
TOKENIZERS = {
    "a regex without end": (_spoil(pre_tokenizer=_split("(.+)+$x")), "retry-limit"),
    "a broken regex": (_spoil(pre_tokenizer=_split("((")), "cannot be loaded"),
    "a panic": (_spoil(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}), "Precompiled"),
    "doubled forty times": (_spoil(normalizer={"type": "Sequence", "normalizers": [DOUBLE] * 40}), "times longer"),
    "doubled by nothing": (
        _spoil(normalizer={"type": "Sequence", "normalizers": [DOUBLE | {"pattern": {"Regex": ""}}] * 20}),
        "times longer",
    ),
    "doubled by no letter": (
        _spoil(normalizer={"type": "Sequence", "normalizers": [DOUBLE | {"pattern": {"String": ""}}] * 20}),
        "times longer",
    ),
    "bytes of bytes": (
        _spoil(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 40}),
        "times longer",
    ),
    "a table that puts a megabyte": (
        _spoil(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"", b"a" * 2**20)}),
        "times longer",
    ),
    "many added tokens": (
        _spoil(added_tokens=[{"id": number, "content": f"<{number}>"} for number in range(2**17 + 1)]),
        "131073 added tokens",
    ),
    "tokens of megabytes": (
        _spoil(model={"type": "Unigram", "vocab": [["a", 0.0], ["b" * 2**24, 0.0]]}),
        "16777217 letters",
    ),
    "a megabyte before": (_spoil(normalizer={"type": "Prepend", "prepend": "e" * 2**20}), "adds 1048576 letters"),
    "a template of a million": (_spoil(post_processor=_template(pieces=10**6, ids=1)), "adds 1000000 letters or ids"),
    "a token of a million ids": (_spoil(post_processor=_template(pieces=1, ids=10**6)), "adds 1000000 letters or ids"),
    "a template of the text twice": (
        _spoil(post_processor={"type": "TemplateProcessing", "single": [TEXT_A] * 2, "pair": [], "special_tokens": {}}),
        "repeats a text 2 times",
    ),
    "steps without end": (
        _spoil(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100_000}),
        "has more than 100 steps",
    ),
    "ways without end": (_spoil(pre_tokenizer=_split(r"(?:[\w ]{1,2}){20}[^\w ]{2}")), "end within"),
    "no model": (_spoil(model=None), "cannot be loaded"),
    "ids beyond the model": (_spoil(model=WORD), "1000000000"),
}


@pytest.mark.parametrize(("raw", "fragment"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_hostile_tokenizer_is_refused(
    raw: bytes, fragment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jacspec.text.pace.PACE_SECONDS", 2.0)
    (copy_nano(tmp_path / "own") / "tokenizer.json").write_bytes(raw)
    done = run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, fragment)


@pytest.mark.parametrize("pattern", ["", "(?!)", "x*", r" ?\p{L}+|\s+(?!\S)|\s+"])
def test_expression_that_ends_is_read(pattern: str, tmp_path: Path) -> None:
    """One that matches nothing, or the empty text, is slow for nobody."""
    (copy_nano(tmp_path / "own") / "tokenizer.json").write_bytes(_spoil(pre_tokenizer=_split(pattern)))
    assert encode(load_tokenizer(tmp_path / "own"), ["the city"], max_tokens=9)


@pytest.mark.parametrize("name", ["extra_ids", "offset"])
def test_setting_that_makes_a_long_list_is_refused(name: str, tmp_path: Path) -> None:
    kind = {"extra_ids": "T5Tokenizer", "offset": "PegasusTokenizer"}[name]
    settings_ = {"tokenizer_class": kind, name: 10**9, "model_max_length": 10**30}
    (copy_nano(tmp_path / "own") / "tokenizer_config.json").write_text(json.dumps(settings_))
    with pytest.raises(JacspecError, match=f"{name}=1000000000. Accepted: 1048576 at most"):
        load_tokenizer(tmp_path / "own")


@settings(FUZZ, max_examples=30)
@given(part=st.sampled_from(["normalizer", "pre_tokenizer", "model", "added_tokens", "post_processor"]), value=JSON)
def test_any_tokenizer(tmp_path: Path, part: str, value: Any) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refuses_or_reads("tokenizer", _spoil(**{part: value}), tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_any_parts_of_a_tokenizer(seed: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    refuses_or_reads("tokenizer", make_tokenizer(seed, largest=300), tmp_path)


# Adapters and GGUF files


@pytest.mark.parametrize(("reader", "count"), [("adapter_config", 150), ("adapter", 100), ("gguf", 12)])
def test_any_change_of_an_adapter_or_a_gguf_file(reader: str, count: int, tmp_path: Path) -> None:
    raw = {"adapter_config": json.dumps(ADAPTER_CONFIG).encode(), "adapter": ADAPTER_WEIGHTS}.get(reader)
    raw = raw or make_gguf(tmp_path, "llama").read_bytes()
    assert refuses_or_reads(reader, raw, tmp_path)
    read = [refuses_or_reads(reader, mutate(raw, random.Random(seed)), tmp_path) for seed in range(count)]
    assert 0 < sum(read) < count


def test_gguf_that_claims_more_than_a_model_has_is_refused_at_once(tmp_path: Path) -> None:
    start = b"GGUF" + struct.pack("<I", 3)
    listed = struct.pack("<Q1sIIQ", 1, b"a", 9, 0, 2**23) + bytes(2**23)
    for content, said in (
        (struct.pack("<QQ", 2**40, 0), "1099511627776 tensors"),
        (struct.pack("<QQ", 0, 1) + listed, "more than 4194304 values"),
    ):
        (tmp_path / "own.gguf").write_bytes(start + content)
        with pytest.raises(JacspecError, match=said):
            open_gguf(tmp_path / "own.gguf")
        (tmp_path / "own.gguf").unlink()
        gguf_files._reader.cache_clear()


# Texts

ENCODINGS = [text.encode(name) for text in ("Ça va ?\n", "\ufeffa.\r\nb") for name in ("utf-8", "utf-16", "utf-32")]
PIECES = st.sampled_from([*ENCODINGS, b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\0", b"\n", b"\r", b"A. B! c?\n"])


@FUZZ
@given(st.lists(PIECES | st.binary(max_size=6), max_size=8).map(b"".join))
def test_any_text(tmp_path: Path, raw: bytes) -> None:
    read = refuses_or_reads("corpus", raw, tmp_path)
    decoded = raw.decode("utf-8-sig", errors="replace")
    good = "\ufffd" not in decoded and "\0" not in decoded and bool(decoded.strip())
    assert read == good or "\ufffd".encode() in raw


ROWS = st.fixed_dictionaries({"text": JSON, "label": JSON}).map(lambda row: json.dumps(row).encode() + b"\n")


@FUZZ
@given(st.lists(ROWS | PIECES | st.binary(max_size=6) | st.just(b'"text,label"\n'), max_size=6).map(b"".join))
def test_any_labelled_text(tmp_path: Path, raw: bytes) -> None:
    refuses_or_reads("labelled", raw, tmp_path)


@pytest.mark.parametrize("line", [DEEP, b"9" * 5000, b'{"text": "a", "label": ' + b"9" * 5000 + b"}"], ids=range(3))
def test_labelled_line_beyond_a_parser_is_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_bytes(b'{"text": "a", "label": 1}\n' + line)
    done = run_here("task=finetune", "finetune.path=own.jsonl", "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path, "own.jsonl, line 2")


@pytest.mark.parametrize("key", ["data=text data.path", "task=finetune finetune.path", "run", "model=path model.path"])
def test_what_has_no_end_is_not_read(key: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").symlink_to("/dev/zero")
    (tmp_path / "config.json").symlink_to("/dev/zero")
    (tmp_path / "model.safetensors").symlink_to(ASSETS / "nano" / "model.safetensors")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    place = {"run": str(tmp_path), "model.path": str(tmp_path)}.get(key.split()[-1], str(tmp_path / "zero.jsonl"))
    done = run_here(*["task=report"] * (key == "run"), *f"{key}={place}".split(), cwd=tmp_path)
    assert_refused(done, tmp_path / "none", "is not a file")


# The command line

WORDS = st.sampled_from(["seed", "data.samples", "model", "model.path", "task", "++x", "~data", "hydra.run", "a@b"])
VALUES = st.text(max_size=12) | st.sampled_from(["${", "${seed}", "${oc.env:HOME}", "[" * 500, "{a:1", "1" * 5000, "'"])


@settings(FUZZ, max_examples=40)
@given(st.lists(st.builds("{}={}".format, WORDS, VALUES) | VALUES, min_size=1, max_size=3))
def test_any_override(tmp_path: Path, overrides: list[str]) -> None:
    """No traceback: an error that is not explained would come out of `run_here` as itself."""
    words = [word for word in overrides if not word.startswith("-") and "\0" not in word]
    with mock.patch("jacspec.cli.command.load"):
        done = run_here(f"hydra.run.dir={tmp_path}/out", *words, cwd=tmp_path)
    assert done.code in (0, 1)
    assert (done.code == 1) == done.err.startswith("jacspec: "), done.err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 4 TB"), RecursionError("deep")])
def test_lack_of_memory_or_depth_is_said(error: Exception) -> None:
    assert explain(error)
    assert explain(RuntimeError("of ours")) is None


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    own = copy_nano(tmp_path / "own")
    (own / "model.safetensors").write_bytes(save({f"\x1b[2J\x07{n}": np.zeros(2, np.float32) for n in range(4000)}))
    done = run_here(*TINY, "model=path", "model.path=own", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 1
    assert "do not fit" in done.err
    assert done.err.replace("\n", "").isprintable()
    assert len(done.err) < 5000


# The hub


def _names(*names: str) -> Callable[[str], Answer]:
    files = {name: (NANO / name).read_bytes() for name in NANO_FILES}
    return hub(files | dict.fromkeys(names, b"written outside"))


HUBS: dict[str, Callable[[str], Answer]] = {
    "names that climb": _names("tokenizer/../../../../../outside", "tokenizer_/../../outside.json"),
    "JSON of another kind": lambda path: Answer(200, b"[1]", {"Content-Type": "application/json"}),
}


@pytest.mark.parametrize("answer", HUBS.values(), ids=HUBS)
def test_hostile_hub_writes_nothing_outside_its_cache(answer: Callable[[str], Answer], tmp_path: Path) -> None:
    home = tmp_path / "a" / "b" / "hf"
    with serve(answer) as server:
        changes: dict[str, Any] = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": server.url, "HF_HOME": str(home)}
        done = run_command(*TINY, "model=hub", "model.id=org/nano", "hydra.run.dir=out", cwd=tmp_path, **changes)
    assert_refused(done, tmp_path, "org/nano")
    assert not [name for name in files_below(tmp_path) if "outside" in name or not name.startswith("a/b/hf/")]
