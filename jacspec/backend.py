"""How arrays are computed: precision, the cache of compiled programs, and programs compiled ahead.

All programs that a run needs are compiled at once, while nothing waits for the first of them. XLA's compiler lets go of
the interpreter, so threads use the cores. A program that was lowered from shapes is the one that a later call with
arrays of these shapes runs: JAX keeps it by function, shapes and settings.
"""

import contextlib
import functools
import gc
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import compilation_cache

from jacspec.files import cache_folder
from jacspec.progress import note_compiling


@contextlib.contextmanager
def numerics(precision: str) -> Iterator[None]:
    """Compute in `float32` or `float64`, products at full precision: TF32 and bfloat16 passes must not slip in."""
    _choose_gpu_products()
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield


TRITON = "--xla_gpu_enable_triton_gemm"
PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")


@functools.cache
def _choose_gpu_products() -> None:
    """Leave products on NVIDIA's GPUs to cuBLAS, unless XLA_FLAGS says otherwise; of use before the first computation.

    XLA tries out tilings of its own, each compiled, for every float32 product at full precision: on an H100 the step of
    a GPT-2 block took more than 8 seconds to compile with them and 1.4 without.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if TRITON not in flags and any(importlib.util.find_spec(plugin) for plugin in PLUGINS):
        os.environ["XLA_FLAGS"] = f"{flags} {TRITON}=false".strip()


def open_devices() -> None:
    """Begin to open the devices in the background, which takes CUDA seconds; a failure is for whom it concerns first.

    The interpreter waits for the thread at its end: it would not survive that, being in CUDA.
    """

    def touch() -> None:
        with contextlib.suppress(Exception):
            jax.device_put(np.zeros(1, np.float32), jax.local_devices()[0]).block_until_ready()

    _choose_gpu_products()
    threading.Thread(target=touch).start()


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that the second run starts at once; time what is made.

    An entry that cannot be read is dropped, so that it is made anew; JAX would keep it and warn in every later run.
    """
    _time_compiling()
    folder = cache_folder() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that cannot be written (no home, full disk) costs time and nothing else.
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)
    setattr(compilation_cache, _read.__name__, _read_or_drop)


def forget_programs() -> None:
    """Let go of all compiled programs: each holds memory maps, of which Linux gives a process 65,530."""
    jax.clear_caches()
    gc.collect()


_read = compilation_cache.get_executable_and_time
_said: list[str] = []


def _read_or_drop(key: str, *arguments: Any) -> tuple[Any, Any]:
    """Read an entry of the cache as JAX does; where that fails, remove it and say so once."""
    try:
        return _read(key, *arguments)
    except Exception:  # whatever a decompressor or XLA makes of bytes that are not an entry
        with contextlib.suppress(OSError):
            for file in (cache_folder() / "xla").glob(f"{key}-*"):
                file.unlink(missing_ok=True)
        if not _said:
            _said.append(key)
            print("jacspec: a damaged entry of the cache of compiled programs is made anew.", file=sys.stderr)
        return None, None


@functools.cache
def _time_compiling() -> None:
    jax.monitoring.register_event_duration_secs_listener(note_compiling)


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
