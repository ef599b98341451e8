"""`task=merge` end to end: merged folders beside HF's PyTorch, shards, refusals, memory, and what a kill leaves."""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from families import FAMILIES, config_of
from oracles import auto_class, deviation, float64_throughout, save_random
from servers import NANO, Finished, assert_refused, copy_nano, files_below, run_here
from test_merge import star_by_numpy
from test_merge_methods import knots_by_hand
from transformers import AutoModelForCausalLM

from jacspec.backend import numerics
from jacspec.models.export import plan_shards
from jacspec.models.siblings import open_siblings
from jacspec.models.tensor_files import NUMPY_TYPES, TensorFiles, open_tensors
from jacspec.runs import open_run
from jacspec.runs.folder import Run
from jacspec.studies import run as runner
from jacspec.studies.merge import run as task
from jacspec.studies.merge.figures import draw_compatibility

STEPS = ("step0", "step256", "step1024")
Tensors = Mapping[str, torch.Tensor]


def merge(*arguments: str, cwd: Path) -> Finished:
    return run_here("task=merge", *arguments, cwd=cwd)


def stored(folder: Path) -> dict[str, np.ndarray]:
    with numerics("float64"):  # else JAX would read float64 and int64 as half as wide
        tensors = open_tensors(folder)
        return {name: tensors.read(name) for name in tensors.index}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which is drawn elsewhere."""
    monkeypatch.setattr(runner, "write_report", lambda *_, **__: None)


@pytest.fixture(scope="module")
def star_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Run]:
    """The embedded model's steps 256 and 1024 on step 0, as they are compared by default, merged by STAR."""
    cwd = tmp_path_factory.mktemp("star")
    done = merge("merge.method=star", "merge.exclude=[qkv]", "hydra.run.dir=out", cwd=cwd)
    assert done.code == 0, done.err
    return done, open_run(cwd / "out")


def test_every_matrix_is_compared(star_run: tuple[Finished, Run]) -> None:
    done, run = star_run
    folder = run.folder
    assert {"figures/compatibility.png", "report.html"} <= files_below(folder)
    assert list(run.metrics.columns[:5]) == ["layer", "role", "compared", "first", "second"]
    assert len(run.metrics) == 6 * 6 * 6  # layers, roles, comparisons
    tasks = run.metrics[run.metrics["compared"] == "tasks"]
    assert set(tasks[["first", "second"]].itertuples(index=False, name=None)) == {("nano@step256", "nano@step1024")}
    weights = {step: stored(NANO / "revisions" / step) for step in STEPS}
    name = "transformer.h.2.mlp.c_fc.weight"
    base, one, other = (weights[step][name].T.astype(np.float64) for step in STEPS)
    row = tasks[(tasks["layer"] == 2) & (tasks["role"] == "up")].iloc[0]
    sigma = np.linalg.svd(one - base, compute_uv=False)
    np.testing.assert_allclose(run.dataset["sigma_first"].values[row.name][: sigma.size], sigma, rtol=1e-4, atol=1e-5)
    assert row["norm_second"] == pytest.approx(np.linalg.norm(other - base), rel=1e-5)
    assert row["kept_first"] == next(r for r in range(1, 97) if sigma[:r].sum() >= 0.4 * sigma.sum())
    cosine = ((one - base) * (other - base)).sum() / np.linalg.norm(one - base) / np.linalg.norm(other - base)
    assert row["cosine"] == pytest.approx(cosine, rel=1e-5)
    lefts = [np.linalg.svd(tau, full_matrices=False)[0][:, :8] for tau in (one - base, other - base)]
    assert row["left_overlap"] == pytest.approx(np.square(lefts[0].T @ lefts[1]).sum() / 8, rel=1e-4)
    summary = run.summary.set_index(["role", "compared", "first", "second", "metric"])["median"]
    up = tasks[tasks["role"] == "up"]["cosine"].median()
    assert summary["up", "tasks", "nano@step256", "nano@step1024", "cosine"] == pytest.approx(up)
    assert "medians over layers and roles" in done.out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "merge.embeddings=true takes it in" in page
    assert "nano@step256 + nano@step1024 on nano@step0" in page
    assert set(run.provenance["identity"]["checkpoint"]["files"]) >= {"nano@step0/model.safetensors"}
    assert json.loads((folder / "merged" / "merge.json").read_text())["status"] == "finished"


