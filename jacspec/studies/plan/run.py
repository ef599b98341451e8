"""`task=plan`: what a run would cost on given devices, printed and written as `plan.json`; nothing is computed."""

import dataclasses
import math
from pathlib import Path

from omegaconf import OmegaConf
from rich import box
from rich.console import Console
from rich.table import Table

from jacspec.config import Config, config_folder
from jacspec.errors import JacspecError
from jacspec.jacobians.engine import batch_size
from jacspec.jacobians.solvers import ALL, ENGINES, choose_engine, svd_flops
from jacspec.models.block import ModelSpec
from jacspec.models.checkpoint import Checkpoint
from jacspec.runs.files import write_json
from jacspec.runs.writing import Writer, make_folder, releasing_folders
from jacspec.spectra.metrics import choose_metrics
from jacspec.studies import find_study
from jacspec.studies.inputs import Inputs
from jacspec.studies.plan import PLAN_FILE, PlanOptions
from jacspec.studies.plan.cost import (
    ITEMSIZE,
    Machine,
    Sizes,
    Workload,
    carry_flops,
    count_parameters,
    device_bytes,
    estimate_seconds,
    share_batches,
)
from jacspec.studies.provenance import describe_run

GIGA, TERA = 1e9, 1e12
STAGES = {
    "hash": "hash weights",
    "read": "read weights",
    "copy": "copy weights",
    "carry": "carry samples",
    "spectra": "spectra",
    "svd": "SVD kernel",
    "look": "judge bounds",
}
"""What `cost.estimate_seconds` estimates, in words."""

MEASURED, SHEET, ASSUMED = "measured", "data sheet", "assumed"

FIGURES = {
    "teraflops": (MEASURED, "{} TFLOP/s in float32 products"),
    "svd_ms": (MEASURED, "{} ms for the singular values of a 768 × 768 matrix"),
    "hash_gbs": (MEASURED, "{} GB/s hashed by a process"),
    "load_gbs": (MEASURED, "{} GB/s read and cast by a process"),
    "look_us": (MEASURED, "{} µs to judge the bounds of a sample"),
    "bandwidth_gbs": (SHEET, "{} GB/s of memory"),
    "memory_gb": (SHEET, "{} GB"),
    "link_gbs": (SHEET, "{} GB/s from the host"),
    "disk_gbs": (ASSUMED, "{} GB/s from a host's disk"),
    "efficiency": (ASSUMED, "{} of the products' speed and of the bandwidth reached"),
}
"""Where the figures of `conf/task/plan.yaml` come from, in words; one that a user changes is the user's."""

UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "µs": 1e-6}
LEAST = {"h": 5400.0, "min": 90.0, "s": 0.1, "ms": 1e-4, "µs": 1e-9}
"""Seconds from which a unit is taken."""
PREFIXES = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}


@releasing_folders()
def run_plan(config: Config, folder: Path, console: Console, inputs: Inputs) -> None:
    """Print the arithmetic of `task=jacobian` with this configuration on the devices of `plan.*`, and write it down."""
    if config.resume is not None:
        raise JacspecError(f"task=plan takes seconds and cannot be resumed. Leave resume={config.resume} out.")
    options = config.own(PlanOptions)
    checkpoint, sizes, work = _amounts(config, inputs)
    name = checkpoint.name.removesuffix(" (random)")
    described = describe_run(config, study=find_study("plan"), identity={"checkpoint": {"name": name}})
    writer = Writer(folder, make_folder(folder, described))
    amounts = {"model": name, "parameters": sizes.whole, "engine": work.engine, "device": options.device}
    write_json(folder / PLAN_FILE, {**amounts, "samples": work.samples, "devices": plan_rows(config, inputs)})
    _print_amounts(console, config, checkpoint, sizes, work)
    _print_figures(console, options)
    console.print(_table(options, checkpoint.spec, sizes, work))
    writer.finish()
    console.print(f"plan: {folder / PLAN_FILE}", soft_wrap=True, highlight=False)


