"""The paper's whole experiment, timed as its user runs it: 600 sentences, 12 layers, attention and MLP, rho and delta.

    python tests/benchmarks/paper.py TINY_SHAKESPEARE.txt [CHECKOUT]    (from the repository; writes paper.json)

`python -m jacspec model=gpt2 data=shakespeare` as a process of its own, with an empty cache of compiled programs and
then with a full one: on weights of GPT-2 small's shapes whose singular values fall as i^(-1/2), as trained ones do, and
on random ones (`model.init=random`, flat spectra, the slow case). Memory is the peak of the process; a run on a quarter
of the samples shows what grows with them: the hidden states alone. CHECKOUT is an older working tree of jacspec, timed
on the trained-like weights right after this one (`before`): a machine is not equally fast every day.
"""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacspec import load_model
from jacspec.backend import numerics
from jacspec.models.export import write_config, write_weights
from jacspec.models.modules import module_parts
from jacspec.studies.provenance import versions

SAMPLES = 600


def decayed(leaf: Any) -> Any:
    """Give a matrix singular values that fall as i^(-1/2), from the largest that it has."""
    if leaf.ndim != 2:
        return leaf
    left, sigma, right = np.linalg.svd(np.asarray(leaf), full_matrices=False)
    return jnp.asarray((left * sigma[0] * np.arange(1, len(sigma) + 1) ** -0.5) @ right, leaf.dtype)


def write_decaying(folder: Path) -> None:
    """Write GPT-2 small with decaying random weights, and the embedded tokenizer beside it."""
    folder.mkdir()
    with numerics("float32"):
        model = load_model("gpt2", init="random")
        modules = {
            (part, number): jax.tree.map(decayed, model.make(part, number))
            if part == "block"
            else model.make(part, number)
            for part, number in module_parts(model.spec)
        }
        write_weights(folder, model.architecture, model.spec, modules, dtype="float32")
    write_config(folder, model.config)
    for file in model.tokenizer_folder.glob("tokenizer*"):
        shutil.copy(file, folder)


def time_run(text: str, samples: int, cache: Path, *arguments: str, checkout: str | None = None) -> dict[str, Any]:
    """Run the command, of this working tree or an older one, and read what it wrote of itself."""
    folder = cache / f"run{time.monotonic_ns()}"
    command = [
        *(sys.executable, "-m", "jacspec", "model=gpt2", "data=shakespeare", f"data.path={text}"),
        *(f"data.samples={samples}", f"hydra.run.dir={folder}", *arguments),
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    if checkout is not None:
        environment["PYTHONPATH"] = str(Path(checkout).resolve())
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=cache, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    assert status == 0
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    shapes = run["identity"]["batches"]
    return {
        "seconds": round(seconds, 1),
        "seconds a stage": run["seconds"],
        "peak of resident memory, MB": round(usage.ru_maxrss / 1e3),
        "hidden states, MB": round(sum(rows * tokens for rows, tokens in shapes) * 768 * 4 / 1e6),
        "engine": run["engine"],
        "audit": run["audit"],
        "not converged": len(run["not_converged"]),
    }


def main() -> None:
    """Run everything and write the JSON beside this file."""
    text, *checkout = sys.argv[1:]
    text = str(Path(text).resolve())
    found: dict[str, Any] = {
        "what": f"{SAMPLES} sentences of Tiny Shakespeare, GPT-2 small's 12 layers, attn and mlp, metrics=paper",
        "environment": {
            "platform": jax.default_backend(),
            "cores": os.cpu_count(),
            "versions": versions(),
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        decaying = cache / "decaying"
        # In a process of its own: a child's peak counts what its parent held when it was made.
        writer = multiprocessing.get_context("spawn").Process(target=write_decaying, args=(decaying,))
        writer.start()
        writer.join()
        assert writer.exitcode == 0
        trained, random = f"model.path={decaying}", "model.init=random"

        def add(name: str, samples: int, cache: Path, weights: str, checkout: str | None = None) -> None:
            found[name] = time_run(text, samples, cache, weights, checkout=checkout)
            # After each: what was timed stands, also if a later one is broken off.
            output = json.dumps(found, indent=2) + "\n"
            Path(__file__).with_suffix(".json").write_text(output, encoding="utf-8")
            print(name, found[name]["seconds"], flush=True)

        for name in ("decaying weights, nothing compiled yet", "decaying weights"):
            add(name, SAMPLES, cache, trained)
        for older in checkout:
            (cache / "before").mkdir()
            for name in ("decaying weights, nothing compiled yet", "decaying weights"):
                add(f"before: {name}", SAMPLES, cache / "before", trained, older)
        add("decaying weights, a quarter of the samples", SAMPLES // 4, cache, trained)
        add("random weights", SAMPLES, cache, random)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
