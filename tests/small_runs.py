"""Every study that resumes, small: what the test of interruptions and the fault campaign run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from servers import NANO

from jacspec.models.export import write_config, write_weights
from jacspec.models.hf_config import read_config
from jacspec.models.modules import build_module, module_parts

SMALL: Mapping[str, Sequence[str]] = {
    "jacobian": ("data.samples=60", "data.max_tokens=16", "jacobian.eigenvalues=true"),
    "depth": ("data.samples=16", "data.max_tokens=16", "depth.dense=4"),
    "coupling": ("data.samples=16", "data.max_tokens=16"),
    "modes": ("data.samples=16", "data.max_tokens=16", "modes.k=2", "modes.draws=19"),
    "weights": ("weights.against=none",),
    "heads": ("heads.draws=2",),
    "overlap": ("data.samples=60", "data.max_tokens=16"),
    "removal": ("removal.groups=4", "removal.tokens=512"),
    "finetune": ("finetune.steps=4", "finetune.seeds=2", "finetune.groups=2", "finetune.max_tokens=32"),
    "lazy": (
        "lazy.scales=[0.1,1]",
        "lazy.seeds=2",
        "lazy.steps=200",
        "lazy.width=16",
        "lazy.inputs=8",
        "lazy.samples=64",
        "lazy.groups=4",
        "lazy.removed=[1,4]",
    ),
    "merge": ("merge.top_k=4",),
    "delta": ("delta.base={model}",),
    "train": (
        "train.steps=40",
        "train.revisions=[0,10,20]",
        "train.vocab=300",
        "train.positions=16",
        "train.layers=1",
        "train.heads=2",
        "train.d_model=16",
        "train.batch=4",
        "train.warmup=4",
    ),
}
"""What makes each of them take a second or two with the small model."""


def make_small_model(folder: Path) -> None:
    """Write a model of the embedded one's kind with random weights, its tokenizer beside it."""
    folder.mkdir(parents=True)
    raw = json.loads((NANO / "config.json").read_text()) | {"n_layer": 2, "n_embd": 16, "n_head": 2, "dtype": "float32"}
    architecture, _, spec, _ = read_config(raw, "the small model")
    places = module_parts(spec)
    keys = jax.random.split(jax.random.key(0), len(places))
    dtype = jnp.dtype("float32")
    modules = {place: build_module(spec, *place, dtype, key) for place, key in zip(places, keys, strict=True)}
    write_config(folder, raw)
    write_weights(folder, architecture, spec, modules, dtype="float32")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((NANO / name).read_bytes())


def arguments(task: str, model: Path) -> list[str]:
    """Compose the command line of a task."""
    own = (each.format(model=model) for each in SMALL[task])
    return [f"task={task}", *own, "model=path", f"model.path={model}", "model.name=small"]
