"""What a study can be given from Python: names, defaults and words, and the configuration that they make.

Read from the dataclasses of `config.py` and from `conf/`, so that Python and the command line cannot drift apart.
"""

import enum
import functools
import numbers
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from jacspec.config import Config, DataConfig, EngineConfig, MetricsConfig, config_folder, register, schema
from jacspec.errors import JacspecError, JacspecTypeError, suggest
from jacspec.studies import STUDIES
from jacspec.studies.options import SHARED, comments, task_file

RUNNABLE: tuple[str, ...] = tuple(name for name in STUDIES if name != "report")
"""What `jacspec.run` runs."""

NAMED: tuple[str, ...] = tuple(name for name in RUNNABLE if name != "jacobian")
"""Studies with a function of their name; `jacspec.jacobian` is the operator."""


class Option(NamedTuple):
    """One option of a study: its name, the key of the configuration that it sets, type, default, and words."""

    name: str
    key: str
    kind: Any
    default: Any
    words: str


FROM_TEXT = ("samples", "min_tokens", "max_tokens")
"""Options whose values depend on the text that is chosen."""


@functools.cache
def options_of(study: str) -> tuple[Option, ...]:
    """List the options of a study, its own first, with defaults and words; raises `JacspecError` for no study."""
    if study not in RUNNABLE:
        raise JacspecError(f"There is no study {study!r}. " + suggest(study, RUNNABLE))
    composed = compose(study)
    own = getattr(composed, study, None)
    words = comments(task_file(study))
    found: dict[str, Option] = {}
    if own is not None:
        for name, kind in typing.get_type_hints(type(own)).items():
            found[name] = Option(name, f"{study}.{name}", kind, getattr(own, name), words.get(name, ""))
    for name in STUDIES[study].takes:
        if name not in found:
            key, said = SHARED[name]
            kind = Any if name == "position" else _kind(key)
            default = None if name in FROM_TEXT else _get(composed, key)
            found[name] = Option(name, key, kind, "paper" if name == "metrics" else default, said)
    return tuple(found.values())


def compose(study: str, **choices: str) -> Config:
    """Compose the configuration of a study from `conf/` as the command line does, with the choices of groups given.

    **Arguments:** `choices`, by group (`data`, `metrics`, `engine`, `model`), another than the default.
    """
    register()
    folder = config_folder()
    whole = cast(DictConfig, OmegaConf.load(folder / "config.yaml"))
    defaults = [entry for entry in whole.pop("defaults") if isinstance(entry, DictConfig)]
    whole.pop("hydra")
    groups = {str(name): str(choice) for entry in defaults for name, choice in entry.items() if choice}
    groups = {name: choices.get(name, choice) for name, choice in groups.items() if (folder / name).is_dir()}
    groups.pop("task")
    parts = {name: OmegaConf.load(folder / name / f"{choice}.yaml") for name, choice in groups.items()}
    task = OmegaConf.load(folder / "task" / f"{study}.yaml")
    return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema()), parts, task, whole)))


def apply(config: Config, study: str, given: Mapping[str, Any]) -> None:
    """Set options of a study in its configuration; None leaves what depends on the text as it is.

    **Raises:** `JacspecTypeError` for an unknown name or a value of the wrong type, `JacspecError` for an unknown
    choice.
    """
    options = {option.name: option for option in options_of(study)}
    for name, value in given.items():
        if name not in options:
            raise JacspecTypeError(f"{call(study)} has no option {name!r}. " + suggest(name, _accepted(study)))
        option = options[name]
        if value is None and name in FROM_TEXT and option.key == SHARED[name][0]:
            continue
        if option.key == "engine.devices" and isinstance(value, int):
            value = str(value)
        checked = check_value(study, name, value, option.kind)
        if option.key == "metrics.names":
            checked = [each for word in checked for each in _metrics_of(word)]
        _set(config, option.key, checked)


def check_value(study: str, name: str, value: Any, kind: Any) -> Any:
    """Return a value as the configuration holds it; raises `JacspecTypeError` or `JacspecError` in one sentence."""
    try:
        return _converted(_plain(value), kind)
    except _UnknownWordError as unknown:
        words = suggest(unknown.given, unknown.known)
        raise JacspecError(f"{call(study)}: {name}={unknown.given!r} is not known. {words}") from None
    except TypeError:
        raise JacspecTypeError(
            f"{call(study)}: {name} takes {kind_words(kind)}, and {_short(value)} was given."
        ) from None


