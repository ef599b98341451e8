"""Static spectra beside WeightWatcher, and the heads of a whole model: GPT-2 small's shapes, random weights.

    python tests/benchmarks/weights.py [ROUNDS]   (from the repository; needs the extra `test`; writes weights.json)

The same checkpoint, one process each, in turns: `task=weights metrics=full` with every metric, p-value and one draw of
chance, down to the tables (figures apart), and WeightWatcher on HF's model: plain `analyze()`, and
`analyze(randomize=True, mp_fit=True)`, which compares with chance too; each also with one thread for BLAS.

Seconds are those of the work itself, reading the tensors included on our side and HF's model read before on theirs:
imports and, by a second pass that remembers nothing of the first, what JAX traces and compiles apart. The whole first
pass with imports is beside them, where nothing is compiled yet and with compiled programs in the cache. CPU seconds
(user + sys) are those of the same work. A ratio is the median over rounds of the times of one round; WeightWatcher
beside chance, which takes minutes, runs in the first round alone. Where other work
runs on the machine, as the load average tells, OpenBLAS's threads spin waiting for one another, and only the CPU
seconds beside WeightWatcher on one thread mean something.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jacspec.studies.provenance import versions

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
LAYERS, HEADS = 12, 12
WANTED = {"weights, times faster than WeightWatcher": 5, "heads, seconds at most": 2}

WRITE = """
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel
torch.manual_seed(0)
GPT2LMHeadModel(GPT2Config()).save_pretrained(sys.argv[1])
"""
WATCH = """
import sys, time, warnings
warnings.simplefilter("ignore")
begin = time.perf_counter()
import torch, weightwatcher
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1])
ready, cpu = time.perf_counter(), time.process_time()
table = weightwatcher.WeightWatcher(model=model).analyze(**eval(sys.argv[2]))
print(len(table), time.perf_counter() - ready, time.process_time() - cpu, time.perf_counter() - begin)
"""
OURS = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
from jacspec import load_model
from jacspec.backend import numerics, use_compilation_cache
from jacspec.runs.rows import matrix_layout, start_rows
from jacspec.spectra import bulk
from jacspec.spectra.weight_metrics import alpha_of_chance, gaussian_eigenvalues, gaussian_spectrum
from jacspec.studies.weights.columns import WEIGHT_METRICS
from jacspec.studies.weights.run import spectral_metrics
from jacspec.studies.weights.measure import measure_all
from jacspec.models.matrices import Choice, Matrix, stream_model
use_compilation_cache()
names = spectral_metrics(["full"])
with numerics("float32"):
    model = load_model(sys.argv[1])
    choice = Choice(exclude=["q", "k", "v"], embeddings=True)
    for place in ("first", "second"):
        begun, cpu = time.perf_counter(), time.process_time()
        found = (each for each in stream_model(model, choice) if isinstance(each, Matrix))
        writer = start_rows(Path(sys.argv[2]) / place, {}, matrix_layout((*names, *WEIGHT_METRICS)))
        options = {"precision": "float32", "top_k": 10, "null": "gaussian", "seed": 0, "memory_bytes": 2**30}
        for results in measure_all(enumerate(found), names, **options):
            writer.add(results)
        writer.write_tables()
        if place == "first":
            whole = time.perf_counter() - begin
            gaussian_spectrum.cache_clear()
            gaussian_eigenvalues.cache_clear()
            alpha_of_chance.cache_clear()
            bulk.quantiles.cache_clear()
print(len(writer.done), time.perf_counter() - begun, time.process_time() - cpu, whole)
"""
OUR_HEADS = """
import sys, time
begin = time.perf_counter()
from jacspec import load_model
from jacspec.backend import numerics, use_compilation_cache
from jacspec.studies.heads.measure import head_products
use_compilation_cache()
with numerics("float32"):
    model = load_model(sys.argv[1])
    blocks = list(model.blocks())
    head_products(blocks[0])
    ready, cpu = time.perf_counter(), time.process_time()
    count = sum(len(head_products(block)["qk"].sigma) for block in blocks)
print(count, time.perf_counter() - ready, time.process_time() - cpu, time.perf_counter() - begin)
"""


