"""How much memory a run needs, by depth, under a limit: writes `streaming.json`.

    python tests/benchmarks/streaming.py

Llama-shaped checkpoints of 4 and 32 layers of random weights, the deep one larger than the limit, are written to a
temporary folder (5 GB) and run layer by layer, each in a process of its own. The limit (RLIMIT_DATA) is one on all
writable private memory. Peaks are those of resident memory as the kernel keeps them (VmHWM), file pages included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).resolve()
GIB = 2**30
SIZES = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
DEPTHS, TOKENS, SAMPLES, VOCAB = (4, 32), 32, 1, 32000
LIMIT = 2 * GIB


def main() -> None:
    """Run everything and write the figures beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(Path(arguments.child))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        found = {}
        for layers in DEPTHS:
            folder = Path(scratch) / f"{layers}-layers"
            write_checkpoint(folder, {**SIZES, "num_hidden_layers": layers, "vocab_size": VOCAB})
            found[layers] = child(folder)
    shallow, deep = (found[layers] for layers in DEPTHS)
    unit = deep["block_bytes"] + deep["hidden_bytes"]
    result = {
        "what": "streaming a Llama-shaped float16 checkpoint, attn and mlp in full by jacfwd in float32",
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0]},
        "limit_bytes": LIMIT,
        "by_layers": found,
        "difference_bytes": deep["peak_bytes"] - shallow["peak_bytes"],
        "block_and_hidden_bytes": unit,
        "difference_over_block_and_hidden": (deep["peak_bytes"] - shallow["peak_bytes"]) / unit,
        "wanted": "below 0.1",
    }
    HERE.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def write_checkpoint(folder: Path, sizes: dict[str, Any]) -> None:
    """Write a sharded float16 checkpoint of random weights, a shard a layer."""
    folder.mkdir()
    config = {"model_type": "llama", "rms_norm_eps": 1e-5, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    d_model, d_ff = sizes["hidden_size"], sizes["intermediate_size"]
    kv = d_model * sizes["num_key_value_heads"] // sizes["num_attention_heads"]
    shapes = {
        "self_attn.q_proj": (d_model, d_model),
        "self_attn.k_proj": (kv, d_model),
        "self_attn.v_proj": (kv, d_model),
        "self_attn.o_proj": (d_model, d_model),
        "mlp.gate_proj": (d_ff, d_model),
        "mlp.up_proj": (d_ff, d_model),
        "mlp.down_proj": (d_model, d_ff),
    }
    rng = np.random.default_rng(0)
    where: dict[str, str] = {}

    def write(file: str, tensors: dict[str, np.ndarray]) -> None:
        save_file(tensors, folder / file)
        where.update(dict.fromkeys(tensors, file))

    def weight(*shape: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(shape, np.float32)).astype(np.float16)

    ones = np.ones(d_model, np.float16)
    for layer in range(sizes["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        tensors = {f"{prefix}{name}.weight": weight(*shape) for name, shape in shapes.items()}
        tensors |= {f"{prefix}{name}.weight": ones for name in ("input_layernorm", "post_attention_layernorm")}
        write(f"model-{layer:05d}.safetensors", tensors)
    tables = {name: weight(sizes["vocab_size"], d_model) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    write("model-tables.safetensors", {**tables, "model.norm.weight": ones})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def child(folder: Path) -> dict[str, Any]:
    """Measure one checkpoint in a process of its own."""
    # One arena: glibc keeps one a thread, and what stays in their gaps is another amount in every run.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, str(HERE), "--child", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{folder.name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(folder: Path) -> dict[str, Any]:
    """Stream a checkpoint and say what it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    import jax

    from jacspec.backend import numerics
    from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
    from jacspec.models.checkpoint import open_checkpoint

    started = time.perf_counter()
    with numerics("float32"):
        checkpoint = open_checkpoint(folder)
        tokens = np.random.default_rng(1).integers(0, checkpoint.spec.vocab, (SAMPLES, TOKENS)).tolist()
        batches = prepare_batches(checkpoint, tokens, memory_gib=0.5)
        plan = Plan(("attn", "mlp"), ("spectral_radius", "decay_ratio"))
        layers = len(list(stream_layers(checkpoint, batches, plan)))
        block = sum(leaf.nbytes for leaf in jax.tree.leaves(checkpoint.block(0)))
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    hidden = sum(padded.batch.tokens.size for padded in batches) * checkpoint.spec.d_model * 4
    return {
        "layers": layers,
        "checkpoint_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        "samples": SAMPLES,
        "tokens": TOKENS,
        "peak_bytes": int(peak.split()[1]) * 1024,
        "block_bytes": block,
        "hidden_bytes": hidden,
        "seconds": round(time.perf_counter() - started, 1),
    }


if __name__ == "__main__":
    main()
