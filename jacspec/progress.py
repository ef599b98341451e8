"""What the user sees while a task runs, and how long its stages took."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Stopwatch:
    """Seconds by stage: `with watch("read text"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = round(time.perf_counter() - start, 3)


@contextlib.contextmanager
def layer_progress(console: Console, *, layers: int, samples: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar of all (layer, sample) pairs with the layer in work and the time left; yields `advance(layer, n)`."""
    with _bar(console, "samples x layers") as progress:
        bar = progress.add_task(f"layer 0 of {layers}", total=layers * samples)

        def advance(layer: int, n: int) -> None:
            progress.update(bar, advance=n, description=f"layer {layer + 1} of {layers}")

        yield advance


@contextlib.contextmanager
def count_progress(console: Console, what: str) -> Iterator[Callable[[int], None]]:
    """Show how many things are done, where nobody knows how many there are; yields `advance(n)`."""
    columns = (TextColumn("{task.completed:.0f} " + what), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda n: progress.update(bar, advance=n)


@contextlib.contextmanager
def cell_progress(console: Console, *, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show a bar of experiments, or what else `unit` calls them, with the time left; yields `advance(n)`."""
    with _bar(console, unit) as progress:
        bar = progress.add_task("", total=total)
        yield lambda n: progress.update(bar, advance=n)


@contextlib.contextmanager
def compile_progress(console: Console, *, programs: int) -> Iterator[Callable[[], None]]:
    """Show how many programs are compiled; yields `advance()`. The line goes when all are."""
    columns = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TextColumn("programs"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("compiling", total=programs)
        yield lambda: progress.update(bar, advance=1)


@contextlib.contextmanager
def step_progress(console: Console, *, steps: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of training steps with the loss; yields `report(step, loss)`."""
    with _bar(console, "steps") as progress:
        bar = progress.add_task("training", total=steps)

        def report(step: int, loss: float) -> None:
            progress.update(bar, completed=step + 1, description=f"loss {loss:.3f} nats")

        yield report


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
