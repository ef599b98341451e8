"""The engines: Lanczos on prescribed spectra and on every family, the choice of an engine, and the audit."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES
from jax.tree_util import Partial
from oracles import deviation, raw_config
from servers import TINY, run_here

from jacspec import JacspecError, compute_spectra, load_model, open_run
from jacspec.backend import numerics
from jacspec.jacobians import analytic, lanczos
from jacspec.jacobians.branches import BRANCHES, Branch, Point, bind_samples, choose_components
from jacspec.jacobians.dense import jacobians
from jacspec.jacobians.engine import Plan, prepare_batches, stream_layers
from jacspec.jacobians.lanczos import TopValues, decompose
from jacspec.jacobians.solvers import ENGINES, choose_engine
from jacspec.models.checkpoint import random_checkpoint
from jacspec.samples import Memory

N = 60
SPECTRA = {
    "power law": np.arange(1, N + 1) ** -1.0,
    "flat": np.linspace(1, 0.9, N),
    "twin": np.r_[3.0, 3.0, np.linspace(1, 0, N - 2)],
    "near twins": np.r_[3.0, 2.9999, np.linspace(1, 0, N - 2)],
    "rank one": np.r_[5.0, np.zeros(N - 1)],
    "rank three": np.r_[5.0, 4.0, 1e-3, np.zeros(N - 3)],
    "tiny": 1e-8 * np.arange(1, N + 1) ** -2.0,
    "zero": np.zeros(N),
}


def _with_spectrum(sigma: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(N, N)))[0] for _ in range(2))
    return left @ np.diag(sigma) @ right.T


def _top_of(matrices: np.ndarray, precision: str) -> TopValues:
    """Run Lanczos on a branch whose Jacobian is each of the given matrices."""
    point = Point(jnp.asarray(matrices, precision), jnp.ones((len(matrices), N), precision))
    starts = jax.random.normal(jax.random.key(1), (len(matrices), N), precision)
    return decompose(Branch(Partial(jnp.matmul), point), starts, k=2, tolerance=1e-5)[0]


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.filterwarnings("ignore:.*will be truncated to dtype")
def test_lanczos_finds_prescribed_spectra(precision: str) -> None:
    matrices = np.stack([_with_spectrum(sigma, seed) for seed, sigma in enumerate(SPECTRA.values())])
    with numerics(precision):
        found = _top_of(matrices, precision)
    rounding = {"float32": 2e-6, "float64": 1e-14}[precision]
    for row, (name, sigma) in enumerate(SPECTRA.items()):
        assert found.converged[row], name
        error = np.abs(found.singular_values[row] - sigma[:2])
        if name != "twin":  # one of two equal values hides from a single start vector: below
            assert (error <= 1e-5 * sigma[0] + rounding * sigma[0]).all(), name
            assert (error <= found.bounds[row] + rounding * sigma[0]).all(), name


def test_bounds_hold_where_the_second_and_third_value_are_close() -> None:
    """Until they part, a mixture of both looks like one value with a wide gap around it."""
    matrices = []
    for seed in range(96):
        apart = 10.0 ** np.random.default_rng(seed).uniform(-4.5, -2.5)
        sigma = np.r_[1.0, 0.97, 0.97 - apart, np.linspace(0.96, 0.0, N - 3)]
        matrices.append(_with_spectrum(sigma, seed))
    exact = np.linalg.svd(np.stack(matrices), compute_uv=False)[:, :2]
    with numerics("float64"):
        found = _top_of(np.stack(matrices), "float64")
    assert found.converged.all()
    error = np.abs(found.singular_values - exact)
    assert (error <= found.bounds + 1e-13).all()
    assert (error <= 1e-5 * exact).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_largest_of_a_cluster_are_found(precision: str) -> None:
    """Five values within 1e-4: with the residual alone as the rule a fifth had σ₁ or σ₂ off by more than 1e-5."""
    matrices = []
    for seed in range(60):
        cluster = 1 - 1e-4 * np.random.default_rng(seed).uniform(size=5)
        matrices.append(_with_spectrum(np.r_[cluster, 0.6 * np.arange(1, N - 4) ** -0.5], seed))
    rounded = np.stack(matrices).astype(precision)
    exact = np.linalg.svd(rounded.astype(np.float64), compute_uv=False)[:, :2]
    with numerics(precision):
        found = _top_of(rounded, precision)
    assert found.converged.all()
    assert (np.abs(found.singular_values - exact) > 1e-5).any(axis=1).mean() < 0.05


def test_bounds_hold_rounding() -> None:
    """Of a matrix of rank one the residual is zero, and what float32 makes of it is not."""
    matrices = np.stack([_with_spectrum(SPECTRA["rank one"], seed) for seed in range(20)]).astype(np.float32)
    exact = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)[:, :2]
    with numerics("float32"):
        found = _top_of(matrices, "float32")
    error = np.abs(found.singular_values - exact)
    assert (error <= found.bounds).all()
    assert error[:, 0].max() > 1e-7
    assert (found.bounds <= 1e-5 * 5).all()


def test_twins_are_found_where_rounding_or_more_steps_part_them() -> None:
    """A limit of the method that the module's words and the audit own up to: exact twins look like one value."""
    matrix = _with_spectrum(SPECTRA["twin"], 2)
    with numerics("float64"):
        found = _top_of(matrix[None], "float64")
    assert found.singular_values[0, 0] == pytest.approx(3, rel=1e-9)
    second = found.singular_values[0, 1]
    assert second == pytest.approx(3, rel=1e-5) or second == pytest.approx(1, rel=1e-5)


