"""`task=compare` with `compare.quality`: models' quality against HF's loss, by a table, and what goes with it."""

import json
import shutil
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas
import pytest
import torch
from servers import assert_refused, run_here
from transformers import AutoTokenizer, GPT2LMHeadModel

from jacspec import open_run
from jacspec.config import ASSETS
from jacspec.runs import Run
from jacspec.studies.compare.quality import CORRELATION_COLUMNS, Judged, Judgement, correlation_rows
from jacspec.studies.compare.quality_figures import draw_quality, quality_findings

UNDRAWN = ("report.figures=none",)
TEXT = "The quick brown fox jumps over the lazy dog, and nobody minds. Über allen Gipfeln ist Ruh'."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of three revisions of nano, one matrix each, and one revision twice."""
    folder = tmp_path_factory.mktemp("runs")
    few = ("task=weights", "weights.include=[o]", "weights.against=none")
    sweep = ("-m", *few, "model.revision=step0,step256,null", "hydra.sweep.dir=sweep")
    with mock.patch("jacspec.studies.run.write_report"):  # of no concern here
        assert run_here(*sweep, cwd=folder).code == 0
        again = ("model.revision=step0", "precision=float64", "hydra.run.dir=again")
        assert run_here(*few, *again, cwd=folder).code == 0
    return folder


def compare(runs: Path, *given: str, out: Path) -> Any:
    return run_here("task=compare", *given, *UNDRAWN, "compare.draws=100", f"hydra.run.dir={out}", cwd=runs)


def loss_by_torch(revision: str | None, place: Path) -> tuple[float, int, int]:
    """Return the nats of all tokens but the first, their number, and their bytes."""
    for file in ("config.json", f"revisions/{revision}/model.safetensors" if revision else "model.safetensors"):
        shutil.copy(ASSETS / "nano" / file, place)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "nano")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        loss = GPT2LMHeadModel.from_pretrained(place, dtype=torch.float32)(ids, labels=ids).loss
    rest = len(TEXT.encode()) - len(tokenizer.decode(ids[0, :1]).encode())
    return float(loss) * (ids.shape[1] - 1), ids.shape[1] - 1, rest


def test_quality_by_a_text_is_the_loss_of_hf_over_bytes(runs: Path, tmp_path: Path) -> None:
    done = compare(runs, "runs=[sweep,again]", "compare.quality=text", f"data.text={TEXT}", out=tmp_path / "out")
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    quality = run.table("quality.csv")
    assert quality["run"].tolist() == [0, 1, 2], "a revision's second run is no further model"
    for row, revision in zip(quality.to_dict("records"), ("step0", "step256", None), strict=True):
        nats, tokens, size = loss_by_torch(revision, tmp_path)
        assert row["quality"] == pytest.approx(nats / size, rel=1e-4)
        assert row["perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-4)
        assert (row["tokens"], row["bytes"]) == (tokens, size)
        assert row["quality"] != pytest.approx(nats / tokens, rel=0.1)
    config = json.loads((ASSETS / "nano" / "config.json").read_text(encoding="utf-8"))
    d, layers = config["n_embd"], config["n_layer"]
    whole = (config["vocab_size"] + config["n_positions"] + 2) * d + layers * (12 * d * d + 13 * d)
    assert set(quality["parameters"]) == {whole}
    correlations = run.table("correlations.csv")
    assert set(correlations["component"]) == {"all"}
    assert correlations["rank_p"].isna().all()
    assert correlations["missing"].str.contains("models, fewer than 4").all()
    assert "2 of the 3 models are revisions or seeds of another" in run.provenance["warning"]
    values = run.table("values.csv").set_index(["model", "metric"])["value"]
    own = (
        pandas.read_csv(runs / "sweep" / "1" / "metrics.csv")["stable_rank"] if "stable_rank" in values.index else None
    )
    assert own is None or values[1, "stable_rank"] == pytest.approx(own.mean())
    assert next(iter(quality_findings(run))).endswith("3 are too few to say which metric goes with it.")


def test_quality_by_a_table(runs: Path, tmp_path: Path) -> None:
    table = tmp_path / "known.csv"
    table.write_text("run, perplexity, parameters\nsweep/0,20,\n1,12,3e6\nlast,7,5_000_000\n".replace("sweep/", ""))
    done = compare(runs, "runs=sweep", f"compare.quality={table}", out=tmp_path / "out")
    assert done.code == 0, done.err
    quality = open_run(tmp_path / "out").table("quality.csv")
    assert quality["quality"].tolist() == [20, 12, 7]
    assert quality["parameters"].tolist()[1:] == [3e6, 5e6]
    assert quality["parameters"][0] < 1e6, "counted by the config where the table has none"
    assert quality["perplexity"].isna().all()


WRONG = {
    "compare.quality=nowhere.csv": ("nowhere.csv is not a file", "compare.quality=text"),
    "compare.quality={folder}/two.csv": ("has the columns run, a, b", "run, one column of numbers"),
    "compare.quality={folder}/word.csv": ("line 2", "'good', which is not a number"),
    "compare.quality={folder}/short.csv": ("has no row for", "it has 0"),
}


@pytest.mark.parametrize("given", WRONG)
def test_bad_tables_are_refused(given: str, runs: Path, tmp_path: Path) -> None:
    for name, content in {"two": "run,a,b\n0,1,2\n", "word": "run,a\n0,good\n", "short": "run,a\n0,1\n"}.items():
        (tmp_path / f"{name}.csv").write_text(content)
    done = compare(runs, "runs=sweep", given.format(folder=tmp_path), out=tmp_path / "out")
    assert_refused(done, tmp_path, *WRONG[given])


def test_changed_model_is_not_scored(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "sweep", tmp_path / "sweep")
    file = tmp_path / "sweep" / "1" / "run.json"
    provenance = json.loads(file.read_text())
    files = provenance["identity"]["checkpoint"]["files"]
    provenance["identity"]["checkpoint"]["files"] = dict.fromkeys(files, "0" * 64)
    file.write_text(json.dumps(provenance), encoding="utf-8")
    done = compare(tmp_path, "runs=sweep", "compare.quality=text", out=tmp_path / "out")
    assert done.code == 1
    assert "has changed since its run" in done.err


def planted(models: int, *, seed: int = 0) -> tuple[Judgement, list[tuple[Any, ...]]]:
    """Models whose quality follows their size and one metric beside it, twenty that say nothing, one of the size."""
    rng = np.random.default_rng(seed)
    size, own, noise = rng.normal(size=(3, models))
    named = {"good": own + 0.1 * noise, "size": size + 0.05 * rng.normal(size=models)}
    named |= {f"nothing_{number}": rng.normal(size=models) for number in range(20)}
    quality, parameters = (3 - 0.6 * size - own).tolist(), np.exp(18 + size).tolist()
    judged = [Judged((number,), quality[number], parameters[number]) for number in range(models)]
    rows = [(number, "all", name, float(values[number])) for name, values in named.items() for number in range(models)]
    return Judgement(judged, "loss", "a table", []), rows


def test_planted_metric_is_found_and_size_is_not() -> None:
    judgement, values = planted(16)
    rows = correlation_rows(judgement, values, draws=1999, seed=0)
    table = pandas.DataFrame(rows, columns=list(CORRELATION_COLUMNS)).set_index("metric")
    assert table["given_q"].idxmin() == "good"
    assert table.loc["good", "given_q"] < 0.05
    assert table.loc["good", "given_size"] < -0.8
    assert not table.loc["size", "given_q"] < 0.05
    assert table.loc["size", "with_size"] > 0.9
    assert (table["given_q"] < 0.05).sum() == 1
    # Without the sizes it is missing, and says so.
    blind = judgement._replace(models=[each._replace(parameters=np.nan) for each in judgement.models])
    missing = correlation_rows(blind, values, draws=199, seed=0)
    assert {row[-1] for row in missing} == {"given size: the parameters of 16 models are not known"}
    same = judgement._replace(models=[each._replace(parameters=1e6) for each in judgement.models])
    assert correlation_rows(same, values, draws=199, seed=0)[0][-1] == "given size: all models have the same size"


@pytest.mark.parametrize("models", [16, 4])
def test_figure_and_sentences_say_the_numbers(models: int, tmp_path: Path) -> None:
    judgement, values = planted(models)
    rows = correlation_rows(judgement, values, draws=1999, seed=0)
    tables = {
        "correlations.csv": pandas.DataFrame(rows, columns=list(CORRELATION_COLUMNS)),
        "quality.csv": pandas.DataFrame(
            [
                (number, number, f"m{number}", each.quality, each.parameters)
                for number, each in enumerate(judgement.models)
            ],
            columns=["model", "run", "label", "quality", "parameters"],
        ),
        "values.csv": pandas.DataFrame(values, columns=["model", "component", "metric", "value"]),
    }
    for name, table in tables.items():
        table.to_csv(tmp_path / name, index=False)
    facts = {"task": "compare", "of": "weights", "quality": {"name": "loss", "source": "a", "series": 0}}
    (tmp_path / "run.json").write_text(json.dumps(facts | {"status": "finished", "metrics": ["good"]}))
    run = Run(tmp_path)
    first, *further = quality_findings(run)
    if models == 4:
        assert first == "Of 4 models the quality is loss (a); 4 are too few to say which metric goes with it."
        assert not further
        return
    assert "1 of 21 given the number of parameters" in first
    assert further[0].startswith("Models with more good have less loss: rank correlation -0.")
    assert "; given size -0." in further[0]
    axes = draw_quality(run).axes
    drawn = [tuple(np.asarray(line.get_xydata())[0].tolist()) for line in axes[0].get_lines()]
    good = [row[3] for row in values if row[2] == "good"]
    assert drawn == [(x, each.quality) for x, each in zip(good, judgement.models, strict=True)]
