"""`task=modes`: triples and groups of planted matrices and of HF's Jacobians, comparisons in plain NumPy, runs."""

import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from families import CASES, config_of, layout_of
from matplotlib.figure import Figure
from oracles import branch_jacobian, save_random, watch
from scipy.linalg import subspace_angles
from servers import TINY, run_here
from small_runs import make_small_model

from jacspec import open_run
from jacspec.backend import numerics
from jacspec.jacobians.branches import Products, choose_components
from jacspec.jacobians.engine import prepare_batches
from jacspec.jacobians.triples import UNKNOWN, Triples, alone, dense_triples, group_values, lanczos_triples
from jacspec.models.checkpoint import open_checkpoint
from jacspec.studies.modes.after import pass_again
from jacspec.studies.modes.angles import as_many_dimensions, draw_pairs, mean_angles
from jacspec.studies.modes.figures import _level, _line, draw_between, draw_sources
from jacspec.studies.modes.measure import BOUND, GROUP, OUTPUT, READS, STREAM, WRITES, ModesPlan, share_in, stream_modes
from jacspec.studies.modes.tables import (
    draw_subspaces,
    half_projectors,
    held_by_mean,
    mean_pairs,
    overlap_subspaces,
    subspaces_alike,
    vectors_alike,
)

K, SIZE = 4, 24


class Planted(NamedTuple):
    """Matrices that are given, as an operator."""

    nothing: Any
    matrices: Any

    def products(self) -> Products:
        def forward(vectors: Any) -> Any:
            return jnp.einsum("smn,sn->sm", self.matrices, vectors)

        def backward(vectors: Any) -> Any:
            return jnp.einsum("smn,sm->sn", self.matrices, vectors)

        return forward, backward


TAIL = 0.3 * 0.8 ** np.arange(SIZE - 6)
SPECTRA = {
    "apart": np.concatenate([[3, 2, 1.5, 1.1, 0.7, 0.5], TAIL]),
    "equal": np.concatenate([[2, 2, 1.5, 1, 0.7, 0.5], TAIL]),
    "three equal": np.concatenate([[2, 1.5, 1.5, 1.5, 0.7, 0.5], TAIL]),
    "nearly equal": np.concatenate([[2, 2 * (1 - 1e-6), 1.5, 1, 0.7, 0.5], TAIL]),
    "cut": np.concatenate([[3, 2, 1.5, 1, 1, 0.5], TAIL]),
    "all equal": np.concatenate([np.full(6, 2.0), TAIL]),
    "rank one": np.concatenate([[2.0], np.zeros(SIZE - 1)]),
    "zero": np.zeros(SIZE),
}
GROUPS = {
    "apart": [0, 1, 2, 3],
    "equal": [0, 0, 2, 3],
    "three equal": [0, 1, 1, 1],
    "nearly equal": [0, 0, 2, 3],
    "cut": [0, 1, 2, UNKNOWN],
    "all equal": [UNKNOWN] * 4,
    "rank one": [0, *[UNKNOWN] * 3],
    "zero": [UNKNOWN] * 4,
}


def _planted(seed: int = 0) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    turns = [tuple(np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2)) for _ in SPECTRA]
    return np.stack([u * s @ v.T for (u, v), s in zip(turns, SPECTRA.values(), strict=True)]), turns  # type: ignore


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("engine", ["lanczos", "dense"])
def test_planted_triples_are_found_and_clusters_have_no_names(engine: str, precision: str) -> None:
    """Equal values are one subspace, whatever turn the matrix was planted with, and a group that is cut is unknown."""
    matrices, turns = _planted()
    with numerics(precision):
        arrays = jnp.asarray(matrices, precision)
        found = _triples(arrays, engine)
    exact = np.asarray(arrays, np.float64)
    assert [row.tolist() for row in found.group] == list(GROUPS.values())
    accuracy = {"float32": 1e-4, "float64": 1e-5}[precision]
    for row, (name, sigma) in enumerate(SPECTRA.items()):
        np.testing.assert_allclose(found.sigma[row], sigma[:K], atol=accuracy)
        for mode in range(K):
            v, u = (np.asarray(side[row, mode], np.float64) for side in (found.right, found.left))
            value, bound = float(found.sigma[row, mode]), float(found.bounds[row, mode])
            for off in (exact[row] @ v - value * u, exact[row].T @ u - value * v):
                assert np.linalg.norm(off) <= bound + 1e-12, (name, mode)
        for group in {*found.group[row].tolist()} - {UNKNOWN}:
            members = found.group[row] == group
            for side, turn in ((found.left, turns[row][0]), (found.right, turns[row][1])):
                angles = subspace_angles(side[row, members].T.astype(float), turn[:, :K][:, members])
                assert np.sin(angles).max() < 100 * accuracy, (name, group)
    assert alone(found.group).sum(axis=1).tolist() == [4, 2, 1, 2, 3, 0, 1, 0]


