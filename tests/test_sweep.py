"""Sweeps on every launcher: a job that fails or is killed leaves the others whole, and the summary names it."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm
from servers import command_line, environment, in_session, run_command, run_here, start, statuses

from jacspec.runs import open_run

BAD, GOOD = "data.samples=0", "data.samples=2"
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local",),
}


def read_sweep(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    "launcher",
    ["basic", pytest.param("joblib", marks=pytest.mark.thorough), pytest.param("submitit", marks=pytest.mark.long)],
)
def test_one_job_fails_and_is_named(launcher: str, tmp_path: Path) -> None:
    run = run_here if launcher == "basic" else run_command
    small = ("components=[mlp]", "layers=[0]", "report.figures=none")
    sweep = ("-m", *LAUNCHERS[launcher], f"{BAD},2", "data.max_tokens=16", *small, "hydra.sweep.dir=sweep")
    done = run(*sweep, cwd=tmp_path)
    assert done.code == 1
    summary = done.err[done.err.index("jacspec: 1 of 2 runs did not finish. Table: sweep/sweep.csv") :]
    said = f"{BAD} data.max_tokens=16 {' '.join(small)}"
    assert f"job 0, {said}, failed: data.samples=0 is less than 1." in summary
    assert "job 1" not in summary
    failed, whole = read_sweep(tmp_path / "sweep")
    assert (failed["job"], failed["status"], failed["folder"]) == ("0", "failed", "")
    assert failed["overrides"] == said
    assert failed["message"].startswith("data.samples=0 is less than 1.")
    assert whole == {
        "job": "1",
        "overrides": said.replace(BAD, GOOD),
        "status": "finished",
        "folder": str(tmp_path / "sweep" / "1"),
        "message": "",
    }
    assert len(open_run(whole["folder"]).samples) == 2
    assert statuses(tmp_path) == ["finished"]
    assert not (tmp_path / "sweep" / ".jobs").exists()


def test_error_of_ours_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("one of ours")

    monkeypatch.setattr("jacspec.cli.command.load", lambda task: fail)
    with pytest.raises(ZeroDivisionError):
        run_here("-m", "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    found = [(row["status"], row["message"]) for row in read_sweep(tmp_path / "sweep")]
    assert found == [("failed", "ZeroDivisionError: one of ours")] * 2


def test_slip_in_the_command_is_no_sweep(tmp_path: Path) -> None:
    done = run_here("-m", "model=gpt2,nanoo", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: model=nanoo is not a choice of model, ")
    assert [file.name for file in (tmp_path / "sweep").iterdir()] == ["multirun.yaml"]


@pytest.mark.thorough
def test_killed_sweep_leaves_its_table_and_is_resumed(tmp_path: Path) -> None:
    small = ("data.samples=3", "data.max_tokens=16", "components=[mlp]", "layers=[0]", "report.figures=none")
    sweep = ("-m", *small, "seed=0,1,2", "hydra.sweep.dir=sweep")
    with subprocess.Popen(
        command_line(*sweep), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        wait_for(lambda: (tmp_path / "sweep" / "1" / "run.json").exists())
        process.kill()
    first, second, third = read_sweep(tmp_path / "sweep")
    assert (first["status"], third["status"]) == ("finished", "not started")
    assert second["status"] in ("unfinished", "finished")
    kept = (tmp_path / "sweep" / "0" / "metrics.csv").stat().st_mtime_ns
    done = run_here("-m", *small, "seed=0,1,2", "resume=sweep", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "sweep: all 3 runs finished." in done.out
    assert [row["status"] for row in read_sweep(tmp_path / "sweep")] == ["finished"] * 3
    assert statuses(tmp_path) == ["finished"] * 3
    assert (tmp_path / "sweep" / "0" / "metrics.csv").stat().st_mtime_ns == kept
    assert not (tmp_path / "multirun").exists()


@pytest.mark.parametrize(
    ("launcher", "number", "code"),
    [
        ("basic", signal.SIGINT, 130),
        pytest.param("joblib", signal.SIGTERM, 143, marks=pytest.mark.thorough),
        pytest.param("joblib", signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param("submitit", signal.SIGTERM, 143, marks=pytest.mark.thorough),
    ],
)
def test_interrupted_sweep_takes_its_workers_and_is_resumed(
    launcher: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    small = ("data.samples=60", "data.max_tokens=16", "components=[attn]", "layers=[0,1,2]", "engine=jacfwd")
    sweep = ("-m", *LAUNCHERS[launcher], *small, "report.figures=none", "seed=0,1")
    process = start(*sweep, "hydra.sweep.dir=sweep", cwd=tmp_path, start_new_session=True)
    wait_for(lambda: any(tmp_path.glob("sweep/*/layers/*.npz")))
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == ("\njacspec: interrupted. 0 of 2 runs finished. Add resume=sweep to the same command to resume it.\n")
    wait_for(lambda: not in_session(process.pid))
    assert len(read_sweep(tmp_path / "sweep")) == 2
    done = run_command(*sweep, "resume=sweep", cwd=tmp_path)
    assert done.code == 0, done.err
    assert statuses(tmp_path) == ["finished"] * 2


@pytest.mark.thorough
def test_sweep_of_another_configuration_is_not_resumed(tmp_path: Path) -> None:
    small = ("data.samples=3", "data.max_tokens=16", "components=[mlp]", "layers=[0]", "report.figures=none")
    assert run_here("-m", *small, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path).code == 0
    done = run_here("-m", *small, "seed=0,2", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.code == 1
    assert [row["status"] for row in read_sweep(tmp_path / "sweep")] == ["finished", "failed"]
    assert "config.seed was 1, now 2" in done.err


@pytest.mark.long
def test_sweep_in_one_process_stays_flat(tmp_path: Path) -> None:
    """A job of another shape compiles anew: 1,450 memory maps a job were never let go."""
    small = ("components=[mlp]", "layers=[0]", "report.figures=none", "data.samples=3")
    lengths = ",".join(map(str, range(8, 8 + 8 * 12, 8)))
    with subprocess.Popen(
        command_line("-m", *small, f"data.max_tokens={lengths}", "hydra.sweep.dir=sweep"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
    ) as process:
        counts = []
        for job in range(12):
            wait_for((tmp_path / "sweep" / str(job) / "report.html").exists)
            counts.append(len(Path(f"/proc/{process.pid}/maps").read_text().splitlines()) if job < 11 else 0)
    assert max(counts[1:11]) < 1.05 * counts[0], counts


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a SLURM here")
def test_machine_without_slurm_is_named(tmp_path: Path) -> None:
    done = run_here("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "seed=0,1", cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: SLURM's srun is not on this machine.")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is a SLURM here")
def test_recipe_on_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep by `sbatch`, and the script of the recipe, twice: stand-ins start what they ask for on this machine."""
    ended = slurm.install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    small = ("model=nano", "data.samples=6", "data.max_tokens=16", "layers=[0]", "report.figures=none")
    launcher = [f"hydra.launcher.{word}" for word in ("partition=gpu", "gpus_per_node=1", "timeout_min=120")]
    sweep = ("-m", "hydra/launcher=submitit_slurm", *launcher, *small, "seed=0,1", "hydra.sweep.dir=sweep")
    done = run_command(*sweep, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "sweep: all 2 runs finished." in done.out
    recipes = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    script = recipes.partition("```bash\n")[2].partition("```")[0]
    command = " ".join([sys.executable, "-m", "jacspec", *small, "engine.batch=3"])
    script = script.replace("jacspec model=llama-3.1-8b data=shakespeare", command).replace("ntasks=8", "ntasks=2")
    assert command in script
    (tmp_path / "job.sh").write_text(script, encoding="utf-8")
    for times in (1, 2):  # the second resumes
        subprocess.run(["sbatch", "job.sh"], cwd=tmp_path, env=environment(), check=True)
        wait_for(lambda: ended.read_text().count("4242|") == times)  # noqa: B023
    assert ended.read_text().count("4242|COMPLETED") == 2
    assert run_command(*small, "engine.batch=3", "hydra.run.dir=alone", cwd=tmp_path).code == 0
    shared, alone = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("runs/llama", "alone"))
    assert shared == alone


