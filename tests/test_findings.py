"""What a page says first: intervals beside SciPy's, sentences of planted runs, and none of a run without structure."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jacspec.axes import LayerResult, Row
from jacspec.report.findings import count_once, friedman_p_value, median_interval, ratio_interval, sample_findings
from jacspec.runs import Run, open_run, start_run, write_csv
from jacspec.runs.rows import matrix_layout, start_rows
from jacspec.spectra.significance import adjust_for_many
from jacspec.studies.jacobian.claims import claim_findings, depth_sections
from jacspec.studies.jacobian.findings import jacobian_findings
from jacspec.studies.jacobian.over_depth import depth_tables
from jacspec.studies.weights.findings import matrix_findings

METRICS = ("spectral_radius", "decay_ratio")


@pytest.mark.parametrize("n", [6, 7, 20, 41, 200, 1001])
def test_interval_of_a_median_is_that_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    expected = stats.quantile_test(values, q=np.median(values), p=0.5).confidence_interval(0.95)
    found = median_interval(values)
    assert found.value == np.median(values)
    assert (found.low, found.high) == (expected.low, expected.high)


def test_interval_of_a_median_holds_it_in_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    intervals = [median_interval(rng.lognormal(size=12)) for _ in range(2000)]
    inside = np.mean([each.low <= 1 <= each.high for each in intervals])
    assert inside >= 0.95 - 3 * (0.05 * 0.95 / 2000) ** 0.5


@pytest.mark.parametrize("values", [[], [1.0, 2.0], [np.nan] * 10])
def test_few_samples_have_no_interval(values: list[float]) -> None:
    assert np.isnan(median_interval(np.array(values)).low)
    assert np.isnan(ratio_interval(np.array(values)).low)


def test_interval_of_a_ratio_is_that_of_scipy() -> None:
    logarithms = np.random.default_rng(1).normal(0.3, 1, 40)
    expected = stats.ttest_1samp(logarithms, 0).confidence_interval(0.95)
    found = ratio_interval(logarithms)
    np.testing.assert_allclose(found, np.exp([logarithms.mean(), expected.low, expected.high]), rtol=1e-12)


def write_run(folder: Path, gains: Mapping[str, np.ndarray], ratios: Mapping[str, np.ndarray]) -> Run:
    """Write a run with these values, (layer, sample) a component."""
    layers, samples = next(iter(gains.values())).shape
    rows = [(sample, 5, f"text {sample}") for sample in range(samples)]
    known = {"metrics": list(METRICS), "components": list(gains)}
    writer = start_run(folder, known, metric_names=METRICS, samples=rows)
    for layer in range(layers):
        sigma = {name: np.stack([gains[name][layer], gains[name][layer] * ratios[name][layer]], 1) for name in gains}
        values = {name: dict(zip(METRICS, (gains[name][layer], ratios[name][layer]), strict=True)) for name in gains}
        writer.add_layer(LayerResult(layer, layer, sigma, values))
    writer.write_tables()
    writer.finish()
    return open_run(folder)


def draw(rng: np.random.Generator, medians: list[float], spread: float = 0.1) -> np.ndarray:
    return np.array(medians)[:, None] * rng.lognormal(0, spread, (len(medians), 50))


def test_planted_structure_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    gains = {"attn": draw(rng, [2, 2, 2, 2, 2, 2]), "mlp": draw(rng, [8, 6, 0.5, 0.5, 4, 4])}
    ratios = {name: np.full((6, 50), 0.5) * rng.uniform(0.9, 1.1, (6, 50)) for name in gains}
    ratios["attn"][3] /= 4
    said = list(sample_findings(write_run(tmp_path / "run", gains, ratios)))
    top = median_interval(gains["mlp"][0])
    assert said[0].startswith(f"The gain ρ is largest in the MLP of layer 0, median {top}")
    assert "smallest in the MLP of layer" in said[0]
    assert said[1].startswith("Of 12 components of layers 10 amplify")
    assert "2 shrink" in said[1]
    assert "gain of the MLP is" in said[2]
    assert said[3].startswith("Over depth the gain of MLP differs")
    assert "stands out most in the attention of layer 3" in said[-1]
    assert not any("Over depth the gain of attention" in sentence for sentence in said)


def test_runs_without_structure_claim_none(tmp_path: Path) -> None:
    """Of 40 runs whose layers and branches are alike, the sentences that claim a difference appear at their level."""
    claims = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gains = {name: draw(rng, [1.0] * 6, 0.5) for name in ("attn", "mlp")}
        ratios = {name: rng.uniform(0.2, 0.9, (6, 50)) for name in gains}
        said = list(sample_findings(write_run(tmp_path / str(seed), gains, ratios)))
        claims += sum(bool(re.search("Over all layers|is largest in|stands out most", sentence)) for sentence in said)
    assert claims <= stats.binom.ppf(0.999, 3 * 40, 0.05)


def test_gains_of_zero_are_no_ratios(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    gains = {"attn": draw(rng, [1.0] * 6), "mlp": np.zeros((6, 50))}
    ratios = {name: np.full((6, 50), np.nan) for name in gains}
    said = list(sample_findings(write_run(tmp_path / "run", gains, ratios)))
    assert said[0].endswith("smallest in the MLP of layer 5, 0 (0 to 0).")
    assert not any("Over all layers" in sentence for sentence in said)


def test_radius_is_said_with_what_is_linear_as_the_longest_step(tmp_path: Path) -> None:
    """Attention planted at 2 % and, in layer 1, at 1 %; of the MLP's samples three in four have no radius."""
    rng, names = np.random.default_rng(4), ("linearity_radius",)
    radii = {"attn": draw(rng, [0.02, 0.01, 0.02]), "mlp": draw(rng, [0.2] * 3)}
    linear = np.arange(50) % 4 > 0
    radii["mlp"][:, linear] = np.nan
    why = {"attn": np.full(50, ""), "mlp": np.where(linear, "linear along v₁: off by less", "")}
    rows = [(sample, 5, f"text {sample}") for sample in range(50)]
    for number, reasons in enumerate((why, {})):
        folder = tmp_path / str(number)
        writer = start_run(
            folder, {"metrics": list(names), "components": list(radii)}, metric_names=names, samples=rows
        )
        for layer in range(3):
            values = {name: {names[0]: radii[name][layer]} for name in radii}
            sigma = {name: np.ones((50, 2)) for name in radii}
            writer.add_layer(LayerResult(layer, layer, sigma, values, reasons=reasons))
        writer.write_tables()
        writer.finish()
        attn, mlp = jacobian_findings(open_run(folder))
        held = median_interval(np.median(radii["attn"], axis=0)).over(0.01)
        assert attn.startswith(
            f"Along the direction of greatest gain the Jacobian of the attention holds up to {held} %"
        )
        assert f"least in layer 1, {median_interval(radii['attn'][1]).over(0.01)} %" in attn
        # What is missing for another reason says nothing of how far a Jacobian holds.
        assert ("as far as was tried, up to 30 % of ‖x‖" in mlp) == bool(reasons)


