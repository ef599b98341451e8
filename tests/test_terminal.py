"""The command at a terminal: signals, readers that go away, no Greek letters, names that look like markup."""

import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from servers import NANO, TINY, command_line, environment, run_command, run_here, start, statuses

from jacspec import interrupts
from jacspec.cli.terminal import PIPE_STATUS, Terminal, _spelled
from jacspec.progress import row_progress

SMALL = (*TINY, "components=[mlp]", "report.figures=none")


@pytest.mark.few(1)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_run_with_one_line_and_it_is_resumed(number: signal.Signals, code: int, tmp_path: Path) -> None:
    command = ("data.samples=150", "components=[attn]", "report.figures=none", "engine=jacfwd")
    process = start(*command, "hydra.run.dir=out", cwd=tmp_path)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("out/layers/*.npz")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == f"\njacspec: interrupted. Add resume={tmp_path / 'out'} to the same command to resume it.\n"
    assert statuses(tmp_path) == ["unfinished"]
    done = run_here(*command, "resume=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert statuses(tmp_path) == ["finished"]


@pytest.mark.parametrize("seconds", [0.05, 0.4, 1.2])
def test_signal_while_all_is_imported_ends_with_one_line(seconds: float, tmp_path: Path) -> None:
    process = start(*SMALL, "hydra.run.dir=out", cwd=tmp_path)
    wait_for_python(process)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert re.fullmatch(r"\njacspec: interrupted\.( Add resume=\S+/out to the same command to resume it\.)?\n", err), (
        err
    )


def wait_for_python(process: subprocess.Popen[str]) -> None:
    """Wait until the process has set its handlers, the first thing that it does: before, a signal is the shell's."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(re.search(r"SigCgt:\s+(\w+)", status)[1], 16)  # type: ignore[index]
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.005)
    raise AssertionError("it never caught signals")


SCRIPT = """
import atexit, os, signal, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from jacspec.interrupts import catch_signals, end_interrupted, leave, raise_interrupt

def send(number):
    os.kill(os.getpid(), number)

class Dropped:
    def __del__(self):
        send(signal.SIGINT)

catch_signals()
try:
    {}
except KeyboardInterrupt as interrupt:
    end_interrupted(interrupt)
leave(0)
"""
LINE = "\njacspec: interrupted.\n"
MOMENTS = {
    "as a tuple is named": ("exec('send(signal.SIGINT)')", 130, LINE),
    "in a destructor": ("Dropped(); raise_interrupt()", 130, LINE),
    "again, as all closes": ("atexit.register(send, signal.SIGINT); send(signal.SIGTERM)", 143, LINE),
    "again, while a thread works": (
        "threading.Thread(target=lambda: (time.sleep(0.3), send(signal.SIGINT), time.sleep(60))).start(); "
        "send(signal.SIGINT)",
        *(130, LINE),
    ),
    "when all is done": ("atexit.register(send, signal.SIGINT)", 0, ""),
}


@pytest.mark.parametrize(("code", "status", "said"), MOMENTS.values(), ids=MOMENTS)
def test_signal_at_an_odd_moment_ends_with_one_line(code: str, status: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "moment.py").write_text(SCRIPT.format(code))
    given: dict[str, Any] = {"env": environment(), "capture_output": True, "text": True, "timeout": 20}
    done = subprocess.run([sys.executable, "-m", "moment"], cwd=tmp_path, check=False, **given)
    assert (done.returncode, done.stderr) == (status, said)


def test_interrupt_that_was_swallowed_is_raised_by_the_next_step() -> None:
    class Dropped:
        def __del__(self) -> None:
            interrupts._interrupt(signal.SIGTERM, None)

    interrupts.forget_interrupts()
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with row_progress(Terminal(), "rows", total=2) as advance:
            advance(1)
            Dropped()  # Python prints what a destructor raises, and goes on
            with pytest.raises(interrupts.Terminated):
                advance(1)
    finally:
        sys.unraisablehook = hook
        interrupts.forget_interrupts()


def test_interrupt_while_libraries_load_is_raised_when_they_have() -> None:
    interrupts.forget_interrupts()
    loaded = []

    def load_library() -> None:
        with interrupts.hold_interrupts():
            interrupts._interrupt(signal.SIGTERM, None)
            loaded.append("jaxlib")

    try:
        with pytest.raises(interrupts.Terminated):
            load_library()
        assert loaded == ["jaxlib"]
        with pytest.raises(interrupts.Interrupted):
            interrupts._interrupt(signal.SIGINT, None)
    finally:
        interrupts.forget_interrupts()


def test_interrupt_that_a_library_turns_into_an_error_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OmegaConf does, whose cleaning up fails at what an interrupt left half done."""

    def fail() -> None:
        try:
            interrupts._interrupt(signal.SIGTERM, None)
        except KeyboardInterrupt:
            raise AttributeError("half done") from None

    monkeypatch.setattr("jacspec.cli.command._hydra_main", fail)
    done = run_here(cwd=tmp_path)
    assert (done.code, done.err) == (143, "\njacspec: interrupted.\n")


@pytest.mark.parametrize("arguments", [("--help",), (*SMALL, "hydra.run.dir=out")], ids=["help", "run"])
def test_reader_that_goes_away_is_no_error(arguments: tuple[str, ...], tmp_path: Path) -> None:
    process = start(*arguments, cwd=tmp_path)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=120), err) == (PIPE_STATUS, "")


