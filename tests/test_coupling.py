"""`task=coupling`: factors assembled in NumPy against HF's Jacobians, leading vectors, alignments, runs."""

import dataclasses
import gc
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from families import CASES, FAMILIES, GPT2, config_of, layout_of
from flax import nnx
from oracles import Seen, branch_jacobian, deviation, save_random, watch
from servers import TINY, files_below, run_here
from small_runs import make_small_model

from jacspec import JacspecError, open_run
from jacspec.axes import LayerResult
from jacspec.backend import numerics
from jacspec.jacobians.analytic import head_maps, hidden_slopes
from jacspec.jacobians.branches import Point, downstream, list_sites
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.streaming import Stream, Visit, pass_through, walk
from jacspec.models.block import Block
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.layers import LayerNorm, NormSpec, make_norm
from jacspec.samples import PaddedBatch
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.coupling import factors
from jacspec.studies.coupling import measure as coupling
from jacspec.studies.coupling.factors import norm_gain
from jacspec.studies.coupling.figures import coupling_figures
from jacspec.studies.coupling.measure import (
    CouplingPlan,
    choose_factored,
    coupling_columns,
    stream_coupling,
)
from jacspec.studies.coupling.tables import READS, WRITES, couple

TOKENS = ([3, 4, 5, 6, 7, 8, 9, 10], [5, 4, 3])
NAMES = ("attn", "mlp")
CHOSEN = (
    "gpt_neox: parallel",
    "gemma2: grouped windows",
    "qwen3: grouped",
    "olmo2: grouped",
    "bert: awkward",
    "t5: 1.1",
    "granite: grouped",
    "stablelm: parallel, normed",
)
"""Every norm place, gated and plain, GQA, softcap, all norms of queries and keys, relative biases, cross attention,
scaled branches, one norm for both.
"""

ONE_LAYER = {key: {"num_layers": 1, "num_decoder_layers": 1} for key in ("t5", "mt5")}


def _stream(checkpoint: Checkpoint, names: tuple[str, ...], **more: Any) -> list[LayerResult]:
    components = choose_factored(names, checkpoint.spec)
    plan = CouplingPlan(components, coupling_columns(components, checkpoint.spec), **more)
    return list(stream_coupling(checkpoint, _batches(checkpoint), plan))


def _batches(checkpoint: Checkpoint) -> list[PaddedBatch]:
    return prepare_batches(checkpoint, TOKENS, memory_gib=1.0, engine="lanczos")


def _points(checkpoint: Checkpoint) -> list[tuple[Block, list[dict[str, Point]]]]:
    """Every block with where its components are differentiated, by sample."""
    batches = _batches(checkpoint)

    def visit(number: int, block: Block, streams: list[Stream]) -> Visit:
        found: dict[int, dict[str, Point]] = {}
        for padded, stream in zip(batches, streams, strict=True):
            components = [name for name in ("attn", "cross", "mlp") if name != "cross" or block.cross is not None]
            branches, _ = pass_through(block, stream, components, last=True)
            points = {name: branch.point for name, branch in branches.items()}
            for row, sample in enumerate(padded.samples):
                found[sample] = jax.tree.map(lambda leaf, row=row: leaf[row], points)
        return Visit((block, [found[sample] for sample in sorted(found)]))

    last = len(checkpoint.spec.blocks) - 1
    return list(walk(checkpoint, batches, visit, last=last, decoder_input="shifted"))


class Assembled(NamedTuple):
    """A Jacobian from its factors, in NumPy: O, W_out, by path S and W, N."""

    output_norm: np.ndarray
    out: np.ndarray
    paths: dict[str, tuple[np.ndarray, np.ndarray]]
    norm: np.ndarray

    def jacobian(self) -> np.ndarray:
        return self.output_norm @ self.out @ sum(s @ w for s, w in self.paths.values()) @ self.norm

    def bound(self) -> float:
        inside = sum(_top(s) * _top(w) for s, w in self.paths.values())
        return _top(self.output_norm) * _top(self.out) * inside * _top(self.norm)


