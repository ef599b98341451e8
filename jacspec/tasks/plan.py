"""`task=plan`: what a run would cost on given devices, printed; nothing is computed and no run folder is written."""

import dataclasses
import math
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from jacspec.config import Config, Init, PlanConfig
from jacspec.cost import (
    ITEMSIZE,
    Machine,
    Sizes,
    Work,
    carry_flops,
    count_parameters,
    device_bytes,
    estimate_seconds,
    share_batches,
)
from jacspec.errors import JacspecError
from jacspec.jacobians.engine import batch_size
from jacspec.jacobians.solvers import ENGINES, choose_engine
from jacspec.models.block import ModelSpec
from jacspec.models.hub import open_model
from jacspec.spectra.metrics import choose_metrics

GIGA, TERA = 1e9, 1e12
STAGES = {
    "hash": "hash weights",
    "read": "read weights",
    "copy": "copy weights",
    "carry": "carry samples",
    "spectra": "spectra",
    "look": "look at bounds",
}
"""What `cost.estimate_seconds` estimates, in words."""

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}


def run_plan(config: Config, folder: Path, console: Console) -> None:
    """Print the arithmetic of `task=jacobian` with this configuration on the devices of `plan.*`."""
    assert config.plan is not None
    _check(config.plan)
    # Shapes are all that is asked for: the config is enough, and no weights are looked for.
    checkpoint = open_model(dataclasses.replace(config.model, init=Init.random), seed=config.seed)
    spec = checkpoint.spec
    engine = choose_engine(config.engine.name, choose_metrics(config.metrics.names), spec)
    # As `prepare_batches` does on an accelerator whose memory is free.
    fitting = batch_size(
        spec.blocks[0],
        tokens=math.ceil(config.plan.tokens),
        itemsize=ITEMSIZE,
        memory_bytes=config.plan.memory_gb * GIGA / 2,
        engine=engine,
    )
    batch = min(config.engine.batch or fitting, fitting, config.data.samples)
    work = Work(config.data.samples, config.plan.tokens, batch, engine)
    sizes = count_parameters(checkpoint)
    _print_amounts(console, config, spec, sizes, work)
    console.print(_table(config.plan, spec, sizes, work))


def _check(plan: PlanConfig) -> None:
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        if not value or not all(number > 0 for number in (value if isinstance(value, list) else [value])):
            raise JacspecError(f"plan.{field.name}={value} is not above 0. Type plan.{field.name}=N with N above 0.")
    if len(plan.efficiency) != 2 or max(plan.efficiency) > 1:
        raise JacspecError(
            f"plan.efficiency={plan.efficiency} is no lowest and highest share. Type 'plan.efficiency=[0.1,0.5]'."
        )


def _print_amounts(console: Console, config: Config, spec: ModelSpec, sizes: Sizes, work: Work) -> None:
    assert config.plan is not None
    carry = work.samples * sum(carry_flops(block, work.tokens) for block in spec.blocks[:-1])
    spectra = work.samples * sum(ENGINES[work.engine].flops(block) for block in spec.blocks)
    for line in (
        f"{config.model.name}: {sizes.whole / GIGA:.4g} G parameters, {len(spec.blocks)} blocks of "
        f"{max(sizes.blocks) / GIGA:.3g} G; {work.samples} samples of {work.tokens:g} tokens, attention and MLP, "
        f"engine={work.engine}",
        f"{carry / TERA:.4g} TFLOP carry the samples through the model, {spectra / TERA:.4g} TFLOP are their spectra",
        f"{config.plan.stored_bytes * sizes.whole / GIGA:.4g} GB of checkpoint, "
        f"{4 * max(sizes.blocks) / GIGA:.3g} GB a block in float32",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def _table(plan: PlanConfig, spec: ModelSpec, sizes: Sizes, work: Work) -> Table:
    """Lay the seconds out: a row a stage, a column a number of devices."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("devices", no_wrap=True)
    columns = [_column(plan, spec, sizes, work, devices) for devices in plan.devices]
    for devices in plan.devices:
        table.add_column(str(devices), justify="right", no_wrap=True)
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _column(plan: PlanConfig, spec: ModelSpec, sizes: Sizes, work: Work, devices: int) -> dict[str, str]:
    fast, slow = (
        estimate_seconds(spec, sizes, work, _machine(plan, share), devices=devices, stored_bytes=plan.stored_bytes)
        for share in sorted(plan.efficiency, reverse=True)
    )
    needed = device_bytes(spec, sizes, work, devices=devices) / GIGA
    most = dict.fromkeys(max(found, key=found.__getitem__) for found in (fast, slow))
    return {
        "samples a batch": str(share_batches(work, devices)[0].batch),
        "GB of a device": f"{needed:.3g}" + (" (too much)" if needed > plan.memory_gb else ""),
        **{STAGES[stage]: _span(fast[stage], slow[stage]) for stage in fast},
        "together": _span(sum(fast.values()), sum(slow.values())),
        "most goes to": " or ".join(most),
    }


def _machine(plan: PlanConfig, efficiency: float) -> Machine:
    return Machine(
        flops=plan.teraflops * TERA,
        bandwidth=plan.bandwidth_gbs * GIGA,
        efficiency=efficiency,
        link=plan.link_gbs * GIGA,
        disk=plan.disk_gbs * GIGA,
        hashing=plan.hash_gbs * GIGA,
        loading=plan.load_gbs * GIGA,
        look=plan.look_us / 1e6,
    )


def _span(low: float, high: float) -> str:
    """Write seconds in the unit that fits the higher number; one number where both read the same."""
    unit = next((name for name, size in UNITS.items() if high >= 1.5 * size), "s")
    first, last = (f"{value / UNITS[unit]:.2g}" for value in (low, high))
    return f"{last} {unit}" if first == last else f"{first} – {last} {unit}"
