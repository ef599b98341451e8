"""Several processes that share a run: how many there are, and which of them this one is.

Samples do not depend on each other, so the processes never exchange arrays. They meet at the address of process 0
(`rendezvous`), or `jax.distributed` brings them together, which knows what SLURM, Open MPI, Kubernetes and TPU slices
say of host, number and place; and they part again once the run folder is open: as long as they were tied to each other,
the death of one would end them all.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

from jacspec.config import DistributedConfig
from jacspec.errors import JacspecError
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
