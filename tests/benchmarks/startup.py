"""Measure what a new user waits for, as whole processes: `python tests/benchmarks/startup.py [CHECKOUT]`.

Writes `startup.json` beside itself: seconds of `--help`, of the first `python -m jacspec` with an empty cache of
compiled programs, of the second one, and of `task=weights` and `task=heads`, each with the seconds by stage that its
`run.json` has and the share of the process's time that they add up to. CHECKOUT is an older working tree of jacspec,
timed in turns with this one (`before`): a machine is not equally fast every day.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNS = 2
COMMANDS: dict[str, tuple[str, ...]] = {
    "first_run": (),
    "second_run": (),
    "weights": ("task=weights",),
    "heads": ("task=heads",),
}
"""In this order, with one cache."""


def seconds(*arguments: str, folder: str, checkout: str | None = None) -> float:
    """Time one process of the command line, its caches in `folder`."""
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "HF_HUB_OFFLINE": "1"}
    if checkout is not None:
        environment["PYTHONPATH"] = str(Path(checkout).resolve())
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jacspec", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return round(time.perf_counter() - start, 2)


def timed_run(name: str, folder: str) -> dict[str, Any]:
    """Time one run: the whole process, its stages, and the share of the whole that these add up to."""
    whole = seconds(*COMMANDS[name], f"hydra.run.dir={name}", folder=folder)
    stages = json.loads((Path(folder) / name / "run.json").read_text(encoding="utf-8"))["seconds"]
    return {"whole": whole, "stages": stages, "covered": round(sum(stages.values()) / whole, 3)}


def main() -> None:
    """Run every command several times and write the medians with the environment."""
    helps: list[float] = []
    before: dict[str, list[float]] = {name: [] for name in (("help", *COMMANDS) if sys.argv[1:] else ())}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            helps.append(seconds("--help", folder=folder))
            for name in COMMANDS:
                runs[name].append(timed_run(name, folder))
        with tempfile.TemporaryDirectory() as folder:
            for name, times in before.items():
                arguments = ("--help",) if name == "help" else (*COMMANDS[name], f"hydra.run.dir={name}")
                times.append(seconds(*arguments, folder=folder, checkout=sys.argv[1]))
    found = {"help": helps} | {name: [each["whole"] for each in timed] for name, timed in runs.items()}
    record = {
        "command": "python -m jacspec (embedded model, 200 samples, 6 layers, attention and MLP, metrics=paper)",
        "median_seconds": {name: statistics.median(times) for name, times in found.items()},
        "median_stages": {
            name: {stage: statistics.median(each["stages"][stage] for each in timed) for stage in timed[0]["stages"]}
            for name, timed in runs.items()
        },
        "covered": {name: [each["covered"] for each in timed] for name, timed in runs.items()},
        "seconds": found,
        **({"before": {name: statistics.median(times) for name, times in before.items()}} if before else {}),
        "environment": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
    }
    text = json.dumps(record, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
