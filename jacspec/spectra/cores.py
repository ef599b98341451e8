"""NumPy's and LAPACK's work on the host: one piece after another on each core, with BLAS on one thread.

OpenBLAS would start its own threads on top: measured 1.6 to 3 times slower on 2 cores.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import scipy.linalg  # noqa: F401 (loads the LAPACK that XLA calls, for `_loaded_blas` to find)
from threadpoolctl import ThreadpoolController

Found = TypeVar("Found")


def map_on_cores(function: Callable[..., Found], *columns: Iterable[Any]) -> list[Found]:
    """Call `function` with the first of each column, then with the second, and so on, shared by the cores.

    What a call gives must not depend on the others: they run at once, in threads.
    """
    with blas_on_one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, *columns))


@contextlib.contextmanager
def lapack_threads() -> Iterator[None]:
    """Give each call of LAPACK one thread where CPUs are the devices; on an accelerator's host nothing is limited."""
    with blas_on_one_thread() if jax.default_backend() == "cpu" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Give each call of BLAS and LAPACK one thread, where a batch is spread over the cores or is small."""
    with _loaded_blas().limit(limits=1, user_api="blas"):
        yield


@functools.lru_cache(maxsize=1)
def _loaded_blas() -> ThreadpoolController:
    """Find the BLAS libraries that are loaded: 10 ms, as much as an SVD."""
    return ThreadpoolController()