def test_figure_shows_the_table(star_run: tuple[Finished, Run]) -> None:
    run = star_run[1]
    tasks = run.metrics[run.metrics["compared"] == "tasks"]
    panels = draw_compatibility(run).axes
    for panel, name in zip(panels[1:4], ("cosine", "effective_rank_distance", "spectrum_distance"), strict=True):
        lines = {line.get_label(): np.asarray(line.get_ydata()) for line in panel.lines}
        for role in ("q", "down"):
            np.testing.assert_allclose(lines[role], tasks[tasks["role"] == role].sort_values("layer")[name])
    marks = [line for line in panels[5].lines if line.get_marker() in ("o", "s")]
    shown = sorted(float(np.asarray(line.get_xdata())[0]) for line in marks)
    medians = run.metrics.groupby(["compared", "first", "second"])[["left_overlap", "right_overlap"]].median()
    np.testing.assert_allclose(shown, np.sort(medians.to_numpy().ravel()))


def test_star_is_written_and_loads(star_run: tuple[Finished, Run]) -> None:
    """Matrices are truncated, what is left out (here the fused qkv too) takes the plain mean of task vectors."""
    folder = star_run[1].folder / "merged"
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= files_below(folder)
    weights = {step: stored(NANO / "revisions" / step) for step in STEPS}
    found = stored(folder)
    assert found.keys() == weights["step0"].keys()
    for name, values in found.items():
        base, one, other = (weights[step][name].astype(np.float64) for step in STEPS)
        truncated = "c_fc" in name or "c_proj" in name
        if truncated and values.ndim == 2:
            wanted = base + (star_by_numpy(one - base, 0.4) + star_by_numpy(other - base, 0.4)) / 2
            assert np.abs(wanted - (one + other) / 2).max() > 1e-3
        else:
            wanted = (one + other) / 2
        assert values.dtype == np.float16
        # To half a unit in the last place of float16, and what float32's SVD may move.
        np.testing.assert_allclose(values.astype(np.float64), wanted, rtol=6e-4, atol=1e-5)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.num_parameters() == sum(values.size for values in found.values())


def star_by_torch(delta: torch.Tensor, share: float) -> torch.Tensor:
    left, sigma, right = torch.linalg.svd(delta, full_matrices=False)
    kept = int(torch.searchsorted(torch.cumsum(sigma, 0), share * sigma.sum())) + 1
    return sigma.sum() / sigma[:kept].sum() * (left[:, :kept] * sigma[:kept]) @ right[:kept]


RULES: Mapping[str, Callable[[torch.Tensor, Sequence[torch.Tensor], bool], torch.Tensor]] = {
    "average": lambda base, models, matrix: sum(models) / len(models),
    "arithmetic": lambda base, models, matrix: base + 0.4 * sum(model - base for model in models),
    "star": lambda base, models, matrix: (
        base + sum(star_by_torch(m - base, 0.6) if matrix else m - base for m in models) / len(models)
    ),
}
"""Each method in PyTorch, for one parameter; `matrix` says whether STAR truncates it."""

CASES = [("gpt2", "arithmetic"), ("bert", "average"), ("llama", "star"), ("t5", "star")]
CASES += [("mixtral", "star"), ("gpt_oss", "star")]


