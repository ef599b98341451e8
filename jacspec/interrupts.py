"""How a process is interrupted: Ctrl-C and SIGTERM raise at once, and again where Python swallowed what was raised."""

import signal
import sys
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever sent it wants the process to end, as with Ctrl-C."""


_raised: list[type[KeyboardInterrupt]] = []
"""What was raised and has not yet ended the command."""


def catch_signals() -> None:
    """Let SIGINT and SIGTERM interrupt this process, unless whoever started it had them ignored (`nohup`, `&`)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def raise_interrupt() -> None:
    """Raise what was raised before and has not ended the command; called wherever work has come a step further.

    Python drops an exception in a destructor, and libraries one in their callbacks.
    """
    if _raised:
        raise _raised[-1]


def interrupted() -> KeyboardInterrupt | None:
    """Return what was raised before and has not ended the command, if anything was."""
    return _raised[-1]() if _raised else None


def forget_interrupts() -> None:
    """Begin a command anew: what interrupted an earlier one of this process is over."""
    _raised.clear()


def end_interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    """Say in one line that the command was interrupted, and how it is resumed; end as the shell expects."""
    forget_interrupts()
    print("\njacspec: interrupted.", *getattr(interrupt, "__notes__", ()), file=sys.stderr)
    sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT))


def _interrupt(number: int, frame: Any) -> None:
    _raised.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    raise_interrupt()