def test_sample_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "MAX_STEPS", 8)
    matrices = np.stack([_with_spectrum(SPECTRA[name], 0) for name in ("rank one", "flat")])
    with numerics("float64"):
        found = _top_of(matrices, "float64")
    assert found.converged.tolist() == [True, False]
    assert found.steps.tolist() == [8, 8]
    assert np.abs(found.singular_values[1] - SPECTRA["flat"][:2]).max() <= found.bounds[1].max()


def test_company_in_a_batch_changes_nothing() -> None:
    matrices = np.stack([_with_spectrum(SPECTRA[name], 0) for name in ("power law", "flat")])
    with numerics("float64"):
        together = _top_of(matrices, "float64")
        alone = _top_of(matrices[:1], "float64")
    assert together.steps[0] == alone.steps[0] < together.steps[1]
    np.testing.assert_allclose(together.singular_values[0], alone.singular_values[0], rtol=1e-12)


@pytest.mark.few(5)
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_equal_jacfwd_on_every_family_and_component(family: str, tmp_path: Path) -> None:
    """Closed forms of every component; Lanczos of whole blocks, in which all parts are, and of two families' parts."""
    # HF's own share of turned coordinates would be of an odd number.
    config = raw_config(family, FAMILIES[family].base | ({"hidden_size": 32} if family == "gpt_neox" else {}))
    rng = np.random.default_rng(0)
    with numerics("float64"):
        model = random_checkpoint(config, tokenizer_folder=tmp_path, seed=0, name="x", dtype="float64")
        block = model.block(len(model.spec.blocks) - 1)
        d_model = model.spec.d_model
        h, start = jnp.asarray(rng.normal(size=(2, 9, d_model))), jnp.asarray(rng.normal(size=(2, d_model)))
        lengths = jnp.asarray([9, 4])
        memory = Memory(jnp.asarray(rng.normal(size=(2, 7, d_model))), jnp.asarray([7, 3])) if block.cross else None
        branches = bind_samples(block, h, lengths, memory)
        assert branches.keys() == BRANCHES.keys() - ({"cross"} if memory is None else set())
        for component, branch in branches.items():
            matrices = jacobians(branch)
            assert deviation(analytic.jacobians(branch), matrices) < 1e-10
            if component != "block" and family not in ("gpt2", "t5"):
                continue
            found, _ = decompose(branch, start, k=2, tolerance=1e-9)
            sigma = np.linalg.svd(np.asarray(matrices), compute_uv=False)[:, :2]
            assert found.converged.all()
            assert deviation(found.singular_values, sigma) < 1e-9


def _lanczos_plan(**options: Any) -> Plan:
    return Plan(("attn", "mlp", "block"), ("spectral_radius", "decay_ratio"), "lanczos", **options)


def test_audit_recomputes_samples_of_every_layer_and_catches_a_wrong_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = load_model("nano"), [[5, 6, 7, 8], [11, 12, 13], [2, 3, 4, 5, 6]]
    batches = prepare_batches(model, tokens, memory_gib=1.0, engine="lanczos")
    result = next(iter(stream_layers(model, batches, _lanczos_plan(audit=2))))
    for said in result.diagnostics.values():
        assert said["audit_deviation"].shape == (2,)
        assert said["audit_deviation"].max() < 1e-5
    honest = ENGINES["lanczos"]

    def wrong(*arguments: Any) -> Any:
        found = honest.solve(*arguments)
        return found._replace(singular_values=1.001 * found.singular_values)

    monkeypatch.setitem(ENGINES, "lanczos", honest._replace(solve=wrong))
    with pytest.raises(JacspecError, match=r"Audit failed: block 0, component attn, sample \d: .* off by 1.0e-03"):
        next(iter(stream_layers(model, batches, _lanczos_plan(audit=1))))


