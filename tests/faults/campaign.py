"""Trust under attack and accident, at length: `python tests/faults/campaign.py [PART ...]`, all parts without one.

Writes what each part saw into `campaign.json` beside itself, with the environment, and from that the table of
`docs/reliability.md`. An hour or so on two cores that other work shares; the short form of every part is in the tests.
"""

import contextlib
import datetime
import functools
import json
import multiprocessing
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

import bounded
import disk
import fuzzing
import hostile
import kills
from damaged import spoil, without_hashes
from odd_tokenizers import make_tokenizer
from servers import command_line, in_session, run_command, run_here, start, statuses
from servers import environment as environment_of_tests
from small_runs import SMALL, arguments, make_small_model
from test_gguf import make as make_gguf

from jacspec.studies import find_study
from jacspec.studies.provenance import git_commit

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORD = Path(__file__).with_suffix(".json")
LIBRARIES = ("jax", "numpy", "safetensors", "tokenizers", "transformers", "filelock")
CHAINS, JOBS = (1, 2, 3), 8
FUZZ_SECONDS = 60
MADE_UP = 1500
DAMAGES, SWEEP_JOBS = 60, 200
SIGNALS, SIGNAL_SECONDS = 24, 12.0
MARKS = ("<!-- reliability: written by tests/faults/campaign.py -->", "<!-- end of reliability -->")


def run_kills(folder: Path) -> Iterator[dict[str, Any]]:
    """Kill every task's runs once, twice and three times, and say what was lost; kills that are recorded count too."""
    kills.import_everything()
    model = folder / "small"
    kills.fork(make_small_model, model).join()  # here it would start JAX, and nothing could be forked any more
    with ProcessPoolExecutor(JOBS, mp_context=multiprocessing.get_context("fork")) as pool:
        wholes: dict[Future[kills.Whole], str] = {}
        for task in SMALL:
            (folder / task).mkdir()
            wholes[pool.submit(kills.run_whole, task, model, folder / task)] = task
        chains: list[Future[list[kills.Kill]]] = []
        for whole in as_completed(wholes):
            for times in CHAINS:
                cwd = folder / f"{wholes[whole]}{times}"
                cwd.mkdir()
                given = (wholes[whole], model, whole.result(), cwd)
                chains.append(pool.submit(kills.kill_and_go_on, *given, times=times))
        found = [kills.Kill(**each) for each in read_record().get("kills", {}).get("each", [])]
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
        "by task": Counter(kill.task for kill in found),
        "each": [kill._asdict() for kill in found],
    }


def run_disk(folder: Path) -> Iterator[dict[str, Any]]:
    """Fill the disk under every task at a random size, give it room, and say what was lost."""
    kills.import_everything()
    model = folder / "small"
    kills.fork(make_small_model, model).join()
    found: list[dict[str, Any]] = []
    for number, task in enumerate(SMALL):
        cwd = folder / task
        cwd.mkdir()
        found.append(disk.fill_and_go_on(task, model, kills.run_whole(task, model, cwd), cwd, number))
        yield {
            "disks": len(found),
            "said so": sum(each["said so"] for each in found),
            "runs that differ": sum(bool(each["differing"]) for each in found),
            "each": found,
        }


