"""Differences between runs against SciPy's tests and closed forms; `task=compare` against the runs' own tables."""

import json
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas
import pytest
import scipy.stats
from matplotlib.patches import Rectangle
from servers import assert_refused, run_here

from jacspec import open_run
from jacspec.runs.several import layers_of, open_runs
from jacspec.spectra.significance import adjust_for_many, compare_means, noise_floor, sign_floor, split_half_floor
from jacspec.studies.compare.run import references
from jacspec.studies.compare.side_by_side import side_by_side, singular_value_law


def _correlated(units: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    left = rng.lognormal(size=(units, 3))
    return left, left + 0.3 * rng.normal(size=left.shape) + np.array([0.0, 0.1, 0.5])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("units", [8, 60])
def test_intervals_and_p_values_equal_scipys(units: int, paired: bool) -> None:
    left, right = _correlated(units)
    found, other = (compare_means(left, right, paired=choice) for choice in (paired, not paired))
    expected = scipy.stats.ttest_rel(right, left) if paired else scipy.stats.ttest_ind(right, left, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.difference, right.mean(axis=0) - left.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high], rtol=1e-9)
    # Were pairs taken for strangers, or strangers for pairs, the interval would be another.
    assert (np.abs(other.low - interval.low) > 0.2 * (interval.high - interval.low)).all()


@pytest.mark.parametrize(("kind", "units"), [("normal", 30), ("lognormal", 30), ("normal", 120), ("lognormal", 120)])
def test_as_many_are_covered_as_stated(kind: str, units: int) -> None:
    """Of 30 lognormal pairs the percentiles of a bootstrap covered 0.914, and p ≤ 1 % came in 2.7 %."""
    rng = np.random.default_rng(4)
    left, right, noise = rng.normal(size=(3, units, 3000))
    pair = left + 0.3 * noise
    if kind == "lognormal":
        left, right, pair = np.exp(left), np.exp(right), np.exp(pair - 0.3**2 / 2)
    for other in (right, pair):
        found = compare_means(left, other, paired=other is pair)
        assert 0.935 < ((found.low <= 0) & (found.high >= 0)).mean() < 0.985
        assert (found.p_value <= 0.01).mean() < 0.016


def test_units_that_differ_by_the_same_have_the_p_value_of_their_signs() -> None:
    found = compare_means(np.zeros((8, 2)), np.tile([1.0, 0.0], (8, 1)), paired=True)
    assert found.p_value.tolist() == [2**-7, 1]
    assert found.low.tolist() == found.high.tolist() == [1, 0]


def test_false_positives_are_as_many_as_stated() -> None:
    rng = np.random.default_rng(1)
    for paired in (True, False):
        left, right = rng.normal(size=(2, 120, 1500))
        p_values = compare_means(left, right, paired=paired).p_value
        assert 0.035 < (p_values < 0.05).mean() < 0.07
        moved = compare_means(left, right + 0.5, paired=paired).p_value
        assert (moved < 0.05).mean() > 0.9


def test_noise_floor_of_normal_values() -> None:
    """The means of two halves of n values of variance 1 differ by N(0, 4/n)."""
    for units in (40, 100):
        values = 3 + np.random.default_rng(2).normal(size=(units, 600))
        values = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
        floor = split_half_floor(values, draws=2000, seed=0)
        assert floor.mean() == pytest.approx(1.96 * 2 / units**0.5, rel=0.02)
        assert floor.mean() != pytest.approx(1.96 / units**0.5, rel=0.3)  # what the whole run's error would give


def test_noise_floor_of_pairs_is_that_of_their_differences() -> None:
    """What SciPy's permutation of the two of each pair gives; split halves of one run are far above it."""
    left, right = _correlated(40)
    found = noise_floor(left, right, paired=True, draws=4000, seed=0)

    def mean(one: np.ndarray, other: np.ndarray, axis: int) -> np.ndarray:
        return np.abs((other - one).mean(axis=axis))

    drawn = scipy.stats.permutation_test(
        (left, right), mean, permutation_type="samples", n_resamples=4000, rng=1
    ).null_distribution
    np.testing.assert_allclose(found, np.quantile(drawn, 0.95, axis=0), rtol=0.06)
    apart = noise_floor(left, right, paired=False, draws=4000, seed=0)
    np.testing.assert_array_equal(apart, np.fmax(*(split_half_floor(e, draws=4000, seed=0) for e in (left, right))))
    assert (apart > 3 * found).all()
    holed = right - left
    holed[3, 0] = np.nan
    assert sign_floor(holed, draws=4000, seed=0)[0] == pytest.approx(found[0], rel=0.2)