def call(study: str) -> str:
    """Write how a study is called from Python."""
    return f"jacspec.{study}()" if study in NAMED else f"jacspec.run({study!r})"


def kind_words(kind: Any) -> str:
    """Say what values an option takes."""
    plain = {bool: "True or False", int: "an int", float: "a number", str: "a str", Any: "an int or a list of ints"}
    inner = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join([*(kind_words(each) for each in inner if each is not type(None)), "None"])
    if typing.get_origin(kind) is list:
        several = {str: "a name or a list of names", int: "an int or a list of ints"}
        return several.get(inner[0], "a list of numbers" if inner[0] is float else "a list of pairs, as [(0, 0.1)]")
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "one of " + ", ".join(repr(each) for each in kind.__members__)
    return plain.get(kind, str(kind))


class _UnknownWordError(Exception):
    """A word that is no choice."""

    def __init__(self, given: str, known: Iterable[str]) -> None:
        super().__init__(given)
        self.given, self.known = given, sorted(known)


def _converted(value: Any, kind: Any) -> Any:
    """Turn a value into one of `kind`; raises TypeError or `_UnknownWordError`."""
    if kind is Any:
        kind = list[int] | int | None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kinds = typing.get_args(kind)
        if value is None and type(None) in kinds:
            return None
        fitting = [each for each in kinds if each is not type(None)]
        if isinstance(value, list):
            fitting.sort(key=lambda each: typing.get_origin(each) is not list)
        else:
            fitting.sort(key=lambda each: typing.get_origin(each) is list)
        return _converted(value, fitting[0])
    if typing.get_origin(kind) is list:
        (inner,) = typing.get_args(kind)
        parts = value if isinstance(value, list) else [value]
        if typing.get_origin(inner) is list:
            if not all(isinstance(part, list) and all(_number(each) for each in part) for part in parts):
                raise TypeError
            return parts
        return [_converted(part, inner) for part in parts]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if isinstance(value, kind):
            return value
        word = "none" if value is None else value
        if not isinstance(word, str):
            raise TypeError
        if word not in kind.__members__:
            raise _UnknownWordError(word, kind.__members__)
        return kind[word]
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind is float and _number(value):
        return float(value)
    if kind is str and isinstance(value, str | Path):
        return str(value)
    raise TypeError


def _number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    """Turn tuples, sets, ranges, arrays and Series into lists."""
    if isinstance(value, str | Path | enum.Enum) or value is None:
        return value
    if callable(own := getattr(value, "tolist", None)):
        return own()
    if isinstance(value, tuple | list | set | frozenset | range):
        return [_plain(each) for each in value]
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return f"{shown if len(shown) < 60 else shown[:57] + '…'} ({type(value).__name__})"


def _accepted(study: str) -> list[str]:
    further = ["folder", "silent"]
    further += ["model", "tokenizer", "revision", "init"] if "model" in STUDIES[study].inputs else []
    further += ["texts", "data"] if "text" in STUDIES[study].inputs else []
    further += ["runs"] if "runs" in STUDIES[study].inputs else []
    return [*(option.name for option in options_of(study)), *further]


def _metrics_of(word: str) -> list[str]:
    file = config_folder() / "metrics" / f"{word}.yaml"
    return list(OmegaConf.load(file).names) if file.is_file() else [word]


def _kind(key: str) -> Any:
    """Find the type of a key of the schema."""
    schemas = {"data": DataConfig, "metrics": MetricsConfig, "engine": EngineConfig}
    group, _, name = key.rpartition(".")
    return typing.get_type_hints(schemas[group] if group else Config)[name]


def _get(config: Config, key: str) -> Any:
    value = functools.reduce(getattr, key.split("."), config)
    return None if value == MISSING else value


def _set(config: Config, key: str, value: Any) -> None:
    *groups, name = key.split(".")
    setattr(functools.reduce(getattr, groups, config), name, value)
