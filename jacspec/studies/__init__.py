"""The studies: one folder each, whose `STUDY` says all that depends on it, and the table of them.

This table and the records in it are data: any room may read them, and reading them imports no room.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from jacspec.errors import JacspecError, suggest
from jacspec.studies.study import Study

NAMES = (
    *("jacobian", "depth", "coupling", "modes", "weights", "heads", "overlap", "removal", "finetune", "lazy", "merge"),
    *("compare", "delta", "dynamics", "plan", "train", "report"),
)

STUDIES: Mapping[str, Study] = {
    name: importlib.import_module(f"jacspec.studies.{name}").STUDY for name in sorted(NAMES)
}
"""Every study by name."""


def find_study(name: str) -> Study:
    """Return a study by name; raises `JacspecError` for one that is not there."""
    if name not in STUDIES:
        raise JacspecError(f"There is no study {name!r}. " + suggest(name, STUDIES))
    return STUDIES[name]


def study_of(provenance: Mapping[str, Any]) -> Study:
    """Return the study of a run from its `run.json`; one without a task is of `jacobian`.

    **Raises:** `JacspecError` for a study that this version does not know.
    """
    name = str(provenance.get("task", "jacobian"))
    if name not in STUDIES:
        raise JacspecError(f"This version of jacspec does not know the study {name!r}. " + suggest(name, STUDIES))
    return STUDIES[name]