def _triples(arrays: Any, engine: str, *, k: int = K, trailing: int = 0, gap: float = 0.01) -> Triples:
    if engine == "dense":
        return dense_triples(arrays, k=k, trailing=trailing, gap=gap)[1]
    numbers = np.arange(len(arrays))
    operator = Planted(jnp.zeros(1), arrays)
    return lanczos_triples(operator, numbers, arrays[:, 0], k=k, tolerance=1e-6, gap=gap, seed=0)[1]


def test_trailing_modes_hold_the_null_space() -> None:
    """A kernel of two dimensions is one subspace; the value before it stands alone."""
    sigma = np.concatenate([np.linspace(3, 1, SIZE - 2), [0, 0]])
    rng = np.random.default_rng(1)
    u, v = (np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0] for _ in range(2))
    with numerics("float64"):
        found = _triples(jnp.asarray((u * sigma @ v.T)[None]), "dense", trailing=3)
    assert found.group[0].tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert np.sin(subspace_angles(found.right[0, 5:].T, v[:, -2:])).max() < 1e-12
    with numerics("float64"):
        assert _triples(jnp.asarray((u * sigma @ v.T)[None]), "dense", trailing=1).group[0, -1] == UNKNOWN


def test_groups_are_as_wide_as_bounds_and_gap_say() -> None:
    sigma = np.array([[2, 1.9, 1.0, 0.5]])
    none = np.zeros((1, 4))
    assert group_values(sigma, none, range(4), gap=0.01)[0].tolist() == [0, 1, 2, 3]
    assert group_values(sigma, none, range(4), gap=0.1)[0].tolist() == [0, 0, 2, 3]
    wide = np.array([[0.02, 0, 0, 0]])  # sine 0.02/0.08
    assert group_values(sigma, wide, range(4), gap=0.01)[0].tolist() == [0, 0, 2, 3]
    assert group_values(sigma, wide / 10, range(4), gap=0.01)[0].tolist() == [0, 1, 2, 3]


TOKENS = ([3, 4, 5, 6, 7, 8, 9, 10], [5, 4, 3], [7, 7, 2, 9])


@pytest.mark.parametrize(("family", "engine"), [("gpt2: awkward", "analytic"), ("qwen3: grouped", "lanczos")])
def test_modes_equal_hf(family: str, engine: str, tmp_path: Path) -> None:
    """Values, vectors, what is stored beside them, the input's share and m_K against the Jacobians of HF's modules."""
    kind, name = CASES[family]
    config = {**config_of(kind, name), "num_hidden_layers": 2}
    model = save_random(tmp_path, kind, **config)
    seen = [watch(model, layout_of(kind, config), np.array(ids)) for ids in TOKENS]
    checkpoint = open_checkpoint(tmp_path, dtype="float64")
    components = choose_components(["attn", "mlp"], checkpoint.spec)
    plan = ModesPlan(components, ("spectral_radius",), engine, 3, gap=1e-4, tolerance=1e-10, audit=3)
    with numerics("float64"):
        batches = prepare_batches(checkpoint, TOKENS, memory_gib=1.0, engine="lanczos")
        results = list(stream_modes(checkpoint, batches, plan))
        stored_of = {result.number: result.stored for result in results}.__getitem__
        again = pass_again(checkpoint, batches, results, stored_of, k=3, decoder_input="shifted", words=None)
    for result, component, sample in itertools.product(results, components, range(len(TOKENS))):
        jacobian = branch_jacobian(seen[sample].calls["", component, result.layer])
        u, sigma, vt = np.linalg.svd(jacobian)
        stored = {key: values[sample] for key, values in result.stored[component].items()}
        x, named = stored[STREAM], alone(result.diagnostics[component][GROUP][sample])
        assert named.any()
        np.testing.assert_allclose(result.singular_values[component][sample][:3], sigma[:3], rtol=1e-8)
        assert np.abs(stored[READS] @ vt[:3].T).diagonal()[named] == pytest.approx(1, abs=1e-6)
        assert np.abs(stored[WRITES] @ u[:, :3]).diagonal()[named] == pytest.approx(1, abs=1e-6)
        found = {key: values[sample] for key, values in result.metrics[component].items()}
        along = np.linalg.norm(jacobian @ x) / np.linalg.norm(x)
        assert found["residual_gain"] == pytest.approx(along, abs=1e-9 * sigma[0])
        assert found["named_modes"] == named.sum()
        if named.all():
            assert found["read_input"] == pytest.approx(np.square(vt[:3] @ x).sum() / (x @ x), abs=1e-7)
        assert (result.diagnostics[component][BOUND][sample] < 1e-6 * sigma[0]).all()
        if result.layer == 0:
            expected = _coupling(jacobian, branch_jacobian(seen[sample].calls["", component, 1]), 3)
            assert again.coupled[0, component][sample] == pytest.approx(expected, rel=1e-5)


