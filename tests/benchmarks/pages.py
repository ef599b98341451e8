"""Run what pages of `docs/` and the README show, and keep their figures and numbers.

    python tests/benchmarks/pages.py [--smollm2 FOLDER --text FILE] [NAME ...]

Each `NAME` (all of them by default) is a command as its page has it, on the embedded model; those of the README's
gallery need SmolLM2-135M-Instruct and Tiny Shakespeare. Figures go to `docs/images/`, numbers and the processor
seconds of each command, undrawn, to `pages.json` beside this file, which `tests/test_docs.py` compares with the pages.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas
from PIL import Image

import jacspec
from jacspec.api.result import Run
from jacspec.config import ASSETS
from jacspec.spectra.significance import SURE
from jacspec.spectra.subspaces import random_alignment
from jacspec.studies.heads import NULLS
from jacspec.studies.provenance import versions

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGES, RECORD = ROOT / "docs" / "images", HERE / "pages.json"
LARGEST, DPI, COLOURS = 60_000, 120, (256, 48)
Numbers = Mapping[str, float]


class Shown(NamedTuple):
    """A command, the figure of its run that is shown, and the numbers that are quoted; `after`: sweeps it reads."""

    command: str
    figure: str | None = None
    numbers: Callable[[Run], Numbers] = lambda run: {}
    after: tuple[str, ...] = ()


def medians(run: Run, metric: str) -> "pandas.Series[float]":
    """Return the medians of a metric by (component, layer)."""
    rows = run.summary[run.summary["metric"] == metric]
    return rows.set_index(["component", "layer"])["median"]


def of_coupling(run: Run) -> Numbers:
    """Sum up bounds and overlaps: those downstream, the others with and without each with itself."""
    share = medians(run, "bound_share")
    table = run.tables["coupling"]
    own = (table["write_layer"] == table["read_layer"]) & (table["write_component"] == table["read_component"])
    down = table["downstream"] == 1
    return {
        "least median of bound_share": share.min(),
        "largest median of bound_share": share.max(),
        "downstream": table[down]["mean"].mean(),
        "not downstream": table[~down & ~own]["mean"].mean(),
        "not downstream, with itself": table[~down]["mean"].mean(),
        "chance": random_alignment(run.dataset.sizes["d_model"]),
    }


def of_finetune(run: Run) -> Numbers:
    """Take accuracies over seeds, and the largest loss from any group but the first."""
    table = run.metrics
    mean = table.groupby(["order", "group"])["accuracy"].mean()
    whole = float(table[table["group"] == 0]["accuracy"].mean())
    others = mean[mean.index.get_level_values("group") > 1]
    return {
        "whole": whole,
        "after, group 1": mean["after", 1],
        "after, group 1, sd": table[(table["order"] == "after") & (table["group"] == 1)]["accuracy"].std(),
        "before, group 1": mean["before", 1],
        "largest loss of another group": whole - others.min(),
        "examples": run.provenance["corpus"]["held_out"],
    }


def of_lazy(run: Run) -> Numbers:
    """Take movement and accuracies at the smallest and the largest scale."""
    table = run.metrics
    found = {}
    for scale in (0.1, 30.0):
        rows = table[np.isclose(table["scale"], scale)]
        whole = rows[rows["order"] == "none"]
        found[f"movement at {scale:g}"] = whole["movement"].mean()
        found[f"accuracy at {scale:g}"] = whole["test_accuracy"].mean()
        for order in ("after", "both"):
            cut = rows[(rows["order"] == order) & (rows["group"] == 10)]
            found[f"accuracy at {scale:g}, group 10, {order}"] = cut["test_accuracy"].mean()
    return found


def of_dynamics(run: Run) -> Numbers:
    """Take by metric the quartiles over layers of the step by which half of its change is there, where it changes."""
    table = run.tables["onsets"]
    table = table[table["appears"] == 1]
    found: dict[str, float] = {}
    for name, component in (("stable_rank", None), ("participation_ratio", None), ("spectral_radius", "attn")):
        rows = table[(table["metric"] == name) & ((table["component"] == component) | (component is None))]
        words = f"{name}, {component}" if component else name
        for share in (0.25, 0.75):
            found[f"{words}, {share}"] = rows["onset"].quantile(share, "nearest")
    return found


def of_merge(run: Run) -> Numbers:
    """Take medians over layers and roles of task vectors beside each other and beside the base, and perplexities."""
    table = run.metrics[run.metrics["layer"] >= 0]
    tasks, base = table[table["compared"] == "tasks"], table[table["compared"] == "task-base"]
    pair = base.groupby(["first", "second"])[["left_overlap", "right_overlap"]].median()
    return {
        **{name: tasks[name].median() for name in ("left_overlap", "right_overlap", "cosine", "left_chance")},
        "least overlap with the base": pair.to_numpy().min(),
        "largest overlap with the base": pair.to_numpy().max(),
        **perplexities_of_merges(),
    }


SHARES = (0.4, 0.8, 0.95)
"""Of the nuclear norm that STAR keeps, in merges whose perplexity is quoted."""


def perplexities_of_merges() -> Numbers:
    """Measure the perplexity of the embedded text by two revisions, and by merges of both on a third."""
    merges: dict[str, dict[str, Any]] = {f"star {share}": {"method": "star", "share": share} for share in SHARES}
    merges["average"] = {"method": "average"}
    models = {"step1024": jacspec.load_model("nano", revision="step1024"), "step4096": jacspec.load_model("nano")}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, options in merges.items():
            made = jacspec.merge(
                models=["nano@step1024", "nano"], base="nano@step256", folder=f"{folder}/{name}", silent=True, **options
            )
            models[name] = jacspec.load_model(made.folder / "merged")
        for name, model in models.items():
            run = jacspec.removal(model, data=ASSETS / "verse.txt", roles=["q"], ranges=[[0, 0.01]], silent=True)
            whole = run.metrics.iloc[0]
            found |= {name: whole["perplexity"], f"{name}, error": whole["perplexity_error"]}
    return found


def of_delta(run: Run) -> Numbers:
    """Take medians over layers by role: size, structure, shifts in units of the noise, values below it, intruders."""
    table = run.metrics.assign(shift=lambda rows: rows["median_shift"] / rows["noise"])
    shown = ["relative", "structure", "shift", "below_noise", "intruders_left"]
    found = table.groupby("role")[shown].median()
    return {f"{name}, {role}": found.loc[role, name] for name in shown for role in found.index}


def of_spectral_radius(run: Run) -> Numbers:
    """Take the medians of ρ in the first layer, the last, and the range between, of MLP and attention."""
    found: dict[str, float] = {}
    for component in ("mlp", "attn"):
        values = medians(run, "spectral_radius")[component].sort_index().to_numpy()
        found |= {f"{component}, first": values[0], f"{component}, last": values[-1]}
        found |= {
            f"{component}, least between": values[1:-1].min(),
            f"{component}, largest between": values[1:-1].max(),
        }
    return found


def of_random(run: Run) -> Numbers:
    """Take the medians of ρ in layers of the random model, by component: extremes, the first and the last."""
    rows = run.metrics[run.metrics["metric"] == "spectral_radius"]
    found: dict[str, float] = {}
    for component in ("mlp", "attn"):
        values = rows[(rows["component"] == component) & (rows["run"] == 1)].sort_values("layer")["median"].to_numpy()
        found |= {f"{component}, random, least": values.min(), f"{component}, random, largest": values.max()}
        found |= {f"{component}, random, first": values[0], f"{component}, random, last": values[-1]}
    return found


def of_depth(run: Run) -> Numbers:
    """Take the exponents, and both singular values in nats a layer, after the last layer."""
    rows = run.summary[run.summary["layer"] == run.summary["layer"].max()].set_index("metric")["median"]
    return {
        "lyapunov_1": rows["lyapunov_1"],
        "spectral_radius": rows["spectral_radius"],
        "layers": len(run.dataset.layer),
    }


def of_eigenvalues(run: Run) -> Numbers:
    """Take the largest eigenvalue over the rotated ones' of the same samples, and shares, by component."""
    table = run.metrics.assign(ratio=lambda rows: rows["eigenvalue_radius"] / rows["rotated_radius"])
    names = {"ratio", "ring_share", "rotated_ring_share", "rotating_share", "henrici_departure", "kreiss_constant"}
    found: dict[str, float] = {}
    for name in sorted(names & {*table}):
        by_layer = table.groupby(["component", "layer"])[name].median().dropna()
        for component, values in by_layer.groupby(level=0):
            found |= {f"{name}, {component}, least": values.min(), f"{name}, {component}, largest": values.max()}
            found |= {f"{name}, {component}, mean": values.mean()}
    return found


