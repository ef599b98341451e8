"""No file of the user's is touched: foreign folders, foreign files in a run's, links, modes, two runs in one second."""

import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from filelock import FileLock
from matplotlib.figure import Figure
from servers import NANO, files_below, run_here, statuses
from transformers import AutoTokenizer

from jacspec.axes import LayerResult
from jacspec.cli.folders import make_new
from jacspec.config import Config, config_folder
from jacspec.errors import JacspecError
from jacspec.models.export import write_config, write_tensors, write_tokenizer
from jacspec.report.figures import save_figure
from jacspec.report.page import write_sections
from jacspec.runs import Run, RunWriter, open_run, resume_run, start_run
from jacspec.runs.files import TEMPORARY
from jacspec.runs.layers import write_layer
from jacspec.runs.writing import check_vacant, claim_folder, release_folder
from jacspec.studies import STUDIES
from jacspec.studies.merge.written import check_folder, write_merged

FOREIGN = {
    "layers/attention.py": "class Attention: ...\n",
    "layers/.lock": "held by another program\n",
    "metrics.csv": "epoch,loss\n0,3.5\n",
    "report.html": "<p>mine</p>\n",
    "figures/a.png": "a picture\n",
    "model/x": "weights\n",
    "notes.txt": "notes\n",
}
LAZY = (
    *("task=lazy", "lazy.scales=[1]", "lazy.seeds=1", "lazy.steps=2", "lazy.width=8", "lazy.inputs=4"),
    *("lazy.samples=8", "lazy.groups=4", "lazy.removed=[1]"),
)
HYDRAS_OWN = ("hydra.output_subdir=.hydra", "hydra/job_logging=default")