def merge_by_torch(
    method: str, family: str, name: str, base: torch.Tensor, models: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Merge a parameter as HF has it in memory; each matrix alone that the files hold alone."""
    if base.ndim == 3:  # experts
        halves = 2 if family == "mixtral" and "gate_up" in name else 1
        whole = [
            [RULES[method](own[0], own[1:], True) for own in zip(*(each.chunk(halves) for each in expert), strict=True)]
            for expert in zip(base, *models, strict=True)
        ]
        return torch.stack([torch.cat(parts) for parts in whole])
    embeds = any(word in name for word in ("wte", "wpe", "embed", "shared", "lm_head")) or name.endswith("proj_bias")
    return RULES[method](base, models, base.ndim == 2 and not embeds)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("family", "method"), CASES)
def test_logits_are_those_of_a_model_merged_in_pytorch(family: str, method: str, tmp_path: Path) -> None:
    tied = {"gpt2": "tied", "llama": "full heads, tied"}
    config = config_of(family, tied.get(family, next(iter(FAMILIES[family].cases))))
    states = [save_random(tmp_path / name, family, seed=seed, **config) for seed, name in enumerate(("base", "a", "b"))]
    done = merge(
        *("merge.models=[a,b]", "merge.base=base", f"merge.method={method}", "merge.share=0.6"),
        *("merge.include=[]", "precision=float64", "hydra.run.dir=out"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    base, *models = states
    parameters = [dict(model.named_parameters()) for model in models]
    twin = {}
    with torch.no_grad():
        for name, values in base.named_parameters():
            own = [each[name] for each in parameters]
            twin[name] = RULES["arithmetic" if method == "average" else "average"](values, own, False)
            values.copy_(merge_by_torch(method, family, name, values.clone(), own))
    with float64_throughout():
        loaded = auto_class(family).from_pretrained(tmp_path / "out" / "merged", attn_implementation="eager").double()
        loaded.config._experts_implementation = "eager"  # grouped products know no float64
        ids = torch.arange(7)[None] % 11
        inputs = {"decoder_input_ids": ids} if family == "t5" else {}
        with torch.no_grad():
            logits, expected = (model.eval()(input_ids=ids, **inputs).logits.numpy() for model in (loaded, base))
            for name, values in base.named_parameters():
                values.copy_(twin[name])
            wrong = base(input_ids=ids, **inputs).logits.numpy()
    assert deviation(logits, expected) < 1e-10
    assert deviation(wrong, expected) > 1e-3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random Llamas, `a` and `b`, in shards of 20 kB, and `base` in one file."""
    folder = tmp_path_factory.mktemp("shards")
    for seed, name in enumerate(("base", "a", "b")):
        model = save_random(folder / name, "llama", seed=seed, **config_of("llama", "grouped"))
        if name != "base":
            (folder / name / "model.safetensors").unlink()
            model.save_pretrained(folder / name, max_shard_size="20KB")
    return folder


SMALL = ("merge.models=[a,b]", "merge.include=[q]", "precision=float64")


@pytest.mark.usefixtures("quick")
def test_shards_stay_shards(shards: Path) -> None:
    """Files as the first model's; HF reads them. With the base, which is one file, the result is one."""
    arguments = (*SMALL, "merge.base=null", "merge.method=average", "merge.weights=[3,1]")
    done = merge(*arguments, "merge.save=apart", "hydra.run.dir=apart-run", cwd=shards)
    assert done.code == 0, done.err
    folder = shards / "apart"
    names = {file.name for file in (shards / "a").glob("model*")}
    assert {file.name for file in folder.glob("model*")} == names
    assert len(names) > 3
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in stored(folder).values())
    for name, file in index["weight_map"].items():
        assert name in safetensors.numpy.load_file(folder / file)
    one, other = stored(shards / "a"), stored(shards / "b")
    for name, values in stored(folder).items():
        np.testing.assert_allclose(values, 0.75 * one[name] + 0.25 * other[name], atol=1e-15)
    loaded, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.num_parameters() == sum(values.size for values in one.values())
    assert merge(*SMALL, "merge.base=base", "hydra.run.dir=whole", cwd=shards).code == 0
    assert {file.name for file in (shards / "whole" / "merged").glob("model*")} == {"model.safetensors"}


def test_large_files_are_divided(shards: Path) -> None:
    tensors = open_tensors(shards / "base")
    sizes = {each.name: 8 * int(np.prod(each.shape)) for each in tensors.index.values()}
    divided = plan_shards(tensors, most_bytes=20_000)
    assert divided[0].name == f"model-00001-of-{len(divided):05d}.safetensors"
    assert len(divided) > 2
    assert sorted(each.name for shard in divided for each in shard.tensors) == sorted(sizes)
    totals = [sum(sizes[each.name] for each in shard.tensors) for shard in divided]
    assert all(total <= 20_000 or len(shard.tensors) == 1 for total, shard in zip(totals, divided, strict=True))
    assert [shard.name for shard in plan_shards(tensors)] == ["model.safetensors"]


