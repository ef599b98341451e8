"""`tests/benchmarks/gpu.py` in small sizes: every section on a CPU, and what it does with failures and time-outs."""

import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from servers import run_here

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import gpu
import gpu_measures

SECTIONS = tuple(gpu.SECTIONS)


def in_this_process(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> gpu.Ended:
    """Do what a process would do, which has its imports behind it; one at a time."""
    begin = time.perf_counter()
    with LOCK, warnings.catch_warnings():
        # PyTorch's, of what it imports late.
        warnings.simplefilter("ignore", DeprecationWarning)
        if command[1] == "-m":
            done = run_here(*command[3:], cwd=Path.cwd(), XDG_CACHE_HOME=environment["XDG_CACHE_HOME"])
            code, said = done.code, done.err
        else:
            with mock.patch.dict(os.environ, environment), mock.patch.object(gpu_measures, "use_compilation_cache"):
                gpu_measures.main(list(command[2:]))
            code, said = 0, ""
    return gpu.Ended(code, time.perf_counter() - begin, said)


LOCK = threading.Lock()


def measured(folder: Path, *arguments: str, run: Any = in_this_process) -> dict[str, Any]:
    gpu.main([str(folder / "gpu.json"), "--small", "--minutes", "60", *arguments], run)
    found = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    assert not list(folder.glob("*.part"))
    return found


INSIDE = ("kernel", "deviations", "engines")
"""Sections that start no whole run: the others are two minutes of work."""


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("gpu"), "--sections", ",".join(INSIDE))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    others = ",".join(name for name in gpu.SECTIONS if name not in INSIDE)
    return measured(tmp_path_factory.mktemp("gpu"), "--sections", others)


def assert_measured(section: str, found: dict[str, Any]) -> None:
    failed = [what for what in leaves(found[section]) if "failed" in what or "exit status" in what]
    # What LAPACK lacks.
    lacking = {"Jacobi", "polar"} if section == "kernel" else set()
    assert {what.split("/")[-2] for what in failed} == lacking, found[section]
    assert len(found[section]) >= (1 if section in ("full", "metrics") else 2)


@pytest.mark.thorough
@pytest.mark.parametrize("section", INSIDE)
def test_what_is_inside_a_process_is_measured(section: str, inside: dict[str, Any]) -> None:
    assert_measured(section, inside)


@pytest.mark.long
def test_runs_are_measured(runs: dict[str, Any]) -> None:
    assert set(runs["seconds a section"]) | set(INSIDE) == set(SECTIONS)
    for section in runs["seconds a section"]:
        assert_measured(section, runs)
    assert runs["runs"]["default, compiled before"]["seconds a stage"]["spectra"] > 0
    few, projected = (runs["large"][name] for name in ("2 layers, 600 sentences", "projection, not a measurement"))
    assert projected["seconds of 32 layers, 600 sentences"] > few["seconds a stage"]["spectra"] * 15


def leaves(value: Any, path: str = "") -> list[str]:
    if not isinstance(value, dict):
        return [path]
    return [leaf for name, each in value.items() for leaf in leaves(each, f"{path}/{name}")]


def test_numbers_are_as_they_must_be(inside: dict[str, Any]) -> None:
    found = inside
    for spectrum in (gpu_measures.FLAT, gpu_measures.DECAYING):
        table = found["kernel"][f"32 x 32, {spectrum}"]
        assert table["the kernel"]["largest error over sigma_1"] < 2e-6
        assert table["gram"]["largest error over sigma_1"] < 1e-7
    stated = found["engines"]["PyTorch with svdvals, driver=None"]
    assert stated["largest deviation from ours, over sigma_1"] < 1e-5
    assert found["deviations"]["platforms"] == ["cpu", "cpu"]
    same = [value for name, value in found["deviations"].items() if name != "platforms"]
    assert len(same) > 15
    assert max(value["largest"] for value in same) == 0


def test_deviation_is_relative_to_the_value_and_of_spectra_to_the_largest() -> None:
    metric = gpu.deviation(np.array([[[1.0, 2.2]]]), np.array([[[1.0, 2.0]]]))
    assert metric["largest"] == pytest.approx(0.1)
    spectrum = gpu.deviation(np.array([[[[10.0, 1.5]]]]), np.array([[[[10.0, 1.0]]]]))
    assert spectrum["largest"] == pytest.approx(0.05)


def test_a_section_that_fails_costs_no_other(tmp_path: Path) -> None:
    def run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> gpu.Ended:
        if "kernel" in command:
            raise RuntimeError("no device")
        return gpu.Ended(3, 1.0, "the last words")

    found = measured(tmp_path, "--sections", "kernel,engines,runs", run=run)
    assert found["kernel"] == {"failed": "RuntimeError: no device"}
    assert found["engines"]["ended early"]["exit status"] == 3
    assert found["runs"]["default, compiled before"]["said last"] == "the last words"


def test_what_was_measured_before_the_time_was_over_is_kept(tmp_path: Path) -> None:
    """A process of its own, ended with its child, and the file that it had written."""
    child = tmp_path / "child"
    slow = (
        "import pathlib, subprocess, sys, time; pathlib.Path(sys.argv[1]).write_text('{\"one\": 1}');"
        f"subprocess.Popen(['sleep', '60']); open({str(child)!r}, 'w').write('x'); time.sleep(60)"
    )

    def run(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> gpu.Ended:
        return gpu.run_process([sys.executable, "-c", slow, command[3]], environment, 3)

    begin = time.monotonic()
    found = measured(tmp_path, "--sections", "kernel", run=run)
    assert time.monotonic() - begin < 30
    assert child.exists()
    assert found["kernel"]["one"] == 1
    assert found["kernel"]["ended early"]["exit status"] is None


def test_sections_beyond_the_time_are_named(tmp_path: Path) -> None:
    gpu.main([str(tmp_path / "gpu.json"), "--small", "--minutes", "0.05"], in_this_process)
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert set(found["not reached"]) == set(SECTIONS)


def test_unknown_sections_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main([str(tmp_path / "gpu.json"), "--sections", "kernels"])
    assert "there are runs, studies" in capsys.readouterr().err
