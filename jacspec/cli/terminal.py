"""What a terminal, or a pipe in its place, can take: nothing of a user's is markup, and not all show Greek letters."""

import os
import sys
import unicodedata
from codecs import register_error
from typing import NoReturn

from rich.console import Console

PIPE_STATUS = 141
"""What the shell says of a tool whose reader went away: 128 and the number of SIGPIPE."""

SPELLED = {"×": "x", "−": "-", "–": "-", "—": "-", "‖": "||", "≤": "<=", "≥": ">=", "√": "sqrt", "·": "*", "→": "->"}
LETTER = "GREEK SMALL LETTER "


class Terminal(Console):
    """A console for which text is text: square brackets and colons of names and messages stay as they are."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False)

    def on_broken_pipe(self) -> NoReturn:
        """End the process without a word where nobody reads on, as `| head` does."""
        end_without_reader()


def end_without_reader() -> NoReturn:
    """End the process whose standard output was closed, without a word; what is still buffered goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(PIPE_STATUS)


def spell_out_symbols() -> None:
    """Let standard output and error spell out what their encoding lacks: `sigma` for σ, `?` for what has no name."""
    register_error("spelled", _spell)
    for stream in (sys.stdout, sys.stderr):
        if not str(getattr(stream, "encoding", "utf-8")).lower().startswith("utf"):
            stream.reconfigure(errors="spelled")  # type: ignore[union-attr]


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelled, error.object[error.start : error.end])), error.end


def _spelled(letter: str) -> str:
    name = unicodedata.name(letter, "")
    if name.startswith(LETTER):
        return name.removeprefix(LETTER).partition(" ")[0].lower()
    return SPELLED.get(letter) or unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"
