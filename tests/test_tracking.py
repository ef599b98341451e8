"""What a finished run tells a tracker, for which packages stand in that are not installed, and tables as Parquet."""

import json
import sys
from pathlib import Path

import pandas
import pytest
from servers import TINY, assert_refused, run_here
from test_faults import undrawn

from jacspec.errors import JacspecError
from jacspec.runs import open_run
from jacspec.runs.tracking import PACKAGES, track

FAKES = {
    "wandb": """
import contextlib, json, pathlib
@contextlib.contextmanager
def init(project, name, config):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps(["title", name, config["seed"]]) + "\\n")
        class Tracked:
            def log(self, values, step):
                for key, value in values.items():
                    file.write(json.dumps([key, step, value]) + "\\n")
        yield Tracked()
""",
    "tensorboardX": """
import json, pathlib
class SummaryWriter:
    def __init__(self, folder):
        assert pathlib.Path(folder).parent.joinpath("run.json").is_file()
        self.file = open("told.jsonl", "a")
    def __enter__(self): return self
    def __exit__(self, *_): self.file.close()
    def add_text(self, name, text): assert name == "configuration" and json.loads(text)["seed"] == 0
    def add_scalar(self, key, value, step): self.file.write(json.dumps([key, step, value]) + "\\n")
""",
    "mlflow": """
import contextlib, json
@contextlib.contextmanager
def start_run(run_name): yield
def log_dict(config, name): assert config["task"] and name == "config.json"
def log_metric(key, value, step):
    with open("told.jsonl", "a") as file:
        file.write(json.dumps([key, step, value]) + "\\n")
""",
}


@pytest.mark.parametrize("tracker", ["wandb", "tensorboard", "mlflow"])
def test_tracker_is_told_the_medians(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[tracker][1]
    (tmp_path / f"{package}.py").write_text(FAKES[package])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)
    with undrawn():
        done = run_here(*TINY, f"log={tracker}", "layers=[0,5]", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    told = {(name, step): value for name, step, value in lines if name != "title"}
    table = pandas.read_csv(tmp_path / "out" / "summary.csv")
    expected = {(f"{row.metric}/{row.component}", row.layer): row.median for row in table.itertuples()}
    assert len(expected) == 16
    assert told == pytest.approx(expected)
    monkeypatch.delitem(sys.modules, package)


def test_run_without_a_summary_is_told_by_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.py").write_text(FAKES["mlflow"])
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("task=removal", "removal.roles=q", "removal.groups=2", "removal.tokens=32", "log=mlflow", "tables=csv")
    with undrawn():
        assert run_here(*line, "hydra.run.dir=out", cwd=tmp_path).code == 0
    told = dict(json.loads(line)[::2] for line in (tmp_path / "told.jsonl").read_text().splitlines())
    rows = open_run(tmp_path / "out").metrics
    assert (
        told["delta_perplexity/q/2"] == rows[(rows["target"] == "q") & (rows["group"] == 2)]["delta_perplexity"].item()
    )
    monkeypatch.setattr("mlflow.log_dict", lambda *_: 1 / 0)
    with pytest.raises(JacspecError, match=r"log=mlflow: division by zero.* finished, in .*out"):
        track(open_run(tmp_path / "out"), "mlflow")
    monkeypatch.delitem(sys.modules, "mlflow")


def test_tables_are_parquet_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with undrawn():
        assert run_here(*TINY, "tables=parquet", "layers=[0]", "hydra.run.dir=out", cwd=tmp_path).code == 0
    run = open_run(tmp_path / "out")
    for name in ("metrics", "summary"):
        found = pandas.read_parquet(run.folder / f"{name}.parquet")
        pandas.testing.assert_frame_equal(found, run.table(f"{name}.csv"))


@pytest.mark.parametrize("name", PACKAGES)
def test_missing_package_is_said_before_any_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed, package = PACKAGES[name]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run_here(*TINY, typed, "hydra.run.dir=out", cwd=tmp_path)
    assert_refused(done, tmp_path / "out", f"{typed} needs {package}", f"Type pip install 'jacspec[{name}]'.")
