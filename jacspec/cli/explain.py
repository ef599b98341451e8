"""Turn what Hydra, OmegaConf and the system raise into one message: what was given, what is accepted, what to type."""

import dataclasses
import enum
import json
import os
import re
import sys
import typing

from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from jacspec.cli.keys import kinds
from jacspec.cli.values import is_list
from jacspec.config import config_folder, schema
from jacspec.errors import JacspecError, as_typed, suggest
from jacspec.studies import STUDIES

LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"}
"""The extra that brings a launcher."""


def explain(error: Exception, place: str = "a file") -> str | None:
    """Return the message for an error that the user can mend, `None` for one that is ours.

    **Arguments:** `place`, where an error of the system happened that names no file.
    """
    if isinstance(error, JacspecError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(error, ConfigCompositionException):
        return _composition(error)
    if isinstance(error, AssertionError) and "Unexpected type for root" in str(error):
        given = (argument.partition(".")[0].lstrip("+") for argument in sys.argv[1:])
        task = next((name for name in given if name in STUDIES), "train")
        return f"Keys as {task}.* belong to task={task}: add it, or leave them out."
    if isinstance(error, HydraException | OmegaConfBaseException):
        key = getattr(error, "full_key", None)
        return (f"{key}: " if key else "") + _first_line(error)
    if type(error).__module__.partition(".")[0] in ("joblib", "submitit"):
        return f"The launcher lost a job of the sweep, killed or out of memory or time: {_first_line(error)}"
    # XLA says so with an error of its own.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)):
        return "There is not enough memory. Lower engine.memory_gib or data.samples, or take a smaller model or text."
    if wanted := _missing_backend(error):
        return f"JAX_PLATFORMS={wanted} is not on this machine. Leave it out, or install JAX with that backend."
    if isinstance(error, RecursionError):
        return "What was given is nested too deeply to be read."
    if isinstance(error, RuntimeError) and "slurm cluster" in str(error):
        return "SLURM's srun is not on this machine. Type hydra/launcher=submitit_local or hydra/launcher=joblib."
    if isinstance(error, ValueError) and "integer string conversion" in str(error):  # Python's own limit
        return "A number on the command line has thousands of digits. Write a shorter one."
    if isinstance(error, OSError):
        return f"Cannot read or write {error.filename or place}: {error.strerror or error}."
    return None


def _missing_backend(error: Exception) -> str:
    """Name the backend that JAX was told to use and cannot start; of some it says so, of others an assertion fails."""
    place = error.__traceback__
    while place and place.tb_next:
        place = place.tb_next
    asserted = isinstance(error, AssertionError) and place is not None and place.tb_frame.f_code.co_name == "backends"
    said = isinstance(error, RuntimeError) and "Unable to initialize backend" in str(error)
    return os.environ.get("JAX_PLATFORMS", "of its choice") if asserted or said else ""


def check_keys(given: object, kind: type | None = None, prefix: str = "") -> None:
    """Refuse keys that were added with `+` and that nothing reads."""
    fields = {field.name: field for field in dataclasses.fields(kind or schema())}
    for key in getattr(given, "keys", list)():
        if key not in fields:
            raise JacspecError(f"There is no key {prefix}{key}. " + suggest(key, [prefix + name for name in fields]))
        default = fields[key].default_factory
        if isinstance(default, type) and dataclasses.is_dataclass(default):
            check_keys(given[key], default, f"{prefix}{key}.")


def _unreadable(word: str) -> str:
    """Say of a word that Hydra cannot read how it is quoted, for Hydra and for the shell."""
    key, equals, value = word.partition("=")
    ready = f" If it is text, type {as_typed(key, json.dumps(value, ensure_ascii=False))}." if equals and value else ""
    return f"{word} cannot be read. Type KEY=VALUE, lists as KEY=[VALUE,VALUE].{ready}"


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    if group == "hydra/launcher" and choice in LAUNCHERS:
        return f"hydra/launcher={choice} is not installed. Type pip install 'jacspec[{LAUNCHERS[choice]}]'."
    if error.options and group:
        further = ", nor a folder or ORG/NAME" if group == "model" else ""
        return f"{group}={choice} is not a choice of {group}{further}. " + suggest(choice, error.options)
    return _first_line(error)


def _composition(error: ConfigCompositionException) -> str:
    unknown = re.match(r"Could not override '([^']*)'", str(error))
    if unknown:
        return _unknown_key(unknown.group(1))
    value = re.match(r"Error merging override (.*)", str(error))
    if value and error.__cause__ is not None:
        return _unfit_value(value.group(1), _first_line(error.__cause__))
    return _first_line(error)


KIND_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def _unfit_value(word: str, said: str) -> str:
    """Say what a key takes; `said` is what OmegaConf says, where its type does not tell."""
    key, _, value = word.lstrip("+").partition("=")
    kind = kinds().get(key)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return f"{word} is not known. " + suggest(value, kind.__members__)
    inner = typing.get_args(kind)[0] if is_list(kind) else kind
    if isinstance(inner, type) and (takes := KIND_WORDS.get(inner)):
        many = " or a list of them" if is_list(kind) else ""
        return f"{key} takes {takes}{many}, and {value} was given. Type {key}=VALUE; `jacspec help {key}` says more."
    return f"{word}: {said.rstrip('.')}."


def _unknown_key(key: str) -> str:
    """Name the accepted keys on the level of the schema where `key` goes astray."""
    kind: type = schema()
    prefix = ""
    for part in key.split("."):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        if part not in fields:
            known = [prefix + name for name in fields]
            return f"There is no key {prefix}{part}. " + suggest(prefix + part, known)
        prefix += f"{part}."
        if prefix == "model.config.":
            return f"There is no key {key} in this choice of model. Type +{key}=VALUE to add it to the model's config."
        # Of a group that only some tasks have, the type is that group or None.
        kinds = (fields[part].type, *typing.get_args(fields[part].type))
        nested = next((each for each in kinds if isinstance(each, type) and dataclasses.is_dataclass(each)), None)
        if nested is None:
            break
        kind = nested
    groups = sorted(entry.name for entry in config_folder().iterdir() if entry.is_dir())
    return f"There is no key {key}. Accepted groups: {', '.join(groups)}; `jacspec --help` lists all keys."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
