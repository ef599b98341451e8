"""How a process is interrupted: Ctrl-C and SIGTERM raise at once, and again where Python swallowed what was raised."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn


class Interrupted(KeyboardInterrupt):
    """Ctrl-C.

    A class of its own: Python notes where a `KeyboardInterrupt` itself passes through `exec`, as of a dataclass that is
    being made, and ends by SIGINT later on, whatever its status is to be.
    """


class Terminated(Interrupted):
    """SIGTERM: whoever sent it wants the process to end, as with Ctrl-C."""


SIGNALS = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}
_raised: list[type[Interrupted]] = []
"""What was raised and has not yet ended the command."""
_held: list[bool] = []
"""An entry for each `hold_interrupts` that is open."""


def catch_signals() -> None:
    """Let SIGINT and SIGTERM interrupt this process, unless whoever started it had them ignored (`nohup`, `&`)."""
    caught = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in caught:
        signal.signal(number, _interrupt)
        # The last that Python does before it would give the signals back to the kernel, which ends without a word.
        atexit.register(signal.signal, number, signal.SIG_IGN)
    sys.unraisablehook = _pass_over


def raise_interrupt() -> None:
    """Raise what was raised before and has not ended the command; called wherever work has come a step further.

    Python drops an exception in a destructor, and libraries one in their callbacks.
    """
    if _raised:
        raise _raised[-1]


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Let what comes inside interrupt at the end, for imports: libraries in C++ that are loading crash on an exception.

    Of 90 SIGTERM while JAX was imported 3 ended in a crash of jaxlib, without a word.
    """
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()
        raise_interrupt()


def interrupted() -> KeyboardInterrupt | None:
    """Return what was raised before and has not ended the command, if anything was."""
    return _raised[-1]() if _raised else None


def forget_interrupts() -> None:
    """Begin a command anew: what interrupted an earlier one of this process is over."""
    _raised.clear()


def end_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """Say in one line that the command was interrupted, and how it is resumed; end as the shell expects."""
    status = 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)
    leave(status)
    forget_interrupts()
    print("\njacspec: interrupted.", *getattr(interrupt, "__notes__", ()), file=sys.stderr, flush=True)
    sys.exit(status)


def leave(status: int) -> None:
    """Let a further signal end this process at once, with that status: its work is over, and threads may still run."""
    with suppress(AttributeError, OSError, ValueError):  # there is none, or nobody reads it
        sys.stdout.flush()
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, lambda *_: os._exit(status))


def _interrupt(number: int, frame: Any) -> None:
    _raised.append(SIGNALS[signal.Signals(number)])
    if not _held:
        raise_interrupt()


def _pass_over(unraisable: Any) -> None:
    """Say nothing of a destructor that was interrupted: the next step raises it again."""
    if not issubclass(unraisable.exc_type, Interrupted):
        sys.__unraisablehook__(unraisable)
