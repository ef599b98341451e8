"""Numbers that pages of `docs/` quote of the embedded model, with their errors: writes `quoted.json`.

    python tests/benchmarks/quoted.py             (from the repository; about four minutes on two cores)
    python tests/benchmarks/quoted.py coupling    (that part alone)

Seeds are the defaults.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jacspec
from jacspec.config import ASSETS

SHARES = (0.4, 0.8, 0.95)
"""Of the nuclear norm that STAR keeps."""


def measure_coupling() -> dict[str, float]:
    """Average the alignments of what components write with what others read, by where these stand."""
    table = jacspec.coupling("nano", silent=True).tables["coupling"]
    own = (table["write_layer"] == table["read_layer"]) & (table["write_component"] == table["read_component"])
    downstream = table["downstream"] == 1
    return {
        "downstream": _round(table[downstream]["mean"].mean()),
        "not downstream": _round(table[~downstream & ~own]["mean"].mean()),
        "not downstream, each with itself too": _round(table[~downstream]["mean"].mean()),
        "with itself": _round(table[own]["mean"].mean()),
    }


def measure_merges() -> dict[str, Any]:
    """Measure the perplexity of merges of two revisions on a third, and of these, on the embedded text."""
    found = {}
    merges: dict[str, Mapping[str, Any]] = {"average": {"method": "average"}}
    merges |= {f"star, share {share}": {"method": "star", "share": share} for share in SHARES}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in merges.items():
            made = jacspec.merge(
                models=["nano@step1024", "nano"], base="nano@step256", folder=f"{folder}/{name}", silent=True, **options
            )
            found[name] = _perplexity(jacspec.load_model(made.folder / "merged"))
    return found | {step: _perplexity(jacspec.load_model("nano", revision=step)) for step in ("step1024", None)}


def _perplexity(model: Any) -> dict[str, float]:
    row = jacspec.removal(model, data=ASSETS / "verse.txt", roles=["q"], ranges=[[0, 0.01]], silent=True).metrics.iloc[
        0
    ]
    return {"perplexity": _round(row["perplexity"]), "standard error": _round(row["perplexity_error"], 2)}


def _round(value: Any, digits: int = 3) -> float:
    return float(f"{float(value):.{digits}g}")


PARTS: Mapping[str, Callable[[], dict[str, Any]]] = {"coupling": measure_coupling, "merge": measure_merges}


def main(names: Sequence[str]) -> None:
    """Measure these parts, or all, and write the JSON beside this file; the others stay in it."""
    file = Path(__file__).with_suffix(".json")
    record = json.loads(file.read_text(encoding="utf-8")) if names and file.is_file() else {}
    record |= {name: PARTS[name]() for name in names or PARTS}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
