"""Values as they were typed, in Hydra's words: one where a list is meant, ranges of layers, paths as they are."""

import contextlib
import itertools
import json
import re
import shlex
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from jacspec.errors import JacspecError, as_typed

READ = ("model.path", "data.path", "finetune.path", "finetune.held_out", "modes.labelled", "resume", "run", "runs")
PATHS = (*READ, "merge.save", "merge.base", "merge.models", "hydra.run.dir", "hydra.sweep.dir")
"""Keys whose values are paths, or may be; those that are read, and have to be there, first."""


class Word(NamedTuple):
    """One KEY=VALUE; `sign` is what Hydra reads before a key: `+` or `++`."""

    sign: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.sign}{self.key}={self.value}"


class Command(NamedTuple):
    """A command as it was typed: all of it, its words, and whether it is a sweep."""

    given: Sequence[str]
    words: Sequence[Word]
    multirun: bool

    def value_of(self, key: str) -> str | None:
        """Return the value that was typed for a key, the last one where there are several."""
        return next((word.value for word in reversed(self.words) if word.key == key), None)

    @property
    def task(self) -> str:
        """The study that was asked for."""
        return self.value_of("task") or "jacobian"


def is_list(kind: Any) -> bool:
    """Say whether a key takes a list."""
    return typing.get_origin(kind) is list


def _inner(kind: Any) -> tuple[Any, ...]:
    """Return what a list holds; of `report.figures` and `runs`, which are of any type, names."""
    return typing.get_args(kind) if is_list(kind) else (str,)


def list_value(word: Word, kind: Any, command: Command) -> str:
    """Write the value of a key that takes a list: one value is a list of one, 0:4 are layers 0 to 3."""
    value = word.value.strip()
    if value == "null" or "${" in value:
        return value
    if word.key == "layers" and (":" in value or re.fullmatch(r"\d+-\d+", value)):
        value = _slices(word, command)
    if word.key in PATHS or str in _inner(kind):
        return _list_of_texts(word, kind, command)
    parsed = _parse(word.key, value)
    if parsed is None:
        return value
    if parsed.is_sweep_override():
        parts = value.split(",") if re.fullmatch(r"[^\[\](){}'\"]*", value) else None
        if command.multirun:
            return ",".join(f"[{part}]" for part in parts) if parts else value
        return f"[{value}]" if parts else refuse_several(word, command)
    found = parsed.value()
    if not isinstance(found, list):
        return f"[{value}]"
    pairs = any(typing.get_origin(each) is list for each in _inner(kind))
    return f"[{value}]" if pairs and found and not any(isinstance(each, list) for each in found) else value


def _list_of_texts(word: Word, kind: Any, command: Command) -> str:
    """Write a list of names or paths, each quoted where it has to be; `runs` may be one folder."""
    value = word.value.strip()
    if re.match(r"(\[?\s*['\"])|\w+\(", value) and _parse(word.key, value) is not None:
        return value
    whole = exists(value)
    listed = re.fullmatch(r"\[(.*)\]", value, flags=re.S)
    if listed and not whole:
        if command.multirun and "],[" in value:
            return value
        parts = [part for part in listed[1].split(",") if part.strip()]
        return f"[{','.join(_text(word.key, part) for part in parts)}]"
    parts = [value] if whole else value.split(",")
    alone = word.key == "runs"
    if command.multirun and len(parts) > 1:
        return ",".join(_text(word.key, part) if alone else f"[{_text(word.key, part)}]" for part in parts)
    written = ",".join(_text(word.key, part) for part in parts)
    return written if alone and len(parts) == 1 else f"[{written}]"


def _slices(word: Word, command: Command) -> str:
    """Write out ranges of layers as Python counts them: 0:4 are 0, 1, 2, 3, and -2: the last two."""
    if wrong := re.fullmatch(r"(\d+)-(\d+)", word.value):
        raise JacspecError(f"{word} is not a range of layers. Type layers={wrong[1]}:{int(wrong[2]) + 1}.")
    if not re.fullmatch(r"\[?[-\d:,\s]+\]?", word.value):
        raise JacspecError(f"{word} is not a range of layers. Type layers=0:4 for the first four.")
    written = []
    for part in word.value.strip("[] ").split(","):
        ends = [int(end) if end.strip() else None for end in part.split(":")]
        if len(ends) == 1:
            written.append([part])
            continue
        first, last, step = (*ends, None)[:3] if len(ends) in (2, 3) else (1, 0, None)
        first = 0 if first is None else first
        last = 0 if last is None and first < 0 else last
        if (
            last is None
            or step == 0
            or not (chosen := range(first, last, step or 1))
            or (first < 0) != (chosen[-1] < 0)
        ):
            raise JacspecError(
                f"{word} is not a range whose ends are known before the model is. "
                "Type layers=0:4 for the first four, layers=-4: for the last four."
            )
        written.append([str(number) for number in chosen])
    swept = command.multirun and "[" not in word.value and len(written) > 1
    return (
        ",".join(f"[{','.join(part)}]" for part in written)
        if swept
        else f"[{','.join(itertools.chain.from_iterable(written))}]"
    )


