"""Fisher spectra: every sample's gradient by torch's autograd of HF's models, their products and sums by NumPy."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES
from oracles import deviation, float64_throughout, save_random
from scipy import stats
from servers import run_here
from test_overlap import MODULES
from test_study_findings import put

import jacspec
from jacspec import JacspecError, load_model
from jacspec.backend import numerics
from jacspec.studies.overlap import gradients
from jacspec.studies.overlap.fisher import (
    FisherProfile,
    fisher_of_blocks,
    independent_level,
    jackknife,
    measure_fisher,
)
from jacspec.studies.overlap.fisher_columns import OF_FISHER
from jacspec.studies.overlap.fisher_figures import fisher_figures
from jacspec.studies.overlap.fisher_findings import fisher_findings
from jacspec.studies.overlap.gradients import Factors, Scored, score_samples, stream_gradients
from jacspec.studies.overlap.run import _stream
from jacspec.text.corpus import make_batches

NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {
        "attn.o": "transformer.h.{}.attn.c_proj",
        "mlp.up": "transformer.h.{}.mlp.c_fc",
        "mlp.down": "transformer.h.{}.mlp.c_proj",
    },
    **{
        family: {f"{'attn' if role in 'qkvo' else 'mlp'}.{role}": name for role, name in MODULES[family].items()}
        for family in ("llama", "bert", "gpt_neox")
    },
}
"""HF's modules by place: Conv1D, gated with shared keys, post-norm with masked tokens, parallel."""


def _tokens(count: int = 9) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(3, 37, length).tolist() for length in rng.integers(4, 12, count)]


def _scored(family: str, tokens: Sequence[Sequence[int]], model: Any, monkeypatch: pytest.MonkeyPatch) -> Scored:
    if family == "bert":
        tokenizer = SimpleNamespace(mask_token_id=1, all_special_ids=[0, 1, 2])
        monkeypatch.setattr(type(model), "tokenizer", tokenizer)
    return score_samples(model, tokens, count=len(tokens), seed=0)


