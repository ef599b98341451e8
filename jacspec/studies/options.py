"""What is said of every key of the configuration, and of studies, in a line: for `--help`, Python's help and the docs.

A study's own keys have theirs in `conf/task/`; here are those that studies share.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from jacspec.config import config_folder

SHARED: Mapping[str, tuple[str, str]] = {
    "components": ("components", "attn, mlp, cross, block, or full names as decoder.attn: one or several, or all"),
    "layers": ("layers", "which layers, -1 the last; None: all"),
    "metrics": ("metrics.names", "names of metrics, `paper` or `full`: one or several"),
    "top_k": ("metrics.top_k", "the k of variance_top_k"),
    "samples": ("data.samples", "how many samples are drawn; None: as the text says (verse 200), all given texts"),
    "split": ("data.split", "what a sample of a file is: sentences or lines"),
    "min_tokens": ("data.min_tokens", "shorter samples are left out; None: 5, of given texts 1"),
    "max_tokens": ("data.max_tokens", "longer samples are cut; None: 100, given token ids stay whole"),
    "position": ("data.position", "the token at which a sample ends, one for all or one a sample; None: its last"),
    "decoder_input": ("data.decoder_input", "what the decoder of an encoder-decoder model is fed: shifted or start"),
    "engine": ("engine.name", "auto, jacfwd, analytic or lanczos"),
    "tolerance": ("engine.tolerance", "relative error at which an engine that iterates stops"),
    "audit": ("engine.audit", "samples a layer that are recomputed to check the engine"),
    "memory_gib": ("engine.memory_gib", "what work arrays may take where the device does not tell"),
    "devices": ("engine.devices", "over how many devices a batch is spread"),
    "batch": ("engine.batch", "samples of a batch that a device takes at most"),
    "precision": ("precision", "float32 or float64, of everything that is computed"),
    "seed": ("seed", "of all that is drawn"),
}
"""Options that several studies share: the key of the configuration that each sets, and words."""

GROUPS: Mapping[str, str] = {
    "task": "which study",
    "model": "a ready-made name, a folder in Hugging Face layout, or ORG/NAME on the hub",
    "data": "a ready-made text, or a UTF-8 text file",
    "metrics": "paper (spectral_radius and decay_ratio), full, or names of metrics",
    "engine": "how Jacobians are computed",
    "source": "a figure or an experiment of a document that jacspec follows, in its layout (docs/sources)",
}
"""Groups of the configuration, which are chosen by name."""

COMMAND_LINE: Mapping[str, str] = {
    "data.samples": "how many samples are drawn, or all; by default as the text says (verse 200)",
    "data.path": "a UTF-8 text file",
    "data.text": "the text itself",
    "data.url": "where a text is fetched from",
    "data.sha256": "the checksum that the text must have",
    "model.path": "a folder in Hugging Face layout; wins over model.id",
    "model.id": "ORG/NAME on the hub",
    "model.base": "the model that an adapter changes: a folder, ORG/NAME or a ready-made name",
    "model.revision": "a revision of the hub, or a training step as step16",
    "model.init": "pretrained, or random: the architecture with Hugging Face's own initialisation",
    "model.config": "keys of the model's config.json, for init=random: model.config.KEY=VALUE",
    "report.formats": "png, pdf or both",
    "report.figures": "all, none, or names of figures",
    "resume": "the folder of an unfinished run: with the rest of its command, computes what is missing",
    "run": "the folder of a finished run, for task=report",
    "runs": "folders of finished runs, or that of a sweep, for task=compare and task=dynamics",
    "log": "wandb, tensorboard or mlflow: a tracker that is told the medians of a finished run",
    "tables": "csv, or parquet: each table as Parquet too",
    "distributed.coordinator": "HOST:PORT of process 0 where several share a run, or auto on a cluster",
    "distributed.processes": "how many there are",
    "distributed.index": "which one this is, from 0",
    "distributed.timeout": "seconds without a sign of life after which a process counts as lost",
    "hydra.run.dir": "the run's folder, new or empty; by default outputs/DATE/TIME",
    "hydra.sweep.dir": "the folder of a sweep (-m); by default multirun/DATE/TIME",
    "hydra/launcher": "basic, joblib, submitit_local or submitit_slurm: where the runs of a sweep run",
}
"""Keys that Python has other words for."""


def task_file(study: str) -> Path:
    """Find a study's file in `conf/task/`."""
    return config_folder() / "task" / f"{study}.yaml"


def comments(file: Path) -> dict[str, str]:
    """Read what stands behind the keys of a file of `conf/`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"  (\w+):[^#]*#\s*(.*)", line) for line in lines)
    return {each[1]: each[2] for each in found if each}


def summary_of(study: str) -> str:
    """Return what a file of `conf/task` says of its study, in one paragraph."""
    lines = task_file(study).read_text(encoding="utf-8").splitlines()
    words = [line.removeprefix("#").strip() for line in lines[1:] if line.startswith("#")]
    return " ".join(words[: next((place for place, line in enumerate(lines[1:]) if not line.startswith("#")), None)])
