"""The arithmetic of `task=plan` against XLA's own count of FLOPs, published sizes, sums by hand, recorded runs."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from servers import files_below, run_here, statuses
from test_ready_made import PARAMETERS

from jacspec.api import load_model
from jacspec.config import Init, ModelConfig, config_folder
from jacspec.jacobians import dense
from jacspec.jacobians.branches import bind_samples
from jacspec.jacobians.solvers import ENGINES, pass_flops, svd_flops
from jacspec.jacobians.streaming import _step
from jacspec.models.checkpoint import Checkpoint
from jacspec.models.hub import open_model
from jacspec.studies.plan import PlanOptions
from jacspec.studies.plan.cost import (
    Machine,
    Workload,
    carry_flops,
    count_parameters,
    device_bytes,
    estimate_seconds,
    share_batches,
    spectra_bytes,
)
from jacspec.studies.plan.run import FIGURES
from jacspec.text.corpus import make_batches

BENCHMARKS = Path(__file__).parent / "benchmarks"
MACHINE = Machine(
    flops=60e12,
    bandwidth=3e12,
    efficiency=0.5,
    svd=2e-3,
    link=50e9,
    disk=3e9,
    hashing=2e9,
    loading=0.5e9,
    look=50e-6,
)


def model_of(name: str) -> Checkpoint:
    return load_model(name, init="random")


@pytest.mark.parametrize("name", ["gpt2", "llama-3.1-70b", "t5-small", "opt-350m"])
def test_parameters_are_the_published_ones(name: str) -> None:
    assert count_parameters(model_of(name)).whole == PARAMETERS[name]


SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 1, "n_embd": 256, "n_head": 4},
    "llama-3.2-1b": {
        "num_hidden_layers": 1,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
}


@pytest.mark.parametrize("name", SHAPES)
def test_flops_are_those_that_xla_counts(name: str) -> None:
    """Element by element operations are XLA's alone, a few per cent at this width."""
    config = OmegaConf.to_container(OmegaConf.load(config_folder() / "model" / f"{name}.yaml"))
    assert isinstance(config, dict)
    model = open_model(ModelConfig(name=name, init=Init.random, config={**config["config"], **SHAPES[name]}))
    block, samples, tokens = model.block(0), 2, 16
    h, lengths = jnp.ones((samples, tokens, 256)), jnp.full(samples, tokens)

    def counted(function: Any, *arguments: Any, **static: Any) -> float:
        return function.lower(*arguments, **static).compile().cost_analysis()["flops"]

    (padded,) = make_batches([[0] * tokens] * samples, size=samples)
    carry = counted(_step, block, h.reshape(1, -1, 256), padded.batch, None)
    carry += counted(jax.jit(bind_samples), block, h, lengths)
    # The last token goes through attention once more to find where the MLP is differentiated.
    expected = samples * carry_flops(block.spec, float(tokens))
    assert expected == pytest.approx(carry, rel=0.15)
    assert pass_flops(block.spec) * samples * tokens * 0.8 < expected, "products with weights are most of it"
    branches = bind_samples(block, h, lengths)
    found = sum(counted(dense.jacobians, branches[part]) for part in ("attn", "mlp"))
    products = ENGINES["jacfwd"].flops(block.spec) - svd_flops(block.spec)
    assert samples * products == pytest.approx(found, rel=0.25)
    assert samples * products != pytest.approx(2 * found, rel=0.25)


def test_seconds_of_a_large_model_by_hand() -> None:
    model = model_of("llama-3.1-70b")
    sizes, work = count_parameters(model), Workload(600, 50.0, 32, "lanczos")
    block = 2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 28672
    found = estimate_seconds(model.spec, sizes, work, MACHINE, devices=1, stored_bytes=2)
    assert found["hash"] == pytest.approx(2 * 70.553706496e9 / 2e9)
    assert found["read"] == pytest.approx(2 * 80 * (block + 2 * 8192) / 0.5e9)
    assert found["copy"] == pytest.approx(4 * 80 * (block + 2 * 8192) / 50e9)
    # 19 batches of 32; keys, values, scores and mixing beside the weights.
    flops = 19 * 32 * 50 * 79 * (2 * block + 4 * 8192 * 50 + 4 * 1024 * 8192)
    assert found["carry"] == pytest.approx(flops / 60e12 / 0.5, rel=1e-6)
    moved = 19 * 80 * 24 * 4 * (2 * (block + 2 * 8192) + 8 * 32 * 24 * 8192)
    assert moved / 3e12 > 19 * 80 * 32 * 24 * 4 * block / 60e12, "at 32 samples weights take longer than products"
    assert found["spectra"] == pytest.approx(moved / 3e12 / 0.5, rel=1e-6)
    assert found["look"] == pytest.approx(19 * 32 * 80 * 2 * 50e-6)
    assert found["svd"] == 0
    assert device_bytes(model.spec, sizes, work, devices=1) > 4 * block + 8 * 600 * 50 * 8192


def test_what_more_devices_change() -> None:
    model = model_of("gpt2")
    sizes = count_parameters(model)
    one, eight = (
        estimate_seconds(model.spec, sizes, Workload(512, 50.0, 8, "jacfwd"), MACHINE, devices=devices, stored_bytes=4)
        for devices in (1, 8)
    )
    for stage in ("hash", "read", "copy"):
        assert one[stage] == eight[stage], "every process goes through all weights"
    for stage in ("carry", "spectra", "svd", "look"):
        assert one[stage] == pytest.approx(8 * eight[stage])
    assert one["look"] == 0
    assert one["svd"] == pytest.approx(512 * 12 * 2 * 2e-3), "GPT-2 small has the width that was timed"


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 256))
def test_batches_are_shared_out(samples: int, batch: int, devices: int) -> None:
    work, each = share_batches(Workload(samples, 50.0, batch, "lanczos"), devices)
    assert 1 <= work.batch <= batch
    assert each * devices * work.batch >= samples, "no sample is left over"
    assert (each - 1) * devices * work.batch < samples, "no device has a batch too many"