def lay_out(folder: Path, files: dict[str, str] = FOREIGN) -> dict[str, Any]:
    """Write a user's files; returns what `snapshot` sees."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return snapshot(folder)


def snapshot(folder: Path) -> dict[str, Any]:
    """Read everything below a folder: modes, times, and bytes or where a link leads."""
    found: dict[str, Any] = {}
    for place in sorted(folder.rglob("*")):
        status = place.lstat()
        content = place.readlink() if place.is_symlink() else place.read_bytes() if place.is_file() else None
        found[str(place.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def write_note(config: Config, folder: Path, console: object, inputs: object) -> None:
    """Stand for a task."""
    (folder / "note").write_text(str(config.seed))


def write_nothing(config: Config, folder: Path, console: object, inputs: object) -> None:
    """Stand for a task that makes no folder."""


# Folders that are the user's


def test_table_below_has_every_task() -> None:
    assert {file.stem for file in (config_folder() / "task").glob("*.yaml")} == set(STUDIES)


@pytest.mark.parametrize("task", STUDIES)
def test_foreign_folder_is_left_as_it_was(task: str, tmp_path: Path) -> None:
    before = lay_out(tmp_path / "proj")
    find = {"return_value": write_nothing} if not STUDIES[task].folder else {"side_effect": AssertionError("was begun")}
    with mock.patch("jacspec.cli.command.load", **find):
        done = run_here(f"task={task}", "hydra.run.dir=proj", *HYDRAS_OWN, cwd=tmp_path)
    assert snapshot(tmp_path / "proj") == before
    assert files_below(tmp_path) == {f"proj/{name}" for name in FOREIGN}
    if STUDIES[task].folder:
        assert done.code == 1
        assert done.err.startswith("jacspec: proj holds files that are not a run's")
        for name in FOREIGN.keys() - {"layers/.lock"}:  # one name a folder
            assert name in done.err
        assert "hydra.run.dir=OTHER" in done.err


def test_report_and_resume_of_a_foreign_folder(tmp_path: Path) -> None:
    before = lay_out(tmp_path / "proj")
    for arguments in (["task=report", "run=proj"], [*LAZY, "resume=proj"]):
        done = run_here(*arguments, cwd=tmp_path)
        assert done.code == 1
        assert "proj is not a run folder" in done.err
    assert snapshot(tmp_path / "proj") == before


def test_oracle_sees_a_run_that_does_not_ask(tmp_path: Path) -> None:
    before = lay_out(tmp_path / "proj", {"metrics.csv": "mine"})
    with mock.patch("jacspec.runs.writing.check_vacant"), mock.patch("jacspec.studies.run.write_report"):
        assert run_here(*LAZY, "hydra.run.dir=proj", cwd=tmp_path).code == 0
    assert snapshot(tmp_path / "proj").items().isdisjoint(before.items())


def test_empty_folder_of_the_users_outlives_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for place in ("mine", "new"):
        assert run_here(*LAZY, "lazy.seeds=0", f"hydra.run.dir={place}", cwd=tmp_path).code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("left", [{}, {"layers/.lock": ""}, {"layers/.lock": "", f"{TEMPORARY}run.json.ab": "{"}])
def test_folder_that_is_empty_or_left_by_a_kill_is_vacant(left: dict[str, str], tmp_path: Path) -> None:
    lay_out(tmp_path, left)
    check_vacant(tmp_path)
    (tmp_path / "layers").mkdir(exist_ok=True)
    (tmp_path / "layers" / "attention.py").touch()
    with pytest.raises(JacspecError, match=r"In the way: layers/attention\.py"):
        check_vacant(tmp_path)


@pytest.mark.parametrize("content", ["{}", "not JSON", '["status"]'])
def test_run_file_of_another_program_is_in_the_way(content: str, tmp_path: Path) -> None:
    lay_out(tmp_path, {"run.json": content})
    with pytest.raises(JacspecError, match=r"In the way: run\.json"):
        check_vacant(tmp_path)


# Sweeps


@pytest.mark.parametrize("more", [{}, {"multirun.yaml": "hydra: of another program\n", "0/note": "mine\n"}])
def test_foreign_folder_of_a_sweep_is_left_as_it_was(more: dict[str, str], tmp_path: Path) -> None:
    before = lay_out(tmp_path / "proj", FOREIGN | more)
    with mock.patch("jacspec.cli.command.load", side_effect=AssertionError("was begun")):
        done = run_here("-m", "seed=0,1", "hydra.sweep.dir=proj", *HYDRAS_OWN, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: proj holds files that are not a sweep's")
    assert "layers/attention.py, metrics.csv" in done.err
    assert snapshot(tmp_path / "proj") == before


def test_sweep_takes_its_own_folder_again_and_leaves_what_is_beside(tmp_path: Path) -> None:
    with mock.patch("jacspec.cli.command.load", return_value=write_note):
        sweep = ("-m", "seed=0,1", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=seed${seed}")
        assert run_here(*sweep, cwd=tmp_path).code == 0
        before = lay_out(tmp_path / "sweep" / "seed2")
        (tmp_path / "sweep" / ".jobs").mkdir()
        lay_out(tmp_path / "sweep", {".jobs/mine.json": "{}"})
        done = run_here("-m", "seed=2,3", *sweep[2:], cwd=tmp_path)
    assert done.code == 1
    assert "1 of 2 runs did not finish" in done.err
    assert "seed2 holds files that are not a run's" in done.err
    assert snapshot(tmp_path / "sweep" / "seed2") == before
    assert (tmp_path / "sweep" / "seed3" / "note").read_text() == "3"
    assert (tmp_path / "sweep" / ".jobs" / "mine.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["multirun.yaml", "sweep.csv", ".jobs"])
def test_sweep_writes_through_no_link(name: str, tmp_path: Path) -> None:
    before = lay_out(tmp_path / "elsewhere")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / name).symlink_to(tmp_path / "elsewhere" / ("figures" if name == ".jobs" else "notes.txt"))
    done = run_here("-m", "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.code == 1
    assert f"sweep/{name} is a symbolic link" in done.err
    assert snapshot(tmp_path / "elsewhere") == before


# Two commands in one second


def test_folders_made_at_once_are_different(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def make(number: int) -> Path:
        together.wait()
        return make_new(tmp_path / "outputs" / "12-00-00")

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    names = {"12-00-00", *(f"12-00-00_{number}" for number in range(2, 9))}
    assert {folder.name for folder in made} == {folder.name for folder in (tmp_path / "outputs").iterdir()} == names


@pytest.mark.parametrize(("kind", "inside"), [("run", ""), ("sweep", "0/")])
def test_two_commands_of_one_second_have_a_folder_each(kind: str, inside: str, tmp_path: Path) -> None:
    place = f'hydra.{kind}.dir="it\'s/${{now:%Y}}"'  # a year is one second here
    with mock.patch("jacspec.cli.command.load", return_value=write_note):
        for seed in ("seed=1", "seed=2"):
            done = run_here(*(["-m"] if kind == "sweep" else []), seed, place, cwd=tmp_path)
            assert done.code == 0, done.err
    first, second = sorted((tmp_path / "it's").iterdir())
    assert second.name == f"{first.name}_2"
    assert [(folder / f"{inside}note").read_text() for folder in (first, second)] == ["1", "2"]
    assert {"sweep.csv"} & files_below(second) == ({"sweep.csv"} if kind == "sweep" else set())


# Foreign files in a run's folder

NAMES = ("spectral_radius",)
PROVENANCE: dict[str, Any] = {"task": "jacobian", "metrics": list(NAMES), "identity": {"seed": 0}}
SAMPLES = [(0, 5, "Speak, speak.")]


def make_result(layer: int) -> LayerResult:
    sigma = np.array([[3.0, 2.0, 1.0]], np.float32)
    return LayerResult(layer, layer, {"mlp": sigma}, {"mlp": {"spectral_radius": sigma[:, 0]}})


def start(folder: Path) -> RunWriter:
    return start_run(folder, PROVENANCE, metric_names=NAMES, samples=SAMPLES)


def resume(folder: Path) -> RunWriter:
    return resume_run(folder, PROVENANCE, metric_names=NAMES, samples=SAMPLES)


@pytest.fixture
def interrupted(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run that ended after its first layer."""
    start(tmp_path / "run").add_layer(make_result(0))
    release_folder(tmp_path / "run")
    yield tmp_path / "run"
    release_folder(tmp_path / "run")


