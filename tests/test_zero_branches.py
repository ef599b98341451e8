"""Zero blocks and zero branches: every engine and task beside HF, what is missing with its reason, what still stops."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import torch
from families import FAMILIES, config_of, layout_of
from oracles import branch_jacobian, save_random, watch
from rich.console import Console
from safetensors.numpy import load_file, save_file
from servers import TINY, run_here
from small_runs import make_small_model

from jacspec import JacspecError, load_model, open_run
from jacspec.axes import LayerResult
from jacspec.backend import numerics
from jacspec.jacobians import dense
from jacspec.jacobians.audit import audit_pair, audit_top, rounding
from jacspec.jacobians.branches import bind_samples
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
from jacspec.jacobians.solvers import ENGINES
from jacspec.jacobians.undefined import ZERO_JACOBIAN
from jacspec.models.checkpoint import open_checkpoint
from jacspec.runs.layers import collect_layers, read_shards, write_layer
from jacspec.spectra.metrics import METRICS
from jacspec.spectra.subspaces import factorise
from jacspec.studies.coupling.measure import CouplingPlan, coupling_columns, stream_coupling
from jacspec.studies.coupling.tables import READS, WRITES
from jacspec.studies.depth.products import DepthPlan, stream_depth
from jacspec.studies.over_samples import _accuracy, _say_accuracy
from jacspec.studies.removal.groups import count_removed

TOKENS = ([3, 4, 5, 6, 7, 8, 9], [5, 4, 3])
ATTN, MLP = {"attn"}, {"mlp"}
LAYERS: tuple[tuple[str, set[str]], ...] = (
    ("self_attn.o_proj.weight", ATTN),
    ("self_attn.v_proj.weight", ATTN),  # nothing to read, though it still looks
    ("mlp.down_proj.weight", MLP),
    ("mlp.gate_proj.weight", MLP),
    ("input_layernorm.weight", ATTN),
    ("self_attn.q_proj.weight", set()),  # attends evenly: what it reads is not zero
    ("rank one", set()),
)
"""What is zero in each layer of one model, and which of its Jacobians are."""

NAMES = ("spectral_radius", "decay_ratio")
VALUED = {"spectral_radius", "frobenius_norm", "numerical_rank", "eigenvalue_radius", "residual_gain"}
VALUED |= {"spectral_abscissa", "numerical_abscissa", "share_amplified", "share_preserved"}
"""Metrics that a zero matrix has, all of them 0."""


@pytest.fixture(scope="module")
def zeroed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[tuple[str, int], np.ndarray]]]:
    """A Llama whose layers are zero in turn, and by sample HF's Jacobian of every (component, layer)."""
    folder = tmp_path_factory.mktemp("zeroed")
    config = config_of("llama", "grouped heads, untied") | {"num_hidden_layers": len(LAYERS)}
    model = save_random(folder, "llama", **config)
    with torch.no_grad():
        for layer, (name, _) in zip(model.model.layers, LAYERS, strict=True):
            if name == "rank one":
                down = layer.mlp.down_proj.weight
                down.copy_(torch.outer(down[:, 0], down[0]))
            else:
                layer.get_parameter(name).zero_()
    model.save_pretrained(folder)
    seen = [watch(model, layout_of("llama", config), np.array(ids)) for ids in TOKENS]
    exact = [
        {
            (name, number): branch_jacobian(one.calls["", name, number])
            for name in ("attn", "mlp")
            for number in range(len(LAYERS))
        }
        for one in seen
    ]
    return folder, exact


def _check(results: list[LayerResult], exact: list[dict[tuple[str, int], np.ndarray]], rounding: float) -> None:
    """Compare with NumPy's SVD of HF's Jacobians; a metric is missing where and only where σ₁ = 0, with its reason."""
    for (_, zero), result in zip(LAYERS, results, strict=True):
        for component, found in result.singular_values.items():
            for sample, matrices in enumerate(exact):
                sigma = np.linalg.svd(matrices[component, result.layer], compute_uv=False)[: found.shape[1]]
                assert np.abs(found[sample] - sigma).max() <= rounding * sigma[0]
                assert (sigma[0] == 0) == (component in zero)
                gone = {name for name, values in result.metrics[component].items() if np.isnan(values[sample])}
                assert gone == ((result.metrics[component].keys() - VALUED) if component in zero else set())
                assert result.reasons[component][sample] == (ZERO_JACOBIAN if component in zero else "")
                if component in zero:
                    assert all(
                        result.metrics[component][name][sample] == 0 for name in VALUED & {*result.metrics[component]}
                    )