@pytest.mark.thorough
def test_terminal_without_greek_letters_gets_their_names(tmp_path: Path) -> None:
    done = run_command(*SMALL, "hydra.run.dir=out", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.code, done.err) == (0, "")
    assert done.out.isascii()
    assert "rho" in done.out
    assert statuses(tmp_path) == ["finished"]


@pytest.mark.parametrize(("letter", "spelled"), [("σ", "sigma"), ("₂", "2"), ("×", "x"), ("…", "..."), ("\u4e00", "?")])
def test_spelling(letter: str, spelled: str) -> None:
    assert _spelled(letter) == spelled


@pytest.mark.parametrize("name", ["[bold]b", "[/x]", ":smile:", "[link=file:///etc/passwd]x[/link]"])
def test_names_are_no_markup(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "models" / name.replace("/", "_")
    folder.mkdir(parents=True)
    for file in NANO.iterdir():
        (folder / file.name).symlink_to(file)
    done = run_here(*SMALL, "model=path", f"model.path='{folder}'", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert folder.name in done.out


def test_text_of_a_terminal_is_text() -> None:
    stream = io.StringIO()
    terminal = Terminal()
    terminal.file = stream
    terminal.print("[bold]b [/x] :smile:")
    assert stream.getvalue() == "[bold]b [/x] :smile:\n"


def test_backend_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = run_command(*SMALL, "hydra.run.dir=out", cwd=tmp_path, JAX_PLATFORMS="cuda")
    assert done.code == 1
    assert done.err.startswith("jacspec: JAX_PLATFORMS=cuda is not on this machine.")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_plugins_of_a_folder_are_not_run_by_the_command(tmp_path: Path) -> None:
    """`python -m` looks into the folder that it is started in, as for every module; the command does not."""
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "theirs.py").write_text("open('ran', 'w').close()")
    command = Path(sys.executable).parent / "jacspec"
    if not command.exists():
        pytest.skip("the command is not installed")
    given: dict[str, Any] = {
        "cwd": tmp_path,
        "env": environment(),
        "capture_output": True,
        "check": True,
        "timeout": 60,
    }
    subprocess.run([command, "--hydra-help"], **given)
    assert not (tmp_path / "ran").exists()
    subprocess.run(command_line("--hydra-help"), **given)
    assert (tmp_path / "ran").exists()
