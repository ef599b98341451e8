"""What pages of `docs/` say from the code's own tables: keys and columns of each study, written between markers.

`python -m pytest --write-docs tests/test_docs.py` writes all of it; the tests fail where a page is behind its table.
"""

import enum
import functools
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jacspec.api.options import Option, options_of
from jacspec.config import config_folder
from jacspec.report.labels import words_of_metrics
from jacspec.studies import STUDIES
from jacspec.studies.study import Quantity

DESCRIBED = tuple(name for name, study in STUDIES.items() if study.takes or study.options)

DOCS = Path(__file__).parents[1] / "docs"


def columns_of(study: str) -> Mapping[str, Quantity]:
    """Return what the columns of a study's own tables hold, by name; those that all share are on jacobian's page."""
    if study == "jacobian":
        return words_of_metrics()
    columns = STUDIES[study].columns
    # Exponents through depth are as many as were asked for; the first of each kind says it of all.
    return {name: columns[name] for name in ("finite_time_1", "lyapunov_1")} if study == "depth" else columns


def keys_table(study: str) -> str:
    """Write the keys of a study's own, as the command line takes them, and which shared ones count."""
    own = [option for option in options_of(study) if option.key.startswith(f"{study}.")]
    shared = [f"`{option.key}`" for option in options_of(study) if option not in own]
    rows = [(f"`{option.key}`", f"`{_as_yaml(option.default)}`", option.words) for option in own]
    parts = [_table(("key", "default", "meaning"), rows)] if rows else []
    if shared:
        parts.append(f"Of the [shared keys](keys.md) it takes {', '.join(shared)}.")
    return "\n\n".join(parts)


def columns_table(study: str) -> str:
    """Write what each column of a study holds, with its source."""
    rows, above = [], ""
    for name, column in columns_of(study).items():
        rows.append((f"`{name}`", column.definition, "as above" if column.source == above else column.source))
        above = column.source
    return _table(("column", "meaning", "source"), rows)


def shared_table() -> str:
    """Write the keys that several studies share, with the option that sets each from Python."""
    found: dict[str, Option] = {}
    takers: dict[str, list[str]] = {}
    for study in DESCRIBED:
        for option in options_of(study):
            if not option.key.startswith(f"{study}."):
                found.setdefault(option.key, option)
                takers.setdefault(option.key, []).append(study)
    rows = [
        (f"`{key}`", f"`{option.name}`", *_default_and_words(option), ", ".join(takers[key]))
        for key, option in found.items()
    ]
    return _table(("key", "in Python", "default", "meaning", "studies"), rows)


def chance_tables() -> dict[str, str]:
    """Write the tables of what chance was measured to be, from the record of its benchmark."""
    file = Path(__file__).parent / "benchmarks" / "chance.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    rivals = [name for name in next(iter(next(iter(record["estimators"].values())).values())) if name != "fit_bulk"]
    estimators = [
        (shape, noise, *(_mean_and_sd(case[name]) for name in rivals), *_own_estimate(case["fit_bulk"]))
        for shape, cases in record["estimators"].items()
        for noise, case in cases.items()
    ]
    own = ("`fit_bulk`", "identified", "mean error", "within 1, 2 errors")
    parts = {"estimators": _table(("shape", "noise", *rivals, *own), estimators)}
    for word in ("p-values", "norms", "heads"):
        rates = [
            (case, name, *(f"{rate:g}" for rate in values.values()))
            for case, found in record[word].items()
            for name, values in found.items()
            if isinstance(values, dict)
        ]
        counts = [
            (case, name, f"{value:g}")
            for case, found in record[word].items()
            for name, value in found.items()
            if not isinstance(value, dict)
        ]
        parts[word] = _table(("matrix", "p-value", "at 1 %", "at 5 %", "at 50 %"), rates)
        parts[f"counts of {word}"] = _table(("matrix", "share or number of values", "found"), counts)
    for word, first in (("alpha", "tail"), ("heads, small p", "heads"), ("compare", "runs")):
        columns = list(next(iter(record[word].values())))
        rows = [(case, *(f"{found[column]:g}" for column in columns)) for case, found in record[word].items()]
        parts[word] = _table((first, *columns), rows)
    return parts


def _mean_and_sd(found: Mapping[str, float]) -> str:
    return f"{found['mean']:.3g} ± {found['sd']:.1g}" if "mean" in found else "–"


def _own_estimate(found: Mapping[str, float]) -> tuple[str, ...]:
    share = f"{found['identified']:.0%}"
    if "mean" not in found:
        return "–", share, "–", "–"
    within = f"{found['within 1 error']:.2f}, {found['within 2 errors']:.2f}"
    return _mean_and_sd(found), share, f"{found['mean error']:.2g}", within


def ready_made_models() -> str:
    """List the ready-made models."""
    choices = (file.stem for file in (config_folder() / "model").glob("*.yaml"))
    names = (f"`{name}`" for name in sorted(choices) if name not in ("hub", "path"))
    return textwrap.fill(", ".join(names), 120, break_on_hyphens=False)


@functools.cache
def pages() -> dict[str, dict[str, str]]:
    """Return what is generated: by page of `docs/`, then by the word of its markers."""
    found = {f"{study}.md": {"keys": keys_table(study)} for study in DESCRIBED}
    for study in DESCRIBED:
        if columns_of(study):
            found[f"{study}.md"]["columns"] = columns_table(study)
    found["chance.md"] = chance_tables()
    return found | {"keys.md": {"ready-made models": ready_made_models(), "shared keys": shared_table()}}


def marks(word: str) -> tuple[str, str]:
    """Return the lines that a generated part stands between."""
    return f"<!-- {word}: written by pytest --write-docs -->", f"<!-- end of {word} -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """Return a page with its generated parts put between their markers; raises `ValueError` where one lacks them."""
    for word, part in parts.items():
        first, last = marks(word)
        if page.count(first) != 1 or page.count(last) != 1:
            raise ValueError(f"a page lacks its markers. Write {first} and {last} into it, once each.")
        before, rest = page.split(first)
        page = f"{before}{first}\n{part}\n{last}{rest.split(last)[1]}"
    return page


def write_pages() -> None:
    """Write all generated parts into their pages."""
    for name, parts in pages().items():
        page = DOCS / name
        page.write_text(filled(page.read_text(encoding="utf-8"), parts), encoding="utf-8")


def _default_and_words(option: Option) -> tuple[str, str]:
    """Write the default of a shared option; where it depends on the rest, the words say on what."""
    default = "" if option.default is None else f"`{_as_yaml(option.default)}`"
    return default, option.words.replace("None: ", "by default ")


def _as_yaml(value: Any) -> str:
    """Write a default as it is typed on the command line."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(_as_yaml, value))}]"
    return json.dumps(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, *([_escaped(cell) for cell in row] for row in rows))
    first, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([first, "|---" * len(head) + "|", *rest])


def _escaped(cell: str) -> str:
    """Keep Markdown from reading signs: a bar as a cell's end everywhere, stars and angles outside code."""
    if not cell.startswith("`"):
        for sign in "*<":
            cell = cell.replace(sign, f"\\{sign}")
    return cell.replace("|", "\\|")
