"""Onsets in closed cases; `task=dynamics` on the embedded model's own revisions against its runs, computed again."""

import html
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import pandas
import pytest
import xarray
from servers import assert_refused, run_here

from jacspec import open_run
from jacspec.runs.rows import matrix_layout, matrix_row, start_rows
from jacspec.runs.several import LabelledRun
from jacspec.studies.dynamics.findings import changes_by_step, spans
from jacspec.studies.dynamics.run import ONSET_COLUMNS, find_onset, onset_rows, step_of

LAYERS = (0, 4, 5)
STEPS = {0: "step0", 64: "step64", 1024: "step1024", 4096: None}


@pytest.mark.parametrize(
    ("curve", "onset", "extreme"),
    [
        ([0, 0, 1, 1], 2, 2),
        ([0, 1, 1, 1], 1, 1),
        ([1, 1, 1, 0], 3, 3),  # a change downwards, at the end
        ([0, 0.6, 0.4, 1], 3, 3),  # half of it was there, and went again
        ([0, 9, 9, 1], 1, 1),  # beyond its last value before it
        ([0, -5, 0.2, 1], 3, 1),  # away in the other direction first
        ([2, 2.5, 2.5, 3], 1, 3),  # just half
    ],
)
def test_onsets_by_hand(curve: list[float], onset: int, extreme: int) -> None:
    found = find_onset(np.array(curve, float))
    assert found is not None
    assert (found.first, found.last, found.onset, found.extreme) == (curve[0], curve[-1], onset, extreme)


def test_growth_by_ratios_comes_when_half_of_it_is_there(tmp_path: Path) -> None:
    """A norm that grows 50 times is half there at 7, on a linear scale not before the end; a rank is not a scale."""
    values = {"spectral_radius": [1.0, 8.0, 20.0, 50.0], "stable_rank": [1.0, 8.0, 20.0, 50.0]}
    runs = {}
    for place, step in enumerate((0, 1, 2, 3)):
        writer = start_rows(tmp_path / str(step), {"task": "weights"}, matrix_layout(tuple(values)))
        row = {name: curve[place] for name, curve in values.items()}
        writer.add([matrix_row(0, (0, "q", None, "w"), (2, 2), np.ones(2), row)])
        writer.write_tables()
        writer.finish()
        runs[step] = LabelledRun(str(step), open_run(tmp_path / str(step)))
    rows = onset_rows(runs, list(values), least_change=0.1, draws=100, seed=0)
    found = {row[2]: dict(zip(ONSET_COLUMNS, row, strict=True)) for row in rows}
    assert {name: (row["onset"], row["onset_on"]) for name, row in found.items()} == {
        "spectral_radius": (1, "ln"),
        "stable_rank": (3, "linear"),
    }
    assert found["spectral_radius"]["extreme"] == found["spectral_radius"]["last"] == 50


def test_curves_without_an_onset() -> None:
    assert find_onset(np.array([1.0, 2.0, 1.0])) is None
    assert find_onset(np.array([1.0, np.nan, 2.0])) is None


def test_steps_in_names_of_revisions() -> None:
    """As of Pythia, OLMo 2, training folders."""
    names = {"step1000": 1000, "stage1-step150-tokens1B": 150, "global_step20": 20, "step-7": 7, "4000": 4000}
    assert {name: step_of(name) for name in names} == names
    assert [step_of(name) for name in (None, "main", "v1.0", "footstep3", "a1b2c3d")] == [None] * 5


