"""How sensitive the loss of models at hand is to their singular values: `python tests/benchmarks/fisher.py MODEL TEXT`.

MODEL is the folder of SmolLM2-135M-Instruct, TEXT Tiny Shakespeare. Writes `fisher.json` beside itself and
`docs/images/sensitivity.png`; names of parts behind the text write those alone.

- `spectra`: medians over layers by role of the columns of `overlap.fisher=64`, with labels of the text and drawn ones,
  of the embedded model on its own verse and of SmolLM2 on sentences of TEXT; `total` is the sum over layers.
- `removal`: what the loss of the same samples becomes when a tenth of the singular values of one matrix is removed,
  beside what F says to second order.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from pages import keep
from scipy import stats
from sources import run_jacspec

from jacspec import load_model
from jacspec.backend import numerics
from jacspec.config import DataConfig
from jacspec.models.checkpoint import Checkpoint
from jacspec.report.findings import median_interval
from jacspec.scoring.perplexity import prepare_passage, score_tokens
from jacspec.scoring.windows import Passage, Window
from jacspec.studies.overlap.fisher import fisher_of_blocks, tenths
from jacspec.studies.overlap.fisher_figures import fisher_figures
from jacspec.studies.overlap.gradients import Scored, linear_at, score_samples
from jacspec.studies.provenance import versions
from jacspec.text.corpus import draw_sample, load_corpus

SAMPLES = 64
MODELS: dict[str, tuple[str, ...]] = {
    "nano": (f"data.samples={SAMPLES}",),
    "SmolLM2-135M": ("model.path={model}", "model=path", "data=text", "data.path={text}", f"data.samples={SAMPLES}"),
}
BLOCKS, PLACES = (0, 10, 20, 29), ("mlp.up", "mlp.down", "attn.q")
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "sensitivity.png"


def of_spectra(run: Any) -> dict[str, Any]:
    """Take medians over layers by role with their intervals, and sums of what removal is predicted to cost."""
    found: dict[str, Any] = {}
    for role, rows in run.metrics.groupby("role", sort=False):
        names = [name for name in rows if name.startswith(("fisher_", "sensitivity_", "crossed_", "removal_"))]
        found[str(role)] = {name: list(median_interval(rows[name].to_numpy(float))) for name in names}
        found[str(role)]["total"] = {name: float(rows[name].sum()) for name in names if name.startswith("removal_")}
    crossed = (run.metrics["sensitivity_bottom"] / run.metrics["crossed_bottom"]).to_numpy(float)
    participation = run.metrics[["fisher_participation", "fisher_participation_chance"]].median()
    return {"roles": found, "bottom over crossed": list(median_interval(crossed)), **participation.to_dict()}


def mean_nats(model: Checkpoint, scored: Scored) -> float:
    """Average the loss over samples, by the engine that scores perplexities."""
    windows = [
        Window(tokens, np.flatnonzero(weights), targets[weights > 0])
        for tokens, targets, weights in zip(scored.tokens, scored.targets, scored.weights, strict=True)
    ]
    owner = np.repeat(np.arange(len(windows)), scored.counts)
    passage = Passage(windows, owner, 0, 0)
    nats = score_tokens(model, passage, prepare_passage(model, passage, memory_bytes=2.0**30))
    return float((np.bincount(owner, nats) / scored.counts).mean())


def of_removal(folder: str, text: str) -> dict[str, Any]:
    """Remove tenths of single matrices one by one, and compare the change of the loss with both predictions."""
    model = load_model(folder)
    data = DataConfig("text", path=text, samples=SAMPLES)
    tokens = draw_sample(load_corpus(data), model.encoder, data, seed=0).tokens
    scored = score_samples(model, tokens, count=SAMPLES, seed=0)
    before = mean_nats(model, scored)
    rows: list[dict[str, Any]] = []
    predicted = {
        labels: fisher_of_blocks(model, BLOCKS, scored=scored, drawn_labels=labels == "model", memory_gib=1.0)
        for labels in ("data", "model")
    }
    for number in BLOCKS:
        for place in PLACES:
            weight = np.asarray(linear_at(model.block(number), place).weight[...], np.float64)
            left, sigma, right = np.linalg.svd(weight, full_matrices=False)
            for end, part in tenths(len(sigma)).items():
                less = jnp.asarray(weight - (left[:, part] * sigma[part]) @ right[part], jnp.float32)

                def change(own: int, block: Any, number: int = number, place: str = place, less: Any = less) -> Any:
                    if own == number:
                        linear_at(block, place).weight = nnx.Param(less)
                    return block

                change_of_loss = mean_nats(model.with_blocks(change), scored) - before
                said = {labels: own[number][place].values[f"removal_{end}"] for labels, own in predicted.items()}
                rows.append({"block": number, "place": place, "end": end, "measured": change_of_loss, **said})
    large = [row for row in rows if row["measured"] > 0.02]
    measured = np.array([row["measured"] for row in rows])
    found: dict[str, Any] = {"loss": before, "removals": len(rows), "above 0.02 nats": len(large), "rows": rows}
    for labels in ("data", "model"):
        ratios = np.log([row[labels] / row["measured"] for row in large])
        found[labels] = {
            "rank correlation": float(stats.spearmanr([row[labels] for row in rows], measured).statistic),
            "median over measured": float(np.exp(np.median(ratios))),
            "within a factor of 3": int((np.abs(ratios) < np.log(3)).sum()),
        }
    return found


def main() -> None:
    """Run the models and write what was found, part by part."""
    model, text, *parts = sys.argv[1:]
    file = Path(__file__).with_suffix(".json")
    found: dict[str, Any] = json.loads(file.read_text()) if parts else {}
    found["versions"] = versions()

    def write() -> None:
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    if "spectra" in (parts or ("spectra",)):
        with tempfile.TemporaryDirectory() as folder:
            for name, words in MODELS.items():
                for labels in ("data", "model"):
                    own = ("task=overlap", f"overlap.fisher={SAMPLES}", f"overlap.fisher_labels={labels}", *words)
                    run = run_jacspec(Path(folder) / f"{name}-{labels}", own, model=model, text=text)
                    found.setdefault("spectra", {}).setdefault(name, {})[labels] = of_spectra(run)
                    write()
                    if name != "nano" and labels == "data":
                        keep(fisher_figures(run)["sensitivity"].draw(), IMAGE)
    if "removal" in (parts or ("removal",)):
        with numerics("float32"):
            found["removal"] = of_removal(model, text)
        write()


if __name__ == "__main__":
    main()