def test_engines_that_form_jacobians_move_their_work_arrays() -> None:
    (block,) = set(model_of("gpt2").spec.blocks)
    work = Workload(600, 50.0, 4, "analytic")
    small, large = (spectra_bytes(block, 7_000_000, work._replace(batch=batch)) for batch in (4, 8))
    assert large - small == pytest.approx(small - 4 * 7_000_000)


# What was measured


def test_plan_takes_what_was_measured() -> None:
    recorded = json.loads((BENCHMARKS / "cost.json").read_text())["process"]
    plan = OmegaConf.load(config_folder() / "task" / "plan.yaml").plan
    assert plan.hash_gbs == recorded["hash, GB/s"]
    assert plan.load_gbs == recorded["load, GB/s of float16"]
    assert plan.look_us == recorded["look, µs a sample"]
    gpu = json.loads((BENCHMARKS / "gpu_kernels.json").read_text())
    assert gpu["environment"]["device"] in plan.device
    assert plan.teraflops == gpu["float32 products at precision highest, TFLOP/s"]
    assert plan.svd_ms == gpu["ways"]["Gram matrix in float64, eigvalsh"]["ms"][0]


def test_paper_run_takes_what_its_engine_was_measured_to_take() -> None:
    found = json.loads((BENCHMARKS / "cost.json").read_text())["the paper's run"]
    predicted, recorded = found["predicted seconds of spectra"], found["recorded in paper.json"]
    assert predicted == pytest.approx(recorded, rel=0.25)
    paper = json.loads((BENCHMARKS / "paper.json").read_text())["decaying weights"]
    assert recorded == pytest.approx(paper["seconds a stage"]["spectra"], rel=0.01)


# The command


def test_plan_is_printed_and_written_down(tmp_path: Path) -> None:
    done = run_here("task=plan", "model=llama-3.1-70b", "data.samples=600", "plan.memory_gb=5", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "70.55 G parameters, 80 blocks of 856 M; 600 samples of 50 tokens" in done.out
    assert "engine=lanczos" in done.out
    rows = {line[:16].strip(): line[16:].split() for line in done.out.splitlines()}
    assert rows["devices"] == ["1", "8", "64"]
    assert rows["samples a batch"] == ["86", "75", "10"]
    assert "(too much)" in done.out
    (file,) = tmp_path.rglob("plan.json")
    plan = json.loads(file.read_text())
    assert [row["devices"] for row in plan["devices"]] == [1, 8, 64]
    assert plan["parameters"] == pytest.approx(70.55e9, rel=1e-4)
    assert files_below(file.parent) == {"plan.json", "run.json"}
    assert statuses(tmp_path) == ["finished"]


def test_small_model_is_planned_in_units_that_fit(tmp_path: Path) -> None:
    """What the table says is what the file says, in milliseconds and megabytes."""
    done = run_here("task=plan", "plan.devices=1", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = {line[:16].strip(): line[16:].strip() for line in done.out.splitlines()}
    (row,) = json.loads((tmp_path / "out" / "plan.json").read_text())["devices"]
    assert rows["read weights"] == f"{row['read_low'] * 1e3:.2g} ms"
    assert rows["MB of a device"] == f"{row['device_gb'] * 1e3:.3g}"
    assert "nano: 781.8 k parameters" in done.out
    assert "1.564 MB of checkpoint, 447 kB a block" in done.out


def test_plan_keeps_measurements_and_assumptions_apart(tmp_path: Path) -> None:
    done = run_here("task=plan", "plan.device=one of mine", "plan.teraflops=19.5", "plan.link_gbs=64", cwd=tmp_path)
    said = dict(line.strip().split(": ", 1) for line in done.out.splitlines() if ": " in line)
    assert said["Each device"] == "one of mine"
    assert said["given"] == "19.5 TFLOP/s in float32 products"
    assert said["measured"].startswith("1.9 ms for the singular values")
    assert "64 GB/s from the host" in said["data sheet"]
    assert said["assumed"].endswith("0.1 to 0.5 of the products' speed and of the bandwidth reached")


def test_every_figure_has_an_origin() -> None:
    shape = {"devices", "tokens", "stored_bytes", "device"}
    assert {field.name for field in dataclasses.fields(PlanOptions)} == shape | FIGURES.keys()


@pytest.mark.parametrize(
    ("given_", "fragment"),
    [
        ("plan.tokens=0", "plan.tokens=0"),
        ("plan.devices=[]", "plan.devices=[]"),
        ("plan.efficiency=[0.5]", "[0.1,0.5]"),
        ("plan.efficiency=[0.5,2]", "[0.1,0.5]"),
        ("metrics.names=[decay]", "decay"),
    ],
)
def test_plan_of_nothing_is_refused(given_: str, fragment: str, tmp_path: Path) -> None:
    done = run_here("task=plan", given_, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: ")
    assert fragment in done.err


def test_own_folder_is_planned_for(tmp_path: Path) -> None:
    done = run_here("task=plan", "metrics=full", "plan.devices=[2]", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "6 blocks of" in done.out
    assert math.isclose(float(done.out.split()[1]), 780, rel_tol=0.05)  # thousands
