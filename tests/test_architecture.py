"""Imports point one way: a contract over all modules, read from their source; and what drawing a run may load."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_report import make_run

import jacspec
from jacspec.studies import STUDIES

PACKAGE = Path(jacspec.__file__).parent
GROUND = "ground"
ROOMS = {
    GROUND: (),
    "models": (),
    "spectra": (),
    "text": (),
    "jacobians": ("models", "spectra", "text"),
    "scoring": ("models", "text", "jacobians"),
    "runs": (),
    "report": ("runs", "spectra"),
    "studies": ("models", "spectra", "text", "jacobians", "scoring", "runs", "report"),
    "api": ("models", "spectra", "text", "jacobians", "runs", "report", "studies"),
    "cli": ("runs", "report", "studies"),
    "face": ("api", "cli"),
}
"""The rooms from below, and those that each may import beside itself and the ground: the modules at top level."""

TABLE = ("jacspec.studies", "jacspec.studies.study")
"""The table of studies is data that any room may read."""


@functools.cache
def _modules() -> dict[str, ast.Module]:
    names = {
        ".".join(("jacspec", *file.relative_to(PACKAGE).with_suffix("").parts)): file
        for file in sorted(PACKAGE.rglob("*.py"))
    }
    return {name.removesuffix(".__init__"): ast.parse(file.read_text()) for name, file in names.items()}


def _room(module: str) -> str:
    if module in ("jacspec", "jacspec.__main__"):
        return "face"
    room = module.split(".")[1]
    return room if (PACKAGE / room).is_dir() else GROUND


def _imports(tree: ast.AST, known: frozenset[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inside = [f"{node.module}.{each.name}" for each in node.names]
            yield from (name if name in known else str(node.module) for name in inside)


def wrong_arrows(modules: dict[str, ast.Module]) -> list[str]:
    """List the imports that the contract does not allow; one inside a function is one too."""
    found = []
    for name, tree in modules.items():
        for other in _imports(tree, frozenset(modules)):
            here, there = _room(name), _room(other)
            allowed = there in (here, GROUND, *ROOMS[here]) or other in TABLE
            if here == there == "studies" and name.count(".") > 2 and other.count(".") > 2:
                allowed = name.split(".")[2] == other.split(".")[2]  # no study imports another
            if not allowed:
                found.append(f"{name} imports {other}")
    return found


def test_imports_point_one_way() -> None:
    assert wrong_arrows(_modules()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("jacspec.spectra.svd", "from jacspec.text.corpus import decode_text"),
        ("jacspec.report.labels", "from jacspec.models.block import ModelSpec"),
        ("jacspec.runs.files", "def f():\n    import jacspec.report.page"),
        ("jacspec.studies.heads.run", "from jacspec.studies.weights.run import run_weights"),
        ("jacspec.errors", "from jacspec import runs"),
    ],
)
def test_contract_sees_an_arrow_up(module: str, line: str) -> None:
    modules = _modules() | {module: ast.parse(line)}
    assert len(wrong_arrows(modules)) == 1


def test_no_circle() -> None:
    """Of imports that run when a module is imported; what is only for types is none."""
    modules = _modules()
    known = frozenset(modules)
    graph = {
        name: {
            other
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for other in _imports(node, known)
            if other != name
        }
        for name, tree in modules.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_top_level_reads_as_the_pipeline() -> None:
    modules = [file for file in PACKAGE.glob("*.py") if not file.name.startswith("__")]
    assert len(modules) <= 10
    assert {room.name for room in PACKAGE.iterdir() if (room / "__init__.py").is_file()} == ROOMS.keys() - {
        GROUND,
        "face",
    }


NOT_LOADED = ("jacspec.models", "jacspec.jacobians", "jacspec.scoring", "jacspec.text", "flax", "optax", "transformers")


def _check_light(code: str) -> None:
    check = f"import sys; loaded = [name for name in {NOT_LOADED} if name in sys.modules]; assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{check}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_drawing_a_run_loads_neither_models_nor_jacobians(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    _check_light(
        "from jacspec.report import write_report; from jacspec.runs import Run; from pathlib import Path\n"
        f"write_report(Run(Path({str(run.folder)!r})), figures=['spectra'])"
    )


def test_words_and_figures_of_every_study_load_neither() -> None:
    drawn = [study for study in STUDIES.values() if study.page]
    places = [study.figures for study in drawn]
    places += [
        place for study in drawn if (page := study.page) for place in (page.findings, page.numbers, page.sentences)
    ]
    _check_light(f"from jacspec.studies.study import load\nfor place in {[*filter(None, places)]!r}: load(place)")
