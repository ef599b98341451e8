"""What was typed, in Hydra's words: lists, paths and models as they are meant, and an answer to what is not KEY=VALUE.

A run's configuration, and so its identity, is the same however it was spelt.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jacspec.cli.help import metric_words
from jacspec.cli.keys import ANSWERS, LAST, choices, groups, kinds, meant
from jacspec.cli.values import (
    PATHS,
    Command,
    Word,
    check_single,
    exists,
    home,
    is_list,
    list_value,
    quoted,
    quoted_if_needed,
    refuse_several,
    text_value,
)
from jacspec.errors import JacspecError, as_typed, suggest
from jacspec.studies import STUDIES

MULTIRUN = ("-m", "--multirun")
UNTOUCHED = ("-sc", "--shell-completion", "--hydra-help", "--experimental-rerun")
FLAGS = (*MULTIRUN, "-r", "--run", "--resolve", "-h", "--help", "--version")
FLAGS_WITH_VALUE = (
    *("-c", "--cfg", "-p", "--package", "-i", "--info", "-cp", "--config-path", "-cn", "--config-name"),
    *("-cd", "--config-dir"),
)
"""Hydra's own options."""

MODEL_FILES = (".gguf", ".npy", ".safetensors")
"""Ends of files that are taken as models, the last two by `task=weights`."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def read_arguments(given: Sequence[str]) -> list[str]:
    """Turn what was typed behind `jacspec` into what Hydra reads.

    **Raises:** `JacspecError` for what is not KEY=VALUE, for a key by another tool's name, and for several values
    without `-m`: it says what to type.
    """
    if any(each in UNTOUCHED for each in given):
        return list(given)
    flags, typed = _split(given)
    deleted = [each for each in typed if each.startswith("~")]
    typed = [each for each in typed if each not in deleted]
    words = [_word(each, typed[place + 1 :], typed[:place]) for place, each in enumerate(typed)]
    swept = any(flag in MULTIRUN for flag in flags) or "hydra.mode=MULTIRUN" in typed
    command = Command(given, words, swept)
    return [*flags, *deleted, *(str(each) for word in words for each in _translate(word, command))]


def _split(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Tell Hydra's options from words; raises `JacspecError` for an option that it does not have."""
    flags: list[str] = []
    words: list[str] = []
    rest = list(given)
    while rest:
        each = rest.pop(0)
        if each in FLAGS_WITH_VALUE or each.partition("=")[0] in FLAGS_WITH_VALUE:
            flags += [each, *([rest.pop(0)] if "=" not in each and rest else [])]
        elif each in FLAGS:
            flags.append(each)
        elif each.startswith("-"):
            _refuse_option(each, rest)
        else:
            words.append(each)
    return flags, words


def _refuse_option(option: str, rest: Sequence[str]) -> NoReturn:
    name, equals, value = option.lstrip("-").partition("=")
    key = name.replace("-", "_")
    if not equals and rest and "=" not in rest[0] and not rest[0].startswith("-"):
        option, value = f"{option} {rest[0]}", rest[0]
    if answer := ANSWERS.get(key):
        raise JacspecError(f"There is no option {option}. {answer}")
    if key in kinds() or key in groups() or (key := meant(key, "jacobian")):
        raise JacspecError(f"{option}: keys are typed without dashes. Type {as_typed(key, value or 'VALUE')}.")
    raise JacspecError(
        f"There is no option {option}. Type KEY=VALUE, without dashes; `jacspec --help` lists keys and options."
    )


def _word(typed: str, behind: Sequence[str], before: Sequence[str]) -> Word:
    """Read one KEY=VALUE; raises `JacspecError` for anything else."""
    left, equals, value = typed.partition("=")
    found = re.fullmatch(r"([+]{0,2})(.*)", left, flags=re.S)
    assert found is not None
    sign, key = found[1], found[2]
    if equals and key and key == key.strip() and (value or not behind or "=" in behind[0]):
        return Word(sign, key, value)
    if key.strip() and (equals or (behind and behind[0].startswith("="))):  # `seed = 3`, `seed= 3`, `seed =3`
        wanted = next((each.strip() for each in (value, *behind) if each.strip(" =")), "VALUE").lstrip("= ")
        raise JacspecError(f"There are spaces around the = of {key.strip()}. Type {as_typed(key.strip(), wanted)}.")
    if equals:
        raise JacspecError(f"{typed} has no key. Type KEY=VALUE, as in seed=1.")
    raise JacspecError(_not_key_value(typed, before))


