"""`task=weights`: closed cases, roles against the file itself, bad matrices, any checkpoint, going on after a kill."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from servers import run_here

import jacspec
from jacspec import load_model, open_run
from jacspec.axes import Row
from jacspec.backend import numerics
from jacspec.config import ASSETS
from jacspec.errors import JacspecError
from jacspec.models.matrices import (
    Choice,
    Layout,
    LeftOut,
    Listed,
    Matrix,
    in_batches,
    lay_out,
    list_model,
    list_tensors,
    stream_model,
    stream_tensors,
)
from jacspec.models.tensor_files import open_tensors
from jacspec.runs import Run
from jacspec.spectra.weight_metrics import SCALING
from jacspec.studies import STUDIES
from jacspec.studies import run as task
from jacspec.studies.weights.figures import matrix_figures
from jacspec.studies.weights.measure import measure_all, measure_batch, within_range
from jacspec.studies.weights.run import spectral_metrics

RNG = np.random.default_rng(0)
GAUSSIAN = RNG.normal(size=(60, 90)).astype(np.float32)
CASES: dict[str, np.ndarray] = {
    "two": np.array([[3, 2], [2, 3]], np.float32),
    "diagonal": np.pad(np.diag([3, 2, 1]).astype(np.float32), [(0, 0), (0, 1)]),
    "counting": np.arange(1, 13, dtype=np.float32).reshape(3, 4),
    "rank one": np.outer(np.arange(1, 31), np.arange(1, 41)).astype(np.float32),
    "hidden rank two": (RNG.normal(size=(50, 2)) @ RNG.normal(size=(2, 70))).astype(np.float32),
    "decaying": (
        np.linalg.qr(RNG.normal(size=(80, 80)))[0]
        * np.arange(1, 81) ** -1.0
        @ np.linalg.qr(RNG.normal(size=(80, 80)))[0]
    ).astype(np.float32),
    "gaussian": GAUSSIAN,
    "spiked": GAUSSIAN + np.outer(np.full(60, 2.0), np.full(90, 1.0)).astype(np.float32),
    "zero": np.zeros((20, 30), np.float32),
    "constant": np.full((20, 30), 2.0, np.float32),
    "with nan": np.where(np.eye(20, 30) > 0, np.nan, 1.0).astype(np.float32),
    "row": np.arange(1, 8, dtype=np.float32)[None],
    "kernel": RNG.normal(size=(8, 4, 3, 3)).astype(np.float32),
    "bias": np.ones(5, np.float32),
    "ids": np.arange(12).reshape(3, 4),
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over tensors of no family, in a folder without a config."""
    cwd = tmp_path_factory.mktemp("cases")
    (cwd / "any").mkdir()
    safetensors.numpy.save_file(
        {f"layers.3.{name}": array for name, array in CASES.items()}, cwd / "any" / "vision.safetensors"
    )
    done = run_here(
        "task=weights",
        "model=path",
        "model.path=any",
        "hydra.run.dir=out",
        "metrics=full",
        "precision=float64",
        cwd=cwd,
    )
    assert done.code == 0, done.err
    assert "read by tensor name, because:" in done.out
    assert "not a floating point tensor: I64" in done.out
    return open_run(cwd / "out")


def _row(run: Run, name: str) -> Any:
    return run.metrics.set_index("name").loc[f"layers.3.{name}"]


def _sigma(run: Run, name: str) -> np.ndarray:
    place = run.dataset["name"].values.tolist().index(f"layers.3.{name}")
    values = run.dataset["singular_values"].values[place]
    return values[np.isfinite(values)]


def test_closed_cases(cases: Run) -> None:
    np.testing.assert_allclose(_sigma(cases, "two"), [5, 1], rtol=1e-12)
    np.testing.assert_allclose(_sigma(cases, "diagonal"), [3, 2, 1], rtol=1e-12)
    np.testing.assert_allclose(_sigma(cases, "counting"), [25.4368356, 1.72261225, 0], atol=1e-7)
    assert _row(cases, "rank one")["numerical_rank"] == 1
    assert _row(cases, "rank one")["stable_rank"] == pytest.approx(1, rel=1e-9)
    # The entries are rounded to float32: a rank of two and rounding.
    assert _sigma(cases, "hidden rank two")[2] < 1e-5 * _sigma(cases, "hidden rank two")[1]
    np.testing.assert_allclose(_sigma(cases, "decaying"), np.arange(1, 81) ** -1.0, rtol=1e-4)