def of_parts(run: Run) -> Numbers:
    """Take what the end of a path has: exponents by sublayer, growth with and without normality, effective rank."""
    last = run.metrics[run.metrics["layer"] == run.metrics["layer"].max()]
    formed = last[last["nonnormal_growth"].notna()]
    names = ("lyapunov_1", "lyapunov_attn_1", "lyapunov_mlp_1")
    of_formed = ("finite_time_1", "normal_finite_time_1", "nonnormal_growth", "cumulative_effective_rank")
    first = run.metrics[run.metrics["layer"] == run.metrics["layer"].min()]
    return {
        **{name: last[name].mean() for name in names},
        **{name: formed[name].mean() for name in of_formed},
        "cumulative_effective_rank, first layer": first["cumulative_effective_rank"].mean(),
        "share": formed["nonnormal_growth"].mean() / formed["finite_time_1"].mean(),
    }


def of_weights(run: Run) -> Numbers:
    """Count matrices beyond each null, in all and by role; median α beside that of chance.

    σ₁ is beyond chance where q over all matrices is below `SURE`; beside the one draw of `weights.against` it is above
    the draw's, as it is by chance in half of them.
    """
    table = run.metrics.assign(
        sigma=lambda rows: 10 ** (rows["log_spectral_norm"] / 2),
        heavier=lambda rows: rows["alpha"] < rows["alpha_null_low"],
    )
    found = {
        "matrices": len(table),
        "with values above the norms' edge": int((table["norms_above"] > 0).sum()),
        "median of them above": table["norms_above"].median(),
        "median alpha": table["alpha"].median(),
        "median alpha of chance": table["alpha_null"].median(),
        "alpha below chance": int(table["heavier"].sum()),
    }
    for role, rows in table.groupby("role", sort=False):
        counts = {
            "matrices": len(rows),
            "one variance": (rows["largest_q"] < SURE).sum(),
            "own norms": (rows["norms_largest_q"] < SURE).sum(),
            "draw": (rows["sigma"] > rows["null_high"]).sum(),
            "values above own norms": rows["norms_above"].median(),
            "values above draw": rows["above_null"].median(),
            "smallest, own norms": (rows["norms_smallest_q"] < SURE).sum(),
            "smallest known": rows["norms_smallest_q"].notna().sum(),
            "heavier": rows["heavier"].sum(),
        }
        found |= {f"{role}, {name}": count for name, count in counts.items()}
    return found


