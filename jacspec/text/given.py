"""What may be given as text from Python: one text, several, or token ids."""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jacspec.errors import JacspecTypeError

ACCEPTED = "A text is a str or a list of token ids; several are a list, an array or a pandas.Series of them."


class Texts(NamedTuple):
    """Samples that were given: their texts, or where ids were given those (`texts` is empty then)."""

    texts: list[str]
    tokens: list[list[int]]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.texts) or len(self.tokens)


def read_texts(given: Any) -> Texts:
    """Read what was given as text: a str is one sample, a list of ints is one sample's token ids.

    **Raises:** `JacspecTypeError` for what is neither, naming its place; also where nothing was given.
    """
    if isinstance(given, str):
        return Texts([given], [])
    parts = _listed(given, "texts")
    if not parts:
        raise JacspecTypeError(f"texts is empty. {ACCEPTED}")
    if all(isinstance(part, str) for part in parts):
        return Texts([str(part) for part in parts], [])
    if all(_is_id(part) for part in parts):
        return Texts([], [_ids(parts, "texts")])
    tokens = []
    first = type(parts[0]) if isinstance(parts[0], str) or _is_id(parts[0]) else None
    for place, part in enumerate(parts):
        where = f"texts[{place}]"
        if first is not None and isinstance(part, first):
            continue
        if first is not None or isinstance(part, str) or _is_id(part):
            raise JacspecTypeError(f"{where} is {_called(part)}, and texts[0] {_called(parts[0])}. {ACCEPTED}")
        tokens.append(_ids(_listed(part, where), where))
    return Texts([], tokens)


def _listed(given: Any, where: str) -> list[Any]:
    """List what is in a list, tuple, array, Series or tensor."""
    if isinstance(given, Mapping):
        raise JacspecTypeError(
            f"{where} is {_called(given)}. Give tokenizer(...)['input_ids'], or the texts themselves."
        )
    if callable(plain := getattr(given, "tolist", None)):  # arrays, Series and tensors: Python's own numbers
        given = plain()
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise JacspecTypeError(f"{where} is {_called(given)}. {ACCEPTED}")
    return list(given)


def _ids(parts: list[Any], where: str) -> list[int]:
    if wrong := next((part for part in parts if not _is_id(part)), None):
        raise JacspecTypeError(f"{where} holds {_called(wrong)}. {ACCEPTED}")
    ids = [int(part) for part in parts]
    if not ids or min(ids) < 0:
        raise JacspecTypeError(f"{where} holds {'a negative token id' if ids else 'no token'}. {ACCEPTED}")
    return ids


def _is_id(part: Any) -> bool:
    return isinstance(part, numbers.Integral) and not isinstance(part, bool)


def _called(part: Any) -> str:
    """Call a value by its type; a number or None by itself, as where a table has a gap."""
    name = type(part).__name__
    if part is None or isinstance(part, float):
        return repr(part)
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
