"""The one error type that a user is meant to read, and how it names what was meant."""

import difflib
from collections.abc import Iterable


class JacspecError(ValueError):
    """A problem with what the user gave: the message says what was given, what is accepted and what to type."""


def suggest(given: str, known: Iterable[str]) -> str:
    """Say which name was probably meant and list the accepted ones, sorted, the nearest match first.

    **Arguments:** `given`, the unknown name; `known`, the accepted names.

    **Returns:** one sentence or two, to end an error message with.
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    return f"{meant}Accepted: {', '.join(names)}."
