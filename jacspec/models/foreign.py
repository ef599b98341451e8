"""Folders and files that hold no model in Hugging Face layout: named for what they are, with the way on."""

from pathlib import Path
from typing import NamedTuple

from jacspec.errors import printable, shortened

ADAPTER = "adapter_config.json"
SAVE = ".save_pretrained('NEW') writes it in Hugging Face layout; then model.path=NEW"


class Foreign(NamedTuple):
    """A kind of file: the pattern of its name, what it is, and how a model comes from it."""

    pattern: str
    what: str
    way: str


FOREIGN = (
    Foreign("*.gguf", "GGUF, llama.cpp's format, of which a model is one file", "Give one file: model.path=FILE.gguf."),
    Foreign(
        "consolidated*.pth",
        "weights in Meta's own layout",
        "Give the model's folder in Hugging Face layout, or convert it with transformers' convert_llama_weights_to_hf.",
    ),
    Foreign(
        "consolidated*.safetensors",
        "weights in Mistral's own layout",
        "Give the model's folder in Hugging Face layout.",
    ),
    Foreign(
        "tf_model*.h5", "TensorFlow weights", f"With transformers 4, AutoModel.from_pretrained(…, from_tf=True){SAVE}."
    ),
    Foreign(
        "*.ckpt.index",
        "a TensorFlow 1 checkpoint",
        f"With transformers 4, AutoModel.from_pretrained('FILE', from_tf=True, config=…){SAVE}.",
    ),
    Foreign(
        "flax_model*.msgpack",
        "Flax weights",
        f"With transformers 4, AutoModel.from_pretrained(…, from_flax=True){SAVE}.",
    ),
    Foreign(
        "*.onnx",
        "an ONNX graph, exported from a model",
        "Give the checkpoint that it was exported from.",
    ),
    Foreign(
        "onnx/*.onnx",
        "an ONNX graph, exported from a model",
        "Give the checkpoint that it was exported from.",
    ),
    Foreign("openvino_model.xml", "an OpenVINO graph", "Give the checkpoint that it was exported from."),
    Foreign("rust_model.ot", "weights for rust-bert", "Give the checkpoint that it was made from."),
    *(
        Foreign(
            pattern,
            "a pickle of PyTorch under a name that Hugging Face does not read",
            f"Load it into the model that it belongs to, model.load_state_dict(torch.load('FILE')); {SAVE[1:]}.",
        )
        for pattern in ("*.pth", "*.pt", "*.ckpt", "*.bin")
    ),
    Foreign("*.npz", "NumPy arrays, as JAX and MLX save weights", "Give the model's folder in Hugging Face layout."),
    Foreign(
        "*.safetensors",
        "safetensors under a name that Hugging Face does not read",
        "Rename it to model.safetensors. task=weights reads it as it is.",
    ),
)
"""Kinds of files, the more particular first."""


def describe_foreign(folder: Path) -> str:
    """Say what a folder holds instead of a model in Hugging Face layout, and the way on; empty where nothing known."""
    for kind in FOREIGN:
        if found := sorted(str(file.relative_to(folder)) for file in folder.glob(kind.pattern) if file.is_file()):
            return f" It holds {kind.what} ({printable(shortened(found, 3))}). {kind.way}"
    return ""


def describe_file(file: Path) -> str:
    """Say of a file that was given for a folder what it is, and the way on."""
    if file.name in ("model.safetensors", "pytorch_model.bin", "config.json") or file.name.endswith(".index.json"):
        return f" It is a file: give its folder, model.path={file.parent}."
    kind = next((kind for kind in FOREIGN if "/" not in kind.pattern and file.match(kind.pattern)), None)
    return f" It is a file, {kind.what}. {kind.way}" if kind else " It is a file."
