"""The one error type that a user is meant to read, and how it names what was meant."""

import contextlib
import difflib
import shlex
from collections.abc import Iterable, Iterator


class JacspecError(ValueError):
    """A problem with what the user gave: the message says what was given, what is accepted and what to type."""


class JacspecTypeError(JacspecError, TypeError):
    """What was given from Python is of the wrong type, or under a name that nothing has."""


MOST_NAMES = 40
"""Names of what is accepted that a message lists; more would hide what it says."""


def suggest(given: str, known: Iterable[str]) -> str:
    """Say which name was probably meant and list the accepted ones, sorted, the nearest match first.

    **Arguments:** `given`, the unknown name; `known`, the accepted names.

    **Returns:** one sentence or two, to end an error message with.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{meant}Accepted: {shortened(names, MOST_NAMES)}."


def check_least(key: str, value: int, least: int) -> None:
    """Refuse a number below the least that a key takes, 0 or 1; raises `JacspecError`."""
    if value < least:
        few = "less than 1" if least else "negative"
        raise JacspecError(f"{key}={value} is {few}. Type {key}=N with N of {least} or more.")


def as_typed(key: str, value: object) -> str:
    """Write KEY=VALUE as it is copied into a shell: quoted where the shell needs it."""
    return shlex.quote(f"{key}={value}")


@contextlib.contextmanager
def blaming(what: str) -> Iterator[None]:
    """Say of whatever a library raises on a file inside that it is the file's: `what: its message`.

    Only around calls into libraries that raise many types for a broken file. A panic of their Rust code counts, which
    is no `Exception`.
    """
    try:
        yield
    except (JacspecError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise JacspecError(f"{what}: {error or type(error).__name__}") from error


def printable(text: object) -> str:
    """Replace what could steer a terminal or reorder a line: control, bidirectional and unpaired characters."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(text).rstrip())


def shortened(names: Iterable[str], most: int = 5) -> str:
    """Join names with commas, at most the first `most`, and count the others."""
    every = list(names)
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")
