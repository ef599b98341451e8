"""What was changed in a base: intruders by their definition in NumPy, adapters by their factors, few bits by noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pandas
import peft
import pytest
import torch
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.numpy import load_file
from safetensors.torch import save_file
from servers import NANO, Finished, assert_refused, run_here
from test_adapters import CASES, make_adapter
from test_gguf import write_gguf
from test_merge import star_by_numpy
from transformers import AutoModelForCausalLM

from jacspec.backend import numerics
from jacspec.runs import open_run
from jacspec.runs.folder import Run
from jacspec.studies import run as runner
from jacspec.studies.delta import measure as kernel

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's and transformers' of their next versions


def delta(*arguments: str, cwd: Path) -> Finished:
    return run_here("task=delta", *arguments, "hydra.run.dir=out", cwd=cwd)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which is drawn elsewhere."""
    monkeypatch.setattr(runner, "write_report", lambda *_, **__: None)


def measure(base: np.ndarray, model: np.ndarray, change: np.ndarray, **options: Any) -> Any:
    with numerics("float64"):
        return kernel.measure(base, model, change, None, **options)


def orthonormal(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(rows, cols)))[0]


def matches_by_numpy(base: np.ndarray, model: np.ndarray, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the largest |cos| by the definition, vector by vector."""
    before, after = (np.linalg.svd(each, full_matrices=False) for each in (base, model))
    left = [max(abs(u @ after[0][:, j]) for u in before[0].T) for j in range(top_k)]
    right = [max(abs(v @ after[2][j]) for v in before[2]) for j in range(top_k)]
    return np.array(left), np.array(right)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (24, 24)])
def test_intruders_are_those_of_the_definition(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    base, change = rng.normal(size=shape), rng.normal(size=shape) * 0.4
    values, arrays = measure(base, base + change, change, top_k=7, threshold=0.6)
    left, right = matches_by_numpy(base, base + change, 7)
    np.testing.assert_allclose(arrays["match_left"], left, rtol=1e-10)
    np.testing.assert_allclose(arrays["match_right"], right, rtol=1e-10)
    assert values["intruders_left"] == (left < 0.6).sum() > 0
    assert values["least_match_right"] == pytest.approx(right.min(), rel=1e-10)
    sigma = [np.linalg.svd(each, compute_uv=False) for each in (base, base + change, change)]
    assert values["largest_shift"] == pytest.approx(np.abs(sigma[1] - sigma[0]).max())
    assert values["largest_shift"] <= values["spectral_delta"] == pytest.approx(sigma[2][0])
    assert values["noise"] == pytest.approx(np.sqrt((change**2).mean()))


def test_a_planted_intruder_is_found_and_none_where_nothing_changed() -> None:
    """A direction spread evenly over all singular vectors of W, with the largest value."""
    rng = np.random.default_rng(1)
    u, v = orthonormal(rng, 50, 30), orthonormal(rng, 30, 30)
    base = u @ np.diag(np.linspace(9, 1, 30)) @ v.T
    planted = 12 * np.outer(u.sum(1), v.sum(1)) / 30
    values, arrays = measure(base, base + planted, planted, top_k=10, threshold=0.5)
    assert values["intruders_left"] == values["intruders_right"] == 1
    assert arrays["match_left"][0] < 0.5 < arrays["match_left"][1:].min()
    same, arrays = measure(base, base, np.zeros_like(base), top_k=10, threshold=0.5)
    assert same["intruders_left"] == same["intruders_right"] == 0
    assert same["least_match_left"] == pytest.approx(1)
    # A value of its own is no new direction.
    scaled = base + 3 * np.outer(u[:, 4], v[:, 4])
    assert measure(base, scaled, scaled - base, top_k=10, threshold=0.5)[0]["intruders_left"] == 0


def test_noise_shifts_by_its_level_and_has_no_structure() -> None:
    rng = np.random.default_rng(2)
    u, v = orthonormal(rng, 300, 200), orthonormal(rng, 200, 200)
    base = u @ np.diag(np.linspace(400, 100, 200)) @ v.T
    change = 0.01 * rng.normal(size=base.shape)
    values, _ = measure(base, base + change, change, top_k=5, threshold=0.5)
    assert values["structure"] == pytest.approx(1, abs=0.03)
    assert values["median_shift"] / values["noise"] == pytest.approx(0.6745, abs=0.12)
    low = change * 100  # of the size of the smallest values: noise lifts them, and cannot be told from them
    values, _ = measure(base * 0.01, base * 0.01 + low, low, top_k=5, threshold=0.5)
    assert values["below_noise"] == 200
    assert values["smallest_shift"] > 0


@pytest.fixture(scope="module", params=["lora", "conv1d", "dora"])
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Run]:
    folder = tmp_path_factory.mktemp("delta")
    make_adapter(folder, CASES[request.param][0], **CASES[request.param][1])
    figures = f"report.figures={'all' if request.param == 'lora' else 'none'}"
    done = delta("model=path", "model.path=adapter", figures, "precision=float64", cwd=folder)
    assert done.code == 0, done.err
    return request.param, folder, open_run(folder / "out")


def test_an_adapter_has_the_spectrum_of_its_factors(adapted: tuple[str, Path, Run]) -> None:
    case, folder, run = adapted
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    table, scale = run.metrics, CASES[case][1].get("lora_alpha", 2) / 3
    roles = {"llama": {"q", "v", "down"}, "gpt2": {"q", "k", "v", "qkv", "o", "down"}}[CASES[case][0]]
    assert set(table["role"]) == roles  # what the adapter left alone has no row
    role, module = {"llama": ("v", "model.layers.1.self_attn.v_proj"), "gpt2": ("qkv", "transformer.h.1.attn.c_attn")}[
        CASES[case][0]
    ]
    a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
    row = table[(table["role"] == role) & (table["layer"] == 1)].iloc[0]
    found = run.dataset["sigma_delta"].values[row.name]
    found = found[np.isfinite(found)]
    expected = np.linalg.svd(scale * b @ a, compute_uv=False)
    if case == "dora":
        assert found.size == min(b.shape[0], a.shape[1])  # more than s B A: all of it
        return
    np.testing.assert_allclose(found, expected[:3], rtol=1e-10)
    assert row["norm_delta"] == pytest.approx(np.linalg.norm(scale * b @ a), rel=1e-10)
    drawn = {file.name for file in run.folder.rglob("*.png")}
    assert drawn == ({"changes.png", "shifts.png"} if case == "lora" else set())
    if case == "conv1d":  # a part of the fused tensor
        d = b.shape[0] // 3
        row = table[(table["role"] == "k") & (table["layer"] == 1)].iloc[0]
        part = np.linalg.svd(scale * b[d : 2 * d] @ a, compute_uv=False)[:3]
        np.testing.assert_allclose(run.dataset["sigma_delta"].values[row.name][:3], part, rtol=1e-10)


def test_weights_have_rows_of_base_sum_and_update(adapted: tuple[str, Path, Run], quick: None) -> None:
    case, folder, run = adapted
    done = run_here(
        *("task=weights", "model=path", "model.path=adapter", "weights.against=none", "precision=float64"),
        *("layers=[1]", "hydra.run.dir=weights"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    found = open_run(folder / "weights")
    table = found.metrics
    role, module = {"llama": ("v", "model.layers.1.self_attn.v_proj"), "gpt2": ("qkv", "transformer.h.1.attn.c_attn")}[
        CASES[case][0]
    ]
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{module}.lora_{part}.weight"] for part in "AB")
    base = load_file(folder / "base/model.safetensors")[f"{module}.weight"]
    base = base if role == "v" else base.T
    added = CASES[case][1].get("lora_alpha", 2) / 3 * b @ a
    if case == "dora":
        magnitude = tensors[f"base_model.model.{module}.lora_magnitude_vector"][:, None]
        added = (base + added) * magnitude / np.linalg.norm(base + added, axis=1, keepdims=True) - base
    for suffix, matrix in {"": base + added, ".base": base, ".update": added}.items():
        (row,) = table[table["role"] == f"{role}{suffix}"].index
        sigma = found.dataset["singular_values"].values[row]
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(sigma[: expected.size], expected, rtol=1e-9, atol=1e-12)
        assert table["spectral_radius"][row] == pytest.approx(expected[0], rel=1e-9)
        if suffix == ".update" and case != "dora":
            assert (sigma[3 : expected.size] == 0).all()
            assert table["alpha"].isna()[row]
    left, right = matches_by_numpy(base, base + added, min(10, *base.shape))
    row = table[table["role"] == role].iloc[0]
    assert row["intruders_left"] == (left < 0.5).sum()
    assert row["intruders_right"] == (right < 0.5).sum()
    assert row["least_match_left"] == pytest.approx(left.min(), rel=1e-8)
    mates = run.metrics[(run.metrics["role"] == role) & (run.metrics["layer"] == 1)].iloc[0]
    assert row["least_match_right"] == pytest.approx(mates["least_match_right"], rel=1e-8)
    others = table[table["role"] != role]
    assert others["reason"][others["intruders_left"].isna()].str.contains("no intruders").all()
    if case == "conv1d":  # parts of the fused tensor too, and what was left alone
        assert {"k", "k.base", "k.update", "o", "o.update", "up"} <= set(table["role"])
        assert "up.base" not in set(table["role"])


@pytest.mark.parametrize("adapted", ["lora"], indirect=True)
def test_intruders_are_as_many_as_peft_counts(adapted: tuple[str, Path, Run]) -> None:
    _, folder, run = adapted
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float64)
    wrapped = peft.PeftModel.from_pretrained(base, folder / "adapter", autocast_adapter_dtype=False)
    lines: list[str] = []
    reduce_intruder_dimension(wrapped, logging_sink=lines.append)
    counts = {line.split(":")[0]: int(line.split()[-1]) if "Intruders:" in line else 0 for line in lines[:-1]}
    for _, row in run.metrics.iterrows():
        (theirs,) = (
            n for name, n in counts.items() if f"layers.{row['layer']}." in name and f".{row['role']}_" in name
        )
        assert row["intruders_left"] == theirs
    assert run.metrics["intruders_left"].sum() > 0


def nano_in_four_bits(file: Path) -> None:
    """Quantise the embedded model by the package `gguf`."""
    names = {
        "wte.weight": "token_embd.weight",
        "wpe.weight": "position_embd.weight",
        **{f"ln_f.{kind}": f"output_norm.{kind}" for kind in ("weight", "bias")},
    }
    parts = {"ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    parts |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    tensors = {}
    for name, values in load_file(NANO / "model.safetensors").items():
        plain = name.removeprefix("transformer.")
        if plain in names:
            tensors[names[plain]] = values
        elif plain.startswith("h."):
            _, layer, *module, kind = plain.split(".")
            turned = values.T if values.ndim == 2 else values
            tensors[f"blk.{layer}.{parts['.'.join(module)]}.{kind}"] = np.ascontiguousarray(turned)
    d = tensors["output_norm.weight"].size
    numbers = {
        "context_length": len(tensors["position_embd.weight"]),
        "embedding_length": d,
        "feed_forward_length": 4 * d,
        "block_count": 6,
        "attention.head_count": 6,
        "attention.layer_norm_epsilon": 1e-5,
    }
    letters = [chr(0x100 + number) for number in range(len(tensors["token_embd.weight"]) - 3)]
    write_gguf(file, "gpt2", tensors, numbers, [*letters, "a", "b", "ab"])


def test_four_bits_are_noise_that_small_values_drown_in(tmp_path: Path, quick: None) -> None:
    nano_in_four_bits(tmp_path / "nano.gguf")
    done = delta("model=path", "model.path=nano.gguf", f"delta.base={NANO}", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    table = run.metrics
    weights = load_file(NANO / "model.safetensors")
    row = table[(table["role"] == "down") & (table["layer"] == 3)].iloc[0]
    base = weights["transformer.h.3.mlp.c_proj.weight"].T.astype(np.float64)
    kind = gguf.GGMLQuantizationType.Q4_0
    few = gguf.quants.dequantize(gguf.quants.quantize(base.astype(np.float32), kind), kind).astype(np.float64)
    before, after, noise = (np.linalg.svd(each, compute_uv=False) for each in (base, few, few - base))
    np.testing.assert_allclose(run.dataset["sigma"].values[row.name][: after.size], after, rtol=1e-4, atol=1e-5)
    assert row["spectral_delta"] == pytest.approx(noise[0], rel=1e-5)
    assert row["median_shift"] == pytest.approx(np.median(abs(after - before)), rel=1e-2)
    assert (table["largest_shift"] <= table["spectral_delta"] * (1 + 1e-5)).all()  # Weyl
    assert table["structure"].between(0.8, 1.6).all()
    assert table["relative"].between(0.03, 0.2).all()
    assert run.provenance["identity"]["checkpoint"]["stored as"] == {"nano.gguf": {"Q4_0": 24, "Q8_0": 1, "F32": 51}}


def test_weights_and_compare_say_what_four_bits_do(tmp_path: Path, quick: None) -> None:
    """One layer's `down`: its largest value hardly moves, the ratio to its smallest does, as NumPy has both."""
    nano_in_four_bits(tmp_path / "nano.gguf")
    asked = ("weights.include=[down]", "layers=[3]", "weights.against=none", "precision=float64", "report.figures=none")
    names = ("spectral_radius", "condition_number")
    for out, model in {"float": NANO, "bits": "nano.gguf"}.items():
        metrics = f"metrics.names=[{','.join(names)}]"
        done = run_here("task=weights", f"model={model}", metrics, *asked, f"hydra.run.dir={out}", cwd=tmp_path)
        assert done.code == 0, done.err
    done = run_here("task=compare", "runs=[float,bits]", "report.figures=none", "hydra.run.dir=both", cwd=tmp_path)
    assert done.code == 0, done.err
    table = pandas.read_csv(tmp_path / "both/differences.csv").set_index("metric")
    base = load_file(NANO / "model.safetensors")["transformer.h.3.mlp.c_proj.weight"].T.astype(np.float32)
    kind = gguf.GGMLQuantizationType.Q4_0
    few = gguf.quants.dequantize(gguf.quants.quantize(base, kind), kind)
    sigma = [np.linalg.svd(each.astype(np.float64), compute_uv=False) for each in (base, few)]
    before, after = ({"spectral_radius": s[0], "condition_number": s[0] / s[-1]} for s in sigma)
    for name in names:
        assert table["difference"][name] == pytest.approx(after[name] - before[name], rel=1e-6)


def test_a_changed_tensor_is_the_only_one_that_differs(tmp_path: Path, quick: None) -> None:
    done = delta("delta.base=nano@step1024", "layers=[2]", "delta.include=[up]", "precision=float64", cwd=tmp_path)
    assert done.code == 0, done.err
    (row,) = open_run(tmp_path / "out").metrics.to_dict("records")
    name = "transformer.h.2.mlp.c_fc.weight"
    after, before = (
        load_file(folder / "model.safetensors")[name].T.astype(np.float64)
        for folder in (NANO, NANO / "revisions/step1024")
    )
    left, _ = matches_by_numpy(before, after, 10)
    assert row["intruders_left"] == (left < 0.5).sum()
    assert row["least_match_left"] == pytest.approx(left.min(), rel=1e-8)


@pytest.fixture(scope="module")
def two_adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A base that is not where two adapters say, and by PEFT the weights of the base and of each of them merged."""
    folder = tmp_path_factory.mktemp("two")
    merged = [make_adapter(folder, CASES["lora"][0], **CASES["lora"][1])]
    (folder / "second").mkdir()
    tensors = load_file(folder / "adapter/adapter_model.safetensors")
    turned = {name: value if "lora_A" in name else value[::-1].copy() for name, value in tensors.items()}
    save_file(
        {name: torch.from_numpy(value) for name, value in turned.items()}, folder / "second/adapter_model.safetensors"
    )
    (folder / "second/adapter_config.json").write_bytes((folder / "adapter/adapter_config.json").read_bytes())
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float64)
    second = peft.PeftModel.from_pretrained(base, folder / "second", autocast_adapter_dtype=False)
    merged.append(second.merge_and_unload())
    (folder / "base").rename(folder / "moved")
    weights = [{name: value.numpy() for name, value in model.state_dict().items()} for model in merged]
    return folder, [load_file(folder / "moved/model.safetensors"), *weights]


def star(delta: np.ndarray, is_matrix: bool) -> np.ndarray:
    return star_by_numpy(delta, 0.4) if is_matrix and delta.any() else delta


MERGED: dict[str, Callable[[np.ndarray, np.ndarray, bool], np.ndarray]] = {
    "average": lambda one, two, is_matrix: (one + two) / 2,
    "arithmetic": lambda one, two, is_matrix: 0.4 * (one + two),
    "star": lambda one, two, is_matrix: (star(one, is_matrix) + star(two, is_matrix)) / 2,
}
"""What each method makes of two task vectors."""


@pytest.mark.parametrize("method", MERGED)
def test_merge_takes_adapters_as_task_vectors(method: str, two_adapters: Any, quick: None, tmp_path: Path) -> None:
    folder, (base, one, two) = two_adapters
    arguments = ("merge.models=[adapter,second]", "merge.base=moved", f"merge.method={method}", "precision=float64")
    done = run_here("task=merge", *arguments, f"hydra.run.dir={tmp_path / 'out'}", cwd=folder)
    assert done.code == 0, done.err
    merged = load_file(tmp_path / "out/merged/model.safetensors")
    assert merged.keys() == base.keys()
    for name, found in merged.items():
        is_matrix = found.ndim == 2 and "embed" not in name and "lm_head" not in name
        expected = base[name] + MERGED[method](one[name] - base[name], two[name] - base[name], is_matrix)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=name)
    table = open_run(tmp_path / "out").metrics
    row = table[(table["compared"] == "tasks") & (table["role"] == "q") & (table["layer"] == 0)].iloc[0]
    name = "model.layers.0.self_attn.q_proj.weight"
    assert row["norm_first"] == pytest.approx(np.linalg.norm(one[name] - base[name]), rel=1e-9)
    assert row["right_overlap"] == pytest.approx(1, abs=1e-9)  # they read the same


REFUSED = {
    "no base": ((), "delta.base=NAME"),
    "no leading vector": (("delta.base=nano@step0", "delta.top_k=0"), "delta.top_k=N with N of 1 or more"),
    "a threshold of 1": (("delta.base=nano@step0", "delta.threshold=1"), "delta.threshold=0.5"),
    "random weights": (("delta.base=nano@step0", "model.init=random"), "model.init=random has no base"),
    "another architecture": (("delta.base=no/where",), "no/where"),
    "nothing left": (("delta.base=nano@step0", "delta.include=[nothing]"), "No matrix is left"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_compared_is_refused(why: str, tmp_path: Path) -> None:
    arguments, said = REFUSED[why]
    assert_refused(delta(*arguments, cwd=tmp_path), tmp_path, said)
