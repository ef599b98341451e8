"""What jacspec does on a GPU: one script, under six minutes, that writes `gpu.json`.

    python tests/benchmarks/gpu.py [gpu.json] [--text TINY_SHAKESPEARE.txt] [--stories FOLDER]
                                   [--sections runs,kernel,…] [--minutes 6] [--small]

Without `--text` the embedded text serves, line by line; without `--stories` (the folder of stories260K) the embedded
model is compared alone. Sections, the most wanted first:

- `runs`: the default run and the paper's (GPT-2 small's shapes, random weights, 600 sentences) as processes, with an
  empty cache of compiled programs and with a full one;
- `full`: all singular values of the paper's run;
- `static`: task=weights and task=heads on GPT-2's shapes;
- `engines`: Jacobians and their spectra beside PyTorch's on the same card;
- `large`: one block of Llama-3.1-8B's shapes, two layers of it with all sentences, and what that says of 32 layers;
- `deviations`: every metric beside a CPU's of the same machine;
- `kernel`: ways to singular values, the kernel as the product calls it, eigenvalues, products, memory;
- `metrics`: metrics=full of 64 sentences, most of it eigenvalues.

This process computes nothing, so that each of those it starts has the device for itself. What was found is written
after every measurement: a section that fails or is out of time says so and costs no other. `--small` runs everything in
small sizes, on a CPU as well. What is measured inside a process is in `gpu_measures.py`.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve()
MEASURES = HERE.with_name("gpu_measures.py")
ROOT = HERE.parents[2]
LLAMA_LAYERS, FEW_LAYERS = 32, 2
TAIL, PATIENCE = 600, 5
APART = 1e-4
"""The share of a column's largest value by which tables of two devices may differ unnamed."""
AT_ONCE, FEW_STUDIES = 13, ("modes", "weights")
"""How many studies run at once, and which of them in small sizes."""


class Ended(NamedTuple):
    """How a process ended: its exit status, None where its time was over, and its last line."""

    code: int | None
    seconds: float
    tail: str


class Record:
    """What was found so far, in a file that is whole at any moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {}

    def note(self, section: str, name: str, value: Any) -> None:
        """Add a measurement and write all of them."""
        self.found.setdefault(section, {})[name] = value
        self.write()

    def write(self) -> None:
        """Replace the file."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(self.path)


class Context(NamedTuple):
    """What the sections share; `run(command, environment, seconds)` runs a process, `deadline` is of `monotonic`."""

    record: Record
    scratch: Path
    text: Path | None
    stories: Path | None
    small: bool
    deadline: float
    run: Callable[[Sequence[str], Mapping[str, str], float], Ended]

    def seconds_left(self, most: float) -> float:
        """Say how long a process may take that should not take longer than `most`; small sizes say nothing of time."""
        return max(min(most if not self.small else PATIENCE * most, self.deadline - time.monotonic()), 0.0)


def run_process(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> Ended:
    """Run a process, and end it with all that it started when its time is over."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        took = time.perf_counter() - begin
        if code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0, os.SEEK_END)
        said.seek(max(said.tell() - TAIL, 0))
        lines = said.read().decode(errors="replace").strip().splitlines()
        return Ended(code, took, lines[-1] if lines else "")


def environment(cache: Path, **changes: str) -> dict[str, str]:
    """Give a process the checkout to import from, and a cache folder."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1", **changes}


# Runs of the command


def data(context: Context, samples: int) -> list[str]:
    """Choose the text of a run."""
    if context.small:
        return ["data.samples=4", "data.max_tokens=16"]
    if context.text is None:
        return ["data=verse", "data.split=lines", f"data.samples={samples}"]
    return ["data=shakespeare", f"data.path={context.text}", f"data.samples={samples}"]


def gpt2(context: Context) -> list[str]:
    """Choose GPT-2 small's shapes with random weights."""
    sizes = ("n_layer=2", "n_embd=48", "n_head=4") if context.small else ()
    return ["model=gpt2", "model.init=random", *(f"++model.config.{size}" for size in sizes)]