def plan_rows(config: Config, inputs: Inputs) -> list[dict[str, int | float]]:
    """Return what `run_plan` prints as numbers, a row a number of devices: seconds at most and at least a stage."""
    options = config.own(PlanOptions)
    checkpoint, sizes, work = _amounts(config, inputs)
    rows: list[dict[str, int | float]] = []
    for devices in options.devices:
        fast, slow = _seconds(options, checkpoint.spec, sizes, work, devices)
        row: dict[str, int | float] = {"devices": devices, "batch": share_batches(work, devices)[0].batch}
        row["device_gb"] = device_bytes(checkpoint.spec, sizes, work, devices=devices) / GIGA
        for stage in fast:
            row |= {f"{stage}_low": fast[stage], f"{stage}_high": slow[stage]}
        rows.append({**row, "together_low": sum(fast.values()), "together_high": sum(slow.values())})
    return rows


def _amounts(config: Config, inputs: Inputs) -> tuple[Checkpoint, Sizes, Workload]:
    """Count what a run with this configuration takes."""
    options = config.own(PlanOptions)
    _check(options)
    if (samples := config.data.samples) is None:
        raise JacspecError("task=plan reads no text, and so has no data.samples=all. Type data.samples=N.")
    checkpoint = inputs.shapes()
    spec = checkpoint.spec
    engine = choose_engine(config.engine.name, choose_metrics(config.metrics.names), spec)
    # As `prepare_batches` does on an accelerator whose memory is free.
    fitting = batch_size(
        spec.blocks[0],
        tokens=math.ceil(options.tokens),
        itemsize=ITEMSIZE,
        memory_bytes=options.memory_gb * GIGA / 2,
        engine=engine,
    )
    batch = min(config.engine.batch or fitting, fitting, samples)
    work = Workload(samples, options.tokens, batch, engine)
    return checkpoint, count_parameters(checkpoint), work


def _check(plan: PlanOptions) -> None:
    for field in dataclasses.fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, str):
            continue
        if not value or not all(number > 0 for number in (value if isinstance(value, list) else [value])):
            raise JacspecError(f"plan.{field.name}={value} is not above 0. Type plan.{field.name}=N with N above 0.")
    if len(plan.efficiency) != 2 or max(plan.efficiency) > 1:
        raise JacspecError(
            f"plan.efficiency={plan.efficiency} is no lowest and highest share. Type 'plan.efficiency=[0.1,0.5]'."
        )


def _print_amounts(console: Console, config: Config, model: Checkpoint, sizes: Sizes, work: Workload) -> None:
    options = config.own(PlanOptions)
    spec = model.spec
    carry = work.samples * sum(carry_flops(block, work.tokens) for block in spec.blocks[:-1])
    engine = ENGINES[work.engine]
    # The SVD kernel's FLOPs are LAPACK's: it is counted in seconds.
    kernel = sum(map(svd_flops, spec.blocks)) if engine.needs == ALL else 0
    spectra = work.samples * (sum(map(engine.flops, spec.blocks)) - kernel)
    for line in (
        f"{model.name.removesuffix(' (random)')}: {_amount(sizes.whole, 4)} parameters, {len(spec.blocks)} blocks of "
        f"{_amount(max(sizes.blocks))}; {work.samples} samples of {work.tokens:g} tokens, attention and MLP, "
        f"engine={work.engine}",
        f"{_amount(carry, 4)}FLOP carry the samples through the model, {_amount(spectra, 4)}FLOP are their spectra"
        + (", singular values apart" if kernel else ""),
        f"{_amount(options.stored_bytes * sizes.whole, 4)}B of checkpoint, "
        f"{_amount(4 * max(sizes.blocks))}B a block in float32",
    ):
        console.print(line, soft_wrap=True, highlight=False)