def text_value(word: Word, command: Command) -> str:
    """Write a name or a path, quoted where Hydra would read it as anything else."""
    value = word.value.strip()
    parsed = _parse(word.key, value)
    if "${" in value or (parsed is not None and re.match(r"['\"]|\w+\(", value)):
        return value
    if "\\" in value and parsed is not None and isinstance(parsed.value(), str):
        return value  # Hydra's own way to write what is special
    parts = [part for part in value.split(",") if part.strip()]
    if len(parts) < 2 or word.key.startswith("hydra.") or (word.key not in PATHS and " " in value):
        return _text(word.key, value)
    whole = exists(value)
    each = all(exists(part.strip()) for part in parts)
    if word.key in PATHS and whole and each:
        raise JacspecError(
            f"{word}: there is a file of that name, and one of each of its parts. "
            f"Type {as_typed(word.key, json.dumps(value, ensure_ascii=False))} for the whole."
        )
    if command.multirun and not (whole and word.key in PATHS):
        return ",".join(_text(word.key, part) for part in parts)
    if word.key not in PATHS or (each and not whole):
        refuse_several(word, command)
    return _text(word.key, value)


def check_single(word: Word, command: Command) -> None:
    """Refuse several values of a key that takes one, unless a sweep is asked for."""
    parsed = _parse(word.key, word.value)
    if word.key.endswith(".seeds") and (named := re.fullmatch(r"\[(\d+)\]|(0)", word.value)):
        raise JacspecError(f"{word.key} is how many seeds there are. Type {word.key}=1 seed={named[1] or named[2]}.")
    if parsed is None:
        return
    if parsed.is_sweep_override():
        if not command.multirun:
            refuse_several(word, command)
    elif word.key != "data.position" and isinstance(found := parsed.value(), list):
        one = found[0] if len(found) == 1 else None
        listed = ",".join(map(str, found))
        way = as_typed(word.key, str(one)) if one is not None else f"-m {as_typed(word.key, listed)} for a run of each"
        raise JacspecError(f"{word}: {word.key} takes one value, not a list. Type {way}.")


def refuse_several(word: Word, command: Command) -> NoReturn:
    """Raise `JacspecError` for several values without `-m`."""
    line = shlex.join(["jacspec", "-m", *command.given])
    shown = f": {line}" if len(line) < 300 else ""
    raise JacspecError(f"{word} has several values, and a run takes one. Type -m for a run of each{shown or '.'}")


def _text(key: str, value: str) -> str:
    """Write one name or path: `~` is the home folder, and null none."""
    value = value.strip()
    if value == "null" or (re.match(r"['\"]", value) and _parse(key, value) is not None):
        return value
    return quoted_if_needed(key, home(value) if key in PATHS else value)


def quoted_if_needed(key: str, value: str) -> str:
    """Quote text where Hydra would read it as anything else."""
    if value.startswith("[") and key == "metrics.names":
        return value
    parsed = _parse(key, value)
    taken = parsed is not None and not parsed.is_sweep_override() and str(parsed.value()) == value
    return value if taken and value else quoted(value)


def quoted(value: str) -> str:
    """Quote text for Hydra, which then takes it as it is."""
    return QuotedString(value, Quote.single).with_quotes()


_parser = OverridesParser.create()


def _parse(key: str, value: str) -> Override | None:
    """Read KEY=VALUE as Hydra does; None where it cannot."""
    try:
        return _parser.parse_override(f"{key}={value}")
    except HydraException:
        return None


def exists(value: str) -> bool:
    """Say whether there is a file or a folder of that name."""
    with contextlib.suppress(OSError, ValueError, RuntimeError):
        return Path(value).expanduser().exists()
    return False


def home(value: str) -> str:
    """Write out `~`, a home folder, at the beginning of a path."""
    with contextlib.suppress(RuntimeError):  # nobody of that name
        return str(Path(value).expanduser()) if value.startswith("~") else value
    return value