def llama(context: Context, layers: int) -> list[str]:
    """Choose Llama-3.1-8B's shapes with random weights, and fewer layers."""
    sizes = ["hidden_size=64", "intermediate_size=96", "num_attention_heads=4", "num_key_value_heads=2"]
    chosen = [f"num_hidden_layers={layers}", *(["vocab_size=2048", *sizes] if context.small else [])]
    return ["model=llama-3.1-8b", "model.init=random", *(f"++model.config.{size}" for size in chosen)]


def time_run(context: Context, cache: str, *arguments: str, most: float) -> dict[str, Any]:
    """Run the command once and read what it wrote of itself."""
    folder = context.scratch / f"run{time.monotonic_ns()}"
    programs = context.scratch / cache / "jacspec" / "xla"
    command = [sys.executable, "-m", "jacspec", *arguments, f"hydra.run.dir={folder}"]
    limit = context.seconds_left(most)
    ended = context.run(command, environment(context.scratch / cache), limit)
    found: dict[str, Any] = {"seconds": round(ended.seconds, 2)}
    if ended.code is None:
        found = {"did not end in seconds": round(limit)}
    if ended.code != 0:
        found |= {"exit status": ended.code, "said last": ended.tail}
    with contextlib.suppress(OSError, json.JSONDecodeError):
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found |= {name: run[name] for name in ("seconds", "engine", "audit") if name in run and name != "seconds"}
        found["seconds a stage"] = run.get("seconds")
        found["not converged"] = len(run.get("not_converged", []))
        found["batches (samples, tokens)"] = run["identity"].get("batches")
        context.record.note("environment", "runs", {key: run["identity"][key] for key in ("device", "versions")})
    found["programs in the cache"] = len([*programs.rglob("*-cache")]) if programs.is_dir() else None
    return found


def measure_runs(context: Context) -> Iterator[tuple[str, Any]]:
    """Time the default run and the paper's, cold and warm."""
    default = data(context, 4) if context.small else []
    paper = [*gpt2(context), *data(context, 600)]
    for name, arguments, cold, warm in (("default", default, 100, 50), ("paper", paper, 150, 60)):
        yield f"{name}, nothing compiled yet", time_run(context, f"cache-{name}", *arguments, most=cold)
        yield f"{name}, compiled before", time_run(context, f"cache-{name}", *arguments, most=warm)


def measure_full(context: Context) -> Iterator[tuple[str, Any]]:
    """Time what needs all singular values; the cache holds the paper's run."""
    paper = [*gpt2(context), "engine=analytic", *data(context, 600)]
    yield "full spectra of the paper's run", time_run(context, "cache-paper", *paper, most=120)


def measure_metrics(context: Context) -> Iterator[tuple[str, Any]]:
    """Time what needs the Jacobians' eigenvalues, too."""
    metrics = [*gpt2(context), "metrics=full", *data(context, 64)]
    yield "metrics=full of 64 sentences", time_run(context, "cache-paper", *metrics, most=120)


def measure_static(context: Context) -> Iterator[tuple[str, Any]]:
    """Time static spectra."""
    for task in ("weights", "heads"):
        yield f"task={task}", time_run(context, "cache-paper", f"task={task}", *gpt2(context), most=60)


def measure_modes(context: Context) -> Iterator[tuple[str, Any]]:
    """Time the directions of the paper's run, cold and warm; the cache holds the paper's run."""
    modes = ["task=modes", *gpt2(context), *data(context, 600)]
    for name, most in (("nothing compiled yet", 120), ("compiled before", 90)):
        yield f"task=modes, {name}", time_run(context, "cache-paper", *modes, most=most)