BESIDE_CHANCE = {"randomize": True, "mp_fit": True}
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
RIVALS: Mapping[str, tuple[Mapping[str, bool], Mapping[str, str]]] = {
    "analyze()": ({}, {}),
    "analyze(randomize=True, mp_fit=True)": (BESIDE_CHANCE, {}),
    "analyze(), one thread": ({}, ONE_THREAD),
    "analyze(randomize=True, mp_fit=True), one thread": (BESIDE_CHANCE, ONE_THREAD),
}
"""What WeightWatcher is asked for, and with which environment."""


class Timing(NamedTuple):
    """Matrices seen, seconds and CPU seconds of the work, seconds since the process began to import."""

    matrices: int
    work: float
    cpu: float
    whole: float


def run(code: str, *arguments: str, cache: str, environment: Mapping[str, str] | None = None) -> Timing:
    """Run a script in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"} | dict(environment or {}),
        capture_output=True,
        text=True,
        check=True,
    )
    matrices, *seconds = done.stdout.split()[-4:]
    return Timing(int(matrices), *map(float, seconds))


def middle(values: Iterable[float], digits: int = 2) -> float:
    """Return the median, rounded."""
    return round(statistics.median(values), digits)


def say(timings: Sequence[Timing]) -> dict[str, float]:
    """Sum up the rounds of one program."""
    return {
        "matrices": timings[0].matrices,
        "seconds": middle(each.work for each in timings),
        "CPU seconds": middle(each.cpu for each in timings),
        "seconds with imports": middle(each.whole for each in timings),
    }


def main() -> None:
    """Run everything and write the JSON beside this file."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, cache = f"{folder}/gpt2", f"{folder}/cache"
        subprocess.run([sys.executable, "-c", WRITE, checkpoint], check=True, capture_output=True)
        nothing_compiled = run(OURS, checkpoint, f"{folder}/first", cache=cache)
        ours: list[Timing] = []
        theirs: dict[str, list[Timing]] = {name: [] for name in RIVALS}
        for number in range(ROUNDS):
            ours.append(run(OURS, checkpoint, f"{folder}/run{number}", cache=cache))
            for name, (options, environment) in RIVALS.items():
                if options and number:
                    continue  # minutes each, and of a ratio that no noise would turn
                theirs[name].append(run(WATCH, checkpoint, repr(options), cache=cache, environment=environment))
        heads = [run(OUR_HEADS, checkpoint, cache=cache) for _ in range(ROUNDS)]
    found: dict[str, Any] = {
        "what": "all matrices of a GPT-2-small-shaped checkpoint with random weights, float32",
        "environment": {
            "platform": jax.default_backend(),
            "cores": os.cpu_count(),
            "load average before and after": [round(load, 1), round(os.getloadavg()[0], 1)],
            "rounds": ROUNDS,
            "versions": versions(),
        },
        "weights": {
            "jacspec": say(ours) | {"seconds with imports, nothing compiled": round(nothing_compiled.whole, 2)},
            "weightwatcher": {name: say(timings) for name, timings in theirs.items()},
            "times faster": {
                name: middle((other.work / own.work for own, other in zip(ours, timings, strict=False)), 1)
                for name, timings in theirs.items()
            },
            "times less CPU": {
                name: middle((other.cpu / own.cpu for own, other in zip(ours, timings, strict=False)), 1)
                for name, timings in theirs.items()
            },
        },
        "W_QK of all heads": {"heads": heads[0].matrices, "seconds": middle(each.work for each in heads)},
        "wanted": WANTED,
    }
    assert found["W_QK of all heads"]["heads"] == LAYERS * HEADS
    text = json.dumps(found, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
