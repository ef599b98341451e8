"""What the claims of the sources are on models at hand: `python tests/benchmarks/sources.py SMOLLM2_FOLDER TEXT`.

Writes `sources.json` beside itself, from runs of the command line; `jacobian`, `phases`, `ranks`, `w_qk`, `small`,
`spectra`, `overlaps`, `steps`, `model`, `appendix`, `control` or `walk` behind the text writes that part alone. Of
"Analyzing Spectral Information of Transformers" (`jacobian`), on 300 sentences of TEXT (Tiny Shakespeare), the embedded
model, trained and at random, and SmolLM2-135M-Instruct:

- how many times the gain ρ of the middle third of the layers the first and the last third have (its U, Figure 2);
- how many times δ of the MLP that of attention is, where attention is to be more concentrated (Figure 3), and in how
  many layers it is smaller, an interval of 95 % apart;
- the range of the medians of ρ over the inner layers (15 to 45 in GPT-2, it says).

A ratio is a geometric mean over samples with Student's interval of 95 %.

Of the same paper (`phases`), on 40 sentences: the tables over depth that a run writes itself (U, phases with their
levels of chance, attention beside the MLP by layer), and how near tokens and attention are to rank one, by layer.
Of the same paper (`ranks`), on a few sentences in float64: condition numbers with and without the last value, how far
that value's direction is the stream's, ranks, and shares of directions amplified and
deleted.

Of the study of per-head W_QK spectra (`w_qk`), on the heads of both models: participation and condition numbers beside
chance, gaps, powers of the elements' standard deviation, the elements' kurtosis beside that of both factors, and rank
correlations, over heads with intervals of 95 % that draw whole layers, over layers with p-values.

Of "Small Singular Values Matter" (`small`), perplexity on 768 tokens of TEXT without the largest, a middle and the
smallest decile of each role, each over the whole model's, and the smallest over the middle, paired over 12 chunks;
(`spectra`, its Figures 1 and 2) how far queries, values and attention output lie beyond Marchenko–Pastur; (`overlaps`,
Figures 3 and 4) whether O_k is higher beyond its edges than within, on 300 sentences; (`steps`, Figure 5) O_k through
the training of the embedded model, on its verse; and (`model`), on 500 sentences, what a linear model of learned noise
gives for the matrices of each role. Of its appendix (`appendix`), the test accuracy of its networks on generated
points, by what is removed, and (`control`) of the small network of `source=small_figure_8`.

Of the walk-through (`walk`), what ten components of each weight matrix hold, and how many hold nine tenths; its metrics
of a Gaussian matrix of the shape of GPT-2's c_attn.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jacspec import jacobian, load_model, open_run
from jacspec.report.beyond import overlaps_beyond
from jacspec.report.findings import median_interval, ratio_interval
from jacspec.spectra.significance import SURE
from jacspec.studies.provenance import versions
from jacspec.studies.removal.findings import perplexity_ratio

SAMPLES = 300
COLLAPSE = ("token_stable_rank", "rank_one_distance", "rank_one_distance_composite", "attention_stable_rank")
WITH_RANKS = ("data.samples=40", "jacobian.collapse=true", "jacobian.linearity=[]")
MODELS: dict[str, tuple[str, ...]] = {"nano": (), "SmolLM2-135M": ("model.path={model}", "model=path")}
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


def of_depth(run: Any) -> dict[str, Any]:
    """Take the tables over depth, three phases, and the medians of the tokens' and attention's ranks by layer."""
    found: dict[str, Any] = {"samples": len(run.samples)}
    depth, branches = run.tables["depth"], run.tables["branches"]
    for row in depth[depth["phases"] == 3].to_dict("records"):
        found[row.pop("component")] = row
    ratios = branches[branches["metric"] == "decay_ratio"]
    sure = ratios["q_value"] < SURE
    found["layers"] = len(ratios)
    found["layers where attention is more concentrated"] = int((sure & (ratios["ratio"] > 1)).sum())
    found["layers where the MLP is more concentrated"] = int((sure & (ratios["ratio"] < 1)).sum())
    own = run.metrics[run.metrics["component"] == "attn"].groupby("layer")[[*COLLAPSE]].median()
    found["medians by layer"] = {name: own[name].tolist() for name in COLLAPSE}
    return found


RANKS = (
    *("precision=float64", "jacobian.linearity=[]"),
    "metrics.names=[condition_number,numerical_rank,share_amplified,share_deleted]",
)
FEW = {
    "nano": ("data.samples=12",),
    "nano, random": ("data.samples=12",),
    "SmolLM2-135M": ("data.samples=8", "layers=[0,1,10,20,28,29]"),
}


def of_ranks(run: Any) -> dict[str, Any]:
    """Take by component medians over samples, the least and the most over layers."""
    found: dict[str, Any] = {"samples": len(run.samples), "layers": run.dataset["layer"].values.tolist()}
    for component in ("attn", "mlp"):
        own = run.dataset.sel(component=component)
        sigma, rank = own["singular_values"].values, own["numerical_rank"].values.astype(int)[..., None]
        before = np.take_along_axis(sigma, rank - 2, -1)[..., 0]
        by_sample = {
            "condition number": own["condition_number"].values,
            "condition number without the last value": sigma[..., 0] / before,
            "rank": rank[..., 0],
            "share amplified": own["share_amplified"].values,
            "share deleted": own["share_deleted"].values,
        }
        at = own["singular_values"].dims.index("sample")
        medians = {name: np.median(values, axis=at) for name, values in by_sample.items()}
        found[component] = {name: [float(each.min()), float(each.max())] for name, each in medians.items()}
        cosines = np.median(last_cosines(run, component), axis=0)
        found[component]["cosine of the last direction with the stream"] = [float(cosines.min()), float(cosines.max())]
    found["d_model"] = int(sigma.shape[-1])
    return found


def last_cosines(run: Any, component: str, samples: int = 5) -> np.ndarray:
    """Take |cos| of the right vector of σ_r with what of the stream is in the row space, a row a sample."""
    given = run.provenance["config"]["model"]
    model = load_model(given["path"] or "nano", init=given["init"], precision="float64")

    def cosine(text: str, layer: int) -> float:
        operator = jacobian(model, text, layer=layer, component=component)
        _, sigma, rows = np.linalg.svd(operator.dense())
        coordinates = rows[sigma > sigma[0] * sigma.size * np.finfo(float).eps] @ operator.x
        return float(abs(coordinates[-1]) / np.linalg.norm(coordinates))

    layers = run.dataset["layer"].values.tolist()
    return np.array([[cosine(text, layer) for layer in layers] for text in run.samples["text"][:samples]])


def of_heads(run: Any) -> dict[str, Any]:
    """Measure the claims on W_QK of all heads."""
    table = run.metrics[run.metrics["role"] == "qk"]
    chance = run.provenance["baseline"]["metrics"]
    found: dict[str, Any] = {"heads": len(table), "median": {}, "chance": {}}
    for name in ("npr_lambda", "spectral_entropy", "kappa_lambda", "kappa_sigma"):
        found["median"][name] = float(table[name].median())
        found["chance"][name] = chance[name]["mean"]
    level = chance["npr_lambda"]
    found["heads with npr within 3 sd of chance"] = int(
        (abs(table["npr_lambda"] - level["mean"]) < 3 * level["sd"]).sum()
    )
    found["heads whose gap is closed"] = int(table["gap_closed"].sum())
    logs = np.log(table[["element_std", "lambda_0", "lambda_sum", "lambda_square_sum"]].to_numpy(float))
    lines = {
        name: stats.linregress(logs[:, 0], logs[:, place])
        for place, name in enumerate(("lambda_0", "lambda_sum", "lambda_square_sum"), 1)
    }
    found["power of element_std"] = {name: [float(line.slope), float(line.rvalue**2)] for name, line in lines.items()}
    head_dim = run.dataset.sizes["k"]
    table = table.assign(kurtosis_beyond=table["element_kurtosis"] * table["npr_lambda"] * head_dim / 6)
    found["rank correlation"] = {f"{one}, {other}": _correlate(table, one, other) for one, other in PAIRS}
    found["kurtosis"] = _kurtosis(table, head_dim)
    means = table.groupby("layer")[["lambda_0", "npr_lambda", "spectral_entropy", "kappa_lambda"]].mean()
    half = len(means) // 2
    found["lambda_0 of layers"] = {
        "first over median": float(means["lambda_0"].iloc[0] / means["lambda_0"].median()),
        "largest of the first layer": float(table["lambda_0"][table["layer"] == 0].max()),
        "rises": int((means["lambda_0"].diff() > 0).sum()),
        "rank correlation with the layer, first half": _trend(means["lambda_0"][:half]),
        "rank correlation with the layer, second half": _trend(means["lambda_0"][half:]),
    }
    of_one = int((table["layer"] == 0).sum())
    least = table.nsmallest(of_one, "npr_lambda")["layer"]
    found["layers"] = {
        "number": len(means),
        "heads of one": of_one,
        "heads of the first among as many with the lowest npr": int((least == 0).sum()),
        "layer of the lowest entropy": int(means["spectral_entropy"].idxmin()),
        "layer of the highest entropy": int(means["spectral_entropy"].idxmax()),
        "rank correlation of entropy": _trend(means["spectral_entropy"]),
        "rank correlation of npr": _trend(means["npr_lambda"]),
        "rank correlation of kappa": _trend(means["kappa_lambda"]),
    }
    found["median of sigma above gaussian factors"] = float(table["plain_above"].median())
    found["median of element_std"] = float(table["element_std"].median())
    return found


def _kurtosis(table: Any, head_dim: int) -> dict[str, Any]:
    """Take the excess kurtosis of the products' elements, of both factors, and of independent ones as heavy as these.

    An element of the product is a sum of `head_dim` products: of independent elements these have an excess of
    (3 + k)(3 + k') − 3, and their sum that over `head_dim`. With the head's own spectrum and Gaussian singular vectors
    an element is normal given one of both sides, of variance Σ λ u², so that its excess is 6 Σλ² / (Σλ)².
    """
    product, left, right = (table[f"{name}_kurtosis"].to_numpy(float) for name in ("element", "left", "right"))
    turned = 6 / (table["npr_lambda"].to_numpy(float) * head_dim)
    independent = ((3 + left) * (3 + right) - 3) / head_dim
    return {
        "median": {
            "product": float(np.median(product)),
            "left": float(np.median(left)),
            "right": float(np.median(right)),
            "independent": float(np.median(independent)),
            "Gaussian vectors": float(np.median(turned)),
        },
        "heads above both factors": int((product > np.maximum(left, right)).sum()),
        "heads above independent elements": int((product > independent).sum()),
        "heads above Gaussian vectors": int((product > turned).sum()),
    }


PAIRS = (
    ("npr_lambda", "spectral_entropy"),
    ("element_std", "spectral_entropy"),
    ("element_std", "npr_lambda"),
    ("element_std", "kappa_lambda"),
    ("element_kurtosis", "npr_lambda"),
    ("element_kurtosis", "lambda_0"),
    ("kurtosis_beyond", "npr_lambda"),
)


def _correlate(table: Any, one: str, other: str, draws: int = 999) -> list[float]:
    """Correlate the ranks of two columns over heads; with the interval of 95 % of layers drawn with replacement."""
    layers = [own[[one, other]].to_numpy(float) for _, own in table.groupby("layer")]
    rng = np.random.default_rng(0)
    drawn = [
        stats.spearmanr(np.concatenate([layers[place] for place in rng.integers(len(layers), size=len(layers))]))
        for _ in range(draws)
    ]
    low, high = np.quantile([each.statistic for each in drawn], (0.025, 0.975))
    return [float(stats.spearmanr(table[one], table[other]).statistic), float(low), float(high)]


def _trend(values: Any) -> list[float]:
    """Correlate the ranks of values with their places; returns the correlation and its p-value over their orders."""
    places = np.arange(len(values))
    found = stats.permutation_test(
        (np.asarray(values, float),),
        lambda order: stats.spearmanr(places, order).statistic,
        permutation_type="pairings",
        rng=0,
    )
    return [float(found.statistic), float(found.pvalue)]


APPENDIX: dict[str, tuple[str, ...]] = {
    "figure 8": ("source=small_appendix",),
    "trained": ("source=small_frozen",),
    "frozen": ("source=small_frozen", "lazy.frozen=2"),
}


def of_appendix(run: Any) -> dict[str, Any]:
    """Take the test accuracy by scale and group removed (0: none), the mean and the spread over seeds."""
    by_group = run.metrics.groupby(["scale", "group"])["test_accuracy"]
    found: dict[str, Any] = {"seeds": int(run.metrics["seed"].nunique())}
    for (scale, group), values in by_group:
        found.setdefault(f"{scale:g}", {})[str(group)] = [float(values.mean()), float(values.std(ddof=1))]
    return found


CONTROL: dict[str, tuple[str, ...]] = {"figure 8": ("source=small_figure_8",)}


def of_control(run: Any) -> dict[str, Any]:
    """Take the same of the small network, by when it is removed too."""
    by_order = run.metrics.groupby("order", sort=False)["seed"].nunique()
    found: dict[str, Any] = {"seeds": int(by_order.min())}
    for (order, scale, group), rows in run.metrics.groupby(["order", "scale", "group"], sort=False):
        values = rows["test_accuracy"]
        own = found.setdefault(order, {}).setdefault(f"{scale:g}", {})
        own[str(group)] = [float(values.mean()), float(values.std(ddof=1))]
    return found


DECILES = ("largest", "middle", "smallest")
REMOVED = (
    *("task=removal", "data=text", "data.path={text}", "removal.tokens=768", "removal.window=128", "removal.stride=64"),
    "removal.ranges=[[0,0.1],[0.4,0.5],[0.9,1]]",
)


def of_removal(run: Any) -> dict[str, Any]:
    """Measure what each role loses without a decile."""
    nats = run.dataset["chunk_nats"]
    whole, tokens = (run.dataset[f"chunk_{name}"].sel(target="none", group=0).values for name in ("nats", "tokens"))
    found: dict[str, Any] = {"tokens": run.provenance["scored"]["tokens"], "chunks": run.provenance["scored"]["chunks"]}
    found["perplexity"] = float(run.metrics["perplexity"].iloc[0])
    for target in dict.fromkeys(run.metrics["target"][1:]):
        own = [nats.sel(target=target, group=group).values for group in range(1, len(DECILES) + 1)]
        found[target] = {
            f"{name} over whole": list(perplexity_ratio(each, whole, tokens).interval)
            for name, each in zip(DECILES, own, strict=True)
        }
        found[target]["smallest over middle"] = list(perplexity_ratio(own[2], own[1], tokens).interval)
    return found


WITH_MODEL = ("task=overlap", "data=text", "data.path={text}", "data.samples=500", "data.min_tokens=5",
              "overlap.linear_model=true")  # fmt: skip
AT_MEDIAN = (
    *("energy_exponent", "small_output", "small_output_model", "small_output_given", "small_output_chance"),
    *("small_strong", "small_strong_model", "distance_plain", "distance_model", "distance_chance"),
)


def of_model(run: Any) -> dict[str, Any]:
    """Take by role medians over layers, found and of the linear model, and sums of what is below the edge."""
    known = run.metrics.dropna(subset=["distance_model"])
    found: dict[str, Any] = {"tokens": float(run.metrics["tokens"].max()), "matrices": len(known)}
    for role, rows in known.groupby("role", sort=False):
        own: dict[str, Any] = {name: list(median_interval(rows[name].to_numpy(float))) for name in AT_MEDIAN}
        own["exponents above 0"] = int((rows["energy_exponent_low"] > 0).sum())
        own["exponents below 0"] = int((rows["energy_exponent_high"] < 0).sum())
        own["model nearer"] = int((rows["distance_model"] < rows["distance_plain"]).sum())
        own |= {name: float(rows[name].sum()) for name in ("below_found", "below_model", "below_given")}
        own["rank correlation, found and given"] = list(
            map(float, stats.spearmanr(rows["small_output"], rows["small_output_given"]))
        )
        found[str(role)] = own | {"matrices": len(rows)}
    return found


WALK = ("variance_top_k", "components_for_90", "sigma_participation_ratio", "condition_number")
C_ATTN = (768, 2304)


def of_walk(run: Any) -> dict[str, Any]:
    """Take what the ten largest components hold, by role, and how many matrices need a tenth of theirs for 90 %."""
    table = run.metrics
    share = table["components_for_90"] / table[["rows", "cols"]].min(axis=1)
    medians = table.groupby("role")["variance_top_k"].median()
    return {
        "matrices": len(table),
        "ten components hold, medians by role": {str(role): float(value) for role, value in medians.items()},
        "share of components for 90 %, least and most": [float(share.min()), float(share.max())],
        "matrices with 90 % in a tenth": int((share <= 0.1).sum()),
    }


def gaussian_walk() -> dict[str, float]:
    """Measure the walk-through's numbers of a Gaussian matrix of the shape of GPT-2's c_attn."""
    sigma = np.linalg.svd(np.random.default_rng(0).normal(size=C_ATTN), compute_uv=False)
    held = np.cumsum(sigma**2) / np.sum(sigma**2)
    return {
        "participation": float(sigma.sum() ** 2 / np.sum(sigma**2)),
        "condition number": float(sigma[0] / sigma[-1]),
        "ten components hold, %": float(100 * held[9]),
        "components for 90 %": float(1 + (held < 0.9).sum()),
    }


SPECTRA: dict[str, tuple[str, ...]] = {"nano, step 256": ("model.revision=step256",), **MODELS}
WITH_SPECTRA = ("task=weights", "weights.include=[q,v,o]", "weights.against=none")


def of_spectra(run: Any) -> dict[str, Any]:
    """Take by role the median σ₁ over the edge and the values beyond own norms, with its trend, and compare roles."""
    table = run.metrics.assign(ratio=run.metrics["spectral_radius"] / run.metrics["mp_high"])
    found: dict[str, Any] = {}
    by_role = {role: rows.set_index("layer") for role, rows in table.groupby("role", sort=False)}
    for role, rows in by_role.items():
        trend = stats.kendalltau(rows.index, rows["norms_above"])
        found[role] = {
            "largest over the edge": list(median_interval(rows["ratio"].to_numpy(float))),
            "values beyond own norms": list(median_interval(rows["norms_above"].to_numpy(float))),
            "trend of these with the layer": [float(trend.statistic), float(trend.pvalue)],
        }
    for one, other in (("q", "o"), ("v", "o")):
        larger = {name: by_role[one][column] > by_role[other][column] for name, column in
                  (("larger over the edge", "ratio"), ("more beyond own norms", "norms_above"))}  # fmt: skip
        found[f"{one} than {other}"] = {name: int(each.sum()) for name, each in larger.items()}
    return found | {"layers": int(table["layer"].nunique())}


OVERLAPS: dict[str, tuple[str, ...]] = {
    "nano": (),
    "SmolLM2-135M": (*MODELS["SmolLM2-135M"], "layers=[5,10,15]"),
}
HALF = 0.5
"""The overlap that the paper calls substantial."""


def of_overlaps(run: Any) -> dict[str, Any]:
    """Count by role the matrices in which O_k is higher beyond the edges than within, and O_k above one half."""
    table, sigma, overlap = run.metrics, *(run.dataset[name].values for name in ("singular_values", "overlap"))
    low, high = (table[name].to_numpy(float) for name in ("mp_low", "mp_high"))
    beyond = overlaps_beyond(sigma, overlap, low, high)
    regimes = {"above": sigma > high[:, None], "below": sigma < low[:, None]}
    regimes["within"] = np.isfinite(sigma) & ~regimes["above"] & ~regimes["below"]
    found: dict[str, Any] = {"tokens": float(table["tokens"].max())}
    for role in dict.fromkeys(table["role"]):
        mine = np.flatnonzero(table["role"] == role)
        own = beyond[beyond["matrix"].isin(mine)]
        found[role] = {"matrices": len(mine)}
        for side, regime in regimes.items():
            rows, values = own[own["side"] == side], overlap[mine][regime[mine]]
            found[role][side] = {"values": values.size, "over one half": int((values > HALF).sum())}
            found[role][side]["mean"] = float(values.mean()) if values.size else None
            found[role][side] |= {"matrices": len(rows), "higher": int((rows["q_value"] < SURE).sum())}
    return found


STEPS: dict[str, tuple[str, ...]] = {
    **{step: (f"model.revision={step}",) for step in ("step0", "step16", "step64", "step256", "step1024")},
    "step4096": (),
}
THROUGH_TRAINING = ("task=overlap", "layers=[1,5]", "data.samples=400")


def of_step(run: Any) -> dict[str, Any]:
    """Take by role the mean O_k of both ends and what chance has, means over layers."""
    names = ["overlap_top", "overlap_bottom", "overlap_null"]
    rows = run.metrics.groupby("role", sort=False)[names].mean()
    return {str(role): {str(name): float(value) for name, value in own.items()} for role, own in rows.iterrows()}


def run_jacspec(place: Path, words: Sequence[str], **given: str) -> Any:
    """Run the command line, in the folder above `place`, and open what it wrote."""
    subprocess.run(
        [sys.executable, "-m", "jacspec", *(word.format(**given) for word in words), "report.figures=none",
         f"hydra.run.dir={place}"],
        check=True, cwd=place.parent,
    )  # fmt: skip
    return open_run(place)


def main() -> None:
    """Run the models and write what was found."""
    model, text, *parts = sys.argv[1:]
    file = Path(__file__).with_suffix(".json")
    written: dict[str, Any] = json.loads(file.read_text()) if parts else {}
    written["versions"] = versions()
    sentences = ("data=text", "data.path={text}", f"data.samples={SAMPLES}", "data.min_tokens=5")
    with tempfile.TemporaryDirectory() as folder:
        for part, (runs, added, measure) in {
            "jacobian": (RUNS, sentences, claims),
            "phases": (RUNS, (*sentences, *WITH_RANKS), of_depth),
            "ranks": ({name: (*words, *FEW[name]) for name, words in RUNS.items()}, (*sentences, *RANKS), of_ranks),
            "w_qk": (MODELS, ("task=heads",), of_heads),
            "small": (MODELS, REMOVED, of_removal),
            "spectra": (SPECTRA, WITH_SPECTRA, of_spectra),
            "overlaps": (OVERLAPS, ("task=overlap", *sentences), of_overlaps),
            "steps": (STEPS, THROUGH_TRAINING, of_step),
            "model": (MODELS, WITH_MODEL, of_model),
            "appendix": (APPENDIX, (), of_appendix),
            "control": (CONTROL, (), of_control),
            "walk": (MODELS, ("task=weights", "weights.against=none", f"metrics.names=[{','.join(WALK)}]"), of_walk),
        }.items():
            for name, words in runs.items() if part in (parts or (part,)) else ():
                place = Path(folder) / part / name.replace(" ", "")
                place.parent.mkdir(exist_ok=True)
                found = run_jacspec(place, (*added, *words), model=model, text=text)
                written.setdefault(part, {})[name] = measure(found)
                file.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    if "walk" in (parts or ("walk",)):
        written["walk"]["Gaussian of c_attn's shape"] = gaussian_walk()
        file.write_text(json.dumps(written, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