@pytest.mark.parametrize(
    ("engine", "precision", "names"),
    [
        ("jacfwd", "float64", tuple(METRICS)),
        ("analytic", "float32", tuple(METRICS)),
        ("lanczos", "float32", NAMES),
    ],
)
def test_every_engine_has_zero_and_no_ratio(engine: str, precision: str, names: tuple[str, ...], zeroed: Any) -> None:
    folder, exact = zeroed
    with numerics(precision):
        checkpoint = open_checkpoint(folder, dtype=precision)
        batches = prepare_batches(checkpoint, TOKENS, memory_gib=1.0, engine=engine)
        results = list(stream_layers(checkpoint, batches, Plan(("attn", "mlp"), names, engine, audit=len(TOKENS))))
    _check(results, exact, {"float64": 1e-10, "float32": 2e-5}[precision] if engine != "lanczos" else 2e-5)
    if engine == "lanczos":
        steps = results[0].diagnostics["attn"]["steps"]
        assert (steps <= 10).all()  # the first look at its bound is the last


def test_coupling_reads_and_writes_nowhere(zeroed: Any) -> None:
    folder, exact = zeroed
    with numerics("float32"):
        checkpoint = open_checkpoint(folder, dtype="float32")
        columns = coupling_columns(("attn", "mlp"), checkpoint.spec)
        plan = CouplingPlan(("attn", "mlp"), columns, audit=len(TOKENS))
        results = list(stream_coupling(checkpoint, prepare_batches(checkpoint, TOKENS, memory_gib=1.0), plan))
    for (name, zero), result in zip(LAYERS, results, strict=True):
        for component, values in result.metrics.items():
            sigma = [np.linalg.svd(each[component, result.layer], compute_uv=False)[0] for each in exact]
            np.testing.assert_allclose(values["spectral_radius"], sigma, rtol=2e-5, atol=0)
            undefined = {"decay_ratio", "bound_share", "write_alignment"} | {
                column for column in columns if column.startswith("read_alignment_")
            }
            own = {"attn": ("v", "q", "k"), "mlp": ("up", "gate")}[component]
            has = {
                column for column in columns if column.rpartition("_")[2] in own or column.count("_") < 2
            } | undefined
            for column in undefined & has - {f"read_alignment_{each}" for each in {*"vqk", "up", "gate"} - {*own}}:
                missing = component in zero or (component == "attn" and "q_proj" in name and column.endswith("_q"))
                assert np.isnan(values[column]).tolist() == [missing] * len(TOKENS), (name, component, column)
            for vector in (READS, WRITES):
                assert np.isnan(result.vectors[component][vector]).all() == (component in zero)
            reason = ZERO_JACOBIAN if component in zero else ""
            if component == "attn" and "q_proj" in name:
                reason = "W_Q is zero: no alignment"
            assert result.reasons[component].tolist() == [reason] * len(TOKENS)
    assert (results[0].metrics["attn"]["bound"] == 0).all()


def test_a_path_through_zero_has_no_exponents(tmp_path: Path) -> None:
    """A post-norm block whose last norm is zero takes every change to nothing: the others are as they are."""
    model = save_random(
        tmp_path, "bert", **config_of("bert", next(iter(FAMILIES["bert"].cases))) | {"num_hidden_layers": 3}
    )
    with torch.no_grad():
        model.bert.encoder.layer[1].output.LayerNorm.weight.zero_()
    model.save_pretrained(tmp_path)
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        plan = DepthPlan(NAMES, 0, 2, 2, audit=2)
        results = list(stream_depth(checkpoint, prepare_batches(checkpoint, TOKENS, memory_gib=1.0), plan))
    for result, zero in zip(results, (False, True, True), strict=True):
        metrics = result.metrics["path"]
        for name in ("decay_ratio", "lyapunov_1", "lyapunov_2"):
            assert np.isnan(metrics[name]).tolist() == [zero] * 2
        assert ((metrics["spectral_radius"] == 0) == zero).all()
        assert ["exponent" in reason and ZERO_JACOBIAN in reason for reason in result.reasons["path"]] == [zero] * 2