def _coupling(first: np.ndarray, second: np.ndarray, k: int) -> float:
    u, _, vt = np.linalg.svd(second)
    own = np.diag(np.linalg.svd(first, compute_uv=False)[:k])
    return float(np.linalg.norm(u[:, :k].T @ first @ vt[:k].T - own) / np.linalg.norm(own))


def _bases(rng: np.random.Generator, samples: int, k: int, d_model: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((samples, d_model, k)))[0].swapaxes(1, 2)


def test_likeness_equals_pairs_written_out() -> None:
    """Means over pairs and their jackknife by loops; those of subspaces by principal angles."""
    rng = np.random.default_rng(0)
    bases = _bases(rng, 7, 3, 10)
    vectors = bases[:, 0]
    pairs = np.array([[abs(a @ b) for b in vectors] for a in vectors])
    found = vectors_alike(vectors)
    off = ~np.eye(7, dtype=bool)
    assert found.value == pytest.approx(pairs[off].mean())
    without = [pairs[np.ix_(*[[t for t in range(7) if t != s]] * 2)][~np.eye(6, dtype=bool)].mean() for s in range(7)]
    assert found.error == pytest.approx(np.sqrt(6 / 7 * np.square(without - np.mean(without)).sum()))
    turned = np.einsum("sij,sjd->sid", np.linalg.qr(rng.standard_normal((7, 3, 3)))[0], bases)
    sides = [(bases[s].T, bases[t].T) for s, t in np.argwhere(off)]
    alike = [np.square(np.cos(subspace_angles(*each))).mean() for each in sides]
    assert _alike(bases).value == pytest.approx(np.mean(alike))
    assert _alike(turned).value == pytest.approx(np.mean(alike))
    assert _alike(np.zeros((3, 2, bases.shape[2]))).n == 0
    bases[0, 2] = 0  # one of two dimensions, and one of none
    bases[1] = 0
    some = [(0, 2), (0, 3), (2, 3)]
    ranks = np.square(bases).sum(axis=(1, 2))
    of = [np.square(bases[s] @ bases[t].T).sum() / np.sqrt(ranks[s] * ranks[t]) for s, t in some]
    assert _alike(bases[:4]).value == pytest.approx(np.mean(of))
    assert np.isnan(mean_pairs(np.zeros(1)).value)
    overlap = overlap_subspaces(bases[2:], turned[2:])
    assert overlap == pytest.approx(1)
    assert np.isnan(overlap_subspaces(bases[1:2], turned[1:2])).all()
    x = rng.standard_normal((7, 10))
    assert share_in(turned, x)[2] == pytest.approx(np.square(bases[2] @ x[2]).sum() / (x[2] @ x[2]))


def _alike(bases: np.ndarray) -> Any:
    return subspaces_alike(bases, half_projectors(bases))