def of_heads(run: Run) -> Numbers:
    """Take NPR_λ over all heads beside the baseline's, and count the heads beyond each null by thirds of the depth.

    A head is beyond a null where q over all heads is below `SURE`.
    """
    found: dict[str, float] = {}
    layers = run.metrics["layer"].max() + 1
    for role, rows in run.metrics.groupby("role", sort=False):
        chance = run.provenance["baseline"]["metrics"]["npr_lambda"]
        found |= {f"{role}, heads": len(rows), f"{role}, median": rows["npr_lambda"].median()}
        found |= {f"{role}, largest": rows["npr_lambda"].max(), f"{role}, least": rows["npr_lambda"].min()}
        found |= {"chance": chance["mean"], f"{role}, median copying score": rows["copying_score"].median()}
        found |= {f"{role}, largest {name}": rows[name].max() for name in ("rounding_share", "kappa_sigma")}
        for place, first in enumerate(range(0, layers, -(-layers // 3))):
            own = rows[rows["layer"].between(first, last := min(first + -(-layers // 3), layers) - 1)]
            words = f"{role}, third {place + 1}"
            found |= {f"{words}, first layer": first, f"{words}, last layer": last, f"{words}, heads": len(own)}
            for null in NULLS:
                for end in ("largest", "smallest"):
                    found[f"{words}, {null}, {end}"] = (own[f"{null}_{end}_q"] < SURE).sum()
    return found


def of_overlap(run: Run) -> Numbers:
    """Take medians over layers by role of the overlap of the largest and the smallest tenth, and chance."""
    table = run.metrics
    found = {"chance": table["overlap_null"].median()}
    for role, rows in table.groupby("role"):
        found |= {f"{role}, top": rows["overlap_top"].median(), f"{role}, bottom": rows["overlap_bottom"].median()}
    return found


def of_removal(run: Run) -> Numbers:
    """Take the perplexity of the whole model, and the change without the first and the last group of each role."""
    table = run.metrics
    whole = table[table["group"].isna() | (table["group"] == 0)].iloc[0]
    found = {"perplexities": len(table), "perplexity": whole["perplexity"]}
    found["perplexity, error"] = whole["perplexity_error"]
    cut = table[table["delta_perplexity"].notna() & (table.index != whole.name)]
    for role, rows in cut.groupby("target"):
        changes = rows.sort_values("group")["delta_perplexity"].to_numpy()
        found |= {f"{role}, first": changes[0], f"{role}, last": changes[-1], f"{role}, least": changes.min()}
        found |= {f"{role}, largest of the others": changes[1:].max()}
        found[f"{role}, first, error"] = rows.sort_values("group")["delta_error"].iloc[0]
    return found


BLOCKS = "components=[attn,mlp,block] jacobian.eigenvalues=true jacobian.pseudospectra=2"


def of_modes(run: Run) -> Numbers:
    """Take what modes share, over components of layers: medians, extremes, chance."""
    modes, shared, between = (run.tables[name] for name in ("modes", "shared", "between"))
    first = modes[modes["mode"] == 1].set_index(["component", "layer"])
    found = {"alone": modes["n"].sum() / modes["samples"].sum(), "places": len(first)}
    for component in run.components:
        own = first.loc[component]
        for side in ("read", "write"):
            cos, error = own[f"{side}_cos"], own[f"{side}_error"]
            rows = shared[(shared["component"] == component) & (shared["side"] == side)]
            found |= {
                f"{component}, {side}, cos": cos.median(),
                f"{component}, {side}, largest cos": cos.max(),
                f"{component}, {side}, least cos": cos.min(),
                f"{component}, {side}, beyond": (cos - 1.96 * error > own[["random", "stream"]].max(axis=1)).sum(),
                f"{component}, {side}, held": rows["held"].median(),
            }
        rows = shared[(shared["component"] == component) & (shared["side"] == "read")]
        found |= {
            f"{component}, stream": own["stream"].median(),
            f"{component}, random": own["random"].median(),
            f"{component}, held by chance": rows["held_stream"].median(),
            f"{component}, mean stream over random": (own["mean_input"] / own["input_random"]).median(),
        }
        for what in ("write-read", "read-read", "write-write", "m_K"):
            rows = between[(between["component"] == component) & (between["what"] == what)]
            if what == "write-read":
                rows = rows.drop_duplicates("layer")
            found |= {f"{component}, {what}": rows["mean"].median()}
            found |= {f"{component}, {what}, other": rows["other"].median()} if what != "m_K" else {}
    return found


SHOWN: Mapping[str, Shown] = {
    "jacobian": Shown("", "spectral_radius", of_spectral_radius),
    "depth": Shown("task=depth data.samples=40", "lyapunov", of_depth),
    "eigenvalues": Shown(f"{BLOCKS} data.samples=40", "eigenvalues_block", of_eigenvalues),
    "parts": Shown("task=depth depth.dense=20 data.samples=40", None, of_parts),
    "coupling": Shown("task=coupling", "coupling", of_coupling),
    "modes": Shown("task=modes", "shared", of_modes),
    "weights": Shown("task=weights", "spectra", of_weights),
    "heads": Shown("task=heads", "by_head_qk", of_heads),
    "overlap": Shown("task=overlap data.samples=400", "overlap", of_overlap),
    "removal": Shown("task=removal", "removal", of_removal),
    "finetune": Shown("task=finetune", "accuracy", of_finetune),
    "lazy": Shown("task=lazy", "test_accuracy", of_lazy),
    "merge": Shown("task=merge", "compatibility", of_merge),
    "delta": Shown("task=delta model=path model.path=nano.gguf delta.base=nano", "changes", of_delta),
    "compare": Shown(
        "task=compare runs=controls",
        "spectral_radius",
        after=("-m model.init=pretrained,random seed=0,1 data.samples=20 hydra.sweep.dir=controls",),
    ),
    "dynamics": Shown(
        "task=dynamics runs=sweep dynamics.final_step=4096",
        "onsets",
        of_dynamics,
        after=("-m model.revision=step0,step16,step64,step256,step1024,null metrics=full hydra.sweep.dir=sweep",),
    ),
    "train": Shown("task=train train.steps=96 train.warmup=16 train.revisions=[0,16,64]", "loss"),
    "merging_thirds": Shown("source=merging_thirds", "thirds"),
    "merging_confidence": Shown("source=merging_compatibility", "confidence"),
}
SMOLLM2 = "model={model} data={text}"
GALLERY: Mapping[str, Shown] = {
    "smollm2_jacobian": Shown(f"{SMOLLM2} data.samples=60", "spectral_radius", of_spectral_radius),
    "smollm2_compare": Shown(
        "task=compare runs=controls",
        "spectral_radius",
        of_random,
        (f"-m {SMOLLM2} data.samples=20 model.init=pretrained,random hydra.sweep.dir=controls",),
    ),
    "smollm2_depth": Shown(f"task=depth {SMOLLM2} data.samples=8", "lyapunov", of_depth),
    "smollm2_eigenvalues": Shown(
        f"{SMOLLM2} components=[attn,mlp,block] jacobian.eigenvalues=true data.samples=6 layers=[0,15,29]",
        "eigenvalues_mlp",
        of_eigenvalues,
    ),
    "smollm2_modes": Shown(f"task=modes {SMOLLM2} data.samples=60", "shared", of_modes),
    "smollm2_weights": Shown("task=weights model={model} weights.against=shuffled", "spectra", of_weights),
    "smollm2_heads": Shown("task=heads model={model} heads.draws=99", "by_head_qk", of_heads),
    "smollm2_overlap": Shown(f"task=overlap {SMOLLM2} data.samples=200", "overlap", of_overlap),
    "smollm2_removal": Shown(
        f"task=removal {SMOLLM2} removal.roles=[q,down] removal.tokens=1024", "removal", of_removal
    ),
}


def run_command(command: str, folder: Path) -> float:
    """Run a command as a process of its own, undrawn, and return its processor seconds; raises where it fails."""
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "jacspec", *command.split(), "report.figures=none"]
    subprocess.run(line, cwd=folder, check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime


def keep(figure: Any, file: Path) -> None:
    """Write a figure with few colours, as large as `LARGEST` bytes allow."""
    for dpi, colours in itertools.product(range(DPI, 30, -6), COLOURS):
        drawn, small = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=dpi)
        Image.open(drawn).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        if small.tell() < LARGEST:
            break
    file.write_bytes(small.getvalue())


def show(name: str, shown: Shown, given: Mapping[str, str]) -> dict[str, Any]:
    """Run one command with those that it reads, keep its figure, and return its seconds and numbers."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "nano.gguf" in shown.command:
            sys.path.insert(0, str(HERE.parent))
            from test_delta import nano_in_four_bits

            nano_in_four_bits(folder / "nano.gguf")
        for command in shown.after:
            run_command(command.format(**given), folder)
        seconds = run_command(f"{shown.command.format(**given)} hydra.run.dir=out", folder)
        run = jacspec.open_run(folder / "out")
        if shown.figure:
            keep(run.plot(shown.figure), IMAGES / f"{name}.png")
        numbers = {key: round(float(value), 6) for key, value in shown.numbers(run).items()}
        # Neither folders of this machine nor names of its files are kept.
        command = shown.command.format(model="SMOLLM2", text="TEXT")
        return {"command": f"jacspec {command}".strip(), "processor seconds": round(seconds), "numbers": numbers}


def installed_size() -> float:
    """Return the size of all that jacspec depends on, extras apart, in GB."""
    found: dict[str, int] = {}
    waiting = ["jacspec"]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        with contextlib.suppress(PackageNotFoundError):
            if name not in found:
                files = [Path(str(file.locate())) for file in distribution(name).files or ()]
                found[name] = sum(file.stat().st_size for file in files if file.is_file())
                needed = [word for word in distribution(name).requires or () if "extra ==" not in word]
                waiting += [re.split(r"[^\w.-]", word)[0] for word in needed]
    return round(sum(found.values()) / 1e9, 1)


def main() -> None:
    """Run what was asked for and add it to the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    given = {"model": str((asked.smollm2 or Path()).resolve()), "text": str((asked.text or Path()).resolve())}
    known = {**SHOWN, **(GALLERY if asked.smollm2 else {})}
    for name in asked.names or known:
        found = show(name, known[name], given)
        record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
        record[name] = found
        print(name, record[name], flush=True)
        record["environment"] = {"cpus": os.cpu_count(), "machine": platform.machine(), "versions": versions()}
        record["installed, GB"] = installed_size()
        RECORD.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
