"""Batches spread over several devices: the numbers of one device, and no program that makes a device wait for another.

Two CPU devices stand for accelerators, in a process of its own, since JAX counts its devices when it starts.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from servers import TINY, environment, run_here, statuses

TOKENS = [np.random.default_rng(length).integers(0, 300, length).tolist() for length in (5, 9, 12, 7, 30)]
COMPONENTS, LAYERS = ("attn", "mlp"), 2


def compute_here(devices: str, tokens: list[list[int]]) -> np.ndarray:
    """Compute the top two values (layer, component, sample) and say, on the way, how the batches lie."""
    from jacspec.api import load_model
    from jacspec.backend import numerics
    from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers

    model = load_model("nano")
    with numerics("float32"):
        batches = prepare_batches(model, tokens, memory_gib=1.0, engine="lanczos", devices=devices)
        results = stream_layers(model, batches, Plan(COMPONENTS, ("spectral_radius", "decay_ratio"), "lanczos"))
        found = [next(results) for _ in range(LAYERS)]
    return np.array([[result.singular_values[name] for name in COMPONENTS] for result in found])


def collectives() -> dict[str, Any]:
    """Name the operations between devices in the programs that a spread batch compiles, and where results lie."""
    import jax

    from jacspec.api import load_model
    from jacspec.backend import numerics
    from jacspec.jacobians import analytic, dense
    from jacspec.jacobians.devices import mesh_of, replicate, shard_like
    from jacspec.jacobians.engine import prepare_batches
    from jacspec.jacobians.lanczos import _start, start_vectors
    from jacspec.jacobians.streaming import _enter, _pass_through, _step, pass_through
    from jacspec.spectra.svd import Way, _values

    found: dict[str, Any] = {}

    def look(name: str, function: Any, *arguments: Any, **static: Any) -> Any:
        program = function.lower(*arguments, **static).compile()
        between = re.findall(r"(all-gather|all-reduce|all-to-all|collective-permute)\(", program.as_text())
        places = {str(leaf.spec) for leaf in jax.tree.leaves(program.output_shardings) if leaf.num_devices > 1}
        found[name] = [between, sorted(places)]

    model = load_model("nano")
    with numerics("float32"):
        (padded, *_) = prepare_batches(model, TOKENS, memory_gib=1.0, engine="lanczos", devices="2")
        (stream,) = _enter(model, [padded.batch], None)
        block = replicate(model.block(0), stream.hidden)
        look("step", _step, block, *stream)
        look("pass", _pass_through, block, *stream, np.asarray(True), components=("attn", "mlp"))
        branch = pass_through(block, stream, ["mlp"], last=True)[0]["mlp"]
        look("jacfwd", dense.jacobians, branch)
        look("analytic", analytic.jacobians, branch)
        jacobians = analytic.jacobians(branch)
        for way in (Way.gram, Way.qr):
            with jax.enable_x64(True):
                look(f"svd by {way.value}", _values, jacobians, way, len(jacobians))
        starts = shard_like(start_vectors(padded.row_samples, 96, jacobians.dtype, seed=0), branch.point.x)
        static = {"top": 2, "capacity": 64, "mesh": mesh_of(starts)}
        look("lanczos", _start, branch, starts, np.asarray(1e-5, np.float32), **static)
    return found


@pytest.mark.thorough
def test_two_devices_give_the_numbers_of_one() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, timeout=300, check=False, env=_two(flags)
    )
    assert done.returncode == 0, done.stderr[-2000:]
    spread, programs = json.loads(done.stdout.splitlines()[-1])
    one = compute_here("1", TOKENS)
    np.testing.assert_allclose(np.array(spread), one, rtol=0, atol=1e-6 * one.max())
    assert np.abs(np.array(spread) - compute_here("1", TOKENS[::-1])).max() > 1e-3
    assert set(programs) == {"step", "pass", "jacfwd", "analytic", "svd by gram", "svd by qr", "lanczos"}
    assert all(found == [[], ["P('sample',)"]] for found in programs.values()), programs


def _two(flags: str) -> dict[str, str]:
    here = Path(__file__).resolve().parent
    return environment(XLA_FLAGS=flags, PYTHONPATH=os.pathsep.join([str(here.parent), str(here)]))


@pytest.mark.parametrize(
    ("given", "fragments"),
    [
        ("engine.devices=2", ["engine.devices=2", "from 1 to 1", "engine.devices=auto"]),
        ("engine.devices=all", ["engine.devices=all"]),
        ("engine.devices=0", ["engine.devices=0"]),
        ("engine.batch=0", ["engine.batch=0", "1 or more"]),
    ],
)
def test_devices_that_are_not_there_are_refused(given: str, fragments: list[str], tmp_path: Path) -> None:
    done = run_here(*TINY, given, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: ")
    for fragment in fragments:
        assert fragment in done.err
    assert statuses(tmp_path) == []


def test_equal_devices_make_equal_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacspec.jacobians.engine import memory_budget

    def budget(in_use: int) -> float:
        device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 80 * 10**9, "bytes_in_use": in_use})
        monkeypatch.setattr("jax.local_devices", lambda: [device])
        return memory_budget(1.0)

    assert budget(10**8) == budget(2 * 10**8) == 37 * 2**30
    assert budget(40 * 10**9) == 18 * 2**30


if __name__ == "__main__":
    print(json.dumps([compute_here("2", TOKENS).tolist(), collectives()]))