def test_missing_values_are_left_out() -> None:
    left, right = _correlated()
    holed = right.copy()
    holed[:7, 1] = np.nan
    whole = compare_means(left[7:], right[7:], paired=True)
    found = compare_means(left, holed, paired=True)
    assert found.difference[1] == pytest.approx(whole.difference[1], rel=1e-12)
    assert found.low[1] == pytest.approx(whole.low[1], rel=1e-12)
    holed[:, 1] = np.nan
    empty = compare_means(left, holed, paired=False)
    assert np.isnan([column[1] for column in empty]).all()
    assert np.isfinite([column[0] for column in empty]).all()


def test_few_units_tell_nothing() -> None:
    left, right = _correlated(5)
    found = compare_means(left, right, paired=True)
    assert np.isfinite(found.difference).all()
    assert np.isnan([found.low, found.high, found.p_value]).all()
    for paired in (True, False):
        assert np.isnan(noise_floor(left, right, paired=paired, draws=200, seed=0)).all()
    with pytest.raises(ValueError, match="differ in shape"):
        compare_means(left, right[:3], paired=True)


def test_adjustment_by_hand() -> None:
    """Benjamini and Hochberg: p · m / rank, made monotone from the largest down."""
    found = adjust_for_many(np.array([0.01, np.nan, 0.02, 0.9, 0.03]))
    np.testing.assert_allclose(found, [0.04, np.nan, 0.04, 0.9, 0.04])