def _not_key_value(typed: str, before: Sequence[str]) -> str:
    """Say what was probably meant by a word without `=`."""
    key, _, value = typed.partition(":")
    if value and (key in kinds() or key in groups()):
        return f"{typed} is not KEY=VALUE. Type {as_typed(key, value)}."
    if typed in kinds() or typed in groups():
        return f"{typed} has no value. Type {typed}=VALUE; `jacspec help {typed}` says more."
    if typed in STUDIES:
        return f"{typed} is a study. Type task={typed}."
    if typed in metric_words():
        return f"{typed} is a metric. Type metrics.names={typed}."
    if typed in ("help", "version"):
        return f"{typed} comes first. Type jacspec {'--version' if typed == 'version' else 'help'}."
    if typed in choices("model") or Path(home(typed)).is_dir() or HUB_ID.fullmatch(typed):
        return f"{typed} is not KEY=VALUE. Type {as_typed('model', typed)}, if it is the model that is meant."
    if before and "=" in before[-1] and " " not in typed:
        joined = shlex.quote(f"{before[-1]} {typed}")
        return f"{typed} is not KEY=VALUE. If it belongs to the word before it, type {joined}."
    names = [*STUDIES, *choices("model"), *kinds(), *groups()]
    return (
        f"{typed} is not KEY=VALUE. "
        + suggest(typed, names).partition("Accepted: ")[0]
        + ("Type KEY=VALUE, as in model=gpt2; `jacspec --help` lists all keys.")
    )


def _translate(word: Word, command: Command) -> list[Word]:
    """Write one word as Hydra reads it: in most cases as it is."""
    if word.key not in PATHS and word.key.startswith(("hydra/", "hydra.", "model.config.")):
        return [word]
    kind = kinds().get(word.key)
    if kind is None and word.key not in (*groups(), *PATHS):
        _refuse_key(word, command)
        return [word]
    if word.key in groups():
        return _choose(word, command)
    if word.key == "data.text":
        beside = {"data": "text", "data.min_tokens": "1"}
        added = [Word("", key, value) for key, value in beside.items() if command.value_of(key) is None]
        return [*added, word._replace(value=quoted(word.value))]
    if word.key in ("layers", "data.samples") and word.value == "all":
        return [word._replace(value="null")]
    if word.key == "metrics.names" and word.value.strip("[]") == "all":
        raise JacspecError(f"{word}: all metrics are called full. Type metrics=full.")
    if is_list(kind) or word.key == "runs" or (word.key == "report.figures" and word.value not in ("all", "none")):
        return [word._replace(value=list_value(word, kind, command))]
    if kind is str or word.key in PATHS:
        return [word._replace(value=text_value(word, command))]
    check_single(word, command)
    return [word]


def _choose(word: Word, command: Command) -> list[Word]:
    """Translate the choice of a group: a model, a text or metrics may be named by what they are."""
    known = choices(word.key)
    parts = [word.value] if exists(word.value) else word.value.split(",")
    others = [part for part in parts if part not in known]
    if len(parts) > 1 and not command.multirun:
        refuse_several(word, command)
    own = {"model": _model_words, "data": _data_words, "metrics": _metric_words}.get(word.key)
    if not others or own is None or not all(parts):
        return [word]
    chosen = [own(part) for part in others]
    if None in chosen:
        return [word]
    keys = {each[:-1] for each in chosen if each}
    if len(keys) > 1 or len(others) < len(parts):
        raise JacspecError(
            f"{word}: a sweep takes either ready-made names, or folders, or names of the hub. Type one sweep for each."
        )
    ((choice, key),) = keys
    values = ",".join(quoted_if_needed(key, each[-1]) for each in chosen if each)
    return [*([Word("", word.key, choice)] if choice else []), Word("", key, values)]


def _model_words(value: str) -> tuple[str, str, str] | None:
    """Tell a folder or a file from a name of the hub; None for what is none of them."""
    if Path(home(value)).is_dir() or value.startswith((".", "/", "~")) or value.endswith(MODEL_FILES):
        return "path", "model.path", home(value)
    return ("hub", "model.id", value) if HUB_ID.fullmatch(value) else None


def _data_words(value: str) -> tuple[str, str, str] | None:
    looks = exists(value) or "/" in value or Path(value).suffix in (".txt", ".md")
    return ("text", "data.path", home(value)) if looks else None


def _metric_words(value: str) -> tuple[str, str, str] | None:
    return ("", "metrics.names", f"[{value}]") if value in metric_words() else None


def _refuse_key(word: Word, command: Command) -> None:
    """Say which key of ours another tool's name stands for; what is not known at all is Hydra's to say."""
    name = word.key.lower().replace("-", "_")
    if answer := ANSWERS.get(name):
        raise JacspecError(f"There is no key {word.key}. {answer}")
    if key := meant(name, command.task):
        several = key == "seed" and "," in word.value
        line = f"-m {as_typed(key, word.value.strip('[]'))}" if several else as_typed(key, word.value)
        raise JacspecError(f"There is no key {word.key}. Type {line}.")
    ending = sorted(key for key in kinds() if key.endswith(f".{LAST.get(name, name)}"))
    if ending := [key for key in ending if key.partition(".")[0] not in STUDIES] or ending:
        raise JacspecError(
            f"There is no key {word.key}. Type {' or '.join(as_typed(key, word.value) for key in ending)}."
        )
