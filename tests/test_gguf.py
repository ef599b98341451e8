"""GGUF files as models: written by the package `gguf`, read as transformers reads them, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from parity import forward_one
from servers import run_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from jacspec.config import ModelConfig
from jacspec.errors import JacspecError
from jacspec.models.hub import open_model

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' of its own next version

Q4, Q8, F32 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
D, FF, LAYERS, HEADS, KV, VOCAB = 64, 96, 2, 4, 2, 96
HEAD = D // HEADS


def write_gguf(
    file: Path, kind: str, tensors: Mapping[str, np.ndarray], numbers: Mapping[str, Any], tokens: list[str]
) -> None:
    """Write a GGUF file with matrices in 4 bits, the embedding in 8, vectors in float32."""
    writer = gguf.GGUFWriter(file, kind)
    for key, value in numbers.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{kind}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_pad_token_id(0)
    for name, values in tensors.items():
        own = F32 if values.ndim < 2 or name.startswith("position") else Q8 if name == "token_embd.weight" else Q4
        data = gguf.quants.quantize(values.astype(np.float32), own)
        writer.add_tensor(name, data, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_like(more: Mapping[str, tuple[int, ...]], head: int = HEAD) -> dict[str, tuple[int, ...]]:
    """Name the tensors of a layer of a decoder, and their shapes (out, in)."""
    return {
        "attn_norm.weight": (D,),
        "attn_q.weight": (HEADS * head, D),
        "attn_k.weight": (KV * head, D),
        "attn_v.weight": (KV * head, D),
        "attn_output.weight": (D, HEADS * head),
        "ffn_norm.weight": (D,),
        "ffn_gate.weight": (FF, D),
        "ffn_up.weight": (FF, D),
        "ffn_down.weight": (D, FF),
        **more,
    }


def norms(head: int) -> dict[str, tuple[int, ...]]:
    return {f"attn_{x}_norm.weight": (head,) for x in "qk"}


ROTARY = {
    "context_length": 64,
    "embedding_length": D,
    "feed_forward_length": FF,
    "block_count": LAYERS,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV,
    "rope.freq_base": 10000.0,
    "attention.layer_norm_rms_epsilon": 1e-5,
}
QWEN3 = 128  # transformers reads no other from a file of it
POST = {"post_attention_norm.weight": (D,), "post_ffw_norm.weight": (D,)}
PHI3 = {
    "attn_norm.weight": (D,),
    "attn_qkv.weight": (D + 2 * KV * HEAD, D),
    "attn_output.weight": (D, D),
    "ffn_norm.weight": (D,),
    "ffn_up.weight": (2 * FF, D),
    "ffn_down.weight": (D, FF),
}
NORM = dict.fromkeys(("attn_norm.weight", "attn_norm.bias", "ffn_norm.weight", "ffn_norm.bias"), (D,))
GPT2 = {
    **NORM,
    "attn_qkv.weight": (3 * D, D),
    "attn_qkv.bias": (3 * D,),
    "attn_output.weight": (D, D),
    "attn_output.bias": (D,),
    "ffn_up.weight": (4 * D, D),
    "ffn_up.bias": (4 * D,),
    "ffn_down.weight": (D, 4 * D),
    "ffn_down.bias": (D,),
}
HEAD_SIZE = {"attention.key_length": HEAD, "attention.value_length": HEAD}
KINDS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "llama": (llama_like({}), {"output.weight": (VOCAB, D)}, {**ROTARY, "rope.dimension_count": HEAD}),
    "qwen2": (
        llama_like({f"attn_{x}.bias": (n,) for x, n in (("q", D), ("k", KV * HEAD), ("v", KV * HEAD))}),
        {},
        ROTARY,
    ),
    "qwen3": (llama_like(norms(QWEN3), QWEN3), {}, {**ROTARY, **HEAD_SIZE}),
    "gemma2": (llama_like(POST), {}, {**ROTARY, **HEAD_SIZE, "attention.sliding_window": 8}),
    "gemma3": (llama_like({**POST, **norms(HEAD)}), {}, {**ROTARY, **HEAD_SIZE, "attention.sliding_window": 8}),
    "phi3": (PHI3, {"output.weight": (VOCAB, D)}, {**ROTARY, "rope.dimension_count": HEAD}),
    "gpt2": (
        GPT2,
        {"output_norm.bias": (D,), "position_embd.weight": (1024, D)},
        {
            "context_length": 1024,
            "embedding_length": D,
            "feed_forward_length": 4 * D,
            "block_count": LAYERS,
            "attention.head_count": HEADS,
            "attention.layer_norm_epsilon": 1e-5,
        },
    ),
}


def make(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a random GGUF file of an architecture."""
    layer, outside, numbers = KINDS[kind]
    rng = np.random.default_rng(0)
    shapes = {"token_embd.weight": (VOCAB, D), "output_norm.weight": (D,), **outside}
    shapes |= {f"blk.{number}.{name}": shape for number in range(LAYERS) for name, shape in layer.items()}
    letters = [*(chr(33 + number) for number in range(93)), "ab"]
    write_gguf(
        folder / "tiny.gguf",
        kind,
        {name: rng.normal(size=shape) / (8 if len(shape) > 1 else 1) for name, shape in shapes.items()},
        {**numbers, "vocab_size": VOCAB, **changes},
        [*letters, "Ġ", "Ċ"],
    )
    return folder / "tiny.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_and_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    file = make(tmp_path, kind)
    checkpoint = open_model(ModelConfig("path", path=str(file)))
    hf = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tensors = checkpoint.tensors
    assert tensors is not None
    outer = ("model.", "transformer.")
    expected = {
        name.partition(".")[2] if name.startswith(outer) else name: each for name, each in hf.state_dict().items()
    }
    found = [name for name in tensors.index if name in expected]
    assert len(found) == len(tensors.index)
    assert {name for name in expected if name not in found} <= {"lm_head.weight"}
    for name in found:
        np.testing.assert_array_equal(tensors.read(name), expected[name].numpy(), err_msg=name)
    ids = np.arange(9) * 7 % VOCAB
    with torch.no_grad():
        logits = hf(torch.from_numpy(ids)[None]).logits[0].numpy()
    np.testing.assert_allclose(forward_one(checkpoint, ids)["logits"], logits, atol=2e-5, rtol=2e-5)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    assert checkpoint.tokenizer("a cab")["input_ids"] == theirs("a cab")["input_ids"]


