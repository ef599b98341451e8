"""Folders as people have them: heads, wrappers, one of two tied names, stale files, other formats, adapters."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES
from oracles import save_random
from safetensors.torch import load_file, save_file
from servers import copy_nano, run_here

from jacspec.errors import JacspecError
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.models.families import ARCHITECTURES
from jacspec.models.modules import leaf_names

WEIGHTS = "model.safetensors"
HEADS = {
    "bert": (
        *("BertForQuestionAnswering", "BertForSequenceClassification", "BertForTokenClassification"),
        *("BertForMultipleChoice", "BertForPreTraining", "BertForNextSentencePrediction"),
    ),
    "distilbert": ("DistilBertForQuestionAnswering", "DistilBertForSequenceClassification"),
    "gemma2": ("Gemma2ForTokenClassification",),
    "gemma3_text": ("Gemma3TextForSequenceClassification",),
    "gpt2": ("GPT2ForQuestionAnswering", "GPT2ForTokenClassification", "GPT2DoubleHeadsModel"),
    "gpt_neox": ("GPTNeoXForQuestionAnswering",),
    "gptj": ("GPTJForSequenceClassification",),
    "llama": ("LlamaForQuestionAnswering", "LlamaForSequenceClassification"),
    "mistral": ("MistralForTokenClassification",),
    "opt": ("OPTForQuestionAnswering",),
    "phi3": ("Phi3ForSequenceClassification",),
    "qwen2": ("Qwen2ForQuestionAnswering",),
    "qwen3": ("Qwen3ForSequenceClassification",),
    "roberta": ("RobertaForQuestionAnswering", "RobertaForMultipleChoice", "RobertaForTokenClassification"),
    "t5": ("T5ForQuestionAnswering", "T5ForSequenceClassification"),
}
HEAD_PARTS = {
    "classification_head",
    "classifier",
    "multiple_choice_head",
    "pooler",
    "pre_classifier",
    "qa_outputs",
    "score",
    "seq_relationship",
}
"""Modules of HF's classes that are heads, by name."""

GPT2 = FAMILIES["gpt2"].base
Tensors = dict[str, torch.Tensor]


def _config(model_type: str) -> dict[str, Any]:
    family = FAMILIES[model_type]
    # HF's own share of turned coordinates would be of an odd number.
    return {**family.base, **(family.cases["parallel"] if model_type == "gpt_neox" else {})}


def _edit(folder: Path, edit: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> None:
    """Write the tensors of a folder anew."""
    tensors = edit(load_file(folder / WEIGHTS))
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / WEIGHTS)


