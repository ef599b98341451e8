"""jacspec's engines beside PyTorch: same weights, same samples, one process, pairs of timings.

    python tests/benchmarks/engines.py            (from the repository; needs the extra `test`; writes engines.json)

One GPT-2-small block with random weights, 32 tokens, float32, milliseconds a sample for attention and MLP together
with their spectra. Beside it (a) `torch.func.jacrev` on HF's modules over the whole sequence, one sample at a time,
and (b) the best PyTorch: a function of the last token alone, `vmap(jacfwd)`, batches of 8, `torch.linalg.svdvals`.
`lanczos` runs on weights whose singular values fall as i^(-1/2), from the largest of the random ones, in both.
A ratio is the median over rounds of the times of one round. Last, the top two values of one Llama-3.1-8B block (d_model
4096, d_ff 14336, random weights, flat spectra: the slow case), one sample, compilation apart.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch_block import last_token_jacobians

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracles import deviation, save_random

from jacspec import load_model
from jacspec.backend import numerics
from jacspec.config import EngineConfig
from jacspec.jacobians.branches import bind_samples
from jacspec.jacobians.engine import batch_size
from jacspec.jacobians.solvers import ENGINES
from jacspec.spectra.svd import singular_values
from jacspec.studies.provenance import versions

torch.set_num_threads(os.cpu_count() or 1)  # the tests' oracles, imported above, take one
SAMPLES, TOKENS, D_MODEL, HEADS, ROUNDS = 32, 32, 768, 12, 3
CHUNK = 8
CONFIG = {"vocab_size": 64, "n_positions": 64, "n_embd": D_MODEL, "n_head": HEADS, "n_layer": 1}
WANTED = {"full spectrum (a)": 12, "full spectrum (b)": 2, "top two (a)": 250, "top two (b)": 30, "SVD kernel": 1}


def decaying(weight: torch.Tensor) -> torch.Tensor:
    """Give a matrix singular values that fall as i^(-1/2) from its largest."""
    left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
    return (left * sigma[0] * torch.arange(1, len(sigma) + 1) ** -0.5) @ right


def sequence_jacobians(block: Any, h: torch.Tensor) -> list[torch.Tensor]:
    """(a): attention differentiated over the sample, the MLP at the last token."""

    def attended(h: torch.Tensor) -> torch.Tensor:
        return block.attn(block.ln_1(h)[None])[0][0]

    after = (h + attended(h))[-1]
    attention = torch.func.jacrev(lambda h: attended(h)[-1])(h)[:, -1]
    return [attention, torch.func.jacrev(lambda x: block.mlp(block.ln_2(x)))(after)]


def in_chunks(block: Any, h: torch.Tensor) -> list[np.ndarray]:
    """Run (b) on as many samples at a time as are fastest, and take the spectra."""
    parts = [with_spectra(last_token_jacobians, block, part) for part in h.split(CHUNK)]
    return [np.concatenate(list(map(np.asarray, spectra))) for spectra in zip(*parts, strict=True)]


def with_spectra(jacobians: Callable[[Any, torch.Tensor], list[torch.Tensor]], block: Any, h: torch.Tensor) -> Any:
    """Compute PyTorch's Jacobians and their singular values."""
    with torch.no_grad():
        return [torch.linalg.svdvals(matrix) for matrix in jacobians(block, h)]