def stop_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    calls = [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return counted


@pytest.mark.usefixtures("quick")
def test_what_a_kill_leaves_is_gone_on_with(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "a", "b"):
        (tmp_path / name).symlink_to(shards / name)
    arguments = (*SMALL, "merge.base=null", "merge.method=average")
    assert merge(*arguments, "hydra.run.dir=whole", cwd=tmp_path).code == 0
    save = "merge.save=saved"
    with monkeypatch.context() as patch:
        patch.setattr(task, "compare", stop_at(2, task.compare))
        assert merge(*arguments, save, "hydra.run.dir=cut", cwd=tmp_path).code == 130
    assert not (tmp_path / "saved").exists()
    with monkeypatch.context() as patch:
        patch.setattr(task, "merge_tensors", stop_at(25, task.merge_tensors))
        assert merge(*arguments, save, "resume=cut", cwd=tmp_path).code == 130
    left = files_below(tmp_path / "saved")
    assert "config.json" not in left
    assert any(name.startswith("model-") for name in left)
    assert json.loads((tmp_path / "saved" / "merge.json").read_text())["status"] == "unfinished"
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    kept = {name: (tmp_path / "saved" / name).stat().st_mtime_ns for name in left if name.startswith("model-")}
    # Another run may not take the folder, nor this one with another merge.
    assert_refused(merge(*arguments, save, "hydra.run.dir=new", cwd=tmp_path), tmp_path / "new", "is there already")
    other = merge(*arguments, save, "merge.weights=[2,1]", "resume=cut", cwd=tmp_path)
    assert other.code == 1
    assert "weights was [0.5, 0.5], now" in other.err
    (tmp_path / "saved" / ".jacspec-model-00002.half").write_bytes(b"what a kill -9 leaves")
    assert merge(*arguments, save, "resume=cut", cwd=tmp_path).code == 0
    assert {name: (tmp_path / "saved" / name).stat().st_mtime_ns for name in kept} == kept
    whole, saved = tmp_path / "whole" / "merged", tmp_path / "saved"
    assert files_below(whole) == files_below(saved)
    for name in files_below(whole):
        assert (whole / name).read_bytes() == (saved / name).read_bytes(), name
    for name in ("metrics.csv", "spectra.nc"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.usefixtures("quick")
def test_one_tensor_of_each_model_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = [0]
    real = TensorFiles.read

    def watched(self: TensorFiles, name: str, *, finite: bool = True) -> np.ndarray:
        values = np.array(real(self, name, finite=finite))
        alive.append(weakref.ref(values))
        most[0] = max(most[0], sum(each() is not None for each in alive))
        return values

    with monkeypatch.context() as patch:
        patch.setattr(TensorFiles, "read", watched)
        assert merge("merge.include=[o]", "hydra.run.dir=out", cwd=tmp_path).code == 0
    stored_steps = {step: stored(NANO / "revisions" / step) for step in STEPS}
    tensors = len(open_tensors(NANO).index)
    assert len(alive) == 3 * (6 + tensors)
    for name, values in stored(tmp_path / "out" / "merged").items():  # what the plain command merges
        one, other = (stored_steps[step][name].astype(np.float64) for step in STEPS[1:])
        np.testing.assert_array_equal(values, ((one + other) / 2).astype(np.float16))
    # Three models, and the bytes' owner of the tensor before, which goes when the next one is asked for.
    assert 3 <= most[0] <= 4


@pytest.mark.usefixtures("quick")
def test_merging_a_model_with_itself_gives_its_files(tmp_path: Path) -> None:
    own = stored(copy_nano(tmp_path / "own"))
    for method in ("average", "arithmetic", "star"):
        arguments = ("merge.models=[own,own]", "merge.base=own", f"merge.method={method}", "merge.include=[o]")
        done = merge(*arguments, f"hydra.run.dir={method}", cwd=tmp_path)
        assert done.code == 0, done.err
        folder = tmp_path / method / "merged"
        for name, values in stored(folder).items():
            assert values.tobytes() == own[name].tobytes(), name
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (folder / name).read_bytes() == (NANO / name).read_bytes()
    run = open_run(tmp_path / "star")
    assert set(run.metrics["first"]) == {"own", "own (2)", "own (3)"}
    assert run.metrics[run.metrics["compared"] == "tasks"]["cosine"].isna().all()


def test_a_report_of_zero_task_vectors(tmp_path: Path) -> None:
    done = merge("merge.models=[nano]", "merge.base=nano", "merge.method=none", "merge.include=[o]", cwd=tmp_path)
    assert done.code == 0, done.err
    (page,) = tmp_path.rglob("report.html")
    assert not list(tmp_path.rglob("merged"))
    assert "compatibility.pdf" not in page.read_text(encoding="utf-8")


@pytest.mark.usefixtures("quick")
def test_checkpoints_of_no_known_family_and_pickles(tmp_path: Path) -> None:
    """Tensors by name, each a matrix; kernels and vectors take the mean, what holds no weights is copied."""
    rng = np.random.default_rng(0)
    numbers: dict[str, dict[str, np.ndarray]] = {}
    for name in ("base", "a", "b"):
        own: dict[str, np.ndarray] = {
            "layers.3.up": rng.normal(size=(9, 6)).astype(np.float32),
            "kernel": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
            "norm": rng.normal(size=5).astype(np.float16),
            "places": np.arange(6),
        }
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "mystery", "size": 6}))
        if name == "b":
            torch.save({key: torch.tensor(value) for key, value in own.items()}, tmp_path / name / "pytorch_model.bin")
        else:
            safetensors.numpy.save_file(own, tmp_path / name / "model.safetensors")
        numbers[name] = own
    named = ("merge.models=[a,b]", "merge.base=base", "merge.method=star")
    done = merge(*named, "precision=float64", "hydra.run.dir=out", cwd=tmp_path)
    assert done.code == 0, done.err
    run = open_run(tmp_path / "out")
    assert "mystery" in run.provenance["read by name"]
    assert set(run.metrics["role"]) == {"layers.*.up", "kernel"}
    assert set(run.metrics["layer"]) == {3, -1}
    found = stored(tmp_path / "out" / "merged")
    base, one, other = (numbers[name] for name in ("base", "a", "b"))
    taus = [model["layers.3.up"].astype(np.float64) - base["layers.3.up"] for model in (one, other)]
    star = base["layers.3.up"] + sum(star_by_numpy(tau, 0.4) for tau in taus) / 2
    np.testing.assert_allclose(found["layers.3.up"], star, atol=1e-6)
    np.testing.assert_allclose(found["kernel"], (one["kernel"] + other["kernel"]) / 2, atol=1e-6)
    assert found["norm"].dtype == np.float16
    np.testing.assert_array_equal(found["places"], np.arange(6))
    assert found["places"].dtype == np.int64


