"""How arrays are computed: precision and the cache of compiled programs."""

import contextlib
import functools
import logging
from collections.abc import Iterator

import jax

from jacspec.corpus import cache_folder
from jacspec.progress import note_compiling


@contextlib.contextmanager
def numerics(precision: str) -> Iterator[None]:
    """Compute in `float32` or `float64`, products at full precision: TF32 and bfloat16 passes must not slip in."""
    with jax.enable_x64(precision == "float64"), jax.default_matmul_precision("highest"):
        yield


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, so that the second run starts at once; time what is made."""
    _time_compiling()
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A cache that cannot be written (no home, full disk) costs time and nothing else.
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.ERROR)


@functools.cache
def _time_compiling() -> None:
    jax.monitoring.register_event_duration_secs_listener(note_compiling)