def test_what_few_bits_hold_is_said(tmp_path: Path) -> None:
    file = make(tmp_path, "llama")
    done = run_here(
        "task=weights", "model=path", f"model.path={tmp_path}", "report.figures=none", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    described = json.loads((tmp_path / "out/run.json").read_text())["identity"]["checkpoint"]
    assert described["stored as"] == {"Q8_0": 1, "Q4_0": 15, "F32": 5}
    assert described["files"].keys() == {file.name}
    said = "tensors by the type they are stored in, read as float32: 15 Q4_0, 5 F32, 1 Q8_0"
    assert said in done.out
    assert said in (tmp_path / "out/report.html").read_text()


def scaled(file: Path) -> None:
    file.parent.joinpath(file.name).unlink()
    make(file.parent, "llama", **{"rope.scaling.factor": 4.0})


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (lambda file: file.write_bytes(file.read_bytes()[:200]), "is damaged or not a GGUF file"),
    "something else": (lambda file: file.write_bytes(b"any thing at all"), "is damaged or not a GGUF file"),
    "two of them": (lambda file: shutil.copy(file, file.with_name("more.gguf")), "holds 2 GGUF files"),
    "rotation is scaled": (scaled, "rope.scaling.factor"),
    "an unknown architecture": (
        lambda file: write_gguf(file, "mamba", {}, {}, ["a"]),
        "of the GGUF architecture 'mamba', which is not read",
    ),
}


@pytest.mark.parametrize("why", BROKEN)
def test_broken_files_are_one_error(why: str, tmp_path: Path) -> None:
    change, said = BROKEN[why]
    change(make(tmp_path, "llama"))
    with pytest.raises(JacspecError, match=said):
        open_model(ModelConfig("path", path=str(tmp_path)))


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(tmp_path, "llama")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(JacspecError, match=r"jacspec\[gguf\]"):
        open_model(ModelConfig("path", path=str(file)))
