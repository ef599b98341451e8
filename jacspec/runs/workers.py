"""Several processes that share a run: how many there are, which of them this one is, and whether the others work.

Samples do not depend on each other, so the processes never exchange arrays. They meet at the address of process 0
(`rendezvous`), or `jax.distributed` brings them together, which knows what SLURM, Open MPI, Kubernetes and TPU slices
say of host, number and place; and they part again once the run folder is open: as long as they were tied to each other,
the death of one would end them all.

From then on each says by a heartbeat that it works: a file in `layers/`, written by that process alone. A file that all
can see is what works on every machine that shares the run folder, and a process that dies takes no other with it.
Nobody compares clocks: a process counts as lost when its heartbeat has not changed while another watched it.
"""

import contextlib
import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from jacspec.config import DistributedConfig
from jacspec.errors import JacspecError
from jacspec.runs.files import heartbeat_files, write_json
from jacspec.runs.rendezvous import Connections, meet, part

Item = TypeVar("Item")

AUTO = "auto"
MEETING_SECONDS, PATIENCE_SECONDS = 300.0, 3600.0
"""How long processes wait for the others to be started, and to have opened model and text: one may download them."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes of a run: how many, the `index` of this one, from 0, and its lines to others until work begins."""

    index: int = 0
    count: int = 1
    connections: Connections = dataclasses.field(default_factory=dict)

    def shard(self, items: Sequence[Item]) -> list[Item]:
        """Take this process's part of what all list alike: every `count`th."""
        return list(items[self.index :: self.count])


def check_distributed(config: DistributedConfig) -> None:
    """Refuse keys that do not say which process this is; raises `JacspecError`."""
    given = {"processes": config.processes, "index": config.index}
    if config.coordinator is None or config.coordinator == AUTO:
        for key, value in given.items():
            if value is not None:
                raise JacspecError(
                    f"distributed.{key}={value} goes with the address of process 0. "
                    "Type distributed.coordinator=HOST:PORT, or leave it out."
                )
    elif not re.fullmatch(r"\S+:\d+", config.coordinator):
        raise JacspecError(
            f"distributed.coordinator={config.coordinator} is not an address. Type distributed.coordinator=HOST:PORT, "
            "of the machine of process 0, or distributed.coordinator=auto under SLURM, Open MPI, Kubernetes, on a TPU."
        )
    elif config.processes is None or config.index is None or not 0 <= config.index < config.processes:
        raise JacspecError(
            f"distributed.processes={config.processes} distributed.index={config.index} does not say which process "
            "this is. Type distributed.processes=N, the same for all, and distributed.index=I with I from 0 to N − 1."
        )
    if not config.timeout > 0:
        raise JacspecError(f"distributed.timeout={config.timeout} is not above 0. Type distributed.timeout=60.")


def join_workers(config: DistributedConfig) -> Workers:
    """Wait until all processes of the run are there, and say which of them this is; call before any computation.

    On a cluster (`coordinator=auto`) `jax.distributed` ends this process where the others do not come.

    **Raises:** `JacspecError` where they do not come within `MEETING_SECONDS`, the address cannot be used, two have
    one index, or `coordinator=auto` finds no cluster.
    """
    if config.coordinator is None:
        return Workers()
    if config.coordinator != AUTO:
        assert config.processes is not None
        assert config.index is not None
        count, index = config.processes, config.index
        return Workers(index, count, meet(config.coordinator, count=count, index=index, patience=MEETING_SECONDS))
    import jax

    try:
        jax.distributed.initialize(shutdown_timeout_seconds=int(PATIENCE_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise JacspecError(
            f"distributed.coordinator={AUTO}: {error} Type distributed.coordinator=HOST:PORT distributed.processes=N "
            "distributed.index=I."
        ) from error
    return Workers(jax.process_index(), jax.process_count())


def leave_workers(workers: Workers) -> None:
    """Wait until all processes are here, and go on alone: the end of one does not end the others from now on."""
    import jax

    part(workers.connections, patience=PATIENCE_SECONDS)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


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