def test_audit_catches_a_wrong_matrix_whose_spectrum_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """`analytic` is held to the Jacobian itself: its transpose has the same singular values."""
    model, honest = load_model("nano"), ENGINES["analytic"]
    batches = prepare_batches(model, [[5, 6, 7, 8]], memory_gib=1.0, engine="analytic")
    plan = Plan(("mlp",), ("spectral_radius",), "analytic", audit=1)
    assert next(iter(stream_layers(model, batches, plan))).diagnostics["mlp"]["audit_deviation"].max() < 1e-5

    def transposed(*arguments: Any) -> Any:
        found = honest.solve(*arguments)
        assert found.jacobians is not None
        return found._replace(jacobians=jnp.swapaxes(found.jacobians, 1, 2))

    monkeypatch.setitem(ENGINES, "analytic", honest._replace(solve=transposed))
    with pytest.raises(JacspecError, match="Audit failed: block 0, component mlp, sample 0: the Jacobian"):
        next(iter(stream_layers(model, batches, plan)))


def test_choice_of_engine() -> None:
    nano, gpt2 = load_model("nano").spec, load_model("gpt2", init="random").spec
    paper = ("spectral_radius", "decay_ratio")
    assert choose_engine("auto", paper, nano) == "analytic"
    assert choose_engine("auto", paper, gpt2) == "lanczos"
    assert choose_engine("auto", (*paper, "stable_rank"), gpt2) == "analytic"
    assert choose_engine("auto", (*paper, "henrici_departure"), gpt2) == "analytic"
    assert choose_engine("lanczos", paper, nano) == "lanczos"
    with pytest.raises(JacspecError, match="largest singular values only, and stable_rank need more"):
        choose_engine("lanczos", (*paper, "stable_rank"), nano)
    with pytest.raises(JacspecError, match="Accepted: analytic, auto, jacfwd, lanczos"):
        choose_engine("jacrev", paper, nano)
    assert choose_components(["block"], gpt2) == ("block",)


def test_engines_agree_on_the_embedded_model_from_python() -> None:
    model, texts = load_model("nano"), ["Speak, that the harbour may hear thee.", "What is the city?"]
    whole, closed, top = (compute_spectra(model, texts, engine=name) for name in ("jacfwd", "analytic", "lanczos"))
    assert deviation(closed["singular_values"], whole["singular_values"]) < 1e-5
    assert deviation(top["spectral_radius"], whole["spectral_radius"]) < 1e-5
    assert deviation(top["decay_ratio"], whole["decay_ratio"]) < 1e-5
    assert top["singular_values"].sizes["k"] == 2
    assert (top["error_bound"] <= 1e-5 * top["singular_values"] + 2e-6 * top["spectral_radius"]).all()
    assert (top["steps"] >= 8).all()


def test_run_with_lanczos_records_bounds_and_audit(tmp_path: Path) -> None:
    done = run_here(
        *TINY, "engine=lanczos", "components=[mlp]", "engine.tolerance=1e-4", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert run.provenance["engine"] == "lanczos"
    found = run.provenance["audit"]
    assert found["recomputed Jacobians"] == 2 * 6
    assert 0 <= found["largest relative deviation"] <= 1e-4
    assert run.provenance["not_converged"] == []
    assert f"audit: {found['recomputed Jacobians']} Jacobians" in done.out
    assert {"error_bound", "steps", "converged"} <= set(run.dataset)
    for wrong, fragment in (("engine.tolerance=0", "engine.tolerance=0"), ("engine.audit=-1", "engine.audit=-1")):
        refused = run_here(*TINY, wrong, "hydra.run.dir=no", cwd=tmp_path)
        assert refused.code == 1
        assert fragment in refused.err


def test_estimates_of_memory_grow_with_what_is_asked() -> None:
    spec = load_model("gpt2", init="random").spec.blocks[0]
    for engine in ENGINES.values():
        assert 0 < engine.bytes(spec, 16, 4) < engine.bytes(spec, 512, 4)
    sizes = [ENGINES[name].bytes(spec, 100, 4) for name in ("lanczos", "analytic", "jacfwd")]
    assert sizes == sorted(sizes)
    assert lanczos.TOP == 2