def test_reasons_survive_the_files_of_layers(tmp_path: Path, zeroed: Any) -> None:
    folder, _ = zeroed
    with numerics("float64"):
        checkpoint = open_checkpoint(folder, dtype="float64")
        batches = prepare_batches(checkpoint, TOKENS, memory_gib=1.0)
        result = next(iter(stream_layers(checkpoint, batches, Plan(("attn", "mlp"), NAMES))))
    write_layer(tmp_path, result)
    (read,) = collect_layers(read_shards(tmp_path, NAMES), range(len(TOKENS))).values()
    for component in ("attn", "mlp"):
        np.testing.assert_array_equal(read.reasons[component], result.reasons[component])
        for name in NAMES:
            np.testing.assert_array_equal(read.metrics[component][name], result.metrics[component][name])
    assert set(result.reasons["attn"]) == {ZERO_JACOBIAN}


def test_what_overflows_still_stops(zeroed: Any) -> None:
    """Zero times infinity is no zero by construction."""
    folder, _ = zeroed
    checkpoint = open_checkpoint(folder)

    def overflowing(part: str, number: int) -> Any:
        module = checkpoint.make(part, number)
        if (part, number) == ("block", 2):  # whose W_down is zero
            module.mlp.up.weight = module.mlp.up.weight.replace(jnp.inf * module.mlp.up.weight[...])
        return module

    broken = dataclasses.replace(checkpoint, make=overflowing)
    batches = prepare_batches(broken, TOKENS, memory_gib=1.0)
    with pytest.raises(JacspecError, match="Layer 2, component mlp, sample 0: singular values not finite"):
        list(stream_layers(broken, batches, Plan(("mlp",), NAMES)))


@pytest.mark.parametrize(
    ("given", "sigma", "passes"),
    [
        ([0.0, 0.0], [0.0, 0.0], True),
        ([1e-6, 0.0], [0.0, 0.0], False),
        ([5.0, 3e-8], [5.0, 0.0], True),  # rank one: σ₂ is rounding
        ([5.0, 1e-2], [5.0, 0.0], False),
        ([5.0, 1.01], [5.0, 1.0], False),
    ],
)
def test_audits_know_rounding_from_errors(given: list[float], sigma: list[float], passes: bool) -> None:
    matrix = jnp.diag(jnp.asarray(sigma, jnp.float32))[None]
    if passes:
        assert audit_top(np.asarray(given), matrix, "here", 1e-5, ways_on="x") <= 1e-5
    else:
        with pytest.raises(JacspecError, match="Audit failed: here"):
            audit_top(np.asarray(given), matrix, "here", 1e-5, ways_on="x")
    none = np.zeros(2, np.float32)
    assert audit_pair(jnp.zeros((1, 2, 2)), 0.0, none, none, "here", 1e-5, ways_on="x") == 0


def _all_ones(model: Any) -> None:
    for weight in model.parameters():
        weight.fill_(1.0)


def _one_value_a_head(model: Any) -> None:
    """Give every token the same value, W_V = 0 and b_V ≠ 0: whatever it looks at, attention adds the same."""
    for layer in model.transformer.h:
        layer.attn.c_attn.weight[:, 48:] = 0
        layer.attn.c_attn.bias.normal_()


def _only_biases(model: Any) -> None:
    """Give every token the same key and the same value, which nothing of the stream moves."""
    for layer in model.transformer.h:
        layer.attn.c_attn.weight[:, 24:] = 0
        layer.attn.c_attn.bias.mul_(0.1)


CANCELLING: dict[str, tuple[str, Any]] = {
    "llama": ("grouped heads, untied", _all_ones),
    "gpt2": ("untied", _one_value_a_head),
    "gpt2 of biases": ("untied", _only_biases),
}


