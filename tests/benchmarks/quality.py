"""Which metrics go with the quality of a few models: `python tests/benchmarks/quality.py TEXT FOLDER [FOLDER ...]`.

The models are the six revisions of the embedded one and those of the folders, as stories260K and SmolLM2-135M-Instruct;
TEXT is Tiny Shakespeare, of which the end is scored, that the embedded model was not trained on. Writes `quality.json`
beside itself, which docs/compare.md quotes, and its figure.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pages import IMAGES, keep

import jacspec
from jacspec.spectra.significance import SURE
from jacspec.studies.compare.quality_figures import leading_metrics

REVISIONS = ("step0", "step16", "step64", "step256", "step1024", None)
CHARACTERS = 4096


def main() -> None:
    """Compare the weights of all models with how they predict the text."""
    text, *folders = sys.argv[1:]
    runs = [jacspec.weights("nano", revision=revision) for revision in REVISIONS]
    runs += [jacspec.weights(folder) for folder in folders]
    with tempfile.TemporaryDirectory() as folder:
        end = Path(folder) / "end_of_tinyshakespeare.txt"
        end.write_text(Path(text).read_text(encoding="utf-8")[-CHARACTERS:], encoding="utf-8")
        run = jacspec.compare(runs, data=end, quality="text", folder=f"{folder}/run")
        quality, table = run.tables["quality"], run.tables["correlations"]
        models = quality.set_index("label")[["quality", "perplexity", "parameters"]].to_dict("index")
        tested = table[table["rank_q"].notna()]
        record: dict[str, Any] = {
            "models": models,
            "tested": len(tested),
            "with quality": int((tested["rank_q"] < SURE).sum()),
            "tested given size": int(table["given_q"].notna().sum()),
            "given size": int((table["given_q"] < SURE).sum()),
            "leading": leading_metrics(run).head(3).drop(columns="missing").set_index("metric").to_dict("index"),
            "warning": run.provenance["warning"],
        }
        keep(run.figures["quality"](), IMAGES / "quality.png")
    file = Path(__file__).with_suffix(".json")
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False, default=float) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
