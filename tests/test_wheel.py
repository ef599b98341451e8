"""The wheel holds everything, and what is installed from it runs from any folder."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from servers import CONTRACT, NANO, TINY, environment, files_below

from jacspec.config import PACKAGE, config_folder
from jacspec.report.explorer.embedding import SCRIPTS

CHECKOUT = PACKAGE.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel; pip fetches the build backend where it is not installed."""
    if not (CHECKOUT / "pyproject.toml").is_file():
        pytest.skip("jacspec is not run from a checkout, so there is nothing to build")
    folder = tmp_path_factory.mktemp("wheel")
    quick = ["--retries", "0", "--timeout", "5", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", str(CHECKOUT), "--no-deps", "--wheel-dir", str(folder), *quick]
    if importlib.util.find_spec("hatchling"):
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode and "No matching distribution found for hatchling" in done.stdout + done.stderr:
        pytest.skip("hatchling is not installed and cannot be fetched")
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_holds_configuration_model_and_text(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {f"jacspec/conf/{file.relative_to(config_folder())}" for file in config_folder().rglob("*.yaml")}
    code = {str(file.relative_to(CHECKOUT)) for file in PACKAGE.rglob("*.py")}
    model = {f"jacspec/assets/nano/{file.relative_to(NANO)}" for file in NANO.rglob("*") if file.is_file()}
    assert "jacspec/assets/nano/revisions/step0/model.safetensors" in model
    explorer = {f"jacspec/report/explorer/{name}" for name in (*SCRIPTS, "explorer.css")}
    assert conf | code | model | explorer | {"jacspec/assets/verse.txt"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests/", "outputs/", "conf/"))]


def test_installed_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    venv, cwd = tmp_path / "venv", tmp_path / "elsewhere"
    cwd.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
    python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", asked], text=True).strip())
    # The dependencies of the environment that runs the tests come after the wheel's own files. Editable installs
    # work through .pth files, which are not read in a folder that is named in one.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*install, "--ignore-installed"], check=True, capture_output=True, timeout=120)
    env = environment()
    env.pop("PYTHONPATH", None)
    where = subprocess.check_output(
        [python, "-c", "import jacspec; print(jacspec.__file__)"], text=True, cwd=cwd, env=env
    )
    assert Path(where.strip()).is_relative_to(venv), "the checkout was imported, not the wheel"
    command = [str(python), "-m", "jacspec", *TINY, "components=[mlp]", "hydra.run.dir=out"]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert files_below(cwd / "out") == CONTRACT
