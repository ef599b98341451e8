"""Every study that resumes, interrupted between two parts and resumed: the numbers are those of a run left alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest
from servers import Finished, run_here
from small_runs import SMALL, arguments, make_small_model

from jacspec.config import ASSETS
from jacspec.runs import RunWriter
from jacspec.runs.rows import RowWriter
from jacspec.studies import STUDIES
from jacspec.studies.train import run as train_run

WRITES: Mapping[str, tuple[Any, str]] = {
    "samples": (RunWriter, "add_layer"),
    "matrices": (RowWriter, "add"),
    "experiments": (RowWriter, "add"),
    "training": (train_run, "write_arrays"),
}
"""What writes a finished part durably, by the kind of rows; of a training run, how far it is."""

QUICK = {
    "jacobian": ("data.samples=6", "components=[mlp]"),
    "depth": ("data.samples=4", "depth.exponents=2", "depth.last=1"),
    "coupling": ("data.samples=4", "components=[mlp]"),
    "modes": ("data.samples=4", "components=[mlp]", "modes.k=2", "modes.draws=9", "modes.through=depth"),
    "weights": (),
    "heads": (),
    "overlap": ("data.samples=6",),
    "removal": ("removal.roles=[q]", "removal.groups=2", "removal.tokens=64"),
    "finetune": (
        *("finetune.steps=1", "finetune.seeds=1", "finetune.groups=2", "finetune.roles=[q]"),
        *("finetune.batch=2", "finetune.max_tokens=8"),
    ),
    "lazy": ("lazy.scales=[1]", "lazy.steps=20", "lazy.removed=[1]"),
    "merge": ("merge.include=[q,k]",),
    "delta": ("delta.include=[q,k]",),
    "train": (),
}
"""What leaves of each two parts or more: that one is written and another is not is all that matters here."""

FILES = (
    *("metrics.csv", "summary.csv", "samples.csv", "spectra.nc", "coupling.csv", "kinds.csv", "curve.csv"),
    *("modes.csv", "shared.csv", "between.csv", "input.csv", "words.csv", "vectors.npz"),
    *("input_modes.csv", "input_groups.csv"),
    "model/model.safetensors",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    make_small_model(folder)
    lines = (ASSETS / "verse.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "lines.txt").write_text("".join(lines[:80]), encoding="utf-8")
    return folder


def run(study: str, model: Path, cwd: Path, *more: str) -> Finished:
    text = ("data=text", f"data.path={model / 'lines.txt'}") if study == "finetune" else ()
    # Drawn in other tests; optax mixes int32 counts with Python floats, which strict promotion refuses.
    with mock.patch("jacspec.studies.run.write_report"), jax.numpy_dtype_promotion("standard"):
        return run_here(*arguments(study, model), *QUICK[study], *text, *more, cwd=cwd)


def test_the_table_has_every_study_that_resumes() -> None:
    assert set(SMALL) == set(QUICK) == {name for name, study in STUDIES.items() if study.resumable}


@pytest.mark.few(3)
@pytest.mark.parametrize("study", SMALL)
def test_interrupted_run_ends_with_the_same_numbers(study: str, model: Path, tmp_path: Path) -> None:
    rows = STUDIES[study].rows
    assert rows is not None
    kind, name = WRITES["training" if study == "train" else rows.kind]
    real, written = getattr(kind, name), 0

    def stop(self: Any, results: Sequence[Any]) -> None:
        nonlocal written
        if written == 1:
            raise KeyboardInterrupt
        real(self, results)
        written += 1

    assert run(study, model, tmp_path, "hydra.run.dir=whole").code == 0
    with mock.patch.object(kind, name, stop):
        assert run(study, model, tmp_path, "hydra.run.dir=cut").code == 130
    assert written == 1
    assert any((tmp_path / "cut" / "layers").glob("*.npz"))
    other, said = ("precision=float64", "config.precision was 'float32', now 'float64'")
    if study == "train":  # always in float32
        other, said = ("train.batch=5", "config.train.batch was 4, now 5")
    refused = run(study, model, tmp_path, "resume=cut", other)
    assert refused.code == 1
    assert said in refused.err
    resumed = run(study, model, tmp_path, "resume=cut")
    assert resumed.code == 0, resumed.err
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    compared = [file for file in FILES if (whole / file).is_file()]
    assert "metrics.csv" in compared
    for file in compared:
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file