def test_spans() -> None:
    assert spans([3]) == "layer 3"
    assert spans([0, 1, 2, 5, 7, 8]) == "layers 0–2, 5, 7–8"


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Revisions of nano by two tasks; their own reports, and most figures of the dynamics, are left out."""
    folder = tmp_path_factory.mktemp("sweeps")
    names = ",".join(name or "null" for name in STEPS.values())
    measured = f"layers=[{','.join(map(str, LAYERS))}]"
    for task, more, drawn in (("heads", "heads.draws=2", "lambda_0"), ("overlap", "data.samples=20", "overlap_mean")):
        sweep = ("-m", f"task={task}", f"model.revision={names}", more, measured, f"hydra.sweep.dir={task}")
        with mock.patch("jacspec.studies.run.write_report"):
            assert run_here(*sweep, cwd=folder).code == 0
        final = ("dynamics.final_step=4096", "dynamics.draws=400", f"hydra.run.dir={task}_dynamics")
        with mock.patch("jacspec.studies.dynamics.figures.drawn_metrics", lambda run, drawn=drawn: [drawn, "tokens"]):
            done = run_here("task=dynamics", f"runs={task}", *final, cwd=folder)
        assert done.code == 0, done.err
    return folder


SCALES = {"lambda_0", "lambda_sum", "lambda_square_sum", "element_std", "left_std", "right_std", "eigenvalue_radius"}


def _brute_onset(curve: Mapping[int, float]) -> int:
    """The first step from which half of the change stays, found from the definition."""
    steps = sorted(curve)
    first, last = curve[steps[0]], curve[steps[-1]]
    for step in steps:
        later = [curve[other] for other in steps if other >= step]
        if all((value - first) / (last - first) >= 0.5 for value in later):
            return step
    raise AssertionError


def test_tables_equal_the_runs(sweeps: Path) -> None:
    run = open_run(sweeps / "heads_dynamics")
    tables = {step: pandas.read_csv(sweeps / "heads" / str(place) / "metrics.csv") for place, step in enumerate(STEPS)}
    means = {step: table.groupby(["role", "layer"]).mean(numeric_only=True) for step, table in tables.items()}
    assert len(run.metrics) == 4 * 2 * len(LAYERS) * len(run.metric_names)
    for row in run.metrics.to_dict("records"):
        own = means[row["step"]].loc[(row["component"], row["layer"])]
        assert row["mean"] == pytest.approx(own[row["metric"]], rel=1e-12, nan_ok=True)
    onsets = run.table("onsets.csv")
    assert set(onsets["metric"]) <= set(run.metric_names)
    assert {"lambda_0", "npr_lambda", "copying_score"} <= set(onsets["metric"])
    for row in onsets.to_dict("records"):
        curve = {step: table.loc[(row["component"], row["layer"])][row["metric"]] for step, table in means.items()}
        grows = row["metric"] in SCALES and min(curve.values()) > 0
        assert row["onset_on"] == ("ln" if grows else "linear")
        assert row["onset"] == _brute_onset({s: np.log(v) for s, v in curve.items()} if grows else curve)
        assert row["extreme"] == pytest.approx(max(curve.values(), key=lambda value: abs(value - curve[0])), rel=1e-9)
    # On a linear scale what grows by many times would change at another step.
    linear = {step: table.loc[("qk", 0)]["lambda_0"] for step, table in means.items()}
    own = onsets[(onsets["component"] == "qk") & (onsets["layer"] == 0) & (onsets["metric"] == "lambda_0")]
    assert _brute_onset(linear) != own["onset"].item()


def test_what_counts_as_a_change(sweeps: Path) -> None:
    onsets = open_run(sweeps / "heads_dynamics").table("onsets.csv")
    change = (onsets["last"] - onsets["first"]).abs()
    larger = onsets[["first", "last"]].abs().max(axis=1)
    np.testing.assert_allclose(onsets["relative_change"].abs(), change / larger)
    counts = (change / larger >= 0.1) & (onsets["q_value"] < 0.05) & (change > onsets["floor"])
    assert (onsets["appears"] == counts.astype(int)).all()
    assert 0 < counts.sum() < len(onsets)


def test_words_say_what_the_table_says(sweeps: Path) -> None:
    run = open_run(sweeps / "heads_dynamics")
    onsets = run.table("onsets.csv")
    step, words = next(changes_by_step(run))
    assert step == onsets[onsets["appears"] == 1]["onset"].min()
    page = (sweeps / "heads_dynamics" / "report.html").read_text(encoding="utf-8")
    assert html.escape(f"By step {step}: {words}.") in page


def test_overlap_over_revisions(sweeps: Path) -> None:
    run = open_run(sweeps / "overlap_dynamics")
    dataset = run.dataset
    assert dataset["step"].values.tolist() == list(STEPS)
    stored = xarray.load_dataset(sweeps / "overlap" / "2" / "spectra.nc", engine="scipy")
    rows = (stored["role"].values == "down") & (stored["layer"].values == 4)
    place = (dataset["component"].values == "down") & (dataset["layer"].values == 4)
    for name in ("overlap", "relative_variance", "singular_values"):
        np.testing.assert_array_equal(dataset[name].values[2, place], stored[name].values[rows])
    drawn = {file.stem for file in (sweeps / "overlap_dynamics" / "figures").glob("*.png")}
    assert {"overlap_by_step", "onsets", "overlap_mean"} <= drawn
    assert "tokens" not in drawn  # the same at every step


WRONG = {
    "runs=heads": ("revision None", "dynamics.final_step=N"),
    "runs=heads dynamics.final_step=64": ("Step 64 is there twice",),
    "runs=heads dynamics.least_change=2": ("dynamics.least_change=2",),
    "runs=heads dynamics.draws=1": ("dynamics.draws=1",),
    "runs=[heads/0]": ("two revisions or more",),
    "runs=[heads/0,renamed]": ("several models: nano, other",),
}


@pytest.mark.parametrize(("given", "fragments"), WRONG.items(), ids=WRONG)
def test_bad_input(given: str, fragments: tuple[str, ...], sweeps: Path, tmp_path: Path) -> None:
    if "renamed" in given:
        shutil.copytree(sweeps / "heads" / "1", sweeps / "renamed")
        file = sweeps / "renamed" / "run.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        content["identity"]["checkpoint"]["name"] = "other"
        file.write_text(json.dumps(content), encoding="utf-8")
    done = run_here("task=dynamics", *given.split(), f"hydra.run.dir={tmp_path}/out", cwd=sweeps)
    assert_refused(done, tmp_path, *fragments)