def seconds(work: Callable[[], Any]) -> float:
    """Time one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(engine: str, decay: bool) -> dict[str, Any]:
    """Time one engine beside both ways of PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        hf = save_random(Path(folder), "gpt2", spread=0.02, **CONFIG).float().eval()
        block = hf.transformer.h[0]
        if decay:
            with torch.no_grad():
                for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
                    module.weight.copy_(decaying(module.weight))
            hf.save_pretrained(folder)
        model = load_model(folder)
        ours = model.block(0)
    h = torch.randn(SAMPLES, TOKENS, D_MODEL, generator=torch.Generator().manual_seed(0))

    size = batch_size(ours.spec, tokens=TOKENS, itemsize=4, memory_bytes=EngineConfig.memory_gib * 2**30, engine=engine)

    def run() -> list[np.ndarray]:
        """As `engine.stream_layers` does, in batches of the size that the memory budget gives."""
        solve, found = ENGINES[engine].solve, []
        for samples in np.array_split(np.arange(SAMPLES), -(-SAMPLES // size)):
            branches = bind_samples(ours, jnp.asarray(h.numpy()[samples]), jnp.full(len(samples), TOKENS))
            spectra = [solve(branches[name], samples, 1e-5, 0) for name in ("attn", "mlp")]
            found.append([np.asarray(each.singular_values) for each in spectra])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    reference = in_chunks(block, h)
    worst = max(
        deviation(mine, np.asarray(theirs)[:, : mine.shape[1]]) for mine, theirs in zip(run(), reference, strict=True)
    )
    first = with_spectra(sequence_jacobians, block, h[0])
    worst_a = max(deviation(one, theirs[0]) for one, theirs in zip(first, reference, strict=True))
    times = [
        (
            seconds(run) / SAMPLES,
            seconds(lambda: with_spectra(sequence_jacobians, block, h[0])),
            seconds(lambda: in_chunks(block, h)) / SAMPLES,
        )
        for _ in range(ROUNDS)
    ]
    ms = [round(1e3 * statistics.median(column), 2) for column in zip(*times, strict=True)]
    return {
        "engine": engine,
        "samples a batch": size,
        "milliseconds a sample and layer": dict(zip(("jacspec", "(a)", "(b)"), ms, strict=True)),
        "times faster than (a)": round(statistics.median(a / mine for mine, a, _ in times), 1),
        "times faster than (b)": round(statistics.median(b / mine for mine, _, b in times), 1),
        "largest relative deviation from (b)": float(worst),
        "largest relative deviation of (a) from (b)": float(worst_a),
    }


def compare_svd() -> dict[str, Any]:
    """Time the SVD kernel beside NumPy on the same batch."""
    matrices = np.random.default_rng(0).normal(size=(CHUNK, D_MODEL, D_MODEL)).astype(np.float32)
    ours = jnp.asarray(matrices)
    singular_values(ours)
    times = [
        (seconds(lambda: singular_values(ours)), seconds(lambda: np.linalg.svd(matrices, compute_uv=False)))
        for _ in range(ROUNDS)
    ]
    ms = [round(1e3 * statistics.median(column) / CHUNK, 2) for column in zip(*times, strict=True)]
    return {
        "milliseconds a matrix": dict(zip(("jacspec", "numpy.linalg.svd"), ms, strict=True)),
        "times faster": round(statistics.median(theirs / mine for mine, theirs in times), 1),
    }


def time_large_block() -> dict[str, Any]:
    """Time `lanczos` on a block of 218 million parameters."""
    block = load_model("llama-3.1-8b", init="random").block(0)
    d_model = block.spec.d_model
    h = jax.random.normal(jax.random.key(0), (1, TOKENS, d_model))
    found: dict[str, Any] = {"d_model": d_model, "d_ff": block.spec.mlp.d_ff}
    branches = bind_samples(block, h, jnp.asarray([TOKENS]))
    for name in ("attn", "mlp"):

        def run(name: str = name) -> Any:
            return ENGINES["lanczos"].solve(branches[name], np.arange(1), 1e-5, 0)

        run()
        begin = time.perf_counter()
        said = run().diagnostics
        found[name] = {
            "seconds": round(time.perf_counter() - begin, 2),
            "steps": int(said["steps"][0]),
            "converged": bool(said["converged"][0]),
        }
    return found


def main() -> None:
    """Run all comparisons and write the JSON beside this file."""
    with numerics("float32"):
        found = {
            "what": "one GPT-2-small block, random weights, attention and MLP with their spectra, float32",
            "shapes": {"samples": SAMPLES, "tokens": TOKENS, "d_model": D_MODEL, "d_ff": 4 * D_MODEL},
            "environment": {
                "platform": jax.default_backend(),
                "device": jax.devices()[0].device_kind,
                "machine": platform.machine(),
                "cores": os.cpu_count(),
                "torch threads": torch.get_num_threads(),
                "versions": versions() | {"torch": torch.__version__},
            },
            "full spectrum": compare("analytic", decay=False),
            "top two to 1e-5, decaying weights": compare("lanczos", decay=True),
            "SVD kernel": compare_svd(),
            "top two of a Llama-3.1-8B block": time_large_block(),
            "wanted at least": WANTED,
        }
    text = json.dumps(found, indent=2) + "\n"
    Path(__file__).with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