@pytest.mark.few(1)
@pytest.mark.parametrize("family", CANCELLING)
def test_audits_let_pass_what_cancels_to_rounding_and_no_wrong_engine(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, change = CANCELLING[family]
    family = family.partition(" ")[0]
    model = save_random(tmp_path, family, **config_of(family, case))
    with torch.no_grad():
        change(model)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    batches = prepare_batches(checkpoint, TOKENS, memory_gib=1.0)
    audited: list[float] = []
    for engine in ("analytic", "lanczos"):
        plan = Plan(("attn", "mlp", "block"), NAMES, engine, audit=len(TOKENS))
        audited += [
            deviation
            for result in stream_layers(checkpoint, batches, plan)
            for said in result.diagnostics.values()
            for deviation in said.get("audit_deviation", ())
        ]
    assert audited
    coupled = CouplingPlan(("attn", "mlp"), coupling_columns(("attn", "mlp"), checkpoint.spec), audit=len(TOKENS))
    assert len(list(stream_coupling(checkpoint, batches, coupled))) == len(checkpoint.spec.blocks)

    honest = ENGINES["analytic"]

    def wrong(*arguments: Any) -> Any:
        found = honest.solve(*arguments)
        assert found.jacobians is not None
        return found._replace(jacobians=found.jacobians + 0.1)

    monkeypatch.setitem(ENGINES, "analytic", honest._replace(solve=wrong))
    with pytest.raises(JacspecError, match="Audit failed: block 0, component mlp"):
        list(stream_layers(checkpoint, batches, Plan(("mlp",), NAMES, "analytic", audit=1)))


def test_a_run_says_where_values_are_rounding_and_prints_it() -> None:
    deviations = {"attn": np.array([2e-6, 0.3]), "mlp": np.array([1e-6, 9e-6])}
    said = {name: {"audit_deviation": each} for name, each in deviations.items()}
    found = _accuracy([LayerResult(3, 3, {}, {}, said)], 1e-5, "float32")
    assert found["audit"]["recomputed Jacobians"] == 4
    assert found["audit"]["largest relative deviation"] == 9e-6
    assert found["audit"]["terms cancel, values are rounding"] == ["layer 3, attn"]
    console = Console(record=True, width=100)
    _say_accuracy(found, console)
    assert "values that are rounding, for the terms of these Jacobians cancel: layer 3, attn" in console.export_text()


def test_ordinary_jacobians_are_not_rounding() -> None:
    model = load_model("nano")
    block, streams = (
        model.block(0),
        jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, model.spec.d_model)), jnp.float32),
    )
    branch = bind_samples(block, streams, jnp.asarray([5]))["attn"]
    assert rounding(branch, 0, dense.jacobian_at(branch, np.asarray(0, np.int32))) == 0


def test_zero_weights_have_no_share_to_remove() -> None:
    factors: Mapping[Any, Any] = {(0, "o"): factorise(jnp.zeros((4, 3)))}
    count, share = count_removed(factors, (0.0, 0.5))
    assert count == 1
    assert np.isnan(share)


RUNS = {
    "jacobian": ("metrics=full", "components=[attn,mlp,block]"),
    "depth": (),
    "coupling": (),
    "modes": ("modes.k=3", "modes.draws=9"),
    "overlap": ("overlap.fisher=8",),
    "removal": ("removal.groups=2", "removal.tokens=64", "removal.by=role", "removal.roles=[o]"),
}


@pytest.mark.few(2)
@pytest.mark.parametrize("task", RUNS)
def test_runs_say_what_is_missing(task: str, tmp_path: Path) -> None:
    """Files, figures (a warning is an error here), page and console of a model with a block of zeros."""
    make_small_model(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if ".c_proj.weight" in name and (task == "removal" or ".h.1." in name):
            tensors[name] = np.zeros_like(tensors[name])
    save_file(tensors, file, metadata={"format": "pt"})
    arguments = (f"task={task}", "model=path", "model.path=model", *RUNS[task], *TINY, "hydra.run.dir=out")
    done = run_here(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    table = pandas.read_csv(tmp_path / "out" / "metrics.csv")
    assert table.columns[-1] == "reason"
    structural = ("read_alignment", "slope", "sigma_") if task == "coupling" else ()
    values = table[[name for name in run.metric_names if not name.startswith(structural)]]
    if task in ("jacobian", "coupling", "modes", "overlap"):
        zero = (table["layer"] == 1) & ~table.get("component", table.get("role")).isin(
            ["block", "qkv", "q", "k", "v", "up"]
        )
        assert table.loc[zero, "reason"].notna().all()
        assert values[zero].isna().any(axis=1).all()
    assert values[table["reason"].isna()].notna().all(axis=None)
    assert ("lack some values" in done.out) == table["reason"].notna().any() == (task != "depth")