def _leaves(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """All arrays of the embedding and the blocks, by name."""
    modules = [checkpoint.embedding(), *checkpoint.blocks()]
    import jax

    return {
        f"{place}.{name}": np.asarray(leaf)
        for place, module in enumerate(modules)
        for name, leaf in zip(leaf_names(module), jax.tree.leaves(module), strict=True)
    }


def _assert_same(left: Checkpoint, right: Checkpoint) -> None:
    ours, theirs = _leaves(left), _leaves(right)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize(("model_type", "head"), [(family, head) for family, heads in HEADS.items() for head in heads])
def test_heads_that_no_layer_needs_are_left_unread_and_named(model_type: str, head: str, tmp_path: Path) -> None:
    config = transformers.CONFIG_MAPPING[model_type](**_config(model_type))
    torch.manual_seed(0)
    getattr(transformers, head)(config).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    stored = [name for name in load_file(tmp_path / WEIGHTS) if HEAD_PARTS & {*name.split(".")}]
    prefixes = tuple(f"{prefix}." for prefix in ("bert", "roberta", "distilbert", "transformer", "model"))
    expected = {name.removeprefix(next(filter(name.startswith, prefixes), "")) for name in stored}
    assert {*checkpoint.unread} == expected
    assert expected
    assert any(f"left unread: {len(expected)}" in note for note in checkpoint.notes)


STRANGE = {
    "value head of TRL": ("v_head.summary.weight", True),
    "reward head": ("reward_head.bias", True),
    "bias of the unembedding": ("lm_head.bias", True),
    "a further tower": ("vision_tower.encoder.layers.0.mlp.fc1.weight", True),
    "inside a block": ("transformer.h.1.attn.extra.weight", False),
    "inside a block of a bare model": ("h.0.mlp.router.weight", False),
    "a block too many": ("transformer.h.2.ln_1.weight", False),
    "an embedding": ("transformer.wte.scale", False),
    "the final norm": ("transformer.ln_f.extra", False),
}


@pytest.mark.parametrize(("name", "is_head"), STRANGE.values(), ids=STRANGE)
def test_only_what_lies_outside_the_stack_is_a_head(name: str, is_head: bool, tmp_path: Path) -> None:
    save_random(tmp_path, "gpt2", **GPT2)
    _edit(tmp_path, lambda tensors: {**tensors, name: torch.zeros(3)})
    if is_head:
        assert open_checkpoint(tmp_path).unread == (name,)
    else:
        with pytest.raises(JacspecError, match=f"unread: {name.removeprefix('transformer.')}"):
            open_checkpoint(tmp_path)


TIED = [
    ("gpt2", {}, "transformer.wte.weight", "lm_head.weight"),
    ("llama", {"tie_word_embeddings": True}, "model.embed_tokens.weight", "lm_head.weight"),
    ("gpt_neox", {"tie_word_embeddings": True}, "gpt_neox.embed_in.weight", "embed_out.weight"),
    ("opt", {}, "model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("bert", {}, "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ("roberta", {}, "roberta.embeddings.word_embeddings.weight", "lm_head.decoder.weight"),
    ("distilbert", {}, "distilbert.embeddings.word_embeddings.weight", "vocab_projector.weight"),
    ("t5", {}, "shared.weight", "lm_head.weight"),
    ("t5", {}, "shared.weight", "encoder.embed_tokens.weight"),
    ("t5", {}, "shared.weight", "decoder.embed_tokens.weight"),
]


@pytest.mark.parametrize(("model_type", "changes", "kept", "other"), TIED)
def test_either_of_two_tied_names_serves(
    model_type: str, changes: dict[str, Any], kept: str, other: str, tmp_path: Path
) -> None:
    save_random(tmp_path / "own", model_type, **{**_config(model_type), **changes})
    shutil.copytree(tmp_path / "own", tmp_path / "other")
    _edit(tmp_path / "other", lambda tensors: {other if name == kept else name: x for name, x in tensors.items()})
    assert other in load_file(tmp_path / "other" / WEIGHTS)
    found, expected = (open_checkpoint(tmp_path / name) for name in ("other", "own"))
    _assert_same(found, expected)
    np.testing.assert_array_equal(found.head().unembed.weight[...], expected.head().unembed.weight[...])


def test_untied_embeddings_are_not_filled_from_the_unembedding(tmp_path: Path) -> None:
    save_random(tmp_path, "gpt2", **GPT2, tie_word_embeddings=False)
    _edit(tmp_path, lambda tensors: {name: x for name, x in tensors.items() if name != "transformer.wte.weight"})
    with pytest.raises(JacspecError, match=r"missing: wte.weight"):
        open_checkpoint(tmp_path)


def _before(prefix: str) -> Callable[[str], str]:
    return lambda name: prefix + name


WRAPPED: dict[str, tuple[str, Callable[[str], str], str]] = {
    "torch.compile": ("gpt2", _before("_orig_mod."), "torch.compile"),
    "DataParallel": ("llama", _before("module."), "DataParallel"),
    "both": ("gpt2", _before("module._orig_mod."), "torch.compile"),
    "Lightning": ("llama", _before("model."), "training loop"),
    "Lightning, compiled": ("bert", _before("model._orig_mod."), "torch.compile"),
    "Lightning, GPT-2": ("gpt2", _before("model."), "training loop"),
    "PEFT": ("llama", _before("base_model.model."), "PEFT"),
    "vision model": ("llama", _before("language_model."), "further towers"),
    "a model inside T5": ("t5", _before("transformer."), "training loop"),
    "blocks compiled one by one": ("gpt2", lambda name: name.replace(".attn.", "._orig_mod.attn."), "torch.compile"),
    "FSDP": ("llama", lambda name: name.replace(".mlp.", "._fsdp_wrapped_module.mlp."), "FSDP"),
    "bare and wrapped": ("llama", lambda name: "module." + name.removeprefix("model."), "DataParallel"),
    "Gemma 3 with its towers": (
        "gemma3_text",
        lambda name: name.replace("model.", "model.language_model.", 1),
        "further towers",
    ),
}


@pytest.mark.parametrize(("model_type", "rename", "maker"), WRAPPED.values(), ids=WRAPPED)
def test_wrappers_are_taken_off_names_and_said_once(
    model_type: str, rename: Callable[[str], str], maker: str, tmp_path: Path
) -> None:
    save_random(tmp_path / "own", model_type, **_config(model_type))
    shutil.copytree(tmp_path / "own", tmp_path / "wrapped")
    _edit(tmp_path / "wrapped", lambda tensors: {rename(name): tensor for name, tensor in tensors.items()})
    found = open_checkpoint(tmp_path / "wrapped")
    _assert_same(found, open_checkpoint(tmp_path / "own"))
    assert found.head().unembed.weight.shape
    (note,) = found.notes
    assert note.startswith("taken off the names of ")
    assert maker in note
    assert not found.unread


@pytest.mark.parametrize("model_type", sorted({*ARCHITECTURES} & {*FAMILIES}))
def test_names_as_hf_writes_them_are_left_as_they_are(model_type: str, tmp_path: Path) -> None:
    save_random(tmp_path, model_type, **_config(model_type))
    left = "tensors that no layer needs"  # Gemma 3's other tower
    assert [note for note in open_checkpoint(tmp_path).notes if not note.startswith(left)] == []


def test_an_error_shows_unread_names_beside_missing_ones(tmp_path: Path) -> None:
    save_random(tmp_path, "gpt2", **{**GPT2, "n_layer": 6})
    _edit(tmp_path, lambda tensors: {f"strange.{name}": tensor for name, tensor in tensors.items()})
    with pytest.raises(JacspecError) as caught:
        open_checkpoint(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert [sum(line.startswith(f"  {kind}: ") for line in lines) for kind in ("missing", "unread")] == [10, 10]
    assert lines[-1].strip() == f"and {2 * 76 - 20} more"


def test_adapters_that_were_not_merged_are_named(tmp_path: Path) -> None:
    save_random(tmp_path, "llama", **FAMILIES["llama"].base)
    lora = {f"model.layers.0.self_attn.q_proj.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}
    _edit(tmp_path, lambda tensors: {**tensors, **lora})
    with pytest.raises(JacspecError, match="merge_and_unload"):
        open_checkpoint(tmp_path)


# One file beside an index


def _shard(folder: Path, tensors: Tensors) -> None:
    """Write an index with two shards beside what is there."""
    halves = [sorted(tensors)[0::2], sorted(tensors)[1::2]]
    weight_map: dict[str, str] = {}
    for place, names in enumerate(halves):
        save_file({name: tensors[name].contiguous() for name in names}, folder / f"model-{place}.safetensors")
        weight_map |= dict.fromkeys(names, f"model-{place}.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _other_value(tensors: Tensors) -> Tensors:
    return {**tensors, "transformer.wpe.weight": tensors["transformer.wpe.weight"] + 1}


STALE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "the same": (lambda tensors: tensors, "none differ"),
    "one value": (_other_value, "1 differ: transformer.wpe.weight"),
    "all of another type": (lambda tensors: {name: x.half() for name, x in tensors.items()}, "28 differ: "),
    "other names": (lambda tensors: {**tensors, "more": torch.zeros(1)}, "1 differ: more"),
}


@pytest.mark.parametrize(("change", "said"), STALE.values(), ids=STALE)
def test_one_file_beside_an_index_is_what_hf_reads(
    change: Callable[[Tensors], Tensors], said: str, tmp_path: Path
) -> None:
    save_random(tmp_path, "gpt2", **GPT2)
    alone = open_checkpoint(tmp_path)
    _shard(tmp_path, change(load_file(tmp_path / WEIGHTS)))
    found = open_checkpoint(tmp_path)
    _assert_same(found, alone)
    hf = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert (
        hf.transformer.wpe.weight.detach().numpy()
        == np.asarray(load_file(tmp_path / WEIGHTS)["transformer.wpe.weight"])
    ).all()
    assert [*found.files] == ["config.json", WEIGHTS]
    (note,) = found.notes
    assert note.startswith(f"read {WEIGHTS} alone, as Hugging Face does")
    assert said in note


def test_an_index_beside_one_file_may_be_stale_or_name_it(tmp_path: Path) -> None:
    save_random(tmp_path, "gpt2", **GPT2)
    index = tmp_path / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(load_file(tmp_path / WEIGHTS), WEIGHTS)}))
    left = "tensors that no layer needs"  # Gemma 3's other tower
    assert [note for note in open_checkpoint(tmp_path).notes if not note.startswith(left)] == []
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    assert "model-1.safetensors" in open_checkpoint(tmp_path).notes[0]


# Other formats

FILES = {
    "llama-7b.Q4_K_M.gguf": "GGUF",
    "consolidated.00.pth": "Meta's own layout",
    "consolidated.safetensors": "Mistral's own layout",
    "tf_model.h5": "TensorFlow",
    "bert_model.ckpt.index": "TensorFlow 1",
    "flax_model.msgpack": "Flax",
    "model.onnx": "ONNX",
    "onnx/model.onnx": "ONNX",
    "openvino_model.xml": "OpenVINO",
    "rust_model.ot": "rust-bert",
    "ckpt.pt": "pickle of PyTorch",
    "epoch=3.ckpt": "pickle of PyTorch",
    "weights.npz": "NumPy arrays",
    "weights.safetensors": "Rename it to model.safetensors",
}


@pytest.mark.parametrize("with_config", [True, False])
@pytest.mark.parametrize(("file", "said"), FILES.items())
def test_other_formats_are_named_with_the_way_on(file: str, said: str, with_config: bool, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"any")
    if with_config:
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(JacspecError, match=r"No weights: .*model\.safetensors is missing") as caught:
        open_checkpoint(tmp_path)
    assert said in str(caught.value)
    assert file in str(caught.value)


TASKS = {
    "jacobian": ("model=path", "model.path=adapter"),
    "weights": ("task=weights", "model=path", "model.path=adapter"),
    "merge": ("task=merge", "merge.base=null", "merge.models=[nano,adapter]"),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_whose_base_is_not_here_names_it(task: str, with_config: bool, tmp_path: Path) -> None:
    """In every task, also where the model's config lies beside it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    described = {"peft_type": "LORA", "base_model_name_or_path": "ORG/BASE", "r": 4}
    (folder / "adapter_config.json").write_text(json.dumps(described))
    save_file(
        {"base_model.model.h.0.attn.c_attn.lora_A.weight": torch.zeros(4, 8)}, folder / "adapter_model.safetensors"
    )
    if with_config:
        shutil.copy(copy_nano(tmp_path / "nano copy") / "config.json", folder)
    done = run_here(*TASKS[task], "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 1
    assert "ORG/BASE is not in the cache" in done.err


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("model.pth", "pickle of PyTorch"),
        (WEIGHTS, "give its folder, model.path="),
        ("a.txt", "It is a file."),
    ],
)
def test_a_file_given_for_a_folder_is_named(file: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"any")
    done = run_here("model=path", f"model.path={file}", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 1
    assert "is not a folder" in done.err
    assert said in done.err


def test_what_was_noted_is_printed_once_and_kept_in_the_run(tmp_path: Path) -> None:
    save_random(tmp_path / "own", "gpt2", **GPT2)
    _edit(tmp_path / "own", lambda tensors: {**tensors, "v_head.summary.weight": torch.zeros(1, 24)})
    done = run_here(
        "task=weights", "model=path", "model.path=own", "report.figures=none", "hydra.run.dir=out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    said = "tensors that no layer needs, left unread: 1 (v_head.summary.weight)"
    assert done.out.count(said) == 1
    described = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]["checkpoint"]
    assert described["notes"] == [said]
    assert described["unread"] == ["v_head.summary.weight"]