def measure_studies(context: Context) -> Iterator[tuple[str, Any]]:
    """Run every study small, on this device and on the CPU, and say how far their tables are apart."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import small_runs

    model = context.scratch / "small"
    # The studies of a device share its memory.
    places = {
        place: environment(context.scratch / f"cache-{place}", **{name: value})
        for place, name, value in (
            ("device", "XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
            ("cpu", "JAX_PLATFORMS", "cpu"),
        )
    }
    made = context.run([sys.executable, str(MEASURES), "model", str(model)], places["cpu"], context.seconds_left(60))
    if made.code != 0:
        yield "failed", {"exit status": made.code, "said last": made.tail}
        return

    def compute(task: str, place: str) -> Ended:
        command = [sys.executable, "-m", "jacspec", *small_runs.arguments(task, model), "report.figures=none"]
        command.append(f"hydra.run.dir={context.scratch / task / place}")
        return context.run(command, places[place], context.seconds_left(100))

    tasks = [task for task in small_runs.SMALL if not context.small or task in FEW_STUDIES]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ended = {(task, place): pool.submit(compute, task, place) for task in tasks for place in places}
    for task in tasks:
        both = {place: ended[task, place].result() for place in places}
        if any(each.code != 0 for each in both.values()):
            yield task, {place: {"exit status": each.code, "said last": each.tail} for place, each in both.items()}
            continue
        found = compare_tables(context.scratch / task / "device", context.scratch / task / "cpu")
        yield task, {"seconds": {place: round(each.seconds, 1) for place, each in both.items()}, "columns": found}


def compare_tables(device: Path, cpu: Path) -> dict[str, Any]:
    """Say which columns of a run's tables differ by more than `APART` of their largest value, and by how much."""
    import pandas as pd

    apart: dict[str, Any] = {}
    count = 0
    for path in sorted(cpu.rglob("*.csv")):
        name = str(path.relative_to(cpu))
        if not (device / name).is_file():
            apart[name] = "not written"
            continue
        found, expected = (pd.read_csv(folder / name) for folder in (device, cpu))
        if found.shape != expected.shape:
            apart[name] = f"{found.shape} in place of {expected.shape}"
            continue
        numbers = expected.select_dtypes("number").columns
        for column in expected.columns:
            count += 1
            if column not in numbers:
                words = (table[column].fillna("") for table in (found, expected))
                if differing := int(np.not_equal(*(each.to_numpy(str) for each in words)).sum()):
                    apart[f"{name}: {column}"] = f"{differing} of {len(found)} rows differ"
                continue
            ours, theirs = (np.asarray(table[column], np.float64) for table in (found, expected))
            finite = np.isfinite(theirs)
            if (np.isfinite(ours) != finite).any():
                apart[f"{name}: {column}"] = "missing in other rows"
            elif finite.any() and (off := np.abs(ours - theirs)[finite].max()) > APART * np.abs(theirs[finite]).max():
                apart[f"{name}: {column}"] = float(off / np.abs(theirs[finite]).max())
    return {"compared": count, "apart": apart}


# Measurements inside a process


def measure_inside(section: str, most: float) -> Callable[[Context], Iterator[tuple[str, Any]]]:
    """Make the section that runs a section of `gpu_measures.py` and takes what it wrote, whole or not."""

    def measure(context: Context) -> Iterator[tuple[str, Any]]:
        yield from _inside(context, section, most)

    return measure


def _inside(context: Context, section: str, most: float) -> Iterator[tuple[str, Any]]:
    written = context.scratch / f"{section}.json"
    small = ["--small"] if context.small else []
    command = [sys.executable, str(MEASURES), section, str(written), *small]
    # PyTorch shares the device.
    shared = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"} if section == "engines" else {}
    limit = context.seconds_left(most)
    ended = context.run(command, environment(context.scratch / "cache-paper", **shared), limit)
    if written.is_file():
        yield from json.loads(written.read_text(encoding="utf-8")).items()
    if ended.code != 0:
        yield "ended early", {"exit status": ended.code, "after seconds": ended.seconds, "said last": ended.tail}


