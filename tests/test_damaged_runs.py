"""Finished run folders that were cut, edited or made up: refused with the file's name, or read as what they are."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from damaged import edit, spoil, without_hashes
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import run_here
from test_report import make_run

from jacspec.errors import JacspecError
from jacspec.runs import open_run
from jacspec.runs.checks import check_provenance


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "1", layers=2, samples=4).folder


def test_files_are_recorded(folder: Path) -> None:
    files = open_run(folder).provenance["files"]
    assert {name: recorded.get("rows") for name, recorded in files.items()} == {
        "metrics.csv": 16,
        "samples.csv": 4,
        "spectra.nc": None,
        "summary.csv": 8,
    }


@pytest.mark.parametrize("name", ["metrics.csv", "summary.csv", "samples.csv", "spectra.nc"])
def test_file_that_is_not_the_runs_is_named(name: str, folder: Path) -> None:
    def read() -> object:
        run = open_run(folder)
        return run.dataset if name == "spectra.nc" else run.table(name)

    read()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(JacspecError, match=rf"{name} is not what the run wrote"):
        read()
    (folder / name).unlink()
    with pytest.raises(JacspecError, match=rf"{name} is not there"):
        read()
    (folder / name).write_bytes(content)
    read()


def test_cut_run_is_left_out_of_a_comparison_and_named(folder: Path, tmp_path: Path) -> None:
    for number in (2, 3):
        shutil.copytree(folder, folder.with_name(str(number)))
        edit(folder.with_name(str(number)) / "run.json", lambda content: content.update(config={"seed": 0}))
    cut = folder / "metrics.csv"
    cut.write_text("".join(cut.read_text().splitlines(keepends=True)[:4]))
    done = run_here("task=compare", "runs=runs", "report.figures=none", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    said = json.loads((tmp_path / "out" / "run.json").read_text())["runs_left_out"]
    assert list(said) == ["runs/1"]
    assert "metrics.csv is not what the run wrote" in said["runs/1"]
    assert "left out: runs/1" in done.out
    done = run_here("task=report", "run=runs/1", cwd=tmp_path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "metrics.csv is not what the run wrote" in done.err


@pytest.mark.parametrize(
    ("row", "fragment"),
    [
        ("-5,attn,0,5", "its column layer holds what is no number from 0"),
        ("0.5,attn,0,5", "its column layer holds what is no number from 0"),
        ("20000000,attn,0,5", "a layer beyond 99999"),
        ("x,attn,0,5", "its column layer holds what is no number of a run"),
        ("0,attn,0,1e308", "its column n_tokens holds what is no number"),
    ],
)
def test_row_that_no_run_writes_is_named(row: str, fragment: str, folder: Path) -> None:
    without_hashes(folder)
    file = folder / "metrics.csv"
    header, first, *others = file.read_text().splitlines(keepends=True)
    file.write_text("".join([header, ",".join([row, *first.split(",")[4:]]), *others]))
    with pytest.raises(JacspecError, match=fragment):
        _ = open_run(folder).metrics


def test_table_without_rows_or_columns_is_named(folder: Path) -> None:
    without_hashes(folder)
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text(lines[0])
    with pytest.raises(JacspecError, match=r"metrics\.csv is damaged: it has no rows"):
        _ = open_run(folder).metrics
    (folder / "metrics.csv").write_text("".join(line.partition(",")[2] for line in lines))
    with pytest.raises(JacspecError, match=r"metrics\.csv is damaged: it has no column layer"):
        _ = open_run(folder).metrics


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"metrics": None}, "metrics is empty"),
        ({"metrics": ["a", 1]}, r"metrics\[1\] is 1"),
        ({"status": 1}, "status is 1"),
        ({"seconds": {"draw": "x"}}, "seconds.draw is 'x'"),
        ({"identity": []}, r"identity is \[\]"),
        ({"identity": {"versions": ["jax"]}}, r"identity\.versions is"),
    ],
)
def test_provenance_of_another_type_is_named(change: dict[str, Any], fragment: str, folder: Path) -> None:
    edit(folder / "run.json", lambda content: content.update(change))
    with pytest.raises(JacspecError, match=rf"run\.json is damaged: {fragment}"):
        open_run(folder)


def test_fitting_provenance_is_accepted(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    check_provenance(content | {"a key of a later version": [1, {"x": None}], "seconds": {"draw": 1}}, folder)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), hashes=st.booleans())
def test_any_damage_is_refused_or_reported(seed: int, hashes: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`run_here` lets through what a user would see as a traceback."""
    base = tmp_path_factory.getbasetemp() / "whole"
    if not base.exists():
        make_run(base, layers=2, samples=4)
    cwd = tmp_path_factory.mktemp("spoilt")
    shutil.copytree(base, cwd / "run")
    if not hashes:
        without_hashes(cwd / "run")
    spoil(cwd / "run", random.Random(seed))
    done = run_here("task=report", "run=run", "report.figures=none", cwd=cwd)
    assert done.code == 0 or done.err.startswith("jacspec: ")
