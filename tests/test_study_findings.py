"""What each study's page says first: right on planted numbers, and no more often than at its level where none are."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas
import pytest
from scipy import stats

from jacspec.runs import Run
from jacspec.studies import STUDIES
from jacspec.studies.delta.findings import noise_p_value
from jacspec.studies.merge.findings import merge_findings
from jacspec.studies.removal.findings import perplexity_ratio
from jacspec.studies.study import load

Rng = np.random.Generator
LAYERS, SAMPLES, SEEDS, NULL_RUNS = 6, 20, 3, 20


class Case(NamedTuple):
    """A study: what makes its run, planted or not; what is said of the planted, and which words claim something."""

    make: Callable[[Path, Rng, bool], Run]
    said: tuple[str, ...]
    claims: str


def put(
    folder: Path,
    task: str,
    rows: Any,
    facts: Mapping[str, Any] = {},
    tables: Mapping[str, Any] = {},
    dataset: Any = None,
) -> Run:
    """Make a run in memory; further tables are written."""
    run, metrics = Run(folder), pandas.DataFrame(rows)
    keys = {"layer", "component", "sample", "role", "head", "name", "rows", "cols", "order", "group", "seed", "scale"}
    keys |= {"target", "compared", "first", "second", "step"}
    names = [name for name in metrics if name not in keys]
    vars(run).update(metrics=metrics, dataset=dataset, provenance={"task": task, "metrics": names, **facts})
    for name, table in tables.items():
        pandas.DataFrame(table).to_csv(folder / name, index=False)
    return run


def heads(folder: Path, rng: Rng, planted: bool) -> Run:
    rows = [
        {"layer": layer, "role": role, "head": head, "name": f"block {layer} head {head} {role}",
         "npr_lambda": rng.normal(0.8, 0.02) - 0.1 * layer * (planted and role == "qk")}
        for layer in range(LAYERS) for role in ("qk", "ov") for head in range(4)
    ]  # fmt: skip
    return put(folder, "heads", rows, {"baseline": {"draws": 32, "metrics": {"npr_lambda": {"mean": 0.8, "sd": 0.02}}}})


def over_samples(folder: Path, task: str, columns: Mapping[tuple[str, int, str], np.ndarray], **more: Any) -> Run:
    """Make a run over samples, given values by component, layer and metric."""
    rows: dict[tuple[str, int, int], dict[str, Any]] = {}
    for (component, layer, metric), values in columns.items():
        for sample, value in enumerate(values):
            key = {"layer": layer, "component": component, "sample": sample}
            rows.setdefault((component, layer, sample), key)[metric] = value
    return put(folder, task, list(rows.values()), **more)


def coupling(folder: Path, rng: Rng, planted: bool) -> Run:
    d_model = 64

    def direction() -> float:
        vector = rng.normal(size=d_model)
        return float(abs(vector[0]) / np.linalg.norm(vector))

    columns: dict[tuple[str, int, str], np.ndarray] = {}
    for layer in range(LAYERS):
        share = rng.lognormal(-1 - 0.5 * planted * layer, 0.1, SAMPLES)
        columns["mlp", layer, "bound_share"] = share
        columns["mlp", layer, "write_alignment"] = np.full(SAMPLES, 0.9 if planted else direction())
    pairs = [
        {"write_layer": write, "write_component": "mlp", "read_layer": read, "read_component": "mlp",
         "downstream": int(read > write), "standard_error": 1e-3,
         "mean": 0.7 if planted and (write, read) == (1, 4) else 0.5 if planted and read > write else direction()}
        for write in range(LAYERS) for read in range(LAYERS)
    ]  # fmt: skip
    sizes = SimpleNamespace(sizes={"d_model": d_model})
    return over_samples(folder, "coupling", columns, tables={"coupling.csv": pairs}, dataset=sizes)


def modes(folder: Path, rng: Rng, planted: bool) -> Run:
    columns = {("mlp", layer, "named_modes"): np.full(SAMPLES, 2.0) for layer in range(LAYERS)}
    level, error = 0.3, 0.02

    def mean(far: float) -> float:
        return float(rng.normal(level, error)) + far * planted

    modes = [
        {"layer": layer, "component": "mlp", "mode": 1, "n": SAMPLES, "random": 0.1, "stream": level,
         "read_cos": mean(0.1 * layer), "read_error": error, "write_cos": mean(0), "write_error": error}
        for layer in range(LAYERS)
    ]  # fmt: skip
    shared = [
        {"layer": layer, "component": "mlp", "side": side, "n": SAMPLES, "held": mean(0.3 * (side == "write")),
         "held_error": error, "held_random": 0.1, "held_stream": level}
        for layer in range(LAYERS) for side in ("read", "write")
    ]  # fmt: skip
    between = [
        {"layer": layer, "component": "mlp", "next_layer": layer + 1, "next_component": "mlp", "what": "write-read",
         "n": SAMPLES, "mean": mean(0.2), "standard_error": error, "random": 0.1, "other": level}
        for layer in range(LAYERS - 1)
    ]  # fmt: skip
    tables = {"modes.csv": modes, "shared.csv": shared, "between.csv": between}
    return over_samples(folder, "modes", columns, tables=tables, facts={"modes": [1, 2, 3, 4]})


def depth(folder: Path, rng: Rng, planted: bool) -> Run:
    columns: dict[tuple[str, int, str], np.ndarray] = {}
    for layer in range(LAYERS):
        columns["path", layer, "spectral_radius"] = rng.lognormal(planted * layer, 0.1, SAMPLES)
        columns["path", layer, "decay_ratio"] = rng.lognormal(-1 - 0.2 * planted * layer, 0.1, SAMPLES)
        columns["path", layer, "lyapunov_1"] = rng.normal(0.3 * planted, 0.1, SAMPLES)
        columns["path", layer, "lyapunov_attn_1"] = rng.normal(0.0, 0.1, SAMPLES)
        columns["path", layer, "lyapunov_mlp_1"] = rng.normal(0.3 * planted, 0.1, SAMPLES)
        columns["path", layer, "normal_finite_time_1"] = rng.normal(0.5, 0.01, SAMPLES)
        columns["path", layer, "nonnormal_growth"] = rng.normal(0.5 * planted, 0.01, SAMPLES)
    return over_samples(folder, "depth", columns)


def jacobian(folder: Path, rng: Rng, planted: bool) -> Run:
    """Samples of a layer share what tells its eigenvalues from those of single rotations."""
    columns: dict[tuple[str, int, str], np.ndarray] = {}
    for component in ("attn", "mlp"):
        for layer in range(LAYERS):
            own, rotated = (rng.normal(0, 0.05, count) for count in (1, SAMPLES))
            far = planted * (component == "mlp" and layer != 3)
            columns[component, layer, "eigenvalue_radius"] = 5 * np.exp(own + far + rng.normal(0, 0.01, SAMPLES))
            columns[component, layer, "rotated_radius"] = 5 * np.exp(rotated)
            columns[component, layer, "ring_outer"] = np.full(SAMPLES, 5.0)
            shares = [rng.normal(0.9, 0.02, count) for count in (1, SAMPLES)]
            columns[component, layer, "ring_share"] = np.broadcast_to(shares[0] - 0.5 * far, SAMPLES)
            columns[component, layer, "rotated_ring_share"] = shares[1]
            columns[component, layer, "kreiss_constant"] = np.where(np.arange(SAMPLES) < 2, 2.0 + layer, np.nan)
    return over_samples(folder, "jacobian", columns)


def overlap(folder: Path, rng: Rng, planted: bool) -> Run:
    rows = [
        {"layer": layer, "role": role, "rows": 96, "cols": 128,
         "beyond_null": 0.5 if planted and role == "up" else rng.binomial(96, 0.01) / 96,
         "beyond_norms": 0.4 if planted and role == "up" and layer > 2 else rng.binomial(96, 0.01) / 96,
         "overlap_top": rng.normal(0.3, 0.01) + 0.1 * planted * layer * (role == "up"),
         "variance_top": rng.lognormal(2 * planted, 0.2), "variance_bottom": rng.lognormal(0, 0.2)}
        for layer in range(LAYERS) for role in ("q", "up")
    ]  # fmt: skip
    rows += [
        {"layer": layer, "role": "qk.key", "rows": 96, "cols": 96, "variance_last": rng.lognormal(-2 * planted, 0.1),
         "rounding_share": np.nan if layer == 0 else 3.0 if planted and layer == 1 else 1e-4}
        for layer in range(LAYERS)
    ]  # fmt: skip
    return put(folder, "overlap", rows)


def removal(folder: Path, rng: Rng, planted: bool) -> Run:
    groups, chunks, tokens = 4, 12, 100
    keys = [("none", 0), *((target, group) for target in ("up", "down") for group in range(1, groups + 1))]
    whole = rng.normal(3, 0.5, chunks) * tokens
    costs = {("up", 1): 1.0, ("down", 4): 0.3} if planted else {}
    nats = np.array(
        [whole + tokens * (costs.get(key, 0.0) + rng.normal(0, 0.02, chunks) * (key[1] > 0)) for key in keys]
    )
    table = [
        {"target": target, "group": group, "perplexity": np.exp(row.sum() / chunks / tokens), "perplexity_error": 0.5}
        for (target, group), row in zip(keys, nats, strict=True)
    ]
    arrays = {"chunk_nats": SimpleNamespace(values=nats), "chunk_tokens": SimpleNamespace(values=0 * nats + tokens)}
    facts = {"shares": [[0, 1]] * groups, "scored": {"chunks": chunks}, "config": {"removal": {"ranges": []}}}
    return put(folder, "removal", table, facts, dataset=arrays)


def merge(folder: Path, rng: Rng, planted: bool) -> Run:
    rows = [
        {"layer": layer, "role": role, "compared": "tasks", "first": "A", "second": "B",
         **{f"{side}_overlap": rng.normal(0.1 + 0.4 * planted, 0.01) for side in ("left", "right")},
         "left_chance": 0.1, "right_chance": 0.1, "cosine": rng.normal(0.3 * planted, 0.05)}
        for layer in range(LAYERS) for role in ("q", "k")
    ]  # fmt: skip
    for layer, row in enumerate(rows[:LAYERS]):
        apart = planted and layer == 2
        rows.append({**row, "layer": layer, "role": "q", "compared": "weights", "confidence": 0.4 if apart else 0.9,
                     "condition_second": 90.0 if layer else 500.0 if planted else 200.0, "condition_chance": 300.0,
                     "share_second": 0.8 if apart else 0.55})  # fmt: skip
    return put(folder, "merge", rows)


def test_fused_matrices_of_merges_count_by_their_parts(tmp_path: Path) -> None:
    """Of q, k and v the same number of each, and none of what is whole."""
    rows = [
        {"layer": layer, "role": role, "compared": "weights", "first": "A", "second": "B", "confidence": 0.4,
         "left_overlap": 0.5, "right_overlap": 0.5, "left_chance": 0.1, "right_chance": 0.1, "cosine": 0.5,
         "condition_second": 500.0, "condition_chance": 100.0, "share_second": 0.6}
        for layer in range(LAYERS) for role in ("q", "k", "v", "qkv")
    ]  # fmt: skip
    said = " ".join(merge_findings(put(tmp_path, "merge", rows)))
    assert f"(medians over {3 * LAYERS} matrices, fused ones by their parts)" in said
    assert f"{3 * LAYERS} of {3 * LAYERS} matrices of A and B, fused ones by their parts, differ" in said


def lazy(folder: Path, rng: Rng, planted: bool) -> Run:
    def row(scale: float, order: str, group: int, seed: int) -> dict[str, Any]:
        lost = 0.2 * planted * (order == "after" and group == 10 and scale == 10)
        return {"scale": scale, "order": order, "group": group, "seed": seed,
                "test_accuracy": 0.9 - lost + rng.normal(0, 2e-3),
                "movement": rng.lognormal(-planted * np.log(scale), 0.02)}  # fmt: skip

    orders = [("none", 0), *((order, group) for order in ("before", "after", "both") for group in (1, 10))]
    rows = [row(scale, *order, seed) for scale in (0.1, 10.0) for order in orders for seed in range(SEEDS)]
    return put(folder, "lazy", rows)


def finetune(folder: Path, rng: Rng, planted: bool) -> Run:
    def row(order: str, group: int, seed: int) -> dict[str, Any]:
        accuracy = 0.9 - 0.3 * (order == "after" and group == 1) if planted else 0.5
        return {"order": order, "group": group, "seed": seed, "accuracy": accuracy + rng.normal(0, 5e-3)}

    orders = [("none", 0), *((order, group) for order in ("before", "after") for group in (1, 2))]
    return put(folder, "finetune", [row(*order, seed) for order in orders for seed in range(SEEDS)], {"chance": 0.5})


def delta(folder: Path, rng: Rng, planted: bool) -> Run:
    def row(layer: int, role: str) -> dict[str, Any]:
        change = rng.normal(size=(24, 48)) + planted * (layer == 2) * np.outer(rng.normal(size=24), rng.normal(size=48))
        noise = float(np.sqrt(np.square(change).mean()))
        sigma, edge = np.linalg.svd(change, compute_uv=False)[0], noise * (24**0.5 + 48**0.5)
        return {"layer": layer, "role": role, "norm_delta": np.linalg.norm(change), "noise": noise, "noise_edge": edge,
                "spectral_delta": sigma, "structure": sigma / edge,
                "relative": (0.1 + planted * 0.1 * layer) * rng.lognormal(0, 0.01),
                "intruders_left": int(planted and layer == 2), "intruders_right": 0}  # fmt: skip

    return put(folder, "delta", [row(layer, role) for layer in range(LAYERS) for role in ("q", "k")])


def compare(folder: Path, rng: Rng, planted: bool) -> Run:
    rows = [
        {"run": 1, "against": 0, "component": component, "layer": layer, "metric": "spectral_radius", "paired": 1,
         "difference": 1.0 + 0.1 * layer, "low": 0.5, "high": 2.0, "floor": 0.1,
         "q_value": 0.01 if planted and component == "mlp" and layer != 3 else 0.5}
        for component in ("attn", "mlp") for layer in range(LAYERS)
    ]  # fmt: skip
    runs = [{"run": number, "label": label, "group": label} for number, label in enumerate(("old", "new"))]
    facts = {"of": "jacobian", "labels": ["old", "new"]}
    return put(folder, "compare", [], facts, {"differences.csv": rows, "runs.csv": runs})


def dynamics(folder: Path, rng: Rng, planted: bool) -> Run:
    rows = [
        {"component": "mlp", "layer": layer, "metric": metric, "onset": 4 if metric == "spectral_radius" else 64,
         "q_value": 0.01, "appears": int(planted and (metric == "spectral_radius" or layer > 2))}
        for metric in ("spectral_radius", "decay_ratio") for layer in range(LAYERS)
    ]  # fmt: skip
    layers = [{"component": "mlp", "layer": layer} for layer in range(LAYERS)]
    return put(folder, "dynamics", layers, {"of": "jacobian"}, {"onsets.csv": rows})


def train(folder: Path, rng: Rng, planted: bool) -> Run:
    loss = [
        {"step": step, "loss": np.log(100) - planted * min(step / 50, 2) + rng.normal(0.1, 0.05)} for step in range(100)
    ]
    bits = [{"step": step, "bits_per_byte": value} for step, value in ((0, 6.0), (50, 2.0), (100, 2.5))]
    return put(folder, "train", bits, {"vocabulary": 100}, {"curve.csv": loss})


CASES: Mapping[str, Case] = {
    "heads": Case(
        heads,
        (
            "of qk is more concentrated than that of products of Gaussian factors in 20 of 24 heads",
            "No head's ov is more",
            "of a layer's heads falls in qk (Kendall's τ -1.00, p = 0.003).",
        ),
        "is more concentrated than that|heads (rises|falls)",
    ),
    "coupling": Case(
        coupling,
        (
            "nearest to its bound in the MLP of layer 0",
            "farthest in the MLP of layer 5",
            "write alignment 6 of 6; most in the MLP of layer",
            "15 of 15 meet it",
            "the MLP of layer 4 that of the MLP of layer 1: |u · v| 0.70, by chance 0.100",
        ),
        "nearest|so many components|meet it beyond",
    ),
    "modes": Case(
        modes,
        (
            "Of the 4 leading modes 50%",
            "components of layers the leading read vectors of two samples are more alike",
            "most in the MLP of layer 5, |cos| 0.",
            "In 6 of 6 components of layers a sample's writes lie more in the mean subspace of other samples",
            "In 5 of 5 pairs of a component and one that follows what the first writes is more like",
        ),
        "leading read vectors|leading write vectors|reads lie more|writes lie more|In . of . pairs",
    ),
    "depth": Case(
        depth,
        (
            "layer 5 the path has the gain ρ 1",
            "a generic small change grows",
            "stands out more at the end",
            "nats a layer (means): the MLPs the more.",
            "50% of the growth is due to non-normality",
        ),
        "times that of its first|generic|stands out|the more|made normal",
    ),
    "jacobian": Case(
        jacobian,
        (
            "is larger in 5 of 12 components of layers (most so 2.",
            "times in the MLP of layer",
            "eigenvalues of MLP 4",
            "90% after random rotations: fewer in 5 of 6 layers",
            "2 in layer 0, 7 in layer 5",
        ),
        "the largest eigenvalue is|fewer in",
    ),
    "overlap": Case(
        overlap,
        (
            "In 6 of 12 matrices more singular vectors lie along a principal direction of what enters than random",
            "In 3 of 12 matrices more",
            "than random directions with the matrix's column norms would",
            "by chance 1%",
            "of the largest σ 8.44",
            "rises in up (Kendall's τ +1.00",
            "qk.key: the smallest σ of 1 of 6 heads is zero to rounding in float64, of 1 within the rounding",
            "along that of the other 4 the input has 0.1",
        ),
        r"In \d+ of 12 matrices more|varies|largest σ (rises|falls)",
    ),
    "removal": Case(
        removal,
        (
            "of 8 removals 2 raise it and 0 lower it",
            "Most is lost without group 1 of up: 2.7",
            "(group 4) matter more than those in the middle (group 2) in 1 of 2 targets",
            "middle: 1.3",
        ),
        "removals . raise|Most is lost|matter",
    ),
    "merge": Case(
        merge,
        ("vectors of A and B overlap 0.499", "beyond chance by 0.399", "they point the same way", "over 12 matrices",
         "1 of 6 matrices of A and B differ too much in σ₁", "0.5: q of layer 2), and 1 of B",
         "0 of these no more than random", "of B, is 0.550 to 0.800"),
        "beyond chance by|the same way|against each other",
    ),
    "lazy": Case(
        lazy,
        (
            "weights by 10 of their norm at α = 0.1",
            "after training group 1 at none beyond the spread of seeds; group 10 changes the test accuracy at 1 "
            "of 2 scales, most at α = 10, by -0.2",
        ),
        "times as far|changes the test accuracy",
    ),
    "finetune": Case(
        finetune,
        ("has an accuracy of 0.90", "after fine-tuning changes it", "group 1 -0.3", "No group removed before"),
        "over seeds, by chance|changes it",
    ),
    "delta": Case(
        delta,
        (
            "12 of 12 matrices were changed",
            "In 2 of them σ₁ of the change is larger",
            "2 of these have intruders among their leading singular vectors: q 1, k 1.",
            "the relative change rises in q (Kendall's τ +1.00",
        ),
        r"In \d+ of them σ₁|change (rises|falls)",
    ),
    "compare": Case(
        compare,
        (
            "5 of 12 differences by layer are beyond",
            "Spectral radius ρ of MLP in new, beside old: larger in 5 of 6 layers, most in layer 5: 1.50",
        ),
        "larger in|smaller in",
    ),
    "dynamics": Case(
        dynamics,
        (
            "9 of 12 curves change",
            "half of their change by step 4.",
            "First, by step 4: spectral radius ρ of MLP in all layers.",
            "Last, by step 64: decay ratio δ of MLP in layers 3–5.",
        ),
        "curves change|First|Last",
    ),
    "train": Case(
        train,
        ("knows nothing has 4.61.", "6.000 bits a byte at step 0 and 2.500 at step 100", "step 50 has the fewest"),
        "bits a byte|nothing has 4.61\\.",
    ),
}  # fmt: skip


def say(run: Run) -> list[str]:
    """Say what the study of a run says of it."""
    page = STUDIES[run.provenance["task"]].page
    assert page is not None
    return list(load(page.sentences)(run))


def test_every_study_with_a_page_says_what_was_found() -> None:
    shown = {name for name, study in STUDIES.items() if study.page}
    assert shown == {*CASES, "jacobian", "weights"}  # those are in test_findings.py


@pytest.mark.parametrize("name", CASES)
def test_planted_numbers_are_said(name: str, tmp_path: Path) -> None:
    found = say(CASES[name].make(tmp_path, np.random.default_rng(0), True))
    for words in CASES[name].said:
        assert any(words in sentence for sentence in found), (words, found)
    assert len(found) <= 6


@pytest.mark.parametrize("name", CASES)
def test_chance_is_claimed_no_more_often_than_at_its_level(name: str, tmp_path: Path) -> None:
    """Of runs in which nothing was planted, each claim appears in one of twenty at most."""
    claims, tests = 0, CASES[name].claims.count("|") + 1
    for seed in range(NULL_RUNS):
        found = say(CASES[name].make(tmp_path, np.random.default_rng(100 + seed), False))
        claims += sum(bool(re.search(CASES[name].claims, sentence)) for sentence in found)
    assert claims <= stats.binom.ppf(0.999, NULL_RUNS * tests, 0.05)


def test_ratio_of_perplexities_is_that_of_a_regression() -> None:
    """With chunks of equal size the estimator is a paired t test of nats a token."""
    rng = np.random.default_rng(1)
    first, other = rng.normal(3, 0.3, (2, 15))
    found = perplexity_ratio(100 * first, 100 * other, np.full(15, 100.0))
    expected = stats.ttest_rel(first, other)
    low, high = expected.confidence_interval(0.95)
    np.testing.assert_allclose(found.interval, np.exp([(first - other).mean(), low, high]), rtol=1e-12)
    np.testing.assert_allclose(found.p_value, expected.pvalue, rtol=1e-9)


def test_noise_is_as_likely_as_tracy_widom_says(tmp_path: Path) -> None:
    """A change of independent noise has uniform p-values, though the sides are told by two norms alone."""
    rows = [
        row
        for seed in range(20)
        for row in delta(tmp_path, np.random.default_rng(seed), False).metrics.to_dict("records")
    ]
    assert stats.kstest([noise_p_value(row) for row in rows], "uniform").pvalue > 1e-3