def test_every_matrix_equals_numpy(cases: Run) -> None:
    for name, array in CASES.items():
        if array.ndim < 2 or name in ("ids", "with nan"):
            continue
        matrix = array.reshape(len(array), -1).astype(np.float64)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(_sigma(cases, name), expected, atol=1e-12 * max(expected[0], 1))
        row = _row(cases, name)
        assert (row["rows"], row["cols"], row["layer"], row["role"]) == (*matrix.shape, 3, "other")
        if expected[0] > 0:
            assert row["spectral_radius"] == pytest.approx(expected[0], rel=1e-12)
            assert row["log_spectral_norm"] == pytest.approx(2 * np.log10(expected[0]), abs=1e-10)
            assert row["frobenius_norm"] == pytest.approx(np.linalg.norm(matrix), rel=1e-12)


def test_bad_matrices_have_missing_values_with_a_reason(cases: Run) -> None:
    reasons = {name: _row(cases, name)["reason"] for name in ("zero", "constant", "with nan", "row", "two")}
    assert "all zero" in reasons["zero"]
    assert "all entries equal" in reasons["constant"]
    assert "not finite" in reasons["with nan"]
    assert "one singular value" in reasons["row"]
    assert "too few values for a tail" in reasons["two"]
    assert np.isnan(_row(cases, "with nan")["spectral_radius"])
    assert np.isnan(_row(cases, "zero")["alpha"])
    assert np.isnan(_row(cases, "constant")["largest_p"])
    assert _row(cases, "constant")["spectral_radius"] == pytest.approx(2 * np.sqrt(600))
    good = _row(cases, "spiked")
    assert np.isfinite(good[["alpha", "largest_p", "smallest_p", "bulk_distance", "rand_distance"]].astype(float)).all()


def test_spike_stands_out_of_chance(cases: Run) -> None:
    spiked, gaussian = _row(cases, "spiked"), _row(cases, "gaussian")
    assert spiked["outliers_above"] >= 1
    assert spiked["largest_p"] < 1e-6
    assert gaussian["largest_p"] > 1e-3
    assert gaussian["smallest_p"] > 1e-3
    assert gaussian["bulk_share"] == pytest.approx(1, abs=0.05)
    assert gaussian["mp_high"] == pytest.approx(GAUSSIAN.std() * (np.sqrt(90) + np.sqrt(60)), rel=1e-6)
    decaying = _row(cases, "decaying")
    assert decaying["rand_distance"] > 10 * gaussian["rand_distance"]


