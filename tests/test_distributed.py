"""A run shared by several processes: the numbers of one process to the last bit, also where one of them is killed."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import TINY, command_line, environment, files_below, run_here, statuses
from test_resume import FILES, RUN, differing_files
from test_runs import NAMES, assert_same_bits, make_result

from jacspec.axes import LayerResult
from jacspec.errors import JacspecError
from jacspec.runs.layers import LayerShard, collect_layers, read_shards, write_layer, write_shard
from jacspec.runs.workers import Workers, forget_heartbeats, read_heartbeat, send_heartbeats, watch

# Real processes


def start_processes(count: int, cwd: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = (f"distributed.coordinator=127.0.0.1:{port}", f"distributed.processes={count}", "distributed.timeout=3")
    return [
        subprocess.Popen(
            command_line(*arguments, *shared, f"distributed.index={index}"),
            cwd=cwd,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def end_processes(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [(process.returncode, error) for process, error in zip(processes, errors, strict=True)]


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    command = (*RUN, "report.figures=none")
    done = run_here(*command, "hydra.run.dir=alone", cwd=tmp_path)
    assert done.code == 0, done.err
    ends = end_processes(start_processes(2, tmp_path, *command, "hydra.run.dir=shared"))
    assert ends == [(0, ends[0][1]), (0, ends[1][1])]
    assert differing_files(tmp_path / "shared", tmp_path / "alone") == []
    assert json.loads((tmp_path / "shared" / "run.json").read_text())["processes"] == 2
    assert files_below(tmp_path / "shared") == {name for name in FILES if not name.startswith("figures/")}


@pytest.mark.long
def test_two_processes_give_the_bits_of_one_also_after_a_kill(tmp_path: Path) -> None:
    """The same, where a member dies; its silence and what it says are tested at the end of this file, too."""
    command = RUN
    done = run_here(*command, "hydra.run.dir=alone", cwd=tmp_path)
    assert done.code == 0, done.err
    processes = start_processes(2, tmp_path, *command, "hydra.run.dir=shared")
    folder = tmp_path / "shared"
    wait_for(lambda: (folder / "layers" / "0001.process1of2.npz").exists())
    processes[1].kill()
    (code, error), (killed, _) = end_processes(processes)
    assert (code, killed) == (1, -signal.SIGKILL)
    assert "jacspec: Process 1 has given no sign of life for 3 seconds." in error
    assert f"start all processes again with resume={folder}." in error
    assert statuses(folder) == ["unfinished"]
    assert (folder / "layers" / "0005.process0of2.npz").exists(), "process 0 ended its own share"
    ends = end_processes(start_processes(2, tmp_path, *command, "resume=shared"))
    assert ends == [(0, ends[0][1]), (0, ends[1][1])]
    assert differing_files(folder, tmp_path / "alone") == []
    assert files_below(folder) == FILES


def wait_for(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Crews that this process plays one member after the other


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run one of several workers, which waits for nobody; `lonely` is ended where it would wait."""

    def run(workers: Workers, *arguments: str, lonely: bool = False) -> tuple[int, str]:
        def wait(*_: object, **__: object) -> None:
            if lonely:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("jacspec.studies.over_samples.join_workers", lambda config: workers)
            patch.setattr("jacspec.studies.sharing.watch", wait)
            patch.setattr("jacspec.studies.run.write_report", lambda *_, **__: None)
            done = run_here(*arguments, cwd=tmp_path)
        return done.code, done.err

    return run


TASKS = {
    "jacobian": ("engine=jacfwd", "metrics.names=[stable_rank,residual_gain]", "components=[mlp]"),
    "depth": ("depth.exponents=2", "depth.last=1"),
    "coupling": ("components=[mlp]",),
    "modes": ("components=[mlp]", "modes.k=2", "modes.draws=9"),
}
SMALL = ("data.samples=6", "data.max_tokens=40", "engine.batch=2")


