"""`--help`, `jacspec help WORD` and `--version`, from the tables: in half a second, and without JAX."""

import ast
import functools
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from jacspec.cli.terminal import end_without_reader
from jacspec.config import PACKAGE, config_folder
from jacspec.errors import JacspecError, printable, suggest
from jacspec.studies import STUDIES
from jacspec.studies.options import COMMAND_LINE, GROUPS, SHARED, comments, summary_of, task_file

TITLE = "jacspec: what each layer of a pretrained transformer does to a small change of its input."
USAGE = """\
jacspec [GROUP=CHOICE] [KEY=VALUE] ...
jacspec -m KEY=VALUE,VALUE ...          one run for each combination
jacspec help STUDY|KEY|METRIC|metrics   more on one of them
"""
EXAMPLES = {
    "jacspec": "the embedded model and text: a report in a minute",
    "jacspec model=gpt2 data=shakespeare": "a ready-made model and text",
    "jacspec model=ORG/NAME data=FILE.txt layers=0:4": "of the hub, on a text of yours, the first four layers",
    'jacspec model=FOLDER data.text="To be or not to be." components=all': "a folder, one sentence, every component",
    "jacspec task=weights model=gpt2": "spectra of the weights beside chance",
    "jacspec -m model=nano seed=0,1,2": "a sweep",
    "jacspec task=compare runs=[FOLDER,FOLDER]": "finished runs beside each other",
    "jacspec COMMAND resume=FOLDER": "compute what an interrupted run has not yet",
    "jacspec COMMAND --cfg job": "the configuration of a command, without running it",
}
FOOTER = "JACSPEC_TRACEBACK=1 in front of a command shows the traceback behind an error message."
HELP, VERSION = ("-h", "--help"), "--version"


def answered(given: Sequence[str]) -> bool:
    """Print what a command asks to be told, and say whether it asked for that alone; ends where there is no such help.

    What a terminal without Greek letters is shown is `terminal.spell_out_symbols`'s.
    """
    asked = any(each in HELP for each in given) or given[:1] == ["help"]
    if not asked and VERSION not in given:
        return False
    try:
        print(f"jacspec {version('jacspec')}" if VERSION in given else help_text(topics(given)), flush=True)
    except BrokenPipeError:
        end_without_reader()
    except OSError as error:
        sys.exit(f"jacspec: Cannot write to the output: {error.strerror}.")
    except JacspecError as error:
        print(f"jacspec: {printable(error)}", file=sys.stderr)
        sys.exit(1)
    return True


def topics(given: Sequence[str]) -> list[str]:
    """Return the words that help is wanted on: those behind `help`, or the study of a command with `--help`."""
    if given[:1] == ["help"]:
        return [each.partition("=")[2] if each.startswith("task=") else each for each in given[1:] if each not in HELP]
    return [each.removeprefix("task=") for each in given if each.startswith("task=")]


def help_text(words: Sequence[str]) -> str:
    """Write the help on some words, or on all of jacspec where none is given."""
    return "\n\n".join(map(_on, words)) if words else _on_all()