def run_sizes(folder: Path) -> Iterator[dict[str, Any]]:
    """Run the cases of hostile sizes under a bound on memory."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(bounded.CASES):
        place = folder / str(number)
        place.mkdir()
        found.append(bounded.run_bounded(name, place))
        shutil.rmtree(place)
        yield {
            "limit GiB": bounded.LIMIT_GIB,
            "cases": len(found),
            "failed": sum(not each["outcome"].startswith(("read", "refused")) for each in found),
            "largest peak GiB": max(each["peak GiB"] for each in found),
            "each": found,
        }


def run_fuzzing(folder: Path) -> Iterator[dict[str, Any]]:
    """Feed every reader with atheris for `FUZZ_SECONDS`."""
    found: list[dict[str, Any]] = []
    for each in fuzzing.fuzz_all(FUZZ_SECONDS):
        found.append(each)
        yield {
            "atheris": version("atheris"),
            "inputs": sum(each["inputs"] for each in found),
            "readers": len(found),
            "seconds a reader": FUZZ_SECONDS,
            "limit MiB": fuzzing.MEMORY_MIB,
            "failed": sum(bool(each["failed"]) for each in found),
            "each": found,
        }


def _mutate(raw: bytes, seed: int) -> bytes:
    return hostile.mutate(raw, random.Random(seed))


def run_made_up(folder: Path) -> Iterator[dict[str, Any]]:
    """Give readers files that are made up: tokenizers of odd parts, adapters and GGUF files with changes in them."""
    gguf = make_gguf(folder, "llama").read_bytes()
    good = {
        "adapter_config": json.dumps(hostile.ADAPTER_CONFIG).encode(),
        "adapter": hostile.ADAPTER_WEIGHTS,
        "gguf": gguf,
    }
    makers: dict[str, Callable[[int], bytes]] = {"tokenizer": make_tokenizer}
    for reader, raw in good.items():
        makers[reader] = functools.partial(_mutate, raw)
    found: list[dict[str, Any]] = []
    for reader, make in makers.items():
        found.append(bounded.run_made_up(reader, make, MADE_UP, folder))
        yield {
            "inputs": sum(each["inputs"] for each in found),
            "readers": [each["reader"] for each in found],
            "limit GiB": bounded.LIMIT_GIB,
            "slowest": max(each["slowest"] for each in found),
            "largest peak GiB": max(each["peak GiB"] for each in found),
            "failed": sum(len(each["failed"]) for each in found),
            "each": found,
        }


def run_damage(folder: Path) -> Iterator[dict[str, Any]]:
    """Damage a finished run of every study at random, with its hashes and without, and draw or compare it."""
    model = folder / "small"
    make_small_model(model)
    found: Counter[str] = Counter()
    tracebacks: list[str] = []
    for task in SMALL:
        whole = folder / task
        done = run_here(*arguments(task, model), "report.figures=none", f"hydra.run.dir={task}", cwd=folder)
        assert done.code == 0, done.err
        for number in range(DAMAGES):
            cwd = folder / "damaged"
            shutil.rmtree(cwd, ignore_errors=True)
            for name in ("one", "other"):
                shutil.copytree(whole, cwd / name)
            draw = random.Random(f"{task} {number}")
            if number % 2:
                without_hashes(cwd / "one")
            spoil(cwd / "one", draw)
            over = find_study(task).rows
            compares = over is not None and over.by_layer and draw.random() < 0.3
            command = ("task=compare", "runs=.", "hydra.run.dir=out") if compares else ("task=report", "run=one")
            try:
                done = run_here(*command, "report.figures=none", cwd=cwd)
                found["refused" if done.code else "compared" if compares else "reported"] += 1
            except Exception as error:  # a user would see a traceback
                tracebacks.append(f"{task} {number}: {type(error).__name__}: {error}"[:300])
        tried = sum(found.values()) + len(tracebacks)
        yield {"studies": tried // DAMAGES, "tried": tried, **found, "tracebacks": tracebacks}


def run_signals(folder: Path) -> Iterator[dict[str, Any]]:
    """Interrupt real commands at random moments, from their first on, by Ctrl-C or SIGTERM, and resume them."""
    small = ("components=[mlp]", "data.samples=60", "data.max_tokens=16")
    sweep = ("-m", *small, "report.figures=none", "seed=0,1")
    model = folder / "small"
    make_small_model(model)
    given = {
        "run": small,
        "train": (*arguments("train", model), "train.steps=400", "report.figures=none"),
        "sweep": sweep,
        "workers": (*sweep, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    }
    found, by_kind, wrong = Counter[str](), Counter[str](), []
    for number in range(SIGNALS):
        draw, cwd = random.Random(number), folder / str(number)
        cwd.mkdir()
        kind = draw.choice(sorted(given))
        sent = draw.choice([signal.SIGINT, signal.SIGTERM])
        place = "hydra.sweep.dir=out" if "-m" in given[kind] else "hydra.run.dir=out"
        run = start(*given[kind], place, cwd=cwd, start_new_session=True)
        time.sleep(0.3 + draw.random() * SIGNAL_SECONDS)
        by_terminal = sent == signal.SIGINT and draw.random() < 0.5
        (os.killpg if by_terminal else os.kill)(run.pid, sent)  # Ctrl-C goes to all that the command started
        err = run.communicate(timeout=120)[1]
        time.sleep(3.0)  # for what notices by itself that it has nothing to track any more
        left = in_session(run.pid)
        lines = [line for line in err.splitlines() if line]
        said = run.returncode == 128 + sent and len(lines) == 1 and lines[0].startswith("jacspec: interrupted.")
        before_python = run.returncode == -sent and not err  # then it is the kernel that ends it
        by_kind[kind] += 1
        found["before it ended" if run.returncode else "after it ended"] += 1
        if left or (run.returncode and not (said or before_python)):
            wrong.append(f"{number}: {kind}, {sent.name}: {run.returncode}: {left} left: {err[-300:]}")
        begun = any(cwd.rglob("run.json"))
        again = (*given[kind], "resume=out" if begun else place)
        done = run_command(*again, cwd=cwd, timeout=600)
        if done.code or set(statuses(cwd)) != {"finished"}:
            wrong.append(f"{number}: not resumed: {done.err[-300:]}")
        yield {"signals": number + 1, "by kind": by_kind, **found, "wrong": wrong}


def run_sweep(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a sweep of jobs of different shapes in one process, and see what of it stays in memory."""
    lengths = ",".join(str(8 * (1 + job % 12)) for job in range(SWEEP_JOBS // 2))
    small = ("components=[mlp]", "layers=[0]", "report.figures=none", "data.samples=3", "seed=0,1")
    given = ("-m", *small, f"data.max_tokens={lengths}", "hydra.sweep.dir=sweep")
    with subprocess.Popen(
        command_line(*given), cwd=folder, env=environment_of_tests(), stdout=subprocess.DEVNULL
    ) as run:
        seen: list[dict[str, int]] = []
        while run.poll() is None:
            time.sleep(1.0)
            done = len(list(folder.glob("sweep/*/report.html")))
            if seen and seen[-1]["jobs"] == done:
                continue
            with contextlib.suppress(OSError):  # it may end meanwhile
                maps = len(Path(f"/proc/{run.pid}/maps").read_text().splitlines())
                status = Path(f"/proc/{run.pid}/status").read_text()
                resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024  # type: ignore[index]
                seen.append({"jobs": done, "memory maps": maps, "resident MB": resident})
    assert run.returncode == 0
    early = [each for each in seen if 10 <= each["jobs"] < SWEEP_JOBS // 4]
    late = [each for each in seen if each["jobs"] >= 3 * SWEEP_JOBS // 4]
    yield {
        "jobs": len(list(folder.glob("sweep/*/report.html"))),
        **{f"{name}, early": max(each[name] for each in early) for name in ("memory maps", "resident MB")},
        **{f"{name}, late": max(each[name] for each in late) for name in ("memory maps", "resident MB")},
    }


PARTS: Mapping[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "kills": run_kills,
    "disk": run_disk,
    "sizes": run_sizes,
    "fuzzing": run_fuzzing,
    "made up": run_made_up,
    "damage": run_damage,
    "signals": run_signals,
    "sweep": run_sweep,
}


def main(names: list[str]) -> None:
    """Run parts and record them, each case as it ends; what other parts recorded stays."""
    for name in names or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for found in PARTS[name](Path(folder)):
                record = read_record()
                record[name] = {"environment": environment(), **found}
                RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_table(record)


def read_record() -> dict[str, Any]:
    """Read what was recorded so far."""
    return json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}


def write_table(record: Mapping[str, Any]) -> None:
    """Write what parts saw into the page."""
    seen = [ROWS[name](record[name]) for name in PARTS if name in record]
    rows = ["| at length | what was seen |", "|---|---|", *seen]
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text("\n".join([before + MARKS[0], *rows, MARKS[1] + after]), encoding="utf-8")


ROWS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "kills": lambda seen: (
        f"| `kill -9` at {seen['kills']} random moments of {len(seen['by task'])} tasks, "
        f"{seen['of tries to go on']} of them while resuming | {seen['runs that differ']} of {seen['runs']} runs "
        "differ from one left alone, byte for byte, figures included |"
    ),
    "disk": lambda seen: (
        f"| a disk that fills under each of {seen['disks']} tasks, then has room again | {seen['said so']} say so, "
        f"{seen['runs that differ']} differ in the end |"
    ),
    "sizes": lambda seen: (
        f"| {seen['cases']} hostile sizes, lines of a gigabyte among them, in {seen['limit GiB']} GiB of address space "
        f"| {seen['failed']} end in anything but a value or a clear error; peak {seen['largest peak GiB']} GiB |"
    ),
    "fuzzing": lambda seen: (
        f"| {seen['inputs']:,} inputs by atheris to {seen['readers']} readers, {seen['seconds a reader']} s each "
        f"| {seen['failed']} end in anything but a value or a clear error |"
    ),
    "made up": lambda seen: (
        f"| {seen['inputs']:,} made-up files for {', '.join(seen['readers'])}: odd parts put together, good files with "
        f"changes | {seen['failed']} end in anything but a value or a clear error; the slowest takes "
        f"{seen['slowest']} s of a busy machine, the peak is {seen['largest peak GiB']} GiB |"
    ),
    "damage": lambda seen: (
        f"| {seen['tried']} finished runs of {seen['studies']} tasks with a value, a cell, a bit or an end changed, "
        f"drawn or compared | {len(seen['tracebacks'])} end in a traceback; {seen['refused']} are refused |"
    ),
    "signals": lambda seen: (
        f"| Ctrl-C or SIGTERM at {seen['signals']} random moments of runs, training and sweeps | "
        f"{len(seen['wrong'])} end without their one line or cannot be resumed |"
    ),
    "sweep": lambda seen: (
        f"| {seen['jobs']} jobs of different shapes in one process | memory maps {seen['memory maps, early']} early, "
        f"{seen['memory maps, late']} late; resident memory {seen['resident MB, early']} and "
        f"{seen['resident MB, late']} MB |"
    ),
}


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
