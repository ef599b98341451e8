"""What the claims of the document on merging, and eigenvalues of the walk-through, are on models at hand.

`python tests/benchmarks/merging.py SMOLLM2_FOLDER TEXT` writes `merging.json` beside itself, from runs of the command
line; names of parts behind the text write those alone:

- of the weights of the embedded model and of SmolLM2-135M-Instruct: α and effective rank in thirds of the depth,
  verdicts on α, the mixture of bulk and tail, the whole model's quality, eigenvalues of square matrices (`weights`);
- through the training of the embedded model, by step: values beyond chance, the tail's weight (`training`);
- two steps of that beside each other by ModelCypher's rules (`merge`);
- the intrinsic dimension of what enters the matrices of some layers on 150 sentences of TEXT (`inputs`).
"""

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sources import run_jacspec

from jacspec.studies.provenance import versions
from jacspec.studies.weights.depth import FUSED, check_depth
from jacspec.studies.weights.verdicts import HEAVIER

MODELS: dict[str, tuple[str, ...]] = {"nano": (), "SmolLM2-135M": ("model.path={model}", "model=path")}
LAYERS = {"nano": "[0,2,5]", "SmolLM2-135M": "[0,14,29]"}
WORDS = ("task=weights", "metrics.names=[spectral_radius,effective_rank]")
EXTRA = "weights.extra=[tail_weight,tail_alpha,eigenvalues]"
STEPS = ("step0", "step64", "step256", "step1024", "last")
PLANE = (
    *("ring_share", "rotated_ring_share", "positive_share", "rotating_share", "rotated_rotating_share"),
    *("henrici_departure", "rotated_departure"),
)


def of_weights(run: Any) -> dict[str, Any]:
    """Measure the claims on all matrices of a model, fused ones by their parts."""
    table = run.metrics[~run.metrics["role"].isin(FUSED)]
    found: dict[str, Any] = {"matrices": len(table), "thirds": {}}
    for column in ("alpha", "effective_rank"):
        check = check_depth(table, column)
        assert check is not None
        found["thirds"][column] = check._asdict() | {"fall": list(check.fall)}
    found["median alpha by chance"] = float(table["alpha_null"].median())
    verdicts = table["verdict"].dropna()
    found["verdicts"] = {str(name): int(count) for name, count in verdicts.value_counts().items()}
    found["heavier than by chance"] = int(verdicts.str.endswith(HEAVIER).sum())
    found["tail"] = {
        "matrices with a tail": int((table["tail_weight"] > 0).sum()),
        "median weight": float(table["tail_weight"].median()),
        "median exponent": float(table["tail_alpha"].median()),
        "exponents": int(table["tail_alpha"].notna().sum()),
    }
    names = ("alpha", "alpha_null", "alpha_weighted", "alpha_weighted_null", "log_spectral_norm")
    found["mean"] = {name: float(table[name].mean()) for name in names}
    squares = table.dropna(subset=["ring_share"])
    radius = squares["eigenvalue_radius"] / squares["spectral_radius"]
    chance = squares["rotated_radius"] / squares["spectral_radius"]
    found["eigenvalues"] = {
        role: {
            "matrices": len(own),
            "radius over norm": float(radius[own.index].median()),
            "rotated radius over norm": float(chance[own.index].median()),
            **{name: float(own[name].median()) for name in PLANE},
        }
        for role, own in squares.groupby("role", sort=False)
    }
    return found


def of_training(run: Any) -> dict[str, Any]:
    """Measure how far the spectra of one step are from Marchenko and Pastur's."""
    table = run.metrics[~run.metrics["role"].isin(FUSED)]
    return {
        "matrices": len(table),
        "values above the bulk": float(table["outliers_above"].mean()),
        "values above their norms": float(table["norms_above"].mean()),
        "largest beyond chance": int((table["largest_p"] < 0.01).sum()),
        "median tail weight": float(table["tail_weight"].median()),
        "median alpha": float(table["alpha"].median()),
        "median alpha by chance": float(table["alpha_null"].median()),
    }


def of_merge(run: Any) -> dict[str, Any]:
    """Count what ModelCypher's rules flag of two models' matrices, and how many of these chance explains.

    Fused matrices count by their parts.
    """
    table = run.metrics[(run.metrics["compared"] == "weights") & ~run.metrics["role"].isin(FUSED)]
    ill = table["condition_second"] > 100
    return {
        "matrices": len(table),
        "mismatch": int((table["confidence"] < 0.5).sum()),
        "ill-conditioned": int(ill.sum()),
        "as by chance": int((ill & (table["condition_second"] <= table["condition_chance"])).sum()),
        "ill-conditioned by ten values": int((table["leading_condition_second"] > 100).sum()),
        "median confidence": float(table["confidence"].median()),
        "share of the second": [float(np.min(table["share_second"])), float(np.max(table["share_second"]))],
    }


def of_inputs(run: Any) -> dict[str, Any]:
    """Collect the intrinsic dimension of what enters, by layer and role, with that of Gaussian points."""
    table = run.metrics
    columns = ("input_dimension", "input_dimension_low", "input_dimension_high", "gaussian_dimension")
    shown = table[table["role"].isin(("q", "o", "up", "down"))]
    return {
        f"{row.role} of layer {row.layer:.0f}": [
            *(float(getattr(row, name)) for name in columns),
            int(row.input_points),
        ]
        for row in shown.itertuples()
    }


def _known(value: Any) -> Any:
    """Put null for numbers that are missing, which JSON has not."""
    if isinstance(value, Mapping):
        return {key: _known(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(own) for own in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main() -> None:
    """Run the models and write what was found, part by part."""
    model, text, *parts = sys.argv[1:]
    file = Path(__file__).with_suffix(".json")
    found: dict[str, Any] = json.loads(file.read_text()) if parts else {}
    found["versions"] = versions()
    steps = {step: () if step == "last" else (f"model.revision={step}",) for step in STEPS}
    points = ("task=overlap", "data=text", "data.path={text}", "data.samples=150", "overlap.points=1000")
    jobs: dict[str, tuple[Mapping[str, tuple[str, ...]], tuple[str, ...], Callable[[Any], dict[str, Any]]]] = {
        "weights": (MODELS, (*WORDS, EXTRA), of_weights),
        "training": (steps, (*WORDS, "weights.extra=[tail_weight]"), of_training),
        "merge": ({"steps": ()}, ("task=merge", "merge.base=null", "merge.method=none"), of_merge),
        "inputs": (
            {
                "nano": (*MODELS["nano"], "layers=[0,2,5]"),
                "SmolLM2-135M": (*MODELS["SmolLM2-135M"], "layers=[0,14,29]"),
            },
            points,
            of_inputs,
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        for part, (runs, words, measure) in jobs.items():
            for name, own in runs.items() if part in (parts or (part,)) else ():
                run = run_jacspec(Path(folder) / f"{part}-{name}", (*words, *own), model=model, text=text)
                found.setdefault(part, {})[name] = measure(run)
                file.write_text(json.dumps(_known(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