UNDRAWN = ("report.figures=none",)
SWEEP = (
    "data.samples=8",
    "data.max_tokens=16",
    "engine=jacfwd",
    "metrics.names=[spectral_radius,stable_rank]",
    "jacobian.linearity=[]",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two revisions of nano by two seeds, and a smaller random model."""
    folder = tmp_path_factory.mktemp("runs")
    sweep = ("-m", "model.revision=step0,null", "seed=0,1", *SWEEP, "hydra.sweep.dir=sweep")
    with mock.patch("jacspec.studies.run.write_report"):  # of no concern here
        assert run_here(*sweep, cwd=folder).code == 0
        sizes = (f"model.config.{key}" for key in ("n_embd=24", "n_layer=3", "n_head=2"))
        small = ("model=gpt2", "model.init=random", *sizes, "hydra.run.dir=other")
        assert run_here(*small, *SWEEP, cwd=folder).code == 0
    return folder


def test_runs_are_found_and_told_apart(runs: Path) -> None:
    found, left_out = open_runs([runs / "sweep", runs / "other", runs / "sweep" / "1"])
    assert [each.label for each in found] == [
        "nano, step0, pretrained, seed=0",
        "nano, step0, pretrained, seed=1",
        "nano, last, pretrained, seed=0",
        "nano, last, pretrained, seed=1",
        "gpt2, random, seed=0",
    ]
    assert left_out == {}
    assert references(found, 0) == [0, 0, 0, 1, 0]
    assert references(found, 3) == [2, 3, 3, 3, 2]
    layers = layers_of(found[4].run, ["spectral_radius"])
    assert [(each.component, each.layer, each.depth) for each in layers[:4:2]] == [("attn", 0, 0.0), ("attn", 1, 0.5)]


def test_comparison_equals_its_runs(runs: Path) -> None:
    done = run_here("task=compare", "runs=[sweep,other]", "compare.draws=500", "hydra.run.dir=out", cwd=runs)
    assert done.code == 0, done.err
    assert "warning" not in done.out
    run = open_run(runs / "out")
    folders = [*(runs / "sweep" / str(number) for number in range(4)), runs / "other"]
    tables = [pandas.read_csv(folder / "metrics.csv") for folder in folders]
    for row in run.metrics.to_dict("records"):
        own = tables[row["run"]]
        values = own[(own["layer"] == row["layer"]) & (own["component"] == row["component"])][row["metric"]]
        assert row["mean"] == pytest.approx(values.mean(), rel=1e-12)
        assert row["median"] == pytest.approx(values.median(), rel=1e-12)
        assert row["n"] == 8
        assert row["depth"] == pytest.approx(row["layer"] / (2 if row["run"] == 4 else 5))
    differences = run.table("differences.csv")
    assert set(zip(differences["run"], differences["against"], strict=True)) == {(1, 0), (2, 0), (3, 1), (4, 0)}
    for row in differences.to_dict("records"):
        pair = [
            table[(table["layer"] == layer) & (table["component"] == row["component"])][row["metric"]].to_numpy()
            for table, layer in ((tables[row["against"]], row["against_layer"]), (tables[row["run"]], row["layer"]))
        ]
        assert row["difference"] == pytest.approx(pair[1].mean() - pair[0].mean(), abs=1e-12)
        assert row["paired"] == int(row["run"] != 1)  # another seed draws other sentences
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["floor"] > 0
    assert {row["against_layer"] for row in differences[differences["run"] == 4].to_dict("records")} == {0, 2, 5}
    page = (runs / "out" / "report.html").read_text(encoding="utf-8")
    assert "nano, last, pretrained, seed=1" in page
    assert "of 84 differences by layer are beyond the noise floor" in page
    names = {"spectral_radius", "stable_rank"}
    drawn = {file.stem for file in (runs / "out" / "figures").glob("*.png")}
    assert drawn == names | {f"difference_{name}" for name in names}


def test_unfair_comparisons_are_warned_of(runs: Path) -> None:
    text = runs / "text.txt"
    text.write_text("A plain line to read. Another one that is longer than the first.\n" * 9, encoding="utf-8")
    changed = ("precision=float64", "data=text", "data.path=text.txt", "hydra.run.dir=changed")
    with mock.patch("jacspec.studies.run.write_report"):
        assert run_here(*SWEEP, *changed, cwd=runs).code == 0
    both = ("task=compare", "runs=[sweep/2,changed]", "compare.draws=100", "hydra.run.dir=unfair", *UNDRAWN)
    done = run_here(*both, cwd=runs)
    assert done.code == 0, done.err
    assert (
        "warning: The runs are of different corpora. The runs are of different precisions: float32, float64."
        in done.out
    )
    assert "different corpora" in (runs / "unfair" / "report.html").read_text(encoding="utf-8")


def test_unfinished_runs_are_left_out_and_named(runs: Path) -> None:
    shutil.copytree(runs / "sweep", runs / "holed")
    file = runs / "holed" / "3" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "unfinished"}), encoding="utf-8")
    found, left_out = open_runs([runs / "holed"])
    assert len(found) == 3
    assert list(left_out) == [str(runs / "holed" / "3")]
    done = run_here("task=compare", "runs=holed", "compare.draws=100", *UNDRAWN, "hydra.run.dir=named", cwd=runs)
    assert done.code == 0, done.err
    assert "left out: holed/3: The run in holed/3 is not finished" in done.out


@pytest.mark.thorough
def test_redrawn_from_the_folder_alone(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sweep", tmp_path / "sweep")
    made = ("task=compare", "runs=[sweep/0,sweep/3]", "compare.draws=100", "hydra.run.dir=out")
    assert run_here(*made, cwd=tmp_path).code == 0
    page = tmp_path / "out" / "report.html"
    before = page.read_bytes()
    page.unlink()
    assert run_here("task=report", "run=out", cwd=tmp_path).code == 0
    assert page.read_bytes() == before
    # The runs themselves serve only to be explored.
    assert b'id="explorer-data"' in before
    shutil.rmtree(tmp_path / "sweep")
    assert run_here("task=report", "run=out", cwd=tmp_path).code == 0
    assert b'id="explorer-data"' not in page.read_bytes()
    assert b"The runs cannot be explored here" in page.read_bytes()


WRONG = {
    "": ("needs finished runs", "runs=[FOLDER,FOLDER]"),
    "runs=nowhere": ("nowhere", "not a run folder"),
    "runs=[sweep/0]": ("alone compares with nothing",),
    "runs=[1,2]": ("runs has 1, which is not a folder",),
    "runs=sweep compare.against=7": ("compare.against=7", "0: step0, seed=0"),
    "runs=sweep compare.draws=3": ("compare.draws=3",),
    "runs=sweep resume=sweep/0": ("cannot be resumed",),
}


@pytest.mark.parametrize(("given", "fragments"), WRONG.items(), ids=WRONG)
def test_bad_input(given: str, fragments: tuple[str, ...], runs: Path, tmp_path: Path) -> None:
    done = run_here("task=compare", *given.split(), f"hydra.run.dir={tmp_path}/out", cwd=runs)
    assert_refused(done, tmp_path, *fragments)


def test_runs_of_other_kinds_are_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sweep" / "0", tmp_path / "heads")
    file = tmp_path / "heads" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": "heads"}), encoding="utf-8")
    done = run_here("task=compare", f"runs=[sweep/0,{tmp_path}/heads]", f"hydra.run.dir={tmp_path}/out", cwd=runs)
    assert done.code == 1
    assert "different tasks (heads, jacobian)" in done.err


def _sweep(folder: Path, *words: str) -> None:
    for init in ("pretrained", "random"):
        run_here(*words, f"model.init={init}", "report.figures=none", f"hydra.run.dir={folder}/{init}", cwd=folder)


def test_matrices_of_runs_stand_side_by_side(tmp_path: Path) -> None:
    """The file holds what the runs hold, padded; histograms have their counts, the law is that of a random matrix."""
    _sweep(tmp_path, "source=small_figure_1", "layers=[1,4]", "weights.against=none", "weights.show_layer=1")
    done = run_here("source=small_spectra", "runs=[pretrained,random]", "hydra.run.dir=both", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "both")
    assert (run.folder / "figures" / "bulks.png").is_file()
    found = run.dataset
    parts = [open_run(tmp_path / name) for name in ("pretrained", "random")]
    for number, part in enumerate(parts):
        own = found.isel(row=np.flatnonzero(found["run"].values == number))
        np.testing.assert_array_equal(own["singular_values"].values, part.dataset["singular_values"].values)
        np.testing.assert_array_equal(own["mp_high"].values, part.metrics["mp_high"].to_numpy())
    figure = side_by_side(run._stored)["bulks"].draw()
    assert [axes.get_title() for axes in figure.axes] == [
        f"{name}, layer {layer}" for name in ("pretrained", "random") for layer in (1, 4)
    ]
    bars = figure.axes[2].patches
    areas = [bar.get_height() * bar.get_width() for bar in bars if isinstance(bar, Rectangle)]
    assert sum(areas) == pytest.approx(2), "a histogram a role"
    weight = parts[1].dataset["singular_values"].values[0] / parts[1].metrics["mp_high"][0] * 2
    law = np.asarray(figure.axes[2].lines[0].get_xydata()).T
    assert scipy.stats.kstest(weight, lambda x: _mass_below(law[0], law[1], x)).pvalue > 0.01
    trained = parts[0].dataset["singular_values"].values[0] / parts[0].metrics["mp_high"][0] * 2
    assert scipy.stats.kstest(trained, lambda x: _mass_below(law[0], law[1], x)).pvalue < 0.01


def _mass_below(x: np.ndarray, density: np.ndarray, at: np.ndarray) -> np.ndarray:
    mass = np.concatenate([[0], np.cumsum(np.diff(x) * (density[1:] + density[:-1]) / 2)])
    return np.interp(at, x, mass)


@pytest.mark.parametrize("ratio", [1.0, 0.25])
def test_law_of_singular_values_has_the_moments_of_a_gaussian_matrix(ratio: float) -> None:
    sigma = np.linspace(1 - ratio**0.5 + 1e-9, 1 + ratio**0.5, 20001)
    law = singular_value_law(sigma, ratio)
    moments = [np.trapezoid(law * sigma**power, sigma) for power in (0, 2, 4)]
    np.testing.assert_allclose(moments, [1, 1, 1 + ratio], rtol=1e-3)


@pytest.mark.thorough
def test_overlaps_of_runs_stand_side_by_side(tmp_path: Path) -> None:
    words = ("source=small_figure_4", "layers=[1]", "data.samples=20", "data.max_tokens=16")
    _sweep(tmp_path, *words)
    done = run_here("source=small_overlaps", "runs=[pretrained,random]", "hydra.run.dir=both", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "both")
    figure = side_by_side(run._stored)["overlaps"].draw()
    roles = list(dict.fromkeys(run.dataset["role"].values.tolist()))
    assert len(figure.axes) == 2 * len(roles)
    for number, name in enumerate(("pretrained", "random")):
        part = open_run(tmp_path / name).dataset
        drawn = max((np.asarray(line.get_ydata()) for line in figure.axes[number].lines), key=len)
        np.testing.assert_allclose(drawn, part["overlap"].values[part["role"].values == roles[0]][0])
    other = run_here("source=small_spectra", "runs=[pretrained,random]", "hydra.run.dir=other", cwd=tmp_path)
    assert other.code != 0
    assert "overlaps" in other.err
