r"""What a run costs before it is run: FLOPs, bytes and seconds, from a model's shapes and the figures of its devices.

Work on a device is a roofline: $\max(\text{FLOPs} / \text{peak}, \text{bytes} / \text{bandwidth})$ over the share of
both that is reached; the SVD kernel takes what it was measured to take. Stages are added up, since none runs beside
another: weights are hashed, then block by block read, copied, and used. Left out: start, the start of each kernel,
compilation, eigenvalues, the audit, the report.
"""

import math
from typing import Any, NamedTuple

import jax

from jacspec.jacobians.solvers import ALL, ENGINES, EXPECTED_STEPS, pass_flops, svd_flops
from jacspec.models import export
from jacspec.models.block import BlockSpec, ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.modules import module_parts, module_template

ITEMSIZE = 4
"""Bytes of a number in memory: float32."""

SVD_WIDTH = 768
"""Rows and columns of the matrix whose SVD is timed; the time of others is taken to grow with the cube."""

COMPONENTS = 2
"""Attention and MLP, as the engines count their FLOPs."""


class Workload(NamedTuple):
    """A run over `samples` of `tokens` each, padding included, at most `batch` at once on a device, by `engine`."""

    samples: int
    tokens: float
    batch: int
    engine: str


class Machine(NamedTuple):
    """Figures of one device and of its host, in FLOP/s, bytes and bytes/s.

    `flops` is the speed of plain products and `bandwidth` a peak; `efficiency` is the share of both that is reached.
    `svd`, seconds of the SVD kernel for one matrix of `SVD_WIDTH`; `link` is from host to device, `disk` what a host
    reads from its disk for all its processes. Of one process: `hashing`, and `loading`, how fast stored weights are
    read, checked and cast; `look`, seconds that the host takes to judge a sample's bounds,
    once Lanczos has stopped on the device.
    """

    flops: float
    bandwidth: float
    efficiency: float
    svd: float
    link: float
    disk: float
    hashing: float
    loading: float
    look: float


class Sizes(NamedTuple):
    """Numbers of parameters: of the whole checkpoint, and of each block in memory."""

    whole: int
    blocks: tuple[int, ...]


def count_parameters(model: Checkpoint) -> Sizes:
    """Count the parameters of a model as its checkpoint has them, tied ones once."""
    blocks = [_size(module_template(model.spec, *part)) for part in module_parts(model.spec) if part[0] == "block"]
    return Sizes(export.count_parameters(model.architecture, model.spec), tuple(blocks))


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def carry_flops(block: BlockSpec, tokens: float) -> float:
    """Count the FLOPs that carry one sample through a block and find where its last token is differentiated.

    Products with weights, attention among tokens, and the keys and values once more for the context.
    """
    own = block.attention
    again = 4.0 * own.kv_heads * own.d_head * block.d_model
    return tokens * (pass_flops(block) + 4.0 * own.heads * own.d_head * tokens + again)


def spectra_bytes(block: BlockSpec, parameters: int, work: Workload) -> float:
    """Count the bytes that the spectra of one batch move between a device's memory and its cores.

    `lanczos` reads the weights twice a step and its two bases four times each; an engine that forms J reads them once
    and writes and reads its work arrays.
    """
    if ENGINES[work.engine].needs == ALL:
        arrays = ENGINES[work.engine].bytes(block, math.ceil(work.tokens), ITEMSIZE)
        return ITEMSIZE * parameters + 2.0 * COMPONENTS * work.batch * arrays
    bases = 8.0 * work.batch * EXPECTED_STEPS * block.d_model
    return EXPECTED_STEPS * ITEMSIZE * (2.0 * parameters + bases)


def share_batches(work: Workload, devices: int) -> tuple[Workload, int]:
    """Make batches small enough that each device has one, and count those of the busiest device."""
    smaller = work._replace(batch=min(work.batch, math.ceil(work.samples / devices)))
    return smaller, math.ceil(math.ceil(work.samples / smaller.batch) / devices)


def estimate_seconds(
    spec: ModelSpec, sizes: Sizes, work: Workload, machine: Machine, *, devices: int, stored_bytes: int
) -> dict[str, float]:
    """Estimate the seconds of each stage of a run with a process a device, each process going through all weights.

    **Arguments:** `stored_bytes`, of a number in the checkpoint.
    """
    work, batches = share_batches(work, devices)

    def on_device(flops: float, moved: float) -> float:
        return max(flops / machine.flops, moved / machine.bandwidth) / machine.efficiency

    engine = ENGINES[work.engine]
    pairs = list(zip(spec.blocks, sizes.blocks, strict=True))
    # The last block is not gone through: nothing reads what leaves it.
    carry = sum(
        on_device(work.batch * carry_flops(block, work.tokens), float(ITEMSIZE * size)) for block, size in pairs[:-1]
    )
    whole = engine.needs == ALL
    spectra = sum(
        on_device(
            work.batch * (engine.flops(block) - (svd_flops(block) if whole else 0)), spectra_bytes(block, size, work)
        )
        for block, size in pairs
    )
    svd = sum(COMPONENTS * machine.svd * (block.d_model / SVD_WIDTH) ** 3 for block, _ in pairs) if whole else 0.0
    looks = 0 if whole else COMPONENTS * len(pairs)
    read = stored_bytes * sum(sizes.blocks)
    return {
        "hash": stored_bytes * sizes.whole / min(machine.hashing, machine.disk),
        "read": read / min(machine.loading, machine.disk),
        "copy": ITEMSIZE * sum(sizes.blocks) / machine.link,
        "carry": batches * carry,
        "spectra": batches * spectra,
        "svd": batches * work.batch * svd,
        "look": batches * work.batch * looks * machine.look,
    }


def device_bytes(spec: ModelSpec, sizes: Sizes, work: Workload, *, devices: int) -> float:
    """Estimate the memory that a device needs: a block, its samples' hidden states coming and going, work arrays."""
    work, batches = share_batches(work, devices)
    hidden = 2.0 * ITEMSIZE * batches * work.batch * work.tokens * spec.d_model
    arrays = ENGINES[work.engine].bytes(spec.blocks[0], math.ceil(work.tokens), ITEMSIZE)
    return ITEMSIZE * max(sizes.blocks) + hidden + work.batch * arrays
