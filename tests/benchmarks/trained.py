"""Keep the numbers that pages quote of trained models that are not part of the project.

    python tests/benchmarks/trained.py --text FILE [--smollm2 FOLDER] [--stories260k FOLDER] [--minilm FOLDER]

Names of commands may follow, by default all of the models that are given; `--text` is Tiny Shakespeare, and the models
are SmolLM2-135M-Instruct, stories260K and all-MiniLM-L6-v2 in Hugging Face layout; `nano_check` runs the embedded one.
Numbers and processor seconds go to `trained.json` beside this file, which `tests/test_docs.py` compares with the pages.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pages import Numbers, Shown, of_modes, of_parts, run_command

import jacspec
from jacspec.api.result import Run
from jacspec.spectra.significance import SURE
from jacspec.studies.provenance import versions

RECORD = Path(__file__).with_suffix(".json")
MODELS = ("smollm2", "stories260k", "minilm")
REACH = 1.96


def of_words(run: Run) -> Numbers:
    """Count directions with words and those beyond chance, by side; of own modes, the tokens that come first."""
    words, own = run.tables["words"], run.tables["own_words"]
    found: dict[str, float] = {}
    for side, rows in words.groupby("side"):
        named = rows[rows["strongest"].notna()]
        found |= {f"{side}, directions": len(rows), f"{side}, with words": len(named)}
        found |= {
            f"{side}, beyond chance": (named["q"] < SURE).sum(),
            f"{side}, p below 5 %": (named["p"] < SURE).sum(),
        }
        found |= {f"{side}, score over chance, median": (named["strongest"] / named["chance"]).median()}
        for component, sure in named[named["q"] < SURE].groupby("component"):
            found |= {f"{side}, {component}, beyond chance": len(sure)}
            found |= {f"{side}, {component}, {name}": at for name, at in _in_a_row(set(sure["layer"])).items()}
    for side, rows in own[own["mode"] == 1].groupby("side"):
        found |= {f"own {side}, components": len(rows), f"own {side}, beyond chance": (rows["q"] < SURE).sum()}
    for row in own[(own["mode"] == 1) & (own["q"] < SURE)].to_dict("records"):
        place = f"own {row['side']}, {row['component']} {row['layer']}"
        found |= {f"{place}, {name}": row[name] for name in ("times", "samples", "chance")}
    return found


def _in_a_row(layers: set[int]) -> Numbers:
    """Find the longest row of layers that are all there."""
    rows = ([*itertools.takewhile(layers.__contains__, itertools.count(first))] for first in layers)
    longest = max(rows, key=len)
    return {"first in a row": longest[0], "last in a row": longest[-1]}


def of_layers(run: Run) -> Numbers:
    """Take how alike first directions are between samples, layer by layer, with intervals of 95 %."""
    modes, shared, between = (run.tables[name] for name in ("modes", "shared", "between"))
    found: dict[str, float] = {}
    for row in modes[modes["mode"] == 1].to_dict("records"):
        for side in ("read", "write"):
            cos, reach = row[f"{side}_cos"], REACH * row[f"{side}_error"]
            place = f"{row['component']} {row['layer']}, {side}"
            found |= {f"{place}, cos": cos, f"{place}, low": cos - reach, f"{place}, high": cos + reach}
            found |= {f"{place}, stream": row["stream"]}
    for row in shared.to_dict("records"):
        found |= {f"{row['component']} {row['layer']}, {row['side']}, held": row["held"]}
    coupled = between[between["what"] == "m_K"]["mean"]
    return {**found, "m_K, least": coupled.min(), "m_K, largest": coupled.max()}


def of_check(run: Run) -> Numbers:
    """Take what changes along v₁ and u₁ did over chance, by place, with intervals, and what was predicted of it."""
    rows = run.tables["check"]
    rows = rows[rows["kind"].isin(("read", "write")) & rows["ratio_low"].notna()]
    found: dict[str, float] = {}
    for (kind, change), own in rows.groupby(["kind", "change"]):
        found |= {f"{kind}, {change}, places": len(own), f"{kind}, {change}, above": (own["ratio_low"] > 1).sum()}
        found |= {f"{kind}, {change}, below": (own["ratio_high"] < 1).sum()}
        for row in own.to_dict("records"):
            place = f"{kind}, {change}, {row['component']} {row['layer']}"
            names = ("ratio", "ratio_low", "ratio_high", "loss", "loss_low", "loss_high", "predicted", "named")
            found |= {f"{place}, {name}": row[name] for name in names}
    return found


def of_pseudospectra(run: Run) -> Numbers:
    """Take medians by layer of what eigenvalues and pseudospectra of whole blocks say."""
    found: dict[str, float] = {}
    for name in (
        *("kreiss_constant", "pseudospectral_radius", "pseudospectral_abscissa", "eigenvalue_radius"),
        *("spectral_radius", "henrici_departure", "spectral_abscissa"),
    ):
        by_layer = run.metrics.groupby("layer")[name].median().dropna()
        found |= {f"{name}, layer {layer}": value for layer, value in by_layer.items()}
        found |= {f"{name}, least": by_layer.min(), f"{name}, largest": by_layer.max()}
    return found


COMMANDS: Mapping[str, Shown] = {
    "nano_check": Shown(
        "task=modes data={text} data.samples=60 modes.check=true",
        numbers=lambda run: {**of_words(run), **of_check(run)},
    ),
    "smollm2_words": Shown("task=modes model={smollm2} data={text} data.samples=60", numbers=of_words),
    "smollm2_check": Shown("task=modes model={smollm2} data={text} data.samples=60 modes.check=true", numbers=of_check),
    "stories260k_modes": Shown(
        "task=modes model={stories260k} data={text} data.samples=60 modes.check=true",
        numbers=lambda run: {**of_modes(run), **of_layers(run), **of_words(run), **of_check(run)},
    ),
    "minilm_modes": Shown(
        "task=modes model={minilm} data={text} data.samples=60",
        numbers=lambda run: {**of_modes(run), **of_layers(run), **of_words(run)},
    ),
    "smollm2_through": Shown(
        "task=modes model={smollm2} data={text} data.samples=60 modes.through=depth", numbers=of_words
    ),
    "smollm2_dense": Shown("task=depth model={smollm2} data={text} data.samples=8 depth.dense=4", numbers=of_parts),
    "smollm2_pseudospectra": Shown(
        "model={smollm2} data={text} components=[block] jacobian.eigenvalues=true jacobian.pseudospectra=4 "
        "data.samples=8 layers=[0,10,20,29]",
        numbers=of_pseudospectra,
    ),
}


def measure(shown: Shown, given: Mapping[str, str]) -> dict[str, Any]:
    """Run one command, and return its processor seconds and numbers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        seconds = run_command(f"{shown.command.format(**given)} hydra.run.dir=out", folder)
        numbers = shown.numbers(jacspec.open_run(folder / "out"))
        # Neither folders of this machine nor names of its files are kept.
        command = shown.command.format(text="TEXT", **{name: name.upper() for name in MODELS})
        kept = {key: round(float(value), 6) for key, value in numbers.items() if value == value}
        return {"command": f"jacspec {command}", "processor seconds": round(seconds), "numbers": kept}


def possible(given: Mapping[str, str]) -> Iterator[str]:
    """Name the commands whose models are given."""
    for name, shown in COMMANDS.items():
        if all(f"{{{model}}}" not in shown.command for model in MODELS if model not in given):
            yield name


def main() -> None:
    """Run what was asked for and add it to the record."""
    parser = argparse.ArgumentParser()
    for name in (*MODELS, "text"):
        parser.add_argument(f"--{name}", type=Path, required=name == "text")
    parser.add_argument("names", nargs="*")
    asked = vars(parser.parse_args())
    given = {name: str(asked[name].resolve()) for name in (*MODELS, "text") if asked[name]}
    for name in asked["names"] or possible(given):
        record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        record[name] = measure(COMMANDS[name], given)
        print(name, record[name], flush=True)
        record["trained, environment"] = {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "versions": versions(),
        }
        RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
