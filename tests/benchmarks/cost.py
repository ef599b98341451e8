"""What `task=plan` takes as measured, and what its arithmetic says of runs that were timed: writes `cost.json`.

    python tests/benchmarks/cost.py            (from the repository; a minute)

Figures of this machine are the best of many short tries in seconds of processor time, since others may be using it:
products of float32 matrices on all cores, memory, and of one process hashing a file, reading, checking and casting a
float16 block of 61 M parameters (d_model 2048, d_ff 8192), and the host judging the bounds of a sample. An engine's
share is the speed of one GPT-2 block's spectra, 32 samples, beside that of the products. From the time that `lanczos`
took in `engines.json`, and nothing else of that machine, the run of `paper.json` is predicted.
"""

import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
from streaming import SIZES, write_checkpoint  # noqa: E402

from jacspec.api import load_model  # noqa: E402
from jacspec.backend import numerics  # noqa: E402
from jacspec.files import sha256  # noqa: E402
from jacspec.jacobians.bounds import _top_of_bidiagonal  # noqa: E402
from jacspec.jacobians.branches import bind_samples  # noqa: E402
from jacspec.jacobians.lanczos import TOP, decompose, start_vectors  # noqa: E402
from jacspec.jacobians.solvers import ENGINES, EXPECTED_STEPS  # noqa: E402
from jacspec.models.checkpoint import open_checkpoint  # noqa: E402
from jacspec.studies.plan.cost import COMPONENTS, Machine, Workload, count_parameters, estimate_seconds  # noqa: E402
from jacspec.studies.provenance import versions  # noqa: E402

GIGA, TRIES, SAMPLES = 1e9, 30, 32


def best(work: Callable[[], Any], tries: int = TRIES) -> float:
    """Return the shortest time that something took, in seconds of processor time."""
    times = []
    for _ in range(tries):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)


def measure_machine() -> dict[str, float]:
    """Measure the machine itself: products and memory."""
    a, b = (jnp.ones(shape, jnp.float32) for shape in ((768, 3072), (3072, 768)))
    multiply = jax.jit(jnp.matmul)
    source = np.ones(2**24, np.float32)
    target = np.empty_like(source)
    seconds = best(lambda: multiply(a, b).block_until_ready(), 3 * TRIES)
    return {
        "float32 products, GFLOP a second of one core": 2 * a.size * 768 / seconds / GIGA,
        "memory, GB/s": 2 * source.nbytes / best(lambda: np.copyto(target, source)) / GIGA,
    }


def measure_process() -> dict[str, float]:
    """Measure what one process does on its host."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        write_checkpoint(folder, {**SIZES, "num_hidden_layers": 2, "vocab_size": 64})
        shard = folder / "model-00000.safetensors"
        checkpoint = open_checkpoint(folder)
        stored = shard.stat().st_size
        load = best(lambda: jax.block_until_ready(checkpoint.block(0)))
        hashed = best(lambda: _hash_anew(shard))
    rng = np.random.default_rng(0)
    diagonal, above = rng.lognormal(size=(32, EXPECTED_STEPS)), rng.lognormal(size=(32, EXPECTED_STEPS - 1))
    top = functools.partial(_top_of_bidiagonal, top=TOP)
    return {
        "hash, GB/s": stored / hashed / GIGA,
        "load, GB/s of float16": stored / load / GIGA,
        "look, µs a sample": best(lambda: list(map(top, diagonal, above))) / 32 * 1e6,
    }


def _hash_anew(file: Path) -> None:
    file.touch()  # one that has not changed is not read again
    sha256(file)


def measure_efficiency(products: float) -> dict[str, float]:
    """Say which share of the products' speed the engines reach, what Lanczos does on the host left out."""
    model = load_model("gpt2", init="random")
    block = model.block(0)
    h = jax.random.normal(jax.random.key(0), (SAMPLES, 32, 768))
    branches = bind_samples(block, h, jnp.full(SAMPLES, 32))
    starts = start_vectors(np.arange(SAMPLES), 768, jnp.dtype("float32"), seed=0)

    steps: list[int] = []

    def lanczos() -> None:
        for name in ("attn", "mlp"):
            found, _ = decompose(branches[name], starts, k=TOP, tolerance=1e-5)
            steps.append(int(found.steps.max()))

    def analytic() -> None:
        for name in ("attn", "mlp"):
            ENGINES["analytic"].solve(branches[name], np.arange(SAMPLES), 1e-5, 0)

    seconds: dict[str, float] = {"lanczos": best(lanczos, 5), "analytic": best(analytic, 5)}
    # Random weights take more steps than trained ones.
    taken: dict[str, float] = {"lanczos": float(np.mean(steps)) / EXPECTED_STEPS, "analytic": 1.0}
    return {
        name: SAMPLES * taken[name] * ENGINES[name].flops(block.spec) / seconds[name] / GIGA / products
        for name in seconds
    }


def predict_paper(look: float) -> dict[str, float]:
    """Predict the seconds of spectra of the paper's run, beside what `paper.json` recorded."""
    model = load_model("gpt2", init="random")
    recorded = json.loads((HERE.parent / "engines.json").read_text())["top two to 1e-5, decaying weights"]
    looking = COMPONENTS * look
    seconds = recorded["milliseconds a sample and layer"]["jacspec"] / 1e3 - looking
    reached = Machine(
        flops=ENGINES["lanczos"].flops(model.spec.blocks[0]) / seconds,
        bandwidth=np.inf,
        efficiency=1.0,
        svd=0.0,  # Lanczos has none
        link=np.inf,  # a CPU's memory is the host's
        disk=np.inf,
        hashing=np.inf,
        loading=np.inf,
        look=look,
    )
    work = Workload(600, 50.0, 32, "lanczos")
    stages = estimate_seconds(model.spec, count_parameters(model), work, reached, devices=1, stored_bytes=4)
    paper = json.loads((HERE.parent / "paper.json").read_text())["decaying weights"]["seconds a stage"]
    return {"predicted seconds of spectra": sum(stages.values()), "recorded in paper.json": paper["spectra"]}


def main() -> None:
    """Measure everything and write the figures beside this file."""
    with numerics("float32"):
        machine, process = measure_machine(), measure_process()
        efficiency = measure_efficiency(machine["float32 products, GFLOP a second of one core"])
        found = {
            "what": "figures that task=plan takes as measured, each the best of many tries, in processor time",
            "environment": {"cores": os.cpu_count(), "platform": jax.default_backend(), "versions": versions()},
            "machine": _rounded(machine),
            "process": _rounded(process),
            "share of the products' speed that engines reach": _rounded(efficiency),
            "the paper's run": _rounded(predict_paper(process["look, µs a sample"] / 1e6)),
        }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    HERE.with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


def _rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in found.items()}


if __name__ == "__main__":
    main()
