"""A run that is killed and resumed ends with the numbers of one that was not."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import (
    CONTRACT,
    command_line,
    environment,
    files_below,
    run_here,
    statuses,
)

from jacspec.runs import open_run

FILES = CONTRACT | {"depth.csv"}
"""Of a run with samples enough for intervals."""
RUN = ("data.samples=60", "data.max_tokens=16", "components=[mlp]")
TABLES = ("metrics.csv", "summary.csv", "samples.csv")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    cwd = tmp_path_factory.mktemp("reference")
    done = run_here(*RUN, "hydra.run.dir=whole", cwd=cwd)
    assert done.code == 0, done.err
    return cwd / "whole"


def differing_files(left: Path, right: Path) -> list[str]:
    """Name what is not equal bit for bit in two runs."""
    tables = [name for name in TABLES if (left / name).read_bytes() != (right / name).read_bytes()]
    a, b = open_run(left).dataset, open_run(right).dataset
    arrays = [
        name for name in a if a[name].dtype != b[name].dtype or a[name].values.tobytes() != b[name].values.tobytes()
    ]
    return [*tables, *map(str, arrays)]


def kill_when(ready: Callable[[Path], bool], cwd: Path, *arguments: str) -> None:
    """Start the command and kill it without warning as soon as its folder is `ready`."""
    process = subprocess.Popen(
        command_line(*arguments),
        cwd=cwd,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not ready(cwd / "killed"):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def layers_done(folder: Path) -> int:
    return len(list((folder / "layers").glob("*.npz")))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "before any layer": lambda folder: (folder / "run.json").exists(),
    "after the first layer": lambda folder: layers_done(folder) >= 1,
    "after the third layer": lambda folder: layers_done(folder) >= 3,
    "while drawing": lambda folder: (folder / "figures").exists(),
}
AT = {"before any layer": "long", "after the third layer": "long", "while drawing": "thorough"}
"""Of the long ones an interruption in `test_interrupted.py` and the kills of `tests/faults/` say the same."""


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=getattr(pytest.mark, AT[name])) if name in AT else name for name in MOMENTS]
)
def test_killed_run_ends_with_the_same_numbers(moment: str, reference: Path, tmp_path: Path) -> None:
    kill_when(MOMENTS[moment], tmp_path, *RUN, "hydra.run.dir=killed")
    folder = tmp_path / "killed"
    assert statuses(folder) == ["unfinished"]
    found = layers_done(folder)
    # What a kill in the middle of a write leaves.
    (folder / ".jacspec-summary.csv.abcd1234").write_text("half")
    (folder / "layers" / ".jacspec-0005.npz.abcd1234").write_bytes(b"PK")
    done = run_here(*RUN, "hydra.run.dir=killed", "task=report", "run=killed", cwd=tmp_path)
    assert done.code == 1
    assert "resume=killed" in done.err
    done = run_here(*RUN, "resume=killed", cwd=tmp_path)
    assert done.code == 0, done.err
    assert differing_files(folder, reference) == []
    assert files_below(tmp_path) == {f"killed/{name}" for name in FILES}, f"{found} layers were there"


def test_oracle_sees_another_seed(reference: Path, tmp_path: Path) -> None:
    done = run_here(*RUN, "seed=1", "report.figures=none", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    found = differing_files(tmp_path / "out", reference)
    columns = {"spectral_radius", "decay_ratio", "linearity_radius", "linearity_error", "curvature"}
    assert set(found) == {*TABLES, "singular_values", *columns}


def test_layers_that_are_there_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jacspec.jacobians.engine as engine

    real, computed = engine.gather, []

    def stop_at_layer_4(number: int, *arguments: Any) -> Any:
        if number == 4 and 4 not in computed:
            computed.append(number)
            raise KeyboardInterrupt
        computed.append(number)
        return real(number, *arguments)

    monkeypatch.setattr(engine, "gather", stop_at_layer_4)
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
    small = ("data.samples=4", "data.max_tokens=16", "components=[mlp]")
    done = run_here(*small, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 130
    assert "resume=" in done.err
    done = run_here(*small, "resume=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert computed == [0, 1, 2, 3, 4, 4, 5]
    done = run_here(*small, "resume=out", "hydra.run.dir=elsewhere", cwd=tmp_path)
    assert done.code == 0, "resuming a finished run changes nothing"
    assert not (tmp_path / "elsewhere").exists()
    assert computed == [0, 1, 2, 3, 4, 4, 5]
    assert statuses(tmp_path) == ["finished"]


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["seed=1"], ["seed was 0, now 1"]),
        (["data.samples=59", "precision=float64"], ["data.samples was 60, now 59", "precision was 'float32'"]),
        (["model.revision=step0"], ["model.revision was None, now 'step0'"]),
        (["components=[attn]"], ["components"]),
        (["data.split=lines"], ["data.split was 'sentences', now 'lines'"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_run_of_another_configuration_is_refused(
    arguments: list[str], fragments: list[str], reference: Path, tmp_path: Path
) -> None:
    before = {name: (reference / name).read_bytes() for name in FILES}
    done = run_here(*RUN, *arguments, f"resume={reference}", cwd=tmp_path)
    assert done.code == 1
    for fragment in ["another configuration", *fragments]:
        assert fragment in done.err
    assert {name: (reference / name).read_bytes() for name in files_below(reference)} == before


def test_damaged_layer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("data.samples=4", "data.max_tokens=16", "components=[mlp]")
    monkeypatch.setattr("jacspec.studies.run.write_report", _interrupt)
    assert run_here(*small, "hydra.run.dir=out", cwd=tmp_path).code == 130
    layer = tmp_path / "out" / "layers" / "0002.npz"
    for content in (b"", b"PK\x03\x04 cut off", b"no archive", layer.read_bytes()[:-100]):
        layer.write_bytes(content)
        done = run_here(*small, "resume=out", cwd=tmp_path)
        assert done.code == 1
        assert done.err.startswith("jacspec: ")
        assert "0002.npz is damaged" in done.err
    layer.unlink()
    monkeypatch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
    assert run_here(*small, "resume=out", cwd=tmp_path).code == 0
    assert statuses(tmp_path) == ["finished"]


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
