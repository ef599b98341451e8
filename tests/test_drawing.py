"""Who draws which figures, what the page then shows, and the seconds of a run."""

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from servers import TINY, run_here
from test_report import PAPER, drawn, make_run

from jacspec import progress
from jacspec.errors import JacspecError
from jacspec.progress import Stopwatch, note_compiling
from jacspec.report import drawing, figures, helpers, write_report
from jacspec.report.figures import draw_boxes
from jacspec.runs import Run, open_run

NAMES = [*PAPER, "spectra"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", layers=2, samples=4)


@pytest.fixture
def helper() -> Iterator["subprocess.Popen[str]"]:
    """One helper, as a command would start it."""
    helpers.start_helpers(count=1)
    yield helpers._processes[0]
    helpers.stop_helpers()


def page_of(run: Run) -> str:
    """Read the page of a run."""
    return (run.folder / "report.html").read_text("utf-8")


def refuse(name: str) -> Figure:
    """Draw nothing."""
    raise AssertionError(f"{name} was drawn here")


@pytest.mark.parametrize(
    ("formats", "wanted", "files"),
    [
        (("png",), "all", [f"{name}.png" for name in NAMES]),
        (("png", "pdf"), ["spectra"], ["spectra.pdf", "spectra.png"]),
        (("pdf",), ["decay_ratio"], ["decay_ratio.pdf"]),
        (("png",), "none", []),
    ],
)
def test_what_is_asked_for_is_drawn_and_shown(
    run: Run, formats: Sequence[str], wanted: str | list[str], files: list[str]
) -> None:
    write_report(run, formats=formats, figures=wanted)
    found = [file.name for file in (run.folder / "figures").glob("*")]
    assert sorted(found) == sorted(files)
    page = page_of(run)
    assert page.count("<img src=") == sum(name.endswith("png") for name in files)
    assert set(re.findall(r'href="figures/(.*?)"', page)) == set(files)
    assert ("None was drawn" in page) == (not files)


def test_figures_that_were_drawn_before_stay_on_the_page(run: Run) -> None:
    write_report(run, figures=["spectra"])
    write_report(run, formats=["pdf"], figures=["decay_ratio"])
    page = page_of(run)
    assert page.count("<img src=") == 1
    assert "figures/decay_ratio.pdf" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["svg"]}, r"report\.formats has 'svg'.*pdf.*png"),
        ({"formats": []}, r"report\.formats=\[\] draws nothing"),
        ({"figures": "some"}, r"report\.figures=some is not known\. Accepted: all, none"),
        ({"figures": ["spectrum"]}, r"no figure 'spectrum'.*spectra"),
    ],
)
def test_what_there_is_not_is_refused(run: Run, options: dict[str, object], message: str) -> None:
    with pytest.raises(JacspecError, match=message):
        write_report(run, **options)  # type: ignore[arg-type]


def test_png_has_the_pixels_that_savefig_gives(run: Run) -> None:
    """Drawn once instead of twice, at the same resolution."""
    expected = io.BytesIO()
    draw_boxes(run, "spectral_radius").savefig(expected, format="png", dpi=figures.DPI)
    figures_folder = run.folder / "figures"
    figures_folder.mkdir()
    figures.save_figure(run, "spectral_radius", draw_boxes(run, "spectral_radius"), ("png",))
    expected.seek(0)
    pixels, found = imread(expected), imread(figures_folder / "spectral_radius.png")
    assert (pixels[..., :3] == found).all()
    assert (pixels[..., 3] == 1).all()
    assert found.std() > 0


