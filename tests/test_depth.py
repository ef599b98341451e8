"""Through depth: products of block Jacobians against HF's whole-sequence derivatives, exponents, `task=depth`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from families import CASES, GPT2, config_of, layout_of
from oracles import Seen, branch_jacobian, deviation, save_random, watch
from servers import CONTRACT, TINY, files_below, run_here

from jacspec import JacspecError, load_model, open_run
from jacspec.backend import numerics
from jacspec.jacobians.engine import prepare_batches
from jacspec.models.checkpoint import Checkpoint, open_checkpoint
from jacspec.studies.depth import products as depth
from jacspec.studies.depth.products import DepthPlan, choose_layers, choose_parts, stream_depth

FIRST_CASES = {family: name for name, (family, _) in reversed(CASES.items())}
KINDS = ("gpt_neox", "gemma2", "olmo2", "bert", "t5")
"""A family of each kind of block: parallel, norms before and after, after, around the sum, two stacks with cross
attention. The blocks of every family have HF's Jacobians by tests/test_families.py; here they are multiplied.
"""
BIDIRECTIONAL = {("", "bert"), ("encoder.", "t5")}
NAMES = ("spectral_radius", "decay_ratio")
TOKENS = ([3, 4, 5, 6, 7, 8, 9, 10, 11], [12, 13, 14])


def _results(checkpoint: Checkpoint, plan: DepthPlan, tokens: Sequence[Sequence[int]] = TOKENS) -> list[Any]:
    batches = prepare_batches(checkpoint, tokens, memory_gib=1.0, engine="lanczos")
    return list(stream_depth(checkpoint, batches, plan))


def _frame(sample: int, exponents: int, d_model: int) -> np.ndarray:
    """The columns that a sample's exponents start from."""
    key = jax.random.fold_in(jax.random.key(0), 1)
    drawn = depth._draw_frames(key, jnp.asarray([sample]), exponents, d_model, jnp.dtype("float64"))
    return np.asarray(drawn[0]).T


@pytest.mark.few(2)
@pytest.mark.parametrize("family", KINDS)
def test_path_equals_hf(family: str, tmp_path: Path) -> None:
    """The product of HF's blocks; in causal stacks also HF's derivative through all of them, other tokens moving."""
    _, case = CASES[FIRST_CASES[family]]
    config = config_of(family, case)
    model = save_random(tmp_path, family, **config)
    seen = [
        watch(model, layout_of(family, config), np.array(ids), config.get("decoder_start_token_id")) for ids in TOKENS
    ]
    with numerics("float64"):
        checkpoint = open_checkpoint(tmp_path, dtype="float64")
        spec = checkpoint.spec
        first, last = choose_layers(0, None, 3, spec)
        assert last >= 1
        plan = DepthPlan(NAMES, first, last, 3, tolerance=1e-10, audit=2, parts=choose_parts(spec), dense=len(TOKENS))
        results = _results(checkpoint, plan)
        assert bool(plan.parts) == (family != "gpt_neox")
        for sample, one in enumerate(seen):
            products: dict[str, np.ndarray] = {}
            normal: dict[str, np.ndarray] = {}
            frames: dict[str, tuple[np.ndarray, dict[str, np.ndarray]]] = {}
            for result in results:
                ((component, sigma),) = result.singular_values.items()
                stack = component.removesuffix("path")
                block = branch_jacobian(one.calls[stack.rstrip("."), "block", result.layer])
                products[stack] = block @ products.get(stack, np.eye(len(block)))
                expected = np.linalg.svd(products[stack], compute_uv=False)[:2]
                assert deviation(sigma[sample], expected) < 1e-9
                growths = [result.metrics[component][f"finite_time_{i}"][sample] for i in (1, 2)]
                assert growths == pytest.approx(np.log(expected) / (result.layer + 1), abs=1e-8)
                assert result.metrics[component]["lyapunov_1"][sample] <= growths[0] + 1e-9
                volumes = _log_volumes(products[stack] @ _frame(sample, 3, spec.d_model))
                found = [result.metrics[component][f"lyapunov_{i}"][sample] for i in (1, 2, 3)]
                assert np.cumsum(found) * (result.layer + 1) == pytest.approx(volumes, rel=1e-8, abs=1e-8)
                values = {name: column[sample] for name, column in result.metrics[component].items()}
                normal[stack] = _normal(block) @ normal.get(stack, np.eye(len(block)))
                growth = np.log(np.linalg.norm(normal[stack], 2)) / (result.layer + 1)
                assert values["normal_finite_time_1"] == pytest.approx(growth, abs=1e-7)
                assert values["nonnormal_growth"] == pytest.approx(growths[0] - growth, abs=1e-7)
                shares = np.linalg.svd(products[stack], compute_uv=False)
                shares /= shares.sum()
                rank = np.exp(-(shares * np.log(shares)).sum())
                assert values["cumulative_effective_rank"] == pytest.approx(rank, rel=1e-7)
                if plan.parts:
                    frame = frames.get(stack, (_frame(sample, 3, spec.d_model), {}))
                    frames[stack] = _split(one, stack.rstrip("."), result.layer, *frame)
                    _check_parts(values, frames[stack][1], result.layer + 1, exact=family != "bert")
            for stack, product in products.items():
                through = _through_all(one, stack.rstrip("."), last)
                assert (deviation(product, through) < 1e-9) == ((stack, family) not in BIDIRECTIONAL)


