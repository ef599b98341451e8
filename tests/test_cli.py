"""The command line as a user meets it: what a run leaves behind, every choice, and what is asked for help."""

import csv
import gc
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from servers import (
    CONTRACT,
    TINY,
    Finished,
    copy_nano,
    files_below,
    run_command,
    run_here,
    statuses,
)

import jacspec
from jacspec.cli import command
from jacspec.cli.arguments import read_arguments
from jacspec.cli.help import EXAMPLES, help_text, topics
from jacspec.cli.keys import choices, groups, kinds
from jacspec.config import Config, config_folder, register
from jacspec.runs import SUMMARY_COLUMNS, Run, open_run
from jacspec.spectra.metrics import METRICS, choose_metrics
from jacspec.studies import STUDIES

PAPER = ["spectral_radius", "decay_ratio"]
COLUMNS = [*PAPER, "linearity_radius", "curvature"]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Run]:
    """Run plain `python -m jacspec` on few samples, into Hydra's own kind of folder."""
    cwd = tmp_path_factory.mktemp("first")
    done = run_command(*TINY, cwd=cwd)
    assert done.code == 0, done.err
    folders = [file.parent for file in cwd.rglob("run.json")]
    assert len(folders) == 1
    assert folders[0].parts[-3] == "outputs"
    return done, open_run(folders[0])


def test_run_folder_holds_exactly_the_contract(first_run: tuple[Finished, Run]) -> None:
    done, run = first_run
    assert files_below(run.folder) == CONTRACT
    assert statuses(run.folder) == ["finished"]
    assert str(run.folder.name) in done.out
    with (run.folder / "summary.csv").open(newline="") as stream:
        assert tuple(next(csv.reader(stream))) == SUMMARY_COLUMNS
    assert list(run.samples.columns) == ["sample", "n_tokens", "text"]
    assert list(run.metrics.columns) == ["layer", "component", "sample", "n_tokens", *COLUMNS, "reason"]
    keys = [(layer, part, sample) for layer in range(6) for part in ("attn", "mlp") for sample in range(4)]
    assert list(run.metrics[["layer", "component", "sample"]].itertuples(index=False, name=None)) == keys
    assert len(run.summary) == 6 * 2 * len(COLUMNS)
    assert dict(run.dataset["singular_values"].sizes) == {"layer": 6, "component": 2, "sample": 4, "k": 96}
    identity = run.provenance["identity"]
    assert identity["config"]["data"]["samples"] == 4
    assert set(identity["checkpoint"]["files"]) == {"config.json", "model.safetensors"}
    assert "<html" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert (run.folder / "figures" / "spectra.png").read_bytes().startswith(b"\x89PNG")


def test_table_is_what_python_computes(first_run: tuple[Finished, Run]) -> None:
    """`jacspec.compute_spectra` on the run's texts gives the run's numbers, and on others it does not."""
    run = first_run[1]
    texts = list(run.samples["text"])
    found = jacspec.compute_spectra(jacspec.load_model(), texts, max_tokens=16, linearity=["top"])
    assert np.array_equal(found["singular_values"], run.dataset["singular_values"])
    other = jacspec.compute_spectra(jacspec.load_model(), texts[::-1], max_tokens=16, linearity=["top"])
    for metric in COLUMNS:
        column = run.metrics[metric].to_numpy(np.float32)
        assert np.array_equal(found[metric].to_numpy().ravel(), column)
        assert not np.array_equal(other[metric].to_numpy().ravel(), column)