@functools.cache
def metric_words() -> Mapping[str, str]:
    """Read the definition of every metric from the source of `METRICS`, whose import would wait for JAX."""
    tree = ast.parse((PACKAGE / "spectra" / "metrics.py").read_text(encoding="utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.AnnAssign) and _named(node, "METRICS"))
    assert isinstance(table, ast.Dict)
    rows = [row for row in table.values if isinstance(row, ast.Call)]
    return {
        ast.literal_eval(key): ast.literal_eval(row.args[2]) for key, row in zip(table.keys, rows, strict=True) if key
    }


def _named(node: ast.AnnAssign, name: str) -> bool:
    return isinstance(node.target, ast.Name) and node.target.id == name


def _on_all() -> str:
    groups = (
        (name, f"{words}: {', '.join(choice for choice, _ in _choice_rows(name))}")
        for name, words in GROUPS.items()
        if name != "task"
    )
    studies = ((f"task={name}", _first_sentence(summary_of(name))) for name in STUDIES)
    own = {name for name in STUDIES if comments(task_file(name))}
    keys = {key: words for key, words in sorted(_keys().items()) if key.partition(".")[0] not in own}
    return "\n".join(
        [
            f"{TITLE}\n\n{USAGE}",
            _section("Examples", EXAMPLES.items()),
            _section("Studies", studies),
            _section("Groups and their choices", groups),
            _section("Keys", keys.items()),
            _section("Keys of one study", ((key, words) for key, words in _keys().items() if key not in keys)),
            _section("Metrics (metrics.names=NAME,NAME)", metric_words().items()),
            FOOTER,
        ]
    )


def _on(word: str) -> str:
    """Write the help on a study, a key, a group, a metric, or `metrics`."""
    key = next((each for each in (word, f"metrics.{word}") if each in _keys()), "")
    if word in STUDIES:
        return _on_study(word)
    if word == "metrics":
        return _section("Metrics (metrics.names=NAME,NAME)", metric_words().items()) + _metrics_apart()
    if word in GROUPS:
        return _section(f"{word}=CHOICE", [(word, GROUPS[word])]) + "\n" + _section("Choices", _choice_rows(word))
    if word in metric_words():
        return _section(f"metrics.names={word}", [(word, metric_words()[word])])
    if key:
        takers = [name for name, study in STUDIES.items() if any(SHARED[each][0] == key for each in study.takes)]
        rows = [(key, _keys()[key])] + ([("studies", ", ".join(takers))] if takers else [])
        return _section(f"{key}=VALUE", rows)
    known = [*STUDIES, *GROUPS, *_keys(), *metric_words()]
    raise JacspecError(
        f"There is no help on {word!r}. " + suggest(word, known).partition("Accepted")[0] + "Type --help."
    )


def _on_study(name: str) -> str:
    study = STUDIES[name]
    own = _words_of_own(name)
    shared = [(SHARED[each][0], _typed(SHARED[each][1])) for each in study.takes if each not in own]
    reads = {"model": "model=NAME", "text": "data=TEXT", "runs": "runs=[FOLDER,FOLDER]", "run": "run=FOLDER"}
    line = " ".join(["jacspec", f"task={name}", *(word for kind, word in reads.items() if kind in study.inputs)])
    columns = [(column, quantity.definition) for column, quantity in study.columns.items()]
    return "\n".join(
        [
            textwrap.fill(summary_of(name), _width()) + f"\n\n    {line}\n",
            _section("Keys of its own", ((f"{name}.{key}", words) for key, words in own.items())),
            _section("Keys that it shares with others", shared),
            _section("Columns of its tables", columns),
            f"The page: docs/{name}.md",
        ]
    )


def _words_of_own(name: str) -> dict[str, str]:
    """Return the words of a study's own keys, each with its value in `conf/task/`."""
    import yaml  # not above: not all help needs it

    values = (yaml.safe_load(task_file(name).read_text(encoding="utf-8")) or {}).get(name) or {}
    return {key: f"{words} ({_as_typed(values[key])})" for key, words in comments(task_file(name)).items()}


def _as_typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_as_typed, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@functools.cache
def _keys() -> dict[str, str]:
    """Return the words of every key that is typed."""
    own = {f"{name}.{key}": words for name in STUDIES for key, words in comments(task_file(name)).items()}
    return {key: _typed(words) for key, words in SHARED.values()} | dict(COMMAND_LINE) | own


def _typed(words: str) -> str:
    """Say in the words of the command line what is said for Python as well."""
    return words.replace("None: ", "by default ").replace("`", "")


def _choice_rows(group: str) -> list[tuple[str, str]]:
    """List the choices of a group, each with the words at the top of its file."""
    files = sorted((config_folder() / group).glob("*.yaml"))
    return [(file.stem, _first_sentence(_head(file.read_text(encoding="utf-8")))) for file in files]


def _head(text: str) -> str:
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(line for line in lines if not line.startswith("@"))


def _first_sentence(words: str) -> str:
    return words.partition(". ")[0].rstrip(".")


def _metrics_apart() -> str:
    return "\nmetrics=paper takes spectral_radius and decay_ratio, metrics=full all that the engine can give.\n"


def _section(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Write a list of names and words under a title, words in a column of their own; nothing where there are none."""
    listed = list(rows)
    if not listed:
        return ""
    column = min(max(len(name) for name, _ in listed), 24) + 4
    lines = []
    for name, words in listed:
        body = textwrap.wrap(words, max(_width() - column, 30), break_long_words=False, break_on_hyphens=False) or [""]
        if len(name) + 4 > column:
            lines.append(f"  {name}")
        else:
            lines.append(f"  {name}".ljust(column) + body.pop(0))
        lines += [" " * column + line for line in body]
    return f"== {title} ==\n\n" + "\n".join(line.rstrip() for line in lines) + "\n"


def _width() -> int:
    return min(shutil.get_terminal_size((100, 24)).columns, 120)
