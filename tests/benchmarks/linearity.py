"""Measure how far Jacobians hold: `python tests/benchmarks/linearity.py FOLDER TEXT [RUNS]`.

FOLDER holds SmolLM2-135M-Instruct, TEXT is Tiny Shakespeare. Of the embedded model (its 200 samples) and of this one
(60 sentences) by component and direction, over layers the smallest and largest median over samples: of the radius, of
the error at 3 and 10 % of ‖x‖ in per cent, the worse sign; of all samples and layers the median radius, and the share
that has none.
With RUNS, the seconds of whole processes with and without too, in turns, RUNS times each, programs compiled before.
Writes `linearity.json` beside itself.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from startup import seconds

import jacspec
from jacspec.jacobians.linearity import ERROR, RADIUS
from jacspec.studies.provenance import versions

SAMPLES = 60


def measured(model: str, **given: Any) -> dict[str, Any]:
    """Run the study along every direction, and sum up what it found."""
    with tempfile.TemporaryDirectory() as folder:
        run = jacspec.run("jacobian", model, folder=Path(folder) / "run", linearity=list(RADIUS), silent=True, **given)
        dataset = run.dataset.load()
    found: dict[str, Any] = {}
    for component in dataset["component"].values.tolist():
        own = dataset.sel(component=component)
        found[component] = {name: _summary(own, name) for name in RADIUS}
    return found


def _summary(own: Any, name: str) -> dict[str, Any]:
    radius, errors = own[RADIUS[name]], own[ERROR[name]]
    medians = radius.median("sample").values
    summed: dict[str, Any] = {
        "missing": round(float(radius.isnull().mean()), 4),
        "median": _rounded(float(radius.median())) if bool(radius.notnull().any()) else None,
        "radius": _ends(medians),
    }
    for step in (0.03, 0.1):
        both = np.fmax(*(errors.sel(epsilon=sign * step, method="nearest").values for sign in (1, -1)))
        middle = [np.median(own[np.isfinite(own)]) for own in both if np.isfinite(own).any()]
        summed[f"off at {100 * step:g} %"] = _ends(100 * np.array(middle))
    return summed


def _ends(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    return {"least": _rounded(float(known.min())), "most": _rounded(float(known.max()))} if known.size else {}


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def cost(model: Path, text: Path, runs: int) -> dict[str, Any]:
    """Time the run of 60 sentences with and without, in turns."""
    given = (f"data.samples={SAMPLES}", "model=path", f"model.path={model}", f"data.path={text}")
    found: dict[str, list[float]] = {"with": [], "without": []}
    stages: dict[str, list[float]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(runs + 1):
            for name, linearity in (("with", "[top]"), ("without", "[]")):
                out = f"{name}{turn}"
                whole = seconds(*given, f"jacobian.linearity={linearity}", f"hydra.run.dir={out}", folder=folder)
                said = json.loads((Path(folder) / out / "run.json").read_text(encoding="utf-8"))["seconds"]
                if turn:  # the first compiles
                    found[name].append(whole)
                    stages[name].append(said["spectra"])
    medians = {name: statistics.median(times) for name, times in found.items()}
    spectra = {name: statistics.median(times) for name, times in stages.items()}
    added = 100 * (medians["with"] / medians["without"] - 1)
    return {"seconds": found, "median seconds": medians, "median of stage spectra": spectra, "added %": round(added, 1)}


def main() -> None:
    """Measure, and write what was found with the environment."""
    model, text = (Path(each).resolve() for each in sys.argv[1:3])
    found: dict[str, Any] = {
        "nano": measured("nano"),
        "SmolLM2-135M": measured(str(model), data=str(text), samples=SAMPLES),
        **({"cost": cost(model, text, int(sys.argv[3]))} if len(sys.argv) > 3 else {}),
        "environment": {"cpus": os.cpu_count(), "machine": platform.machine(), "versions": versions()},
    }
    record = json.dumps(found, indent=2, ensure_ascii=False)
    Path(__file__).with_suffix(".json").write_text(record + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
