"""Measure what a new user waits for, as whole processes: `python tests/benchmarks/startup.py`.

Writes `startup.json` beside itself: seconds of `--help`, of the first `python -m jacspec` with an empty cache of
compiled programs, and of the second one.
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

RUNS = 3


def seconds(*arguments: str, folder: str) -> float:
    """Time one process of the command line, its caches in `folder`."""
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jacspec", *arguments], cwd=folder, env=environment, check=True, capture_output=True
    )
    return round(time.perf_counter() - start, 2)


def main() -> None:
    """Run every command several times and write the medians with the environment."""
    found: dict[str, list[float]] = {"help": [], "first_run": [], "second_run": []}
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            found["help"].append(seconds("--help", folder=folder))
            found["first_run"].append(seconds(folder=folder))
            found["second_run"].append(seconds(folder=folder))
    record = {
        "command": "python -m jacspec (embedded model, 200 samples, 6 layers, attention and MLP, metrics=paper)",
        "median_seconds": {name: statistics.median(times) for name, times in found.items()},
        "seconds": found,
        "environment": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
    }
    text = json.dumps(record, indent=2)
    Path(__file__).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
