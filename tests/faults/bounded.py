"""Hostile sizes under a bound on memory: a line of a gigabyte, headers and configs that claim more than there is.

Each case is a process of its own whose address space is limited, and whose peak is measured.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hostile
from servers import NANO

from jacspec.config import DataConfig, Split
from jacspec.errors import JacspecError
from jacspec.models.checkpoint import load_tokenizer
from jacspec.text.corpus import draw_sample, load_corpus
from jacspec.text.labelled import Columns, read_labelled

GIB = 2**30
LIMIT_GIB = 6
"""Of address space: a text of a gigabyte is held as bytes and as letters, and JAX's libraries take one themselves."""


def write_line(file: Path, words: bytes, *, before: bytes = b"", after: bytes = b"") -> Path:
    """Write one line of a gigabyte less a mebibyte, in pieces."""
    piece = words * (2**20 // len(words))
    with file.open("wb") as stream:
        stream.write(before)
        for _ in range(1023):
            stream.write(piece)
        stream.write(after)
    return file


def draw_from_line(folder: Path) -> str:
    """Draw a sample of a text that is one line of a gigabyte."""
    file = write_line(folder / "line.txt", b"the city and ")
    data = DataConfig("text", path=str(file), split=Split.lines, samples=1, min_tokens=1, max_tokens=64)
    sample = draw_sample(load_corpus(data), load_tokenizer(NANO), data, seed=0)
    return f"{len(sample.tokens[0])} tokens of {len(sample.texts[0])} characters"


def read_long_row(folder: Path) -> str:
    """Read labelled text whose second row is a gigabyte."""
    rows = b"".join(json.dumps({"text": "a", "label": label}).encode() + b"\n" for label in (0, 1, 0))
    file = write_line(folder / "row.jsonl", b"the city and ", before=rows + b'{"label": 1, "text": "', after=b'"}\n')
    found = read_labelled(str(file), Columns("text", None, "label"), held_out_path=None, holdout=0.5, seed=0)
    return f"{len(found.train) + len(found.held_out)} examples"


def read_long_field(folder: Path) -> str:
    """Read a CSV file with a field of a gigabyte."""
    file = write_line(folder / "row.csv", b"the city and ", before=b"text,label\na,0\n")
    return str(read_labelled(str(file), Columns("text", None, "label"), held_out_path=None, holdout=0.5, seed=0))


def read_many_tensors(folder: Path) -> str:
    """Open a checkpoint whose header names half a million empty tensors."""
    header = {f"t{number}": hostile.tensor([0], 0, 0) for number in range(500_000)}
    return f"{len(hostile.read_ours(folder)(hostile.safetensors(header)))} tensors"


def read_raw(reader: str, raw: bytes) -> Callable[[Path], str]:
    """Make a case of one of the readers."""
    return lambda folder: "read" if hostile.READERS[reader](raw, folder) is None else ""


def read_header(raw: bytes) -> Callable[[Path], str]:
    """Make a case of a safetensors file."""
    return lambda folder: str(hostile.read_ours(folder)(raw))


DOUBLE = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
TOKENIZER = json.loads((NANO / "tokenizer.json").read_text()) | {
    "normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 40}
}
CASES: Mapping[str, Callable[[Path], str]] = {
    "a text of one line of 1 GB": draw_from_line,
    "a JSONL row of 1 GB": read_long_row,
    "a CSV field of 1 GB": read_long_field,
    "a header of 100 MB that is cut off": read_header(hostile.safetensors({}, claimed=99_999_999)),
    "a shape of 2^93 elements": read_header(hostile.safetensors({"a": hostile.tensor([2**31] * 3, 0, 4)}, b"1234")),
    "a config of 10^12 layers": read_raw("config", b'{"model_type": "gpt2", "n_layer": 1000000000000}'),
    "a config of 2^31 labels": read_raw("config", b'{"model_type": "gpt2", "num_labels": 2147483648}'),
    "a config nested 10^7 deep": read_raw("config", b"[" * 10**7),
    "an index of 64 MiB of names": read_raw("index", json.dumps({"weight_map": {"a" * 2**26: "b"}}).encode()),
    "a tokenizer that doubles 40 times": read_raw("tokenizer", json.dumps(TOKENIZER).encode()),
}


def run_bounded(name: str, folder: Path) -> dict[str, Any]:
    """Run one case in a process whose address space is limited; returns how it ended, its peak and its time."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_run, args=(name, folder, sender))
    process.start()
    sender.close()
    try:
        outcome, peak = receiver.recv()
    except EOFError:
        outcome, peak = "died", 0.0
    process.join()
    seconds = round(time.monotonic() - began, 1)
    return {"case": name, "outcome": outcome, "exit": process.exitcode, "peak GiB": round(peak, 2), "seconds": seconds}


def _run(name: str, folder: Path, sender: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where Rust panics speak
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * GIB, LIMIT_GIB * GIB))
    try:
        outcome = f"read: {CASES[name](folder)}"
    except JacspecError as error:
        outcome = f"refused: {error}"[:300]
    except BaseException as error:
        outcome = f"FAILED: {error!r}"[:300]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    sender.send((outcome, peak))
    sys.exit()


SLOWEST = 60.0
"""Seconds that a file may take; a regular expression alone may take `text.pace.PACE_SECONDS`."""


def run_made_up(reader: str, make: Callable[[int], bytes], count: int, folder: Path) -> dict[str, Any]:
    """Give a reader `count` files that were made up, in a process with as little address space and time for each."""
    found, failed, slowest, peak, seed = Counter[str](), [], 0.0, 0.0, 0
    while seed < count:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(
            target=_read_all, args=(reader, make, seed, folder, sender)
        )
        process.start()
        sender.close()
        while seed < count:
            try:
                outcome, seconds, peak = receiver.recv() if receiver.poll(SLOWEST) else ("took too long", SLOWEST, peak)
            except EOFError:
                outcome, seconds = "died", 0.0
            slowest = max(slowest, seconds)
            found[outcome if outcome in ("read", "refused") else "failed"] += 1
            if outcome not in ("read", "refused"):
                failed.append(f"{seed}: {outcome}")
            seed += 1
            if outcome in ("died", "took too long"):
                break
        process.kill()
        process.join()
    figures = {"slowest": round(slowest, 1), "peak GiB": round(peak, 2)}
    return {"reader": reader, "inputs": count, **found, **figures, "failed": failed}


def _read_all(reader: str, make: Callable[[int], bytes], seed: int, folder: Path, sender: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where Rust panics speak
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_GIB * GIB, LIMIT_GIB * GIB))
    while True:
        raw, began = make(seed), time.monotonic()
        try:
            outcome = "read" if hostile.refuses_or_reads(reader, raw, folder) else "refused"
        except BaseException as error:
            outcome = f"{error!r}"[:300]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
        sender.send((outcome, time.monotonic() - began, peak))
        seed += 1