def test_report_is_redrawn_from_the_folder_alone(first_run: tuple[Finished, Run], tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(first_run[1].folder, folder)
    drawn = {name: (folder / name).read_bytes() for name in CONTRACT}
    shutil.rmtree(folder / "figures")
    (folder / "report.html").unlink()
    done = run_here("task=report", f"run={folder}", cwd=tmp_path)
    assert done.code == 0, done.err
    assert files_below(tmp_path) == {f"moved/{name}" for name in CONTRACT}
    changed = {name for name, content in drawn.items() if (folder / name).read_bytes() != content}
    assert changed <= {"report.html"}, "the same run gives the same figures and leaves the tables alone"
    assert "spectral radius" in done.out


def test_multirun_makes_a_folder_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
    done = run_here("-m", "seed=0,1", *TINY, "components=[mlp]", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "all 2 runs finished" in done.out
    assert done.out.count("task=jacobian, 24 rows") == 2, "a block a job, and not its tables"
    assert "[q1 .. q3]" not in done.out
    assert len(done.out.splitlines()) <= 2 * 11 + 7, done.out  # a few lines sum up the seeds
    runs = {file.parent.name: open_run(file.parent) for file in (tmp_path / "multirun").rglob("run.json")}
    assert {name: run.provenance["seed"] for name, run in runs.items()} == {"0": 0, "1": 1}
    assert list(runs["0"].samples["text"]) != list(runs["1"].samples["text"])
    (table,) = (tmp_path / "multirun").rglob("sweep.csv")
    with table.open(newline="") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["finished", "finished"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["precision=float64"], {"precision.dtype": "float64"}),
        (["engine=jacfwd", "components=[mlp]"], {"engine": "jacfwd", "components": ["mlp"]}),
        (["metrics.names=[stable_rank]"], {"metrics": ["linearity_radius", "stable_rank", "curvature"]}),
        (["data.split=lines"], {"identity.corpus.splitter": "lines"}),
        (["model.revision=step0"], {"identity.checkpoint.revision": "step0"}),
        (["model.init=random"], {"identity.checkpoint.name": "nano (random)", "identity.checkpoint.files": {}}),
        (["data=text", "data.path=own.txt", "data.samples=2"], {"corpus.candidates": 3, "corpus.source": "own.txt"}),
        (["model=path", "model.path=own"], {"identity.checkpoint.name": "own"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_choice_runs_and_is_recorded(
    arguments: list[str], expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)  # drawn in other tests
    copy_nano(tmp_path / "own")
    (tmp_path / "own.txt").write_text("The first sentence is here. Is this the second one? Here the third one ends.\n")
    done = run_here("data.samples=2", "data.max_tokens=16", "hydra.run.dir=out", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    for key, value in expected.items():
        found = run.provenance
        for part in key.split("."):
            found = found[part]
        assert found == value, key
    wide = "float64" if "precision=float64" in arguments else "float32"
    assert run.dataset["singular_values"].dtype == np.dtype(wide)
    known = run.metrics.drop(columns=["component", "reason", "linearity_radius"])  # a branch may be linear
    assert np.isfinite(known.to_numpy(float)).all()


def test_full_metrics_are_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)  # many figures, drawn elsewhere
    done = run_here("metrics=full", "data.samples=2", "data.max_tokens=16", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "more columns in metrics.csv: stable_rank, " in done.out
    assert done.out.count("[q1 .. q3]") == 2 * 4, "two components of four metrics"
    columns = {*open_run(tmp_path / "out").metrics.columns[4:-1]}
    assert columns - {*COLUMNS[2:]} == set(METRICS) == set(choose_metrics(["full"]))


def test_samples_are_the_same_whatever_is_measured_on_them(first_run: tuple[Finished, Run], tmp_path: Path) -> None:
    arguments = ("components=[attn]", "precision=float64", "report.figures=none")
    done = run_here(*TINY, "hydra.run.dir=out", *arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    single, double = first_run[1], open_run(tmp_path / "out")
    assert (double.folder / "samples.csv").read_bytes() == (single.folder / "samples.csv").read_bytes()
    attn = single.metrics[single.metrics["component"] == "attn"].reset_index(drop=True)
    assert set(double.components) == {"attn"}
    np.testing.assert_allclose(attn[PAPER], double.metrics[PAPER], rtol=1e-4)
    assert not np.array_equal(attn[PAPER], double.metrics[PAPER])


CHOICES = sorted(f"{file.parent.name}={file.stem}" for file in config_folder().glob("*/*.yaml"))


def test_there_are_choices_to_compose() -> None:
    assert {"task=jacobian", "model=nano", "data=verse", "metrics=paper", "engine=auto"} <= set(CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_composes_into_the_schema(choice: str) -> None:
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=[choice]))
    assert isinstance(config, Config)
    group, name = choice.split("=")
    if group == "source":
        assert isinstance(config.report.figures, list) or config.report.figures in ("all", "none")
        return
    chosen = getattr(config, group)
    assert (chosen if group == "task" else getattr(chosen, "name", name)) == name
    if group == "metrics":
        assert choose_metrics(config.metrics.names)


@pytest.mark.parametrize(("figure", "samples", "drawn"), [(2, 600, "spectral_radius"), (3, 300, "decay_ratio")])
def test_figures_of_the_paper_are_a_command_each(figure: int, samples: int, drawn: str) -> None:
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("config", overrides=[f"source=jacobian_figure_{figure}"])
    assert (config.task, config.data.name, config.data.samples) == ("jacobian", "shakespeare", samples)
    assert config.report.figures == [drawn]
    assert drawn in config.metrics.names
    assert config.components == ["attn", "mlp"]
    assert f"Figure {figure} of Analyzing Spectral Information" in help_text(["source"])


@pytest.mark.parametrize("arguments", [("--help",), ("help",), ("help", "metrics"), ("task=weights", "--help")])
def test_help_is_cheap(arguments: tuple[str, ...], tmp_path: Path) -> None:
    started = os.times().children_user
    done = run_command(*arguments, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    seconds = os.times().children_user - started
    assert done.code == 0
    imported = {line.split("|")[-1].strip() for line in done.err.splitlines()}
    assert "jacspec.config" in imported, "the oracle sees imports"
    assert not imported & {"jax", "flax", "transformers", "matplotlib", "nltk", "numpy", "xarray", "torch"}
    assert seconds < 1.0
    assert files_below(tmp_path) == set()


def test_help_has_a_line_for_every_key_study_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    text = help_text([])
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in text.splitlines() if line.startswith("  ")}
    chosen = {"task", "model.name", "data.name"}  # by a group
    for name in (
        *(kinds().keys() - chosen),
        *METRICS,
        *(f"task={study}" for study in STUDIES),
        *set(groups()) - {"task"},
    ):
        found = lines.get(name)
        assert found is not None, name
        assert found or f"  {name}\n   " in text, f"{name} has no words"
    for group in groups():
        for choice in choices(group):
            assert choice in text
    for line in EXAMPLES:
        assert f"  {line}" in text


def test_examples_of_the_help_compose() -> None:
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for line in EXAMPLES:
            words = [word for word in shlex.split(line)[1:] if word not in ("--cfg", "job", "COMMAND", "model=FOLDER")]
            swept = words[:1] == ["-m"]
            taken = read_arguments(words)[swept:]
            compose("config", overrides=[word.split(",")[0] if swept else word for word in taken])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lazy"], ["lazy.scales", "[0.1,0.3,1,3,10,30]", "movement", "docs/lazy.md", "precision"]),
        (topics(["help", "task=weights"]), ["weights.include", "metrics.names"]),
        (["metrics"], ["stable_rank", "metrics=full"]),
        (["stable_rank"], ["Σσ²/σ₁²"]),
        (["data.samples"], ["or all", "overlap"]),
        (["plan.devices"], ["how many, a column each"]),
        (["model"], ["nano", "The embedded model"]),
    ],
    ids=lambda value: value[0],
)
def test_help_on_a_word(words: list[str], said: list[str]) -> None:
    text = help_text(words)
    assert all(each in text for each in said), text


def test_help_on_an_unknown_word_names_the_nearest(tmp_path: Path) -> None:
    done = run_command("help", "wieghts", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert done.err == "jacspec: There is no help on 'wieghts'. Did you mean 'weights'? Type --help.\n"


def test_version_is_jacspecs(tmp_path: Path) -> None:
    done = run_command("--version", cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, f"jacspec {jacspec.__version__}\n", "")


def test_shell_completion_is_hydras(tmp_path: Path) -> None:
    done = run_command("-sc", "query=bash", cwd=tmp_path, COMP_LINE="jacspec task=wei", COMP_POINT="16")
    assert done.code == 0, done.err
    assert done.out.split() == ["task=weights"]


def test_traceback_is_shown_when_asked_for(tmp_path: Path) -> None:
    done = run_command("data.sampels=4", cwd=tmp_path, JACSPEC_TRACEBACK="1")
    assert done.code != 0
    assert "Traceback" in done.err


def test_garbage_is_not_looked_for_in_what_was_imported_and_is_in_what_jobs_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen: list[int] = []
    thresholds = gc.get_threshold()
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    try:
        gc.disable()
        command._collect_garbage()
        assert (frozen, gc.isenabled(), gc.get_threshold()[0]) == ([1], True, command.YOUNG_OBJECTS)
        command._collect_garbage()  # the next job of a sweep
        assert frozen == [1]
    finally:
        gc.enable()
        gc.set_threshold(*thresholds)
