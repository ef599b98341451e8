"""The devices of one process: the samples of a batch are spread over them, the weights lie whole on each.

Only where batches begin and where blocks are read is anything placed: what is computed follows its arguments, and as
samples do not depend on each other no device waits for another.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jacspec.errors import JacspecError, check_least
from jacspec.samples import PaddedBatch

Tree = TypeVar("Tree")

AUTO = "auto"
CPU_BATCH = 64
"""Samples in one compiled step of a CPU at most. A product with a weight takes a third less a sample than with 32;
beyond, little is won, and all wait for the last of more samples."""


def count_devices(choice: str) -> int:
    """Resolve `engine.devices`: a number, or `auto`, all accelerators of this process.

    CPUs are one device unless the user makes them more (`jax_num_cpu_devices`), and `auto` takes one of them: batched
    calls of LAPACK on several hung.

    **Raises:** `JacspecError` for what is not a number, or more than there are.
    """
    local = jax.local_devices()
    if choice == AUTO:
        return 1 if local[0].platform == "cpu" else len(local)
    if not choice.isdecimal() or not 1 <= int(choice) <= len(local):
        raise JacspecError(
            f"engine.devices={choice} is not a number from 1 to {len(local)}, the devices of this process "
            f"({local[0].device_kind}). Type engine.devices=auto."
        )
    return int(choice)


def largest_batch(choice: int | None) -> float:
    """Resolve `engine.batch`; raises `JacspecError` for less than 1."""
    if choice is None:
        return float(CPU_BATCH) if jax.default_backend() == "cpu" else math.inf
    check_least("engine.batch", choice, 1)
    return float(choice)


def spread_samples(batches: Sequence[PaddedBatch], devices: int) -> list[PaddedBatch]:
    """Spread the rows of every batch, whose number `devices` divides, over as many devices."""
    if devices == 1:
        return list(batches)
    mesh = Mesh(np.array(jax.local_devices()[:devices]), ("sample",))
    rows = NamedSharding(mesh, PartitionSpec("sample"))
    return [padded._replace(batch=jax.device_put(padded.batch, rows)) for padded in batches]


def shard_like(tree: Tree, like: Any) -> Tree:
    """Place arrays that have a row a sample as `like` is placed, which has too."""
    mesh = mesh_of(like)
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec("sample")))


def replicate(tree: Tree, like: Any) -> Tree:
    """Place a whole copy of arrays on each device that `like`, which has a row a sample, is spread over."""
    mesh = mesh_of(like)
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def mesh_of(array: Any) -> Mesh | None:
    """Return the devices that an array is placed on, where it is placed on several."""
    sharding = getattr(array, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) else None
