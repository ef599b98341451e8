"""Time a real language model from command to page: `python tests/benchmarks/smollm2.py FOLDER TEXT [CHECKOUT]`.

FOLDER holds SmolLM2-135M-Instruct (30 layers, d_model 576), TEXT is Tiny Shakespeare, CHECKOUT an older working tree of
jacspec, which is timed right after this one. Writes `smollm2.json` beside itself: seconds of
whole processes with an empty cache of compiled programs, and the seconds by stage that `run.json` has.
"""

import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from startup import seconds

from jacspec.studies.provenance import versions

COMMANDS: dict[str, tuple[str, ...]] = {
    "60 sentences": ("data.samples=60", "data.min_tokens=5"),
    "weights": ("task=weights",),
    "600 sentences": ("data.samples=600", "data.min_tokens=5"),
}
REFUSED_BEFORE = ("_model_name_or_path", "unk_token_id")
"""Keys of its config that older versions refused: they get a copy without them."""


def timed(name: str, model: Path, text: Path, checkout: str | None = None) -> dict[str, Any]:
    """Time one command as a process of its own, its caches in a folder of its own."""
    given = ("model=path", f"model.path={model}", f"data.path={text}", *COMMANDS[name], "hydra.run.dir=out")
    with tempfile.TemporaryDirectory() as folder:
        whole = seconds(*given, folder=folder, checkout=checkout)
        run = json.loads((Path(folder) / "out" / "run.json").read_text(encoding="utf-8"))
        return {"seconds": whole, "stages": run["seconds"], "audit": run.get("audit")}


def without_keys(model: Path, folder: Path) -> Path:
    """Link to a checkpoint, with a config that lacks `REFUSED_BEFORE`."""
    for file in model.iterdir():
        if file.name != "config.json":
            (folder / file.name).symlink_to(file.resolve())
    raw = json.loads((model / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in raw.items() if key not in REFUSED_BEFORE}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


def main() -> None:
    """Time every command once and write the seconds with the environment."""
    model, text, *checkout = sys.argv[1:]
    found: dict[str, Any] = {"now": {}, "before": {}}
    with tempfile.TemporaryDirectory() as folder:
        older = without_keys(Path(model), Path(folder))
        for name in COMMANDS:
            found["now"][name] = timed(name, Path(model).resolve(), Path(text).resolve())
            if checkout:
                found["before"][name] = timed(name, older, Path(text).resolve(), checkout[0])
            print(name, {when: found[when].get(name) for when in found}, flush=True)
    found["environment"] = {"cpus": os.cpu_count(), "machine": platform.machine(), "versions": versions()}
    record = json.dumps(found, indent=2, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(record + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
