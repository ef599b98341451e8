"""What accident, an editor or a stranger makes of a finished run folder."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: list[Any] = [None, -5, 0, 1e308, "x", [], {}, [1], {"a": 1}, True, float("nan"), 10**30, ["x", None]]
"""Values of other types and sizes than a run writes."""


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def without_hashes(folder: Path) -> None:
    """Make a run one of an older version, which recorded none."""
    edit(folder / "run.json", lambda content: content.pop("files"))


def spoil(folder: Path, draw: random.Random) -> None:
    """Change one thing in a run folder: a value of run.json, a cell, a bit, an end."""

    def places(tree: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        return [found for key, inner in items for found in ((*at, key), *places(inner, (*at, key)))]

    def change(content: dict[str, Any]) -> None:
        *way, last = draw.choice(places(content))
        inner: Any = content
        for key in way:
            inner = inner[key]
        inner[last] = draw.choice(ODD)

    kind = draw.choice(["json", "cell", "bit", "end", "header"])
    if kind == "json":
        return edit(folder / "run.json", change)
    file = draw.choice([file for file in sorted(folder.iterdir()) if file.suffix in (".csv", ".nc")])
    content = file.read_bytes()
    if kind == "cell" and file.suffix == ".csv":
        lines = content.decode().split("\n")
        line = draw.randrange(len(lines) - 1)
        cells = lines[line].split(",")
        cells[draw.randrange(len(cells))] = draw.choice(["", "nan", "-5", "1e308", "x", "inf", "9" * 20, "0.5", '"'])
        lines[line] = ",".join(cells)
        content = "\n".join(lines).encode()
    elif kind == "header":
        content = content.split(b"\n")[0] + b"\n"
    elif kind == "end":
        content = content[: draw.randrange(len(content))]
    else:
        place = draw.randrange(len(content))
        content = content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]
    file.write_bytes(content)