def write_matrices(folder: Path, values: Sequence[Mapping[str, float]]) -> Run:
    columns = tuple(values[0])
    known = {"task": "weights", "metrics": list(columns)}
    writer = start_rows(folder, known, matrix_layout(columns))
    for number, row in enumerate(values):
        arrays = {"singular_values": np.array([2.0, 1.0])}
        writer.add([Row(number, (number // 2, "qk"[number % 2], None, f"w{number}", 2, 3), row, arrays)])
    writer.write_tables()
    writer.finish()
    return open_run(folder)


def test_fused_matrices_count_by_their_parts() -> None:
    """Where the parts are there too, in each stack by itself; a fused matrix alone counts."""
    roles = ["q", "k", "v", "qkv", "o", "up", "gate", "gate_up", "down", "decoder.qkv", "decoder.q", "q_proj"]
    kept, words = count_once(pd.DataFrame({"role": roles}))
    assert list(kept["role"]) == [role for role in roles if role not in ("qkv", "gate_up")]
    assert words == ", fused ones by their parts"
    whole = pd.DataFrame({"role": ["qkv", "o", "down", "gate_up", "gate"]})
    assert count_once(whole)[0].equals(whole)
    assert count_once(whole)[1] == ""


def test_matrices_beyond_their_nulls_are_counted(tmp_path: Path) -> None:
    def row(sigma: float, p: float, above: float, alpha: float) -> dict[str, float]:
        return {
            "spectral_radius": sigma, "largest_p": 1e-9, "norms_largest_p": p, "norms_above": above,
            "outliers_above": np.nan if sigma > 3 else 1.0, "alpha": alpha, "alpha_null_low": 2.5,
        }  # fmt: skip

    rows = [row(1, 1e-8, 4, 2.0), row(2, 0.03, 0, 3.0), row(3, 0.8, 2, 4.0), row(4, 0.9, 0, np.nan)]
    said = list(matrix_findings(write_matrices(tmp_path / "run", rows)))
    assert "from 1 (q, w0) to 4 (k, w3)" in said[0]
    assert "in 4 of 4 matrices" in said[1]
    assert "in 1 of 4 matrices" in said[2]  # of q-values: 0.03 · 4 / 2 is above 0.05
    assert "q 3, k 0" in said[3]
    assert said[4].startswith("1 of 4 matrices have no bulk")
    assert "in 1 of 3 matrices; by chance in 0.2" in said[5]


@pytest.mark.parametrize("digits", [8, 0])
def test_tests_of_our_own_are_scipys(digits: int) -> None:
    """Without ties and with many."""
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.3):
        values = np.round(rng.normal(size=(7, 25)) * 2 + shift * np.arange(7)[:, None], digits)
        assert friedman_p_value(values) == pytest.approx(stats.friedmanchisquare(*values).pvalue, rel=1e-10)
    p_values = np.round(rng.random(40) ** 3, 2 + digits)
    expected = stats.false_discovery_control(p_values)
    np.testing.assert_allclose(adjust_for_many(np.append(p_values, np.nan)), np.append(expected, np.nan), rtol=1e-12)


def write_claims(folder: Path, gains: Mapping[str, np.ndarray], ratios: Mapping[str, np.ndarray]) -> Run:
    """Write a run with these values, and its tables over depth as the study does."""
    run = write_run(folder, gains, ratios)
    layers = len(next(iter(gains.values())))
    results = [
        LayerResult(
            layer,
            layer,
            {},
            {name: dict(zip(METRICS, (gains[name][layer], ratios[name][layer]), strict=True)) for name in gains},
        )
        for layer in range(layers)
    ]
    for name, (header, rows) in depth_tables(results, seed=0).items():
        write_csv(folder / name, header, rows)
    return run


def test_planted_u_phases_and_concentration_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    profile = [8.0, *[1.0] * 22, 5.0]
    gains = {"attn": draw(rng, [1.0] * 24), "mlp": draw(rng, profile)}
    ratios = {"attn": draw(rng, [0.3] * 24), "mlp": draw(rng, [0.5] * 20 + [0.2] * 4)}
    run = write_claims(tmp_path / "run", gains, ratios)
    said = list(claim_findings(run))
    first = ratio_interval(np.log(gains["mlp"][0]) - np.log(gains["mlp"][1:-1]).mean(axis=0))
    assert said[0].startswith(f"The gain of MLP is a U over depth: that of the first layer is {first} times")
    assert said[1].startswith("In three phases, which begin at layers 1 and 23, ln ρ of MLP")
    assert said[2].startswith("Of attention three phases are not told from a drift")
    assert "in 20 of 24 layers, less in 4" in said[3]
    page = "".join(str(part) for part in depth_sections(run))
    assert "Over depth" in page
    assert "1 and 23" in page


def test_no_u_and_no_phases_are_said_of_profiles_without(tmp_path: Path) -> None:
    """A falling profile, as random initialisation has, is neither; 40 samples tell its ends from its middle."""
    rng = np.random.default_rng(6)
    gains = {name: draw(rng, np.linspace(2, 1, 24).tolist()) for name in ("attn", "mlp")}
    ratios = {name: draw(rng, [0.5] * 24) for name in gains}
    said = list(claim_findings(write_claims(tmp_path / "run", gains, ratios)))
    assert not any("is a U" in each or each.startswith("In three phases") for each in said)
    assert said[0].startswith("Of attention and MLP three phases are not told")
    few = {name: values[:4] for name, values in gains.items()}
    assert not depth_tables([LayerResult(0, 0, {}, {"mlp": {METRICS[0]: np.ones(3)}})], seed=0)
    assert "depth.csv" not in {file.name for file in write_claims(tmp_path / "few", few, few).folder.iterdir()}
