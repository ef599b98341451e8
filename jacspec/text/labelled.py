"""Labelled text: files of examples, examples derived from any plain text, and the part that is held out.

| layout    | columns                                     |
|-----------|---------------------------------------------|
| `columns` | those that `finetune.text`, `second` and `label` name |
| `boolq`   | `question`, `passage`, `answer`             |

A file is JSONL (an object a line) or CSV with a header, told by its ending.
"""

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jacspec.errors import JacspecError, suggest
from jacspec.files import parse_json, read_file
from jacspec.text.corpus import CHARACTERS_A_TOKEN, MAX_TEXT_BYTES, decode_text, tokenize

BOOLQ = ("question", "passage", "answer")
ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}
AS_PRINTED, MISPRINTED = "as printed", "misprinted"
LETTERS = re.compile(r"[^\W\d_]{4,}")
FEWEST_WORDS, FEWEST_LINES = 3, 8


class Example(NamedTuple):
    """A text (or two) and its label."""

    text: str
    second: str | None
    label: str


class LabelledText(NamedTuple):
    """Examples to train on and examples held out, the labels in order, where they come from: for `run.json`."""

    train: list[Example]
    held_out: list[Example]
    labels: tuple[str, ...]
    source: str
    sha256: str

    @property
    def chance(self) -> float:
        """The accuracy of the answer that is right most often among the examples held out."""
        found = [example.label for example in self.held_out]
        return max(found.count(label) for label in self.labels) / len(found)

    def numbers(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the number of each example's label."""
        place = {label: number for number, label in enumerate(self.labels)}
        return np.array([place[example.label] for example in examples], np.int32)


class Columns(NamedTuple):
    """Which columns hold the text, the second text (if any) and the label."""

    text: str
    second: str | None
    label: str


def read_labelled(path: str, columns: Columns, *, held_out_path: str | None, holdout: float, seed: int) -> LabelledText:
    """Read labelled text from one file, a share `holdout` of which is held out, or from two.

    **Arguments:** `seed`, of the choice of what is held out; it is not used with `held_out_path`.

    **Raises:** `JacspecError` for what is unreadable, line by line; for a single label; for a label that only the file
    held out has.
    """
    examples, digest = _read_file(Path(path).expanduser(), columns)
    source = path
    if held_out_path is None:
        order = np.random.default_rng(seed).permutation(len(examples))
        cut = held_out_count(len(examples), holdout)
        held_out, train = ([examples[row] for row in sorted(rows.tolist())] for rows in np.split(order, [cut]))
    else:
        train = examples
        held_out, other = _read_file(Path(held_out_path).expanduser(), columns)
        digest, source = f"{digest}, {other}", f"{path}, {held_out_path}"
    labels = tuple(sorted({example.label for example in train}))
    if len(labels) < 2:
        raise JacspecError(
            f"All examples of {path} to train on have the label {labels[0]!r}: there is nothing to learn."
        )
    if strange := sorted({example.label for example in held_out} - {*labels}):
        raise JacspecError(f"Labels held out that no example to train on has: {', '.join(strange)}. Known: {labels}.")
    return LabelledText(train, held_out, labels, source, digest)


def derive_labelled(text: str, source: str, *, holdout: float, seed: int) -> LabelledText:
    """Make a labelled task of any plain text: whether a line is as it was printed, or misprinted.

    Each line with three words of four letters or more (a drama's speaker lines have none such) gives two examples:
    itself, `as printed`, and with two neighbouring letters exchanged inside each such word, `misprinted`, as in
    "so naer the quay". Both labels are equally frequent, both examples of a line are on the same side of the split, and
    nothing else tells them apart: chance is one half.
    """
    lines = sorted({line.strip() for line in text.split("\n")})
    lines = [line for line in lines if sum(map(bool, map(_places, LETTERS.findall(line)))) >= FEWEST_WORDS]
    if len(lines) < FEWEST_LINES:
        raise JacspecError(
            f"{source} has {len(lines)} lines with {FEWEST_WORDS} words of four letters that can be misprinted; "
            f"{FEWEST_LINES} are needed at least. Give a longer text, or finetune.path=FILE with labelled text."
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lines)).tolist()
    pairs = [
        (Example(lines[row], None, AS_PRINTED), Example(misprint(lines[row], rng), None, MISPRINTED)) for row in order
    ]
    cut = held_out_count(len(lines), holdout)
    held_out, train = ([example for pair in part for example in pair] for part in (pairs[:cut], pairs[cut:]))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return LabelledText(train, held_out, (AS_PRINTED, MISPRINTED), f"{source}, lines misprinted or not", digest)


def misprint(line: str, rng: np.random.Generator) -> str:
    """Exchange two neighbouring letters that differ inside each word of four letters or more: not its first or last."""

    def exchange(found: re.Match[str]) -> str:
        word, places = found[0], _places(found[0])
        if not places:
            return word
        place = places[int(rng.integers(len(places)))]
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return LETTERS.sub(exchange, line)


def _places(word: str) -> list[int]:
    """List where a letter inside a word differs from the next one, which is inside it too."""
    return [place for place in range(1, len(word) - 2) if word[place] != word[place + 1]]


