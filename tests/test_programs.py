"""How many programs a run compiles: few, and as many for any number of samples and layers; and their cache.

Counted by JAX's own events, in a process of its own with an empty cache.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import TINY, environment, run_here

from jacspec import backend

SMALL: dict[str, tuple[str, ...]] = {
    "gpt2": ("n_embd=64", "n_head=2"),
    "llama-3.2-1b": ("hidden_size=64", "intermediate_size=96", "num_attention_heads=4", "num_key_value_heads=2"),
    "bert-base": ("hidden_size=64", "intermediate_size=96", "num_attention_heads=4"),
    "t5-small": ("d_model=64", "d_ff=96", "num_heads=4"),
}
LAYERS = {"gpt2": "n_layer", "t5-small": "num_layers"}


def shaped(model: str, samples: int, layers: int, *more: str) -> tuple[str, ...]:
    """Ask for random weights of a small model of a family, with the engine that the paper's run takes."""
    sizes = (*SMALL[model], "vocab_size=2048", f"{LAYERS.get(model, 'num_hidden_layers')}={layers}")
    own = (f"model={model}", "model.init=random", *(f"++model.config.{size}" for size in sizes))
    return (*own, "engine=lanczos", f"data.samples={samples}", *more)


RUNS: dict[str, tuple[str, ...]] = {
    "default, 20 samples": ("data.samples=20",),
    "default, 120 samples": ("data.samples=120",),
    "default, 600 samples": ("data.samples=600",),
    "paper, 20 samples, 2 layers": shaped("gpt2", 20, 2),
    "paper, 120 samples, 3 layers": shaped("gpt2", 120, 3),
    "paper, 600 samples, 12 layers": shaped("gpt2", 600, 12),
    "llama": shaped("llama-3.2-1b", 20, 2),
    "bert": shaped("bert-base", 20, 2),
    "t5": shaped("t5-small", 20, 2, "components=[attn,cross,mlp]"),
    "coupling, 10 samples, 2 layers": shaped("gpt2", 10, 2, "task=coupling"),
    "coupling, 40 samples, 3 layers": shaped("gpt2", 40, 3, "task=coupling"),
    "depth, 10 samples, 2 layers": shaped("gpt2", 10, 2, "task=depth"),
    "depth, 40 samples, 3 layers": shaped("gpt2", 40, 3, "task=depth"),
    "modes, 10 samples, 2 layers": shaped("gpt2", 10, 2, "task=modes", "modes.words=0"),
    "modes, 40 samples, 3 layers": shaped("gpt2", 40, 3, "task=modes", "modes.words=0"),
}
MOST = {"default": 15, "paper": 20, "llama": 15, "bert": 15, "t5": 25, "coupling": 35, "depth": 25, "modes": 25}
"""By study; a T5 has two kinds of block and five components."""
QUICK = tuple(name for name in RUNS if name.startswith(("default", "paper")) and "600" not in name)
"""In the default suite; the others, which are larger or of other families, are `long`."""


def count_here(text: str, *names: str) -> dict[str, int]:
    """Count the programs of every run, none of which finds what another compiled."""
    import jax
    import jax.monitoring

    import jacspec.studies.run as runner

    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **more: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    runner.__dict__["write_report"] = lambda *_, **__: None
    found: dict[str, int] = {}
    for name in names:
        arguments = RUNS[name]
        jax.clear_caches()
        compiled.clear()
        folder = Path(f"run{len(found)}").resolve()
        done = run_here(
            *arguments,
            "data=text",
            f"data.path={text}",
            f"hydra.run.dir={folder}",
            cwd=Path.cwd(),
            XDG_CACHE_HOME="cache",
        )
        assert (folder / "metrics.csv").is_file(), done.err
        found[name] = len(compiled)
    return found


@pytest.mark.parametrize("names", [QUICK, pytest.param(tuple(RUNS), marks=pytest.mark.long)], ids=["quick", "all"])
def test_programs_are_few_and_do_not_grow(names: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [" ".join(["word"] * int(count)) for count in rng.integers(2, 30, 700)]
    (tmp_path / "text.txt").write_text("\n".join(f"Sentence {index} {end}." for index, end in enumerate(words)))
    here = Path(__file__).resolve().parent
    paths = os.pathsep.join([str(here.parent), str(here)])
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "text.txt"), *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment(PYTHONPATH=paths),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(names)
    for study, most in MOST.items():
        counts = {name: count for name, count in found.items() if name.startswith(study)}
        if not counts:
            continue
        assert len(set(counts.values())) == 1, counts
        assert 3 < max(counts.values()) <= most, counts


@pytest.mark.thorough
def test_damaged_entry_of_the_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    cache: Any = jax.config
    before = cache.jax_compilation_cache_dir
    monkeypatch.setattr(backend, "_said", [])
    small = (*TINY, "components=[mlp]")
    try:
        said = []
        for run in ("first", "second", "third"):
            jax.clear_caches()
            jax.experimental.compilation_cache.compilation_cache.reset_cache()
            said.append(run_here(*small, f"hydra.run.dir={run}", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path)))
            assert said[-1].code == 0, said[-1].err
            entries = sorted((tmp_path / "jacspec" / "xla").glob("*-cache"))
            assert len(entries) > 3
            if run == "first":
                whole = [entry.read_bytes() for entry in entries]
                entries[0].write_bytes(b"")
                entries[1].write_bytes(whole[1][: len(whole[1]) // 2])
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
    assert [done.err.count("damaged entry") for done in said] == [0, 1, 0]
    assert all(entry.stat().st_size > 0 for entry in entries)


if __name__ == "__main__":
    print(json.dumps(count_here(*sys.argv[1:])))
