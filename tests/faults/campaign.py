"""Trust under attack and accident, at length: `python tests/faults/campaign.py [PART ...]`, all parts without one.

Writes what each part saw into `campaign.json` beside itself, with the environment, and from that the table of
reliability in README.md. A quarter of an hour to an hour on two cores; the short form of every part is in the tests.
"""

import datetime
import json
import multiprocessing
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

import kills

from jacspec.provenance import git_commit

RECORD = Path(__file__).with_suffix(".json")
LIBRARIES = ("jax", "numpy", "safetensors", "tokenizers", "transformers", "filelock")
CHAINS, JOBS = (1, 2, 3), 8


def run_kills(folder: Path) -> Iterator[dict[str, Any]]:
    """Kill every task's runs once, twice and three times, and say what was lost."""
    kills.import_everything()
    model = folder / "small"
    kills.fork(kills.make_small_model, model).join()  # here it would start JAX, and nothing could be forked any more
    with ProcessPoolExecutor(JOBS, mp_context=multiprocessing.get_context("fork")) as pool:
        wholes: dict[Future[kills.Whole], str] = {}
        for task in kills.TASKS:
            (folder / task).mkdir()
            wholes[pool.submit(kills.run_whole, task, model, folder / task)] = task
        chains: list[Future[list[kills.Kill]]] = []
        for whole in as_completed(wholes):
            for times in CHAINS:
                cwd = folder / f"{wholes[whole]}{times}"
                cwd.mkdir()
                given = (wholes[whole], model, whole.result(), cwd)
                chains.append(pool.submit(kills.kill_and_go_on, *given, times=times))
        found: list[kills.Kill] = []
        for chain in as_completed(chains):
            found += chain.result()
            yield _sum_up_kills(found)


def _sum_up_kills(found: Sequence[kills.Kill]) -> dict[str, Any]:
    return {
        "kills": len(found),
        "of tries to go on": sum(kill.before > 0 for kill in found),
        "before run.json was there": sum(not kill.run_file for kill in found),
        "with parts done": sum(kill.parts > 0 for kill in found),
        "runs": sum(kill.before == 0 for kill in found),
        "runs that differ": sum(bool(kill.differing) for kill in found if kill.before == 0),
        "by task": {task: sum(kill.task == task for kill in found) for task in kills.TASKS},
        "each": [kill._asdict() for kill in found],
    }


PARTS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {"kills": run_kills}


def main(names: list[str]) -> None:
    """Run parts and record them, each case as it ends; what other parts recorded stays."""
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for found in PARTS[name](Path(folder)):
                record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
                record[name] = {"environment": environment(), **found}
                RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Say on what and when a part ran."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git_commit(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