@pytest.mark.parametrize(
    "task", ["jacobian", *(pytest.param(name, marks=pytest.mark.long) for name in list(TASKS)[1:])]
)
def test_every_task_that_is_shared(task: str, play: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    command = (f"task={task}", *TASKS[task], *SMALL)
    assert play(Workers(), *command, "hydra.run.dir=alone") == (0, "")
    assert play(Workers(0, 2), *command, "hydra.run.dir=shared", lonely=True)[0] == 130
    assert play(Workers(1, 2), *command, "resume=shared") == (0, "")
    assert play(Workers(0, 2), *command, "resume=shared") == (0, "")
    for name in files_below(tmp_path / "alone") - {"run.json"}:
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_another_number_of_processes_goes_on(play: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    command = (*SMALL, "components=[mlp]")
    assert play(Workers(), *command, "hydra.run.dir=alone") == (0, "")
    assert play(Workers(0, 3), *command, "hydra.run.dir=shared", lonely=True)[0] == 130
    assert play(Workers(1, 2), *command, "resume=shared") == (0, "")
    names = files_below(tmp_path / "shared" / "layers")
    assert {"0000.process0of3.npz", "0000.process1of2.npz"} <= names
    assert "0000.npz" not in names
    assert play(Workers(), *command, "resume=shared") == (0, "")
    assert differing_files(tmp_path / "shared", tmp_path / "alone") == []


def test_more_processes_than_batches(play: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    command = (*TINY, "components=[mlp]")
    assert play(Workers(0, 3), *command, "hydra.run.dir=shared") == (0, "")
    assert play(Workers(2, 3), *command, "resume=shared") == (0, "")
    assert statuses(tmp_path) == ["finished"]
    assert json.loads((tmp_path / "shared" / "run.json").read_text())["processes"] == 3


def test_process_of_another_run_is_refused(play: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    play(Workers(0, 2), *TINY, "hydra.run.dir=shared", lonely=True)
    before = files_below(tmp_path)
    code, error = play(Workers(1, 2), *TINY, "seed=1", "resume=shared")
    assert (code, files_below(tmp_path)) == (1, before)
    assert "config.seed was 0, now 1" in error
    code, error = play(Workers(1, 2), *TINY, "hydra.run.dir=elsewhere")
    assert code == 1
    assert "Process 0 did not open" in error


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["distributed.processes=2"], ["distributed.processes=2", "distributed.coordinator=HOST:PORT"]),
        (["distributed.coordinator=auto", "distributed.index=1"], ["distributed.index=1", "or leave it out"]),
        (["distributed.coordinator=localhost"], ["distributed.coordinator=localhost is not an address"]),
        (["distributed.coordinator=h:1", "distributed.processes=2"], ["distributed.index=I"]),
        (
            ["distributed.coordinator=h:1", "distributed.processes=2", "distributed.index=2"],
            ["distributed.index=2", "from 0 to N − 1"],
        ),
        (["distributed.timeout=0"], ["distributed.timeout=0.0", "distributed.timeout=60"]),
        (["distributed.coordinator=auto", "task=weights"], ["task=weights", "coupling, depth, jacobian, modes"]),
        (["distributed.coordinator=auto"], ["hydra.run.dir=FOLDER"]),
        (["-m", "seed=0,1", "distributed.coordinator=auto"], ["sweep"]),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_half_said_processes_are_refused(arguments: list[str], fragments: list[str], tmp_path: Path) -> None:
    done = run_here(*arguments, *TINY, cwd=tmp_path)
    assert done.code == 1
    assert done.err.startswith("jacspec: ")
    for fragment in fragments:
        assert fragment in done.err
    assert not list(tmp_path.rglob("run.json"))


# Shares and signs


def rows_of(result: LayerResult, rows: list[int]) -> LayerResult:
    sigma = {name: values[rows] for name, values in result.singular_values.items()}
    metrics, vectors = (
        {component: {name: values[rows] for name, values in own.items()} for component, own in held.items()}
        for held in (result.metrics, result.vectors)
    )
    return LayerResult(result.number, result.layer, sigma, metrics, vectors=vectors)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.permutations(range(7)), st.integers(1, 6), st.integers(0, 6), st.booleans())
def test_shares_make_the_whole(order: list[int], cut: int, again: int, last_missing: bool) -> None:
    whole = make_result(3, samples=7)
    parts = [order[:cut], order[cut:], [again]]
    shares = {3: [LayerShard(np.array(rows), rows_of(whole, rows)) for rows in parts]}
    assert_same_bits(collect_layers(shares, range(7))[3], whole)
    some = sorted(order[:3])
    assert_same_bits(collect_layers(shares, some)[3], rows_of(whole, some))
    if again in order[:cut]:
        assert collect_layers({3: [shares[3][0], shares[3][2]]}, range(7)) == {}
    mislabelled = {3: [LayerShard(np.roll(order, 1), rows_of(whole, order))]}
    with pytest.raises(AssertionError):
        assert_same_bits(collect_layers(mislabelled, range(7))[3], whole)


def test_shares_come_back_from_their_files(tmp_path: Path) -> None:
    whole = make_result(0)
    write_shard(tmp_path, LayerShard(np.array([2, 0]), rows_of(whole, [2, 0])), Workers(1, 2))
    assert collect_layers(read_shards(tmp_path, NAMES), range(3)) == {}
    write_shard(tmp_path, LayerShard(np.array([1]), rows_of(whole, [1])), Workers(0, 2))
    write_layer(tmp_path, make_result(4))
    found = collect_layers(read_shards(tmp_path, NAMES), range(3))
    assert list(found) == [0, 4]
    assert_same_bits(found[0], whole)
    assert_same_bits(found[4], make_result(4))


def test_signs_say_how_a_process_ended(tmp_path: Path) -> None:
    assert read_heartbeat(tmp_path, 0) is None
    with send_heartbeats(tmp_path, 0, every=0.01):
        first = read_heartbeat(tmp_path, 0)
        wait_for(lambda: read_heartbeat(tmp_path, 0) != first)
    with pytest.raises(JacspecError, match="too few"), send_heartbeats(tmp_path, 1, every=60.0):
        raise JacspecError("too few")
    watch(tmp_path, [0], until=lambda: True, timeout=1.0, ways_on="")
    with pytest.raises(JacspecError, match=r"Process 1 stopped: too few Go on."):
        watch(tmp_path, [0, 1], until=lambda: False, timeout=60.0, ways_on="Go on.")
    with pytest.raises(KeyboardInterrupt), send_heartbeats(tmp_path, 1, every=60.0):
        raise KeyboardInterrupt
    with pytest.raises(JacspecError, match=r"Process 1 stopped: it was interrupted. Go on."):
        watch(tmp_path, [1], until=lambda: False, timeout=60.0, ways_on="Go on.")
    forget_heartbeats(tmp_path)
    assert files_below(tmp_path) == set()
    with pytest.raises(JacspecError, match=r"Process 1 has given no sign of life for 0.1 seconds. Go on."):
        watch(tmp_path, [1], until=lambda: False, timeout=0.1, ways_on="Go on.")


def test_process_that_gives_signs_is_waited_for(tmp_path: Path) -> None:
    deadline = time.monotonic() + 1.5
    with send_heartbeats(tmp_path, 1, every=0.05):
        watch(tmp_path, [1], until=lambda: time.monotonic() > deadline, timeout=0.5, ways_on="")
