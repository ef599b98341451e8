"""Programs compiled ahead: all that a run needs, at once, while nothing waits for the first of them.

XLA's compiler lets go of the interpreter, so threads use the cores. A program that was lowered from shapes is the one
that a later call with arrays of these shapes runs: JAX keeps it by function, shapes and settings.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax

from jacspec.backend import numerics


class Program(NamedTuple):
    """A function and the shapes that it will be called with: `lower(*arguments, **static)` of a jitted function."""

    function: Any
    arguments: tuple[Any, ...]
    static: dict[str, Any]

    def result(self) -> Any:
        """Return the shapes of what the program gives."""
        return jax.eval_shape(lambda *arguments: self.function(*arguments, **self.static), *self.arguments)


def shapes_of(tree: Any, dtype: Any = None) -> Any:
    """Put shapes in the place of arrays, of floating point numbers in `dtype` where it is given."""

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        floating = jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating)
        return jax.ShapeDtypeStruct(leaf.shape, dtype if dtype is not None and floating else leaf.dtype)

    return jax.tree.map(shape, tree)


class Ahead:
    """Programs on their way: `begin()` sets threads to compile them, `finish(advance)` waits for all."""

    def __init__(self, programs: Sequence[Program], precision: str, pool: ThreadPoolExecutor):
        self._programs, self._precision, self._pool = programs, precision, pool
        self._futures: list[Future[None]] = []

    def begin(self) -> None:
        """Begin, unless that was done before."""
        if not self._futures:
            self._futures = [self._pool.submit(_compile, program, self._precision) for program in self._programs]

    def finish(self, advance: Callable[[], None]) -> None:
        """Wait for all programs, and call `advance()` after each.

        A program that cannot be compiled raises here what its call would raise.
        """
        self.begin()
        for future in as_completed(self._futures):
            future.result()
            advance()


@contextlib.contextmanager
def compiling(programs: Sequence[Program], precision: str) -> Iterator[Ahead]:
    """Hold threads for programs that are compiled ahead; leaving, what has not begun is given up."""
    with ThreadPoolExecutor(max(min(len(programs), os.cpu_count() or 1), 1)) as pool:
        try:
            yield Ahead(programs, precision, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _compile(program: Program, precision: str) -> None:
    # Settings are a thread's own.
    with numerics(precision):
        program.function.lower(*program.arguments, **program.static).compile()