def spoil(folder: Path, change: Callable[[dict[str, np.ndarray]], Any], config: Mapping[str, Any] = {}) -> None:
    """Copy the embedded model into a folder and change its tensors and its config."""
    copy_nano(folder)
    tensors = stored(folder)
    change(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    known = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(known | dict(config)))


WTE = "transformer.wte.weight"
NORM = "transformer.ln_f.weight"
BIAS = "transformer.h.0.attn.c_attn.bias"


def test_all_that_differs_is_named_at_once(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[WTE] = tensors[WTE][:1000]
        del tensors[NORM]
        tensors["transformer.extra"] = np.zeros(3, np.float16)
        tensors[BIAS] = tensors[BIAS].astype(np.int32)

    spoil(tmp_path / "odd", change, {"vocab_size": 1000, "n_positions": 64, "dtype": "float32"})
    vocabulary = json.loads((NANO / "tokenizer.json").read_text())
    tokens = vocabulary["model"]["vocab"]
    first, second = (token for token in tokens if tokens[token] in (300, 301))
    tokens[first], tokens[second] = tokens[second], tokens[first]
    (tmp_path / "odd" / "tokenizer.json").write_text(json.dumps(vocabulary))
    done = merge("merge.models=[nano,odd]", "merge.base=null", "merge.method=none", "hydra.run.dir=no", cwd=tmp_path)
    expected = (
        f"missing: {NORM} is not in odd, but in nano",
        "missing: transformer.extra is not in nano, but in odd",
        f"different: {BIAS}",
        "vocabulary: 2 tokens have other ids",
    )
    assert_refused(done, tmp_path, *expected)
    # What changes no weight's meaning is no reason: other files have other numbers of tokens and positions.
    assert not any(word in done.err for word in ("dtype", "vocab_size", "n_positions", "misshaped"))
    assert not (tmp_path / "no").exists()


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = "transformer.h.3.attn.c_proj.weight"
        tensors[name] = np.where(np.eye(*tensors[name].shape) > 0, np.float16(np.nan), tensors[name])

    spoil(tmp_path / "broken", change)
    done = merge("merge.models=[nano,broken]", "merge.base=null", "merge.include=[o]", cwd=tmp_path)
    assert_refused(done, tmp_path, "broken: the tensor h.3.attn.c_proj.weight", "not finite")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ("merge.models=[nano,narnia]", ["narnia is not a folder", "Accepted:"]),
        ("merge.models=[nano@step7]", ["nano@step7: ", "has no revision 'step7'", "step1024"]),
        ("merge.models=[]", ["names no model"]),
        ("merge.models=[nano] merge.base=null", ["Name another, or merge.base"]),
        ("merge.base=null merge.method=star", ["merge.method=star needs a common base", "merge.method=average"]),
        ("merge.method=average merge.coefficient=2", ["merge.coefficient=2.0", "merge.method=arithmetic"]),
        ("merge.method=tie", ["merge.method", "ties"]),
        ("merge.share=1.5", ["merge.share=1.5"]),
        ("merge.top_k=0", ["merge.top_k=0"]),
        ("merge.alpha=1.5", ["merge.alpha=1.5", "0 to 1"]),
        ("merge.rank_variance=-1", ["merge.rank_variance=-1", "null"]),
        ("merge.weights=[1]", ["merge.models names 2"]),
        ("merge.include=[nothing]", ["No matrix is left"]),
        ("merge.models=[ORG/NAME,nano]", ["ORG/NAME", "hub cannot be reached"]),
        ("merge.save=full", ["full is there already", "merge.save=OTHER"]),
        ("merge.method=arithmetic merge.coefficient=1e9", ["exceeds what F16 holds", "merge.coefficient"]),
    ],
)
@pytest.mark.usefixtures("quick")
def test_wrong_choices_are_answered(arguments: str, fragments: list[str], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "own.txt").write_text("mine")
    few = () if "include" in arguments else ("merge.include=[h.0.attn.c_proj.weight]",)
    assert_refused(merge(*few, *arguments.split(), "hydra.run.dir=no", cwd=tmp_path), tmp_path, *fragments)
    assert (tmp_path / "full" / "own.txt").read_text() == "mine"