def test_convolution_kernel_is_flattened_as_stated(cases: Run) -> None:
    expected = np.linalg.svd(CASES["kernel"].reshape(8, -1).astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(_sigma(cases, "kernel"), expected, rtol=1e-12)


LAYOUTS: dict[str, tuple[str, tuple[int, ...], str, Layout | None]] = {
    "gpt-oss": ("model.layers.0.mlp.experts.gate_up_proj", (4, 64, 128), "auto", Layout("experts", 4, (64, 128))),
    "Llama 4": ("layers.0.feed_forward.experts.down_proj", (16, 8, 4), "auto", Layout("experts", 16, (8, 4))),
    "Granite": ("layers.0.block_sparse_moe.input_linear.weight", (8, 40, 6), "auto", Layout("experts", 8, (40, 6))),
    "Qwen 3 VL": ("language_model.layers.1.mlp.experts.gate_up_proj", (2, 5, 9), "auto", Layout("experts", 2, (5, 9))),
    "W_Q of all heads": ("blocks.0.attn.W_Q", (12, 768, 64), "auto", Layout("experts", 12, (768, 64))),
    "wav2vec": ("feature_extractor.conv_layers.0.conv.weight", (512, 1, 10), "auto", Layout("kernel", 1, (512, 10))),
    "positions of wav2vec": ("pos_conv_embed.conv.weight_v", (768, 48, 128), "auto", Layout("kernel", 1, (768, 6144))),
    "Whisper": ("encoder.conv1.weight", (384, 80, 3), "auto", Layout("kernel", 1, (384, 240))),
    "Mamba": ("layers.0.mixer.conv1d.weight", (1536, 1, 4), "auto", Layout("kernel", 1, (1536, 4))),
    "kernel by its shape": ("encoder.0.weight", (32, 16, 5), "auto", Layout("kernel", 1, (32, 80))),
    "kernel of an expert": ("experts.3.conv.weight", (32, 16, 5), "auto", Layout("kernel", 1, (32, 80))),
    "patches": ("patch_embed.proj.weight", (1152, 3, 2, 16, 16), "auto", Layout("kernel", 1, (1152, 1536))),
    "positions of ViT": ("embeddings.position_embeddings", (1, 197, 768), "auto", Layout("matrix", 1, (197, 768))),
    "plain": ("layers.0.mlp.experts.0.w1.weight", (30, 20), "auto", Layout("matrix", 1, (30, 20))),
    "kernel, chosen": ("layers.0.mlp.experts.w1", (4, 64, 128), "kernel", Layout("kernel", 1, (4, 8192))),
    "experts, chosen": ("conv.weight", (8, 4, 3), "experts", Layout("experts", 8, (4, 3))),
    "a kernel of four axes, experts chosen": ("conv.weight", (8, 4, 3, 3), "experts", Layout("kernel", 1, (8, 36))),
    "left out, chosen": ("conv.weight", (8, 4, 3), "skip", None),
    "plain, others left out": ("up.weight", (8, 4), "skip", Layout("matrix", 1, (8, 4))),
}


@pytest.mark.parametrize(("name", "shape", "stacked", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_tensors_are_laid_out_by_name_and_shape(
    name: str, shape: tuple[int, ...], stacked: str, expected: Layout | None
) -> None:
    assert lay_out(name, shape, stacked) == expected


EXPERTS = {
    "layers.0.experts.gate_up_proj": RNG.normal(size=(3, 12, 20)).astype(np.float32),
    "layers.0.experts.gate_up_proj_bias": np.ones((3, 20), np.float32),
    "layers.0.conv1d.weight": RNG.normal(size=(12, 4, 3)).astype(np.float32),
    "layers.0.cls_token": np.ones((1, 1, 9), np.float32),
}


def test_each_expert_is_a_matrix_of_its_own_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "write_report", lambda *_, **__: None)
    (tmp_path / "any").mkdir()
    safetensors.numpy.save_file(EXPERTS, tmp_path / "any" / "model.safetensors")
    done = run_here("task=weights", "model=path", "model.path=any", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "layers.*.experts.gate_up_proj [3, 12, 20], 1 taken for 3 matrices [12, 20] each" in done.out
    assert "layers.*.conv1d.weight [12, 4, 3], 1 taken for kernels, one matrix [12, 12] each" in done.out
    assert "left out, 1: stacked vectors" in done.out
    table = open_run(tmp_path / "out").metrics.set_index("name")
    assert len(table) == 4
    for number, matrix in enumerate(EXPERTS["layers.0.experts.gate_up_proj"]):
        row = table.loc[f"layers.0.experts.gate_up_proj[{number}]"]
        assert (row["layer"], row["role"], row["rows"], row["cols"]) == (0, "other", 12, 20)
        assert row["spectral_radius"] == pytest.approx(np.linalg.norm(matrix.astype(np.float64), 2), rel=1e-6)


@pytest.mark.parametrize(("stacked", "count"), [("auto", 4), ("experts", 15), ("kernel", 2), ("skip", 0)])
def test_what_is_stacked_can_be_chosen(stacked: str, count: int, tmp_path: Path) -> None:
    safetensors.numpy.save_file(EXPERTS, tmp_path / "model.safetensors")
    tensors, choice = open_tensors(tmp_path), Choice(stacked=stacked)
    streamed = list(stream_tensors(tensors, choice))
    matrices = [each for each in streamed if isinstance(each, Matrix)]
    assert len(matrices) == count
    listed = list(list_tensors(tensors, choice))
    assert [each[:3] for each in listed if isinstance(each, Listed)] == [each[:3] for each in matrices]
    left_out = [each for each in listed if isinstance(each, LeftOut)]
    assert left_out == [each for each in streamed if isinstance(each, LeftOut)]
    assert {each.name: each.reason for each in left_out}["layers.0.experts.gate_up_proj_bias"].startswith("stacked")
    assert sum(each.values.size for each in matrices) == (0 if stacked == "skip" else 3 * 12 * 20 + 12 * 4 * 3)


EXTREMES = {
    "large": ("float32", 84, "float32"),
    "at the end of float32": ("float32", 125, "float32"),
    "small": ("float32", -100, "float32"),
    "subnormal": ("float32", -140, "float32"),
    "beyond float32": ("float64", 600, "float32"),
    "beyond its squares": ("float64", 600, "float64"),
    "below its squares": ("float64", -900, "float64"),
    "bfloat16": ("bfloat16", 100, "float32"),
}


@pytest.mark.parametrize(("dtype", "exponent", "precision"), EXTREMES.values(), ids=EXTREMES)
def test_extreme_scales_change_metrics_by_their_laws_alone(dtype: str, exponent: int, precision: str) -> None:
    """Of a matrix of small integers, whose product with a power of two is exact in every type."""
    plain = np.random.default_rng(5).integers(-7, 8, size=(30, 20)).astype(np.float64)
    scaled = np.ldexp(plain, exponent).astype(jnp.dtype(dtype))
    names = spectral_metrics(["full"])
    options: dict[str, Any] = {"top_k": 3, "null": "shuffled", "seed": 0}
    with numerics(precision):
        (here,), (there,) = (
            measure_batch([(0, within_range(Matrix(0, "other", "w", values), precision))], names, **options)
            for values in (plain, scaled)
        )
    expected = np.ldexp(np.linalg.svd(plain, compute_uv=False), exponent)
    np.testing.assert_allclose(there.arrays["singular_values"].astype(np.float64), expected, rtol=1e-5)
    assert there.values["frobenius_norm"] == pytest.approx(np.ldexp(np.linalg.norm(plain), exponent), rel=1e-6)
    for name, value in here.values.items():
        found = there.values[name]
        if name in ("log_spectral_norm", "log_alpha_norm", "alpha_weighted", "alpha_weighted_null"):
            alpha = here.values["alpha_null" if name.endswith("null") else "alpha"]
            power = 1.0 if name == "log_spectral_norm" else alpha
            assert found == pytest.approx(value + power * 2 * exponent * np.log10(2), rel=1e-9), name
            continue
        want = np.ldexp(value, exponent * SCALING.get(name, 0)) if abs(exponent) < 500 or name != "x_min" else np.nan
        assert found == pytest.approx(want, rel=1e-6, nan_ok=True), name
    assert there.reason == ("x_min is beyond what float64 holds" if abs(exponent) > 500 else here.reason)


def test_columns_that_grow_with_a_matrix_are_said_to_be_scales() -> None:
    """So that their changes through training are ratios."""
    columns = STUDIES["weights"].columns
    powers = {name for name, power in SCALING.items() if power and name in columns}
    assert {name for name, words in columns.items() if words.scale} == powers > {"x_min", "norms_high"}


def test_figures_and_page(cases: Run) -> None:
    drawn = {file.stem for file in (cases.folder / "figures").glob("*.png")}
    figures = matrix_figures(cases)
    assert drawn == {name for name, plot in figures.items() if not plot.on_request}
    assert {"metrics_2", "metrics_3"} <= figures.keys() - drawn
    assert {"spectra", "bulk", "bulk_of_layer", "tails", "one_matrix", "metrics"} <= drawn
    page = (cases.folder / "report.html").read_text(encoding="utf-8")
    assert "Marchenko" in page
    assert "report.figures=[metrics_2,metrics_3" in page
    assert "a vector: bias, norm or scalar" in page


def test_a_bulk_without_outliers_can_be_drawn(tmp_path: Path) -> None:
    """Matplotlib warned that its panels had collapsed, and a warning is an error here."""
    small = (
        "model=gpt2",
        "model.init=random",
        *(f"model.config.{key}" for key in ("n_embd=16", "n_layer=1", "n_head=2")),
    )
    done = run_here("task=weights", *small, "weights.against=none", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    table = open_run(tmp_path / "out").metrics
    assert (table["outliers_above"] + table["outliers_below"] == 0).any()


def test_roles_are_those_of_the_file() -> None:
    """The fused tensor's parts, transposed, by hand from the file; swapped parts would not pass."""
    model = load_model("nano")
    stored = open_tensors(ASSETS / "nano")
    d_model = model.spec.d_model
    found = {(each.layer, each.role): each for each in stream_model(model, Choice()) if isinstance(each, Matrix)}
    whole = np.asarray(stored.read("transformer.h.2.attn.c_attn.weight"), np.float32).T
    for index, role in enumerate("qkv"):
        part = whole[index * d_model : (index + 1) * d_model]
        np.testing.assert_array_equal(found[2, role].values.astype(np.float32), part)
    np.testing.assert_array_equal(found[2, "qkv"].values.astype(np.float32), whole)
    assert found[2, "qkv"].blocks == (d_model,) * 3
    assert found[2, "q"].blocks == ()
    up = np.asarray(stored.read("transformer.h.5.mlp.c_fc.weight"), np.float32).T
    np.testing.assert_array_equal(found[5, "up"].values.astype(np.float32), up)
    assert {role for _, role in found} == {"q", "k", "v", "qkv", "o", "up", "down"}


def test_nothing_is_skipped_without_a_word() -> None:
    model = load_model("nano")
    assert model.tensors is not None
    for choice in (Choice(), Choice(embeddings=True), Choice(include=["up"]), Choice(exclude=["*.attn.*"])):
        found = list(stream_model(model, choice))
        named = {each.name for each in found}
        assert set(model.tensors.index) <= named
        refused = {each.name for each in found if isinstance(each, LeftOut)}
        assert not refused & {each.name for each in found if isinstance(each, Matrix)}
    wanted = {each.role for each in stream_model(model, Choice(include=["up", "q"])) if isinstance(each, Matrix)}
    assert wanted == {"up", "q"}
    taken = {each.role for each in stream_model(model, Choice(embeddings=True)) if isinstance(each, Matrix)}
    assert "embed" in taken


def test_what_is_listed_is_what_is_streamed() -> None:
    """In the same order, without a tensor being read; a fused tensor is whole once, its parts are not."""
    model = load_model("nano")
    assert model.tensors is not None
    for choice in (Choice(), Choice(embeddings=True), Choice(include=["q", "qkv", "*.mlp.*"])):
        streamed = [each[:3] for each in stream_model(model, choice) if isinstance(each, Matrix)]
        listed = [each for each in list_model(model, choice) if isinstance(each, Listed)]
        assert [each[:3] for each in listed] == streamed
        assert {each.role for each in listed if not each.whole} <= set("qkv")
        assert {each.role for each in listed if each.whole} & {"q", "k", "v"} == set()
        assert [each for each in list_model(model, choice) if isinstance(each, LeftOut)] == [
            each for each in stream_model(model, choice) if isinstance(each, LeftOut)
        ]
    by_name = [each[:3] for each in stream_tensors(model.tensors, Choice()) if isinstance(each, Matrix)]
    assert [each[:3] for each in list_tensors(model.tensors, Choice()) if isinstance(each, Listed)] == by_name


def test_a_checkpoint_read_by_name_gives_the_same_tensors() -> None:
    by_name = {
        each.name: each.values
        for each in stream_tensors(open_tensors(ASSETS / "nano"), Choice())
        if isinstance(each, Matrix)
    }
    assert by_name["transformer.h.0.mlp.c_fc.weight"].shape == (96, 384)
    layers = [
        each.layer for each in stream_tensors(open_tensors(ASSETS / "nano"), Choice()) if isinstance(each, Matrix)
    ]
    assert layers == sorted(layers, key=lambda layer: -1 if layer is None else layer) or None in layers


def test_batches_hold_one_shape_and_little_memory() -> None:
    sizes = [(30, 20), (20, 30), (10, 10), (30, 20), (50, 50)]
    listed = [(i, Matrix(0, "other", str(i), np.zeros(size, np.float32))) for i, size in enumerate(sizes)]
    batches = list(in_batches(iter(listed), memory_bytes=1e9))
    assert sorted(number for batch in batches for number, _ in batch) == [0, 1, 2, 3, 4]
    assert {tuple(sorted(matrix.values.shape)) for _, matrix in batches[0]} == {(20, 30)}
    assert all(len(batch) == 1 for batch in in_batches(iter(listed), memory_bytes=1.0))


def test_reading_ahead_changes_nothing_and_hides_no_error() -> None:
    rng = np.random.default_rng(7)
    listed = [(i, Matrix(0, "other", str(i), rng.normal(size=(30, 20 + i)).astype(np.float32))) for i in range(4)]
    options: dict[str, Any] = {"top_k": 3, "null": "gaussian", "seed": 0}
    names = ("spectral_radius", "stable_rank")

    def measured(matrices: Any) -> Iterator[list[Row]]:
        return measure_all(matrices, names, precision="float32", memory_bytes=1.0, **options)

    for (result,), each in zip(measured(iter(listed)), listed, strict=True):
        (alone,) = measure_batch([each], names, **options)
        assert result.number == alone.number == each[0]
        np.testing.assert_array_equal(result.arrays["singular_values"], alone.arrays["singular_values"])
        assert result.values == pytest.approx(alone.values, rel=0, abs=0, nan_ok=True)

    def broken() -> Iterator[tuple[int, Matrix]]:
        yield from listed[:2]
        raise JacspecError("the file ends here")

    with pytest.raises(JacspecError, match="ends here"):
        list(measured(broken()))


SMALL = ("task=weights", "weights.include=[q,up]")


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ("weights.include=[nothing]", "No matrix is left"),
        ("metrics.names=[residual_gain]", "concern Jacobians"),
        ("weights.against=other", "against"),
        ("model=path model.path=nowhere", "is not a folder"),
        ("weights.show_role=zzz", "weights.show_role=zzz is the role of no matrix in layer 0. Accepted: down, k, o, q"),
        ("weights.show_role=up weights.include=[q]", "show_role=up is the role of no matrix in layer 0. Accepted: q."),
        ("weights.show_layer=99", "weights.show_layer=99 is the layer of no matrix. Accepted: 0, 1, 2, 3, 4, 5."),
        ("weights.show_layer=2 layers=[1,3]", "weights.show_layer=2 is the layer of no matrix. Accepted: 1, 3."),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here("task=weights", *wrong.split(), "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err
    if "show_" in wrong:
        assert not (tmp_path / "no").exists()  # before anything is measured


@pytest.fixture(scope="module")
def two_roles() -> jacspec.Run:
    """Layers 1 and 3 of square q and of up, which is not square and the one that is shown."""
    shown: dict[str, Any] = {"show_role": "up", "extra": ["eigenvalues"]}
    return jacspec.weights("nano", include=["q", "up"], layers=[1, 3], against="none", silent=True, **shown)


@pytest.mark.parametrize("name", ["spectra", "bulk", "bulk_of_layer", "tails"])
def test_label_of_one_row_of_panels_fits(name: str, two_roles: jacspec.Run) -> None:
    figure = two_roles.plot(name)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    label = next(text for text in figure.texts if text.get_rotation() == 90)
    extent = label.get_window_extent(canvas.get_renderer())
    assert extent.y0 >= 0
    assert extent.y1 <= figure.bbox.height
    label.set_text(label.get_text().replace("\n", " ") + " and more words than one row of panels can have beside it")
    assert label.get_window_extent(canvas.get_renderer()).height > figure.bbox.height, "the oracle sees long ones"


def test_eigenvalues_are_not_those_of_another_role(two_roles: jacspec.Run) -> None:
    figure = two_roles.plot("eigenvalues")
    assert "up is not square" in str(figure.get_suptitle())
    assert not figure.axes[0].collections


def test_default_layer_is_the_first_that_there_is(two_roles: jacspec.Run, tmp_path: Path) -> None:
    """And a run that is resumed may show another; the panel beside is of W Wᵀ."""
    figure = two_roles.plot("one_matrix")
    assert "h.1.mlp" in str(figure.get_suptitle())
    assert figure.axes[2].get_ylabel().endswith("of $W W^T$")
    small: dict[str, Any] = {
        "include": ["q"],
        "layers": [1, 3],
        "against": "none",
        "silent": True,
        "folder": tmp_path / "run",
    }
    jacspec.weights("nano", **small)
    assert "h.3.attn" in str(jacspec.weights("nano", show_layer=3, **small).plot("one_matrix").get_suptitle())
    with pytest.raises(JacspecError, match="show_layer=2"):
        jacspec.weights("nano", show_layer=2, **small)


@pytest.mark.parametrize("revision", ["step0"])
def test_random_weights_are_chance(revision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before training, the weights of nano are Gaussian: p-values are spread, the bulk is all of the variance."""
    monkeypatch.setattr(task, "write_report", lambda *_, **__: None)
    done = run_here(
        "task=weights", f"model.revision={revision}", "weights.exclude=[o,down]", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    table = open_run(tmp_path / "out").metrics
    assert table["largest_p"].between(1e-4, 1).all()
    # Of Gaussian square matrices one in a hundred is said to have no bulk.
    assert table["bulk_share"].isna().sum() <= 2
    assert table["bulk_share"].dropna().between(0.95, 1.05).all()
    assert table["norms_largest_p"].gt(1e-4).all()
    assert table["outliers_above"].sum() <= 3
