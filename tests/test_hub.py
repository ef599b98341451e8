"""Models from the hub: a server on this machine imitates its API, or nothing answers at all."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from servers import (
    COMMIT,
    NANO,
    NANO_FILES,
    TINY,
    Answer,
    Server,
    assert_refused,
    files_below,
    hub,
    run_command,
    run_here,
    serve,
    serve_garbage,
    serve_silence,
)

from jacspec.config import ModelConfig
from jacspec.errors import JacspecError
from jacspec.models.hub import locate
from jacspec.runs import open_run

ONLINE: dict[str, Any] = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
RUN = (*TINY, "components=[mlp]", "layers=[0,-1]", "report.figures=none")
BOTH = ("-m", "model=hub", "model.id=org/nano,org/tuned", *RUN, "hydra.sweep.dir=runs")
"""A model, and an adapter of it."""

TUNED = ("adapter_config.json", "adapter_model.safetensors")
WAYS_ON = ["model.path=", "model.init=random", "`jacspec`"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A hub with nano's files, and files beside them that jacspec must leave alone."""
    files = {name: (NANO / name).read_bytes() for name in NANO_FILES}
    files |= {"pytorch_model.bin": b"pickle", "odd.py": b"raise SystemExit", "tf_model.h5": b"h5", "README.md": b"#"}
    with serve(hub(files, make_adapter() | {"training_args.bin": b"pickle"})) as running:
        yield running


def make_adapter() -> dict[str, bytes]:
    """Make the files of a LoRA of nano's first MLP, which names the hub's nano as its base."""
    rng = np.random.default_rng(0)
    module = "base_model.model.transformer.h.0.mlp.c_fc"
    factors = {
        f"{module}.lora_{part}.weight": rng.normal(size=shape) for part, shape in (("A", (2, 96)), ("B", (384, 2)))
    }
    config = {"peft_type": "LORA", "lora_alpha": 1, "fan_in_fan_out": True, "base_model_name_or_path": "org/nano"}
    return dict(zip(TUNED, (json.dumps(config).encode(), safetensors.numpy.save(factors)), strict=True))