def _held(bases: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    return held_by_mean(bases, weights, half_projectors(bases), k)


def test_mean_subspace_holds_what_was_planted_and_chance_no_more() -> None:
    """Of subspaces about a planted one nearly all, of random ones k/d: none of it comes from fitting."""
    rng = np.random.default_rng(1)
    d_model, k, samples = 40, 3, 60
    random, weights = _bases(rng, samples, k, d_model), np.array([3.0, 2, 1]) * np.ones((samples, 1))
    assert np.mean(_held(random, weights, k)) == pytest.approx(k / d_model, abs=0.02)
    planted = np.linalg.qr((np.eye(d_model)[:k] + 0.05 * rng.standard_normal((samples, k, d_model))).swapaxes(1, 2))
    assert np.mean(_held(planted[0].swapaxes(1, 2), weights, k)) > 0.85
    half = np.concatenate([planted[0].swapaxes(1, 2)[:, :1], random[:, :2]], axis=1)
    half = np.linalg.qr(half.swapaxes(1, 2))[0].swapaxes(1, 2)
    shares = _held(half, np.array([3.0, 0, 0]) * np.ones((samples, 1)), 1)
    assert shares.mean() > 0.85  # σ² says which modes count


def test_chance_of_the_stream_has_its_covariance() -> None:
    """One direction with most of the variance makes random subspaces alike; of an isotropic stream they are as k/d."""
    rng = np.random.default_rng(2)
    stream = rng.standard_normal((400, 30))
    level = _alike(draw_subspaces(stream, 2, np.random.default_rng(0))).value
    assert level == pytest.approx(2 / 30, abs=0.01)
    narrow = stream * np.array([100.0, *np.ones(29)])
    assert _alike(draw_subspaces(narrow, 2, np.random.default_rng(0))).value > 0.5
    assert not draw_subspaces(stream[:1], 2, rng).any()


LINES = [(["tale", "list"][n % 3 == 0], f"the {['ship', 'salt', 'bread'][n % 3]} of day {n}") for n in range(14)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes")
    make_small_model(folder / "model")
    (folder / "lines.csv").write_text("\n".join(["genre,says", *(f"{genre},{text}" for genre, text in LINES)]))
    said = ("data.samples=24", "data.max_tokens=12", "modes.k=3", "engine=lanczos", "report.figures=none")
    done = run_here("task=modes", "model=path", "model.path=model", *said, "hydra.run.dir=run", cwd=folder)
    assert done.code == 0, done.err
    return folder / "run"


def test_a_run_keeps_its_directions(finished: Path) -> None:
    run = open_run(finished)
    sites = list(dict.fromkeys(zip(run.metrics["layer"], run.metrics["component"], strict=True)))
    with np.load(finished / "vectors.npz") as stored:
        names = (READS, WRITES, STREAM, OUTPUT)
        assert {*stored.files} == {f"{layer}/{component}/{name}" for layer, component in sites for name in names}
        reads = stored["1/mlp/read_vectors"]
        assert reads.shape == (24, 3, 16)
        assert np.linalg.norm(reads, axis=2) == pytest.approx(1, abs=1e-5)
    assert run.dataset["group"].dims == ("layer", "component", "sample", "mode")
    assert run.provenance["modes"] == [1, 2, 3]
    assert "Chance are 499 directions" in (finished / "report.html").read_text()
    assert "derivative of the head (final norm)" in (finished / "report.html").read_text()
    modes = run.table("modes.csv")
    assert len(modes) == len(sites) * 3
    assert ((modes["read_cos"] > 0) & (modes["read_cos"] <= 1)).all()
    between = run.table("between.csv")
    assert {*between["what"]} == {"write-read", "read-read", "write-write", "m_K"}


def test_likeness_between_components_is_that_of_the_stored_vectors(finished: Path) -> None:
    """Cosines of principal angles by NumPy in float64, sample by sample, with its own and with another's."""
    run = open_run(finished)
    groups, table = run.dataset["group"], run.table("between.csv")

    def basis(layer: int, component: str, side: str) -> list[np.ndarray]:
        known = groups.sel(layer=layer, component=component).values != -1
        with np.load(finished / "vectors.npz") as stored:
            vectors = stored[f"{layer}/{component}/{side}_vectors"].astype(np.float64)
        return [own[rows] for own, rows in zip(vectors, known, strict=True)]

    def likeness(first: list[np.ndarray], second: list[np.ndarray]) -> float:
        pairs = [(a, b) for a, b in zip(first, second, strict=True) if len(a) and len(b)]
        cosines = [np.linalg.svd(a @ b.T, compute_uv=False) for a, b in pairs]
        return float(
            np.mean([(c**2).sum() / np.sqrt(len(a) * len(b)) for c, (a, b) in zip(cosines, pairs, strict=True)])
        )

    rows = table[table["what"] != "m_K"]
    assert len(rows) > 3
    for row in rows.itertuples():
        sides = str(row.what).split("-")
        left = basis(row.layer, row.component, sides[0])
        right = basis(row.next_layer, row.next_component, sides[1])
        assert row.mean == pytest.approx(likeness(left, right), rel=1e-4, abs=1e-6)
        assert row.other == pytest.approx(likeness(left, [right[-1], *right[:-1]]), rel=1e-4, abs=1e-6)


def test_angles_are_those_of_independent_pairs() -> None:
    """Each sample is in one pair; cosines by NumPy. One subspace has angles of zero, whatever its basis."""
    rng = np.random.default_rng(3)
    bases = _bases(rng, 9, 3, 12)
    bases[4] = 0
    bases[5, 2] = 0
    pairs = draw_pairs(bases, np.random.default_rng(0))
    used = [int(np.abs(bases[:, 0] - own[0]).sum(axis=1).argmin()) for pair in pairs for own in pair]
    assert sorted(used) == [0, 1, 2, 3, 5, 6, 7, 8]
    cosines = [np.linalg.svd(first @ second.T, compute_uv=False) for first, second in pairs]
    found = mean_angles(pairs)
    assert found.smallest.value == pytest.approx(np.rad2deg([np.arccos(each.max()) for each in cosines]).mean())
    assert found.largest.value == pytest.approx(np.rad2deg([np.arccos(each.min()) for each in cosines]).mean())
    assert found.largest.n == 4
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0] @ bases[0]
    assert mean_angles([(bases[0], turned)]).largest.value == pytest.approx(0, abs=1e-6)
    ranks = [(len(first), len(second)) for first, second in pairs]
    assert [(len(first), len(second)) for first, second in as_many_dimensions(pairs, bases[:2])] == ranks


def test_trailing_modes_hold_the_stream_behind_a_norm(finished: Path) -> None:
    """LayerNorm takes x and the constant direction to zero: there the stream lies; by NumPy from what is stored."""
    said = ("modes.k=2", "modes.trailing=3", "modes.words=0", "precision=float64", "report.figures=none")
    arguments = ("task=modes", "model=path", "model.path=model", *TINY, *said, "hydra.run.dir=trailing")
    done = run_here(*arguments, cwd=finished.parent)
    assert done.code == 0, done.err
    run = open_run(finished.parent / "trailing")
    numbers = [1, 2, -3, -2, -1]
    assert run.dataset["mode"].values.tolist() == numbers
    modes = run.table("modes.csv")
    assert modes["mode"].tolist() == numbers * 4
    along = (
        run.table("input_modes.csv")
        .set_index(["layer", "component", "source", "source_layer", "mode"])["mean"]
        .sort_index()
    )
    shared = run.table("input.csv").set_index(["layer", "component", "source"])["mean"]
    with np.load(run.folder / "vectors.npz") as stored:
        for layer, component in [(0, "attn"), (1, "mlp")]:
            reads, x = (stored[f"{layer}/{component}/{name}"] for name in (READS, STREAM))
            unit = x / np.linalg.norm(x, axis=1, keepdims=True)
            inside = np.square(np.einsum("smd,sd->sm", reads, unit))
            own = along[layer, component, "stream"].droplevel(0)
            assert own[[-2, -1]].sum() == pytest.approx(inside[:, 3:].sum(axis=1).mean(), rel=1e-6)
            assert own[[-2, -1]].sum() > 0.99
            assert own[[1, 2]].sum() == pytest.approx(shared[layer, component, "stream"], abs=1e-9)
    before_last = modes[modes["mode"] == -2]  # the last is the constant direction, which is exactly lost
    assert (before_last["known"] > 0).all()
    assert (before_last["input"] > 0.8).all()


def test_what_is_read_by_kind_of_token(finished: Path) -> None:
    """Shares of the mean stream and of earlier writes, and of each source, from what is stored; no norm hides them."""
    run = open_run(finished)
    kinds = run.table("kinds.csv").set_index(["layer", "component", "metric", "kind"])["mean"]
    groups = run.table("input_groups.csv")
    with np.load(finished / "vectors.npz") as stored:
        reads, x = stored["1/mlp/read_vectors"].astype(float), stored["1/mlp/stream"].astype(float)
        writes = {place: stored[f"{place[0]}/{place[1]}/output"] for place in [(0, "attn"), (0, "mlp"), (1, "attn")]}
    known = run.dataset["group"].sel(layer=1, component="mlp").values != UNKNOWN
    reads *= known[..., None]

    def share(vectors: np.ndarray) -> np.ndarray:
        inside = np.square(np.einsum("smd,sd->sm", reads, vectors.astype(float))).sum(axis=1)
        return np.where(known.any(axis=1), inside / np.square(vectors.astype(float)).sum(axis=1), np.nan)

    own = {"read_mean_stream": share(np.broadcast_to(x.mean(axis=0), x.shape))}
    own["read_writes"] = np.mean([share(each) for each in writes.values()], axis=0)
    labels = np.array(run.provenance["token_kinds"]["mlp"])
    for kind in {*labels}:
        for name, values in own.items():
            assert kinds[1, "mlp", name, kind] == pytest.approx(np.nanmean(values[labels == kind]), rel=1e-4)
        row = groups.query("layer == 1 and component == 'mlp' and source == 'attn' and source_layer == 0")
        row = row[(row["column"] == "kind") & (row["group"] == kind)]
        assert row["mean"].item() == pytest.approx(np.nanmean(share(writes[0, "attn"])[labels == kind]), rel=1e-4)
    assert kinds.loc[:, "mlp", "read_mean_stream"].min() > 1e-3 > kinds.loc[:, "mlp", "read_input"].max()
    assert "MLP: share of the mean stream in the reads" in (finished / "report.html").read_text()


def test_lines_end_at_layers_that_were_not_measured() -> None:
    line = pandas.Series([1.0, 2.0, 4.0], index=[0, 1, 3])
    axes = Figure().add_subplot()
    _line(axes, line, line / 10, "black", "")
    assert np.isnan(np.asarray(axes.lines[0].get_ydata())).tolist() == [False, False, True, False]
    _level(axes, line, ":", "black")
    assert np.asarray(axes.lines[2].get_xdata()).tolist() == [3]


@pytest.mark.parametrize(
    ("components", "layers"),
    [("mlp", "1"), *(pytest.param(*each, marks=pytest.mark.thorough) for each in (("attn", "0"), ("block", "1")))],
)
def test_one_component_of_one_layer_has_nothing_that_follows(components: str, layers: str, finished: Path) -> None:
    """The table of neighbours has no rows, and is read and drawn as such."""
    said = (f"components=[{components}]", f"layers=[{layers}]", "modes.words=0", "report.figures=[between]")
    folder = f"hydra.run.dir=alone_{components}"
    done = run_here("task=modes", "model=path", "model.path=model", *TINY, *said, folder, cwd=finished.parent)
    assert done.code == 0, done.err
    run = open_run(finished.parent / f"alone_{components}")
    assert not len(run.table("between.csv"))
    assert (
        "Nothing is measured that follows a component in its layer or the next."
        in (run.folder / "report.html").read_text()
    )
    figure = draw_between(run)
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words == [
        "no component that is measured\nfollows in this layer or the next",
        "no two layers that are measured\nfollow each other",
    ]
    assert figure.axes[0].get_xlim()[0] > int(layers) - 1  # not a layer that the run has not


def test_what_has_no_value_is_told_from_chance(finished: Path) -> None:
    """Cells of what is written later are grey, where white is as much as random directions have."""
    axes = draw_sources(open_run(finished)).axes[0]
    image = axes.images[0]
    missing = image.to_rgba(np.ma.asarray(image.get_array()))[..., 3] == 0
    assert np.array_equal(missing, np.tril(np.ones((4, 4), dtype=bool)))
    assert axes.get_facecolor()[:3] == (0.85, 0.85, 0.85)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (("modes.k=0",), "Accepted: k from 1"),
        (("modes.k=14", "modes.trailing=3"), "together at most 16"),
        (("modes.gap=1",), "is no share"),
        (("metrics=full", "engine=lanczos"), r"only, and (?!.*residual_gain).* need more"),
        (("modes.draws=0",), "draws=0 is below 1"),
        (("modes.trailing=1", "engine=lanczos"), "has no trailing modes.*engine=auto"),
        (("modes.check=true", "modes.check_layers=[7]"), "check_layers has 7. Accepted: 0 to 1"),
        (
            ("modes.labelled=lines.csv", "modes.text=says", "modes.labels=[genr]"),
            r"no column 'genr'.*modes.labels=\[NAME",
        ),
        (("modes.labelled=lines.csv", "modes.labels=[]"), "modes.labels is empty"),
    ],
)
def test_what_cannot_be_is_refused(said: tuple[str, ...], message: str, finished: Path) -> None:
    arguments = ("task=modes", "model=path", "model.path=model", *TINY, *said, "hydra.run.dir=refused")
    done = run_here(*arguments, cwd=finished.parent)
    assert done.code == 1
    assert re.search(message, " ".join(done.err.split())), done.err