def measure_large(context: Context) -> Iterator[tuple[str, Any]]:
    """Measure one large block, then a run of few layers of them, and project it."""
    yield from _inside(context, "large", 75)
    arguments = [*llama(context, FEW_LAYERS), *data(context, 600)]
    found = time_run(context, "cache-paper", *arguments, most=110)
    yield f"{FEW_LAYERS} layers, 600 sentences", found
    stages = found.get("seconds a stage") or {}
    if "seconds" in found and stages:
        by_layer = sum(value for name, value in stages.items() if "spectra" in name or "layer" in name)
        yield (
            "projection, not a measurement",
            {
                "what": f"stages of spectra, which have {FEW_LAYERS} layers, times {LLAMA_LAYERS / FEW_LAYERS:g}, and "
                "the rest of that run once; reading real weights is not in it",
                "seconds of 32 layers, 600 sentences": round(
                    found["seconds"] + by_layer * (LLAMA_LAYERS / FEW_LAYERS - 1), 1
                ),
            },
        )


def measure_deviations(context: Context) -> Iterator[tuple[str, Any]]:
    """Compute the same spectra on this device and on the CPU, and say how far each metric is off."""
    files = {name: context.scratch / f"{name}.npz" for name in ("device", "cpu")}
    given = ["--stories", str(context.stories)] if context.stories is not None else []
    small = ["--small"] if context.small else []

    def compute(name: str) -> Ended:
        changes = {"JAX_PLATFORMS": "cpu"} if name == "cpu" else {}
        command = [sys.executable, str(MEASURES), "spectra", str(files[name]), *small, *given]
        where = environment(context.scratch / f"cache-{name}", **changes)
        return context.run(command, where, context.seconds_left(90))

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(compute, files))
    if any(each.code != 0 for each in ended):
        yield "failed", [{"exit status": each.code, "said last": each.tail} for each in ended]
        return
    with np.load(files["device"]) as device, np.load(files["cpu"]) as cpu:
        yield "platforms", [str(device["platform"]), str(cpu["platform"])]
        for name in sorted(set(cpu.files) - {"platform"}):
            yield name, deviation(device[name], cpu[name])


def deviation(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Return the largest relative deviation; of singular values against σ₁ of their matrix, as all errors here are."""
    scale = np.abs(expected[..., :1]) if expected.ndim == 4 else np.abs(expected)
    off = np.abs(found - expected) / np.where(scale > 0, scale, 1)
    return {"largest": float(np.nanmax(off)), "median": float(np.nanmedian(off)), "values": int(off.size)}


SECTIONS: dict[str, Callable[[Context], Iterator[tuple[str, Any]]]] = {
    "runs": measure_runs,
    "studies": measure_studies,
    "modes": measure_modes,
    "metrics": measure_metrics,
    "full": measure_full,
    "static": measure_static,
    "large": measure_large,
    "deviations": measure_deviations,
    "engines": measure_inside("engines", 75),
    "kernel": measure_inside("kernel", 75),
}


def main(arguments: Sequence[str] | None = None, run: Callable[..., Ended] = run_process) -> None:
    """Go through the sections and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=HERE.with_suffix(".json"))
    parser.add_argument("--text", type=Path)
    parser.add_argument("--stories", type=Path)
    parser.add_argument("--sections", type=lambda names: names.split(","), default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"--sections has {', '.join(unknown)}; there are {', '.join(SECTIONS)}.")
    begin = time.monotonic()
    record = Record(options.output)
    text, stories = (None if path is None else path.resolve() for path in (options.text, options.stories))
    with tempfile.TemporaryDirectory() as scratch:
        deadline = begin + 60 * options.minutes
        context = Context(record, Path(scratch), text, stories, options.small, deadline, run)
        for name in options.sections:
            if context.seconds_left(60) < 5:
                record.note("not reached", name, "the time was over")
                continue
            started = time.monotonic()
            try:
                for what, value in SECTIONS[name](context):
                    record.note(name, what, value)
            except Exception as error:  # recorded, and the next section has its turn
                record.note(name, "failed", f"{type(error).__name__}: {error}"[:TAIL])
            record.note("seconds a section", name, round(time.monotonic() - started, 1))
            print(name, json.dumps(record.found.get(name), indent=1, ensure_ascii=False), flush=True)
    record.note("environment", "cores", os.cpu_count())
    record.note("environment", "text", "tiny shakespeare" if text else "embedded")


if __name__ == "__main__":
    main()
