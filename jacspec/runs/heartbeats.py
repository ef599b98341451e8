"""Signs of life of the processes that share a run: a file each in `layers/`, written by that process alone.

A file that all can see is what works on every machine that shares the run folder, and a process that dies takes no
other with it. Nobody compares clocks: a process counts as lost when its sign has not changed while another watched it.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jacspec.errors import JacspecError
from jacspec.runs.files import heartbeat_files, write_json

WORKS, DONE, FAILED = "works", "done", "failed"
POLL_SECONDS = 0.2


class Heartbeat(NamedTuple):
    """What a process says: whether it works, is done or failed, why, and a number that grows while it works."""

    state: str
    beat: int
    message: str = ""


@contextlib.contextmanager
def send_heartbeats(folder: Path, index: int, *, every: float) -> Iterator[None]:
    """Say that process `index` works, at once and `every` so many seconds; then, that it is done or why it failed."""
    stop = threading.Event()

    def beat() -> None:
        number = 0
        while not stop.wait(every):
            number += 1
            with contextlib.suppress(OSError):  # the next one may succeed
                _write(folder, index, Heartbeat(WORKS, number))

    _write(folder, index, Heartbeat(WORKS, 0))
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    last = Heartbeat(DONE, 0)
    try:
        yield
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        last = Heartbeat(FAILED, 0, "it was interrupted." if interrupted else str(error) or type(error).__name__)
        raise
    finally:
        stop.set()
        thread.join()
        _write(folder, index, last)


def read_heartbeat(folder: Path, index: int) -> Heartbeat | None:
    """Read what process `index` said last; None where it has said nothing."""
    try:
        return Heartbeat(**json.loads(_file(folder, index).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def forget_heartbeats(folder: Path) -> None:
    """Remove the signs of an earlier try."""
    for file in heartbeat_files(folder):
        file.unlink()


def watch(folder: Path, others: Iterable[int], *, until: Callable[[], bool], timeout: float, ways_on: str) -> None:
    """Wait `until` something is so, as long as the `others` that have not said that they are done give signs of life.

    **Raises:** `JacspecError`, ending with `ways_on`, where one failed or has given none for `timeout` seconds.
    """
    seen: dict[int, tuple[Heartbeat | None, float]] = {index: (None, time.monotonic()) for index in others}
    while not until():
        for index, (last, since) in seen.items():
            sign = read_heartbeat(folder, index)
            if sign is not None and sign.state == FAILED:
                said = sign.message if ways_on in sign.message else f"{sign.message} {ways_on}"
                raise JacspecError(f"Process {index} stopped: {said}")
            if sign != last:
                seen[index] = (sign, time.monotonic())
            elif (sign is None or sign.state == WORKS) and time.monotonic() - since > timeout:
                raise JacspecError(f"Process {index} has given no sign of life for {timeout:g} seconds. {ways_on}")
        time.sleep(POLL_SECONDS)


def _write(folder: Path, index: int, sign: Heartbeat) -> None:
    write_json(_file(folder, index), sign._asdict())


def _file(folder: Path, index: int) -> Path:
    return folder / f"process{index}.json"
