"""Strictness for every test: array types checked at run time, no silent promotion, warnings are errors."""

import os
from collections.abc import Callable
from pathlib import Path

# Before JAX starts, and for the processes that tests start too.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import jaxtyping

jaxtyping.install_import_hook("jacspec", "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

PARITY: dict[str, dict[str, float]] = {}

SHARED = Path(__file__).parents[2] / "shared"

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
"""Largest deviation from the oracle, relative to the largest value of the oracle's array."""


@pytest.fixture(scope="session")
def record_parity() -> Callable[[str, str, float], None]:
    """Note the largest deviation that a family reached in some respect."""

    def record(family: str, respect: str, worst: float) -> None:
        reached = PARITY.setdefault(family, {})
        reached[respect] = max(reached.get(respect, 0.0), worst)

    return record


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test material, which a plain checkout does not have."""
    if not SHARED.is_dir():
        pytest.skip("the shared test material is not beside this checkout")
    return SHARED