def test_what_is_read_of_the_input_by_label(finished: Path) -> None:
    """The labels of the texts that were drawn, each group's mean by pandas from `metrics.csv`."""
    said = ("modes.labelled=lines.csv", "modes.text=says", "modes.labels=[genre]", "modes.words=0", "data.samples=12")
    arguments = ("task=modes", "model=path", "model.path=model", "report.figures=none", *said)
    done = run_here(*arguments, "modes.k=2", "hydra.run.dir=labelled", cwd=finished.parent)
    assert done.code == 0, done.err
    run = open_run(finished.parent / "labelled")
    genre_of = {text: genre for genre, text in LINES}
    texts = run.table("samples.csv").set_index("sample")["text"]
    metrics = run.metrics.assign(genre=[genre_of[texts[sample]] for sample in run.metrics["sample"]])
    expected = metrics.groupby(["layer", "component", "genre"])["residual_gain"].agg(["count", "mean"])
    rows = run.table("labels.csv")
    rows = rows[rows["metric"] == "residual_gain"].set_index(["layer", "component", "label"])
    assert {*rows["column"]} == {"genre"}
    assert len(rows) == len(expected) == 2 * len(expected.index.droplevel("genre").unique())
    np.testing.assert_allclose(rows["mean"], expected["mean"].reindex(rows.index))
    assert (rows["n"] == expected["count"].reindex(rows.index)).all()
    page = (run.folder / "report.html").read_text()
    assert "attention: spectral radius ρ = σ₁ by genre" in page
    assert re.search(r"tale \(n = \d+\)", page)
    assert "residual gain ‖J x̂‖ by genre" not in page  # behind a norm
    assert "lines.csv" in page