@pytest.fixture(scope="module")
def hub_home(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's cache after one run of `org/nano` and one of its adapter."""
    home = tmp_path_factory.mktemp("home")
    done = run_command(*BOTH, cwd=home, HF_ENDPOINT=server.url, HF_HOME=str(home / "hf"), **ONLINE)
    assert done.code == 0, done.err
    return home


def test_checkpoint_is_downloaded_and_named_by_its_commit(hub_home: Path, tmp_path: Path) -> None:
    run = open_run(hub_home / "runs/0")
    assert run.provenance["identity"]["checkpoint"]["name"] == "org/nano"
    assert run.provenance["identity"]["checkpoint"]["revision"] == COMMIT
    done = run_here(*RUN, "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    embedded = open_run(tmp_path / "out")
    assert run.provenance["identity"]["checkpoint"]["files"] == embedded.provenance["identity"]["checkpoint"]["files"]
    assert np.array_equal(run.dataset["singular_values"], embedded.dataset["singular_values"])


def test_adapter_brings_its_base(hub_home: Path, tmp_path: Path) -> None:
    run = open_run(hub_home / "runs/1")
    described = run.provenance["identity"]["checkpoint"]
    assert (described["name"], described["revision"]) == ("org/tuned", COMMIT)
    assert described["files"].keys() == {"config.json", "model.safetensors", *TUNED}
    (tmp_path / "tuned").mkdir()
    for name, content in make_adapter().items():
        (tmp_path / "tuned" / name).write_bytes(content)
    arguments = ("model=path", "model.path=tuned", f"model.base={NANO}", *RUN, "hydra.run.dir=out")
    done = run_here(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    here, base = open_run(tmp_path / "out").dataset, open_run(hub_home / "runs/0").dataset
    assert np.array_equal(run.dataset["singular_values"], here["singular_values"])
    assert not np.allclose(run.dataset["singular_values"], base["singular_values"], rtol=0.1)


def test_only_what_is_read_is_asked_for(hub_home: Path, server: Server) -> None:
    """Weights in pickles and code never leave the server."""
    fetched = {path.rsplit("/", 1)[1] for _, path in server.requests if "/resolve/" in path}
    assert fetched == {*NANO_FILES, *TUNED}
    snapshot = {Path(name).name for name in files_below(hub_home / "hf") if "/snapshots/" in name}
    assert snapshot == {*NANO_FILES, *TUNED}


@pytest.mark.thorough
def test_cached_checkpoints_need_no_network(hub_home: Path, tmp_path: Path) -> None:
    shutil.copytree(hub_home / "hf", tmp_path / "hf", symlinks=True)
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = run_command(*BOTH, cwd=tmp_path, **ONLINE | closed)
    assert done.code == 0, done.err
    for number in "01":
        again, first = (folder / "runs" / number / "metrics.csv" for folder in (tmp_path, hub_home))
        assert again.read_bytes() == first.read_bytes()


def test_damaged_files_of_the_cache_are_fetched_again_or_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    model = ModelConfig("hub", id="org/nano")
    folder = locate(model).folder
    config, weights = ((folder / name).resolve() for name in ("config.json", "model.safetensors"))
    config.write_bytes(config.read_bytes()[:100])
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # a weight that stays finite
    with monkeypatch.context() as offline:
        offline.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(JacspecError, match=f"{config}, {weights}. Delete that"):
            locate(model)
    assert capsys.readouterr().err == ""
    before = len(server.requests)
    assert locate(model).folder == folder
    assert "config.json, model.safetensors of org/nano was damaged" in capsys.readouterr().err
    assert (config.read_bytes(), weights.read_bytes()) == ((NANO / "config.json").read_bytes(), content)
    fetched = [path for kind, path in server.requests[before:] if kind == "GET" and "/resolve/" in path]
    assert sorted(Path(path).name for path in fetched) == ["config.json", "model.safetensors"]


@pytest.mark.thorough
def test_checkpoint_that_has_pickled_weights_only(hub_home: Path, tmp_path: Path) -> None:
    """As Pythia's training steps have; torch, the extra `jacspec[torch]`, opens them."""
    torch.save(load_file(NANO / "model.safetensors"), tmp_path / "weights")
    files = {name: (NANO / name).read_bytes() for name in NANO_FILES if name != "model.safetensors"}
    files["pytorch_model.bin"] = (tmp_path / "weights").read_bytes()
    arguments = ["model=hub", "model.id=org/nano", *RUN, "hydra.run.dir=out"]
    with serve(hub(files)) as running:
        changes = {"HF_ENDPOINT": running.url, "HF_HOME": str(tmp_path / "hf")} | ONLINE
        done = run_command(*arguments, cwd=tmp_path, **changes)
    assert done.code == 0, done.err
    again, first = tmp_path / "out" / "metrics.csv", hub_home / "runs/0/metrics.csv"
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["model.id=org/unknown"], ["org/unknown", "no model", "model.id=ORG/NAME", "HF_TOKEN"]),
        (["model.id=org/gated"], ["org/gated is gated", "hf auth login"]),
        (["model.id=org/nano", "model.revision=v9"], ["org/nano", "no revision 'v9'"]),
        (["model.id=not/a/hub/id"], ["not/a/hub/id", "not a hub id"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_refusal_of_the_hub_is_said(arguments: list[str], fragments: list[str], server: Server, tmp_path: Path) -> None:
    changes = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")} | ONLINE
    (tmp_path / "cwd").mkdir()
    done = run_command(*TINY, "model=hub", *arguments, cwd=tmp_path / "cwd", **changes)
    assert_refused(done, tmp_path / "cwd", *fragments)
    assert files_below(tmp_path / "cwd") == set()


def test_hub_that_fails_is_said(tmp_path: Path) -> None:
    with serve(lambda path: Answer(500 if path != "/" else 200, b"{}")) as broken:
        changes = {"HF_ENDPOINT": broken.url, "HF_HOME": str(tmp_path / "hf")} | ONLINE
        done = run_command(*TINY, "model=hub", "model.id=org/nano", cwd=tmp_path, **changes)
    assert_refused(done, tmp_path, "org/nano", *WAYS_ON)


OFFLINE = ["model=gpt2", "data=shakespeare"]


def test_without_network_gpt2_ends_soon_with_ways_on(tmp_path: Path) -> None:
    started = time.monotonic()
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = run_command(*OFFLINE, cwd=tmp_path, **ONLINE | closed)
    assert_refused(done, tmp_path, "openai-community/gpt2", *WAYS_ON)
    assert done.err.count("\n") == 1, done.err
    assert time.monotonic() - started < 10


@pytest.mark.thorough
def test_hub_that_never_answers_ends_soon_with_ways_on(tmp_path: Path) -> None:
    with serve_silence() as url:
        started = time.monotonic()
        done = run_command(*OFFLINE, cwd=tmp_path, **ONLINE | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")})
        seconds = time.monotonic() - started
    assert_refused(done, tmp_path, "openai-community/gpt2", *WAYS_ON)
    assert seconds < 30  # other tests take the machine's cores; without a limit it would be minutes


def test_hub_that_speaks_no_http_is_said(tmp_path: Path) -> None:
    with serve_garbage() as url:
        done = run_command(*OFFLINE, cwd=tmp_path, **ONLINE | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")})
    assert_refused(done, tmp_path, "openai-community/gpt2", *WAYS_ON)


@pytest.mark.hub
def test_real_hub_and_real_text(tmp_path: Path) -> None:
    changes = ONLINE | {"HF_HOME": str(tmp_path / "hf"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    arguments = ["model=distilgpt2", "data=shakespeare", *TINY, "hydra.run.dir=out"]
    done = run_command(*arguments, cwd=tmp_path, timeout=600, **changes)
    if "cannot be reached" in done.err:
        pytest.skip(f"needs the network: {done.err[:120]}")
    assert done.code == 0, done.err
    assert len(open_run(tmp_path / "out").metrics) == 6 * 2 * 4