def test_foreign_files_beside_a_runs_stay(interrupted: Path) -> None:
    names = (
        *("layers/attention.py", "layers/weights.npz", "layers/processed.json", "layers/sub/0001.npz", "model/x"),
        *("figures/a.png", "notes.txt", f"other/{TEMPORARY}half"),
    )
    foreign = dict.fromkeys(names, "mine")
    lay_out(interrupted, foreign)
    kept = {name: entry for name, entry in snapshot(interrupted).items() if name in foreign}
    lay_out(interrupted, {f"layers/{TEMPORARY}0001.npz.ab": "PK", "layers/process1.json": "{}"})
    writer = resume(interrupted)
    assert list(writer.done) == [0]
    writer.add_layer(make_result(1))
    writer.write_tables()
    save_figure(Run(interrupted), "mine", Figure(), ("png",))
    writer.finish()
    found = snapshot(interrupted)
    assert {name: found[name] for name in kept} == kept
    assert not {name for name in found if name.startswith("layers/")} - set(names) - {"layers/sub"}
    assert len(open_run(interrupted).metrics) == 2


def test_run_without_foreign_files_leaves_no_layers(interrupted: Path) -> None:
    resume(interrupted).finish()
    assert not (interrupted / "layers").exists()


@pytest.mark.parametrize("count", range(9))
def test_kill_between_the_mark_and_the_first_files(count: int, tmp_path: Path) -> None:
    """Whatever a start has written, the run begins anew or is resumed, and its tables are those of one left alone."""
    start(tmp_path / "whole").finish()
    real, left = os.fsync, [count]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        real(descriptor)

    with mock.patch("os.fsync", fsync):
        try:
            start(tmp_path / "run")
        except KeyboardInterrupt:
            pass
        else:
            assert count >= 6, "each of three files is two steps"
    release_folder(tmp_path / "run")
    begun = (tmp_path / "run" / "run.json").exists()
    assert begun == (count > 0)
    (resume if begun else start)(tmp_path / "run").finish()
    for name in ("samples.csv", "metrics.csv", "run.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert files_below(tmp_path / "run") == files_below(tmp_path / "whole")


# Links


def _draw(folder: Path) -> None:
    save_figure(Run(folder), "a", Figure(), ("png",))


INSIDE: dict[str, Callable[[Path], object]] = {
    **dict.fromkeys(("run.json", "layers", "layers/.lock", "models", "merged", "samples.csv", "metrics.csv"), resume),
    **dict.fromkeys(("summary.csv", "spectra.nc", "figures", "report.html"), resume),
    "layers/0001.npz": lambda folder: write_layer(folder / "layers", make_result(1)),
    "figures/a.png": lambda folder: _draw(folder),
}
"""By what is a link, what would write through it."""
REDRAWN: dict[str, Callable[[Path], object]] = {
    "figures": lambda folder: _draw(folder),
    "report.html": lambda folder: write_sections(Run(folder), "a run", []),
}


@pytest.mark.parametrize(
    ("name", "write"), [*INSIDE.items(), *REDRAWN.items()], ids=[*INSIDE, *(f"{name} redrawn" for name in REDRAWN)]
)
def test_nothing_is_written_through_a_link(
    name: str, write: Callable[[Path], object], interrupted: Path, tmp_path: Path
) -> None:
    place, target = interrupted / name, tmp_path / "elsewhere" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    place.parent.mkdir(exist_ok=True)
    if place.exists():
        place.rename(target)
    elif "." in name:
        target.write_text("mine")
    else:
        lay_out(target, {"0000.npz": "mine", f"{TEMPORARY}mine": "mine"})
    place.symlink_to(target)
    before = snapshot(tmp_path / "elsewhere")
    with pytest.raises(JacspecError, match=f"{name} is a symbolic link"):
        write(interrupted)
    assert snapshot(tmp_path / "elsewhere") == before
    assert place.is_symlink()


def test_nothing_is_removed_through_a_link(interrupted: Path, tmp_path: Path) -> None:
    before = lay_out(tmp_path / "elsewhere")
    (interrupted / "models").mkdir()
    for name in (f"{TEMPORARY}a", f"layers/{TEMPORARY}a", f"models/{TEMPORARY}a", "layers/process1.json"):
        (interrupted / name).symlink_to(tmp_path / "elsewhere")
    resume(interrupted).finish()
    assert snapshot(tmp_path / "elsewhere") == before
    assert not [name for name in snapshot(interrupted) if TEMPORARY in name or name.startswith("layers")]


def test_finished_run_is_resumed_through_no_link(interrupted: Path, tmp_path: Path) -> None:
    resume(interrupted).finish()
    before = lay_out(tmp_path / "elsewhere", {"0000.npz": "mine"})
    (interrupted / "layers").symlink_to(tmp_path / "elsewhere")
    for write in (resume, lambda folder: RunWriter(folder, {"status": "unfinished"}, NAMES, SAMPLES, {}).finish()):
        with pytest.raises(JacspecError, match="layers is a symbolic link"):
            write(interrupted)
    assert snapshot(tmp_path / "elsewhere") == before


def test_lock_is_not_truncated_through_a_link(tmp_path: Path) -> None:
    """By the library itself, below the version that the project asks for it was."""
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "run" / "layers").mkdir(parents=True)
    (tmp_path / "run" / "layers" / ".lock").symlink_to(target)
    with pytest.raises(JacspecError, match="symbolic link"):
        claim_folder(tmp_path / "run")
    with pytest.raises(OSError, match="symbolic link"):
        FileLock(tmp_path / "run" / "layers" / ".lock", timeout=0).acquire()
    assert target.read_text() == "mine"


