"""Strictness for every test: array types checked at run time, no silent promotion, warnings are errors."""

import atexit
import gc
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Before JAX starts, and for the processes that tests start too.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Thousands of small programs run once or twice each: less is compiled into them, in one piece each (a program cut in
# parts for threads takes half as long again to compile); the arithmetic is the same.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_parallel_codegen_split_count=1",
)
if "PYTEST_XDIST_WORKER" not in os.environ:
    # One cache for all tests and the processes that they start, and never the user's own.
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="jacspec-cache-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

from array_types import check_array_types, count_calls_anew

check_array_types()
# Tracing makes thousands of objects a test and hardly any garbage: Python's own 700 cost a tenth of a test's time.
gc.set_threshold(20_000, *gc.get_threshold()[1:])

import jax  # noqa: E402
import pytest  # noqa: E402

from jacspec.backend import use_compilation_cache  # noqa: E402

use_compilation_cache()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

PARITY: dict[str, dict[str, float]] = {}
"""Largest deviations that this session saw, by family and respect."""

REAL: dict[str, tuple[int, str]] = {}
"""By family, the largest trained checkpoint that this session ran: parameters and name."""

CONFIGS: dict[str, set[str]] = {}
"""By family, the real checkpoints whose configurations this session loaded."""

CONFIRMED = "†"
"""What stands behind a ready-made choice that a real file gives too."""

FAMILIES_PAGE = Path(__file__).parents[1] / "docs" / "families.md"
STATUS = ("<!-- status: written by pytest --write-status -->", "<!-- end of status -->")
RESPECTS = ("float64", "float32", "Jacobians")

SHARED = Path(__file__).parents[2] / "shared"

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}
"""Largest deviation from the oracle, relative to the largest value of the oracle's array."""


@pytest.fixture(autouse=True)
def _check_types_anew() -> None:
    count_calls_anew()


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs() -> Iterator[None]:
    """Let go of a module's programs: each holds memory maps, of which Linux gives a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def record_parity() -> Callable[[str, str, float], None]:
    """Note the largest deviation that a family reached in some respect."""

    def record(family: str, respect: str, worst: float) -> None:
        reached = PARITY.setdefault(family, {})
        reached[respect] = max(reached.get(respect, 0.0), worst)

    return record


@pytest.fixture(scope="session")
def record_config() -> Callable[[str, str], None]:
    """Note a real checkpoint whose configuration loads."""

    def record(family: str, name: str) -> None:
        CONFIGS.setdefault(family, set()).add(name)

    return record


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test material, which a plain checkout does not have."""
    if not SHARED.is_dir():
        pytest.skip("the shared test material is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def record_real() -> Callable[[str, str, int], None]:
    """Note a trained checkpoint that ran end to end."""

    def record(family: str, name: str, parameters: int) -> None:
        REAL[family] = max(REAL.get(family, (0, "")), (parameters, name))

    return record


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-status", action="store_true", help="write the table of families into docs/families.md")
    parser.addoption("--write-docs", action="store_true", help="write tables of keys and columns into docs/")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-status") and config.getoption("numprocesses"):
        raise pytest.UsageError("--write-status needs all tests in one process. Type --write-status -n 0.")
    if config.getoption("--write-status") and "not thorough" in config.getoption("markexpr"):
        raise pytest.UsageError("--write-status needs all cases. Type --write-status -n 0 -m 'not long'.")


def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.getoption("--write-docs") and not hasattr(session.config, "workerinput"):
        from docs_pages import write_pages

        write_pages()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as thorough all but some cases, spread evenly, of a test that says how `few` of them run by default."""
    cases: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("few"):
            cases.setdefault((item.path, item.name.partition("[")[0]), []).append(item)
    for own in cases.values():
        (count,) = next(own[0].iter_markers("few")).args
        quick = {round(place * (len(own) - 1) / max(count - 1, 1)) for place in range(count)}
        for number, item in enumerate(own):
            if number not in quick:
                item.add_marker(pytest.mark.thorough)


def pytest_collection_finish() -> None:
    """Leave what was imported out of what Python looks through for garbage: it stays, and is most of all there is."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not session.config.getoption("--write-status"):
        return
    from families import FAMILIES

    before, _, rest = FAMILIES_PAGE.read_text(encoding="utf-8").partition(STATUS[0])
    table, _, after = rest.partition(STATUS[1])
    known = {row[0].strip("`"): row for row in table_rows(table)}
    rows = [_status_row(family, FAMILIES[family].cases, known.get(family, [""] * 7)) for family in sorted(FAMILIES)]
    whole = "\n".join([STATUS[0], *table.strip().splitlines()[:2], *rows, STATUS[1]])
    FAMILIES_PAGE.write_text(f"{before}{whole}{after}", encoding="utf-8")


def table_rows(table: str) -> list[list[str]]:
    """Take the cells of a Markdown table apart, its head left out."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()[2:]]


def _status_row(family: str, cases: Iterable[str], known: list[str]) -> str:
    """Write what this session saw of a family; a cell that it saw nothing of stays as it was."""
    _, _, *worst, trained, configs = known
    if PARITY.get(family, {}).keys() >= {*RESPECTS}:
        worst = [_rounded_up(PARITY[family][respect]) for respect in RESPECTS]
    if family in REAL:
        parameters, name = REAL[family]
        trained = f"{name}, {parameters / 1e6:.3g} M parameters"
    if family in CONFIGS:
        configs = ", ".join(sorted(name for name in CONFIGS[family] if f"{name} {CONFIRMED}" not in CONFIGS[family]))
    cells = [f"`{family}`", "; ".join(cases), *worst, trained or "none", configs or "none"]
    return f"| {' | '.join(cells)} |"


def _rounded_up(value: float) -> str:
    """Write one digit, never less than the value."""
    exponent = math.floor(math.log10(value))
    digit = math.ceil(value / 10**exponent)
    return f"{digit}e{exponent}" if digit < 10 else f"1e{exponent + 1}"
