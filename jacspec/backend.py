"""How arrays are computed: precision and the cache of compiled programs."""

import contextlib
import functools
import gc
import importlib.util
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import compilation_cache

from jacspec.cache import cache_folder
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
