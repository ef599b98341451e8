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


@contextlib.contextmanager
def compiling(programs: Sequence[Program], precision: str) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Begin to compile programs; yields `finish(advance)`, which waits for all and calls `advance()` after each.

    A program that cannot be compiled raises there what its call would raise.
    """
    with ThreadPoolExecutor(max(min(len(programs), os.cpu_count() or 1), 1)) as pool:
        futures: list[Future[None]] = [pool.submit(_compile, program, precision) for program in programs]

        def finish(advance: Callable[[], None]) -> None:
            for future in as_completed(futures):
                future.result()
                advance()

        try:
            yield finish
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _compile(program: Program, precision: str) -> None:
    # Settings are a thread's own.
    with numerics(precision):
        program.function.lower(*program.arguments, **program.static).compile()
