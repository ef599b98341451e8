"""`task=modes` beside the paper's run, in seconds of processor time: 600 sentences, GPT-2 small's shapes, k = 4.

    python tests/benchmarks/modes.py TINY_SHAKESPEARE.txt [SAMPLES]    (from the repository; writes modes.json)

The paper's run is that of `paper.json`. Each as its user runs it, a process of its own, figures left out, on weights
whose singular values fall as i^(-1/2), as trained ones do; first with nothing compiled yet, then again. Processor time,
for others may be using the machine.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))
from paper import write_decaying  # noqa: E402

from jacspec.studies.provenance import versions  # noqa: E402

RUNS = {"paper": ("task=jacobian", "metrics=paper"), "modes": ("task=modes", "modes.k=4")}


def time_run(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run the command, and read what the system says it took and what it wrote of itself."""
    command = [sys.executable, "-m", "jacspec", *arguments, "report.figures=none", f"hydra.run.dir={folder}"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=folder.parent, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak of resident memory, MB": round(usage.ru_maxrss / 1024),
        "wall seconds a stage": run["seconds"],
    }


def main(text: str, samples: int = 600) -> None:
    """Time both, twice, and write the figures beside this file."""
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_decaying(work / "weights")
        given = ("model=gpt2", "model.path=weights", "data=shakespeare", f"data.path={Path(text).resolve()}")
        times = {
            f"{name}, {state}": time_run(work / f"{name}-{place}", *arguments, *given, f"data.samples={samples}")
            for place, state in enumerate(("nothing compiled yet", "compiled"))
            for name, arguments in RUNS.items()
        }
    seconds = {name: found["processor seconds"] for name, found in times.items()}
    found = {
        "what": f"{samples} sentences of Tiny Shakespeare, GPT-2 small's 12 layers, attn and mlp: modes, k = 4, beside "
        "metrics=paper",
        "environment": {"cores": os.cpu_count(), "platform": jax.default_backend(), "versions": versions()},
        **times,
        "modes over paper": {
            state: round(seconds[f"modes, {state}"] / seconds[f"paper, {state}"], 2)
            for state in ("nothing compiled yet", "compiled")
        },
    }
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    HERE.with_suffix(".json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