def _print_figures(console: Console, plan: PlanOptions) -> None:
    """Say what the device is taken to do, what was measured apart from what is assumed."""
    own = OmegaConf.load(config_folder() / "task" / "plan.yaml").plan
    lines: dict[str, list[str]] = {}
    for name, (origin, words) in FIGURES.items():
        value = getattr(plan, name)
        told = " to ".join(f"{number:g}" for number in value) if isinstance(value, list) else f"{value:g}"
        lines.setdefault(origin if value == own[name] else "given", []).append(words.format(told))
    console.print(f"Each device: {plan.device}", soft_wrap=True, highlight=False)
    for origin, figures in lines.items():
        console.print(f"  {origin}: {', '.join(figures)}", soft_wrap=True, highlight=False)


def _table(plan: PlanOptions, spec: ModelSpec, sizes: Sizes, work: Workload) -> Table:
    """Lay the seconds out: a row a stage, a column a number of devices."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("devices", no_wrap=True)
    most = max(device_bytes(spec, sizes, work, devices=devices) for devices in plan.devices)
    columns = [_column(plan, spec, sizes, work, devices, most) for devices in plan.devices]
    for devices in plan.devices:
        table.add_column(str(devices), justify="right", no_wrap=True)
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    return table


def _column(
    plan: PlanOptions, spec: ModelSpec, sizes: Sizes, work: Workload, devices: int, largest: int | float
) -> dict[str, str]:
    """Write a column of the table; `largest` is the most bytes of a column, whose unit all have."""
    fast, slow = _seconds(plan, spec, sizes, work, devices)
    needed = device_bytes(spec, sizes, work, devices=devices)
    prefix, unit = _prefix(largest)
    most = dict.fromkeys(max(found, key=found.__getitem__) for found in (fast, slow))
    return {
        "samples a batch": str(share_batches(work, devices)[0].batch),
        f"{prefix}B of a device": f"{needed / unit:.3g}" + (" (too much)" if needed > plan.memory_gb * GIGA else ""),
        **{STAGES[stage]: _span(fast[stage], slow[stage]) for stage in fast},
        "together": _span(sum(fast.values()), sum(slow.values())),
        "most goes to": " or ".join(STAGES[stage].split()[0] for stage in most),
    }


def _seconds(
    plan: PlanOptions, spec: ModelSpec, sizes: Sizes, work: Workload, devices: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Estimate the seconds of each stage at the highest and at the lowest share of the peaks."""
    fast, slow = (
        estimate_seconds(spec, sizes, work, _machine(plan, share), devices=devices, stored_bytes=plan.stored_bytes)
        for share in sorted(plan.efficiency, reverse=True)
    )
    return fast, slow


def _machine(plan: PlanOptions, efficiency: float) -> Machine:
    return Machine(
        flops=plan.teraflops * TERA,
        bandwidth=plan.bandwidth_gbs * GIGA,
        efficiency=efficiency,
        svd=plan.svd_ms / 1e3,
        link=plan.link_gbs * GIGA,
        disk=plan.disk_gbs * GIGA,
        hashing=plan.hash_gbs * GIGA,
        loading=plan.load_gbs * GIGA,
        look=plan.look_us / 1e6,
    )


def _prefix(number: int | float) -> tuple[str, float]:
    """Choose the largest prefix in which a number is not below one."""
    return next((each for each in PREFIXES.items() if number >= each[1]), ("", 1.0))


def _amount(number: int | float, digits: int = 3) -> str:
    """Write a number of bytes, parameters or operations with the prefix that fits."""
    prefix, size = _prefix(number)
    return f"{number / size:.{digits}g} {prefix}"


def _span(low: float, high: float) -> str:
    """Write seconds in the unit that fits the higher number; one number where both read the same."""
    unit = next((name for name, least in LEAST.items() if high >= least), "s")
    first, last = (f"{value / UNITS[unit]:.2g}" for value in (low, high))
    return f"{last} {unit}" if first == last else f"{first} – {last} {unit}"
