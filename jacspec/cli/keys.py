"""The keys that there are, with their types, and what other tools call them."""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from jacspec.config import config_folder, schema
from jacspec.studies.study import Study

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "model": ("model_name", "model_id", "model_name_or_path", "model_path", "pretrained", "checkpoint", "ckpt", "hf"),
    "model.revision": ("revision", "step", "branch"),
    "model.init": ("init", "initialization", "random_init"),
    "data": ("dataset", "dataset_name", "corpus", "data_path", "text_file", "file", "input", "datasets"),
    "data.text": ("text", "prompt", "input_text", "sentence", "texts"),
    "data.samples": ("num_samples", "n_samples", "nsamples", "max_samples", "limit", "n"),
    "data.max_tokens": ("max_length", "max_len", "seq_len", "seq_length", "max_seq_length", "context_length"),
    "data.min_tokens": ("min_length", "min_len"),
    "engine.batch": ("batch_size", "batchsize", "per_device_batch_size", "bs", "batch"),
    "engine.devices": ("gpus", "num_gpus", "n_gpus", "num_devices"),
    "engine.tolerance": ("tol", "rtol"),
    "engine.memory_gib": ("memory", "max_memory", "mem"),
    "precision": ("dtype", "torch_dtype", "floatx"),
    "seed": ("random_seed", "random_state", "rng_seed", "seeds"),
    "layers": ("layer", "layer_idx", "layer_index"),
    "components": ("component", "module", "modules", "target_modules"),
    "metrics.names": ("metric", "measure", "measures"),
    "report.figures": ("plots", "figure", "plot"),
    "report.formats": ("format", "image_format"),
    "task": ("study", "command", "experiment", "mode", "analysis"),
    "resume": ("resume_from", "resume_from_checkpoint", "continue"),
    "hydra.run.dir": ("output_dir", "out_dir", "outdir", "out", "output", "save_dir", "log_dir", "folder", "save_to"),
}
"""What other tools call a key."""

LAST = {"lr": "learning_rate", "epochs": "steps", "num_epochs": "steps", "max_steps": "steps", "k": "top_k"}
"""What other tools call the last part of a key."""

ANSWERS = {
    "device": "Type JAX_PLATFORMS=cpu (or cuda, tpu) in front of the command, or engine.devices=N for how many.",
    "cuda": "Type JAX_PLATFORMS=cuda in front of the command.",
    "cpu": "Type JAX_PLATFORMS=cpu in front of the command.",
    "verbose": "Type JACSPEC_TRACEBACK=1 in front of the command to see the traceback behind a message.",
    "debug": "Type JACSPEC_TRACEBACK=1 in front of the command to see the traceback behind a message.",
    "num_workers": "Jobs of a sweep run side by side: type hydra/launcher=joblib hydra.launcher.n_jobs=N.",
    "n_jobs": "Jobs of a sweep run side by side: type hydra/launcher=joblib hydra.launcher.n_jobs=N.",
    "config": "Type --cfg job to see the configuration, or KEY=VALUE to change it.",
}
"""What is said of other tools' options that no key stands for."""


OF_EVERY_STUDY = frozenset({"task", "source", "run", "runs", "resume", "report", "log", "tables", "distributed"})
"""Groups and keys that say how a study runs and what becomes of its numbers."""


def unread_keys(typed: Iterable[str], study: Study) -> list[str]:
    """Return the keys of typed KEY=VALUE of which nothing in a study depends."""
    inputs = {"data" if name == "text" else name for name in study.inputs}
    keys = [each.lstrip("+").partition("=")[0] for each in typed if not each.startswith("~")]
    read = study.reads | inputs | OF_EVERY_STUDY
    return [key for key in keys if key.partition(".")[0] not in read and key.rpartition(".")[2] not in study.takes]


@functools.cache
def kinds() -> Mapping[str, Any]:
    """Return the type of every key of the schema; what may be None as well is of the other type."""
    return _keys_of(schema(), "")


def _keys_of(kind: type, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        inner = [each for each in typing.get_args(hint) if each is not types.NoneType]
        optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
        single = inner[0] if optional else hint
        if dataclasses.is_dataclass(single):
            found |= _keys_of(typing.cast(type, single), f"{prefix}{name}.")
        else:
            found[prefix + name] = single
    return found


@functools.cache
def groups() -> list[str]:
    """Name the groups of the configuration."""
    return sorted(entry.name for entry in config_folder().iterdir() if entry.is_dir())


def choices(group: str) -> list[str]:
    """Name the choices of a group."""
    return sorted(file.stem for file in (config_folder() / group).glob("*.yaml"))


def meant(name: str, task: str) -> str:
    """Return the key that a name stands for: the study's own first, then those of other tools; empty for none."""
    if (own := f"{task}.{LAST.get(name, name)}") in kinds():
        return own
    lowered = name.lower()
    if lowered in (*groups(), *kinds()):
        return lowered
    own = next((key for key, names in SYNONYMS.items() if lowered in names), "")
    last = own.rpartition(".")[2]
    return f"{task}.{last}" if f"{task}.{last}" in kinds() else own
