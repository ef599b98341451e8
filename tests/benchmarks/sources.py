"""What the claims of the sources are on models at hand: `python tests/benchmarks/sources.py SMOLLM2_FOLDER TEXT`.

Writes `sources.json` beside itself, from runs of the command line. Of "Analyzing Spectral Information of Transformers",
on 300 sentences of TEXT (Tiny Shakespeare), the embedded model, trained and at random, and SmolLM2-135M-Instruct:

- how many times the gain ρ of the middle third of the layers the first and the last third have (its U, Figure 2);
- how many times δ of the MLP that of attention is, where attention is to be more concentrated (Figure 3), and in how
  many layers it is smaller, an interval of 95 % apart;
- the range of the medians of ρ over the inner layers (15 to 45 in GPT-2, it says).

A ratio is a geometric mean over samples with Student's interval of 95 %.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jacspec import open_run
from jacspec.report.findings import ratio_interval
from jacspec.studies.provenance import versions

SAMPLES = 300
RUNS: dict[str, tuple[str, ...]] = {
    "nano": (),
    "nano, random": ("model.init=random",),
    "SmolLM2-135M": ("model.path={model}", "model=path"),
}


def logarithms(run: Any, metric: str, component: str) -> np.ndarray:
    """Take the logarithms of a metric, a row a layer, a column a sample."""
    table = run.metrics[run.metrics["component"] == component]
    return np.log(table.pivot(index="layer", columns="sample", values=metric).to_numpy(float))


def claims(run: Any) -> dict[str, Any]:
    """Measure the claims on one run."""
    found: dict[str, Any] = {"layers": int(run.metrics["layer"].nunique()), "samples": len(run.samples)}
    for component in ("attn", "mlp"):
        gains = logarithms(run, "spectral_radius", component)
        third = len(gains) // 3
        middle = gains[third:-third].mean(axis=0)
        medians = np.exp(np.median(gains, axis=1))
        found[component] = {
            "first third over middle": list(ratio_interval(gains[:third].mean(axis=0) - middle)),
            "last third over middle": list(ratio_interval(gains[-third:].mean(axis=0) - middle)),
            "median of the first layer": float(medians[0]),
            "median of the last layer": float(medians[-1]),
            "medians of inner layers, least and most": [float(medians[1:-1].min()), float(medians[1:-1].max())],
        }
    ratio = logarithms(run, "decay_ratio", "mlp") - logarithms(run, "decay_ratio", "attn")
    by_layer = [ratio_interval(own) for own in ratio]
    found["decay of mlp over attn"] = list(ratio_interval(ratio.mean(axis=0)))
    found["layers where attn decays faster"] = sum(each.low > 1 for each in by_layer)
    found["layers where mlp decays faster"] = sum(each.high < 1 for each in by_layer)
    return found


def main() -> None:
    """Run the models and write what was found."""
    model, text = sys.argv[1:]
    written: dict[str, Any] = {"versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        for name, words in RUNS.items():
            place = Path(folder) / name.partition(",")[0].replace(" ", "") / str(len(written))
            subprocess.run(
                [sys.executable, "-m", "jacspec", *(word.format(model=model) for word in words), "data=text",
                 f"data.path={text}", f"data.samples={SAMPLES}", "data.min_tokens=5", "report.figures=none",
                 f"hydra.run.dir={place}"],
                check=True, cwd=folder,
            )  # fmt: skip
            written[name] = claims(open_run(place))
            Path(__file__).with_suffix(".json").write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
