"""Static spectra beside WeightWatcher, and the heads of a whole model: GPT-2 small's shapes, random weights.

    python tests/benchmarks/weights.py            (from the repository; needs the extra `test`; writes weights.json)

The same checkpoint, one process each, in turns: `task=weights metrics=full` with every metric, p-value and one draw of
chance, down to the tables (figures apart), and `weightwatcher.WeightWatcher(model).analyze()` on HF's model. Seconds
are those of the work itself: imports, reading HF's model and, by a second pass, what JAX traces and compiles apart; the
whole first pass with imports is beside them. A ratio is the median over rounds of the times of one round.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from jacspec.provenance import versions

ROUNDS = 3
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
ready = time.perf_counter()
table = weightwatcher.WeightWatcher(model=model).analyze()
print(len(table), time.perf_counter() - ready, time.perf_counter() - begin)
"""
OURS = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
from jacspec import load_model
from jacspec.backend import numerics, use_compilation_cache
from jacspec.runs.matrices import start_matrices
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.static import STATIC
from jacspec.tasks.weights import spectral_metrics
from jacspec.weights import Choice, Matrix, in_batches, measure_batch, stream_model
use_compilation_cache()
names = spectral_metrics(["full"])
with numerics("float32"):
    model = load_model(sys.argv[1])
    choice = Choice(exclude=["q", "k", "v"], embeddings=True)
    for place in ("first", "second"):
        begun = time.perf_counter()
        found = (each for each in stream_model(model, choice) if isinstance(each, Matrix))
        writer = start_matrices(Path(sys.argv[2]) / place, {}, columns=(*names, *STATIC))
        for batch in in_batches(enumerate(found), memory_bytes=2**28):
            writer.add_batch(measure_batch(batch, names, top_k=10, null="gaussian", seed=0))
        writer.write_tables()
        if place == "first":
            whole = time.perf_counter() - begin
print(len(writer.done), time.perf_counter() - begun, whole)
"""
OUR_HEADS = """
import sys, time
begin = time.perf_counter()
from jacspec import load_model
from jacspec.backend import numerics, use_compilation_cache
from jacspec.heads import head_products
use_compilation_cache()
with numerics("float32"):
    model = load_model(sys.argv[1])
    blocks = list(model.blocks())
    head_products(blocks[0])
    ready = time.perf_counter()
    count = sum(len(head_products(block)["qk"].sigma) for block in blocks)
print(count, time.perf_counter() - ready, time.perf_counter() - begin)
"""


def run(code: str, *arguments: str, cache: str) -> tuple[int, float, float]:
    """Run a script; return how many matrices it saw, its seconds of work, and those since it began to import."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    count, work, whole = done.stdout.split()[-3:]
    return int(count), float(work), float(whole)


def main() -> None:
    """Run everything and write the JSON beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, cache = f"{folder}/gpt2", f"{folder}/cache"
        subprocess.run([sys.executable, "-c", WRITE, checkpoint], check=True, capture_output=True)
        run(OURS, checkpoint, f"{folder}/first", cache=cache)
        rounds = [
            (run(OURS, checkpoint, f"{folder}/run{number}", cache=cache), run(WATCH, checkpoint, cache=cache))
            for number in range(ROUNDS)
        ]
        heads = [run(OUR_HEADS, checkpoint, cache=cache) for _ in range(ROUNDS)]
    found: dict[str, Any] = {
        "what": "all matrices of a GPT-2-small-shaped checkpoint with random weights, float32",
        "environment": {
            "platform": jax.default_backend(),
            "cores": os.cpu_count(),
            "versions": versions(),
        },
        "weights": {
            "matrices": {"jacspec": rounds[0][0][0], "weightwatcher": rounds[0][1][0]},
            "seconds of work": {
                name: round(statistics.median(each[place][1] for each in rounds), 2)
                for place, name in enumerate(("jacspec", "weightwatcher"))
            },
            "seconds with imports": {
                name: round(statistics.median(each[place][2] for each in rounds), 2)
                for place, name in enumerate(("jacspec", "weightwatcher"))
            },
            "times faster": round(statistics.median(theirs[1] / ours[1] for ours, theirs in rounds), 1),
        },
        "W_QK of all heads": {
            "heads": heads[0][0],
            "seconds": round(statistics.median(each[1] for each in heads), 2),
        },
        "wanted": WANTED,
    }
    assert found["W_QK of all heads"]["heads"] == LAYERS * HEADS
    text = json.dumps(found, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