def held_out_count(count: int, holdout: float) -> int:
    """Count what is held out; raises `JacspecError` where nothing would be left on one side."""
    if not 0 < holdout < 1:
        raise JacspecError(f"finetune.holdout={holdout} is no share. Give one between 0 and 1, as in 0.25.")
    cut = round(count * holdout)
    if not 0 < cut < count:
        raise JacspecError(f"finetune.holdout={holdout} of {count} examples leaves one side empty. Give more examples.")
    return cut


def encode_examples(tokenizer: Any, examples: Sequence[Example], *, max_tokens: int) -> list[list[int]]:
    """Tokenize texts, or pairs of texts as the tokenizer joins them, to at most `max_tokens` ids; the longer is cut.

    **Raises:** `JacspecError` where an example gives no token.
    """
    most = CHARACTERS_A_TOKEN * max_tokens  # as in `corpus.encode`
    texts = [example.text[:most] for example in examples]
    seconds = [example.second[:most] for example in examples if example.second is not None]
    ids = tokenize(tokenizer, texts, seconds or None, truncation=True, max_length=max_tokens)
    if empty := [number for number, each in enumerate(ids) if not each]:
        raise JacspecError(f"The tokenizer gives no token for {examples[empty[0]].text!r}.")
    return ids


def read_columns(path: str, text: str, labels: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Read the texts of a file (JSONL or CSV with a header), and by name its columns of labels, one a text.

    **Raises:** `JacspecError` for what is unreadable, line by line.
    """
    file, texts = Path(path).expanduser(), list[str]()
    found: dict[str, list[str]] = {name: [] for name in labels}
    for where, row in _read_rows(file)[0]:
        texts.append(_checked_text(_value(row, text, where, "modes.text=NAME"), where))
        for name, own in found.items():
            own.append(_checked_label(_value(row, name, where, "'modes.labels=[NAME]'"), where))
    if not texts:
        raise JacspecError(f"{file} holds no text.")
    return texts, found


def _read_file(file: Path, columns: Columns) -> tuple[list[Example], str]:
    rows, digest = _read_rows(file)
    examples = [_example(row, columns, where) for where, row in rows]
    if len(examples) < 2:
        raise JacspecError(f"{file} holds {len(examples)} examples; 2 are needed at least.")
    return examples, digest


def _read_rows(file: Path) -> tuple[Iterator[tuple[str, Mapping[str, Any]]], str]:
    """Go through the rows of a file, each with the file's name and its lines; with the file's sha256."""
    if file.suffix.lower() not in ENDINGS:
        raise JacspecError(f"{file} is neither JSONL nor CSV. Accepted endings: {', '.join(sorted(ENDINGS))}.")
    raw = read_file(file, most=MAX_TEXT_BYTES)
    digest, text = hashlib.sha256(raw).hexdigest(), decode_text(raw, str(file))
    del raw  # a row may be as long as the file: copies of it are counted
    return {"jsonl": _json_rows, "csv": _csv_rows}[ENDINGS[file.suffix.lower()]](text, file), digest


def _lines(text: str) -> Iterator[str]:
    """Go through the lines of a text, one copied at a time."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _json_rows(text: str, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for line, content in enumerate(_lines(text), start=1):
        if content.isspace():
            continue
        row = parse_json(content, f"{file}, line {line}")
        if not isinstance(row, dict):
            raise JacspecError(f"{file}, line {line} is a {type(row).__name__}, not an object. Give one object a line.")
        yield f"{file}, line {line}", row


def _csv_rows(text: str, file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(_lines(text), strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                fields = len(reader.fieldnames or ())
                raise JacspecError(f"{file}, line {reader.line_num} does not have the header's {fields} fields.")
            # The reader counts lines to the end of a record; its fields may have line breaks.
            first = reader.line_num - sum(value.count("\n") for value in row.values())
            lines = f"line {first}" if first == reader.line_num else f"lines {first} to {reader.line_num}"
            yield f"{file}, {lines}", row
    except csv.Error as error:
        raise JacspecError(f"{file}, line {reader.line_num} is not CSV: {error}.") from None


def _example(row: Mapping[str, Any], columns: Columns, where: str) -> Example:
    named = {key: name for key, name in columns._asdict().items() if name is not None}
    values = {key: _value(row, name, where, f"finetune.{key}=NAME") for key, name in named.items()}
    label = _checked_label(values.pop("label"), where)
    texts = {key: _checked_text(text, where) for key, text in values.items()}
    return Example(texts["text"], texts.get("second"), label)


def _value(row: Mapping[str, Any], name: str, where: str, way: str) -> Any:
    if name not in row:
        raise JacspecError(f"{where} has no column {name!r}. " + suggest(name, map(str, row)) + f" Type {way}.")
    return row[name]


def _checked_text(text: Any, where: str) -> str:
    if not (isinstance(text, str) and text.strip()):
        raise JacspecError(f"{where}: a text is empty or not a string. Mend or delete the row.")
    return text


def _checked_label(label: Any, where: str) -> str:
    if isinstance(label, str) and not label.strip():
        raise JacspecError(f"{where}: the label is empty. Mend or delete the row.")
    if not isinstance(label, (str, bool, int)):
        raise JacspecError(f"{where}: the label {label!r} is not a string, an integer or true or false.")
    # As JSON writes it, so that true is true in both kinds of file.
    return label if isinstance(label, str) else json.dumps(label)
