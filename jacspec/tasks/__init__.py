"""Where the stages meet: one short file a task."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

TASKS: Mapping[str, str] = {
    "compare": "jacspec.tasks.compare:run_compare",
    "coupling": "jacspec.tasks.coupling:run_coupling",
    "depth": "jacspec.tasks.depth:run_depth",
    "dynamics": "jacspec.tasks.dynamics:run_dynamics",
    "finetune": "jacspec.tasks.finetune:run_finetune",
    "heads": "jacspec.tasks.heads:run_heads",
    "jacobian": "jacspec.tasks.jacobian:run_jacobian",
    "lazy": "jacspec.tasks.lazy:run_lazy",
    "merge": "jacspec.tasks.merge:run_merge",
    "overlap": "jacspec.tasks.overlap:run_overlap",
    "plan": "jacspec.tasks.plan:run_plan",
    "removal": "jacspec.tasks.removal:run_removal",
    "report": "jacspec.tasks.report:run_report",
    "train": "jacspec.tasks.train:run_train",
    "weights": "jacspec.tasks.weights:run_weights",
}
"""Tasks by name: the function `(config, folder, console, inputs)`, imported only when it is used."""

WITHOUT_FOLDER = frozenset({"plan", "report"})
"""Tasks that make no run folder: one prints, the other draws into a run that is there."""

SHARED = frozenset({"coupling", "depth", "jacobian"})
"""Tasks that several processes may share; the others are one process each."""


def find_task(name: str) -> Callable[..., Any]:
    """Import the function of a task in the table."""
    module, function = TASKS[name].split(":")
    return getattr(importlib.import_module(module), function)
