"""Processes that help to draw: started with the run, they have imported Matplotlib when its numbers are there.

Matplotlib is not thread-safe, a fork of a process in which JAX has threads is dangerous, and a new process imports for
a second: hence processes of their own, which read from a pipe what to draw, write the file, and say so. They end with
the process that started them, killed or not, since the pipe ends then.
"""

import atexit
import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MOST_HELPERS = 3
"""Each takes some 150 MB of memory, and few runs have more than a dozen figures."""

READY, DRAWN, FAILED = "ready", "drawn", "failed"
_PROGRAM = "import gc; gc.disable(); from jacspec.report.helpers import serve; serve()"


class Drawing(NamedTuple):
    """A figure that is to be drawn; its name and whether it was drawn are put into `done`."""

    folder: Path
    name: str
    formats: tuple[str, ...]
    done: "queue.SimpleQueue[tuple[str, bool]]"


_waiting: "queue.SimpleQueue[Drawing]" = queue.SimpleQueue()
_processes: list[subprocess.Popen[str]] = []


def start_helpers(figures: str = "", count: int | None = None) -> None:
    """Start helpers in the background, by default one fewer than there are cores; those that are there stay.

    **Arguments:** `figures`, which the run will have, as `Study.figures` names them: imported while it computes.
    """
    wanted = min(_cores() - 1, MOST_HELPERS) if count is None else count
    for _ in range(wanted - len(_processes)):
        # A Ctrl-C at the terminal is for the run; what a helper says of its own failures is said here by drawing anew.
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, figures],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        _processes.append(process)
        threading.Thread(target=_pass_on, args=(process, _waiting), daemon=True).start()
    atexit.unregister(stop_helpers)
    atexit.register(stop_helpers)


def stop_helpers() -> None:
    """End all helpers."""
    global _waiting
    _waiting = queue.SimpleQueue()  # threads of helpers that ended wait at the old one
    while _processes:
        process = _processes.pop()
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def hand_out(drawings: Sequence[Drawing]) -> None:
    """Offer figures to the helpers that are there, and to `take_back`."""
    for drawing in drawings:
        _waiting.put(drawing)


def take_back() -> Drawing | None:
    """Return a figure that no helper has begun, for the caller to draw; `None` where there is none."""
    with contextlib.suppress(queue.Empty):
        return _waiting.get_nowait()
    return None


def serve() -> None:
    """Draw what is asked for on the standard input, until it ends: what a helper does."""
    from jacspec.report.figures import save_figure
    from jacspec.report.listing import list_figures
    from jacspec.runs import Run

    _get_ready(sys.argv[-1])
    runs: dict[str, Run] = {}
    print(READY, flush=True)
    for line in sys.stdin:
        folder, name, formats = json.loads(line)
        if folder not in runs:
            runs = {folder: Run(Path(folder))}
        try:
            save_figure(runs[folder], name, list_figures(runs[folder])[name].draw(), formats)
        except Exception:
            print(FAILED, flush=True)
        else:
            print(DRAWN, flush=True)


def _get_ready(figures: str) -> None:
    """Import what reading a run and drawing `figures` takes, and load the fonts."""
    import pandas  # noqa: F401
    import xarray  # noqa: F401
    from matplotlib.figure import Figure

    from jacspec.report.figures import render_png
    from jacspec.report.labels import words_of_metrics
    from jacspec.studies.study import load

    if figures:
        load(figures)
    words_of_metrics()
    figure = Figure()
    figure.add_subplot().set_title(r"$\sigma_1$, median")
    render_png(figure)


def _pass_on(process: subprocess.Popen[str], waiting: "queue.SimpleQueue[Drawing]") -> None:
    """Hand drawings to one helper as long as it lives; one that it dies at counts as not drawn."""
    answer = _ask(process)
    while answer:
        drawing = waiting.get()
        answer = _ask(process, json.dumps([str(drawing.folder.resolve()), drawing.name, drawing.formats]) + "\n")
        drawing.done.put((drawing.name, answer == DRAWN))


def _ask(process: subprocess.Popen[str], request: str = "") -> str:
    """Send a line and return the next one that comes back: nothing from a process that has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):  # ValueError: `stop_helpers` closed the pipe
        process.stdin.write(request)
        process.stdin.flush()
        return process.stdout.readline().strip()
    return ""


def _cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