def test_merge_writes_through_no_link_and_names_what_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "model").mkdir()
    before = lay_out(tmp_path / "elsewhere", {"x": "mine"})
    lay_out(tmp_path / "model", {"config.json": "{}", "tokenizer.json": "{}"})
    (tmp_path / "saved" / "tokenizer.json").symlink_to(tmp_path / "elsewhere" / "x")
    with pytest.raises(JacspecError, match=r"tokenizer\.json is a symbolic link"):
        write_merged(tmp_path / "saved", {}, [], lambda stored: np.zeros(1), beside=tmp_path / "model")
    assert snapshot(tmp_path / "elsewhere") == before
    with pytest.raises(JacspecError, match="In the way: x"):
        check_folder(tmp_path / "elsewhere", {}, resume=False)


# Modes


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002], ids=oct)
def test_files_take_the_umask_and_the_folders_group(umask: int, tmp_path: Path) -> None:
    group = 4242 if os.geteuid() == 0 else os.getegid()
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chown(shared, -1, group)
    shared.chmod(0o2775)
    was = os.umask(umask)
    try:
        writer = start(shared / "run")
        writer.add_layer(make_result(0))
        writer.write_tables()
        _draw(writer.folder)
        model = make_new(shared / "model")
        write_config(model, {})
        write_tensors(model, {"a": np.zeros(3)}, dtype="float32")
        write_tokenizer(model, AutoTokenizer.from_pretrained(NANO))
        release_folder(writer.folder)
    finally:
        os.umask(was)
    found = snapshot(shared)
    assert {"run/layers/.lock", "run/layers/0000.npz", "run/samples.csv", "model/model.safetensors"} < found.keys()
    for name, (mode, *_) in found.items():
        expected = 0o2777 & ~umask if stat.S_ISDIR(mode) else 0o666 & ~umask
        assert stat.S_IMODE(mode) == expected, name
        assert (shared / name).stat().st_gid == group, name


def test_run_of_a_command_takes_the_umask(tmp_path: Path) -> None:
    was = os.umask(0o077)
    try:
        with mock.patch("jacspec.studies.run.write_report"):
            assert run_here(*LAZY, "hydra.run.dir=out", cwd=tmp_path).code == 0
    finally:
        os.umask(was)
    assert statuses(tmp_path) == ["finished"]
    assert not [name for name, (mode, *_) in snapshot(tmp_path).items() if mode & 0o077]