def _normal(matrix: np.ndarray) -> np.ndarray:
    """A real Schur form whose diagonal blocks are made of their eigenvalues, all else left out."""
    triangular, basis = scipy.linalg.schur(matrix)
    kept, row = np.zeros_like(triangular), 0
    while row < len(kept):
        size = 2 if row + 1 < len(kept) and triangular[row + 1, row] else 1
        value = np.linalg.eigvals(triangular[row : row + size, row : row + size])[0]
        turn = abs(value.imag) * np.sign(triangular[row, min(row + 1, len(kept) - 1)])
        kept[row : row + size, row : row + size] = (
            [[value.real, turn], [-turn, value.real]] if size == 2 else value.real
        )
        row += size
    return basis @ kept @ basis.T


def _split(
    seen: Seen, stack: str, layer: int, frame: np.ndarray, logs: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Carry columns through I + J of every HF branch in turn, and add up the logarithms of R's diagonal by branch."""
    for part in ("attn", "cross", "mlp"):
        if (stack, part, layer) in seen.calls:
            frame, r = np.linalg.qr(frame + branch_jacobian(seen.calls[stack, part, layer]) @ frame)
            logs = {**logs, part: logs.get(part, 0) + np.log(np.abs(np.diagonal(r)))}
    return frame, logs


def _check_parts(values: dict[str, float], logs: dict[str, np.ndarray], layers: int, *, exact: bool) -> None:
    """Compare what every sublayer adds; where norms stand behind the sums (BERT), that the parts add up."""
    for i in range(3):
        found = {part: values[f"lyapunov_{part}_{i + 1}"] for part in logs}
        assert sum(found.values()) == pytest.approx(values[f"lyapunov_{i + 1}"], abs=1e-10)
        if exact:
            assert found == pytest.approx({part: added[i] / layers for part, added in logs.items()}, abs=1e-8)


def _log_volumes(columns: np.ndarray) -> np.ndarray:
    """The logarithms of the volumes that the first 1, 2, … columns span."""
    return np.array([0.5 * np.linalg.slogdet(part.T @ part)[1] for part in map(columns.__getitem__, _leading(columns))])


def _leading(columns: np.ndarray) -> list[Any]:
    return [np.s_[:, : count + 1] for count in range(columns.shape[1])]


def _through_all(seen: Seen, stack: str, last: int) -> np.ndarray:
    return branch_jacobian([call for layer in range(last + 1) for call in seen.calls[stack, "block", layer]])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of five layers with random weights."""
    folder = tmp_path_factory.mktemp("small")
    save_random(folder, "gpt2", **GPT2 | {"n_layer": 5})
    return folder


@pytest.mark.thorough
def test_all_exponents_add_up_to_the_determinant(small: Path) -> None:
    """d_model exponents, whatever columns they start from: their sum is ln |det J| a layer."""
    with numerics("float64"):
        model = open_checkpoint(small, dtype="float64")
        d_model = model.spec.d_model
        results = _results(model, DepthPlan(NAMES, 2, 4, d_model, tolerance=1e-10))
        assert [result.layer for result in results] == [2, 3, 4]
        points = _block_jacobians(model)
        for sample in range(len(TOKENS)):
            product = np.eye(d_model)
            for result, matrix in zip(results, points[2:5], strict=True):
                product = matrix[sample] @ product
                metrics = result.metrics["path"]
                total = sum(metrics[f"lyapunov_{i + 1}"][sample] for i in range(d_model))
                assert total * (result.layer - 1) == pytest.approx(np.linalg.slogdet(product)[1], rel=1e-9)
                assert metrics["spectral_radius"][sample] == pytest.approx(np.linalg.norm(product, 2), rel=1e-8)


def _block_jacobians(model: Checkpoint) -> list[np.ndarray]:
    """Every block's Jacobian at the last token, by differentiating the block over the whole sample."""
    found = []
    hidden = [model.embedding()(jnp.asarray(ids)) for ids in TOKENS]
    for block in model.blocks():
        matrices = []
        for index, h in enumerate(hidden):

            def last(x: Any, h: Any = h, block: Any = block) -> Any:
                return block(h.at[-1].set(x))[-1]

            matrices.append(np.asarray(jax.jacrev(last)(h[-1])))
            hidden[index] = block(h)
        found.append(np.stack(matrices))
    return found


def test_blocks_that_memory_does_not_hold_are_read_again(small: Path) -> None:
    """The numbers are the same when one block is kept at a time."""
    plan = DepthPlan(NAMES, 0, 3, 2)
    with numerics("float32"):
        model = open_checkpoint(small, dtype="float32")
        kept, read = _results(model, plan), _results(model, plan._replace(memory_gib=1e-9))
    for one, other in zip(kept, read, strict=True):
        np.testing.assert_array_equal(one.singular_values["path"], other.singular_values["path"])
        np.testing.assert_array_equal(one.metrics["path"]["lyapunov_2"], other.metrics["path"]["lyapunov_2"])


def test_audit_catches_a_wrong_transpose(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = depth._pull
    with numerics("float32"):
        model = open_checkpoint(small, dtype="float32")
        honest = _results(model, DepthPlan(NAMES, 0, 1, 2, audit=2))
        assert honest[-1].diagnostics["path"]["audit_deviation"].max() < 1e-5
        monkeypatch.setattr(depth, "_pull", lambda branch, vectors: 1.01 * real(branch, vectors))
        with pytest.raises(JacspecError, match=r"Audit failed: from layer 0 through block 0, component path, sample"):
            _results(model, DepthPlan(NAMES, 0, 1, 2, audit=2))


DEPTH = ("task=depth", *TINY, "depth.exponents=2")


def test_run_through_depth(tmp_path: Path) -> None:
    done = run_here(*DEPTH, "hydra.run.dir=whole", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "Lyapunov exponent μ₁" in done.out
    assert "audit: 12 Jacobians" in done.out
    figures = {"lyapunov.png", "lyapunov_parts.png", *(f"{name}.png" for name in NAMES)}
    drawn = {name for name in CONTRACT if not name.startswith("figures/")} | {f"figures/{name}" for name in figures}
    assert files_below(tmp_path / "whole") == drawn
    run = open_run(tmp_path / "whole")
    parts = [f"lyapunov_{part}{i}" for part in ("", "attn_", "mlp_") for i in (1, 2)]
    assert list(run.metrics)[4:] == [*NAMES, "finite_time_1", "finite_time_2", *parts, "reason"]
    assert run.provenance["depth"] == {"first": 0, "last": 5}
    page = (tmp_path / "whole" / "report.html").read_text(encoding="utf-8")
    assert "A path goes from the input of the first layer" in page
    assert "Benettin" in page


@pytest.mark.parametrize(
    ("first", "last", "exponents", "fragment"),
    [
        (-1, None, 4, "layers 0 to 5"),
        (3, 2, 4, "layers 0 to 5"),
        (0, None, 0, "depth.exponents=0"),
    ],
)
def test_choices_of_no_layers_are_refused(first: int, last: int | None, exponents: int, fragment: str) -> None:
    with pytest.raises(JacspecError, match=fragment):
        choose_layers(first, last, exponents, load_model("nano").spec)


@pytest.mark.parametrize(
    ("wrong", "fragment"),
    [
        ("depth.last=6", "layers 0 to 5"),
        ("depth.exponents=97", "width of this model, 96"),
        ("metrics=full", "stable_rank"),
        ("depth.dense=-1", "0 or more"),
        ("engine=analytic", "engine=auto"),
    ],
)
def test_wrong_choices_are_answered(wrong: str, fragment: str, tmp_path: Path) -> None:
    done = run_here(*DEPTH, *wrong.split(), "hydra.run.dir=no", cwd=tmp_path)
    assert done.code == 1
    assert fragment in done.err
    assert not (tmp_path / "no").exists()