def _hf_gradients(hf: Any, scored: Scored, labels: Sequence[np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Differentiate HF's own loss of each sample by itself; weights (out, in)."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for tokens, own in zip(scored.tokens, labels, strict=True):
        hf.zero_grad()
        with float64_throughout():
            hf(input_ids=torch.tensor([tokens]), labels=torch.as_tensor(own)[None], use_cache=False).loss.backward()
        for name in names:
            module = hf.get_submodule(name)
            gradient = module.weight.grad.numpy()
            found[name].append((gradient.T if type(module).__name__ == "Conv1D" else gradient).copy())
    return {name: np.stack(parts) for name, parts in found.items()}


def _hf_labels(family: str, scored: Scored, original: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """HF's labels: a decoder's are its tokens, which HF shifts; an encoder's the masked tokens, −100 elsewhere."""
    if family != "bert":
        return [np.array(tokens) for tokens in original]
    return [
        np.where(np.array(read) == 1, np.array(tokens), -100)
        for read, tokens in zip(scored.tokens, original, strict=True)
    ]


def _expected(weight: np.ndarray, g: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """S_k, eigenvalues of F and columns, from whole gradients (sample, out, in), each written out."""
    flat = g.reshape(len(g), -1)
    eigenvalues = np.square(np.linalg.svd(flat / np.sqrt(len(g)), compute_uv=False))
    left, sigma, right = np.linalg.svd(weight, full_matrices=False)
    every = np.einsum("mk,smn,ln->skl", left, g, right)
    size, norms = max(1, len(sigma) // 10), np.square(flat).sum(1)
    scale = weight.size / norms.sum()
    sensitivity = scale * np.square(np.einsum("skk->sk", every)).sum(0)
    columns = {
        "fisher_samples": len(g),
        "fisher_trace": eigenvalues.sum(),
        "fisher_top": eigenvalues[0] / eigenvalues.sum(),
        "fisher_participation": eigenvalues.sum() ** 2 / np.square(eigenvalues).sum(),
        "fisher_mean": np.square(flat.mean(0)).sum() / norms.mean(),
    }
    ends = {"top": 0, "middle": (len(sigma) - size) // 2, "bottom": len(sigma) - size}
    for end, start in ends.items():
        part = range(start, start + size)
        columns[f"sensitivity_{end}"] = np.mean([sensitivity[k] for k in part])
        crossed = [scale * np.square(every[:, k, j]).sum() for k in part for j in part if k != j]
        columns |= {f"crossed_{end}": np.mean(crossed)} if crossed else {}
        changes = [sum(sigma[k] * every[sample, k, k] for k in part) for sample in range(len(g))]
        columns[f"removal_{end}"] = np.mean([0.5 * t * change**2 for t, change in zip(counts, changes, strict=True)])
    columns["sensitivity_ratio"] = columns["sensitivity_bottom"] / columns["sensitivity_middle"]
    return sensitivity, eigenvalues / eigenvalues.sum(), columns


def _deviations(
    found: FisherProfile, expected: tuple[np.ndarray, np.ndarray, dict[str, float]]
) -> Iterator[tuple[str, float]]:
    sensitivity, eigenvalues, columns = expected
    yield "sensitivity", deviation(found.sensitivity, sensitivity)
    yield "eigenvalues", deviation(found.eigenvalues, eigenvalues)
    yield from ((name, deviation(found.values[name], value)) for name, value in columns.items())


@pytest.mark.parametrize("family", NAMES)
def test_fisher_is_that_of_hf_gradients(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(iter(FAMILIES[family].cases.values()))
    hf = save_random(tmp_path, family, spread=0.1, **FAMILIES[family].base | case)
    original = _tokens()
    with numerics("float64"):
        model = load_model(tmp_path, precision="float64")
        scored = _scored(family, original, model, monkeypatch)
        found = fisher_of_blocks(model, [0, 1], scored=scored, drawn_labels=False, memory_gib=1.0)
    names = {(layer, place): name.format(layer) for place, name in NAMES[family].items() for layer in (0, 1)}
    labels = _hf_labels(family, scored, original)
    whole = _hf_gradients(hf, scored, labels, list(names.values()))
    counts = np.array([(own != -100).sum() - (family != "bert") for own in labels])
    np.testing.assert_array_equal(scored.counts, counts)
    assert len(found[0]) == (7 if family == "llama" else 6)
    for (layer, place), name in names.items():
        module = hf.get_submodule(name)
        weight = module.weight.detach().numpy()
        weight = weight.T if type(module).__name__ == "Conv1D" else weight
        for what, off in _deviations(found[layer][place], _expected(weight, whole[name], counts)):
            assert off < 1e-7, (name, what, off)
        wrong = _expected(weight, whole[name] - whole[name].mean(0), counts)  # as if the mean were taken away
        assert dict(_deviations(found[layer][place], wrong))["eigenvalues"] > 1e-3
        if weight.shape[0] == weight.shape[1]:
            turned = _expected(weight, whole[name].transpose(0, 2, 1), counts)
            assert dict(_deviations(found[layer][place], turned))["sensitivity"] > 1e-2


def test_loss_of_other_targets_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that is to predict its own token, and samples that are weighted as one batch's mean."""
    hf = save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    with numerics("float64"):
        model = load_model(tmp_path, precision="float64")
        scored = _scored("llama", _tokens(), model, monkeypatch)
        name = "model.layers.1.mlp.up_proj"
        whole = _hf_gradients(hf, scored, [np.array(own) for own in scored.tokens], [name])[name]
        weight = hf.get_submodule(name).weight.detach().numpy()
        for changed in (
            scored._replace(targets=[np.array(own, np.int32) for own in scored.tokens]),
            scored._replace(weights=[own / 9 for own in scored.weights]),
        ):
            own = fisher_of_blocks(model, [1], scored=changed, drawn_labels=False, memory_gib=1.0)[1]["mlp.up"]
            assert dict(_deviations(own, _expected(weight, whole, scored.counts)))["fisher_trace"] > 1e-2


def test_drawn_labels_are_those_of_hf_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn by the lots of each token, so that other batches draw the same; and as often as the softmax says."""
    hf = save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    with numerics("float64"):
        model = load_model(tmp_path, precision="float64")
        scored = _scored("llama", _tokens(), model, monkeypatch)
        (found,) = fisher_of_blocks(model, [1], scored=scored, drawn_labels=True, memory_gib=1.0).values()
        (few,) = fisher_of_blocks(model, [1], scored=scored, drawn_labels=True, memory_gib=1e-7).values()
    labels = []
    for tokens, lots in zip(scored.tokens, scored.lots, strict=True):
        with torch.no_grad(), float64_throughout():
            p = torch.softmax(hf(input_ids=torch.tensor([tokens]), use_cache=False).logits[0], -1).numpy()
        drawn = [int(np.searchsorted(np.cumsum(row), lot)) for row, lot in zip(p, lots, strict=True)]
        labels.append(np.array([0, *drawn[:-1]]))  # HF moves labels by one
    name = "model.layers.1.mlp.up_proj"
    whole = _hf_gradients(hf, scored, labels, [name])[name]
    expected = _expected(hf.get_submodule(name).weight.detach().numpy(), whole, scored.counts)
    assert max(off for _, off in _deviations(found["mlp.up"], expected)) < 1e-7
    assert max(off for _, off in _deviations(few["mlp.up"], expected)) < 1e-7
    logits, lots = np.log([0.2, 0.0001, 0.5, 0.2999]), (np.arange(4000) + 0.5) / 4000
    counts = np.bincount(
        gradients._draw(jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (4000, 4)), jnp.asarray(lots, jnp.float32))
    )
    np.testing.assert_allclose(counts / 4000, np.exp(logits), atol=1e-3)


def test_float32_and_blocks_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    found = {}
    for precision, blocks in (("float64", [0, 1]), ("float32", [0])):
        with numerics(precision):
            model = load_model(tmp_path, precision=precision)
            scored = _scored("llama", _tokens(), model, monkeypatch)
            found[precision] = fisher_of_blocks(model, blocks, scored=scored, drawn_labels=False, memory_gib=1.0)
    assert list(found["float32"]) == [0]
    for place, own in found["float32"][0].items():
        assert deviation(own.sensitivity, found["float64"][0][place].sensitivity) < 1e-3
        assert deviation(own.eigenvalues, found["float64"][0][place].eigenvalues) < 1e-5


def _independent(rng: np.random.Generator, samples: int, tokens: int, m: int, n: int) -> tuple[Factors, np.ndarray]:
    own = np.repeat(np.arange(samples), tokens)
    size = np.exp(rng.normal(size=samples))[own, None]
    return Factors(rng.normal(size=(len(own), n)), size * rng.normal(size=(len(own), m))), own


def test_independent_gradients_are_at_the_level_of_chance() -> None:
    """Of Gaussian factors, sizes a sample's own; a shared direction and one of W's own pairs are seen."""
    rng, samples, tokens, (m, n) = np.random.default_rng(0), 24, 40, (40, 60)
    weight = rng.normal(size=(m, n))
    with numerics("float64"):
        runs = [
            measure_fisher(weight, *_independent(rng, samples, tokens, m, n), np.ones(samples, int)) for _ in range(40)
        ]
        table = {name: np.array([run.values[name] for run in runs]) for name in OF_FISHER}
        assert table["fisher_top"] == pytest.approx(table["fisher_top_chance"], rel=0.15)
        assert table["fisher_participation"] == pytest.approx(table["fisher_participation_chance"], rel=0.05)
        assert table["fisher_mean"].mean() == pytest.approx(1 / samples, rel=0.05)
        np.testing.assert_allclose(np.mean([run.sensitivity for run in runs]), 1, atol=0.02)
        for end in ("top", "middle", "bottom"):
            own, error = table[f"sensitivity_{end}"], table[f"sensitivity_{end}_error"]
            assert own.mean() == pytest.approx(1, abs=0.1)
            assert table[f"crossed_{end}"].mean() == pytest.approx(1, abs=0.1)
            # Over draws of the gradients it varies as its error says, which is no more than by chance.
            assert np.sqrt(np.square(error).mean()) == pytest.approx(own.std(), rel=0.3)
            assert table["sensitivity_spread"].mean() == pytest.approx(own.std(), rel=0.3)
        assert np.sqrt(np.square(table["sensitivity_ratio_error"]).mean()) == pytest.approx(
            np.log(table["sensitivity_ratio"]).std(), rel=0.3
        )
        left, _, right = np.linalg.svd(weight)
        for place, end in ((0, "top"), (m - 1, "bottom")):
            factors, owner = _independent(rng, samples, tokens, m, n)
            along = np.zeros_like(owner) == 0
            planted = Factors(
                np.concatenate([factors.inputs, np.tile(30 * right[place], (along.sum(), 1))]),
                np.concatenate([factors.slopes, np.tile(left[:, place], (along.sum(), 1))]),
            )
            found = measure_fisher(weight, planted, np.concatenate([owner, owner]), np.ones(samples, int))
            assert found.values[f"sensitivity_{end}"] > 20 * found.values["sensitivity_middle"]
            assert found.values[f"crossed_{end}"] < 0.2 * found.values[f"sensitivity_{end}"]
            assert found.values["fisher_mean"] > 10 / samples
            assert found.values["fisher_top"] > 2 * found.values["fisher_top_chance"]


def test_level_of_independent_directions_is_that_of_vectors_drawn_whole() -> None:
    """Also where there are fewer dimensions than samples."""
    rng, shares = np.random.default_rng(1), np.array([0.4, 0.2, 0.1, *[0.05] * 6])
    for entries in (5, 30, 2000):
        drawn = rng.normal(size=(300, len(shares), entries))
        drawn *= (np.sqrt(shares) / np.linalg.norm(drawn, axis=2))[..., None]
        grams = drawn @ drawn.transpose(0, 2, 1)
        level, ratios = independent_level(shares, entries), 1 / np.square(grams).sum((1, 2))
        expected = np.linalg.eigvalsh(grams)[:, ::-1].mean(axis=0)
        np.testing.assert_allclose(level.eigenvalues, expected, rtol=0.06, atol=0.02)
        assert level.participation == pytest.approx(ratios.mean(), rel=0.04)
        assert level.participation_low == pytest.approx(np.quantile(ratios, 0.01), rel=0.06)


def test_jackknife_is_that_of_samples_left_out_one_by_one() -> None:
    rng = np.random.default_rng(2)
    above, below = rng.random(11), rng.random(11)
    ratios = np.array([np.delete(above, k).sum() / np.delete(below, k).sum() for k in range(11)])
    for logarithm, values in ((False, ratios), (True, np.log(ratios))):
        expected = np.sqrt(10 / 11 * np.square(values - values.mean()).sum())
        assert jackknife(above, below, logarithm=logarithm) == pytest.approx(expected)


def test_zeros_have_reasons() -> None:
    with numerics("float64"):
        factors, owner = _independent(np.random.default_rng(0), 8, 3, 20, 30)
        nothing = measure_fisher(np.ones((20, 30)), factors._replace(slopes=0 * factors.slopes), owner, np.ones(8, int))
        empty = measure_fisher(np.zeros((20, 30)), factors, owner, np.ones(8, int))
        narrow = measure_fisher(
            np.eye(20, 30)[:, :12], factors._replace(inputs=factors.inputs[:, :12]), owner, np.ones(8, int)
        )
    assert nothing.reason == "all gradients are zero"
    assert nothing.values["fisher_trace"] == 0
    assert np.isnan(nothing.values["fisher_top"])
    assert np.isnan(empty.sensitivity).all()
    assert empty.values["fisher_top"] > 0
    assert "none to cross it with" in narrow.reason
    assert np.isnan(narrow.values["crossed_top"])
    assert narrow.values["sensitivity_top"] > 0


def test_samples_that_have_no_loss_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random(tmp_path / "t5", "t5", **FAMILIES["t5"].base)
    with pytest.raises(JacspecError, match=r"overlap\.fisher is for decoders.*Type overlap\.fisher=0"):
        score_samples(load_model(tmp_path / "t5"), _tokens(), count=8, seed=0)
    nano = load_model("nano")
    with pytest.raises(JacspecError, match="has no token to predict"):
        score_samples(nano, [[5]] * 8, count=8, seed=0)
    monkeypatch.setattr(gradients, "HOST_GIB", 1e-6)
    with pytest.raises(JacspecError, match=r"GiB of streams on the host, more than 1e-06\. Type overlap\.fisher="):
        list(
            stream_gradients(
                nano, score_samples(nano, _tokens(), count=9, seed=0), [0], drawn_labels=False, memory_gib=1.0
            )
        )
    monkeypatch.undo()
    drawn = score_samples(nano, _tokens(), count=5, seed=0)
    assert len(drawn.tokens) == 5
    assert all(tokens in _tokens() for tokens in drawn.tokens)


def test_masks_are_as_many_as_berts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One at least, none of a special token; the loss is of the hidden tokens."""
    save_random(tmp_path, "bert", **FAMILIES["bert"].base)
    tokens = [[0, *[5 + place % 30 for place in range(length)], 2] for length in (3, 40, 20, 7, 20, 20, 20, 20)]
    tokens = [[*own[:23], 2] for own in tokens]
    scored = _scored("bert", tokens, load_model(tmp_path), monkeypatch)
    for own, read, targets, weights in zip(tokens, *scored[:3], strict=True):
        masked = np.flatnonzero(np.array(read) == 1)
        assert len(masked) == max(round(0.15 * sum(token > 2 for token in own)), 1)
        assert all(own[place] > 2 for place in masked)
        np.testing.assert_array_equal(np.flatnonzero(weights), masked)
        np.testing.assert_array_equal(targets[masked], np.array(own)[masked])
        assert weights.sum() == pytest.approx(1)
        assert [token for place, token in enumerate(read) if place not in masked] == [
            token for place, token in enumerate(own) if place not in masked
        ]


TEXTS = [
    f"And {word} the light of the {other} is gone" for word in ("all", "soon", "so") for other in ["sea", "sun", "sky"]
]


def test_run_from_python_has_columns_arrays_and_figures(tmp_path: Path) -> None:
    """Beside rows of heads, which have none; a block that is done is not measured again."""
    model = load_model("nano")
    run = jacspec.overlap(model, TEXTS, fisher=8, fisher_labels="model", heads=True, layers=[1, 4])
    table, matrices = run.metrics, run.metrics["head"].isna()
    assert {*OF_FISHER} <= {*table}
    assert (table.loc[matrices, "fisher_samples"] == 8).all()
    assert table.loc[matrices, [*OF_FISHER]].notna().all(axis=None)
    assert table.loc[~matrices, [*OF_FISHER]].isna().all(axis=None)
    own = run.dataset.isel(matrix=int(np.flatnonzero((table["role"] == "up") & (table["layer"] == 4))[0]))
    known = own["sensitivity"].values[np.isfinite(own["sensitivity"].values)]
    assert len(known) == 96
    row = table[(table["role"] == "up") & (table["layer"] == 4)].iloc[0]
    assert known[:9].mean() == pytest.approx(row["sensitivity_top"], rel=1e-5)
    eigenvalues = own["fisher_eigenvalues"].values
    assert np.nansum(eigenvalues) == pytest.approx(1, rel=1e-5)
    assert np.isfinite(eigenvalues).sum() == 8
    figures = fisher_figures(run)
    panel = figures["sensitivity"].draw().axes[0]
    drawn = {line.get_label(): line.get_ydata() for line in panel.get_lines()}
    q = run.dataset.isel(matrix=int(np.flatnonzero((table["role"] == "q") & (table["layer"] == 1))[0]))
    expected = [part.mean() for part in np.array_split(q["sensitivity"].values[:96], 10)]
    np.testing.assert_allclose(np.asarray(drawn["layer 1"], float), expected, rtol=1e-5)
    assert len(figures["fisher_spectrum"].draw().axes) == 6
    assert not fisher_figures(jacspec.overlap(model, TEXTS, layers=[0]))


def test_blocks_that_are_done_are_left_alone(tmp_path: Path) -> None:
    save_random(tmp_path, "llama", spread=0.1, **FAMILIES["llama"].base)
    asked: list[list[int]] = []
    with numerics("float64"):
        model = load_model(tmp_path, precision="float64")
        scored = score_samples(model, _tokens(), count=9, seed=0)
        batches = make_batches(_tokens(), size=4)

        def fisher(wanted: Collection[int]) -> Mapping[int, Any]:
            asked.append(list(wanted))
            return fisher_of_blocks(model, wanted, scored=scored, drawn_labels=False, memory_gib=1.0)

        first, second = _stream(model, batches, "shifted", {}, fisher=fisher)
        (again,) = _stream(model, batches, "shifted", {row.number: row for row in first}, fisher=fisher)
        for _ in _stream(model, batches, "shifted", {row.number: row for row in (*first, *second)}, fisher=fisher):
            raise AssertionError
    assert asked == [[0, 1], [1]]
    for one, other in zip(second, again, strict=True):
        assert one.key == other.key
        np.testing.assert_array_equal(one.arrays["sensitivity"], other.arrays["sensitivity"])
        np.testing.assert_equal(dict(one.values), dict(other.values))


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [("overlap.fisher=3", "Type overlap.fisher=64"), ("overlap.fisher_labels=true", "overlap.fisher_labels")],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here("task=overlap", wrong, "data.samples=20", "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err


def _found(folder: Path, rng: np.random.Generator, planted: bool) -> list[str]:
    """Sentences on 6 layers of two roles; planted: `up` is sensitive at its small end, gradients are alike."""

    def row(layer: int, role: str) -> dict[str, Any]:
        spread, small = 0.1, 4.0 if planted and role == "up" else 1.0
        ends = {"top": 1.0, "middle": 1.0, "bottom": small}
        sensitivity = {f"sensitivity_{end}": size + rng.normal(0, spread) for end, size in ends.items()}
        participation = 20 + rng.normal(0, 0.2) - 8 * planted
        return {
            "layer": layer,
            "role": role,
            **sensitivity,
            **{f"sensitivity_{end}_error": spread for end in ends},
            "sensitivity_spread": 1e-3,
            "sensitivity_ratio": sensitivity["sensitivity_bottom"] / sensitivity["sensitivity_middle"],
            "crossed_bottom": (1 + rng.normal(0, spread)) * (0.5 if planted else 1),
            "fisher_samples": 32,
            "fisher_trace": 1.0,
            "fisher_participation": participation,
            "fisher_participation_chance": 20.0,
            "fisher_participation_low": 20 - 2.326 * 0.2,
        }

    return list(
        fisher_findings(put(folder, "overlap", [row(layer, role) for layer in range(6) for role in ("q", "up")]))
    )


def test_planted_sensitivity_is_said_and_chance_is_not(tmp_path: Path) -> None:
    said = "\n".join(_found(tmp_path, np.random.default_rng(0), True))
    assert "beyond errors it is more sensitive than there in 0, 0 and 6 of them" in said
    assert re.search(r"more sensitive along the smallest tenth than along the middle one: [34]\.\d+ \(", said)
    assert "in q" not in said
    assert "times as sensitive to the singular pairs as to the same directions paired otherwise" in said
    assert "in 12 of 12 matrices over fewer than one in 100 of these" in said
    claims = r"there in [1-9]|, [1-9]\d* and|and [1-9]\d* of them|one: |paired otherwise|over fewer than one in 100"
    seen = [re.search(claims, " ".join(_found(tmp_path, np.random.default_rng(seed), False))) for seed in range(60)]
    assert sum(map(bool, seen)) <= stats.binom.ppf(0.999, 60 * 4, 0.05)