def test_directions_of_an_encoder_are_checked_at_a_mask(tmp_path: Path) -> None:
    """Samples end with a mask in the place of a token of theirs; writes go through later blocks."""
    sizes = ("hidden_size=16", "num_attention_heads=2", "intermediate_size=24", "num_hidden_layers=2")
    model = ("model=bert-base", "model.init=random", *(f"++model.config.{size}" for size in sizes))
    said = ("modes.check=true", "modes.through=depth", "modes.through_samples=3", "modes.k=2", "modes.draws=9")
    done = run_here("task=modes", *model, *TINY, *said, "report.figures=none", "hydra.run.dir=run", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "run")
    check = run.table("check.csv")
    assert {*check["kind"]} == {name + end for name in ("read", "write", "random", "principal") for end in ("", "_k")}
    assert (check.loc[check["change"] == "0.1", "kl"] > 0).all()
    assert {*run.provenance["token_kinds"]["mlp"]} == {"special"}
    page = " ".join((run.folder / "report.html").read_text().split())
    assert "that of the true masked token" in page
    assert "derivative of all later blocks and of the head (MLM head) at the last token of 3 samples" in page
    assert "What writes make likelier through all later blocks" in page or "of 8 have words" in page
    assert (run.table("own_words.csv").query("side == 'write'")["samples"] <= 3).all()


def test_what_the_last_block_writes_is_read_in_the_same_words_either_way(finished: Path) -> None:
    """Behind it is the head alone; of what earlier ones write other tokens come first."""
    said = ("data.samples=24", "data.max_tokens=12", "engine=lanczos", "modes.k=3", "modes.through=depth")
    model = ("model=path", "model.path=model")
    done = run_here("task=modes", *model, *said, "report.figures=none", "hydra.run.dir=deep", cwd=finished.parent)
    assert done.code == 0, done.err
    direct, deep = (open_run(folder).table("own_words.csv") for folder in (finished, finished.parent / "deep"))
    close = (direct["layer"] == 1) & (direct["component"] == "mlp") | (direct["side"] == "read")
    names = ["first", "times", "tokens"]
    pandas.testing.assert_frame_equal(direct.loc[close, names], deep.loc[close, names])
    np.testing.assert_allclose(direct.loc[close, "strongest"], deep.loc[close, "strongest"], rtol=1e-5)
    assert not direct.loc[~close, "tokens"].eq(deep.loc[~close, "tokens"]).all()