def test_launcher_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_here("-m", "hydra/launcher=slurm", "seed=0,1", cwd=tmp_path)
    assert done.code == 1
    assert "Accepted: basic, joblib, submitit_local" in done.err
    monkeypatch.setattr("jacspec.cli.explain.LAUNCHERS", {"slurm": "submitit"})
    done = run_here("-m", "hydra/launcher=slurm", "seed=0,1", cwd=tmp_path)
    assert done.err == "jacspec: hydra/launcher=slurm is not installed. Type pip install 'jacspec[submitit]'.\n"


@pytest.mark.long
def test_killed_job_is_named(tmp_path: Path) -> None:
    arguments = ("-m", *LAUNCHERS["submitit"], "data.samples=150", "seed=0,1", "hydra.sweep.dir=sweep")
    with subprocess.Popen(
        command_line(*arguments),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as sweep:
        wait_for(lambda: all(any(tmp_path.glob(f"sweep/{job}/layers/*.npz")) for job in (0, 1)))
        # submitit names the folder of a job's log by the job's process, which runs ours as its child.
        victim = next(folder.name for folder in (tmp_path / "sweep" / ".submitit").iterdir() if folder.name.isdigit())
        (child,) = Path(f"/proc/{victim}/task/{victim}/children").read_text().split()
        for process in (victim, child):
            os.kill(int(process), signal.SIGKILL)
        _, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 1
    assert "The launcher lost a job" in err
    # Where the lost one is the first, submitit does not wait for the other, which goes on.
    wait_for(lambda: "finished" in statuses(tmp_path))
    lost = statuses(tmp_path).index("unfinished")
    row = read_sweep(tmp_path / "sweep")[lost]
    assert row["status"] == "unfinished"
    assert f"job {lost}, data.samples=150 seed={lost}, unfinished in {row['folder']}: " in err
    done = run_here(*row["overrides"].split(), f"resume={row['folder']}", cwd=tmp_path)
    assert done.code == 0, done.err
    assert statuses(tmp_path) == ["finished", "finished"]


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)
