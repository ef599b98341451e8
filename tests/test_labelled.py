"""Labelled text: both kinds of file, the split, the task that any text gives, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jacspec.errors import JacspecError
from jacspec.models.checkpoint import load_tokenizer
from jacspec.text.labelled import (
    BOOLQ,
    Columns,
    LabelledText,
    derive_labelled,
    encode_examples,
    misprint,
    read_labelled,
)

PLAIN = Columns("text", None, "label")
NANO = Path(__file__).parents[1] / "jacspec" / "assets" / "nano"
VERSE = (NANO.parent / "verse.txt").read_text()


def _read(
    file: Path, columns: Columns = PLAIN, held_out: Path | None = None, holdout: float = 0.25, seed: int = 0
) -> LabelledText:
    other = None if held_out is None else str(held_out)
    return read_labelled(str(file), columns, held_out_path=other, holdout=holdout, seed=seed)


def _write(file: Path, *lines: object) -> Path:
    file.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return file


def test_both_kinds_of_file_give_the_same(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": f'row {n}, "quoted"', "label": n % 3, "more": None} for n in range(12)]
    lines = _write(tmp_path / "a.jsonl", *rows, "")
    quoted = ['"' + row["text"].replace('"', '""') + f'",{row["label"]}' for row in rows]
    table = _write(tmp_path / "a.csv", "text,label", *quoted)
    one, other = _read(lines), _read(table)
    assert (one.train, one.held_out, one.labels) == (other.train, other.held_out, other.labels)
    assert one.labels == ("0", "1", "2")
    assert (len(one.train), len(one.held_out)) == (9, 3)
    texts = [example.text for example in (*one.train, *one.held_out)]
    assert sorted(texts) == sorted(row["text"] for row in rows)
    assert _read(lines, seed=1).held_out != one.held_out
    assert one.numbers(one.train).tolist() == [int(example.label) for example in one.train]


def test_boolq_and_a_second_file(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "passage": "a passage\nof two lines", "answer": n < 3} for n in range(4)]
    train, held_out = _write(tmp_path / "t.jsonl", *rows), _write(tmp_path / "v.jsonl", *rows[1:])
    found = _read(train, Columns(*BOOLQ), held_out)
    assert found.labels == ("false", "true")
    assert (len(found.train), len(found.held_out)) == (4, 3)
    assert found.chance == pytest.approx(2 / 3)
    tokenizer = load_tokenizer(NANO)
    ids = encode_examples(tokenizer, found.train, max_tokens=64)
    assert tokenizer.decode(ids[2]) == "q2a passage\nof two lines"
    assert max(map(len, encode_examples(tokenizer, found.train, max_tokens=5))) == 5


def test_quoted_fields_span_lines(tmp_path: Path) -> None:
    table = _write(tmp_path / "a.csv", "text,label", '"one\ntwo",x', "three,y", "four,x", "five,y")
    found = _read(table)
    assert "one\ntwo" in {example.text for example in (*found.train, *found.held_out)}


def test_a_record_of_several_lines_is_named_by_all_of_them(tmp_path: Path) -> None:
    table = _write(tmp_path / "a.csv", "text,label", '"one\n\ntwo",x', "", "three,y", '"four\nfive",', "six,y")
    with pytest.raises(JacspecError, match="lines 7 to 8: the label is empty"):
        _read(table)


BAD = {
    "not json": (["{", '{"text": "a", "label": 1}'], "line 1 is not readable JSON"),
    "a list": ([{"text": "a", "label": 1}, "[1]"], "line 2 is a list"),
    "no column": ([{"text": "a", "label": 1}, {"text": "b", "lable": 1}], "line 2 has no column 'label'. Did you mean"),
    "no text": ([{"text": " ", "label": 1}] * 2, "line 1: a text is empty"),
    "number as text": ([{"text": 3, "label": 1}] * 2, "line 1: a text is empty or not a string"),
    "null label": ([{"text": "a", "label": None}] * 2, "line 1: the label None"),
    "real label": ([{"text": "a", "label": 0.5}] * 2, "line 1: the label 0.5"),
    "empty label": ([{"text": "a", "label": " "}] * 2, "line 1: the label is empty"),
    "one label": ([{"text": "a", "label": 1}] * 8, "have the label '1'"),
    "one row": ([{"text": "a", "label": 1}], "holds 1 examples"),
}


@pytest.mark.parametrize(("rows", "message"), BAD.values(), ids=BAD)
def test_bad_rows_are_named(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(JacspecError, match=re.escape(message)):
        _read(_write(tmp_path / "a.jsonl", *rows))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(JacspecError, match="neither JSONL nor CSV"):
        _read(_write(tmp_path / "a.txt", "x"))
    with pytest.raises(JacspecError, match="is not a file"):
        _read(tmp_path / "none.csv")
    with pytest.raises(JacspecError, match="line 3 does not have the header's 2 fields"):
        _read(_write(tmp_path / "a.csv", "text,label", "a,1", "b"))
    with pytest.raises(JacspecError, match="is not CSV"):
        _read(_write(tmp_path / "b.csv", "text,label", 'a,"1" 2'))
    with pytest.raises(JacspecError, match="no column 'label'"):
        _read(_write(tmp_path / "c.csv", "text,other", "a,1", "b,2"))
    good = [{"text": f"t{n}", "label": n % 2} for n in range(4)]
    train = _write(tmp_path / "t.jsonl", *good)
    with pytest.raises(JacspecError, match="no example to train on has: 7"):
        _read(train, held_out=_write(tmp_path / "v.jsonl", *good, {"text": "x", "label": 7}))
    for holdout in (0.0, 1.0, 0.01):
        with pytest.raises(JacspecError, match=f"holdout={holdout}"):
            _read(train, holdout=holdout)


def test_what_a_text_gives() -> None:
    found = derive_labelled(VERSE, "verse", holdout=0.25, seed=0)
    assert found.chance == 0.5
    assert set(found.labels) == {"as printed", "misprinted"}
    lines = {line.strip() for line in VERSE.split("\n")}
    sides = []
    for examples in (found.train, found.held_out):
        pairs = list(zip(examples[::2], examples[1::2], strict=True))
        sides.append({first.text for first, _ in pairs})
        for first, second in pairs:
            assert (first.label, second.label) == found.labels
            assert first.text in lines
            # Only the order of letters inside words differs: no name, length or punctuation tells the label.
            assert first.text != second.text
            words = list(zip(first.text.split(), second.text.split(), strict=True))
            assert all(sorted(one) == sorted(other) and one[0] == other[0] for one, other in words)
    assert not sides[0] & sides[1]
    assert not any(text.endswith(":") and text.istitle() for side in sides for text in side)
    assert derive_labelled(VERSE, "verse", holdout=0.25, seed=0) == found
    with pytest.raises(JacspecError, match="0 lines with 3 words"):
        derive_labelled("too\nlittle\n", "it", holdout=0.25, seed=0)


def test_misprints_leave_what_cannot_be_one() -> None:
    rng = np.random.default_rng(0)
    still = "a foot of book, seen at noon"  # inner letters that do not differ
    assert misprint(still, rng) == still
    assert misprint("Quay's bell", rng) == "Qauy's blel"
    assert misprint("über", rng) == "üebr"