def _top(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(matrix, 2))


def _assemble(block: Block, component: str, point: Point, calls: list[Any]) -> Assembled:
    """Write every factor out as a matrix: the norms from HF, local maps of heads and hidden units from their values."""
    place, d_model = block.spec.place, block.spec.d_model
    norm = branch_jacobian(calls[:1]) if place in ("pre", "sandwich") else np.eye(d_model)
    output_norm = branch_jacobian(calls[-1:]) if place in ("output", "sandwich") else np.eye(d_model)
    output_norm = block.spec.scale * output_norm
    norms = getattr(block, f"{component}_norms")
    u = norms.enter(point.x)
    module = getattr(block, component)
    weights = {
        name: np.asarray(getattr(module, name).weight[...], np.float64)
        for name in ("up", "gate", "down", "q", "k", "v", "o")
        if getattr(module, name, None) is not None
    }
    if component == "mlp":
        paths = {name: (np.diag(slope), weights[name]) for name, slope in jax.jit(hidden_slopes)(module, u).items()}
        return Assembled(output_norm, weights["down"], paths, norm)
    return Assembled(output_norm, weights["o"], _head_paths(module, point.context, u, weights), norm)


def _head_paths(
    module: Any, prefix: Any, u: Any, weights: Mapping[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    own, maps = module.spec, jax.tree.map(np.asarray, jax.jit(head_maps)(module, prefix, u))
    d = own.d_head
    s = {
        "q": np.zeros((own.heads * d, own.heads * d)),
        **{name: np.zeros((own.heads * d, own.kv_heads * d)) for name in "vk"},
    }
    for head in range(own.heads):
        kv, member = divmod(head, own.group)
        rows, columns = (slice(i * d, (i + 1) * d) for i in (head, kv))
        s["q"][rows, rows] = maps.query[kv, member]
        if maps.own is not None:
            s["v"][rows, columns] = maps.own.weight[kv, member] * np.eye(d)
            s["k"][rows, columns] = np.outer(maps.own.away[kv, member], maps.own.toward[kv, member])
    if own.qk_norm is not None:
        for name, linear, norm in (("q", module.q, module.q_norm), ("k", module.k, module.k_norm)):

            def normed(y: Any, norm: Any = norm) -> Any:
                return norm(y if own.qk_norm == "full" else y.reshape(-1, d)).ravel()

            s[name] = s[name] @ np.asarray(jax.jit(jax.jacfwd(normed))(linear(u)))
    return {name: (s[name], weights[name]) for name in (("q",) if maps.own is None else "vqk")}


@pytest.fixture(scope="module", params=CHOSEN)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, list[Seen]]:
    family, name = CASES[request.param]
    config = {**config_of(family, name), **ONE_LAYER.get(family, {"num_hidden_layers": 1})}
    folder = tmp_path_factory.mktemp("model")
    model = save_random(folder, family, **config)
    start = config.get("decoder_start_token_id")
    seen = [watch(model, layout_of(family, config), np.array(ids), start) for ids in TOKENS]
    return open_checkpoint(folder, dtype="float64"), seen


@pytest.mark.few(2)
def test_factors_and_directions_equal_hf(case: tuple[Checkpoint, list[Seen]]) -> None:
    """HF's Jacobian is the product of the factors; ρ, its vectors, the bound and every gain follow from those."""
    checkpoint, seen = case
    names = (*NAMES, "cross") if checkpoint.spec.decoder_start is not None else NAMES
    with numerics("float64"):
        results = _stream(checkpoint, names, tolerance=1e-13)
        for result, (block, points) in zip(results, _points(checkpoint), strict=True):
            for full, metrics in result.metrics.items():
                stack, _, component = full.rpartition(".")
                for sample, one in enumerate(seen):
                    calls = one.calls[stack, component, result.layer]
                    jacobian = branch_jacobian(calls)
                    parts = _assemble(block, component, points[sample][component], calls)
                    assert deviation(parts.jacobian(), jacobian) < 1e-9
                    u, sigma, vt = np.linalg.svd(jacobian)
                    found = {name: values[sample] for name, values in metrics.items()}
                    assert found["spectral_radius"] == pytest.approx(sigma[0], rel=1e-9)
                    assert found["decay_ratio"] == pytest.approx(sigma[1] / sigma[0], rel=1e-9)
                    x = np.asarray(points[sample][component].x)
                    assert found["residual_gain"] == pytest.approx(
                        np.linalg.norm(jacobian @ x) / np.linalg.norm(x), abs=1e-9 * sigma[0]
                    )
                    assert found["norm_gain"] == pytest.approx(_top(parts.norm), rel=1e-9)
                    assert found["output_norm_gain"] == pytest.approx(_top(parts.output_norm), rel=1e-9)
                    assert found["sigma_out"] == pytest.approx(_top(parts.out), rel=1e-9)
                    normed = component != "mlp" and block.attn.spec.qk_norm is not None
                    for path, (s, w) in parts.paths.items():
                        assert found[f"sigma_{path}"] == pytest.approx(_top(w), rel=1e-9)
                        assert found[f"slope_{path}"] >= _top(s) * (1 - 1e-12)
                        if not (normed and path in "qk"):
                            assert found[f"slope_{path}"] == pytest.approx(_top(s), rel=1e-9)
                    if not normed:
                        assert found["bound"] == pytest.approx(parts.bound(), rel=1e-9)
                    assert sigma[0] <= parts.bound() * (1 + 1e-12) <= found["bound"] * (1 + 1e-9)
                    assert found["bound_share"] == pytest.approx(sigma[0] / found["bound"], rel=1e-9)
                    vectors = {name: values[sample] for name, values in result.vectors[full].items()}
                    assert abs(vectors[WRITES] @ u[:, 0]) == pytest.approx(1, abs=1e-9)
                    assert abs(vectors[READS] @ vt[0]) == pytest.approx(1, abs=1e-9)
                    for column, value in _alignments(block, component, parts, u[:, 0], vt[0]).items():
                        assert found[column] == pytest.approx(value, abs=1e-8)
                    others = {"up", "gate", "v", "q", "k"} - parts.paths.keys()
                    absent = {f"{kind}_{path}" for kind in ("sigma", "slope", "read_alignment") for path in others}
                    assert all(np.isnan(found[name]) for name in absent & found.keys())


def _alignments(block: Block, component: str, parts: Assembled, u: np.ndarray, v: np.ndarray) -> dict[str, float]:
    """The alignments by SVD of weights with the norm's gain and centring written out as matrices."""
    norms = getattr(block, f"{component}_norms")

    def static(norm: Any) -> np.ndarray:
        if norm is None:
            return np.eye(len(u))
        centring = np.eye(len(u)) - (1 / len(u) if isinstance(norm, LayerNorm) else 0)
        return np.diag(np.asarray(norm.gain(jnp.dtype("float64")))) @ centring

    found = {
        f"read_alignment_{path}": abs(np.linalg.svd(w @ static(norms.norm))[2][0] @ v)
        for path, (_, w) in parts.paths.items()
    }
    return found | {"write_alignment": abs(np.linalg.svd(static(norms.output_norm) @ parts.out)[0][:, 0] @ u)}


def test_the_assembly_sees_what_is_left_out(tmp_path: Path) -> None:
    """The oracle fails without the token's own key, with a dropped norm, and with heads that read other values."""
    config = config_of("llama", CASES["llama: grouped"][1])
    seen = watch(save_random(tmp_path, "llama", **config), layout_of("llama", config), np.array(TOKENS[0]))
    with numerics("float64"):
        block, points = _points(open_checkpoint(tmp_path, dtype="float64"))[1]
        calls = seen.calls["", "attn", 1]
        parts, exact = _assemble(block, "attn", points[0]["attn"], calls), branch_jacobian(calls)
    assert deviation(parts.jacobian(), exact) < 1e-9
    s, w = parts.paths["v"]
    for wrong in (
        parts._replace(paths={name: parts.paths[name] for name in "vq"}),
        parts._replace(norm=np.eye(len(exact))),
        parts._replace(paths={**parts.paths, "v": (np.roll(s, 6, axis=1), w)}),
    ):
        assert deviation(wrong.jacobian(), exact) > 1e-3


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_norm_gain_equals_svd(kind: str, precision: str) -> None:
    tolerance = {"float32": 1e-6, "float64": 1e-13}[precision]
    rng = np.random.default_rng(0)
    gains = {
        "spread": rng.standard_normal(24),
        "equal": np.ones(24),
        "one": np.eye(24)[3] * 5,
        "two": np.concatenate([[7.0, -7.0], np.ones(22)]),
        "zero": np.zeros(24),
    }
    gain_of, derivative = jax.jit(norm_gain), jax.jit(lambda norm, x: jax.jacfwd(norm)(x))
    with numerics(precision):
        dtype = jnp.dtype(precision)
        for gain in gains.values():
            for eps in (1e-6, 0.5):
                norm = make_norm(NormSpec(kind, eps), 24, dtype)
                norm.weight = nnx.Param(jnp.asarray(gain, dtype))
                x = jnp.asarray(3 * rng.standard_normal(24), dtype)
                exact = np.linalg.norm(np.asarray(derivative(norm, x), np.float64), 2)
                assert float(gain_of(norm, x)) == pytest.approx(exact, rel=tolerance, abs=1e-30)


def test_couplings_equal_loops_and_chance() -> None:
    rng = np.random.default_rng(0)
    writes, reads = (rng.standard_normal((3, 5, 7)) for _ in range(2))
    found = couple(writes, reads)
    for sample in range(5):
        for row in range(3):
            for column in range(3):
                expected = abs(sum(writes[row, sample, i] * reads[column, sample, i] for i in range(7)))
                assert found[sample, row, column] == pytest.approx(expected)
    drawn = rng.standard_normal((200_000, 7))
    cosines = np.abs(drawn[:, 0]) / np.linalg.norm(drawn, axis=1)
    assert random_alignment(7) == pytest.approx(cosines.mean(), abs=5 * cosines.std() / len(drawn) ** 0.5)
    assert random_alignment(4096) == pytest.approx((2 / np.pi / 4096) ** 0.5, rel=1e-3)


def test_reads_after_writes(tmp_path: Path) -> None:
    """In a parallel block attention and MLP read the same stream; a decoder does not read its encoder's stream."""

    def steps(family: str, names: tuple[str, ...]) -> dict[tuple[int, str], Any]:
        config = config_of(family, next(iter(FAMILIES[family].cases)))
        save_random(tmp_path / family, family, **config)
        spec = open_checkpoint(tmp_path / family).spec
        return list_sites(choose_factored(names, spec), spec)

    places = steps("gpt_neox", NAMES)
    after = {(write, read) for write in places for read in places if downstream(places[write], places[read])}
    assert after == {((0, one), (1, other)) for one in NAMES for other in NAMES}
    places = steps("gpt2", NAMES)
    order = [(0, "attn"), (0, "mlp"), (1, "attn"), (1, "mlp")]
    assert [downstream(places[a], places[b]) for a in order for b in order] == [
        i < j for i in range(4) for j in range(4)
    ]
    places = steps("t5", (*NAMES, "cross"))
    order = [(0, "decoder.attn"), (0, "decoder.cross"), (0, "decoder.mlp")]
    assert [downstream(places[a], places[b]) for a in order for b in order] == [
        i < j for i in range(3) for j in range(3)
    ]
    assert not any(downstream(places[0, f"encoder.{name}"], places[1, "decoder.mlp"]) for name in NAMES)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of three layers with random weights."""
    folder = tmp_path_factory.mktemp("small")
    save_random(folder, "gpt2", **GPT2 | {"n_layer": 3})
    return folder


def test_a_wrong_factor_and_a_wrong_vector_are_seen(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound follows its factors, and the audit refuses vectors that are not those of σ₁."""
    with numerics("float32"):
        model = open_checkpoint(small, dtype="float32")
        honest = _stream(model, ("attn",), audit=2)
        values = honest[2].metrics["attn"]
        inside = sum(values[f"slope_{path}"] * values[f"sigma_{path}"] for path in "vqk")
        np.testing.assert_allclose(values["bound"], values["norm_gain"] * values["sigma_out"] * inside, rtol=1e-5)
        (alone,) = _stream(model, ("attn",), audit=2, layers=frozenset({2}))
        jax.tree.map(np.testing.assert_array_equal, alone, honest[2])
        real = factors.leading_vectors
        monkeypatch.setattr(coupling, "leading_vectors", lambda found, bases: real(found, bases)[::-1])
        with pytest.raises(JacspecError, match=r"Audit failed: block 0, component attn, sample .*singular vector"):
            _stream(model, ("attn",), audit=2)


def test_one_block_is_in_memory_at_a_time(small: Path) -> None:
    """What is kept of a layer are numbers and two directions a sample."""
    made: list[Any] = []
    with numerics("float32"):
        model = open_checkpoint(small, dtype="float32")

        def make(part: str, number: int) -> Any:
            module = model.make(part, number)
            if part == "block":
                gc.collect()
                assert not [number for number, array in made if array() is not None]
                made.append((number, weakref.ref(module)))
            return module

        results = _stream(dataclasses.replace(model, make=make), NAMES)
    assert [number for number, _ in made] == list(range(3))
    kept = [array for result in results for held in result.vectors["mlp"].values() for array in (held,)]
    assert {array.shape for array in kept} == {(len(TOKENS), 24)}


RUN = ("task=coupling", "data.samples=24", "data.max_tokens=16")
TABLES = {*("run.json", "metrics.csv", "summary.csv", "samples.csv"), *("spectra.nc", "coupling.csv", "kinds.csv")}
FIGURES = ("factors", "bound_share", "alignment", "coupling", "kinds")


def test_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, and from the folder alone figures and page."""
    with monkeypatch.context() as patch:
        patch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
        done = run_here(*RUN, "hydra.run.dir=whole", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "share of the bound ρ / bound" in done.out
    assert "audit: 24 Jacobians" in done.out
    assert files_below(tmp_path / "whole") == TABLES
    assert run_here("task=report", "run=whole", cwd=tmp_path).code == 0
    drawn = {f"figures/{name}.png" for name in FIGURES}
    assert files_below(tmp_path / "whole") == TABLES | drawn | {"report.html"}
    run = open_run(tmp_path / "whole")
    assert list(run.metrics)[:4] == ["layer", "component", "sample", "n_tokens"]
    assert tuple(run.metrics)[4:] == (*run.metric_names, "reason")
    assert (run.metrics["bound_share"] <= 1).all()
    _check_coupling(run)
    _check_kinds(run)


def _check_coupling(run: Any) -> None:
    """`coupling.csv` follows from the vectors in `spectra.nc`, and those from one sample at a time."""
    table = pandas.read_csv(run.folder / "coupling.csv").set_index(
        ["write_layer", "write_component", "read_layer", "read_component"]
    )
    assert len(table) == 12 * 12
    assert table["downstream"].sum() == 12 * 11 / 2
    write = run.dataset[WRITES].sel(layer=1, component="mlp").values.astype(float)
    read = run.dataset[READS].sel(layer=4, component="attn").values.astype(float)
    values = np.abs((write * read).sum(axis=1))
    row = table.loc[(1, "mlp", 4, "attn")]
    assert row["mean"] == pytest.approx(values.mean(), rel=1e-6)
    assert row["downstream"] == 1
    # The oracle sees samples that are not the same.
    assert np.abs((write * np.roll(read, 1, axis=0)).sum(axis=1)).mean() != pytest.approx(values.mean(), rel=1e-3)


def _check_kinds(run: Any) -> None:
    """`kinds.csv` groups `metrics.csv` as `run.json` says, and the page names the groups that are too small."""
    kinds = np.array(run.provenance["token_kinds"]["mlp"])
    assert len(kinds) == 24
    table = pandas.read_csv(run.folder / "kinds.csv").set_index(["layer", "component", "metric", "kind"])
    values = run.metrics.query("layer == 3 and component == 'mlp'")["spectral_radius"].to_numpy()
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    counts = {kind: int((kinds == kind).sum()) for kind in sorted(set(kinds))}
    assert max(counts.values()) >= 5 > min(counts.values())
    for kind, count in counts.items():
        row = table.loc[(3, "mlp", "spectral_radius", kind)]
        assert row["n"] == count
        assert row["median"] == pytest.approx(np.median(values[kinds == kind]))
        assert (f"{kind} (n = {count})" in page) == (count >= 5)
        assert (f"{kind} ({count})" in page) == (count < 5)
    assert "Left out of MLP, with fewer than 5 samples: " in page


@pytest.mark.thorough
def test_whole_samples_are_those_of_the_jacobian_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small_model(tmp_path / "model")
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
    for name, arguments in {
        "whole": ("task=coupling", "coupling.end=sample"),
        "cut": ("task=coupling",),
        "plain": ("task=jacobian", "engine=lanczos", "jacobian.linearity=[]"),
    }.items():
        more = ("data.min_tokens=3", "components=[mlp]", "model=path", "model.path=model", f"hydra.run.dir={name}")
        done = run_here(*arguments, *TINY, *more, cwd=tmp_path)
        assert done.code == 0, done.err
    whole, cut, plain = (open_run(tmp_path / name).metrics for name in ("whole", "cut", "plain"))
    pandas.testing.assert_frame_equal(whole[list(plain)], plain)
    assert (cut["n_tokens"] <= plain["n_tokens"]).all()
    assert (cut["n_tokens"] < plain["n_tokens"]).any()
    assert cut["n_tokens"].min() >= 3


@pytest.mark.thorough
def test_encoder_decoder_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stacks and cross attention; the decoder's last token is not its encoder's; no kind has samples enough."""
    sizes = {"num_layers": 1, "d_model": 24, "d_ff": 40, "d_kv": 6, "num_heads": 4, "vocab_size": 1100}
    small = [f"model.config.{key}={value}" for key, value in sizes.items()]

    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
    done = run_here(
        *("task=coupling", "model=t5-small", "model.init=random", "coupling.end=sample", "data.samples=2"),
        *("components=[attn,cross]", "data.decoder_input=start", "data.max_tokens=8", "hydra.run.dir=out"),
        *(*small, "+model.config.num_decoder_layers=1"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert set(run.provenance["token_kinds"]["decoder.cross"]) == {"special"}
    assert "special" not in run.provenance["token_kinds"]["encoder.attn"]
    assert np.isnan(run.metrics.query("component == 'decoder.cross'")["sigma_v"]).all()
    drawn = {name: len(plot.draw().axes) for name, plot in coupling_figures(run).items()}
    assert drawn == {"factors": 3, "bound_share": 1, "alignment": 3, "coupling": 2}
    assert (run.metrics["bound_share"] <= 1).all()


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ("components=[attn,block]", "a whole block is no product of weights. Type 'components=[attn,mlp]'"),
        ("metrics=full", "metrics.names adds"),
        ("engine=analytic", "engine=auto"),
        ("coupling.end=middle", "middle"),
        ("components=[mpl]", "Did you mean 'mlp'?"),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here(*RUN, wrong, "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err
    assert not (tmp_path / "no" / "run.json").exists()