def test_names_and_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_nano(tmp_path / "my@model")
    found = open_siblings(["nano@step16", "my@model/", str(NANO), "nano"], dtype="float32")
    assert [each.label for each in found] == ["nano@step16", "my@model", "nano", "nano (2)"]
    assert [each.location.revision for each in found] == ["step16", None, None, None]
    assert found[0].tensors.files[0].parent.name == "step16"
    assert NUMPY_TYPES["BF16"].itemsize == 2


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("resized", ["shared", "first"])
def test_labels_and_sizes_of_tables_keep_nothing_apart(resized: str, tmp_path: Path) -> None:
    """Llamas with more tokens, positions and another base of rotations: merged as PyTorch does."""
    config = config_of("llama", "full heads, untied")
    other = {"vocab_size": config["vocab_size"] + 3, "max_position_embeddings": 512, "initializer_range": 0.5}
    models = [save_random(tmp_path / "a", "llama", seed=0, **config)]
    models.append(save_random(tmp_path / "b", "llama", seed=1, **config | other))
    file = tmp_path / "b" / "config.json"
    written = json.loads(file.read_text())
    theta = written["rope_parameters"]["rope_theta"]
    written["rope_parameters"]["rope_theta"] = 5 * theta
    file.write_text(json.dumps(written | {"use_cache": False, "bos_token_id": 3}))
    done = merge(
        *("merge.models=[a,b]", "merge.base=null", "merge.embeddings=true", f"merge.resized={resized}"),
        *("merge.include=[]", "precision=float64", "hydra.run.dir=out"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    notes = "\n".join(run["notes"])
    for key in ("vocab_size", "max_position_embeddings", "initializer_range", "use_cache", "bos_token_id"):
        assert f"config: {key} is" in notes
        assert key in done.out
    assert "resized: " in notes
    assert "rope_parameters" in run["warning"]
    assert "rope_parameters" in done.out
    first, second = (dict(model.named_parameters()) for model in models)
    with torch.no_grad():
        for name, values in first.items():
            rows = min(len(values), len(second[name]))
            if len(values) == len(second[name]) or resized == "shared":
                values[:rows] = (values[:rows] + second[name][:rows]) / 2
    with float64_throughout(), torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "merged", attn_implementation="eager").double()
        ids = torch.arange(7)[None] % 11
        logits, expected = (model.eval()(input_ids=ids).logits.numpy() for model in (loaded, models[0]))
    assert deviation(logits, expected) < 1e-10


def test_what_changes_the_meaning_of_weights_is_refused(tmp_path: Path) -> None:
    """A key at a time: another eps, activation or number of heads is another model, whatever the shapes say."""
    config = config_of("llama", "full heads, untied")
    save_random(tmp_path / "a", "llama", **config)
    for key, value in {"rms_norm_eps": 1e-3, "hidden_act": "gelu", "num_attention_heads": 2}.items():
        changed = {key: value} | ({"num_key_value_heads": 2} if key == "num_attention_heads" else {})
        folder = tmp_path / key
        save_random(folder, "llama", **config)
        written = json.loads((folder / "config.json").read_text())
        heads = {"head_dim": written["head_dim"] * written["num_attention_heads"] // 2} if len(changed) > 1 else {}
        (folder / "config.json").write_text(json.dumps(written | changed | heads))
        done = merge(f"merge.models=[a,{key}]", "merge.base=null", "hydra.run.dir=no", cwd=tmp_path)
        assert_refused(done, tmp_path, f"config: {key} is {value!r} in {key}")


def write_adapter(folder: Path, base: Path, name: str, seed: int) -> np.ndarray:
    """Write a LoRA of rank 2 of one weight in PEFT's layout; returns what it adds to that, s B A."""
    rng = np.random.default_rng(seed)
    rows, cols = stored(base)[f"{name}.weight"].shape
    a, b = rng.normal(size=(2, cols)), rng.normal(size=(rows, 2))
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "target_modules": [name.rpartition(".")[2]]}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    safetensors.numpy.save_file(
        {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b},
        folder / "adapter_model.safetensors",
    )
    return 3 / 2 * b @ a


@pytest.mark.usefixtures("quick")
def test_adapters_are_joined_on_their_common_left_vectors(tmp_path: Path) -> None:
    """KnOTS is for updates of low rank: two folders of PEFT's are the models, and their base the base."""
    base, name = tmp_path / "base", "model.layers.0.self_attn.q_proj"
    save_random(base, "llama", **config_of("llama", "grouped"))
    taus = [write_adapter(tmp_path / f"adapter_{seed}", base, name, seed) for seed in (0, 1)]
    words = ("merge.models=[adapter_0,adapter_1]", "merge.base=base", "merge.method=knots_ties", "merge.density=0.3")
    done = merge(
        *words,
        "precision=float64",
        "merge.include=[*layers.0.self_attn.q_proj.weight]",
        "hydra.run.dir=out",
        cwd=tmp_path,
    )
    assert done.code == 0, done.err
    before, merged = stored(base), stored(tmp_path / "out" / "merged")
    found = merged[f"{name}.weight"] - before[f"{name}.weight"]
    np.testing.assert_allclose(found, knots_by_hand(taus, 0.3, [1, 1]), atol=1e-9)
    wrong = (knots_by_hand([tau.T for tau in taus], 0.3, [1, 1]).T, knots_by_hand([taus[0], taus[0]], 0.3, [1, 1]))
    assert all(np.abs(found - other).max() > 0.1 for other in wrong)
    assert all(np.array_equal(merged[each], before[each]) for each in before if each != f"{name}.weight")
    alone = open_run(tmp_path / "out").metrics
    assert set(alone["first"]) | set(alone["second"]) == {"base", "adapter_0", "adapter_1"}
