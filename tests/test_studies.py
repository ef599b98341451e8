"""The table of studies: data that loads nothing, words of a column that are its own study's, pages and identities."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import jacspec
from jacspec.config import config_folder, schema
from jacspec.report.labels import metric_label, metric_title, words_of, words_of_metrics
from jacspec.runs import Run
from jacspec.studies import STUDIES, find_study, study_of
from jacspec.studies.study import Quantity, load

KINDS = {"samples", "matrices", "experiments", "runs"}


def test_reading_the_table_loads_no_room() -> None:
    """Neither JAX nor Matplotlib, nor any room of jacspec: reading what there is costs nothing."""
    code = (
        "import sys; from jacspec.studies import STUDIES; assert len(STUDIES) > 10\n"
        "heavy = {'jax', 'matplotlib', 'numpy', 'pandas', 'flax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "own = {name for name in sys.modules if name.startswith('jacspec.') and '.studies' not in name}\n"
        "assert own <= {'jacspec.errors'}, own"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_reads_the_keys_that_its_code_does(name: str) -> None:
    code = "".join(file.read_text() for file in (Path(jacspec.__file__).parent / "studies" / name).glob("*.py"))
    own = getattr(STUDIES[name].options, "__dataclass_fields__", {})
    keys = {"layers", "components", "metrics"} - own.keys()
    assert STUDIES[name].reads & keys == {key for key in keys if f"config.{key}" in code}


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_names_is_there(name: str) -> None:
    study = STUDIES[name]
    places = [study.run, study.figures]
    places += [study.page.findings, study.page.numbers, study.page.sentences] if study.page else []
    for place in filter(None, places):
        assert load(place) is not None
    assert study.name == name
    assert study.rows is None or study.rows.kind in KINDS
    assert study.reads <= {field.name for field in dataclasses.fields(schema())}
    if study.page is not None:
        assert study.rows
        assert study.figures
        # Training is always in float32.
        assert ("precision" in study.reads) is not (study.name == "train" or "runs" in study.inputs)
        assert study.name in study.reads or study.name in ("jacobian", "weights", "overlap")
    assert (config_folder() / "task" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.rows])
def test_every_column_is_said_and_can_be_drawn(name: str) -> None:
    run = _run(name)
    for column in (*STUDIES[name].columns, *words_of_metrics()):
        assert not set(metric_title(run, column)) & set("\\${}"), column
        figure = Figure()
        figure.text(0, 0, metric_label(run, column))
        figure.draw_without_rendering()


def _run(task: str, **more: str) -> Run:
    run = Run(Path("nowhere"))
    vars(run)["provenance"] = {"task": task, **more}
    return run


def test_words_of_a_column_are_those_of_its_own_study() -> None:
    """Five names mean different things in different studies; `task=finetune` showed the words of `removal`."""
    clashing = {("finetune", "removed_share"), ("removal", "removed_share"), ("overlap", "bulk_low")}
    clashing |= {("weights", "bulk_low"), ("heads", "spectral_entropy"), ("jacobian", "spectral_entropy")}
    for name, column in clashing:
        found = words_of(_run(name), column)
        own = STUDIES[name].columns.get(column) or words_of_metrics()[column]
        assert found is not None
        assert found.definition == own.definition, (name, column)
    ours, theirs = (words_of(_run(name), "removed_share") for name in ("finetune", "removal"))
    assert isinstance(ours, Quantity)
    assert isinstance(theirs, Quantity)
    assert ours.definition != theirs.definition


def test_words_of_a_run_over_runs_are_those_of_what_it_looks_at() -> None:
    found = words_of(_run("compare", of="overlap"), "bulk_low")
    assert found == words_of(_run("overlap"), "bulk_low")
    assert words_of(_run("compare", of="overlap"), "floor") is not None
    assert words_of(_run("overlap"), "floor") is None


def test_exponents_are_words_of_depth_alone() -> None:
    found = words_of(_run("depth"), "lyapunov_12")
    assert found is not None
    assert metric_title(_run("depth"), "lyapunov_12") == "Lyapunov exponent μ₁₂"
    assert words_of(_run("weights"), "lyapunov_12") is None


def test_unknown_studies_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no study 'weigths'.*Did you mean 'weights'"):
        find_study("weigths")
    with pytest.raises(ValueError, match="does not know the study 'tomorrow'"):
        study_of({"task": "tomorrow"})
