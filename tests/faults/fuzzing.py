"""Fuzzing by coverage: `python tests/faults/fuzzing.py READER SECONDS` feeds one of `hostile.READERS` with atheris.

Anything but a value or a `JacspecError` ends it with exit status 77 and the bytes that did it on stderr. atheris is in
no extra, because it has wheels for few Pythons: pip install atheris.
"""

import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the helpers of the tests

import numpy as np
from safetensors.numpy import save
from servers import NANO, environment

MEMORY_MIB = 3000
SEEDS: dict[str, list[bytes]] = {
    "safetensors": [b"\x3c\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}      ' + bytes(8)],
    "config": [(NANO / "config.json").read_bytes(), b'{"model_type": "llama", "rope_parameters": {"rope_theta": 1}}'],
    "tokenizer": [b'{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}'],
    "index": [b'{"weight_map": {"a": "model-1.safetensors"}}'],
    "corpus": ["One. Two! Ça va ?\r\n\r\nthree".encode()],
    "labelled": [b'{"text": "a", "label": 1}\n{"text": "b", "label": true}\n', b'text,label\n"a ""b""",1\nc,2\n'],
    "adapter_config": [b'{"peft_type": "LORA", "lora_alpha": 1, "base_model_name_or_path": "base"}'],
    "adapter": [save({f"q.lora_{part}.weight": np.ones((1, 1), np.float32) for part in "AB"})],
    "gguf": [b"GGUF" + struct.pack("<IQQQ20sIQ5s", 3, 0, 1, 20, b"general.architecture", 8, 5, b"llama")],
}


def fuzz(reader: str, seconds: int) -> dict[str, Any]:
    """Fuzz one reader in a process of its own; returns how many inputs it was fed, and what it did not survive."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(SEEDS[reader]):
            (Path(folder) / f"seed{number}").write_bytes(seed)
        done = subprocess.run(
            [sys.executable, __file__, reader, str(seconds), folder],
            cwd=folder,
            env=environment(RUST_BACKTRACE="0"),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    fed = re.findall(r"Done (\d+) (?:runs|in)", done.stderr) or re.findall(r"#(\d+)", done.stderr) or ["0"]
    peak = re.findall(r"rss: (\d+)Mb", done.stderr) or ["0"]
    failed = "" if done.returncode == 0 else done.stderr[-1500:]
    return {"reader": reader, "inputs": int(fed[-1]), "seconds": seconds, "peak MiB": int(peak[-1]), "failed": failed}


def fuzz_all(seconds: int) -> Iterator[dict[str, Any]]:
    """Fuzz every reader in turn."""
    for reader in SEEDS:
        yield fuzz(reader, seconds)


def main(reader: str, seconds: str, seeds: str) -> None:
    """Feed one reader until the time is over."""
    import atheris

    with atheris.instrument_imports(include=["jacspec", "json", "csv"]):
        import hostile

    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_bytes((NANO / "config.json").read_bytes())
    (folder / "model-1.safetensors").write_bytes(SEEDS["safetensors"][0])
    ours = hostile.read_ours(folder)

    def feed(raw: bytes) -> None:
        if reader == "safetensors":
            assert hostile.is_right(ours, raw)
        else:
            hostile.refuses_or_reads(reader, raw, folder)

    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MIB}", "-timeout=60", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *limits, seeds], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
