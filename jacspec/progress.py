"""What the user sees while a task runs, and how long its stages took."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from jacspec.interrupts import raise_interrupt


class Stopwatch:
    """Seconds by stage: `with watch("read text"): ...`; each second is in one stage, so that all add up.

    `imports` is what came before the stopwatch, from the start of the process on (Python, the configuration, JAX); of
    the first run of a command alone. `compiling` are those in which JAX traced, lowered or compiled a program, or read
    one from its cache, in whatever thread; the stage that they fell into is without them. `other` is the rest.
    """

    def __init__(self) -> None:
        global _process_start
        now = time.perf_counter()
        self._start, _process_start = _process_start or now, None
        self._stages = [("imports", self._start, now)] if self._start < now else []
        _compiled.clear()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages.append((stage, start, time.perf_counter()))

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each stage that has ended, of compiling, and of the rest until now."""
        now = time.perf_counter()
        found = {stage: end - start - _covered(_compiled, start, end) for stage, start, end in self._stages}
        found["compiling"] = _covered(_compiled, self._start, now)
        return {stage: round(each, 3) for stage, each in found.items()} | {
            "other": round(now - self._start - sum(found.values()), 3)
        }


_process_start: float | None = None
_compiled: list[tuple[float, float]] = []
"""When JAX began and ended to make a program, on the clock `time.perf_counter`."""


def count_from_process_start() -> None:
    """Let the next stopwatch count from when this process began, imports included."""
    global _process_start
    _process_start = time.perf_counter() - _process_age()


def note_compiling(event: str, duration_secs: float, **_: object) -> None:
    """Take note of what JAX says it did (`jax.monitoring`), if that was part of making a program."""
    if event.startswith(("/jax/core/compile/", "/jax/compilation_cache/cache_retrieval")):
        now = time.perf_counter()
        _compiled.append((now - duration_secs, now))


def _covered(intervals: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Measure how much of the time from `start` to `end` lies in any of the intervals."""
    covered, reached = 0.0, start
    for low, high in sorted(intervals):
        low, high = max(low, reached), min(high, end)
        if high > low:
            covered, reached = covered + high - low, high
    return covered


def _process_age() -> float:
    """Return the seconds since this process began; where nobody tells, those that it computed for."""
    computed = time.process_time()
    with contextlib.suppress(OSError, ValueError, AttributeError):
        ticks = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
        # In a sandbox the two clocks need not be one.
        if computed - 0.1 <= age < computed + 60:
            return age
    return computed


@contextlib.contextmanager
def layer_progress(console: Console, *, layers: int, samples: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of all (layer, sample) pairs with the layer in work and the time left; yields `advance(layer, n)`."""
    with _bar(console, "samples x layers") as progress:
        bar = progress.add_task(f"layer 0 of {layers}", total=layers * samples)

        def advance(layer: int, n: int) -> None:
            raise_interrupt()
            progress.update(bar, advance=n, description=f"layer {layer + 1} of {layers}")

        yield advance


@contextlib.contextmanager
def row_progress(console: Console, unit: str, *, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many rows, or what else `unit` calls them, are done, and where their `total` is known the time left.

    Yields `advance(n)`.
    """
    columns = (TextColumn("{task.completed:.0f} " + unit), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) if total is None else _bar(console, unit) as progress:
        bar = progress.add_task("", total=total)
        yield lambda n: _advance(progress, bar, n)


@contextlib.contextmanager
def figure_progress(console: Console, *, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many figures are drawn; yields `advance(n)`."""
    columns = (TextColumn("drawing {task.completed:.0f} of {task.total:.0f} figures"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total)
        yield lambda n: _advance(progress, bar, n)


@contextlib.contextmanager
def compile_progress(console: Console, *, programs: int) -> Iterator[Callable[[], None]]:
    """Show how many programs are compiled; yields `advance()`. The line goes when all are."""
    columns = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TextColumn("programs"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("compiling", total=programs)
        yield lambda: _advance(progress, bar, 1)


@contextlib.contextmanager
def step_progress(console: Console, *, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of training steps with the loss; yields `report(step, loss)`."""
    with _bar(console, "steps") as progress:
        bar = progress.add_task("training", total=steps)

        def report(step: int, loss: float) -> None:
            raise_interrupt()
            progress.update(bar, completed=step + 1, description=f"loss {loss:.3f} nats")

        yield report


def _advance(progress: Progress, bar: TaskID, n: int) -> None:
    raise_interrupt()
    progress.update(bar, advance=n)


def _bar(console: Console, unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