def test_helper_draws_the_same_and_progress_counts(
    run: Run, helper: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(run)
    expected = drawn(run)
    for name in expected:
        (run.folder / "figures" / name).unlink()
    # This process takes no figure that a helper could, and draws none.
    monkeypatch.setattr(drawing, "take_back", lambda: None)
    monkeypatch.setattr(drawing, "save_figure", lambda run, name, *_: refuse(name))
    console = Console(file=io.StringIO(), width=80)
    write_report(run, console)
    assert drawn(run) == expected
    assert "drawing 3 of 3 figures" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    ["break", "print('failed', flush=True)", "import time; time.sleep(600)"],
    ids=["dies", "fails", "stalls"],
)
def test_what_a_helper_leaves_is_drawn_here(run: Run, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    program = f"import sys\nprint('ready', flush=True)\nfor _ in sys.stdin: {answer}"
    monkeypatch.setattr(helpers, "_PROGRAM", program)
    monkeypatch.setattr(drawing, "PATIENCE_SECONDS", 0.5)
    helpers.start_helpers(count=1)
    own: list[str] = []

    def take_back() -> helpers.Drawing | None:
        while not own and helpers._waiting.qsize() == len(NAMES):
            time.sleep(0.001)  # until the helper has one
        taken = helpers.take_back()
        own.append(taken.name if taken else "the helper's")
        return taken

    monkeypatch.setattr(drawing, "take_back", take_back)
    try:
        write_report(run)
    finally:
        helpers.stop_helpers()
    assert NAMES[0] not in own  # the helper had the first
    assert sorted(drawn(run)) == sorted(f"{name}.png" for name in NAMES)


def test_helper_ends_with_its_parent(tmp_path: Path) -> None:
    """A helper of a process that is killed finds its pipe ended."""
    program = (
        "from jacspec.report import helpers; import time; helpers.start_helpers(count=1); "
        "print(helpers._processes[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while _alive(pid):
        assert time.monotonic() < deadline, "the helper is still there"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Say whether a process runs; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_numbers_come_before_the_drawing_and_options_reach_it(tmp_path: Path) -> None:
    done = run_here(*TINY, "report.formats=[png,pdf]", "report.figures=[spectra]", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    places = [done.out.index(words) for words in ("decay ratio", "drawing 1 of 1 figures", "run folder:", "report:")]
    assert places == sorted(places)
    assert sorted(drawn(Run(tmp_path / "out"))) == ["spectra.pdf", "spectra.png"]
    seconds = open_run(tmp_path / "out").provenance["seconds"]
    assert seconds["draw"] > 0
    assert seconds["compiling"] >= 0
    assert {*seconds} == {"open model", "read text", "spectra", "tables", "draw", "compile", "compiling", "other"}

    again = run_here("task=report", "run=out", "report.figures=[decay_ratio]", cwd=tmp_path)
    assert again.code == 0, again.err
    assert sorted(drawn(Run(tmp_path / "out"))) == ["decay_ratio.png", "spectra.pdf", "spectra.png"]
    # What is drawn anew changes nothing that was recorded.
    assert open_run(tmp_path / "out").provenance["seconds"] == seconds

    refused = run_here(*TINY, "report.formats=[svg]", "hydra.run.dir=other", cwd=tmp_path)
    assert (refused.code, "svg" in refused.err, (tmp_path / "other").exists()) == (1, True, False)


def test_stages_add_up_to_what_a_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(progress, "_process_age", lambda: 3.0)
    progress.count_from_process_start()
    clock[0] = 101.0
    watch = Stopwatch()
    with watch("open model"):
        clock[0] = 106.0
        note_compiling("/jax/core/compile/backend_compile_duration", 2.0)  # 104 to 106
        note_compiling("/jax/core/compile/jaxpr_trace_duration", 1.0)  # 105 to 106, inside the first
        note_compiling("/jax/checkpoint/write", 5.0)
        clock[0] = 108.0
    clock[0] = 110.0
    note_compiling("/jax/core/compile/backend_compile_duration", 3.0)  # 107 to 110, a third of it within the stage
    clock[0] = 111.0
    seconds = watch.seconds
    assert seconds == {"imports": 4.0, "open model": 4.0, "compiling": 5.0, "other": 1.0}
    assert sum(seconds.values()) == 111 - 97
    # The next run of the same process began with its own stopwatch.
    assert Stopwatch().seconds == {"compiling": 0.0, "other": 0.0}
